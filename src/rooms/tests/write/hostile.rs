//! Servers that are slow, silent, gone, or mean it.

use std::{collections::BTreeMap, sync::Arc};

use rooms::{Asker, Direction, EventStatus, KeyAnswer, Membership, Preset, PublishedKey, RoomsError, TimelineRange};
use ruma::{EventId, OwnedEventId, OwnedRoomId, RoomId, RoomVersionId, serde::Base64};
use serde_json::{Value, json};
use store::Position;
use testkit::{ManualClock, SeededRandom};

use crate::world::{Others, World};

async fn worlds<const N: usize>(names: [&str; N]) -> [World; N] {
    let (others, clock): (Arc<Others>, Arc<ManualClock>) = Default::default();
    let mut worlds = Vec::new();
    for name in names {
        worlds.push(World::named(name, others.clone(), clock.clone()).await);
    }
    worlds.try_into().unwrap_or_else(|_| unreachable!("as many as names"))
}

/// Takes an event to another server without letting it work.
async fn send(from: &World, to: &World, room: &RoomId, event: &EventId) {
    let pdu = from.event(event).await;
    let answers = to.rooms.receive(&from.name, room, &[pdu]).await.expect("received");
    answers.into_iter().for_each(|answer| answer.result.expect("taken"));
}

/// Waits until an event is part of a room.
async fn accepted(world: &World, event: &EventId) {
    let mut log = world.store.read_log(Position::from_u64(0));
    while world.status(event).await != EventStatus::Accepted {
        log.next().await.expect("the log");
    }
}

/// Reads a room's timeline back to its beginning, asking for what is missing.
async fn read_back(world: &World, room: &RoomId) {
    let mut before = None;
    loop {
        let range = TimelineRange { after: None, before, direction: Direction::Backward, limit: 100 };
        let page = world.rooms.timeline(&world.view().await, room, range).await.expect("a page");
        let Some((last, _)) = page.events.last() else { return };
        before = Some(*last);
        if let Some(gap) = &page.gap {
            world.rooms.backfill(room, gap).await.expect("asked");
        }
    }
}

fn keys_of(world: &World, answer: Option<KeyAnswer>) {
    let mut keys = world.others.keys.lock().expect("not poisoned");
    match answer {
        Some(answer) => keys.insert(world.name.clone(), answer),
        None => keys.remove(&world.name),
    };
}

#[tokio::test]
async fn servers_that_never_answer_hold_up_nobody_else() {
    let [slow, good, there] = worlds(["slow", "good", "there"]).await;
    let (anna, bert, bob) = (slow.user("anna"), good.user("bert"), there.user("bob"));
    let mut waiting: Vec<(OwnedRoomId, OwnedEventId)> = Vec::new();
    for _ in 0..12 {
        let room = slow.public_room(&anna).await;
        there.join_from(&slow, &room, &bob).await;
        slow.say(&anna, &room, "lost").await.expect("said");
        waiting.push((room.clone(), slow.say(&anna, &room, "waits").await.expect("said")));
    }
    let quiet = good.public_room(&bert).await;
    there.join_from(&good, &quiet, &bob).await;
    there.others.silent.lock().expect("not poisoned").insert(slow.name.clone());
    for (room, event) in &waiting {
        send(&slow, &there, room, event).await;
    }
    let rooms = there.rooms.clone();
    let running = tokio::spawn(async move { rooms.run_inbox().await });
    // As many as one server may have on its way.
    there.others.begun.wait_for(4).await;

    // What needs nobody else goes on, in other rooms and in the same.
    let said = good.say(&bert, &quiet, "heard").await.expect("said");
    send(&good, &there, &quiet, &said).await;
    accepted(&there, &said).await;
    // And who answers is asked.
    good.say(&bert, &quiet, "lost").await.expect("said");
    let said = good.say(&bert, &quiet, "heard too").await.expect("said");
    send(&good, &there, &quiet, &said).await;
    accepted(&there, &said).await;

    // Nobody waits for ever: the questions are given up, and others get their turn.
    there.others.silent.lock().expect("not poisoned").clear();
    tokio::time::pause();
    tokio::time::advance(rooms::ERRAND_WITHIN).await;
    there.others.given_up.wait_for(4).await;
    tokio::time::resume();
    for (room, event) in &waiting {
        let mut looks = 0;
        while there.status(event).await != EventStatus::Accepted {
            looks += 1;
            assert!(looks < 1_000_000, "an event of {room} was forgotten");
            // Those that were given up come again when their time has come.
            there.clock.advance(10_000);
            there.rooms.work_inbox(room).await.expect("worked");
            tokio::task::yield_now().await;
        }
    }
    running.abort();
}

#[tokio::test]
async fn who_joins_needs_no_keys_of_servers_that_are_gone() {
    for answer in [KeyAnswer::NotNow, KeyAnswer::Never] {
        let [here, dead, there] = worlds(["here", "dead", "there"]).await;
        let (alice, carol, bob) = (here.user("alice"), dead.user("carol"), there.user("bob"));
        let room = here.public_room(&alice).await;
        dead.join_from(&here, &room, &carol).await;
        let said = dead.say(&carol, &room, "last words").await.expect("said");
        dead.deliver(&here, &room, &[&said]).await;
        keys_of(&dead, Some(answer));
        there.join_from(&here, &room, &bob).await;
        assert_eq!(there.membership(&room, &bob).await, Membership::Join);
        assert_eq!(there.membership(&room, &alice).await, Membership::Join);
        let said = here.say(&alice, &room, "welcome").await.expect("said");
        here.deliver(&there, &room, &[&said]).await;
        assert_eq!(there.status(&said).await, EventStatus::Accepted);
    }
}

#[tokio::test]
async fn events_of_a_server_whose_keys_are_not_had_stop_no_others() {
    let [here, dead, there] = worlds(["here", "dead", "there"]).await;
    let (alice, carol, bob) = (here.user("alice"), dead.user("carol"), there.user("bob"));
    let room = here.public_room(&alice).await;
    there.join_from(&here, &room, &bob).await;
    dead.join_from(&here, &room, &carol).await;
    let said = dead.say(&carol, &room, "between").await.expect("said");
    dead.deliver(&here, &room, &[&said]).await;
    let after = here.say(&alice, &room, "after").await.expect("said");
    keys_of(&dead, Some(KeyAnswer::NotNow));
    here.deliver(&there, &room, &[&after]).await;
    assert_eq!(there.status(&after).await, EventStatus::Accepted);

    // The event itself waits for the keys, for as long as they may be had.
    send(&here, &there, &room, &said).await;
    let progress = there.rooms.work_inbox(&room).await.expect("worked");
    assert_eq!((progress.done, progress.waiting), (0, 1));
    keys_of(&dead, Some(KeyAnswer::Never));
    there.clock.set(progress.next_ms.expect("due"));
    assert_eq!(there.rooms.work_inbox(&room).await.expect("worked").done, 1);
    assert_ne!(there.status(&said).await, EventStatus::Accepted);
}

#[tokio::test]
async fn a_large_state_is_asked_for_at_once() {
    let [here, there] = worlds(["here", "there"]).await;
    let (alice, bob) = (here.user("alice"), there.user("bob"));
    let room = here.public_room(&alice).await;
    there.join_from(&here, &room, &bob).await;
    for number in 0..150 {
        here.set(&alice, &room, ("org.example.place", &number.to_string()), json!({ "at": number }))
            .await
            .expect("set");
    }
    for number in 0..60 {
        here.say(&alice, &room, &number.to_string()).await.expect("said");
    }
    there.others.asked.lock().expect("not poisoned").clear();
    let last = here.say(&alice, &room, "last").await.expect("said");
    here.deliver(&there, &room, &[&last]).await;
    assert_eq!(there.status(&last).await, EventStatus::Accepted);
    assert_eq!(there.state(&room, "org.example.place", "149").await.expect("state")["at"], 149);
    let asked = there.others.asked.lock().expect("not poisoned").clone();
    let total: usize = asked.values().sum();
    assert!(asked["state"] == 1 && total < 10, "{asked:?}");
}

#[tokio::test]
async fn quarantine_is_looked_at_again_and_is_bounded() {
    let [here, there] = worlds(["here", "there"]).await;
    let (alice, bob) = (here.user("alice"), there.user("bob"));
    let room = here.room(&alice, Preset::PublicChat, &RoomVersionId::V12).await;
    there.join_from(&here, &room, &bob).await;
    let mut poison = Vec::new();
    for _ in 0..rooms::QUARANTINE_ORIGIN_EVENTS_MAX + 1 {
        here.say(&alice, &room, "lost").await.expect("said");
        poison.push(here.say(&alice, &room, "poison").await.expect("said"));
    }
    let down = |name: &World| here.others.down.lock().expect("not poisoned").insert(name.name.clone());
    down(&here);
    for event in &poison {
        send(&here, &there, &room, event).await;
    }
    while there.rooms.work_inbox(&room).await.expect("worked").waiting > 0 {
        there.clock.advance(700_000);
    }
    let kept = rooms::QUARANTINE_ORIGIN_EVENTS_MAX;
    // They come again one after another; this server is still not reached.
    there.clock.advance(rooms::QUARANTINE_MS);
    let progress = there.rooms.work_inbox(&room).await.expect("worked");
    assert_eq!((progress.done, progress.waiting), (kept, 0));
    // A restart forgets nothing of it.
    let there = World::on("there", there.others.clone(), there.clock.clone(), there.store.clone()).await;
    assert_eq!(there.rooms.work_inbox(&room).await.expect("worked").done, 0);
    here.others.down.lock().expect("not poisoned").clear();
    there.clock.advance(rooms::QUARANTINE_MS);
    assert_eq!(there.rooms.work_inbox(&room).await.expect("worked").done, kept);
    for event in &poison[1..] {
        assert_eq!(there.status(event).await, EventStatus::Accepted);
    }
    // There is none left.
    there.clock.advance(rooms::QUARANTINE_MS);
    assert_eq!(there.rooms.work_inbox(&room).await.expect("worked").done, 0);
}

#[tokio::test]
async fn who_refuses_in_many_words_stops_no_inbox() {
    let [here, there] = worlds(["here", "there"]).await;
    let (alice, bob) = (here.user("alice"), there.user("bob"));
    let room = here.public_room(&alice).await;
    there.join_from(&here, &room, &bob).await;
    let said = [here.say(&alice, &room, "lost").await, here.say(&alice, &room, "last").await];
    let [lost, last] = said.map(|said| said.expect("said"));
    let refused = [lost.clone(), last.clone()];
    here.others.hidden.lock().expect("not poisoned").extend(refused);
    send(&here, &there, &room, &last).await;
    while there.rooms.work_inbox(&room).await.expect("worked").waiting > 0 {
        there.clock.advance(700_000);
    }
    // It comes again.
    here.others.hidden.lock().expect("not poisoned").clear();
    there.clock.advance(rooms::QUARANTINE_MS);
    assert_eq!(there.rooms.work_inbox(&room).await.expect("worked").done, 1);
    assert_eq!(there.status(&last).await, EventStatus::Accepted);
}

#[tokio::test]
async fn what_a_key_signs_counts_while_it_is_valid() {
    for (version, counts) in [(RoomVersionId::V4, true), (RoomVersionId::V5, false), (RoomVersionId::V12, false)] {
        let [here, there] = worlds(["here", "there"]).await;
        let (alice, bob) = (here.user("alice"), there.user("bob"));
        let room = here.room(&alice, Preset::PublicChat, &version).await;
        there.join_from(&here, &room, &bob).await;
        let said = here.say(&alice, &room, "in time").await.expect("said");
        let key = here.rooms.signing_key();
        let public = Base64::new(key.public_key().to_vec());
        let published = PublishedKey { key: public, valid_until_ms: here.now_ms() };
        keys_of(&here, Some(KeyAnswer::Keys(BTreeMap::from([(key.id().to_owned(), published)]))));
        let late = here.say(&alice, &room, "too late").await.expect("said");
        here.deliver(&there, &room, &[&said, &late]).await;
        assert_eq!(there.status(&said).await, EventStatus::Accepted);
        assert_eq!(there.status(&late).await == EventStatus::Accepted, counts, "version {version}");
    }
}

#[tokio::test]
async fn who_is_not_in_a_room_does_not_learn_what_is_there() {
    let [here, there] = worlds(["here", "there"]).await;
    let alice = here.user("alice");
    let room = here.public_room(&alice).await;
    let said = here.say(&alice, &room, "hello").await.expect("said");
    let unknown = EventId::parse("$nobody-knows").expect("an id");
    for event in [&said, &unknown] {
        let answer = here.rooms.serve_event(&Asker::new(&there.name), event).await;
        assert!(matches!(answer, Err(RoomsError::EventNotFound)), "{answer:?}");
    }
}

#[tokio::test]
async fn what_is_known_is_not_taken_again() {
    let [here, there] = worlds(["here", "there"]).await;
    let (alice, bob) = (here.user("alice"), there.user("bob"));
    let room = here.public_room(&alice).await;
    there.join_from(&here, &room, &bob).await;
    let said = here.say(&alice, &room, "hello").await.expect("said");
    here.deliver(&there, &room, &[&said]).await;
    send(&here, &there, &room, &said).await;
    assert_eq!(there.rooms.work_inbox(&room).await.expect("worked").done, 0);
}

#[tokio::test]
async fn who_passes_events_on_takes_nothing_of_them_away() {
    let [here, third, there] = worlds(["here", "third", "there"]).await;
    let (alice, bob, carol) = (here.user("alice"), there.user("bob"), third.user("carol"));
    let room = here.public_room(&alice).await;
    there.join_from(&here, &room, &bob).await;
    third.join_from(&here, &room, &carol).await;
    let altered = async |event: &EventId| {
        let mut json: Value = serde_json::from_str(here.event(event).await.get()).expect("JSON");
        json["content"]["body"] = "other words".into();
        crate::world::raw(json)
    };
    let body = async |event: &EventId| {
        let event = there.rooms.event_by_id(&there.view().await, event).await.expect("a read").expect("an event");
        event.pdu.as_received().content_as::<Value>().expect("JSON")["body"].clone()
    };
    // Faster than the server that it is of.
    let said = here.say(&alice, &room, "true words").await.expect("said");
    let pdu = altered(&said).await;
    there.rooms.receive(&third.name, &room, &[pdu]).await.expect("received");
    there.rooms.work_inbox(&room).await.expect("worked");
    assert_eq!(body(&said).await, "true words");
    // If that one can't be asked, what signatures cover is all there is.
    let said = here.say(&alice, &room, "true words").await.expect("said");
    let pdu = altered(&said).await;
    here.others.down.lock().expect("not poisoned").insert(here.name.clone());
    there.rooms.receive(&third.name, &room, &[pdu]).await.expect("received");
    there.rooms.work_inbox(&room).await.expect("worked");
    assert_eq!(body(&said).await, Value::Null);
}

/// A server whose answers are full of lies spoils nothing but itself: nothing panics, nothing waits for ever, and the room goes on.
#[tokio::test]
async fn lies_of_one_server_do_not_stop_a_room() {
    for seed in testkit::seeds(12) {
        let [here, honest, there] = worlds(["here", "honest", "there"]).await;
        let (alice, bob, carol) = (here.user("alice"), there.user("bob"), honest.user("carol"));
        let room = honest.public_room(&carol).await;
        here.join_from(&honest, &room, &alice).await;
        there.join_from(&here, &room, &bob).await;
        let joined = there.rooms.current_event(&there.view().await, &room, "m.room.member", bob.as_str()).await;
        let joined = joined.expect("a read").expect("a member").pdu.owned_event_id();
        let random = SeededRandom::new(seed);
        here.others.liars.lock().expect("not poisoned").insert(here.name.clone(), SeededRandom::new(seed + 1));
        // What there hears, it hears of the liar, with gaps of all sizes.
        for _ in 0..4 {
            let mut last = None;
            for _ in 0..1 + random.below(70) {
                let said = honest.say(&carol, &room, "said").await.expect("said");
                let set = honest.set(&carol, &room, ("m.room.topic", ""), json!({ "topic": random.below(9) })).await;
                honest.deliver(&here, &room, &[&said, &set.expect("set")]).await;
                last = here.say(&alice, &room, "heard").await.ok().or(last);
            }
            send(&here, &there, &room, &last.expect("an event")).await;
            there.rooms.work_inbox(&room).await.expect("worked");
        }
        while there.rooms.work_inbox(&room).await.expect("worked").waiting > 0 {
            there.clock.advance(700_000);
        }
        read_back(&there, &room).await;
        // Those who don't lie understand each other.
        there.deliver(&honest, &room, &[&joined]).await;
        let topic = honest.set(&carol, &room, ("m.room.topic", ""), json!({ "topic": "last" })).await.expect("set");
        send(&honest, &there, &room, &topic).await;
        while there.rooms.work_inbox(&room).await.expect("worked").waiting > 0 {
            there.clock.advance(700_000);
        }
        assert_eq!(there.status(&topic).await, EventStatus::Accepted, "seed {seed}");
        assert_eq!(there.state(&room, "m.room.topic", "").await.expect("a topic")["topic"], "last", "seed {seed}");
    }
}
