//! Waiting for news, and tokens.

mod world;

use std::{
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use futures_util::future::BoxFuture;
use rooms::{NewReceipt, ReceiptType, RoomAdvanced};
use serde_json::json;
use store::{Batch, LogEntry};
use sync::{LargeAnswer, SyncError, SyncRequest, Token};
use tokio::time::Instant;
use users::PresenceState;
use world::{World, client::*, raw, user};

fn request<'a>(client: &'a Client, since: Option<&'a str>, filter: Option<&'a str>) -> SyncRequest<'a> {
    SyncRequest {
        user: &client.user,
        device: &client.device,
        since,
        filter,
        full_state: false,
        set_presence: PresenceState::Offline,
        timeout_ms: 0,
        use_state_after: false,
    }
}

#[tokio::test]
async fn a_waiting_request_is_answered_by_the_next_message() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = world.room(&alice).await;
    world.join(&bob, &room).await;
    let mut client = Client::new(&bob, "B");
    client.sync(&world, 0).await;
    let (body, _) = tokio::join!(client.ask(&world, 300_000, false), async {
        // Lets the request begin to wait; it would be answered as well if it didn't.
        tokio::task::yield_now().await;
        world.send(&alice, &room, "hello").await
    });
    let events = &body["rooms"]["join"][room.as_str()]["timeline"]["events"];
    assert_eq!(bodies(events), ["hello"]);
}

#[tokio::test]
async fn what_does_not_concern_the_user_does_not_end_the_wait() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let (ours, theirs) = (world.room(&alice).await, world.room(&alice).await);
    world.join(&bob, &ours).await;
    let mut client = Client::new(&bob, "B");
    client.sync(&world, 0).await;
    let (body, ()) = tokio::join!(client.ask(&world, 300_000, false), async {
        for n in 0..5 {
            world.send(&alice, &theirs, &format!("{n}")).await;
        }
        world.send(&alice, &ours, "for bob").await;
    });
    let rooms: Vec<_> = object(&body["rooms"]["join"]).into_iter().map(|(room, _)| room.clone()).collect();
    assert_eq!(rooms, [ours.to_string()]);
}

#[tokio::test]
async fn a_wait_ends_with_its_timeout_and_a_newer_token() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = world.room(&alice).await;
    let mut client = Client::new(&bob, "B");
    client.sync(&world, 0).await;
    world.send(&alice, &room, "x").await;
    let before: Token = client.since.as_ref().unwrap().parse().unwrap();
    tokio::time::pause();
    let begin = Instant::now();
    let body = client.sync(&world, 30_000).await;
    assert_eq!(begin.elapsed().as_secs(), 30);
    assert!(body.get("rooms").is_none());
    let after: Token = client.since.as_ref().unwrap().parse().unwrap();
    assert!(after.position > before.position);
}

#[tokio::test]
async fn no_wait_is_longer_than_configured() {
    let world = World::new().await;
    let mut client = Client::new(&user("alice"), "A");
    client.sync(&world, 0).await;
    tokio::time::pause();
    let begin = Instant::now();
    client.sync(&world, u64::MAX).await;
    let longest = sync::Config::default().client_sync_timeout_max.duration();
    assert_eq!(begin.elapsed().as_secs(), longest.as_secs());
}

#[tokio::test]
async fn receipts_wait_a_moment_for_other_news() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = world.room(&alice).await;
    world.join(&bob, &room).await;
    let event = world.send(&alice, &room, "x").await;
    let mut client = Client::new(&alice, "A");
    client.sync(&world, 0).await;
    let receipt = NewReceipt { user: &bob, room: &room, receipt_type: ReceiptType::Read, event: &event, thread: None };
    world.rooms.set_receipt(receipt).await.unwrap();
    tokio::time::pause();
    let begin = Instant::now();
    let body = client.sync(&world, 30_000).await;
    let delay = Duration::from_millis(sync::Config::default().relaxed_delay_ms);
    assert!(begin.elapsed() >= delay && begin.elapsed() <= Duration::from_secs(1));
    let events = &body["rooms"]["join"][room.as_str()]["ephemeral"]["events"];
    assert_eq!(events[0]["type"], "m.receipt");
}

/// An entry of the log that says it is an advance of a room, and is none.
struct Damaged;

impl LogEntry for Damaged {
    const KIND: u16 = RoomAdvanced::KIND;

    fn encode_entry(&self, w: &mut store::Writer) {
        w.raw(b"damaged");
    }

    fn decode_entry(_: &[u8]) -> Result<Self, store::DecodeError> {
        Ok(Self)
    }
}

#[tokio::test]
async fn what_cannot_be_read_in_the_log_keeps_no_news_from_anybody() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = world.room(&alice).await;
    let mut client = Client::new(&alice, "A");
    client.sync(&world, 0).await;
    for text in ["one", "two"] {
        // Who waits goes on waiting for news, and gets them.
        let (body, ()) = tokio::join!(client.ask(&world, 300_000, false), async {
            tokio::task::yield_now().await;
            let mut batch = Batch::new();
            let _ = batch.log(&Damaged);
            world.store.commit(batch).await.unwrap();
            world.join(&bob, &room).await;
            world.send(&bob, &room, text).await;
        });
        assert!(body["next_batch"].is_string());
        let mut seen = Vec::new();
        while !seen.iter().any(|seen| seen == text) {
            let body = client.sync(&world, 300_000).await;
            let timeline = &body["rooms"]["join"][room.as_str()]["timeline"];
            seen.extend(bodies(&timeline["events"]).into_iter().map(str::to_owned));
        }
        world.leave(&bob, &room).await;
        client.sync(&world, 0).await;
        let residents = world.rooms.residents();
        let members = residents.members_at(residents.room(&room), world.store.published());
        assert_eq!(members, Some(vec![residents.user(&alice)]));
    }
}

#[tokio::test]
async fn shutting_down_answers_who_waits() {
    let world = World::new().await;
    let mut client = Client::new(&user("alice"), "A");
    client.sync(&world, 0).await;
    let (body, ()) = tokio::join!(client.ask(&world, 300_000, false), async {
        tokio::task::yield_now().await;
        world.sync.shut_down();
    });
    assert!(body["next_batch"].is_string());
    // And lets nobody wait any more.
    client.sync(&world, 300_000).await;
}

/// Gives leave and counts it.
#[derive(Default)]
struct Leave {
    given: AtomicUsize,
    given_back: AtomicUsize,
}

impl LargeAnswer for Leave {
    fn begin(&self) -> BoxFuture<'_, Result<(), SyncError>> {
        self.given.fetch_add(1, Relaxed);
        Box::pin(async { Ok(()) })
    }

    fn end(&self) {
        self.given_back.fetch_add(1, Relaxed);
    }
}

#[tokio::test]
async fn leave_is_asked_for_answers_that_are_large_or_may_become_so() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let rooms = [world.room(&alice).await, world.room(&alice).await, world.room(&alice).await];
    let client = Client::new(&alice, "A");
    let ask = async |since: Option<&str>, filter| {
        let leave = Leave::default();
        let response = world.sync.classic_with(request(&client, since, filter), &leave).await.unwrap();
        (response.next_batch, leave.given.into_inner() > 0)
    };
    let (since, is_large) = ask(None, None).await;
    assert!(is_large, "a first sync");
    world.send(&alice, &rooms[0], "hello").await;
    let (next, is_large) = ask(Some(&since), None).await;
    assert!(!is_large, "a message");
    let (_, is_large) = ask(Some(&since), Some(r#"{"room":{"timeline":{"limit":500}}}"#)).await;
    assert!(is_large, "as many messages as there are");
    for room in &rooms {
        for _ in 0..10 {
            world.send(&alice, room, &"x".repeat(60_000)).await;
        }
    }
    let (next, is_large) = ask(Some(&next), None).await;
    assert!(is_large, "long messages in some rooms");

    // One that waits on holds nothing.
    world.join(&bob, &rooms[0]).await;
    let ignored = raw(&json!({ "ignored_users": { bob.as_str(): {} } }));
    world.users.set_account_data(&alice, None, "m.ignored_user_list", &ignored).await.unwrap();
    let (next, _) = ask(Some(&next), None).await;
    world.send(&bob, &rooms[0], "nobody sees this").await;
    let leave = Leave::default();
    let filter = Some(r#"{"room":{"timeline":{"limit":500}}}"#);
    let waiting = SyncRequest { timeout_ms: 300_000, ..request(&client, Some(&next), filter) };
    let (response, ()) = tokio::join!(world.sync.classic_with(waiting, &leave), async {
        for _ in 0..1_000_000 {
            if leave.given_back.load(Relaxed) > 0 {
                break;
            }
            tokio::task::yield_now().await;
        }
        assert!(leave.given_back.load(Relaxed) > 0);
        world.send(&alice, &rooms[1], "hello").await;
    });
    assert!(!response.unwrap().is_empty());
}

#[tokio::test]
async fn a_waiting_request_is_small() {
    let world = World::new().await;
    let client = Client::new(&user("alice"), "A");
    let future = world.sync.classic(request(&client, None, None));
    assert!(size_of_val(&future) < 4_096, "{} bytes", size_of_val(&future));
}

#[tokio::test]
async fn tokens_that_are_none_are_refused() {
    let world = World::new().await;
    let client = Client::new(&user("alice"), "A");
    for since in ["", "x", "t1_2_3", "s1_2_3", "s18446744073709551616_0_0_0_0_0_0"] {
        let result = world.sync.classic(request(&client, Some(since), None)).await;
        assert!(matches!(result, Err(SyncError::BadToken)), "{since}");
    }
    // Of this epoch, but of a time that hasn't come.
    let response = world.sync.classic(request(&client, None, None)).await.unwrap();
    let mut token: Token = response.next_batch.parse().unwrap();
    token.position = store::Position::MAX;
    let result = world.sync.classic(request(&client, Some(&token.to_string()), None)).await;
    assert!(matches!(result, Err(SyncError::BadToken)));
}

#[tokio::test]
async fn a_token_of_another_epoch_is_a_first_sync() {
    let world = World::new().await;
    let alice = user("alice");
    let room = world.room(&alice).await;
    let client = Client::new(&alice, "A");
    let response = world.sync.classic(request(&client, None, None)).await.unwrap();
    let mut token: Token = response.next_batch.parse().unwrap();
    token.epoch += 1;
    let response = world.sync.classic(request(&client, Some(&token.to_string()), None)).await.unwrap();
    assert_eq!(response.rooms.join[0].0, room);
    assert!(!response.rooms.join[0].1.timeline.events.is_empty());
}

#[tokio::test]
async fn filters_are_found_by_id_and_refused_if_they_are_none() {
    let world = World::new().await;
    let alice = user("alice");
    world.room(&alice).await;
    let client = Client::new(&alice, "A");
    let definition = world::raw(&json!({"room": {"timeline": {"limit": 1}}}));
    let id = world.users.create_filter(&alice, &definition).await.unwrap();
    let response = world.sync.classic(request(&client, None, Some(&id))).await.unwrap();
    assert_eq!(response.rooms.join[0].1.timeline.events.len(), 1);
    let result = world.sync.classic(request(&client, None, Some("77"))).await;
    assert!(matches!(result, Err(SyncError::UnknownFilter)));
    let result = world.sync.classic(request(&client, None, Some("{\"room\": 1}"))).await;
    assert!(matches!(result, Err(SyncError::BadFilter(_))));
}
