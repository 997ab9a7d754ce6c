//! Events of other servers.

use std::sync::Arc;

use rooms::{EventStatus, Membership, Preset, RoomsError};
use ruma::RoomVersionId;
use serde_json::{Value, json, value::RawValue};
use testkit::ManualClock;

use crate::world::{Others, World};

pub async fn two() -> (World, World) {
    let (others, clock): (Arc<Others>, Arc<ManualClock>) = Default::default();
    let here = World::named("here", others.clone(), clock.clone()).await;
    let there = World::named("there", others, clock).await;
    (here, there)
}

/// A public room of both servers, with alice here and bob there.
pub async fn shared(here: &World, there: &World, version: &RoomVersionId) -> ruma::OwnedRoomId {
    let room = here.room(&here.user("alice"), Preset::PublicChat, version).await;
    there.join_from(here, &room, &there.user("bob")).await;
    room
}

#[tokio::test]
async fn a_join_over_federation_gives_both_the_same_state() {
    let (here, there) = two().await;
    for version in event::SUPPORTED_ROOM_VERSIONS {
        let room = shared(&here, &there, &version).await;
        for world in [&here, &there] {
            assert_eq!(world.membership(&room, &there.user("bob")).await, Membership::Join);
            assert_eq!(world.membership(&room, &here.user("alice")).await, Membership::Join);
            let servers = world.rooms.joined_servers(&world.view().await, &room).await.expect("a read");
            assert_eq!(servers, [(here.name.clone(), 1), (there.name.clone(), 1)]);
        }
        let row = there.rooms.membership(&there.view().await, &there.user("bob"), &room).await.expect("a read");
        assert_eq!(row.expect("a row").membership, Membership::Join);
    }
}

#[tokio::test]
async fn events_go_both_ways_and_gaps_are_filled() {
    let (here, there) = two().await;
    let room = shared(&here, &there, &RoomVersionId::V12).await;
    let (alice, bob) = (here.user("alice"), there.user("bob"));
    let lost = here.say(&alice, &room, "one").await.expect("sent");
    let topic = here.set(&alice, &room, ("m.room.topic", ""), json!({ "topic": "two" })).await.expect("set");
    let third = here.say(&alice, &room, "three").await.expect("sent");
    here.deliver(&there, &room, &[&third]).await;
    for id in [&lost, &topic, &third] {
        assert_eq!(there.status(id).await, EventStatus::Accepted);
    }
    assert_eq!(there.state(&room, "m.room.topic", "").await.expect("a topic")["topic"], "two");
    let answer = there.say(&bob, &room, "four").await.expect("sent");
    there.deliver(&here, &room, &[&answer, &answer]).await;
    assert_eq!(here.status(&answer).await, EventStatus::Accepted);
    let head = |world: &World| {
        let (rooms, store, room) = (world.rooms.clone(), world.store.clone(), room.clone());
        async move {
            let view = store.view().await.expect("a view");
            let head = rooms.head(&view, &room).await.expect("a read").expect("a head");
            head.extremities.into_iter().map(|extremity| extremity.event_id).collect::<Vec<_>>()
        }
    };
    assert_eq!(head(&here).await, std::slice::from_ref(&answer));
    assert_eq!(head(&there).await, [answer]);
}

#[tokio::test]
async fn a_gap_too_long_to_fill_is_replaced_by_a_state() {
    let (here, there) = two().await;
    let room = shared(&here, &there, &RoomVersionId::V11).await;
    let alice = here.user("alice");
    here.set(&alice, &room, ("m.room.topic", ""), json!({ "topic": "early" })).await.expect("set");
    for number in 0..120 {
        here.say(&alice, &room, &number.to_string()).await.expect("sent");
    }
    let last = here.say(&alice, &room, "last").await.expect("sent");
    here.deliver(&there, &room, &[&last]).await;
    assert_eq!(there.status(&last).await, EventStatus::Accepted);
    assert_eq!(there.state(&room, "m.room.topic", "").await.expect("a topic")["topic"], "early");
}

#[tokio::test]
async fn forged_events_are_dropped_or_redacted() {
    let (here, there) = two().await;
    let room = shared(&here, &there, &RoomVersionId::V12).await;
    let id = here.say(&here.user("alice"), &room, "true words").await.expect("sent");
    let mut json: Value = serde_json::from_str(here.event(&id).await.get()).expect("JSON");
    json["content"]["body"] = "other words".into();
    let changed: Box<RawValue> = serde_json::value::to_raw_value(&json).expect("JSON");
    let answers = there.rooms.receive(&here.name, &room, &[changed]).await.expect("received");
    answers.into_iter().for_each(|answer| answer.result.expect("taken"));
    there.rooms.work_inbox(&room).await.expect("worked");
    let event = there.rooms.event_by_id(&there.view().await, &id).await.expect("a read").expect("the redacted event");
    assert_eq!(event.pdu.as_received().content().get(), "{}");

    json["depth"] = 999.into();
    let forged: Box<RawValue> = serde_json::value::to_raw_value(&json).expect("JSON");
    let answers = there.rooms.receive(&here.name, &room, &[forged]).await.expect("received");
    let id = answers[0].event_id.clone().expect("an id");
    there.rooms.work_inbox(&room).await.expect("worked");
    assert_eq!(there.status(&id).await, EventStatus::Missing);
}

#[tokio::test]
async fn events_from_before_a_ban_fail_softly() {
    let (here, there) = two().await;
    let room = shared(&here, &there, &RoomVersionId::V12).await;
    let (alice, bob) = (here.user("alice"), there.user("bob"));
    let ban = here.rooms.ban(&alice, &room, &bob, None).await.expect("banned").event_id;
    // The other server hasn't heard of it.
    let evading = there.say(&bob, &room, "still here").await.expect("sent");
    there.deliver(&here, &room, &[&evading]).await;
    assert_eq!(here.status(&evading).await, EventStatus::SoftFailed);
    let next = here.say(&alice, &room, "gone").await.expect("sent");
    let json: Value = serde_json::from_str(here.event(&next).await.get()).expect("JSON");
    assert!(!json["prev_events"].to_string().contains(evading.as_str()));
    here.deliver(&there, &room, &[&ban]).await;
    assert_eq!(there.membership(&room, &bob).await, Membership::Ban);
    let refused = there.say(&bob, &room, "still here?").await;
    assert!(matches!(refused, Err(RoomsError::Forbidden(_))), "{refused:?}");
}

#[tokio::test]
async fn forks_are_resolved_alike_on_both_sides() {
    let (here, there) = two().await;
    for version in event::SUPPORTED_ROOM_VERSIONS {
        let room = shared(&here, &there, &version).await;
        let (alice, bob) = (here.user("alice"), there.user("bob"));
        let mut levels = here.state(&room, "m.room.power_levels", "").await.expect("levels");
        levels["users"][bob.as_str()] = 50.into();
        let powers = here.set(&alice, &room, ("m.room.power_levels", ""), levels).await.expect("set");
        here.deliver(&there, &room, &[&powers]).await;
        let one = here.set(&alice, &room, ("m.room.topic", ""), json!({ "topic": "one" })).await.expect("set");
        let two = there.set(&bob, &room, ("m.room.topic", ""), json!({ "topic": "two" })).await.expect("set");
        here.deliver(&there, &room, &[&one]).await;
        there.deliver(&here, &room, &[&two]).await;
        for (world, event) in [(&there, &one), (&here, &two), (&there, &powers)] {
            assert_eq!(world.status(event).await, EventStatus::Accepted, "version {version}");
        }
        let topics = (here.state(&room, "m.room.topic", "").await, there.state(&room, "m.room.topic", "").await);
        assert_eq!(topics.0, topics.1, "version {version}");
        let joining = here.say(&alice, &room, "together").await.expect("sent");
        here.deliver(&there, &room, &[&joining]).await;
        let head = there.rooms.head(&there.view().await, &room).await.expect("a read").expect("a head");
        assert_eq!(head.extremities.len(), 1);
        assert_eq!(there.state(&room, "m.room.topic", "").await, topics.0);
    }
}

#[tokio::test]
async fn what_waits_is_tried_again_and_ends_in_quarantine() {
    let (here, there) = two().await;
    let room = shared(&here, &there, &RoomVersionId::V12).await;
    let alice = here.user("alice");
    here.say(&alice, &room, "lost").await.expect("sent");
    let waiting = here.say(&alice, &room, "waiting").await.expect("sent");
    let pdu = here.event(&waiting).await;
    here.others.down.lock().expect("not poisoned").insert(here.name.clone());
    there.rooms.receive(&here.name, &room, std::slice::from_ref(&pdu)).await.expect("received");
    let progress = there.rooms.work_inbox(&room).await.expect("worked");
    assert_eq!((progress.done, progress.waiting), (0, 1));
    // Nothing happens before it is due.
    assert_eq!(there.rooms.work_inbox(&room).await.expect("worked").next_ms, progress.next_ms);
    here.others.down.lock().expect("not poisoned").clear();
    there.clock.set(progress.next_ms.expect("due"));
    assert_eq!(there.rooms.work_inbox(&room).await.expect("worked").done, 1);
    assert_eq!(there.status(&waiting).await, EventStatus::Accepted);

    here.say(&alice, &room, "lost").await.expect("sent");
    let poison = here.say(&alice, &room, "poison").await.expect("sent");
    let pdu = here.event(&poison).await;
    here.others.down.lock().expect("not poisoned").insert(here.name.clone());
    there.rooms.receive(&here.name, &room, &[pdu]).await.expect("received");
    for _ in 1..rooms::INBOX_ATTEMPTS_MAX {
        let progress = there.rooms.work_inbox(&room).await.expect("worked");
        there.clock.set(progress.next_ms.expect("due"));
    }
    assert_eq!(there.rooms.work_inbox(&room).await.expect("worked").done, 1);
    assert_eq!(there.rooms.work_inbox(&room).await.expect("worked"), rooms::InboxProgress::default());
    assert_ne!(there.status(&poison).await, EventStatus::Accepted);
}

#[tokio::test]
async fn servers_that_the_room_forbids_are_not_heard() {
    let (here, there) = two().await;
    let room = shared(&here, &there, &RoomVersionId::V12).await;
    let acl = json!({ "allow": ["*"], "deny": ["there"] });
    here.set(&here.user("alice"), &room, ("m.room.server_acl", ""), acl).await.expect("set");
    let event = there.say(&there.user("bob"), &room, "hello").await.expect("sent");
    let pdu = there.event(&event).await;
    let answers = here.rooms.receive(&there.name, &room, &[pdu]).await.expect("received");
    assert!(matches!(answers[0].result, Err(RoomsError::Forbidden(_))));
    let refused = here.rooms.serve_event(&rooms::Asker::new(&there.name), &event).await;
    assert!(refused.is_err());
}

#[tokio::test]
async fn an_invite_crosses_servers_with_both_signatures() {
    let (here, there) = two().await;
    let (alice, bob) = (here.user("alice"), there.user("bob"));
    let room = here.room(&alice, Preset::PrivateChat, &RoomVersionId::V12).await;
    here.set(&alice, &room, ("m.room.name", ""), json!({ "name": "Reef" })).await.expect("named");
    let sent = here.rooms.invite(&alice, &room, &bob, None).await.expect("invited");
    assert_eq!(here.membership(&room, &bob).await, Membership::Invite);
    let json: Value = serde_json::from_str(here.event(&sent.event_id).await.get()).expect("JSON");
    assert!(json["signatures"]["here"].is_object() && json["signatures"]["there"].is_object());

    let view = there.view().await;
    let row = there.rooms.membership(&view, &bob, &room).await.expect("a read").expect("a row");
    assert_eq!((row.membership, row.event), (Membership::Invite, None));
    let told = there.rooms.stripped_state(&view, &bob, &room).await.expect("a read").expect("stripped state");
    let told: Vec<Value> = told.iter().map(|event| serde_json::from_str(event.get()).expect("JSON")).collect();
    assert!(told.iter().any(|event| event["content"]["name"] == "Reef"));
    assert_eq!(told.last().expect("the invite")["state_key"], bob.as_str());

    there.join_from(&here, &room, &bob).await;
    assert_eq!(there.membership(&room, &bob).await, Membership::Join);
    assert!(there.rooms.stripped_state(&there.view().await, &bob, &room).await.expect("a read").is_none());

    // One that is declined. It goes the same way if it is sent as any other state; and nobody is told what was redacted.
    let carol = there.user("carol");
    let other = here.room(&alice, Preset::PrivateChat, &RoomVersionId::V10).await;
    let secret = here.set(&alice, &other, ("m.room.topic", ""), json!({ "topic": "Secret" })).await.expect("set");
    here.rooms.redact(&rooms::Sender::user(&alice), &other, &secret, None, &|_| ()).await.expect("redacted");
    let invite = json!({ "membership": "invite" });
    here.set(&alice, &other, ("m.room.member", carol.as_str()), invite).await.expect("invited");
    let told =
        there.rooms.stripped_state(&there.view().await, &carol, &other).await.expect("a read").expect("stripped state");
    assert!(told.iter().any(|event| event.get().contains("m.room.topic")));
    assert!(!told.iter().any(|event| event.get().contains("Secret")));
    there.rooms.leave(&carol, &other, None).await.expect("declined");
    let row = there.rooms.membership(&there.view().await, &carol, &other).await.expect("a read").expect("a row");
    assert_eq!(row.membership, Membership::Leave);
}

#[tokio::test]
async fn a_policy_server_decides_what_is_said() {
    let (here, there) = two().await;
    let room = shared(&here, &there, &RoomVersionId::V12).await;
    let alice = here.user("alice");
    let key = event::SigningKey::from_seed(&[7; 32], "policy_server").expect("a key");
    let content = json!({ "via": "there", "public_keys": { "ed25519": key.public_key_base64() } });
    let policy = here.set(&alice, &room, ("m.room.policy", ""), content).await.expect("set");
    here.deliver(&there, &room, &[&policy]).await;

    let refused = here.say(&alice, &room, "spam").await;
    assert!(matches!(refused, Err(RoomsError::Remote(_))), "{refused:?}");
    *here.others.policy.lock().expect("not poisoned") = Some(key);
    let sender = rooms::Sender { user: &alice, device: Some(ruma::device_id!("PHONE")), txn_id: Some("1") };
    let send = || {
        let content = crate::world::raw(json!({ "body": "ham" }));
        here.rooms.send(&sender, &room, "m.room.message", content, rooms::SendOptions::default())
    };
    let sent = send().await.expect("sent");
    assert_eq!(send().await.expect("sent").event_id, sent.event_id);
    let json: Value = serde_json::from_str(here.event(&sent.event_id).await.get()).expect("JSON");
    assert!(json["signatures"]["there"]["ed25519:policy_server"].is_string());
    here.deliver(&there, &room, &[&sent.event_id]).await;
    assert_eq!(there.status(&sent.event_id).await, EventStatus::Accepted);

    // An event without the signature is not shown.
    let unsigned = here
        .forge(&room, &alice, ("m.room.message", None), json!({ "body": "spam" }), (&sent.event_id, &sent.event_id))
        .await
        .expect("an event");
    let pdus = [unsigned.json().to_owned()];
    there.rooms.receive(&here.name, &room, &pdus).await.expect("received");
    there.rooms.work_inbox(&room).await.expect("worked");
    assert_eq!(there.status(unsigned.event_id()).await, EventStatus::SoftFailed);
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_restart() {
    let (here, there) = two().await;
    let room = shared(&here, &there, &RoomVersionId::V12).await;
    let event = here.say(&here.user("alice"), &room, "hello").await.expect("sent");
    let pdu = here.event(&event).await;
    there.rooms.receive(&here.name, &room, std::slice::from_ref(&pdu)).await.expect("received");
    assert_eq!(there.status(&event).await, EventStatus::Missing);
    let there = World::on("there", there.others.clone(), there.clock.clone(), there.store.clone()).await;
    there.rooms.work_inbox(&room).await.expect("worked");
    assert_eq!(there.status(&event).await, EventStatus::Accepted);
}

#[tokio::test]
async fn one_room_or_server_cannot_fill_the_inbox() {
    let (here, there) = two().await;
    let room = shared(&here, &there, &RoomVersionId::V12).await;
    let event = here.say(&here.user("alice"), &room, "hello").await.expect("sent");
    let pdus = vec![here.event(&event).await; rooms::TRANSACTION_EVENTS_MAX];
    for _ in 0..rooms::INBOX_ORIGIN_EVENTS_MAX / rooms::TRANSACTION_EVENTS_MAX {
        let answers = there.rooms.receive(&here.name, &room, &pdus).await.expect("received");
        assert!(answers.iter().all(|answer| answer.result.is_ok()));
    }
    // Not one of them is answered: an answer is final, and the sender is to come again.
    let refused = there.rooms.receive(&here.name, &room, &pdus).await;
    assert!(matches!(refused, Err(RoomsError::LimitExceeded(_))), "{refused:?}");
    let progress = there.rooms.work_inbox(&room).await.expect("worked");
    assert_eq!(progress.done, rooms::INBOX_ORIGIN_EVENTS_MAX);
    let answers = there.rooms.receive(&here.name, &room, &pdus).await.expect("received");
    assert!(answers[0].result.is_ok());
}

/// An event of another server in which somebody on the way, or that server, put `bytes` of what no signature covers.
async fn bloated(world: &World, event: &ruma::EventId, bytes: usize) -> Box<RawValue> {
    let mut json: Value = serde_json::from_str(world.event(event).await.get()).expect("JSON");
    json["unsigned"] = json!({ "age": "x".repeat(bytes) });
    crate::world::raw(json)
}

#[tokio::test]
async fn what_no_signature_covers_is_not_kept_and_stops_no_start() {
    let (here, there) = two().await;
    let room = shared(&here, &there, &RoomVersionId::V12).await;
    let event = here.say(&here.user("alice"), &room, "hello").await.expect("sent");
    let pdus = vec![bloated(&here, &event, 900_000).await; 40];
    for _ in 0..2 {
        let answers = there.rooms.receive(&here.name, &room, &pdus).await.expect("received");
        assert!(answers.iter().all(|answer| answer.result.is_ok()));
    }
    let there = World::on("there", there.others.clone(), there.clock.clone(), there.store.clone()).await;
    assert_eq!(there.rooms.work_inbox(&room).await.expect("worked").done, 80);
    assert_eq!(there.status(&event).await, EventStatus::Accepted);
}

#[tokio::test]
async fn a_transaction_of_the_largest_events_is_taken_whole() {
    let (here, there) = two().await;
    let room = shared(&here, &there, &RoomVersionId::V12).await;
    let mut pdus = Vec::new();
    let mut last = None;
    for _ in 0..rooms::TRANSACTION_EVENTS_MAX {
        let event = here.say(&here.user("alice"), &room, &"x".repeat(60_000)).await.expect("sent");
        pdus.push(here.event(&event).await);
        last = Some(event);
    }
    let answers = there.rooms.receive(&here.name, &room, &pdus).await.expect("received");
    assert!(answers.iter().all(|answer| answer.result.is_ok()));
    assert_eq!(there.rooms.work_inbox(&room).await.expect("worked").done, pdus.len());
    assert_eq!(there.status(&last.expect("an event")).await, EventStatus::Accepted);
    pdus.push(pdus[0].clone());
    let refused = there.rooms.receive(&here.name, &room, &pdus).await;
    assert!(matches!(refused, Err(RoomsError::TooLarge(_))), "{refused:?}");
}

#[tokio::test]
async fn what_this_server_signed_with_an_old_key_is_still_its_own() {
    let (here, there) = two().await;
    let room = shared(&here, &there, &RoomVersionId::V12).await;
    let alice = here.user("alice");
    let last = here.say(&alice, &room, "first").await.expect("sent");
    // What this server once said and has lost, as with a backup that was restored.
    let lost = here.forge(&room, &alice, ("m.room.message", None), json!({ "body": "lost" }), (&last, &last)).await;
    let lost = lost.expect("an event");
    let old = here.rooms.signing_key();
    here.clock.advance(1_000);
    let new = here.rooms.renew_signing_key().await.expect("renewed");
    assert_ne!(old.id(), new.id());
    assert_eq!(here.rooms.signing_key().id(), new.id());
    there.rooms.receive(&here.name, &room, &[lost.json().to_owned()]).await.expect("received");
    let answers = here.rooms.receive(&there.name, &room, &[lost.json().to_owned()]).await.expect("received");
    assert!(answers[0].result.is_ok());
    here.rooms.work_inbox(&room).await.expect("worked");
    assert_eq!(here.status(lost.event_id()).await, EventStatus::Accepted);

    let listed = here.rooms.old_signing_keys();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].id, old.id());
    assert_eq!(listed[0].public_key.as_bytes(), old.public_key());
    assert!(listed[0].expired_ms >= here.now_ms());
    // So it is after a restart.
    let again = World::on("here", here.others.clone(), here.clock.clone(), here.store.clone()).await;
    assert_eq!(again.rooms.old_signing_keys(), listed);
    assert_eq!(again.rooms.signing_key().id(), new.id());
}
