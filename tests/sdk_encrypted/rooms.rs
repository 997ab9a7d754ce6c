//! Who can read what: devices that are there, that come later, and that are removed.

use matrix_sdk::{
    Client,
    config::SyncSettings,
    ruma::{OwnedRoomId, api::error::ErrorKind},
};

use super::{bootstrap, by_password, encrypted_room, log_in, me, reads, rotating, say, sync_keys, usual};
use crate::{
    sdk::{register, sync},
    support::{Server, password},
};

async fn check_reads(client: &Client, room: &OwnedRoomId, texts: &[&str], unreadable: usize) {
    let (seen, left) = reads(client, room).await;
    assert_eq!((seen.iter().map(String::as_str).collect::<Vec<_>>().as_slice(), left), (texts, unreadable));
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_read_by_all_devices_of_those_who_are_there() {
    let mut server = Server::start();
    let (alice, bob) = (register(&server, "alice").await, register(&server, "bob").await);
    for client in [&alice, &bob] {
        bootstrap(client).await;
    }
    let (alices_laptop, bobs_laptop) =
        (log_in(&server, "alice", "LAPTOP").await, log_in(&server, "bob", "LAPTOP").await);
    let room = encrypted_room(&alice, &bob, usual()).await;
    let all = [&alice, &alices_laptop, &bob, &bobs_laptop];
    let texts = ["from alice", "from alice's laptop", "from bob", "from bob's laptop"];
    for (client, text) in all.into_iter().zip(texts) {
        sync(client).await;
        say(client, &room, text).await;
    }
    for client in all {
        sync(client).await;
        check_reads(client, &room, &texts, 0).await;
    }

    // Bob's new device is told to the others, who give it the keys of what they say from then on.
    let tablet = log_in(&server, "bob", "TABLET").await;
    sync(&alice).await;
    let seen = alice.encryption().get_user_devices(me(&bob)).await.expect("devices");
    assert_eq!(seen.devices().count(), 3);
    say(&alice, &room, "welcome, tablet").await;
    sync(&tablet).await;
    check_reads(&tablet, &room, &["welcome, tablet"], 4).await;

    // A crash loses no keys, and no message to a device.
    server.kill();
    server.restart();
    let phone = log_in(&server, "alice", "PHONE").await;
    say(&phone, &room, "from my phone").await;
    server.kill();
    server.restart();
    for (client, unreadable) in [(&tablet, 4), (&bob, 0), (&alices_laptop, 0)] {
        sync(client).await;
        let (texts, left) = reads(client, &room).await;
        assert_eq!((texts.last().map(String::as_str), left), (Some("from my phone"), unreadable));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_device_gets_nothing_more() {
    let server = Server::start();
    let (alice, bob) = (register(&server, "alice").await, register(&server, "bob").await);
    let tablet = log_in(&server, "bob", "TABLET").await;
    let room = encrypted_room(&alice, &bob, rotating()).await;
    say(&alice, &room, "to both").await;
    assert_eq!(sync_keys(&tablet).await.len(), 1);
    check_reads(&tablet, &room, &["to both"], 0).await;

    let gone = [tablet.device_id().expect("logged in").to_owned()];
    let refused = bob.delete_devices(&gone, None).await.expect_err("the password is asked for");
    let session = refused.as_uiaa_response().expect("user-interactive").session.clone();
    bob.delete_devices(&gone, Some(by_password(&bob, &password("bob"), session))).await.expect("with the password");
    let refused = tablet.sync_once(SyncSettings::new()).await.expect_err("logged out");
    assert!(matches!(refused.client_api_error_kind(), Some(ErrorKind::UnknownToken(_))), "{refused}");

    // Alice doesn't know yet, and still gives the device a key.
    let known = async || alice.encryption().get_user_devices(me(&bob)).await.expect("devices").devices().count();
    assert_eq!(known().await, 2);
    say(&alice, &room, "not to the tablet").await;
    sync(&alice).await;
    assert_eq!(known().await, 1);
    say(&alice, &room, "nor this").await;

    // Whoever has the device's name later gets nothing that was meant for it.
    let again = super::client(&server).await;
    let login = again.matrix_auth().login_username("bob", &password("bob")).device_id("TABLET");
    login.send().await.expect("log in");
    assert_eq!(sync_keys(&again).await, [""; 0]);
    check_reads(&again, &room, &[], 3).await;
    assert_eq!(sync_keys(&bob).await.len(), 3);
    check_reads(&bob, &room, &["to both", "not to the tablet", "nor this"], 0).await;
}
