//! News that are put together once for many.

mod world;

use serde_json::json;
use world::{World, client::*, raw, user};

#[tokio::test]
async fn who_asks_for_the_same_as_others_is_told_what_they_would_be_told_alone() {
    let world = World::new().await;
    let names = ["alice", "bob", "carol", "dave", "eve", "frank"];
    let [alice, bob, carol, dave, eve, frank] = names.map(user);
    let room = world.room(&alice).await;
    let lazy = json!({"room": {"state": {"lazy_load_members": true}, "timeline": {"limit": 1}}});
    let no_messages = json!({"room": {"timeline": {"not_types": ["m.room.message"]}}});
    let ignore = raw(&json!({"ignored_users": {alice.as_str(): {}}}));
    world.users.set_account_data(&dave, None, "m.ignored_user_list", &ignore).await.unwrap();
    let mut clients = Vec::new();
    for who in [&alice, &bob, &carol, &dave, &eve, &frank] {
        if *who != alice {
            world.join(who, &room).await;
        }
        clients.push(Client::new(who, "D").with_filter(if *who == eve { no_messages.clone() } else { lazy.clone() }));
    }
    for client in &mut clients {
        client.sync(&world, 0).await;
    }
    world.send(&alice, &room, "hello").await;
    let mut told = Vec::new();
    for client in &mut clients {
        told.push(client.sync(&world, 0).await["rooms"]["join"][room.as_str()].clone());
    }
    let [to_alice, to_bob, to_carol, to_dave, to_eve, to_frank] = &told[..] else { panic!("six answers") };
    assert_eq!(bodies(&to_bob["timeline"]["events"]), ["hello"]);
    for others in [to_carol, to_frank] {
        assert_eq!((&others["timeline"], &others["state"]), (&to_bob["timeline"], &to_bob["state"]));
        assert_eq!(others["unread_notifications"]["notification_count"], 1);
    }
    assert_eq!(to_alice["timeline"]["events"], to_bob["timeline"]["events"]);
    assert_eq!(to_alice["unread_notifications"]["notification_count"], 0);
    assert_eq!(to_dave["timeline"].get("events").map_or(0, |events| list(events).len()), 0, "{to_dave}");
    assert_eq!(to_eve["timeline"].get("events").map_or(0, |events| list(events).len()), 0, "{to_eve}");
}

#[tokio::test]
async fn who_comes_late_is_told_how_old_the_news_are() {
    let world = World::new().await;
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(user);
    let room = world.room(&alice).await;
    let (mut early, mut late) = (Client::new(&bob, "B"), Client::new(&carol, "C"));
    for (who, client) in [(&bob, &mut early), (&carol, &mut late)] {
        world.join(who, &room).await;
        client.sync(&world, 0).await;
    }
    early.sync(&world, 0).await;
    world.send(&alice, &room, "hello").await;
    let age = |body: &serde_json::Value| {
        let events = &body["rooms"]["join"][room.as_str()]["timeline"]["events"];
        events[0]["unsigned"]["age"].as_u64().unwrap()
    };
    let told_at_once = age(&early.sync(&world, 0).await);
    world.clock.advance(3_600_000);
    assert_eq!(age(&late.sync(&world, 0).await), told_at_once + 3_600_000);
}
