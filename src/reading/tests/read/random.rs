//! Readers against the plain definitions, over random histories. A failing seed is printed; `HAIMA_SEED` runs one.

use std::collections::BTreeMap;

use event::push::PushRules;
use reading::{Count, NewEvents, UnreadCounts, Viewer, may_count};
use rooms::{Direction, EventNum, LoggedEvent, NewReceipt, ReceiptType, RoomAdvanced, TimelineIndex, TimelineRange};
use ruma::{OwnedEventId, OwnedRoomId, UserId};
use serde_json::json;
use store::Position;
use testkit::{SeededRandom, seeds};

use crate::world::{World, alice, bob, carol};

/// Histories that each test goes through.
const SEEDS: u64 = 60;

/// One message, with what decides who sees it.
struct Said {
    body: String,
    history: &'static str,
    /// Bob's membership when it was said.
    membership: &'static str,
}

/// A room in which Bob comes and goes while the history visibility changes.
struct Story {
    world: World,
    room: OwnedRoomId,
    history: &'static str,
    membership: &'static str,
    said: Vec<Said>,
    /// How much had been said when Bob was last joined.
    joined_until: Option<usize>,
}

impl Story {
    async fn new() -> Self {
        let world = World::new().await;
        let room = world.room(&[alice()]).await;
        Self { world, room, history: "shared", membership: "leave", said: Vec::new(), joined_until: None }
    }

    async fn step(&mut self, random: &SeededRandom) {
        let (world, room) = (&self.world, &self.room);
        match (random.below(10), self.membership) {
            (0, _) => {
                const SETTINGS: [&str; 4] = ["world_readable", "shared", "invited", "joined"];
                self.history = SETTINGS[random.below(SETTINGS.len())];
                world.set_history(alice(), room, self.history).await;
            }
            (1 | 2, "leave" | "invite") => {
                world.join(bob(), room).await;
                self.membership = "join";
            }
            (3, "leave") => {
                world.rooms.invite(alice(), room, bob(), None).await.expect("invited");
                self.membership = "invite";
            }
            (1, "join") | (3, "invite") => {
                world.leave(bob(), room).await;
                self.membership = "leave";
            }
            (2, "join") => {
                world.rooms.kick(alice(), room, bob(), None).await.expect("kicked");
                self.membership = "leave";
            }
            (3, "join") => {
                world.rooms.ban(alice(), room, bob(), None).await.expect("banned");
                self.membership = "ban";
            }
            (1..=3, "ban") => {
                world.rooms.unban(alice(), room, bob(), None).await.expect("let in");
                self.membership = "leave";
            }
            (4, "join") => {
                // A change of the profile is no join.
                let content = json!({ "membership": "join", "displayname": self.said.len().to_string() });
                world.set(bob(), room, ("m.room.member", bob().as_str()), content).await;
            }
            _ => {
                let body = self.said.len().to_string();
                world.say(alice(), room, &body).await;
                self.said.push(Said { body, history: self.history, membership: self.membership });
            }
        }
        if self.membership == "join" {
            self.joined_until = Some(self.said.len());
        }
    }

    /// The specification's five rules.
    fn visible(&self) -> Vec<String> {
        let mut visible = Vec::new();
        for (at, said) in self.said.iter().enumerate() {
            let joined_later = self.joined_until.is_some_and(|until| at < until);
            let allowed = said.history == "world_readable"
                || said.membership == "join"
                || (said.history == "shared" && joined_later)
                || (said.history == "invited" && said.membership == "invite");
            if allowed {
                visible.push(said.body.clone());
            }
        }
        visible
    }

    /// Whether Bob may look into the room at all.
    fn may_look(&self) -> bool {
        self.joined_until.is_some() || self.history == "world_readable"
    }
}

#[tokio::test]
async fn what_is_visible_is_what_the_rules_say() {
    for seed in seeds(SEEDS) {
        let random = SeededRandom::new(seed);
        let mut story = Story::new().await;
        for _ in 0..40 {
            story.step(&random).await;
        }
        if story.may_look() {
            let heard = story.world.heard(bob(), &story.room).await;
            assert_eq!(heard, story.visible(), "HAIMA_SEED={seed}");
        }
    }
}

/// An event that concerns the one who counts.
struct Counted {
    thread: Option<OwnedEventId>,
    own: bool,
    highlighted: bool,
}

/// A room in which Alice and Bob talk, in threads too, and Bob reads now and then.
struct Talk {
    world: World,
    room: OwnedRoomId,
    /// Events that can be read up to: how much had been counted before, and the thread.
    events: Vec<(OwnedEventId, usize, Option<OwnedEventId>)>,
    roots: Vec<OwnedEventId>,
    counted: Vec<Counted>,
    /// Up to where Bob has read: everywhere, and by thread.
    everywhere: usize,
    marks: BTreeMap<Option<OwnedEventId>, usize>,
    /// Bob's receipts have not moved since.
    unmoved_since: Position,
}

impl Talk {
    async fn new() -> Self {
        let world = World::new().await;
        let room = world.room(&[alice(), bob(), carol()]).await;
        let (events, roots, counted) = (Vec::new(), Vec::new(), Vec::new());
        let unmoved_since = world.view().await.position();
        Self { world, room, events, roots, counted, everywhere: 0, marks: BTreeMap::new(), unmoved_since }
    }

    async fn step(&mut self, random: &SeededRandom) {
        if random.chance(15) && !self.events.is_empty() {
            return self.read(random).await;
        }
        let sender: &UserId = [alice(), alice(), carol(), bob()][random.below(4)];
        let mut content = json!({ "msgtype": "m.text", "body": "hi" });
        let thread = (random.chance(40) && !self.roots.is_empty()).then(|| random.pick(&self.roots).clone());
        if let Some(root) = &thread {
            content["m.relates_to"] = json!({ "rel_type": "m.thread", "event_id": root });
        }
        let mentioned = random.chance(20);
        if mentioned {
            content["m.mentions"] = json!({ "user_ids": [bob()] });
        }
        let notice = random.chance(15);
        if notice {
            content["msgtype"] = json!("m.notice");
        }
        let id = self.world.send(sender, &self.room, "m.room.message", content).await;
        // The rule against notices stands before the one for mentions. Whoever sends one has read all the same.
        let own = sender == bob();
        if !notice || own {
            self.counted.push(Counted { thread: thread.clone(), own, highlighted: mentioned });
        }
        if thread.is_none() && random.chance(30) {
            self.roots.push(id.clone());
        }
        self.events.push((id, self.counted.len(), thread));
    }

    async fn read(&mut self, random: &SeededRandom) {
        let recent = self.events.len().saturating_sub(8);
        let (event, upto, thread) = &self.events[recent + random.below(self.events.len() - recent)];
        let name = thread.as_ref().map_or("main", |root| root.as_str());
        let threaded = random.chance(60);
        let receipt_type = *random.pick(&[ReceiptType::Read, ReceiptType::ReadPrivate]);
        let receipt =
            NewReceipt { user: bob(), room: &self.room, receipt_type, event, thread: threaded.then_some(name) };
        self.world.rooms.set_receipt(receipt).await.expect("a receipt");
        let mark = match threaded {
            true => self.marks.entry(thread.clone()).or_default(),
            false => &mut self.everywhere,
        };
        *mark = (*mark).max(*upto);
        self.unmoved_since = self.world.view().await.position();
    }

    /// The counts by their definition.
    fn expected(&self) -> UnreadCounts {
        let mut counts: BTreeMap<Option<OwnedEventId>, Count> = BTreeMap::new();
        for (at, event) in self.counted.iter().enumerate() {
            if event.own {
                counts.remove(&event.thread);
                continue;
            }
            let mark = self.marks.get(&event.thread).copied().unwrap_or(0);
            if at < mark.max(self.everywhere) {
                continue;
            }
            let count = counts.entry(event.thread.clone()).or_default();
            count.notifications += 1;
            count.highlights += u64::from(event.highlighted);
        }
        let main = counts.remove(&None).unwrap_or_default();
        let threads = counts.into_iter().filter_map(|(root, count)| Some((root?, count))).collect();
        UnreadCounts { main, threads }
    }

    async fn check(&self, world: &World, seed: u64) {
        let (rules, viewer) = (PushRules::server_default(bob()), Viewer::new(bob()));
        let counts = world.reading.room(&world.view().await, viewer, &self.room).unread(&rules).await.expect("counted");
        assert_eq!(counts, self.expected(), "HAIMA_SEED={seed}");
    }
}

impl Talk {
    /// What the log tells of the events since a position.
    async fn told_since(&self, since: Position) -> BTreeMap<EventNum, LoggedEvent> {
        let store = &self.world.store;
        let mut log = store.read_log(since);
        let mut told = BTreeMap::new();
        while log.position() < store.published() {
            for record in log.try_next().await.expect("the log") {
                let entry = record.decode::<RoomAdvanced>().expect("an entry");
                told.extend(entry.and_then(|entry| entry.event).map(|event| (event.num, event)));
            }
        }
        told
    }

    /// The same as one who follows the log asks.
    async fn check_following(&self, seed: u64) {
        let (rules, viewer) = (PushRules::server_default(bob()), Viewer::new(bob()));
        let (rooms, view, since) = (&self.world.rooms, self.world.view().await, self.unmoved_since);
        let range = TimelineRange {
            after: Some(TimelineIndex::after_position(since)),
            before: None,
            direction: Direction::Forward,
            limit: 100,
        };
        let page = rooms.timeline(&view, &self.room, range).await.expect("a page");
        let told = self.told_since(since).await;
        let mut events = Vec::new();
        for (index, num) in page.events {
            // What can't count by what the log tells of it isn't read.
            let LoggedEvent { sender, flags, .. } = &told[&num];
            if !may_count(&rules, *flags, sender == bob()) {
                continue;
            }
            let event = rooms.event(&view, num).await.expect("read").expect("stored");
            events.push((index, event, rooms.meta(&view, num).await.expect("read")));
        }
        let new = NewEvents { since, events: &events };
        let counts =
            self.world.reading.room(&view, viewer, &self.room).unread_with(&rules, new).await.expect("counted");
        assert_eq!(counts, self.expected(), "HAIMA_SEED={seed}");
    }
}

#[tokio::test]
async fn counting_from_what_is_new_is_counting_at_once() {
    for seed in seeds(SEEDS) {
        let random = SeededRandom::new(seed);
        let mut talk = Talk::new().await;
        for _ in 0..60 {
            talk.step(&random).await;
            match random.below(10) {
                0 => talk.check(&talk.world, seed).await,
                1..5 => talk.check_following(seed).await,
                _ => {}
            }
        }
        talk.check_following(seed).await;
    }
}

#[tokio::test]
async fn counting_bit_by_bit_is_counting_at_once() {
    for seed in seeds(SEEDS) {
        let random = SeededRandom::new(seed);
        let mut talk = Talk::new().await;
        for _ in 0..60 {
            talk.step(&random).await;
            if random.chance(30) {
                talk.check(&talk.world, seed).await;
            }
        }
        talk.check(&talk.world, seed).await;
        talk.check(&talk.world.restarted().await, seed).await;
    }
}
