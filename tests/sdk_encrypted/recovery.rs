//! Server-side key backup and secret storage: who lost all devices reads the history again.

use matrix_sdk::{Client, encryption::recovery::RecoveryState, ruma::events::GlobalAccountDataEventType};

use super::{bootstrap, encrypted_room, log_in, me, reads, say, usual};
use crate::{
    sdk::{register, sync},
    support::Server,
};

async fn wait_for_backup(client: &Client) {
    let backups = client.encryption().backups();
    backups.wait_for_steady_state().with_delay(std::time::Duration::ZERO).await.expect("backed up");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_recovery_key_brings_history_back_when_all_devices_are_lost() {
    let mut server = Server::start();
    let (alice, bob) = (register(&server, "alice").await, register(&server, "bob").await);
    for client in [&alice, &bob] {
        bootstrap(client).await;
    }
    let laptop = log_in(&server, "alice", "LAPTOP").await;
    let room = encrypted_room(&alice, &bob, usual()).await;
    say(&alice, &room, "before the backup").await;
    let recovery_key = alice.encryption().recovery().enable().wait_for_backups_to_upload().await.expect("enable");
    assert!(alice.encryption().backups().fetch_exists_on_server().await.expect("answer"));
    for secret in ["m.cross_signing.master", "m.cross_signing.self_signing", "m.megolm_backup.v1"] {
        let secret = GlobalAccountDataEventType::from(secret);
        let stored = alice.account().fetch_account_data(secret).await.expect("answer").expect("stored");
        assert!(stored.json().get().contains("ciphertext"));
    }
    sync(&laptop).await;
    say(&laptop, &room, "after the backup").await;
    sync(&bob).await;
    say(&bob, &room, "from bob").await;
    sync(&alice).await;
    wait_for_backup(&alice).await;

    for lost in [laptop, alice] {
        lost.logout().await.expect("log out");
    }
    server.kill();
    server.restart();
    let phone = log_in(&server, "alice", "PHONE").await;
    let texts = ["before the backup", "after the backup", "from bob"];
    assert_eq!(reads(&phone, &room).await, (vec![], 3));
    let recovery = phone.encryption().recovery();
    recovery.recover(&recovery_key).await.expect("recover");
    assert_eq!(recovery.state(), RecoveryState::Enabled);
    phone.encryption().backups().download_room_keys_for_room(&room).await.expect("download");
    assert_eq!(reads(&phone, &room).await, (texts.map(str::to_owned).to_vec(), 0));

    // The new device has the old identity, so that Bob sees the same person.
    sync(&bob).await;
    let device = phone.device_id().expect("logged in");
    let devices = bob.encryption().get_user_devices(me(&phone)).await.expect("store");
    assert_eq!(devices.devices().map(|device| device.device_id().to_owned()).collect::<Vec<_>>(), [device]);
    assert!(devices.devices().all(|device| device.is_cross_signed_by_owner()));
    say(&bob, &room, "welcome back").await;
    sync(&phone).await;
    let (texts, unreadable) = reads(&phone, &room).await;
    assert_eq!((texts.last().map(String::as_str), unreadable), (Some("welcome back"), 0));
    wait_for_backup(&phone).await;
}
