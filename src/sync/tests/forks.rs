//! Clients of one of two servers that change the same room at the same time: the state that syncs add up to is the resolved one,
//! and nothing of the timeline is lost, doubled or out of order. HAIMA_SEED and HAIMA_SEEDS as for the histories.

mod world;

use std::collections::{BTreeMap, VecDeque};

use rooms::{CreateRoom, Preset};
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId};
use serde_json::json;
use testkit::SeededRandom;
use world::{
    Disk, World,
    client::*,
    far::{Far, act, deliver},
    play, raw, user,
};

/// Seeds of an ordinary run.
const SEEDS: u64 = 40;

/// Seeds with a database larger than what memory there is to cache it.
const DISK_SEEDS: u64 = 3;

/// Things that happen in one history.
const STEPS: usize = 90;

type State = BTreeMap<(String, String), String>;

struct Forks {
    world: World,
    far: Far,
    dice: SeededRandom,
    room: OwnedRoomId,
    here_users: Vec<OwnedUserId>,
    far_users: Vec<OwnedUserId>,
    clients: Vec<Client>,
    to_here: VecDeque<OwnedEventId>,
    to_far: VecDeque<OwnedEventId>,
}

impl Forks {
    async fn new(disk: Disk, seed: u64) -> Self {
        let world = World::seeded_on(disk, seed).await;
        let far = Far::new(&world.servers, &world.clock, seed).await;
        let dice = SeededRandom::new(seed);
        let here_users = vec![user("alice"), user("bob")];
        let far_users = vec![far.user("xenia"), far.user("yves")];
        let versions = ["6", "9", "11", "12"];
        let mut request = CreateRoom::new(here_users[0].clone());
        request.preset = Some(Preset::PublicChat);
        request.version = Some((*dice.pick(&versions)).try_into().unwrap());
        request.power_level_content_override =
            Some(raw(&json!({ "state_default": 0, "kick": 0, "ban": 0, "redact": 0 })));
        let room = world.rooms.create(&request).await.unwrap();
        world.join(&here_users[1], &room).await;
        far.join(&world.rooms, &room, &far_users[0]).await;
        let mut clients = Vec::new();
        for user in &here_users {
            for (device, state_after) in [("ONE", false), ("TWO", true), ("LAZY", false)] {
                let mut client = Client::new(user, device);
                client.use_state_after = state_after;
                client.lazy = device == "LAZY";
                clients.push(client);
            }
        }
        let (to_here, to_far) = (VecDeque::new(), VecDeque::new());
        Self { world, far, dice, room, here_users, far_users, clients, to_here, to_far }
    }

    /// Something that a user of either server does.
    async fn happen(&mut self, step: usize) {
        self.world.clock.advance(1 + self.dice.next() % 100);
        let text = step.to_string();
        let is_far = self.dice.chance(60);
        let users = if is_far { &self.far_users } else { &self.here_users };
        let one = self.dice.pick(users).clone();
        let everybody: Vec<_> = self.here_users.iter().chain(&self.far_users).collect();
        let other = (*self.dice.pick(&everybody)).clone();
        let (key, content) = match self.dice.below(12) {
            0..4 => (("m.room.message", None), json!({ "msgtype": "m.text", "body": text })),
            4..7 => (("m.room.topic", Some("")), json!({ "topic": text })),
            7 | 8 => (("org.example.state", Some("key")), json!({ "n": text })),
            9 => (("m.room.member", Some(one.as_str())), json!({ "membership": "join", "displayname": text })),
            10 => (("m.room.member", Some(one.as_str())), json!({ "membership": "leave" })),
            _ => (("m.room.member", Some(other.as_str())), json!({ "membership": "leave" })),
        };
        if is_far {
            self.to_here.extend(self.far.act(&one, &self.room, key, &content).await);
        } else {
            self.to_far.extend(act(&self.world.rooms, &one, &self.room, key, &content).await);
        }
    }

    /// Some of what waits arrives at the other server, now and then only the newest.
    async fn exchange(&mut self, all: bool) {
        let (here, far) = (&self.world.rooms, &self.far.rooms);
        let count = if all { self.to_here.len() } else { self.dice.below(self.to_here.len() + 1) };
        let mut events: Vec<_> = self.to_here.drain(..count).collect();
        if !all && self.dice.chance(30) && events.len() > 1 {
            events.drain(..events.len() - 1);
        }
        deliver(far, &self.far.store, here, &self.room, &events).await;
        let count = if all { self.to_far.len() } else { self.dice.below(self.to_far.len() + 1) };
        let events: Vec<_> = self.to_far.drain(..count).collect();
        deliver(here, &self.world.store, far, &self.room, &events).await;
    }

    async fn run(mut self) {
        for step in 0..STEPS {
            self.happen(step).await;
            if self.dice.chance(25) {
                self.exchange(false).await;
            }
            while self.dice.chance(25) {
                let limit = 1 + self.dice.below(10);
                let at = self.dice.below(self.clients.len());
                let client = &mut self.clients[at];
                let lazy = client.lazy;
                client.filter = json!({
                    "room": { "timeline": { "limit": limit }, "state": { "lazy_load_members": lazy } }
                });
                client.sync(&self.world, 0).await;
            }
            if self.dice.chance(2) {
                self.world = self.world.restart().await;
            }
        }
        self.exchange(true).await;
        self.compare().await;
    }

    async fn compare(self) {
        let state = self.state().await;
        for mut client in self.clients {
            let who = format!("{} on {}", client.user, client.device);
            client.sync(&self.world, 0).await;
            let mut fresh =
                Client::new(&client.user, "FRESH").with_filter(json!({ "room": { "timeline": { "limit": 7 } } }));
            fresh.sync(&self.world, 0).await;
            let rooms = |client: &Client| client.joined.keys().cloned().collect::<Vec<_>>();
            assert_eq!(rooms(&client), rooms(&fresh), "rooms of {who}");
            let (Some(known), Some(anew)) = (client.joined.get(&self.room), fresh.joined.get(&self.room)) else {
                continue;
            };
            assert_eq!(anew.state, state, "state of a first sync for {who}");
            assert_eq!(known.timeline, anew.timeline, "timeline for {who}");
            for (key, event) in &state {
                let skipped = client.lazy
                    && key.0 == "m.room.member"
                    && !known.senders.contains(&key.1)
                    && !known.state.contains_key(key);
                assert!(skipped || known.state.get(key) == Some(event), "{key:?} for {who}");
            }
        }
    }

    /// The state that the server knows the room to have.
    async fn state(&self) -> State {
        let rooms = &self.world.rooms;
        let view = self.world.store.view().await.unwrap();
        let root = rooms.head(&view, &self.room).await.unwrap().unwrap().root;
        let mut state = State::new();
        for event in rooms.state(&view, &self.room, root).events().await.unwrap() {
            let key = event.pdu.state_key().unwrap_or_default();
            let key = (event.pdu.event_type().to_owned(), key.to_owned());
            state.insert(key, event.pdu.event_id().to_string());
        }
        state
    }
}

#[test]
fn syncs_of_a_forked_room_add_up_to_its_resolved_state() {
    play(SEEDS, Disk::simulated, run);
}

#[test]
fn so_do_those_of_a_server_whose_database_is_larger_than_its_memory() {
    play(DISK_SEEDS, Disk::files, run);
}

async fn run(disk: Disk, seed: u64) {
    Forks::new(disk, seed).await.run().await;
}

#[tokio::test]
async fn a_timeline_with_a_hole_is_limited_to_what_is_after_it() {
    let world = World::new().await;
    let far = Far::new(&world.servers, &world.clock, 1).await;
    let (alice, xenia) = (user("alice"), far.user("xenia"));
    let room = world.room(&alice).await;
    far.join(&world.rooms, &room, &xenia).await;
    let mut client = Client::new(&alice, "A").with_filter(json!({"room": {"timeline": {"limit": 400}}}));
    client.sync(&world, 0).await;
    let mut sent = Vec::new();
    for n in 0..150 {
        let content = json!({ "msgtype": "m.text", "body": n.to_string() });
        sent.extend(far.act(&xenia, &room, ("m.room.message", None), &content).await);
    }
    // Far more than are asked for to close a gap.
    deliver(&far.rooms, &far.store, &world.rooms, &room, &sent[sent.len() - 1..]).await;
    let body = client.ask(&world, 0, false).await;
    let timeline = &body["rooms"]["join"][room.as_str()]["timeline"];
    assert_eq!(timeline["limited"], true, "{timeline}");
    let shown = list(&timeline["events"]).len();
    assert!(shown < sent.len(), "{shown} events, so there was no gap");
    // A first sync stops at the gap as well.
    let body = Client::new(&alice, "B").with_filter(client.filter.clone()).ask(&world, 0, false).await;
    let timeline = &body["rooms"]["join"][room.as_str()]["timeline"];
    assert_eq!((list(&timeline["events"]).len(), &timeline["limited"]), (shown, &json!(true)));
}
