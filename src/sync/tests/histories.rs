//! However a client cuts the time into syncs, it ends up knowing what one first sync at the end tells.
//!
//! Random histories (messages, state, joins, leaves, kicks, bans, invites, receipts, account data) and clients that sync at random
//! moments with random limits, across restarts of the server. HAIMA_SEED replays one seed, HAIMA_SEEDS runs that many.

mod world;

use std::collections::BTreeMap;

use rooms::{NewReceipt, ReceiptType};
use ruma::{OwnedRoomId, OwnedUserId};
use serde_json::{Value, json};
use testkit::SeededRandom;
use world::{Disk, World, client::*, play, raw, user};

/// Seeds of an ordinary run.
const SEEDS: u64 = 60;

/// Seeds with a database larger than what memory there is to cache it.
const DISK_SEEDS: u64 = 3;

/// Things that happen in one history.
const STEPS: usize = 120;

/// Percent of steps at which a client syncs.
const SYNC_CHANCE: usize = 25;

/// Percent of steps at which the server restarts.
const RESTART_CHANCE: usize = 2;

/// Percent of syncs that are asked of a server that just started, too.
const COLD_CHANCE: usize = 50;

struct History {
    world: World,
    dice: SeededRandom,
    users: Vec<OwnedUserId>,
    rooms: Vec<OwnedRoomId>,
    clients: Vec<Client>,
    sent: usize,
}

impl History {
    async fn new(disk: Disk, seed: u64) -> Self {
        let world = World::seeded_on(disk, seed).await;
        let users: Vec<OwnedUserId> = ["alice", "bob", "carol", "dan"].map(user).to_vec();
        let mut rooms = Vec::new();
        for creator in &users[..2] {
            rooms.push(world.room(creator).await);
        }
        let mut clients = Vec::new();
        for (n, user) in users.iter().enumerate() {
            for device in ["ONE", "TWO", "LAZY"] {
                let mut client = Client::new(user, device);
                client.use_state_after = n % 2 == 1 && device != "ONE";
                client.lazy = device == "LAZY";
                clients.push(client);
            }
        }
        Self { world, dice: SeededRandom::new(seed), users, rooms, clients, sent: 0 }
    }

    fn any_user(&self) -> OwnedUserId {
        self.users[self.dice.below(self.users.len())].clone()
    }

    /// Something happens. What isn't allowed at the moment fails, and that is fine.
    async fn happen(&mut self) {
        self.world.clock.advance(1 + self.dice.next() % 1_000);
        let (one, other) = (self.any_user(), self.any_user());
        let room = self.rooms[self.dice.below(self.rooms.len())].clone();
        let rooms = &self.world.rooms;
        let view = self.world.store.view().await.unwrap();
        let joined = rooms.joined_rooms(&view, &one).await.unwrap().contains(&room);
        self.sent += 1;
        let text = format!("{}", self.sent);
        match self.dice.below(16) {
            0..5 if joined => drop(self.world.send(&one, &room, &text).await),
            5 | 6 => {
                let key = ["m.room.topic", "m.room.name", "org.example.state"][self.dice.below(3)];
                let content = json!({ "topic": text, "name": text });
                drop(self.world.try_set(&one, &room, key, content).await);
            }
            7..10 => drop(rooms.join(&one, &room, None).await),
            10 => drop(rooms.leave(&one, &room, None).await),
            11 => drop(rooms.kick(&one, &room, &other, None).await),
            12 => drop(rooms.ban(&one, &room, &other, None).await),
            13 => {
                drop(rooms.unban(&one, &room, &other, None).await);
                drop(rooms.invite(&one, &room, &other, None).await);
            }
            14 if joined => self.read(&one, &room).await,
            15 => {
                let content = raw(&json!({ "n": text }));
                self.world.users.set_account_data(&one, None, "org.example", &content).await.unwrap();
            }
            _ => {}
        }
    }

    async fn read(&self, user: &OwnedUserId, room: &OwnedRoomId) {
        let view = self.world.store.view().await.unwrap();
        let Some(head) = self.world.rooms.head(&view, room).await.unwrap() else {
            return;
        };
        let event = head.extremities[0].event_id.clone();
        let receipt_type = ReceiptType::Read;
        let receipt = NewReceipt { user, room, receipt_type, event: &event, thread: None };
        self.world.rooms.set_receipt(receipt).await.unwrap();
    }

    async fn sync_somebody(&mut self) {
        let n = self.dice.below(self.clients.len());
        let limit = 1 + self.dice.below(12);
        let client = &mut self.clients[n];
        client.filter = json!({
            "presence": { "types": [] },
            "room": { "timeline": { "limit": limit }, "state": { "lazy_load_members": client.lazy } }
        });
        let before = client.clone();
        let told = client.sync(&self.world, 0).await;
        if !client.lazy && self.dice.chance(COLD_CHANCE) {
            // A server without inboxes, as after a restart, says the same.
            let cold = self.world.another_sync().await;
            let mut again = before.ask_of(&cold, 0, false).await;
            again["next_batch"] = told["next_batch"].clone();
            assert_eq!(ageless(again), ageless(told), "from the tables, from the inbox");
            cold.shut_down();
        }
    }

    async fn run(mut self) {
        for _ in 0..STEPS {
            self.happen().await;
            while self.dice.chance(SYNC_CHANCE) {
                self.sync_somebody().await;
            }
            if self.dice.chance(RESTART_CHANCE) {
                self.world = self.world.restart().await;
            }
        }
        let Self { world, clients, .. } = self;
        for mut client in clients {
            client.sync(&world, 0).await;
            let mut fresh =
                Client::new(&client.user, "FRESH").with_filter(json!({ "room": { "timeline": { "limit": 400 } } }));
            fresh.sync(&world, 0).await;
            compare(&client, &fresh);
            let quiet = client.sync(&world, 0).await;
            assert!(quiet.get("rooms").is_none(), "nothing happened, but {quiet}");
        }
    }
}

/// An answer without the ages of events, which go on while it is made.
fn ageless(mut answer: Value) -> Value {
    match &mut answer {
        Value::Object(map) => {
            map.remove("age");
            for value in map.values_mut() {
                *value = ageless(value.take());
            }
        }
        Value::Array(list) => {
            for value in list {
                *value = ageless(value.take());
            }
        }
        _ => {}
    }
    answer
}

fn compare(client: &Client, fresh: &Client) {
    let who = format!("{} on {}", client.user, client.device);
    let rooms = |client: &Client| client.joined.keys().cloned().collect::<Vec<_>>();
    assert_eq!(rooms(client), rooms(fresh), "rooms of {who}");
    assert_eq!(client.invited, fresh.invited, "invites of {who}");
    for (room, known) in &client.joined {
        let expected = &fresh.joined[room];
        if client.lazy {
            compare_lazily(known, &expected.state, &who);
        } else {
            assert_eq!(known.state, expected.state, "state of {room} for {who}");
        }
        assert_eq!(known.timeline, expected.timeline, "timeline of {room} for {who}");
    }
    let data = |client: &Client| -> BTreeMap<String, Value> {
        client.account_data.iter().map(|(kind, content)| (kind.clone(), content.clone())).collect()
    };
    for (kind, content) in data(client) {
        assert_eq!(fresh.account_data.get(&kind), Some(&content), "{kind} of {who}");
    }
    for ((room, user), event) in &fresh.receipts {
        let key = (room.clone(), user.clone());
        assert_eq!(client.receipts.get(&key), Some(event), "receipt of {user} in {room} for {who}");
    }
}

/// A lazy client knows all but members, nothing wrong about members, and everybody who sent what it was told.
fn compare_lazily(known: &Known, expected: &BTreeMap<(String, String), String>, who: &str) {
    for (key, event) in &known.state {
        assert_eq!(expected.get(key), Some(event), "{key:?} for {who}");
    }
    for key in expected.keys() {
        let needed = key.0 != "m.room.member" || known.senders.contains(&key.1);
        assert!(!needed || known.state.contains_key(key), "{key:?} for {who}");
    }
}

#[test]
fn every_way_to_cut_a_history_tells_the_same() {
    play(SEEDS, Disk::simulated, run);
}

#[test]
fn so_does_a_server_whose_database_is_larger_than_its_memory() {
    play(DISK_SEEDS, Disk::files, run);
}

async fn run(disk: Disk, seed: u64) {
    History::new(disk, seed).await.run().await;
}
