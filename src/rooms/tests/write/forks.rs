//! Forks: many extremities, large resolutions.

use std::{sync::Arc, time::Duration};

use rooms::{Asker, EXTREMITIES_MAX, EventStatus, Membership, Preset, RoomHead, TABLES};
use ruma::{EventId, OwnedEventId, OwnedRoomId, RoomId, RoomVersionId, UserId};
use serde_json::json;
use store::{MemoryDisk, Options, Store};
use testkit::ManualClock;

use crate::world::{Others, World};

/// The greatest depth that an event can claim.
const DEPTH_MAX: u64 = (1 << 53) - 1;

async fn head(world: &World, room: &RoomId) -> RoomHead {
    world.rooms.head(&world.view().await, room).await.expect("a read").expect("a head")
}

async fn topic(world: &World, room: &RoomId) -> serde_json::Value {
    world.state(room, "m.room.topic", "").await.expect("a topic")["topic"].clone()
}

async fn set_topic(world: &World, user: &UserId, room: &RoomId, topic: &str) -> OwnedEventId {
    world.set(user, room, ("m.room.topic", ""), json!({ "topic": topic })).await.expect("set")
}

async fn give(from: &World, to: &World, room: &RoomId, event: &event::Pdu) {
    let answers = to.rooms.receive(&from.name, room, &[event.json().to_owned()]).await.expect("received");
    assert!(answers.iter().all(|answer| answer.result.is_ok()));
    to.rooms.work_inbox(room).await.expect("worked");
}

/// A public room with alice here, bob there, and carol elsewhere.
async fn room_of_three(version: &RoomVersionId) -> ([World; 3], OwnedRoomId) {
    let (others, clock): (Arc<Others>, Arc<ManualClock>) = Default::default();
    let named = |name| World::named(name, others.clone(), clock.clone());
    let worlds = [named("here").await, named("there").await, named("elsewhere").await];
    let room = worlds[0].room(&worlds[0].user("alice"), Preset::PublicChat, version).await;
    worlds[1].join_from(&worlds[0], &room, &worlds[1].user("bob")).await;
    worlds[2].join_from(&worlds[0], &room, &worlds[2].user("carol")).await;
    (worlds, room)
}

#[tokio::test]
async fn a_flood_of_forks_that_claim_to_be_deep_changes_nothing() {
    for (version, is_state) in [(RoomVersionId::V11, false), (RoomVersionId::V12, true)] {
        let ([here, there, elsewhere], room) = room_of_three(&version).await;
        let (alice, bob) = (here.user("alice"), there.user("bob"));
        let old = set_topic(&here, &alice, &room, "old").await;
        here.deliver(&there, &room, &[&old]).await;
        here.deliver(&elsewhere, &room, &[&old]).await;
        let new = set_topic(&here, &alice, &room, "new").await;
        here.deliver(&elsewhere, &room, &[&new]).await;
        for number in 0..100 {
            let (key, content) = if is_state {
                let content = json!({ "membership": "join", "displayname": number.to_string() });
                (("m.room.member", Some(bob.to_string())), content)
            } else {
                (("m.room.message", None), json!({ "body": number }))
            };
            let event = there.forge_at_depth(&room, &bob, key, content, (&old, &old), Some(DEPTH_MAX)).await;
            give(&there, &here, &room, &event.expect("an event")).await;
            assert_eq!(topic(&here, &room).await, "new", "after {number}");
        }
        // One of somebody honest, who hadn't heard of anything, comes when there is no place left.
        let carol = elsewhere.user("carol");
        let late =
            elsewhere.forge(&room, &carol, ("m.room.message", None), json!({ "body": "hm" }), (&new, &new)).await;
        let late = late.expect("an event");
        give(&elsewhere, &here, &room, &late).await;
        let sidelined = head(&here, &room).await.sidelined.expect("sidelined extremities");
        assert!(sidelined.count >= 100 - EXTREMITIES_MAX as u64);
        assert!(sidelined.roots.len() <= 41, "{} roots", sidelined.roots.len());

        // What we send names as many as it may, those of honest servers before the flood is over.
        let mut sent = 0;
        let mut named = None;
        while head(&here, &room).await.sidelined.is_some() {
            let event = here.say(&alice, &room, "still here").await.expect("sent");
            sent += 1;
            let event = here.rooms.event_by_id(&here.view().await, &event).await.expect("a read").expect("an event");
            if event.pdu.prev_events().any(|id| id == late.event_id()) {
                named = Some(sent);
            }
            assert_eq!(topic(&here, &room).await, "new");
            assert!(sent < 10, "extremities don't get fewer");
        }
        assert!(named.is_some_and(|named| named <= 2), "named after {named:?} of {sent}");
        here.say(&alice, &room, "alone").await.expect("sent");
        let last = here.say(&alice, &room, "alone").await.expect("sent");
        let after = head(&here, &room).await;
        assert_eq!(after.extremities.iter().map(|extremity| &extremity.event_id).collect::<Vec<_>>(), [&last]);
        assert_eq!(topic(&here, &room).await, "new");
        // Others follow.
        here.deliver(&elsewhere, &room, &[&last]).await;
        assert_eq!(elsewhere.status(&last).await, EventStatus::Accepted);
        assert_eq!(topic(&elsewhere, &room).await, "new");
    }
}

#[tokio::test]
async fn an_event_that_follows_sidelined_ones_takes_their_place() {
    let ([here, there, _], room) = room_of_three(&RoomVersionId::V12).await;
    let bob = there.user("bob");
    let old = here.say(&here.user("alice"), &room, "old").await.expect("sent");
    here.deliver(&there, &room, &[&old]).await;
    let message = ("m.room.message", None::<String>);
    let mut last = None;
    for number in 0..EXTREMITIES_MAX + 5 {
        let content = json!({ "body": number });
        let event = there.forge(&room, &bob, message.clone(), content, (&old, &old)).await.expect("an event");
        give(&there, &here, &room, &event).await;
        // The forging server knows its own events as well.
        give(&there, &there, &room, &event).await;
        last = Some(event);
    }
    assert_eq!(head(&here, &room).await.sidelined.map(|sidelined| sidelined.count), Some(5));
    let last = last.expect("an event");
    let next = (last.event_id(), last.event_id());
    let event = there.forge(&room, &bob, message, json!({ "body": "next" }), next).await.expect("an event");
    give(&there, &here, &room, &event).await;
    assert_eq!(head(&here, &room).await.sidelined.map(|sidelined| sidelined.count), Some(5));
}

#[tokio::test]
async fn a_membership_that_authorises_others_comes_back_though_no_fork_has_it() {
    for version in [RoomVersionId::V6, RoomVersionId::V11, RoomVersionId::V12] {
        let ([here, there, _], room) = room_of_three(&version).await;
        let (alice, bob, dora) = (here.user("alice"), there.user("bob"), there.user("dora"));
        let rule = |rule: &str| json!({ "join_rule": rule });
        let mut levels = here.state(&room, "m.room.power_levels", "").await.expect("levels");
        levels["state_default"] = 0.into();
        let old = here.set(&alice, &room, ("m.room.power_levels", ""), levels).await.expect("set");
        here.deliver(&there, &room, &[&old]).await;
        // While here closes the room, dora comes in there, says what it is about, and bob goes on from that.
        let closed = here.set(&alice, &room, ("m.room.join_rules", ""), rule("invite")).await.expect("set");
        let mut last = old;
        for (sender, event_type, state_key, content) in [
            (&dora, "m.room.member", Some(dora.to_string()), json!({ "membership": "join" })),
            (&dora, "m.room.topic", Some(String::new()), json!({ "topic": "dora's" })),
            (&bob, "m.room.message", None, json!({ "body": "hm" })),
        ] {
            let key = (event_type, state_key);
            let event = there.forge(&room, sender, key, content, (&last, &last)).await.expect("an event");
            give(&there, &there, &room, &event).await;
            give(&there, &here, &room, &event).await;
            last = event.event_id().to_owned();
        }
        assert_eq!(topic(&here, &room).await, "dora's", "version {version}");
        assert_eq!(here.membership(&room, &dora).await, Membership::Leave, "version {version}");
        // Of two forks of the open room, neither of which has dora in it, one has her topic.
        let open = here.set(&alice, &room, ("m.room.join_rules", ""), rule("public")).await.expect("set");
        here.deliver(&there, &room, &[&closed, &open]).await;
        let key = ("x.other", Some(String::new()));
        let event = there.forge(&room, &bob, key, json!({}), (&open, &open)).await.expect("an event");
        set_topic(&here, &alice, &room, "alice's").await;
        give(&there, &here, &room, &event).await;
        assert_eq!(topic(&here, &room).await, "alice's", "version {version}");
        assert_eq!(here.membership(&room, &dora).await, Membership::Join, "version {version}");
    }
}

#[tokio::test]
async fn sends_do_not_wait_for_a_resolution() {
    let ([here, there, _], room) = room_of_three(&RoomVersionId::V12).await;
    let (alice, bob) = (here.user("alice"), there.user("bob"));
    let mut levels = here.state(&room, "m.room.power_levels", "").await.expect("levels");
    levels["users"][bob.as_str()] = 50.into();
    let levels = here.set(&alice, &room, ("m.room.power_levels", ""), levels).await.expect("set");
    here.deliver(&there, &room, &[&levels]).await;
    let fork = set_topic(&here, &alice, &room, "fork").await;
    for number in 0..210 {
        let content = json!({ "number": number });
        there.set(&bob, &room, ("x.numbered", &number.to_string()), content).await.expect("set");
    }
    // All that may compute at a time are at it, and don't end.
    let shares = [there.cpu.share().await, there.cpu.share().await];
    let pdu = here.event(&fork).await;
    there.rooms.receive(&here.name, &room, &[pdu]).await.expect("received");
    let mut working = Box::pin(there.rooms.work_inbox(&room));
    for text in ["one", "two"] {
        // So that a send which waits fails instead of waiting for ever.
        let saying = tokio::time::timeout(Duration::from_secs(60), there.say(&bob, &room, text));
        tokio::select! {
            biased;
            worked = &mut working => panic!("resolved by nobody: {worked:?}"),
            said = saying => said.expect("a send that doesn't wait").expect("sent"),
        };
    }
    assert_eq!(there.status(&fork).await, EventStatus::Missing);
    drop(shares);
    assert_eq!(working.await.expect("worked").done, 1);
    assert_eq!(there.status(&fork).await, EventStatus::Accepted);
    assert_eq!(topic(&there, &room).await, "fork");
}

#[tokio::test]
async fn thousands_of_member_changes_at_once_go_through() {
    const BANNED: usize = 1_500;
    let ([here, there, _], room) = room_of_three(&RoomVersionId::V12).await;
    let (alice, bob) = (here.user("alice"), there.user("bob"));
    // Long names of the other server's users, so that what is to be written about them is much.
    let banned = |number: usize| there.user(&format!("{number}{}", "0".repeat(200)));
    let mut last = None;
    for number in 0..BANNED {
        let target = banned(number);
        let content = json!({ "membership": "ban" });
        last = Some(here.set(&alice, &room, ("m.room.member", target.as_str()), content).await.expect("banned"));
    }
    let last = last.expect("an event");
    let mine = set_topic(&here, &alice, &room, "mine").await;
    there.say(&bob, &room, "meanwhile").await.expect("said");
    // The gap is too long for the events in it: the other server is told the state.
    here.deliver(&there, &room, &[&last, &mine]).await;
    for event in [&last, &mine] {
        assert_eq!(there.status(event).await, EventStatus::Accepted);
    }
    let after = head(&there, &room).await;
    assert_eq!(after.root, after.resolved);
    for number in [0, 1, BANNED / 2, BANNED - 1] {
        let row = there.rooms.membership(&there.view().await, &banned(number), &room).await.expect("a read");
        assert_eq!(row.expect("a row").membership, rooms::Membership::Ban);
    }
    let view = there.view().await;
    let log = there.rooms.membership_log(&view, &banned(7), store::Position::ZERO, view.position()).await;
    assert_eq!(log.expect("a read").len(), 1);
    // So it is for who comes in.
    let late = World::named("late", here.others.clone(), here.clock.clone()).await;
    late.join_from(&here, &room, &late.user("eve")).await;
    for world in [&late, &here] {
        let after = head(world, &room).await;
        assert_eq!(after.root, after.resolved);
        let members = world.rooms.joined_members(&world.view().await, &room).await.expect("a read");
        assert_eq!(after.joined_count, members.len() as u64);
    }
}

/// A room whose state takes several batches to write for whoever enters it.
async fn large_room(here: &World) -> OwnedRoomId {
    let alice = here.user("alice");
    let room = here.room(&alice, Preset::PublicChat, &RoomVersionId::V12).await;
    for number in 0..1_700 {
        let target = here.user(&format!("banned{number}"));
        let content = json!({ "membership": "ban" });
        here.set(&alice, &room, ("m.room.member", target.as_str()), content).await.expect("banned");
    }
    room
}

/// Whether the state of a room is all that it should be.
async fn is_whole(world: &World, room: &RoomId) -> bool {
    let head = head(world, room).await;
    let state = world.rooms.state(&world.view().await, room, head.root).events().await.expect("a state");
    head.root == head.resolved && state.len() > 1_700
}

async fn open(disk: &MemoryDisk) -> Store {
    Store::open_memory(disk, &Options::default(), &[TABLES]).await.expect("a store")
}

#[tokio::test]
async fn a_great_change_that_a_crash_broke_off_is_finished_by_the_next_start() {
    let (others, clock): (Arc<Others>, Arc<ManualClock>) = Default::default();
    let here = World::named("here", others.clone(), clock.clone()).await;
    let room = large_room(&here).await;
    let disk = MemoryDisk::new();
    let late = World::on("late", others.clone(), clock.clone(), open(&disk).await).await;
    late.join_from(&here, &room, &late.user("eve")).await;
    assert!(is_whole(&late, &room).await);
    // The first batch only is waited for until it is on the disk.
    disk.lose_unsynced();
    let store = open(&disk).await;
    let before = store.published();
    let late = World::on("late", others, clock, store).await;
    assert!(late.store.published() > before, "nothing was left to do");
    assert!(is_whole(&late, &room).await);
    let members = late.rooms.joined_members(&late.view().await, &room).await.expect("a read");
    assert_eq!(head(&late, &room).await.joined_count, members.len() as u64);
}

#[tokio::test]
async fn a_great_change_goes_on_though_who_waits_for_it_goes_away() {
    let (others, clock): (Arc<Others>, Arc<ManualClock>) = Default::default();
    let here = World::named("here", others.clone(), clock.clone()).await;
    let room = large_room(&here).await;
    let late = World::named("late", others, clock).await;
    let is_in = async || late.rooms.head(&late.view().await, &room).await.expect("a read").is_some();
    let eve = late.user("eve");
    let mut joining = Box::pin(late.join_from(&here, &room, &eve));
    while !is_in().await {
        tokio::select! {
            biased;
            () = &mut joining => break,
            () = std::future::ready(()) => {}
        }
        tokio::task::yield_now().await;
    }
    drop(joining);
    // Each room that is made gives it a turn; what it does in one is the scheduler's affair.
    let mut turns = 0;
    while !is_whole(&late, &room).await {
        turns += 1;
        assert!(turns < 1_000, "nobody goes on");
        late.public_room(&eve).await;
    }
}

#[tokio::test]
async fn a_state_that_is_only_told_takes_nobodys_place() {
    let ([here, there, _], room) = room_of_three(&RoomVersionId::V12).await;
    let (alice, bob) = (here.user("alice"), there.user("bob"));
    set_topic(&here, &alice, &room, "old").await;
    let new = set_topic(&here, &alice, &room, "new").await;
    here.deliver(&there, &room, &[&new]).await;
    // An event that follows what everybody has, and another that there never was; the state before it is that of old times.
    let key = ("m.room.message", None);
    let lie = there.forge(&room, &bob, key, json!({ "body": "hm" }), (&new, &new)).await.expect("an event");
    let nowhere = ruma::owned_event_id!("$nowhereAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
    let lie = placed_after(&lie, &there, vec![new.clone(), nowhere]);
    let told = there.rooms.serve_state_ids(&Asker::new(&here.name), &room, &new).await.expect("a state");
    here.others.told.lock().expect("not poisoned").insert(lie.event_id().to_owned(), told);
    give(&there, &here, &room, &lie).await;
    assert_eq!(here.status(lie.event_id()).await, EventStatus::Accepted);
    assert_eq!(topic(&here, &room).await, "new");
    let after = head(&here, &room).await;
    assert!(after.extremities.iter().any(|extremity| extremity.event_id == new));
    here.say(&alice, &room, "and on").await.expect("sent");
    assert_eq!(topic(&here, &room).await, "new");
}

/// Like `pattern`, by the same sender, but after other events.
fn placed_after(pattern: &event::Pdu, by: &World, prev: Vec<OwnedEventId>) -> event::Pdu {
    let mut event = event::PduBuilder::new(
        pattern.sender().to_owned(),
        pattern.event_type().to_owned(),
        pattern.content().to_owned(),
    );
    event.room_id = Some(pattern.room_id().to_owned());
    event.state_key = pattern.state_key().map(str::to_owned);
    event.auth_events = pattern.auth_events().map(ToOwned::to_owned).collect();
    event.prev_events = prev;
    event.depth = DEPTH_MAX;
    event.origin_server_ts = by.now_ms();
    let rules = event::rules(&RoomVersionId::V12).expect("rules");
    event.build(rules, &by.rooms.signing_key(), &by.name).expect("an event")
}

/// From now on nobody tells what lies between two events.
fn hide_gaps(world: &World) {
    world.others.hidden.lock().expect("not poisoned").insert(ruma::owned_event_id!("$nobodys"));
}

/// Whether an event is accepted and has a place among those that clients see.
async fn is_shown(world: &World, event: &EventId) -> bool {
    let view = world.view().await;
    let num = world.rooms.num(&view, event).await.expect("a read").expect("a number");
    let meta = world.rooms.meta(&view, num).await.expect("a read");
    meta.status == EventStatus::Accepted && meta.index.is_some()
}

#[tokio::test]
async fn a_state_that_is_told_for_an_event_that_does_not_fit_takes_nobodys_place() {
    for is_rejected in [true, false] {
        let ([here, there, _], room) = room_of_three(&RoomVersionId::V12).await;
        let (alice, bob) = (here.user("alice"), there.user("bob"));
        let mut levels = here.state(&room, "m.room.power_levels", "").await.expect("levels");
        levels["users"][bob.as_str()] = 50.into();
        let raised = here.set(&alice, &room, ("m.room.power_levels", ""), levels.clone()).await.expect("set");
        set_topic(&here, &alice, &room, "old").await;
        levels["users"][bob.as_str()] = 0.into();
        let lowered = here.set(&alice, &room, ("m.room.power_levels", ""), levels).await.expect("set");
        let new = set_topic(&here, &alice, &room, "new").await;
        here.deliver(&there, &room, &[&new]).await;

        // An event that is refused by itself, or by what is so now; whoever sends it tells a state of old times for it.
        let topic_of_bobs = ("m.room.topic", Some(String::new()));
        let authority = if is_rejected { &new } else { &raised };
        let unfit = there
            .forge(&room, &bob, topic_of_bobs, json!({ "topic": "bob's" }), (&new, authority))
            .await
            .expect("an event");
        let nowhere = ruma::owned_event_id!("$nowhereAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
        let prev = if is_rejected { vec![new.clone()] } else { vec![new.clone(), nowhere] };
        let unfit = placed_after(&unfit, &there, prev);
        let told = there.rooms.serve_state_ids(&Asker::new(&here.name), &room, &lowered).await.expect("a state");
        here.others.told.lock().expect("not poisoned").insert(unfit.event_id().to_owned(), told);
        hide_gaps(&here);
        give(&there, &there, &room, &unfit).await;
        if !is_rejected {
            give(&there, &here, &room, &unfit).await;
            assert_eq!(here.status(unfit.event_id()).await, EventStatus::SoftFailed);
        }
        // And one that nobody can have anything against.
        let key = ("m.room.message", None);
        let fit = there.forge(&room, &bob, key, json!({ "body": "hm" }), (&new, &new)).await.expect("an event");
        let fit = placed_after(&fit, &there, vec![unfit.event_id().to_owned()]);
        give(&there, &here, &room, &fit).await;
        assert_eq!(here.status(fit.event_id()).await, EventStatus::Accepted);
        assert_eq!(matches!(here.status(unfit.event_id()).await, EventStatus::Rejected(_)), is_rejected);
        assert_eq!(topic(&here, &room).await, "new");
        assert!(head(&here, &room).await.extremities.iter().any(|extremity| extremity.event_id == new));
        here.say(&alice, &room, "and on").await.expect("sent");
        assert_eq!(topic(&here, &room).await, "new");
        let levels = here.state(&room, "m.room.power_levels", "").await.expect("levels");
        assert_eq!(levels["users"][bob.as_str()], 0);
    }
}

#[tokio::test]
async fn an_event_that_its_followers_kept_back_is_news_when_it_comes() {
    for between in [0, 1] {
        let ([here, there, elsewhere], room) = room_of_three(&RoomVersionId::V12).await;
        let (bob, carol) = (there.user("bob"), elsewhere.user("carol"));
        let kept_back = elsewhere.say(&carol, &room, "listen").await.expect("sent");
        elsewhere.deliver(&there, &room, &[&kept_back]).await;
        for _ in 0..between {
            there.say(&bob, &room, "hm").await.expect("sent");
        }
        let follower = there.say(&bob, &room, "never mind").await.expect("sent");
        here.others.hidden.lock().expect("not poisoned").insert(kept_back.clone());
        there.deliver(&here, &room, &[&follower]).await;
        assert_eq!(here.status(&follower).await, EventStatus::Accepted);
        here.others.hidden.lock().expect("not poisoned").clear();
        elsewhere.deliver(&here, &room, &[&kept_back]).await;
        assert!(is_shown(&here, &kept_back).await, "nobody sees it, {between} between");
    }
}

#[tokio::test]
async fn an_event_that_was_judged_by_a_lie_is_judged_again_when_it_comes() {
    for (is_followed, comes_itself) in [(false, true), (true, false)] {
        let ([here, there, elsewhere], room) = room_of_three(&RoomVersionId::V12).await;
        let (bob, carol) = (there.user("bob"), elsewhere.user("carol"));
        let joined =
            elsewhere.rooms.current_event(&elsewhere.view().await, &room, "m.room.member", carol.as_str()).await;
        let joined = joined.expect("a read").expect("a member").pdu.owned_event_id();
        let early = elsewhere.say(&carol, &room, "listen").await.expect("sent");
        elsewhere.deliver(&there, &room, &[&early]).await;
        let follower = there.say(&bob, &room, "never mind").await.expect("sent");
        let mut told = there.rooms.serve_state_ids(&Asker::new(&here.name), &room, &early).await.expect("a state");
        told.state.retain(|id| *id != joined);
        here.others.told.lock().expect("not poisoned").insert(early.clone(), told);
        hide_gaps(&here);
        there.deliver(&here, &room, &[&follower]).await;
        assert!(matches!(here.status(&early).await, EventStatus::Rejected(_)), "the lie works");
        // Whom it is of tells it truly, by itself or with what comes after it.
        here.others.hidden.lock().expect("not poisoned").clear();
        here.others.told.lock().expect("not poisoned").clear();
        let late = elsewhere.say(&carol, &room, "there is more").await.expect("sent");
        let mut sent = Vec::new();
        sent.extend(comes_itself.then_some(&*early));
        sent.extend(is_followed.then_some(&*late));
        elsewhere.deliver(&here, &room, &sent).await;
        assert!(is_shown(&here, &early).await);
        assert_eq!(is_followed, here.status(&late).await == EventStatus::Accepted);
    }
}
