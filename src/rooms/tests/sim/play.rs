//! One game: servers, their users, what they do and what the network makes of it.

use std::{collections::BTreeSet, sync::Arc};

use event::Pdu;
use rooms::{CreateRoom, Membership, Preset, RoomsError, Sender};
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId};
use serde_json::json;
use store::{MEMORY_BUDGET_BYTES_MIN, Options, Store};
use tempfile::TempDir;
use testkit::{Delivery, Faults, ManualClock, Network, SeededRandom};

use crate::{
    agreement, front, whole,
    world::{Others, World},
};

/// Things that users do before the network is mended.
const ACTIONS: usize = 42;

/// Times that everybody speaks after the network is mended.
const CLOSING_ROUNDS: usize = 3;

/// The greatest depth that an event can claim.
const DEPTH_MAX: u64 = (1 << 53) - 1;

/// Longer than any wait before another attempt, in milliseconds.
const LONG_MS: u64 = 700_000;

/// What goes wrong before the network is mended.
const FAULTS: Faults = Faults { drop_percent: 10, duplicate_percent: 10, delay_steps_max: 4 };

pub struct Game {
    pub seed: u64,
    pub random: SeededRandom,
    pub worlds: Vec<World>,
    pub room: OwnedRoomId,
    /// All events that anybody sent.
    pub events: BTreeSet<OwnedEventId>,
    /// The events with which the room began.
    created: Vec<OwnedEventId>,
    creator: OwnedUserId,
    users: Vec<(usize, OwnedUserId)>,
    /// A server that nobody hears of any more.
    dead: Option<usize>,
    /// Servers that were in the room before they entered it: what they knew of it from then may not be what the others know.
    entered_again: BTreeSet<usize>,
    network: Network<Vec<OwnedEventId>>,
    /// Where the databases are that are on disk. Dropped after their servers.
    _directories: Vec<TempDir>,
}

/// What each cache of a server holds that is to read from the disk, in bytes.
const TINY_CACHE_BYTES: u64 = 16 * 1024;

/// Where the servers keep their databases.
#[derive(Copy, Clone, PartialEq, Eq)]
pub enum Storage {
    Memory,
    /// On disk, with next to no memory to cache them.
    Disk,
}

pub async fn play(seed: u64, storage: Storage) {
    let mut game = Game::start(seed, storage).await;
    game.network.set_faults(FAULTS);
    for _ in 0..ACTIONS {
        if game.random.chance(8) {
            game.split();
        }
        if game.random.chance(12) {
            game.mend();
        }
        if game.random.chance(1) {
            game.kill();
        }
        game.act().await;
        if game.random.chance(60) {
            game.step().await;
        }
    }
    game.mend();
    game.network.set_faults(Faults::NONE);
    game.settle().await;
    for _ in 0..CLOSING_ROUNDS {
        for index in 0..game.users.len() {
            let (at, user) = game.users[index].clone();
            game.say(at, &user).await;
        }
        game.settle().await;
    }
    let creator = game.creator.clone();
    let last = game.say(0, &creator).await;
    game.settle().await;
    agreement::check(&game, last.as_deref()).await;
    let mut resolved = 0;
    for (index, world) in game.worlds.iter().enumerate() {
        resolved += whole::check(seed, world, &game.room, game.events.iter()).await;
        front::check_state(seed, world, &game.room).await;
        if !game.entered_again.contains(&index) {
            front::check_events(seed, world, &game.room, game.events.iter().chain(&game.created)).await;
        }
    }
    for (index, world) in game.worlds.iter().enumerate().filter(|(index, _)| game.dead != Some(*index)) {
        let users = game.users.iter().filter(|(at, _)| *at == index).map(|(_, user)| &**user);
        let said = front::check_merging(seed, world, &game.room, &users.collect::<Vec<_>>()).await;
        front::check_state(seed, world, &game.room).await;
        if !game.entered_again.contains(&index) {
            front::check_events(seed, world, &game.room, game.events.iter().chain(&game.created).chain(&said)).await;
        }
    }
    if std::env::var("HAIMA_SIM_STATS").is_ok() {
        println!("{}, resolved {resolved}", agreement::statistics(&game).await);
    }
}

/// A server whose database is larger than all its caches.
async fn on_disk(name: &str, others: Arc<Others>, clock: Arc<ManualClock>, directory: &TempDir) -> World {
    let options = Options { memory_budget_bytes: MEMORY_BUDGET_BYTES_MIN, ..Options::default() };
    let store = Store::open_rocksdb(directory.path(), &options, &[rooms::TABLES]).await.expect("a store");
    let mut config = rooms::Config::new(name.try_into().expect("a server name"));
    config.event_cache_bytes = TINY_CACHE_BYTES;
    config.node_cache_bytes = TINY_CACHE_BYTES;
    World::configured(config, others, clock, store).await
}

impl Game {
    async fn start(seed: u64, storage: Storage) -> Self {
        let random = SeededRandom::new(seed);
        let (others, clock): (Arc<Others>, Arc<ManualClock>) = Default::default();
        let servers = 3 + random.below(3) + if random.chance(10) { 2 } else { 0 };
        let (mut worlds, mut directories) = (Vec::new(), Vec::new());
        for number in 0..servers {
            let (name, others, clock) = (format!("s{number}"), others.clone(), clock.clone());
            worlds.push(match storage {
                Storage::Memory => World::named(&name, others, clock).await,
                Storage::Disk => {
                    directories.push(tempfile::tempdir().expect("a directory"));
                    on_disk(&name, others, clock, &directories[number]).await
                }
            });
        }
        let mut users = Vec::new();
        for (number, world) in worlds.iter().enumerate() {
            for name in ["anna", "bert"].into_iter().take(1 + random.below(2)) {
                users.push((number, world.user(name)));
            }
        }
        let creator = users[0].1.clone();
        let versions = event::SUPPORTED_ROOM_VERSIONS;
        let mut request = CreateRoom::new(creator.clone());
        request.version = Some(random.pick(&versions).clone());
        request.preset = Some(Preset::PublicChat);
        let room = worlds[0].rooms.create(&request).await.expect("a room");
        let view = worlds[0].view().await;
        let head = worlds[0].rooms.head(&view, &room).await.expect("a read").expect("a head");
        let began = worlds[0].rooms.state(&view, &room, head.root).events().await.expect("a state");
        let network = Network::new(servers, Faults::NONE);
        let mut game = Self {
            _directories: directories,
            seed,
            random,
            worlds,
            room,
            events: BTreeSet::new(),
            created: began.iter().map(|event| event.pdu.owned_event_id()).collect(),
            creator,
            users,
            dead: None,
            entered_again: BTreeSet::new(),
            network,
        };
        for (number, user) in game.users.clone().into_iter().skip(1) {
            game.join(number, &user).await;
            game.settle().await;
        }
        let mut levels = game.worlds[0].state(&game.room, "m.room.power_levels", "").await.expect("levels");
        for (_, user) in game.users.iter().skip(1) {
            if game.random.chance(40) {
                levels["users"][user.as_str()] = (*game.random.pick(&[50, 75, 99])).into();
            }
        }
        let creator = game.creator.clone();
        let set = game.worlds[0].set(&creator, &game.room, ("m.room.power_levels", ""), levels).await;
        game.tell(0, set.expect("levels set")).await;
        game.settle().await;
        game
    }

    /// Lets the network fall into parts, for transactions and for questions.
    fn split(&mut self) {
        self.network.partition(&self.random, 2);
        self.wire();
    }

    fn mend(&mut self) {
        self.network.heal();
        self.wire();
    }

    fn wire(&self) {
        let mut cut = self.worlds[0].others.cut.lock().expect("not poisoned");
        cut.clear();
        for (a, one) in self.worlds.iter().enumerate() {
            for (b, other) in self.worlds.iter().enumerate() {
                if !self.network.connects(a, b) {
                    cut.insert((one.name.clone(), other.name.clone()));
                }
            }
        }
    }

    /// Ends a server, but not that of the room's creator.
    fn kill(&mut self) {
        let dead = self.random.below(self.worlds.len());
        if dead > 0 && self.dead.is_none() {
            self.dead = Some(dead);
            self.worlds[0].others.down.lock().expect("not poisoned").insert(self.worlds[dead].name.clone());
        }
    }

    /// A server's new event goes to the servers that it sees in the room.
    async fn tell(&mut self, from: usize, event: OwnedEventId) {
        let world = &self.worlds[from];
        let servers = world.rooms.joined_servers(&world.view().await, &self.room).await.expect("a read");
        self.events.insert(event.clone());
        for (to, other) in self.worlds.iter().enumerate() {
            if to != from && servers.iter().any(|(server, _)| *server == other.name) {
                self.network.send(&self.random, from, to, vec![event.clone()]);
            }
        }
    }

    async fn step(&mut self) {
        for Delivery { from, to, message } in self.network.step() {
            if self.dead == Some(to) || self.dead == Some(from) {
                continue;
            }
            let mut pdus = Vec::new();
            for event in &message {
                pdus.push(self.worlds[from].event(event).await);
            }
            let rooms = &self.worlds[to].rooms;
            rooms.receive(&self.worlds[from].name, &self.room, &pdus).await.expect("received");
            rooms.work_inbox(&self.room).await.expect("worked");
        }
    }

    /// Until nothing is on its way and nothing waits.
    async fn settle(&mut self) {
        while !self.network.is_idle() {
            self.step().await;
        }
        self.worlds[0].clock.advance(LONG_MS);
        for (index, world) in self.worlds.iter().enumerate() {
            if self.dead != Some(index) {
                world.rooms.work_inbox(&self.room).await.expect("worked");
            }
        }
    }

    async fn say(&mut self, at: usize, user: &OwnedUserId) -> Option<OwnedEventId> {
        if self.dead == Some(at) {
            return None;
        }
        let said = self.worlds[at].say(user, &self.room, "hello").await;
        self.done(at, said).await
    }

    /// Tells the others what came of an action. Refusals are part of the game; faults are not.
    async fn done(&mut self, at: usize, result: Result<OwnedEventId, RoomsError>) -> Option<OwnedEventId> {
        match result {
            Ok(event) => {
                self.tell(at, event.clone()).await;
                Some(event)
            }
            Err(
                RoomsError::Forbidden(_)
                | RoomsError::NotJoined
                | RoomsError::NotBanned
                | RoomsError::RoomNotFound
                | RoomsError::EventNotFound
                | RoomsError::Remote(_)
                | RoomsError::UnableToGrantJoin
                | RoomsError::UnableToAuthoriseJoin,
            ) => None,
            Err(error) => panic!("seed {}: {error}", self.seed),
        }
    }

    async fn join(&mut self, at: usize, user: &OwnedUserId) {
        let world = &self.worlds[at];
        if !world.rooms.needs_remote_join(&world.view().await, &self.room).await.expect("a read") {
            let joined = world.rooms.join(user, &self.room, None).await.map(|sent| sent.event_id);
            self.done(at, joined).await;
            return;
        }
        let reachable: Vec<usize> =
            (0..self.worlds.len()).filter(|other| *other != at && self.reaches(at, *other)).collect();
        if reachable.is_empty() {
            return;
        }
        let resident = *self.random.pick(&reachable);
        let world = &self.worlds[at];
        if world.rooms.head(&world.view().await, &self.room).await.expect("a read").is_some() {
            self.entered_again.insert(at);
        }
        let joined = self.join_through(at, resident, user).await;
        if let Some(event) = self.done(at, joined).await {
            // The resident server tells the others.
            self.tell(resident, event).await;
        }
    }

    fn reaches(&self, from: usize, to: usize) -> bool {
        self.dead != Some(to) && self.dead != Some(from) && self.network.connects(from, to)
    }

    async fn join_through(&self, at: usize, resident: usize, user: &OwnedUserId) -> Result<OwnedEventId, RoomsError> {
        let (world, resident) = (&self.worlds[at], &self.worlds[resident]);
        let versions = event::SUPPORTED_ROOM_VERSIONS;
        let template = resident.rooms.make_join(&self.room, user, &versions).await?;
        let join = world.rooms.complete_join(&self.room, user, &template, None)?;
        let answer = resident.rooms.send_join(&rooms::Asker::new(&world.name), &self.room, join.json()).await?;
        // Whom the others have let in, their own server doesn't keep out.
        let entered = world.rooms.enter(&resident.name, &self.room, &template.version, &answer).await;
        match entered {
            Ok(sent) => Ok(sent.event_id),
            Err(error) => panic!("seed {}: {} refuses to enter: {error}", self.seed, world.name),
        }
    }

    /// Somebody does something.
    async fn act(&mut self) {
        self.worlds[0].clock.advance(u64::try_from(self.random.below(3)).expect("small"));
        let (at, user) = self.random.pick(&self.users).clone();
        if self.dead == Some(at) {
            return;
        }
        let target = self.random.pick(&self.users).1.clone();
        let room = self.room.clone();
        let kind = self.random.below(113);
        let rooms = self.worlds[at].rooms.clone();
        let result = match kind {
            0..20 => self.worlds[at].say(&user, &room, "something").await,
            20..40 => {
                let (event_type, field) = *self.random.pick(&[("m.room.topic", "topic"), ("m.room.name", "name")]);
                let value = self.random.below(1_000).to_string();
                self.worlds[at].set(&user, &room, (event_type, ""), json!({ field: value })).await
            }
            40..50 => return self.join(at, &user).await,
            50..55 if user == self.creator => return,
            50..55 => match rooms.leave(&user, &room, None).await {
                Ok(()) => match self.worlds[at]
                    .rooms
                    .current_event(&self.worlds[at].view().await, &room, "m.room.member", user.as_str())
                    .await
                    .expect("a read")
                {
                    Some(event) => Ok(event.pdu.owned_event_id()),
                    None => return,
                },
                Err(error) => Err(error),
            },
            55..75 if target == self.creator => return,
            55..63 => rooms.ban(&user, &room, &target, None).await.map(|sent| sent.event_id),
            63..70 => rooms.unban(&user, &room, &target, None).await.map(|sent| sent.event_id),
            70..75 => rooms.kick(&user, &room, &target, None).await.map(|sent| sent.event_id),
            75..85 => {
                let Some(mut levels) = self.worlds[at].state(&room, "m.room.power_levels", "").await else { return };
                if target == self.creator {
                    return;
                }
                levels["users"][target.as_str()] = (*self.random.pick(&[0, 50, 75, 99])).into();
                self.worlds[at].set(&user, &room, ("m.room.power_levels", ""), levels).await
            }
            85..92 => {
                let rule = *self.random.pick(&["public", "invite"]);
                self.worlds[at].set(&user, &room, ("m.room.join_rules", ""), json!({ "join_rule": rule })).await
            }
            100..112 => return self.cheat(at, &user, &target).await,
            112.. => return self.flood(at, &user).await,
            _ => {
                let known: Vec<OwnedEventId> = self.events.iter().cloned().collect();
                let event = self.random.pick(&known).clone();
                let redacted = rooms.redact(&Sender::user(&user), &room, &event, None, &|_| {}).await;
                redacted.map(|sent| sent.event_id)
            }
        };
        self.done(at, result).await;
    }

    /// A server sends what it shouldn't: an event anywhere in the graph, authorised by the state of some other time.
    async fn cheat(&mut self, at: usize, user: &OwnedUserId, target: &OwnedUserId) {
        let known: Vec<OwnedEventId> = self.events.iter().cloned().collect();
        let prev = self.random.pick(&known).clone();
        let authority = self.random.pick(&known).clone();
        let kinds = [
            ("m.room.topic", Some(String::new()), json!({ "topic": "cheated" })),
            ("m.room.message", None, json!({ "body": "cheated" })),
            ("m.room.member", Some(target.to_string()), json!({ "membership": "ban" })),
            ("m.room.member", Some(user.to_string()), json!({ "membership": "join" })),
            ("m.room.join_rules", Some(String::new()), json!({ "join_rule": "public" })),
        ];
        let (event_type, state_key, content) = self.random.pick(&kinds).clone();
        let depth = self.random.chance(30).then_some(DEPTH_MAX);
        let world = &self.worlds[at];
        let at_events = (&*prev, &*authority);
        let event = world.forge_at_depth(&self.room, user, (event_type, state_key), content, at_events, depth).await;
        self.spread(at, event).await;
    }

    /// A server sends more forks than anybody can keep apart: events that all follow old ones, and claim to be the newest.
    async fn flood(&mut self, at: usize, user: &OwnedUserId) {
        for number in 0..15 + self.random.below(50) {
            let known: Vec<OwnedEventId> = self.events.iter().cloned().collect();
            let prev = self.random.pick(&known).clone();
            let (key, content) = if self.random.chance(50) {
                (("m.room.message", None), json!({ "body": number }))
            } else {
                let content = json!({ "membership": "join", "displayname": number.to_string() });
                (("m.room.member", Some(user.to_string())), content)
            };
            let depth = self.random.chance(80).then_some(DEPTH_MAX);
            let event = self.worlds[at].forge_at_depth(&self.room, user, key, content, (&prev, &prev), depth).await;
            self.spread(at, event).await;
        }
    }

    /// An event that a server made up goes to all that it reaches, itself included.
    async fn spread(&mut self, at: usize, event: Option<Pdu>) {
        let Some(event) = event else { return };
        self.events.insert(event.event_id().to_owned());
        for to in 0..self.worlds.len() {
            if to == at || self.reaches(at, to) {
                let (from, rooms) = (&self.worlds[at].name, &self.worlds[to].rooms);
                rooms.receive(from, &self.room, &[event.json().to_owned()]).await.expect("received");
                rooms.work_inbox(&self.room).await.expect("worked");
            }
        }
    }

    /// The servers that the creator's server sees in the room at the end, and that see themselves in it.
    pub async fn present(&self) -> Vec<&World> {
        let first = &self.worlds[0];
        let mut present = Vec::new();
        for (index, world) in self.worlds.iter().enumerate() {
            let mut joined = self.dead != Some(index);
            for eyes in [first, world] {
                let view = eyes.view().await;
                joined &= eyes.rooms.is_server_joined(&view, &self.room, &world.name).await.expect("a read");
            }
            if joined {
                present.push(world);
            }
        }
        present
    }

    /// Whether the creator is in the room, as their server sees it.
    pub async fn creator_is_in(&self) -> bool {
        self.worlds[0].membership(&self.room, &self.creator).await == Membership::Join
    }
}
