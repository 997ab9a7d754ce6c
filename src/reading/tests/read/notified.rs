//! Unread counts against a model that judges every event when it comes, over random histories: whatever changes in between
//! (rules, names, levels, members, whom one ignores), whatever is redacted, and whenever it is counted or the server restarts.
//! A failing seed is printed; `HAIMA_SEED` runs one.

use std::collections::HashSet;

use event::push::{PushContext, PushEvent, PushRules};
use reading::Viewer;
use rooms::{NewReceipt, ReceiptType};
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, UserId, push::Ruleset, user_id};
use serde_json::{Value, json};
use testkit::{SeededRandom, seeds};

use crate::world::{World, alice, bob, carol};

const SEEDS: u64 = 60;
const STEPS: usize = 80;

const BODIES: [&str; 6] = ["hi", "cheese", "Kraken", "Squid", "@room", "hello"];
const NAMES: [&str; 2] = ["Kraken", "Squid"];

fn dave() -> &'static UserId {
    user_id!("@dave:here")
}

/// Rules of different kinds, by number; 0 are those of the server.
fn rules(number: usize) -> PushRules {
    let highlight = json!(["notify", { "set_tweak": "highlight" }]);
    let of_messages = json!({ "kind": "event_match", "key": "type", "pattern": "m.room.message" });
    let (conditions, actions) = match number {
        0 => return PushRules::server_default(bob()),
        1 => (json!([of_messages]), json!([])),
        2 => (json!([{ "kind": "event_match", "key": "content.body", "pattern": "cheese" }]), highlight),
        3 => (json!([{ "kind": "contains_display_name" }]), highlight),
        4 => (json!([of_messages, { "kind": "room_member_count", "is": ">3" }]), highlight),
        _ => {
            let room = json!({ "kind": "sender_notification_permission", "key": "room" });
            (json!([{ "kind": "event_match", "key": "content.body", "pattern": "@room" }, room]), highlight)
        }
    };
    let rule = json!({
        "rule_id": "own", "default": false, "enabled": true, "conditions": conditions, "actions": actions
    });
    let mut rules = Ruleset::server_default(bob());
    rules.override_.insert(serde_json::from_value(rule).expect("a rule"));
    PushRules::compile(&rules, bob())
}

struct Unread {
    event: OwnedEventId,
    at: usize,
    highlighted: bool,
}

struct Story {
    world: World,
    room: OwnedRoomId,
    rules: PushRules,
    ignored: HashSet<OwnedUserId>,
    name: Option<String>,
    /// Bob's member event, unless it is redacted.
    member: Option<OwnedEventId>,
    dave_is_in: bool,
    /// All messages, and by whom; redacted ones aren't redacted again.
    messages: Vec<(OwnedEventId, &'static UserId)>,
    redacted: HashSet<OwnedEventId>,
    /// The model.
    unread: Vec<Unread>,
    read_to: usize,
}

impl Story {
    async fn new() -> Self {
        let world = World::new().await;
        let room = world.room(&[alice(), bob(), carol()]).await;
        Self {
            world,
            room,
            rules: rules(0),
            ignored: HashSet::new(),
            name: None,
            member: None,
            dave_is_in: false,
            messages: Vec::new(),
            redacted: HashSet::new(),
            unread: Vec::new(),
            read_to: 0,
        }
    }

    async fn step(&mut self, random: &SeededRandom) {
        match random.below(16) {
            0 => self.say(bob(), random).await,
            1 => self.read(random).await,
            2 => {
                self.settle().await;
                self.rules = rules(random.below(6));
            }
            3 => {
                self.settle().await;
                if !self.ignored.remove(carol()) {
                    self.ignored.insert(carol().to_owned());
                }
            }
            4 => self.rename(random).await,
            5 => self.redact_member().await,
            6 => self.redact(random).await,
            7 => {
                let level = [0, 50][random.below(2)];
                let content = json!({ "notifications": { "room": level }, "users_default": 0 });
                self.world.set(alice(), &self.room, ("m.room.power_levels", ""), content).await;
            }
            8 => {
                match self.dave_is_in {
                    true => self.world.leave(dave(), &self.room).await,
                    false => self.world.join(dave(), &self.room).await,
                }
                self.dave_is_in = !self.dave_is_in;
            }
            number => self.say([alice(), carol()][number % 2], random).await,
        }
    }

    async fn say(&mut self, sender: &'static UserId, random: &SeededRandom) {
        let mut content = json!({ "msgtype": "m.text", "body": random.pick(&BODIES) });
        if random.chance(15) {
            content["msgtype"] = json!("m.notice");
        }
        match random.below(8) {
            0 => content["m.mentions"] = json!({ "user_ids": [bob()] }),
            1 => content["m.mentions"] = json!({ "room": true }),
            _ => {}
        }
        let event = self.world.send(sender, &self.room, "m.room.message", content).await;
        let at = self.messages.len();
        self.messages.push((event.clone(), sender));
        if sender == bob() {
            self.unread.clear();
        } else if !self.ignored.contains(sender)
            && let Some(highlighted) = self.judge(&event).await
        {
            self.unread.push(Unread { event, at, highlighted });
        }
    }

    /// By the rules of now, in the room of now.
    async fn judge(&self, event: &OwnedEventId) -> Option<bool> {
        let (rooms, view) = (&self.world.rooms, self.world.view().await);
        let event = rooms.event_by_id(&view, event).await.expect("read").expect("an event");
        let head = rooms.head(&view, &self.room).await.expect("read").expect("a room");
        let levels = rooms.state(&view, &self.room, head.root).power_levels().await.expect("levels");
        let context = PushContext {
            user: bob(),
            display_name: self.name.as_deref(),
            member_count: head.joined_count,
            power_levels: Some(&levels),
        };
        let outcome = self.rules.evaluate(&PushEvent::new(event.pdu.as_received()), &context)?;
        outcome.notify.then_some(outcome.highlight)
    }

    async fn read(&mut self, random: &SeededRandom) {
        if self.messages.is_empty() {
            return;
        }
        let recent = self.messages.len().saturating_sub(6);
        let at = recent + random.below(self.messages.len() - recent);
        let receipt = NewReceipt {
            user: bob(),
            room: &self.room,
            receipt_type: ReceiptType::Read,
            event: &self.messages[at].0,
            thread: None,
        };
        self.world.rooms.set_receipt(receipt).await.expect("a receipt");
        self.read_to = self.read_to.max(at + 1);
        self.unread.retain(|unread| unread.at >= self.read_to);
    }

    async fn rename(&mut self, random: &SeededRandom) {
        let name = *random.pick(&NAMES);
        let content = json!({ "membership": "join", "displayname": name });
        self.member = Some(self.world.set(bob(), &self.room, ("m.room.member", bob().as_str()), content).await);
        self.name = Some(name.to_owned());
    }

    async fn redact_member(&mut self) {
        let Some(member) = self.member.take() else { return };
        self.world.redact(alice(), &self.room, &member).await;
        self.name = None;
    }

    async fn redact(&mut self, random: &SeededRandom) {
        if self.messages.is_empty() {
            return;
        }
        let (event, _) = random.pick(&self.messages).clone();
        if self.redacted.insert(event.clone()) {
            self.world.redact(alice(), &self.room, &event).await;
            self.unread.retain(|unread| unread.event != event);
        }
    }

    /// What the server does before it changes what decides.
    async fn settle(&self) {
        let viewer = Viewer { ignored: &self.ignored, ..Viewer::new(bob()) };
        self.world.reading.settle_unread(&self.world.view().await, &viewer, &self.rules).await.expect("counted");
    }

    async fn check(&self, seed: u64) {
        let viewer = Viewer { ignored: &self.ignored, ..Viewer::new(bob()) };
        let counts = self.world.reading.room(&self.world.view().await, viewer, &self.room).unread(&self.rules).await;
        let main = counts.expect("counted").main;
        let highlights = self.unread.iter().filter(|unread| unread.highlighted).count() as u64;
        let expected = (self.unread.len() as u64, highlights);
        assert_eq!((main.notifications, main.highlights), expected, "HAIMA_SEED={seed}");
    }
}

#[tokio::test]
async fn counts_are_those_of_the_time_at_which_events_came() {
    for seed in seeds(SEEDS) {
        let random = SeededRandom::new(seed);
        let mut story = Story::new().await;
        for _ in 0..STEPS {
            story.step(&random).await;
            if random.chance(20) {
                story.check(seed).await;
            }
            if random.chance(15) {
                story.world = story.world.restarted().await;
            }
        }
        story.check(seed).await;
        story.world = story.world.restarted().await;
        story.check(seed).await;
    }
}

#[tokio::test]
async fn a_muted_room_stays_read_after_it_is_unmuted() {
    let world = World::new().await;
    let room = world.room(&[alice(), bob()]).await;
    let (viewer, muted, usual) = (Viewer::new(bob()), rules(1), rules(0));
    for number in 0..4 {
        world.say(alice(), &room, &number.to_string()).await;
    }
    // Nobody has counted yet.
    world.reading.settle_unread(&world.view().await, &viewer, &muted).await.expect("counted");
    let count = async |world: &World| {
        let counts = world.reading.room(&world.view().await, viewer, &room).unread(&usual).await;
        counts.expect("counted").main.notifications
    };
    assert_eq!(count(&world).await, 0);
    world.say(alice(), &room, "5").await;
    assert_eq!(count(&world).await, 1);
    assert_eq!(count(&world.restarted().await).await, 1);
}

/// Content of any shape decides nothing and does no harm.
#[tokio::test]
async fn odd_names_and_levels_do_no_harm() {
    let world = World::new().await;
    let room = world.room(&[alice(), bob()]).await;
    for name in [json!(7), json!(null), json!([]), json!({ "a": 1 })] {
        let content: Value = json!({ "membership": "join", "displayname": name });
        world.set(bob(), &room, ("m.room.member", bob().as_str()), content).await;
        world.say(alice(), &room, "Kraken").await;
        let counts = world.reading.room(&world.view().await, Viewer::new(bob()), &room).unread(&rules(3)).await;
        assert_eq!(counts.expect("counted").main.highlights, 0);
    }
}
