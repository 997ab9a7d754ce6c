//! Messages to devices in `/sync`: each once and in order, whatever the client repeats and whenever the server restarts.
//!
//! HAIMA_SEED replays one seed, HAIMA_SEEDS runs that many.

mod world;

use std::collections::VecDeque;

use ruma::{DeviceId, OwnedUserId};
use serde_json::{Value, json};
use testkit::SeededRandom;
use tokio::time::Instant;
use users::{Kind, Login, NewAccount, Origin, TO_DEVICE_PER_SYNC_MAX, ToDeviceMessage, ToDeviceRequest};
use world::{Disk, World, client::*, play, raw, user};

/// Seeds of an ordinary run.
const SEEDS: u64 = 15;

/// Seeds with a database larger than what memory there is to cache it.
const DISK_SEEDS: u64 = 2;

/// Things that happen in one history.
const STEPS: usize = 80;

/// The most messages sent in one step: more than an answer holds.
const BURST: usize = 150;

async fn account(world: &World, name: &str, devices: &[&str]) -> OwnedUserId {
    let user_id = user(name);
    let account = NewAccount {
        user_id: user_id.clone(),
        password: None,
        kind: Kind::User,
        admin: false,
        origin: Origin::Administrator,
        display_name: None,
        login: None,
    };
    world.users.create_account(account).await.unwrap();
    for device in devices {
        let login = Login { device_id: Some((*device).into()), ..Login::default() };
        world.users.login(&user_id, &login).await.unwrap();
    }
    user_id
}

async fn send(world: &World, to: &OwnedUserId, device: Option<&str>, n: usize) {
    let txn = n.to_string();
    let request = ToDeviceRequest { sender: to, device: "SENDER".into(), txn_id: &txn, event_type: "m.test" };
    let content = raw(&json!({ "n": n }));
    let message = ToDeviceMessage { user: to, device: device.map(<&DeviceId>::from), content: &content };
    assert_ne!(world.users.send_to_device(&request, &[message]).await.unwrap().queued, 0);
}

/// Waits until what was written so far is there: nobody waits for acknowledged messages to be deleted, but the order is kept.
async fn written(world: &World, user: &OwnedUserId) {
    let login = Login { device_id: Some("SENDER".into()), ..Login::default() };
    world.users.login(user, &login).await.unwrap();
}

/// The numbers in an answer.
fn numbers(body: &Value) -> Vec<u64> {
    let events = list(&body["to_device"]["events"]);
    for event in events {
        assert_eq!(text(event, "type"), "m.test");
        assert!(text(event, "sender").starts_with('@'));
    }
    events.iter().map(|event| event["content"]["n"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn a_message_wakes_its_device_and_no_other() {
    let world = World::new().await;
    let alice = account(&world, "alice", &["ONE", "TWO"]).await;
    let (mut one, mut two) = (Client::new(&alice, "ONE"), Client::new(&alice, "TWO"));
    one.sync(&world, 0).await;
    two.sync(&world, 0).await;
    let (first, second, ()) = tokio::join!(one.ask(&world, 300_000, false), two.ask(&world, 300_000, false), async {
        // Lets the requests begin to wait; they would be answered as well if they didn't.
        tokio::task::yield_now().await;
        send(&world, &alice, Some("ONE"), 1).await;
        send(&world, &alice, Some("TWO"), 2).await;
    });
    assert_eq!(numbers(&first), [1]);
    assert_eq!(numbers(&second), [2]);
}

#[tokio::test]
async fn what_one_answer_does_not_hold_comes_with_the_next_at_once() {
    let world = World::new().await;
    let alice = account(&world, "alice", &["ONE"]).await;
    let mut client = Client::new(&alice, "ONE");
    client.sync(&world, 0).await;
    for n in 0..250 {
        send(&world, &alice, None, n).await;
    }
    tokio::time::pause();
    let begin = Instant::now();
    let mut got = Vec::new();
    for expected in [100, 100, 50] {
        let body = client.sync(&world, 60_000).await;
        assert_eq!(numbers(&body).len(), expected);
        got.extend(numbers(&body));
    }
    assert!(begin.elapsed().as_secs() < 60);
    assert_eq!(got, (0..250).collect::<Vec<_>>());
    let body = client.sync(&world, 60_000).await;
    assert!(numbers(&body).is_empty());
    assert!(begin.elapsed().as_secs() >= 60);
}

#[tokio::test]
async fn a_first_sync_gets_what_waits_and_loses_nothing() {
    let world = World::new().await;
    let alice = account(&world, "alice", &["ONE"]).await;
    for n in 0..3 {
        send(&world, &alice, None, n).await;
    }
    let mut client = Client::new(&alice, "ONE");
    // Whoever asks without a token has acknowledged nothing.
    assert_eq!(numbers(&client.ask(&world, 0, false).await), [0, 1, 2]);
    assert_eq!(numbers(&client.sync(&world, 0).await), [0, 1, 2]);
    assert!(numbers(&client.sync(&world, 0).await).is_empty());
    written(&world, &alice).await;
    // Now they are gone.
    assert!(numbers(&Client::new(&alice, "ONE").ask(&world, 0, false).await).is_empty());
}

struct History {
    world: World,
    dice: SeededRandom,
    alice: OwnedUserId,
    /// The devices' clients with what they don't have yet.
    clients: Vec<(Client, VecDeque<u64>)>,
    sent: usize,
}

impl History {
    async fn new(disk: Disk, seed: u64) -> Self {
        let world = World::seeded_on(disk, seed).await;
        let devices = ["ONE", "TWO"];
        let alice = account(&world, "alice", &devices).await;
        let clients = devices.map(|device| (Client::new(&alice, device), VecDeque::new())).into();
        Self { world, dice: SeededRandom::new(seed), alice, clients, sent: 0 }
    }

    async fn send(&mut self) {
        let to = self.dice.below(self.clients.len() + 1);
        let burst = if self.dice.chance(10) { BURST } else { 5 };
        for _ in 0..=self.dice.below(burst) {
            let device = self.clients.get(to).map(|(client, _)| client.device.to_string());
            send(&self.world, &self.alice, device.as_deref(), self.sent).await;
            for (n, (_, expected)) in self.clients.iter_mut().enumerate() {
                if n == to || device.is_none() {
                    expected.push_back(self.sent as u64);
                }
            }
            self.sent += 1;
        }
    }

    /// A client asks; it may not get the answer.
    async fn ask(&mut self, n: usize, arrives: bool) {
        let (client, expected) = &mut self.clients[n];
        let body = match arrives {
            true => client.sync(&self.world, 0).await,
            false => client.ask(&self.world, 0, false).await,
        };
        let told = numbers(&body);
        assert!(told.len() <= TO_DEVICE_PER_SYNC_MAX);
        assert_eq!(told.len(), expected.len().min(TO_DEVICE_PER_SYNC_MAX), "everything that waits is told");
        assert!(told.iter().eq(expected.iter().take(told.len())), "{told:?} is not the start of {expected:?}");
        if arrives {
            expected.drain(..told.len());
        }
    }

    async fn play(mut self) {
        for _ in 0..STEPS {
            match self.dice.below(10) {
                0..4 => self.send().await,
                4..9 => {
                    let (n, arrives) = (self.dice.below(self.clients.len()), self.dice.chance(60));
                    self.ask(n, arrives).await;
                }
                _ => self.world = self.world.restart().await,
            }
        }
        for n in 0..self.clients.len() {
            while !self.clients[n].1.is_empty() {
                self.ask(n, true).await;
            }
            // The last answer is acknowledged; a first sync finds nothing left.
            self.ask(n, true).await;
            written(&self.world, &self.alice).await;
            let (client, _) = &self.clients[n];
            let fresh = Client::new(&self.alice, client.device.as_str());
            let left = numbers(&fresh.ask(&self.world, 0, false).await);
            assert!(left.is_empty(), "{left:?}");
        }
    }
}

#[test]
fn each_message_comes_once_and_in_order() {
    play(SEEDS, Disk::simulated, run);
}

#[test]
fn so_it_does_where_the_database_is_larger_than_the_memory() {
    play(DISK_SEEDS, Disk::files, run);
}

async fn run(disk: Disk, seed: u64) {
    History::new(disk, seed).await.play().await;
}
