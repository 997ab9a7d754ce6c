//! Presence.

use ruma::{DeviceId, UserId};
use settings::Seconds;
use users::{Config, Erasure, Error, PresenceState, RemotePresence, STATUS_MSG_BYTES_MAX};

use crate::world::{World, another, config, user, world_with};

use PresenceState::{Offline, Online, Unavailable};

const SECOND_MS: u64 = 1000;
const MINUTE_MS: u64 = 60 * SECOND_MS;

fn phone() -> &'static DeviceId {
    "PHONE".into()
}

fn state(world: &World, who: &UserId) -> Option<PresenceState> {
    world.users.presence().get_one(who).map(|info| info.state)
}

/// Who stops syncing is offline before they are idle.
async fn world() -> World {
    world_with(Config { presence_offline_timeout_s: Seconds::of(30), ..config() }).await
}

fn pass(world: &World, ms: u64) {
    world.pass_ms(ms);
    world.users.presence().tick();
}

#[tokio::test]
async fn who_never_came_is_unknown() {
    let world = world().await;
    let alice = user("alice");
    assert_eq!(world.users.presence().get_one(&alice), None);
    assert!(world.users.presence().get([&*alice]).is_empty());
}

#[tokio::test]
async fn a_sync_makes_online_and_its_end_offline_after_a_while() {
    let world = world().await;
    let alice = user("alice");
    let syncing = world.users.presence().begin_sync(&alice, phone(), Online);
    let info = world.users.presence().get_one(&alice).unwrap();
    assert_eq!((info.state, info.currently_active, info.last_active_ago_ms), (Online, true, Some(0)));
    pass(&world, 2 * MINUTE_MS);
    assert_eq!(state(&world, &alice), Some(Online), "as long as it lasts");
    drop(syncing);
    pass(&world, 30 * SECOND_MS - 1);
    assert_eq!(state(&world, &alice), Some(Online));
    pass(&world, 1);
    assert_eq!(state(&world, &alice), Some(Offline));
}

#[tokio::test]
async fn who_syncs_stays_online_and_who_stops_becomes_idle_until_the_next_sync() {
    let world = world_with(config()).await;
    let alice = user("alice");
    let presence = world.users.presence();
    let syncing = presence.begin_sync(&alice, phone(), Online);
    // (time that passes, currently active)
    for (ms, active) in [(MINUTE_MS - 1, true), (1, false), (9 * MINUTE_MS, false)] {
        pass(&world, ms);
        let info = presence.get_one(&alice).unwrap();
        assert_eq!((info.state, info.currently_active), (Online, active));
    }
    let again = presence.begin_sync(&alice, phone(), Online);
    drop((syncing, again));
    let ago = presence.get_one(&alice).unwrap().last_active_ago_ms;
    assert_eq!(ago, Some(10 * MINUTE_MS), "another sync of the same kind isn't an action");
    for (ms, expected) in [(5 * MINUTE_MS - 1, Online), (1, Unavailable), (25 * MINUTE_MS - 1, Unavailable)] {
        pass(&world, ms);
        assert_eq!(state(&world, &alice), Some(expected));
    }
    drop(presence.begin_sync(&alice, phone(), Online));
    let info = presence.get_one(&alice).unwrap();
    assert_eq!((info.state, info.last_active_ago_ms), (Online, Some(0)), "back from idle");
    pass(&world, 30 * MINUTE_MS);
    assert_eq!(state(&world, &alice), Some(Offline));
    drop(presence.begin_sync(&alice, phone(), Online));
    let info = presence.get_one(&alice).unwrap();
    assert_eq!((info.state, info.last_active_ago_ms), (Online, Some(0)), "back from offline");
}

#[tokio::test]
async fn an_action_makes_online_for_a_while_whatever_was_said_but_offline() {
    let world = world().await;
    let alice = user("alice");
    let presence = world.users.presence();
    // A device that only sends.
    presence.active(&alice, phone());
    let info = presence.get_one(&alice).unwrap();
    assert_eq!((info.state, info.currently_active, info.last_active_ago_ms), (Online, true, Some(0)));
    pass(&world, 30 * SECOND_MS);
    assert_eq!(state(&world, &alice), Some(Offline));

    // One whose client said that nobody is there.
    let syncing = presence.begin_sync(&alice, phone(), Unavailable);
    assert_eq!(state(&world, &alice), Some(Unavailable));
    for _ in 0..2 {
        presence.active(&alice, phone());
        pass(&world, 4 * MINUTE_MS);
        drop(presence.begin_sync(&alice, phone(), Unavailable));
        let info = presence.get_one(&alice).unwrap();
        assert_eq!((info.state, info.last_active_ago_ms), (Online, Some(4 * MINUTE_MS)));
    }
    pass(&world, MINUTE_MS);
    assert_eq!(state(&world, &alice), Some(Unavailable));
    presence.active(&alice, phone());
    presence.set(&alice, phone(), Unavailable, None).await.unwrap();
    assert_eq!(state(&world, &alice), Some(Unavailable), "the client has the last word");
    drop(syncing);

    // One that hides.
    let _hidden = presence.begin_sync(&alice, phone(), Offline);
    pass(&world, SECOND_MS);
    presence.active(&alice, phone());
    let info = presence.get_one(&alice).unwrap();
    assert_eq!((info.state, info.last_active_ago_ms), (Offline, Some(SECOND_MS)));
}

#[tokio::test]
async fn the_most_present_device_counts() {
    let world = world().await;
    let alice = user("alice");
    let presence = world.users.presence();
    let laptop: &DeviceId = "LAPTOP".into();
    let _idle = presence.begin_sync(&alice, laptop, Unavailable);
    assert_eq!(state(&world, &alice), Some(Unavailable));
    let online = presence.begin_sync(&alice, phone(), Online);
    assert_eq!(state(&world, &alice), Some(Online));
    drop(online);
    pass(&world, 30 * SECOND_MS);
    assert_eq!(state(&world, &alice), Some(Unavailable));
    let _hidden = presence.begin_sync(&alice, laptop, Offline);
    assert_eq!(state(&world, &alice), Some(Offline));
}

#[tokio::test]
async fn a_state_that_was_set_stays_until_the_device_says_something_else() {
    let world = world().await;
    let alice = user("alice");
    let presence = world.users.presence();
    let _syncing = presence.begin_sync(&alice, phone(), Online);
    for set in [Unavailable, Offline] {
        pass(&world, SECOND_MS);
        presence.set(&alice, phone(), set, None).await.unwrap();
        assert_eq!(presence.get_one(&alice).unwrap().last_active_ago_ms, Some(0), "setting is an activity");
        let _again = presence.begin_sync(&alice, phone(), Online);
        assert_eq!(state(&world, &alice), Some(set));
    }
    drop(presence.begin_sync(&alice, phone(), Unavailable));
    drop(presence.begin_sync(&alice, phone(), Online));
    assert_eq!(state(&world, &alice), Some(Online));
}

#[tokio::test]
async fn each_change_is_told_once_with_a_rising_number() {
    let world = world().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let presence = world.users.presence();
    let mut told = presence.subscribe();
    let start = presence.sequence();
    let _a = presence.begin_sync(&alice, phone(), Online);
    let _b = presence.begin_sync(&bob, phone(), Online);
    assert!(told.has_changed().unwrap());
    assert_eq!(*told.borrow_and_update(), presence.sequence());
    let names = |since| -> Vec<String> {
        presence.changed_since(since).into_iter().map(|(_, user)| user.localpart().to_owned()).collect()
    };
    assert_eq!(names(start), ["alice", "bob"]);
    let middle = presence.sequence();
    assert!(names(middle).is_empty());

    // Being active goes on without news.
    presence.active(&alice, phone());
    pass(&world, SECOND_MS);
    presence.active(&alice, phone());
    assert_eq!(presence.sequence(), middle);
    assert!(!told.has_changed().unwrap());

    presence.set(&alice, phone(), Online, Some("Busy")).await.unwrap();
    assert_eq!(names(middle), ["alice"]);
    assert_eq!(names(start), ["bob", "alice"]);
    assert_eq!(presence.get_one(&alice).unwrap().sequence, presence.sequence());
    assert_eq!(*told.borrow_and_update(), presence.sequence());
}

#[tokio::test]
async fn status_messages_outlive_the_process() {
    let world = world().await;
    let alice = user("alice");
    let presence = world.users.presence();
    presence.set(&alice, phone(), Online, Some("At work")).await.unwrap();
    let status = |info: Option<users::PresenceInfo>| info.and_then(|info| info.status_msg);
    assert_eq!(status(presence.get_one(&alice)).as_deref(), Some("At work"));

    let restarted = another(&world.store, &world.clock, config()).await;
    let mut told = restarted.presence().subscribe();
    told.wait_for(|sequence| *sequence > 0).await.unwrap();
    let info = restarted.presence().get_one(&alice).unwrap();
    assert_eq!((info.state, info.last_active_ago_ms), (Offline, None));
    assert_eq!(status(Some(info)).as_deref(), Some("At work"));

    presence.set(&alice, phone(), Online, None).await.unwrap();
    assert_eq!(status(presence.get_one(&alice)), None);
    let long = "x".repeat(STATUS_MSG_BYTES_MAX + 1);
    let refused = presence.set(&alice, phone(), Online, Some(&long)).await;
    assert!(matches!(refused, Err(Error::TooLarge { .. })));
}

#[tokio::test]
async fn remote_users_are_what_their_server_says_until_it_is_silent_for_long() {
    let world = world().await;
    let eve = UserId::parse("@eve:elsewhere.org").unwrap();
    let presence = world.users.presence();
    let online = RemotePresence {
        state: Online,
        last_active_ago_ms: 5 * SECOND_MS,
        currently_active: true,
        status_msg: Some("Hello".into()),
    };
    presence.set_remote(&eve, online.clone());
    let info = presence.get_one(&eve).unwrap();
    assert_eq!((info.state, info.currently_active, info.last_active_ago_ms), (Online, true, Some(5 * SECOND_MS)));
    let sequence = presence.sequence();
    pass(&world, SECOND_MS);
    presence.set_remote(&eve, online.clone());
    assert_eq!(presence.sequence(), sequence, "nothing new while active");
    presence.set_remote(&eve, RemotePresence { currently_active: false, ..online });
    assert!(presence.sequence() > sequence);
    pass(&world, 30 * MINUTE_MS);
    assert_eq!(state(&world, &eve), Some(Offline));
}

#[tokio::test]
async fn presence_can_be_switched_off() {
    let world = world_with(Config { allow_local_presence: false, ..config() }).await;
    let alice = user("alice");
    let presence = world.users.presence();
    let _syncing = presence.begin_sync(&alice, phone(), Online);
    presence.active(&alice, phone());
    presence.set(&alice, phone(), Online, Some("Hello")).await.unwrap();
    assert_eq!(presence.get_one(&alice), None);
    assert_eq!(presence.sequence(), 0);
}

#[tokio::test]
async fn who_is_deactivated_goes_offline() {
    let world = world().await;
    let alice = world.register("alice").await;
    let presence = world.users.presence();
    presence.set(&alice, phone(), Online, Some("Hello")).await.unwrap();
    let mut told = presence.subscribe();
    told.mark_unchanged();
    world.users.deactivate(&alice, Erasure::Keep).await.unwrap();
    told.changed().await.unwrap();
    let info = presence.get_one(&alice).unwrap();
    assert_eq!((info.state, info.status_msg), (Offline, None));
}
