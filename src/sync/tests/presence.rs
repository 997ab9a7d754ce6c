//! Presence, typing and receipts: who hears of whom.

mod world;

use rooms::{NewReceipt, ReceiptType};
use ruma::{OwnedUserId, RoomId, UserId};
use serde_json::{Value, json};
use tokio::time::Instant;
use users::PresenceState;
use world::{World, client::*, raw, user};

/// Whose presence an answer tells, with their state.
fn told(body: &Value) -> Vec<(String, String)> {
    let events = list(&body["presence"]["events"]).iter();
    events.map(|event| (text(event, "sender"), text(&event["content"], "presence"))).collect()
}

/// Who types in a room, as an answer tells it.
fn typing(body: &Value, room: &RoomId) -> Option<Value> {
    let events = list(&body["rooms"]["join"][room.as_str()]["ephemeral"]["events"]);
    events.iter().find(|event| event["type"] == "m.typing").map(|event| event["content"]["user_ids"].clone())
}

fn online(user: &UserId) -> (String, String) {
    (user.to_string(), "online".to_owned())
}

async fn come_online(world: &World, user: &UserId) {
    world.users.presence().set(user, "PHONE".into(), PresenceState::Online, None).await.unwrap();
}

/// The answer to a request that waits for half a minute, and how many seconds it did.
async fn wait(world: &World, client: &mut Client) -> (Value, u64) {
    let begin = Instant::now();
    let body = client.sync(world, 30_000).await;
    (body, begin.elapsed().as_secs())
}

#[tokio::test]
async fn presence_is_told_to_those_who_share_a_room() {
    let world = World::new().await;
    let (alice, bob, carol) = (user("alice"), user("bob"), user("carol"));
    let room = world.room(&alice).await;
    world.join(&bob, &room).await;
    let mut with_alice = Client::new(&bob, "B");
    let mut stranger = Client::new(&carol, "C");
    let mut deaf = Client::new(&bob, "B2").with_filter(json!({"presence": {"types": []}}));
    for client in [&mut with_alice, &mut stranger, &mut deaf] {
        client.sync(&world, 0).await;
    }
    let presence = world.users.presence();
    presence.set(&alice, "A".into(), PresenceState::Online, Some("tea")).await.unwrap();
    tokio::time::pause();
    let body = with_alice.sync(&world, 30_000).await;
    let event = &body["presence"]["events"][0];
    assert_eq!(event["sender"], alice.as_str());
    assert_eq!(event["content"]["presence"], "online");
    assert_eq!(event["content"]["status_msg"], "tea");
    assert!(stranger.sync(&world, 0).await.get("presence").is_none());
    assert!(deaf.sync(&world, 0).await.get("presence").is_none());
    let body = Client::new(&bob, "B3").sync(&world, 0).await;
    assert_eq!(body["presence"]["events"][0]["sender"], alice.as_str());
}

#[tokio::test]
async fn ones_own_presence_is_told_as_well() {
    let world = World::new().await;
    let alice = user("alice");
    let mut client = Client::new(&alice, "A");
    client.sync(&world, 0).await;
    tokio::time::pause();
    come_online(&world, &alice).await;
    assert_eq!(told(&wait(&world, &mut client).await.0), [online(&alice)]);
    assert_eq!(wait(&world, &mut client).await.1, 30);
    assert_eq!(told(&Client::new(&alice, "A2").sync(&world, 0).await), [online(&alice)]);
}

#[tokio::test]
async fn who_is_met_is_told_whichever_of_the_two_comes() {
    let world = World::new().await;
    let names = ["alice", "bob", "carol", "dan"].map(user);
    let [alice, bob, carol, dan] = &names;
    let room = world.room(alice).await;
    // Of whom nothing is known there is nothing to say.
    world.join(dan, &room).await;
    for user in [alice, bob, carol] {
        come_online(&world, user).await;
    }
    let mut clients = [alice, bob, carol].map(|user| Client::new(user, "X"));
    for client in &mut clients {
        assert_eq!(told(&client.sync(&world, 0).await), [online(&client.user)]);
    }
    world.join(bob, &room).await;
    let cold = world.another_sync().await;
    for (client, met) in clients.iter_mut().zip([Some(bob), Some(alice), None]) {
        let expected: Vec<_> = met.iter().map(|user| online(user)).collect();
        // From an inbox, and from the tables.
        assert_eq!(told(&client.ask_of(&cold, 0, false).await), expected);
        assert_eq!(told(&client.sync(&world, 0).await), expected);
        assert!(told(&client.sync(&world, 0).await).is_empty());
    }
    cold.shut_down();
    world.join(carol, &room).await;
    let [of_alice, of_bob, of_carol] = &mut clients;
    assert_eq!(told(&of_carol.sync(&world, 0).await), [online(alice), online(bob)]);
    for client in [of_alice, of_bob] {
        assert_eq!(told(&client.sync(&world, 0).await), [online(carol)]);
    }
}

#[tokio::test]
async fn of_who_is_ignored_nothing_comes() {
    let world = World::new().await;
    let (alice, bob, eve) = (user("alice"), user("bob"), user("eve"));
    let room = world.room(&alice).await;
    for user in [&bob, &eve] {
        world.join(user, &room).await;
    }
    let event = world.send(&alice, &room, "hello").await;
    let ignored = raw(&json!({ "ignored_users": { eve.as_str(): {} } }));
    world.users.set_account_data(&alice, None, "m.ignored_user_list", &ignored).await.unwrap();
    let mut client = Client::new(&alice, "A");
    client.sync(&world, 0).await;
    let receipt = |user: &OwnedUserId| {
        let (user, room, event) = (user.clone(), room.clone(), event.clone());
        let rooms = world.rooms.clone();
        async move {
            let receipt_type = ReceiptType::Read;
            let receipt = NewReceipt { user: &user, room: &room, receipt_type, event: &event, thread: None };
            rooms.set_receipt(receipt).await.unwrap();
        }
    };
    tokio::time::pause();
    come_online(&world, &eve).await;
    receipt(&eve).await;
    world.rooms.typing().start(&room, &eve, 60_000);
    let (body, seconds) = wait(&world, &mut client).await;
    assert_eq!((body.get("presence"), body.get("rooms"), seconds), (None, None, 30), "{body}");

    world.rooms.typing().start(&room, &bob, 60_000);
    assert_eq!(typing(&wait(&world, &mut client).await.0, &room), Some(json!([bob])));
    world.rooms.typing().stop(&room, &bob);
    assert_eq!(typing(&wait(&world, &mut client).await.0, &room), Some(json!([])));
    world.rooms.typing().stop(&room, &eve);
    let (body, seconds) = wait(&world, &mut client).await;
    assert_eq!((body.get("rooms"), seconds), (None, 30), "{body}");

    receipt(&bob).await;
    come_online(&world, &bob).await;
    let body = Client::new(&alice, "A2").sync(&world, 0).await;
    let content = &list(&body["rooms"]["join"][room.as_str()]["ephemeral"]["events"])[0]["content"];
    assert_eq!(object(&content[event.as_str()]["m.read"]).len(), 1, "{body}");
    assert_eq!(told(&body), [online(&bob)]);
    assert_eq!(told(&Client::new(&bob, "B").sync(&world, 0).await), [online(&bob), online(&eve)]);
}

#[tokio::test]
async fn presence_is_routed_to_those_who_want_it_and_told_to_those_who_want_it_again() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = world.room(&alice).await;
    world.join(&bob, &room).await;
    let mut client = Client::new(&bob, "B");
    client.sync(&world, 0).await;
    let mut deaf = Client::new(&bob, "B2").with_filter(json!({ "presence": { "types": [] } }));
    let config = sync::Config::default();
    world.clock.advance(config.inbox_idle_ms + 1);
    deaf.sync(&world, 0).await;
    // Until somebody looks who wants nothing any more.
    tokio::time::pause();
    tokio::time::sleep(std::time::Duration::from_secs(61)).await;
    let routed = world.sync.changes_routed();
    come_online(&world, &alice).await;
    deaf.sync(&world, 0).await;
    assert_eq!(world.sync.changes_routed(), routed);
    assert_eq!(told(&client.sync(&world, 0).await), [online(&alice)]);
    assert!(told(&client.sync(&world, 0).await).is_empty());
    world.users.presence().set(&alice, "PHONE".into(), PresenceState::Unavailable, None).await.unwrap();
    assert_eq!(told(&client.sync(&world, 0).await).len(), 1);
    assert_eq!(world.sync.changes_routed(), routed + 1);
}

#[tokio::test]
async fn a_private_receipt_is_told_though_others_looked_in_vain_after_a_restart() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = world.room(&alice).await;
    world.join(&bob, &room).await;
    let event = world.send(&alice, &room, "hello").await;
    let mut clients = [&alice, &bob].map(|user| Client::new(user, "X"));
    for client in &mut clients {
        client.sync(&world, 0).await;
    }
    let receipt_type = ReceiptType::ReadPrivate;
    let receipt = NewReceipt { user: &bob, room: &room, receipt_type, event: &event, thread: None };
    world.rooms.set_receipt(receipt).await.unwrap();
    let world = world.restart().await;
    let [of_alice, of_bob] = &mut clients;
    assert!(of_alice.sync(&world, 0).await.get("rooms").is_none());
    let body = of_bob.sync(&world, 0).await;
    let events = list(&body["rooms"]["join"][room.as_str()]["ephemeral"]["events"]);
    assert!(events[0]["content"][event.as_str()]["m.read.private"][bob.as_str()]["ts"].is_u64(), "{body}");
}
