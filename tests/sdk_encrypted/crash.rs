//! Two people talk while the server is killed and started again.

use std::{collections::HashSet, time::Duration};

use matrix_sdk::{Client, config::RequestConfig, ruma::OwnedRoomId};
use tokio::sync::mpsc;

use super::{SYNCS_MAX, encrypted_room, reads, rotating, say, sync_keys};
use crate::{
    sdk::{register, sync},
    support::{Server, password},
};

/// How many messages each of the two says.
const MESSAGES_EACH: usize = 8;

/// How many times a client sends a request that got no answer.
const TRIES_MAX: usize = 200;

/// A device that sends what got no answer again, as clients do.
async fn patient(server: &Server, name: &str, device: &str) -> Client {
    let config = RequestConfig::new().retry_limit(TRIES_MAX).max_retry_time(Duration::from_millis(500));
    let client = Client::builder().homeserver_url(server.url()).request_config(config).build().await.expect("client");
    client.matrix_auth().login_username(name, &password(name)).device_id(device).send().await.expect("log in");
    sync(&client).await;
    client
}

/// Says and listens in turn; the keys of rooms that came meanwhile.
async fn talk(client: Client, room: OwnedRoomId, name: &'static str, said: mpsc::Sender<()>) -> Vec<String> {
    let mut keys = Vec::new();
    for n in 0..MESSAGES_EACH {
        say(&client, &room, &format!("{name} {n}")).await;
        said.send(()).await.expect("somebody counts");
        keys.extend(sync_keys(&client).await);
    }
    keys
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_when_the_server_is_killed() {
    let mut server = Server::start();
    for name in ["alice", "bob"] {
        register(&server, name).await.logout().await.expect("log out");
    }
    let alice = patient(&server, "alice", "PHONE").await;
    let bob = patient(&server, "bob", "PHONE").await;
    let alices_laptop = patient(&server, "alice", "LAPTOP").await;
    let bobs_laptop = patient(&server, "bob", "LAPTOP").await;
    let room = encrypted_room(&alice, &bob, rotating()).await;

    let (said, mut heard) = mpsc::channel(1);
    let alices = tokio::spawn(talk(alice.clone(), room.clone(), "alice", said.clone()));
    let bobs = tokio::spawn(talk(bob.clone(), room.clone(), "bob", said));
    let mut count = 0;
    // The other requests of the two are under way when the server dies.
    while heard.recv().await.is_some() {
        count += 1;
        if count % 4 == 2 {
            server.kill();
            server.restart();
        }
    }
    assert_eq!(count, 2 * MESSAGES_EACH);
    let (from_bob, from_alice) = (alices.await.expect("talked"), bobs.await.expect("talked"));

    // The laptops of both hear of it only now; the phones may have to hear the end.
    let mut expected = Vec::new();
    for (client, mut keys, count) in [
        (&alice, from_bob, MESSAGES_EACH),
        (&bob, from_alice, MESSAGES_EACH),
        (&alices_laptop, Vec::new(), 2 * MESSAGES_EACH),
        (&bobs_laptop, Vec::new(), 2 * MESSAGES_EACH),
    ] {
        for _ in 0..SYNCS_MAX {
            if keys.len() >= count {
                break;
            }
            keys.extend(sync_keys(client).await);
        }
        keys.extend(sync_keys(client).await);
        assert_eq!(keys.len(), count, "each key once: {keys:?}");
        assert_eq!(keys.iter().collect::<HashSet<_>>().len(), count, "each key once: {keys:?}");
        let (texts, unreadable) = reads(client, &room).await;
        assert_eq!(unreadable, 0);
        for name in ["alice", "bob"] {
            let own: Vec<_> = texts.iter().filter(|text| text.starts_with(name)).cloned().collect();
            let all: Vec<_> = (0..MESSAGES_EACH).map(|n| format!("{name} {n}")).collect();
            assert_eq!(own, all, "each message once, in order");
        }
        keys.sort();
        expected.push(keys);
    }
    let mut both = [expected[0].clone(), expected[1].clone()].concat();
    both.sort();
    assert!(expected[2] == both && expected[3] == both, "all devices have the same keys");
}
