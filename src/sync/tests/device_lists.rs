//! Device lists: what is told of whose keys changed, who came and who went, against the plain definition.
//!
//! Random histories of rooms on two servers, where forks bring members back and send them away, and of keys; any token of the
//! past is asked of a server with full inboxes, of one that just started, and of `/keys/changes`. HAIMA_SEED replays one
//! seed, HAIMA_SEEDS runs that many.

mod world;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rooms::{CreateRoom, Preset};
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, UserId};
use serde_json::{Value, json};
use store::Batch;
use testkit::SeededRandom;
use tokio::time::Instant;
use world::{
    Disk, World,
    client::*,
    far::{Far, act, deliver},
    play, raw, user,
};

/// Seeds of an ordinary run.
const SEEDS: u64 = 60;

/// Seeds with a database larger than what memory there is to cache it.
const DISK_SEEDS: u64 = 3;

/// Things that happen in one history.
const STEPS: usize = 90;

type Users = BTreeSet<OwnedUserId>;

/// Changed and left.
type Lists = (Users, Users);

/// A point in time that a client has a token of.
struct Moment {
    token: String,
    step: usize,
    rooms: RoomsAt,
}

/// What the rooms are at some time.
struct RoomsAt {
    members: BTreeMap<OwnedRoomId, Users>,
    encrypted: BTreeSet<OwnedRoomId>,
}

impl RoomsAt {
    /// The others in those rooms of a user that count.
    fn around(&self, one: &OwnedUserId, counts: impl Fn(&OwnedRoomId) -> bool) -> Users {
        let rooms = self.members.iter().filter(|(room, members)| members.contains(one) && counts(room));
        let mut around: Users = rooms.flat_map(|(_, members)| members).cloned().collect();
        around.remove(one);
        around
    }
}

struct History {
    world: World,
    far: Far,
    dice: SeededRandom,
    /// Rooms with more members are large.
    large: usize,
    rooms: Vec<OwnedRoomId>,
    here_users: Vec<OwnedUserId>,
    far_users: Vec<OwnedUserId>,
    devices: Vec<(OwnedUserId, String)>,
    /// When whose keys changed.
    changed: Vec<(usize, OwnedUserId)>,
    moments: Vec<Moment>,
    to_here: VecDeque<OwnedEventId>,
    to_far: VecDeque<OwnedEventId>,
    step: usize,
}

/// A public room in which everybody may do everything.
async fn free_room(world: &World, creator: &OwnedUserId) -> OwnedRoomId {
    world.clock.advance(1);
    let mut request = CreateRoom::new(creator.clone());
    request.preset = Some(Preset::PublicChat);
    request.version = Some("11".try_into().unwrap());
    let levels = json!({ "state_default": 0, "kick": 0, "ban": 0, "invite": 0, "users_default": 50 });
    request.power_level_content_override = Some(raw(&levels));
    world.rooms.create(&request).await.unwrap()
}

impl History {
    async fn new(disk: Disk, seed: u64) -> Self {
        let large = if seed.is_multiple_of(2) { 2 } else { 500 };
        let config = sync::Config { large_room_members: large, ..sync::Config::default() };
        let world = World::configured_on(disk, config, seed).await;
        let far = Far::new(&world.servers, &world.clock, seed).await;
        let here_users: Vec<OwnedUserId> = ["alice", "bob", "carol", "dan"].map(user).to_vec();
        let far_users = vec![far.user("xenia"), far.user("yves")];
        for user in &here_users {
            world.register(user).await;
        }
        let mut rooms = Vec::new();
        for creator in &here_users[..3] {
            rooms.push(free_room(&world, creator).await);
        }
        far.join(&world.rooms, &rooms[0], &far_users[0]).await;
        Self {
            world,
            far,
            dice: SeededRandom::new(seed),
            large,
            rooms,
            here_users,
            far_users,
            devices: Vec::new(),
            changed: Vec::new(),
            moments: Vec::new(),
            to_here: VecDeque::new(),
            to_far: VecDeque::new(),
            step: 0,
        }
    }

    async fn happen(&mut self) {
        self.step += 1;
        self.world.clock.advance(1 + self.dice.next() % 100);
        match self.dice.below(10) {
            0 => self.change_keys().await,
            1 => self.change_keys_far_away().await,
            2 => {
                let (one, room) = (self.dice.pick(&self.here_users), self.dice.pick(&self.rooms));
                drop(self.world.rooms.forget(one, room).await);
            }
            3 | 4 => self.exchange(false).await,
            _ => self.act().await,
        }
    }

    /// Somebody comes, goes, is sent away, changes their name or says something. What isn't allowed fails, and that is fine.
    async fn act(&mut self) {
        let text = self.step.to_string();
        let is_far = self.dice.chance(25);
        let one = self.dice.pick(if is_far { &self.far_users } else { &self.here_users }).clone();
        let everybody: Vec<_> = self.here_users.iter().chain(&self.far_users).collect();
        let other = (*self.dice.pick(&everybody)).clone();
        let room = if is_far { self.rooms[0].clone() } else { self.dice.pick(&self.rooms).clone() };
        let own = ("m.room.member", Some(one.as_str()));
        let others = ("m.room.member", Some(other.as_str()));
        let (key, content) = match self.dice.below(15) {
            0..6 => (own, json!({ "membership": "join", "displayname": text })),
            6..8 => (own, json!({ "membership": "leave" })),
            8 | 9 => (others, json!({ "membership": "leave" })),
            10 => (others, json!({ "membership": "ban" })),
            11 => (others, json!({ "membership": "invite" })),
            12 => (("m.room.topic", Some("")), json!({ "topic": text })),
            13 => (("m.room.encryption", Some("")), json!({ "algorithm": "m.megolm.v1.aes-sha2" })),
            _ => (("m.room.message", None), json!({ "msgtype": "m.text", "body": text })),
        };
        if is_far {
            self.to_here.extend(self.far.act(&one, &room, key, &content).await);
        } else {
            let sent = act(&self.world.rooms, &one, &room, key, &content).await;
            if room == self.rooms[0] {
                self.to_far.extend(sent);
            }
        }
    }

    async fn exchange(&mut self, all: bool) {
        let (here, far, room) = (&self.world.rooms, &self.far.rooms, &self.rooms[0]);
        let count = if all { self.to_here.len() } else { self.dice.below(self.to_here.len() + 1) };
        let events: Vec<_> = self.to_here.drain(..count).collect();
        deliver(far, &self.far.store, here, room, &events).await;
        let count = if all { self.to_far.len() } else { self.dice.below(self.to_far.len() + 1) };
        let events: Vec<_> = self.to_far.drain(..count).collect();
        deliver(here, &self.world.store, far, room, &events).await;
    }

    /// A new device, or one less.
    async fn change_keys(&mut self) {
        let one = if self.devices.len() > 4 || (!self.devices.is_empty() && self.dice.chance(40)) {
            let (one, device) = self.devices.swap_remove(self.dice.below(self.devices.len()));
            self.world.users.delete_devices(&one, &[device.as_str().into()]).await.unwrap();
            one
        } else {
            let one = self.dice.pick(&self.here_users).clone();
            let device = format!("D{}", self.step);
            self.world.log_in(&one, &device).await;
            self.devices.push((one.clone(), device));
            one
        };
        self.changed.push((self.step, one));
    }

    async fn change_keys_far_away(&mut self) {
        let one = self.dice.pick(&self.far_users).clone();
        let view = self.world.store.view().await.unwrap();
        let mut rooms = Vec::new();
        for room in &self.rooms {
            if self.world.rooms.joined_members(&view, room).await.unwrap().contains(&one) {
                rooms.push(room.clone());
            }
        }
        change_remote(&self.world, &one, rooms).await;
        self.changed.push((self.step, one));
    }

    /// What the states of the rooms say.
    async fn rooms_now(&self) -> RoomsAt {
        let view = self.world.store.view().await.unwrap();
        let mut now = RoomsAt { members: BTreeMap::new(), encrypted: BTreeSet::new() };
        for room in &self.rooms {
            let members = self.world.rooms.joined_members(&view, room).await.unwrap();
            now.members.insert(room.clone(), members.into_iter().collect());
            if self.world.rooms.current_event(&view, room, "m.room.encryption", "").await.unwrap().is_some() {
                now.encrypted.insert(room.clone());
            }
        }
        now
    }

    /// `last`: the rooms when the question is asked.
    fn expected(&self, one: &OwnedUserId, from: &Moment, to: &Moment, last: &RoomsAt) -> Lists {
        let small = |room: &OwnedRoomId| last.members[room].len() <= self.large;
        let around = |at: &RoomsAt| at.around(one, |room| small(room) || at.encrypted.contains(room));
        let (before, now) = (around(&from.rooms), around(&to.rooms));
        let mut changed: Users = now.difference(&before).cloned().collect();
        changed.extend(to.rooms.around(one, |room| {
            let stayed = from.rooms.members[room].contains(one);
            stayed && to.rooms.encrypted.contains(room) && !from.rooms.encrypted.contains(room)
        }));
        for (step, user) in &self.changed {
            if *step > from.step && *step <= to.step && (user == one || now.contains(user)) {
                changed.insert(user.clone());
            }
        }
        (changed, before.difference(&now).cloned().collect())
    }

    /// Asks for what happened since some moment, in every way.
    async fn look(&mut self) {
        let one = self.dice.pick(&self.here_users).clone();
        let mut client = Client::new(&one, "ONE").with_filter(json!({ "presence": { "types": [] } }));
        if let Some(newest) = self.moments.len().checked_sub(1) {
            let back = if self.dice.chance(60) { self.dice.below(3) } else { self.dice.below(self.moments.len()) };
            let from = newest.saturating_sub(back);
            client.since = Some(self.moments[from].token.clone());
        }
        let since = client.since.clone();
        let before = client.clone();
        let told = client.ask(&self.world, 0, false).await;
        let token = text(&told, "next_batch");
        let to = Moment { token: token.clone(), step: self.step, rooms: self.rooms_now().await };
        let Some(since) = since else {
            assert!(told.get("device_lists").is_none(), "{told}");
            self.moments.push(to);
            return;
        };
        let from = self.moments.iter().find(|moment| moment.token == since).unwrap();
        let expected = self.expected(&one, from, &to, &to.rooms);
        let what = format!("for {one} from step {} to {}", from.step, to.step);
        assert_eq!(lists(&told), expected, "from the inbox, {what}");
        let changes = self.world.sync.key_changes(&one, &since, &token).await.unwrap();
        let changes = (changes.changed.into_iter().collect(), changes.left.into_iter().collect());
        assert_eq!(changes, expected, "by /keys/changes, {what}");
        if self.dice.chance(50) {
            let cold = self.world.another_sync().await;
            let again = before.ask_of(&cold, 0, false).await;
            assert_eq!(lists(&again), expected, "from the tables, {what}");
            cold.shut_down();
        }
        self.moments.push(to);
        self.look_back(&one).await;
    }

    /// Asks for what happened between two moments, whatever came after them.
    async fn look_back(&mut self, one: &OwnedUserId) {
        let (i, j) = (self.dice.below(self.moments.len()), self.dice.below(self.moments.len()));
        let (from, to) = (&self.moments[i], &self.moments[j]);
        let told = self.world.sync.key_changes(one, &from.token, &to.token).await.unwrap();
        let told: Lists = (told.changed.into_iter().collect(), told.left.into_iter().collect());
        let last = self.rooms_now().await;
        let expected = if i < j { self.expected(one, from, to, &last) } else { Lists::default() };
        assert_eq!(told, expected, "by /keys/changes, for {one} between steps {} and {}", from.step, to.step);
    }

    async fn run(mut self) {
        for _ in 0..STEPS {
            self.happen().await;
            while self.dice.chance(40) {
                self.look().await;
            }
            if self.dice.chance(2) {
                self.world = self.world.restart().await;
            }
        }
        self.exchange(true).await;
        self.step += 1;
        for _ in 0..10 {
            self.look().await;
        }
    }
}

async fn change_remote(world: &World, user: &UserId, rooms: Vec<OwnedRoomId>) {
    let mut batch = Batch::new();
    let view = world.store.view().await.unwrap();
    world.users.prepare_remote_device_list(&view, &mut batch, user, rooms).await.unwrap();
    world.store.commit(batch).await.unwrap();
}

fn lists(body: &Value) -> Lists {
    let users = |key: &str| -> Users {
        let found = list(&body["device_lists"][key]).iter();
        found.map(|user| UserId::parse(user.as_str().unwrap()).unwrap()).collect()
    };
    (users("changed"), users("left"))
}

fn users(names: &[&str]) -> Users {
    names.iter().map(|name| user(name)).collect()
}

#[test]
fn device_lists_are_what_the_definition_says() {
    play(SEEDS, Disk::simulated, run);
}

#[test]
fn so_they_are_where_the_database_is_larger_than_the_memory() {
    play(DISK_SEEDS, Disk::files, run);
}

async fn run(disk: Disk, seed: u64) {
    History::new(disk, seed).await.run().await;
}

#[tokio::test]
async fn members_of_big_rooms_are_told_once() {
    let world = World::new().await;
    let alice = user("alice");
    let (small, big) = (world.room(&user("m000")).await, world.room(&user("m000")).await);
    let mut members = vec![user("m000")];
    for n in 1..90 {
        let member = user(&format!("m{n:03}"));
        world.join(&member, &big).await;
        members.push(member);
    }
    world.join(&members[1], &small).await;
    world.join(&alice, &small).await;
    let mut client = Client::new(&alice, "A");
    client.sync(&world, 0).await;
    // Those of the small room are known.
    world.join(&alice, &big).await;
    let others: Users = members[2..].iter().cloned().collect();
    assert_eq!(lists(&client.ask(&world, 0, false).await), (others.clone(), Users::new()));
    let (changed, left) = lists(&client.sync(&world, 0).await);
    assert_eq!((changed, left), (others.clone(), Users::new()));
    world.leave(&alice, &big).await;
    assert_eq!(lists(&client.sync(&world, 0).await), (Users::new(), others));
}

#[tokio::test]
async fn of_many_changes_only_those_around_are_told() {
    let world = World::new().await;
    let far = Far::new(&world.servers, &world.clock, 1).await;
    let (alice, xenia) = (user("alice"), far.user("xenia"));
    let room = world.room(&alice).await;
    far.join(&world.rooms, &room, &xenia).await;
    let mut client = Client::new(&alice, "A");
    client.sync(&world, 0).await;
    change_remote(&world, &xenia, vec![room.clone()]).await;
    for chunk in 0..45 {
        let (view, mut batch) = (world.store.view().await.unwrap(), Batch::new());
        for n in 0..100 {
            let stranger = far.user(&format!("s{chunk}_{n}"));
            world.users.prepare_remote_device_list(&view, &mut batch, &stranger, Vec::new()).await.unwrap();
        }
        world.store.commit(batch).await.unwrap();
    }
    let (changed, left) = lists(&client.sync(&world, 0).await);
    assert_eq!((changed, left), (Users::from([xenia]), Users::new()));
    assert_eq!(lists(&client.sync(&world, 0).await), (Users::new(), Users::new()));
}

#[tokio::test]
async fn who_waits_hears_of_own_keys_at_once_and_of_others_soon() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    for user in [&alice, &bob] {
        world.register(user).await;
    }
    let room = world.room(&alice).await;
    world.join(&bob, &room).await;
    let (mut of_alice, mut of_bob) = (Client::new(&alice, "A"), Client::new(&bob, "B"));
    of_alice.sync(&world, 0).await;
    of_bob.sync(&world, 0).await;
    world.log_in(&alice, "A2").await;
    tokio::time::pause();
    let begin = Instant::now();
    assert_eq!(lists(&of_alice.sync(&world, 30_000).await), (users(&["alice"]), Users::new()));
    assert_eq!(begin.elapsed().as_millis(), 0);
    assert_eq!(lists(&of_bob.sync(&world, 30_000).await), (users(&["alice"]), Users::new()));
    assert!(begin.elapsed().as_millis() <= 1_000);
}

#[tokio::test]
async fn a_device_hears_when_its_keys_are_claimed_and_others_do_not() {
    let world = World::new().await;
    let alice = user("alice");
    world.register(&alice).await;
    let mut keys = world.log_in(&alice, "A").await;
    let upload = keys.one_time(5);
    world.users.upload_keys(&alice, "A".into(), &upload).await.unwrap();
    let (mut of_a, mut of_b) = (Client::new(&alice, "A"), Client::new(&alice, "B"));
    let body = of_a.sync(&world, 0).await;
    assert_eq!(body["device_one_time_keys_count"], json!({ "signed_curve25519": 5 }));
    assert_eq!(body["device_unused_fallback_key_types"], json!(["signed_curve25519"]));
    let body = of_b.sync(&world, 0).await;
    assert_eq!(body["device_one_time_keys_count"], json!({ "signed_curve25519": 0 }));
    assert_eq!(body["device_unused_fallback_key_types"], json!([]));

    let claim = users::KeyClaim { user: alice.clone(), device: "A".into(), algorithm: "signed_curve25519".to_owned() };
    world.users.claim_keys(vec![claim.clone()]).await.unwrap();
    tokio::time::pause();
    let begin = Instant::now();
    let body = of_a.sync(&world, 30_000).await;
    assert_eq!(body["device_one_time_keys_count"], json!({ "signed_curve25519": 4 }));
    assert!(begin.elapsed().as_millis() <= 1_000);
    let begin = Instant::now();
    of_b.sync(&world, 30_000).await;
    assert_eq!(begin.elapsed().as_secs(), 30);
    tokio::time::resume();

    // The last of them, and then the fallback key.
    world.users.claim_keys(vec![claim.clone(), claim.clone(), claim.clone(), claim.clone(), claim]).await.unwrap();
    let body = of_a.sync(&world, 0).await;
    assert_eq!(body["device_one_time_keys_count"], json!({ "signed_curve25519": 0 }));
    assert_eq!(body["device_unused_fallback_key_types"], json!([]));
}

#[tokio::test]
async fn a_new_device_has_none_of_the_keys_of_one_that_had_its_id() {
    let world = World::new().await;
    let alice = user("alice");
    world.register(&alice).await;
    let upload = world.log_in(&alice, "A").await.one_time(5);
    world.users.upload_keys(&alice, "A".into(), &upload).await.unwrap();
    let mut client = Client::new(&alice, "A");
    for _ in 0..2 {
        let body = client.sync(&world, 0).await;
        assert_eq!(body["device_one_time_keys_count"], json!({ "signed_curve25519": 5 }));
    }
    world.users.delete_devices(&alice, &["A".into()]).await.unwrap();
    world.log_in(&alice, "A").await;
    let body = Client::new(&alice, "A").sync(&world, 0).await;
    assert_eq!(body["device_one_time_keys_count"], json!({ "signed_curve25519": 0 }));
    assert_eq!(body["device_unused_fallback_key_types"], json!([]));
}

#[tokio::test]
async fn after_a_restore_everybody_is_asked_for_anew() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = world.room(&alice).await;
    world.join(&bob, &room).await;
    let mut client = Client::new(&alice, "A");
    client.sync(&world, 0).await;
    let mut token: sync::Token = client.since.as_ref().unwrap().parse().unwrap();
    token.epoch += 1;
    let token = token.to_string();
    let changes = world.sync.key_changes(&alice, &token, &token).await.unwrap();
    assert_eq!((changes.changed, changes.left), (vec![bob], Vec::new()));
    client.since = Some(token);
    assert_eq!(lists(&client.ask(&world, 0, false).await), (users(&["bob"]), Users::new()));
    let refused = world.sync.key_changes(&alice, "x", "y").await;
    assert!(matches!(refused, Err(sync::SyncError::BadToken)));
}
