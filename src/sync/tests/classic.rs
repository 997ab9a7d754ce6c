//! The rules of classic `/sync`, one test each, through the public interface.

mod world;

use rooms::{CreateRoom, NewReceipt, ReceiptType};
use serde_json::json;
use world::{
    World,
    client::*,
    far::{Far, act, deliver},
    raw, user,
};

#[tokio::test]
async fn a_first_sync_shows_state_up_to_the_timeline_and_the_newest_events() {
    let world = World::new().await;
    let alice = user("alice");
    let room = world.room(&alice).await;
    for n in 0..12 {
        world.send(&alice, &room, &format!("{n}")).await;
    }
    let mut client = Client::new(&alice, "A").with_filter(json!({"room": {"timeline": {"limit": 3}}}));
    let body = client.sync(&world, 0).await;
    let joined = &body["rooms"]["join"][room.as_str()];
    assert_eq!(bodies(&joined["timeline"]["events"]), ["9", "10", "11"]);
    assert_eq!(joined["timeline"]["limited"], true);
    assert!(keys(&joined["state"]["events"]).contains(&"m.room.create/".to_owned()));
    assert!(keys(&joined["state"]["events"]).contains(&format!("m.room.member/{alice}")));
    assert_eq!(joined["summary"]["m.joined_member_count"], 1);
    assert_eq!(joined["unread_notifications"]["notification_count"], 0);
    // Events don't name their room, and have an age.
    let event = &joined["timeline"]["events"][0];
    assert!(event.get("room_id").is_none());
    assert!(event["unsigned"]["age"].is_number());
    assert_eq!(event["unsigned"]["membership"], "join");
}

#[tokio::test]
async fn a_room_that_fits_the_timeline_has_no_state_beside_it() {
    let world = World::new().await;
    let alice = user("alice");
    let room = world.room(&alice).await;
    let mut client = Client::new(&alice, "A").with_filter(json!({"room": {"timeline": {"limit": 50}}}));
    let body = client.sync(&world, 0).await;
    let joined = &body["rooms"]["join"][room.as_str()];
    assert_eq!(joined["timeline"]["limited"], false);
    assert_eq!(joined["state"]["events"], json!([]));
    assert_eq!(joined["timeline"]["events"][0]["type"], "m.room.create");
}

#[tokio::test]
async fn later_syncs_tell_what_is_new_once() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = world.room(&alice).await;
    world.join(&bob, &room).await;
    let mut client = Client::new(&bob, "B");
    client.sync(&world, 0).await;
    let quiet = client.sync(&world, 0).await;
    assert!(quiet.get("rooms").is_none(), "{quiet}");
    world.send(&alice, &room, "one").await;
    world.set(&alice, &room, "m.room.topic", json!({"topic": "t"})).await;
    let body = client.sync(&world, 0).await;
    let joined = &body["rooms"]["join"][room.as_str()];
    assert_eq!(joined["timeline"]["events"].as_array().unwrap().len(), 2);
    assert_eq!(joined["timeline"]["limited"], false);
    assert_eq!(joined["state"]["events"], json!([]));
    assert!(joined.get("summary").is_none());
    assert_eq!(joined["unread_notifications"]["notification_count"], 1);
    assert!(client.sync(&world, 0).await.get("rooms").is_none());
}

#[tokio::test]
async fn a_gap_gives_the_newest_events_and_the_state_that_changed_before_them() {
    let world = World::new().await;
    let alice = user("alice");
    let room = world.room(&alice).await;
    let mut client = Client::new(&alice, "A").with_filter(json!({"room": {"timeline": {"limit": 2}}}));
    client.sync(&world, 0).await;
    world.set(&alice, &room, "m.room.topic", json!({"topic": "early"})).await;
    for n in 0..4 {
        world.send(&alice, &room, &format!("{n}")).await;
    }
    let body = client.sync(&world, 0).await;
    let joined = &body["rooms"]["join"][room.as_str()];
    assert_eq!(bodies(&joined["timeline"]["events"]), ["2", "3"]);
    assert_eq!(joined["timeline"]["limited"], true);
    assert_eq!(keys(&joined["state"]["events"]), ["m.room.topic/"]);
}

#[tokio::test]
async fn state_that_the_timeline_filter_hides_is_told_as_state() {
    let world = World::new().await;
    let alice = user("alice");
    let room = world.room(&alice).await;
    let filter = json!({"room": {"timeline": {"types": ["m.room.message"]}}});
    let mut client = Client::new(&alice, "A").with_filter(filter);
    client.sync(&world, 0).await;
    world.set(&alice, &room, "m.room.topic", json!({"topic": "t"})).await;
    world.send(&alice, &room, "x").await;
    let body = client.sync(&world, 0).await;
    let joined = &body["rooms"]["join"][room.as_str()];
    assert_eq!(bodies(&joined["timeline"]["events"]), ["x"]);
    assert_eq!(keys(&joined["state"]["events"]), ["m.room.topic/"]);
}

#[tokio::test]
async fn with_state_after_the_state_is_that_at_the_end() {
    let world = World::new().await;
    let alice = user("alice");
    let room = world.room(&alice).await;
    let mut client = Client::new(&alice, "A");
    client.use_state_after = true;
    client.sync(&world, 0).await;
    world.set(&alice, &room, "m.room.topic", json!({"topic": "t"})).await;
    let body = client.sync(&world, 0).await;
    let joined = &body["rooms"]["join"][room.as_str()];
    assert!(joined.get("state").is_none());
    assert_eq!(keys(&joined["timeline"]["events"]), ["m.room.topic/"]);
    assert_eq!(keys(&joined["state_after"]["events"]), ["m.room.topic/"]);
}

#[tokio::test]
async fn joining_shows_the_whole_room_and_leaving_its_end() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = world.room(&alice).await;
    world.send(&alice, &room, "before").await;
    let mut client = Client::new(&bob, "B");
    client.sync(&world, 0).await;
    world.join(&bob, &room).await;
    let body = client.sync(&world, 0).await;
    let joined = &body["rooms"]["join"][room.as_str()];
    assert_eq!(bodies(&joined["timeline"]["events"]), ["before"]);
    assert_eq!(joined["summary"]["m.joined_member_count"], 2);
    assert_eq!(joined["summary"]["m.heroes"], json!([alice]));

    world.send(&alice, &room, "seen").await;
    world.leave(&bob, &room).await;
    world.send(&alice, &room, "unseen").await;
    let body = client.sync(&world, 0).await;
    assert!(body["rooms"].get("join").is_none());
    let left = &body["rooms"]["leave"][room.as_str()];
    assert_eq!(bodies(&left["timeline"]["events"]), ["seen"]);
    assert_eq!(keys(&json!([left["timeline"]["events"][1]])), [format!("m.room.member/{bob}")]);
    assert!(client.sync(&world, 0).await.get("rooms").is_none());
}

#[tokio::test]
async fn leaving_and_coming_back_between_two_syncs_loses_nothing() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = world.room(&alice).await;
    world.join(&bob, &room).await;
    let mut client = Client::new(&bob, "B");
    client.sync(&world, 0).await;
    world.leave(&bob, &room).await;
    world.set(&alice, &room, "m.room.topic", json!({"topic": "t"})).await;
    world.join(&bob, &room).await;
    let body = client.sync(&world, 0).await;
    let joined = &body["rooms"]["join"][room.as_str()];
    assert!(body["rooms"].get("leave").is_none());
    assert_eq!(joined["timeline"]["events"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn rooms_left_before_come_if_the_filter_asks() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = world.room(&alice).await;
    let forgotten = world.room(&alice).await;
    world.join(&bob, &room).await;
    world.join(&bob, &forgotten).await;
    world.send(&alice, &room, "seen").await;
    world.leave(&bob, &room).await;
    world.leave(&bob, &forgotten).await;
    world.rooms.forget(&bob, &forgotten).await.unwrap();
    world.send(&alice, &room, "unseen").await;
    let body = Client::new(&bob, "B").sync(&world, 0).await;
    assert!(body.get("rooms").is_none(), "{body}");
    let filter = json!({"room": {"include_leave": true}});
    let body = Client::new(&bob, "B").with_filter(filter).sync(&world, 0).await;
    let left = object(&body["rooms"]["leave"]);
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].0, room.as_str());
    assert_eq!(bodies(&left[0].1["timeline"]["events"]), ["seen"]);
}

#[tokio::test]
async fn invites_come_with_stripped_state_and_their_refusal_ends_them() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = world.room(&alice).await;
    world.set(&alice, &room, "m.room.name", json!({"name": "Tea"})).await;
    let mut client = Client::new(&bob, "B");
    client.sync(&world, 0).await;
    world.rooms.invite(&alice, &room, &bob, None).await.unwrap();
    let body = client.sync(&world, 0).await;
    let stripped = &body["rooms"]["invite"][room.as_str()]["invite_state"]["events"];
    let kinds = keys(stripped);
    for kind in ["m.room.create/", "m.room.name/", "m.room.join_rules/"] {
        assert!(kinds.contains(&kind.to_owned()), "{kinds:?}");
    }
    assert_eq!(kinds.last(), Some(&format!("m.room.member/{bob}")));
    // By the inviter's member event clients name a direct chat.
    assert!(kinds.contains(&format!("m.room.member/{alice}")), "{kinds:?}");
    assert!(stripped[0].get("event_id").is_none());
    // A first sync shows it as well.
    let body = Client::new(&bob, "B2").sync(&world, 0).await;
    assert!(body["rooms"]["invite"].get(room.as_str()).is_some());

    world.leave(&bob, &room).await;
    let body = client.sync(&world, 0).await;
    let left = &body["rooms"]["leave"][room.as_str()];
    assert_eq!(keys(&left["timeline"]["events"]), [format!("m.room.member/{bob}")]);
    assert_eq!(left["state"]["events"], json!([]));
}

#[tokio::test]
async fn ignored_users_are_not_heard() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = world.room(&alice).await;
    let other = world.room(&alice).await;
    world.join(&bob, &room).await;
    let ignore = raw(&json!({"ignored_users": {alice.as_str(): {}}}));
    let mut client = Client::new(&bob, "B");
    client.sync(&world, 0).await;
    world.users.set_account_data(&bob, None, "m.ignored_user_list", &ignore).await.unwrap();
    world.send(&alice, &room, "noise").await;
    world.set(&alice, &room, "m.room.topic", json!({"topic": "t"})).await;
    world.rooms.invite(&alice, &other, &bob, None).await.unwrap();
    let body = client.sync(&world, 0).await;
    let events = &body["rooms"]["join"][room.as_str()]["timeline"]["events"];
    // State is told all the same.
    assert_eq!(keys(events), ["m.room.topic/"]);
    assert!(body["rooms"].get("invite").is_none());
    assert_eq!(body["account_data"]["events"][0]["type"], "m.ignored_user_list");
}

/// A room of which there is nothing to tell isn't told of.
#[tokio::test]
async fn what_ignored_users_say_is_no_news_of_the_room() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = world.room(&alice).await;
    world.join(&bob, &room).await;
    let ignore = raw(&json!({"ignored_users": {alice.as_str(): {}}}));
    world.users.set_account_data(&bob, None, "m.ignored_user_list", &ignore).await.unwrap();
    let mut client = Client::new(&bob, "B");
    client.sync(&world, 0).await;
    world.send(&alice, &room, "noise").await;
    let body = client.sync(&world, 0).await;
    assert!(body.get("rooms").is_none(), "{body}");
    // What a filter leaves out may have been counted all the same.
    let mut other = Client::new(&bob, "C").with_filter(json!({"room": {"timeline": {"types": []}}}));
    other.sync(&world, 0).await;
    world.send(&bob, &room, "noise").await;
    let body = other.sync(&world, 0).await;
    assert!(body["rooms"]["join"][room.as_str()].get("unread_notifications").is_some(), "{body}");
}

#[tokio::test]
async fn blocked_invites_are_not_told() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let (before, after) = (world.room(&alice).await, world.room(&alice).await);
    let mut client = Client::new(&bob, "B");
    client.sync(&world, 0).await;
    world.rooms.invite(&alice, &before, &bob, None).await.unwrap();
    let config = raw(&json!({"default_action": "block"}));
    world.users.set_account_data(&bob, None, "m.invite_permission_config", &config).await.unwrap();
    // As one comes in from elsewhere.
    world.rooms.invite(&alice, &after, &bob, None).await.unwrap();
    let body = client.sync(&world, 0).await;
    assert!(body.get("rooms").is_none(), "{body}");
    assert!(Client::new(&bob, "C").sync(&world, 0).await.get("rooms").is_none());
    world.users.set_account_data(&bob, None, "m.invite_permission_config", &raw(&json!({}))).await.unwrap();
    let body = Client::new(&bob, "D").sync(&world, 0).await;
    assert_eq!(object(&body["rooms"]["invite"]).len(), 2);
}

#[tokio::test]
async fn full_state_says_where_to_read_on() {
    let world = World::new().await;
    let alice = user("alice");
    let room = world.room(&alice).await;
    let mut client = Client::new(&alice, "A");
    client.sync(&world, 0).await;
    let body = client.ask(&world, 0, true).await;
    let timeline = &body["rooms"]["join"][room.as_str()]["timeline"];
    assert_eq!(timeline["events"], json!([]));
    assert!(timeline["prev_batch"].is_string(), "{timeline}");
}

/// A redaction of the room's name leaves the state as it is and changes what the room is called by.
#[tokio::test]
async fn a_redacted_name_is_told_with_the_summary() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = world.room(&alice).await;
    world.join(&bob, &room).await;
    let name = world.try_set(&alice, &room, "m.room.name", json!({"name": "Insult"})).await.unwrap();
    let message = world.send(&alice, &room, "hi").await;
    let mut all = Client::new(&bob, "A");
    let mut few = Client::new(&bob, "B").with_filter(json!({"room": {"timeline": {"limit": 1}}}));
    let mut text = Client::new(&bob, "C").with_filter(json!({"room": {"timeline": {"types": ["m.room.message"]}}}));
    for client in [&mut all, &mut few, &mut text] {
        let body = client.sync(&world, 0).await;
        assert!(body["rooms"]["join"][room.as_str()]["summary"].get("m.heroes").is_none());
    }
    let sender = rooms::Sender::user(&alice);
    world.rooms.redact(&sender, &room, &message, None, &|_| {}).await.unwrap();
    assert!(all.sync(&world, 0).await["rooms"]["join"][room.as_str()].get("summary").is_none());
    world.rooms.redact(&sender, &room, &name, None, &|_| {}).await.unwrap();
    for n in 0..3 {
        world.send(&alice, &room, &format!("{n}")).await;
    }
    for client in [&mut all, &mut few, &mut text] {
        let body = client.sync(&world, 0).await;
        let summary = &body["rooms"]["join"][room.as_str()]["summary"];
        assert_eq!(summary["m.heroes"], json!([alice]), "{body}");
        // Once.
        world.send(&alice, &room, "more").await;
        assert!(client.sync(&world, 0).await["rooms"]["join"][room.as_str()].get("summary").is_none());
    }
}

/// Who doesn't get the redaction itself, because of a gap or a filter, gets what it left.
#[tokio::test]
async fn redacted_state_is_told_again_where_the_redaction_is_not() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = world.room(&alice).await;
    world.join(&bob, &room).await;
    let topic = world.try_set(&alice, &room, "m.room.topic", json!({"topic": "Insult"})).await.unwrap();
    let mut all = Client::new(&bob, "A");
    let mut few = Client::new(&bob, "B").with_filter(json!({"room": {"timeline": {"limit": 1}}}));
    let mut text = Client::new(&bob, "C").with_filter(json!({"room": {"timeline": {"types": ["m.room.message"]}}}));
    let mut after = Client::new(&bob, "D").with_filter(json!({"room": {"timeline": {"limit": 1}}}));
    after.use_state_after = true;
    for client in [&mut all, &mut few, &mut text, &mut after] {
        client.sync(&world, 0).await;
    }
    world.rooms.redact(&rooms::Sender::user(&alice), &room, &topic, None, &|_| {}).await.unwrap();
    world.send(&alice, &room, "one").await;
    world.send(&alice, &room, "two").await;
    let seen = all.sync(&world, 0).await["rooms"]["join"][room.as_str()].clone();
    assert_eq!(seen["state"]["events"], json!([]));
    for client in [&mut few, &mut text, &mut after] {
        let body = client.sync(&world, 0).await;
        let joined = &body["rooms"]["join"][room.as_str()];
        let state = if client.use_state_after { &joined["state_after"] } else { &joined["state"] };
        assert_eq!(keys(&state["events"]), ["m.room.topic/"], "{body}");
        assert_eq!(state["events"][0]["content"], json!({}));
        world.send(&alice, &room, "more").await;
        let body = client.sync(&world, 0).await;
        let joined = &body["rooms"]["join"][room.as_str()];
        let state = if client.use_state_after { &joined["state_after"] } else { &joined["state"] };
        assert_eq!(state["events"], json!([]), "told once");
    }
}

#[tokio::test]
async fn receipts_reach_the_room_and_private_ones_their_owner() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = world.room(&alice).await;
    world.join(&bob, &room).await;
    let event = world.send(&alice, &room, "x").await;
    let mut client_a = Client::new(&alice, "A");
    let mut client_b = Client::new(&bob, "B");
    client_a.sync(&world, 0).await;
    let body = client_b.sync(&world, 0).await;
    let unread = &body["rooms"]["join"][room.as_str()]["unread_notifications"];
    assert_eq!(unread["notification_count"], 1);
    let mut receipt =
        NewReceipt { user: &bob, room: &room, receipt_type: ReceiptType::ReadPrivate, event: &event, thread: None };
    world.rooms.set_receipt(receipt).await.unwrap();
    let body = client_b.sync(&world, 0).await;
    let joined = &body["rooms"]["join"][room.as_str()];
    assert_eq!(joined["unread_notifications"]["notification_count"], 0);
    let content = &joined["ephemeral"]["events"][0]["content"];
    assert!(content[event.as_str()]["m.read.private"].get(bob.as_str()).is_some());
    assert!(client_a.sync(&world, 0).await.get("rooms").is_none());

    receipt.receipt_type = ReceiptType::Read;
    world.rooms.set_receipt(receipt).await.unwrap();
    let body = client_a.sync(&world, 0).await;
    let joined = &body["rooms"]["join"][room.as_str()];
    let content = &joined["ephemeral"]["events"][0]["content"];
    assert!(content[event.as_str()]["m.read"].get(bob.as_str()).is_some());
    // Somebody else's receipt changes nothing for the reader's own counts.
    assert!(joined.get("unread_notifications").is_none());
}

#[tokio::test]
async fn typing_comes_and_goes_and_is_taken_back_after_a_restart() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = world.room(&alice).await;
    world.join(&bob, &room).await;
    for _ in 0..20 {
        world.room(&bob).await;
    }
    let mut client = Client::new(&bob, "B");
    client.sync(&world, 0).await;
    let typing = |body: &serde_json::Value| {
        let events = &body["rooms"]["join"][room.as_str()]["ephemeral"]["events"];
        list(events).iter().find(|event| event["type"] == "m.typing").cloned()
    };
    world.rooms.typing().start(&room, &alice, 10_000);
    let body = client.sync(&world, 60_000).await;
    assert_eq!(typing(&body).unwrap()["content"]["user_ids"], json!([alice]));
    assert!(typing(&client.sync(&world, 0).await).is_none());
    let world = world.restart().await;
    let body = client.sync(&world, 0).await;
    assert_eq!(typing(&body).unwrap()["content"]["user_ids"], json!([]));
    // The token doesn't say which rooms it were, but most of those where it wasn't.
    assert!(body["rooms"]["join"].as_object().unwrap().len() < 5, "{body}");
    assert!(client.sync(&world, 0).await.get("rooms").is_none());
}

#[tokio::test]
async fn account_data_comes_when_it_changes() {
    let world = World::new().await;
    let alice = user("alice");
    let room = world.room(&alice).await;
    let mut client = Client::new(&alice, "A");
    let body = client.sync(&world, 0).await;
    // Push rules are there even if nobody set them.
    assert_eq!(body["account_data"]["events"][0]["type"], "m.push_rules");
    let tags = raw(&json!({"tags": {"m.favourite": {}}}));
    world.users.set_account_data(&alice, Some(&room), "m.tag", &tags).await.unwrap();
    let body = client.sync(&world, 0).await;
    let joined = &body["rooms"]["join"][room.as_str()];
    assert_eq!(joined["account_data"]["events"][0]["type"], "m.tag");
    assert!(body.get("account_data").is_none());
    assert!(client.sync(&world, 0).await.get("rooms").is_none());
    let mut filtered = Client::new(&alice, "A2")
        .with_filter(json!({"account_data": {"types": []}, "room": {"account_data": {"types": []}}}));
    let body = filtered.sync(&world, 0).await;
    assert!(body.get("account_data").is_none());
    assert!(body["rooms"]["join"][room.as_str()].get("account_data").is_none());
}

#[tokio::test]
async fn lazy_loading_tells_the_members_that_are_needed_once() {
    let world = World::new().await;
    let (alice, bob, carol) = (user("alice"), user("bob"), user("carol"));
    let room = world.room(&alice).await;
    world.set(&alice, &room, "m.room.name", json!({"name": "named, so that nobody is a hero"})).await;
    world.join(&bob, &room).await;
    world.join(&carol, &room).await;
    world.send(&alice, &room, "one").await;
    let filter = json!({"room": {"state": {"lazy_load_members": true}, "timeline": {"limit": 1}}});
    let mut client = Client::new(&carol, "C").with_filter(filter);
    let members = |body: &serde_json::Value| {
        let mut keys = keys(&body["rooms"]["join"][room.as_str()]["state"]["events"]);
        keys.retain(|key| key.starts_with("m.room.member/"));
        keys
    };
    let body = client.sync(&world, 0).await;
    let member = |user| format!("m.room.member/{user}");
    assert_eq!(members(&body), [member(&alice), member(&carol)]);
    world.send(&alice, &room, "two").await;
    assert_eq!(members(&client.sync(&world, 0).await), Vec::<String>::new());
    world.send(&bob, &room, "three").await;
    // The answer is lost, so the member comes again.
    assert_eq!(members(&client.ask(&world, 0, false).await), [member(&bob)]);
    assert_eq!(members(&client.sync(&world, 0).await), [member(&bob)]);
    world.send(&bob, &room, "four").await;
    assert_eq!(members(&client.sync(&world, 0).await), Vec::<String>::new());
    client.filter["room"]["state"]["include_redundant_members"] = json!(true);
    world.send(&bob, &room, "five").await;
    assert_eq!(members(&client.sync(&world, 0).await), [member(&bob)]);
}

#[tokio::test]
async fn full_state_comes_at_once_and_leaves_the_timeline_as_it_is() {
    let world = World::new().await;
    let alice = user("alice");
    let room = world.room(&alice).await;
    let mut client = Client::new(&alice, "A");
    client.sync(&world, 0).await;
    let body = client.ask(&world, 600_000, true).await;
    let joined = &body["rooms"]["join"][room.as_str()];
    assert_eq!(joined["timeline"]["events"], json!([]));
    assert_eq!(joined["timeline"]["limited"], false);
    assert!(keys(&joined["state"]["events"]).contains(&"m.room.create/".to_owned()));
}

#[tokio::test]
async fn fields_and_format_are_as_the_filter_says() {
    let world = World::new().await;
    let alice = user("alice");
    let room = world.room(&alice).await;
    world.send(&alice, &room, "x").await;
    let filter = json!({"event_fields": ["type", "content.body"], "room": {"timeline": {"limit": 1}}});
    let body = Client::new(&alice, "A").with_filter(filter).ask(&world, 0, false).await;
    let events = &body["rooms"]["join"][room.as_str()]["timeline"]["events"];
    assert_eq!(*events, json!([{"type": "m.room.message", "content": {"body": "x"}}]));
    let filter = json!({"event_format": "federation", "room": {"timeline": {"limit": 1}}});
    let body = Client::new(&alice, "A").with_filter(filter).ask(&world, 0, false).await;
    let events = &body["rooms"]["join"][room.as_str()]["timeline"]["events"];
    assert!(events[0].get("auth_events").is_some());
    assert!(events[0].get("event_id").is_none());
}

#[tokio::test]
async fn rooms_can_be_left_out() {
    let world = World::new().await;
    let alice = user("alice");
    let one = world.room(&alice).await;
    let two = world.room(&alice).await;
    let filter = json!({"room": {"not_rooms": [one]}});
    let body = Client::new(&alice, "A").with_filter(filter).sync(&world, 0).await;
    let rooms: Vec<_> = object(&body["rooms"]["join"]).into_iter().map(|(room, _)| room.clone()).collect();
    assert_eq!(rooms, [two.to_string()]);
}

#[tokio::test]
async fn a_ban_after_the_leave_is_told_though_the_room_is_gone() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = world.room(&alice).await;
    world.join(&bob, &room).await;
    let mut client = Client::new(&bob, "B");
    client.sync(&world, 0).await;
    world.leave(&bob, &room).await;
    world.send(&alice, &room, "unseen").await;
    world.rooms.ban(&alice, &room, &bob, None).await.unwrap();
    let body = client.sync(&world, 0).await;
    let events = list(&body["rooms"]["leave"][room.as_str()]["timeline"]["events"]);
    let memberships: Vec<_> = events.iter().map(|event| event["content"]["membership"].clone()).collect();
    assert_eq!(memberships, ["leave", "ban"]);
    assert!(client.sync(&world, 0).await.get("rooms").is_none());
}

#[tokio::test]
async fn who_knocks_sees_what_the_room_is_and_how_it_ends() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = world.room(&alice).await;
    world.set(&alice, &room, "m.room.join_rules", json!({"join_rule": "knock"})).await;
    let mut client = Client::new(&bob, "B");
    client.sync(&world, 0).await;
    world.rooms.knock(&bob, &room, None).await.unwrap();
    let body = client.sync(&world, 0).await;
    let stripped = &body["rooms"]["knock"][room.as_str()]["knock_state"]["events"];
    assert!(keys(stripped).contains(&"m.room.create/".to_owned()));
    assert_eq!(list(stripped).last().unwrap()["content"]["membership"], "knock");
    world.rooms.kick(&alice, &room, &bob, None).await.unwrap();
    let body = client.sync(&world, 0).await;
    let left = &body["rooms"]["leave"][room.as_str()];
    assert_eq!(keys(&left["timeline"]["events"]), [format!("m.room.member/{bob}")]);
    assert_eq!(left["state"]["events"], json!([]));
}

#[tokio::test]
async fn unread_counts_are_split_by_thread_if_the_filter_asks() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = world.room(&alice).await;
    world.join(&bob, &room).await;
    let root = world.send(&alice, &room, "root").await;
    let reply = json!({
        "msgtype": "m.text", "body": "reply",
        "m.relates_to": {"rel_type": "m.thread", "event_id": root},
    });
    let sender = rooms::Sender::user(&alice);
    let options = rooms::SendOptions::default();
    world.rooms.send(&sender, &room, "m.room.message", raw(&reply), options).await.unwrap();
    let body = Client::new(&bob, "B").sync(&world, 0).await;
    let joined = &body["rooms"]["join"][room.as_str()];
    assert_eq!(joined["unread_notifications"]["notification_count"], 2);
    assert!(joined.get("unread_thread_notifications").is_none());
    let filter = json!({"room": {"timeline": {"unread_thread_notifications": true}}});
    let body = Client::new(&bob, "B2").with_filter(filter).sync(&world, 0).await;
    let joined = &body["rooms"]["join"][room.as_str()];
    assert_eq!(joined["unread_notifications"]["notification_count"], 1);
    assert_eq!(joined["unread_thread_notifications"][root.as_str()]["notification_count"], 1);
}

#[tokio::test]
async fn invites_from_another_server_come_and_go() {
    let world = World::new().await;
    let far = Far::new(&world.servers, &world.clock, 1).await;
    let (bob, xenia) = (user("bob"), far.user("xenia"));
    let mut request = CreateRoom::new(xenia.clone());
    request.name = Some("Far".to_owned());
    let room = far.rooms.create(&request).await.unwrap();
    let mut client = Client::new(&bob, "B");
    client.sync(&world, 0).await;
    far.rooms.invite(&xenia, &room, &bob, None).await.unwrap();
    let body = client.sync(&world, 0).await;
    let stripped = list(&body["rooms"]["invite"][room.as_str()]["invite_state"]["events"]);
    assert!(stripped.iter().any(|event| event["content"]["name"] == "Far"));
    for event in stripped {
        let fields: Vec<_> = object(event).into_iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(fields, ["content", "sender", "state_key", "type"]);
    }
    world.leave(&bob, &room).await;
    let body = client.sync(&world, 0).await;
    assert!(body["rooms"]["leave"].get(room.as_str()).is_some(), "{body}");
    assert!(client.sync(&world, 0).await.get("rooms").is_none());
}

#[tokio::test]
async fn an_invite_back_is_told_as_the_other_server_tells_it() {
    let world = World::new().await;
    let far = Far::new(&world.servers, &world.clock, 1).await;
    let (bob, xenia) = (user("bob"), far.user("xenia"));
    let room = world.room(&bob).await;
    far.join(&world.rooms, &room, &xenia).await;
    let mut client = Client::new(&bob, "B");
    client.sync(&world, 0).await;
    let leave = json!({"membership": "leave"});
    let left = act(&world.rooms, &bob, &room, ("m.room.member", Some(bob.as_str())), &leave).await.unwrap();
    deliver(&world.rooms, &world.store, &far.rooms, &room, &[left]).await;
    client.sync(&world, 0).await;
    far.rooms.invite(&xenia, &room, &bob, None).await.unwrap();
    let body = client.sync(&world, 0).await;
    let stripped = list(&body["rooms"]["invite"][room.as_str()]["invite_state"]["events"]);
    assert_eq!(stripped.last().unwrap()["content"]["membership"], "invite");
    assert_eq!(stripped.last().unwrap()["sender"], json!(xenia));
}

#[tokio::test]
async fn a_redacted_name_is_not_told_to_the_invited() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = world.room(&alice).await;
    let name = world.try_set(&alice, &room, "m.room.name", json!({"name": "Insult"})).await.unwrap();
    world.rooms.redact(&rooms::Sender::user(&alice), &room, &name, None, &|_| {}).await.unwrap();
    world.rooms.invite(&alice, &room, &bob, None).await.unwrap();
    let body = Client::new(&bob, "B").sync(&world, 0).await;
    let stripped = list(&body["rooms"]["invite"][room.as_str()]["invite_state"]["events"]);
    let name = stripped.iter().find(|event| event["type"] == "m.room.name").unwrap();
    assert_eq!(name["content"], json!({}));
}

#[tokio::test]
async fn timelines_can_be_chosen_by_what_relates_to_events() {
    let world = World::new().await;
    let alice = user("alice");
    let room = world.room(&alice).await;
    let root = world.send(&alice, &room, "root").await;
    let reply = json!({
        "msgtype": "m.text", "body": "reply",
        "m.relates_to": {"rel_type": "m.thread", "event_id": root},
    });
    let sender = rooms::Sender::user(&alice);
    let options = rooms::SendOptions::default();
    world.rooms.send(&sender, &room, "m.room.message", raw(&reply), options).await.unwrap();
    let filter = json!({"room": {"timeline": {"related_by_rel_types": ["m.thread"]}}});
    let body = Client::new(&alice, "A").with_filter(filter).sync(&world, 0).await;
    assert_eq!(bodies(&body["rooms"]["join"][room.as_str()]["timeline"]["events"]), ["root"]);
}

#[tokio::test]
async fn an_answer_about_very_many_rooms_says_of_each_what_one_about_it_alone_says() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let mut rooms = Vec::new();
    for number in 0..100 {
        let room = world.room(&alice).await;
        match number % 5 {
            0 => {
                world.rooms.invite(&alice, &room, &bob, None).await.unwrap();
            }
            _ => world.join(&bob, &room).await,
        }
        world.send(&alice, &room, &format!("{number}")).await;
        rooms.push(room);
    }
    let all = Client::new(&bob, "B").sync(&world, 0).await;
    assert_eq!(object(&all["rooms"]["join"]).len(), 80);
    assert_eq!(object(&all["rooms"]["invite"]).len(), 20);
    for room in rooms {
        let filter = json!({ "room": { "rooms": [room] } });
        let one = Client::new(&bob, "B").with_filter(filter).sync(&world, 0).await;
        for kind in ["join", "invite"] {
            let (of_all, of_one) = (&all["rooms"][kind][room.as_str()], &one["rooms"][kind][room.as_str()]);
            assert_eq!(of_all, of_one);
        }
    }
}
