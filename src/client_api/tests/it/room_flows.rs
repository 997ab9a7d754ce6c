//! Memberships, and what of users goes along with them.

use ruma::exports::http::Method;
use serde_json::json;

use crate::world::World;

#[tokio::test]
async fn memberships() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let bob = world.register("bob").await;
    let me = format!("/v3/profile/{}", bob.id);
    bob.put(&format!("{me}/displayname"), json!({ "displayname": "Bob" })).await;
    let room = alice.create_room(json!({})).await;
    let path = |what: &str| format!("/v3/rooms/{room}/{what}");
    let member = path(&format!("state/m.room.member/{}", bob.id));
    let target = json!({ "user_id": bob.id, "reason": "because" });
    bob.fails(Method::POST, &path("join"), Some(json!({})), (403, "M_FORBIDDEN")).await;
    alice.post(&path("invite"), target.clone()).await;
    let invited = alice.get(&member).await;
    assert_eq!(invited, json!({ "membership": "invite", "displayname": "Bob", "reason": "because" }));
    let answer = bob.post(&path("join"), json!({ "reason": "gladly" })).await;
    assert_eq!(answer["room_id"], json!(room.replace("%21", "!")));
    let joined = alice.get(&member).await;
    assert_eq!((&joined["displayname"], &joined["reason"]), (&json!("Bob"), &json!("gladly")));
    bob.fails(Method::POST, &path("kick"), Some(json!({ "user_id": alice.id })), (403, "M_FORBIDDEN")).await;
    alice.post(&path("kick"), target.clone()).await;
    alice.fails(Method::POST, &path("unban"), Some(target.clone()), (403, "M_BAD_STATE")).await;
    alice.post(&path("ban"), target.clone()).await;
    bob.fails(Method::POST, &path("join"), Some(json!({})), (403, "M_FORBIDDEN")).await;
    alice.post(&path("unban"), target.clone()).await;
    alice.post(&path("invite"), target).await;
    bob.post(&path("leave"), json!({})).await;
    bob.post(&path("leave"), json!({})).await;
    alice.fails(Method::POST, &path("forget"), Some(json!({})), (400, "M_UNKNOWN")).await;
    bob.post(&path("forget"), json!({})).await;
    assert_eq!(bob.get("/v3/joined_rooms").await, json!({ "joined_rooms": [] }));
}

#[tokio::test]
async fn knocks() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let bob = world.register("bob").await;
    let rules = json!([{ "type": "m.room.join_rules", "content": { "join_rule": "knock" } }]);
    let room = alice.create_room(json!({ "initial_state": rules })).await;
    bob.post(&format!("/v3/knock/{room}"), json!({ "reason": "please" })).await;
    let member = alice.get(&format!("/v3/rooms/{room}/state/m.room.member/{}", bob.id)).await;
    assert_eq!((&member["membership"], &member["reason"]), (&json!("knock"), &json!("please")));
}

#[tokio::test]
async fn who_wants_no_invites_gets_none() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let bob = world.register("bob").await;
    let config = format!("/v3/user/{}/account_data/m.invite_permission_config", bob.id);
    bob.put(&config, json!({ "default_action": "block" })).await;
    let room = alice.create_room(json!({})).await;
    let blocked = (403, "M_INVITE_BLOCKED");
    let invite = format!("/v3/rooms/{room}/invite");
    alice.fails(Method::POST, &invite, Some(json!({ "user_id": bob.id })), blocked).await;
    alice.fails(Method::POST, "/v3/createRoom", Some(json!({ "invite": [bob.id] })), blocked).await;
    let state = format!("/v3/rooms/{room}/state/m.room.member/{}", bob.id);
    alice.fails(Method::PUT, &state, Some(json!({ "membership": "invite" })), blocked).await;
    bob.put(&config, json!({})).await;
    alice.post(&invite, json!({ "user_id": bob.id })).await;
    let nobody = json!({ "user_id": "@nobody:example.org" });
    alice.fails(Method::POST, &invite, Some(nobody), (404, "M_NOT_FOUND")).await;
}

#[tokio::test]
async fn guests_join_where_guests_may() {
    let world = World::with(|config| {
        config.allow_registration = true;
        config.allow_guest_registration = true;
    })
    .await;
    let alice = world.register("alice").await;
    let (_, guest) = world.ask(None, Method::POST, "/v3/register?kind=guest", Some(json!({}))).await;
    let (token, id) = (guest["access_token"].as_str(), guest["user_id"].as_str().unwrap());
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let join = format!("/v3/rooms/{room}/join");
    let (status, answer) = world.ask(token, Method::POST, &join, Some(json!({}))).await;
    assert_eq!((status, answer["errcode"].as_str()), (403, Some("M_GUEST_ACCESS_FORBIDDEN")));
    let state = format!("/v3/rooms/{room}/state/m.room.member/{id}");
    let (status, answer) = world.ask(token, Method::PUT, &state, Some(json!({ "membership": "join" }))).await;
    assert_eq!((status, answer["errcode"].as_str()), (403, Some("M_GUEST_ACCESS_FORBIDDEN")));
    let access = format!("/v3/rooms/{room}/state/m.room.guest_access");
    alice.put(&access, json!({ "guest_access": "can_join" })).await;
    let (status, answer) = world.ask(token, Method::POST, &join, Some(json!({}))).await;
    assert_eq!(status, 200, "{answer}");
    // Who is there as a guest has to go when guests may no longer be there.
    alice.put(&access, json!({ "guest_access": "forbidden" })).await;
    world.flows.finish_jobs().await;
    assert_eq!(alice.get(&state).await["membership"], "leave");
    // Or when what let them in is redacted.
    let event = alice.put(&access, json!({ "guest_access": "can_join" })).await["event_id"].clone();
    let (status, answer) = world.ask(token, Method::POST, &join, Some(json!({}))).await;
    assert_eq!(status, 200, "{answer}");
    alice.put(&format!("/v3/rooms/{room}/redact/{}/1", event.as_str().unwrap()), json!({})).await;
    world.flows.finish_jobs().await;
    assert_eq!(alice.get(&state).await["membership"], "leave");
    let (status, _) = world.ask(token, Method::POST, &join, Some(json!({}))).await;
    assert_eq!(status, 403);
}

#[tokio::test]
async fn pages_and_entries_are_as_clients_expect_them() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let room = alice.create_room(json!({ "preset": "public_chat", "visibility": "public", "name": "Reef" })).await;
    let page = alice.get("/v3/publicRooms").await;
    let mut fields: Vec<&String> = page["chunk"][0].as_object().unwrap().keys().collect();
    fields.sort();
    let expected = ["guest_can_join", "join_rule", "name", "num_joined_members", "room_id", "world_readable"];
    assert_eq!(fields, expected);
    // Nobody asks for nothing.
    let messages = alice.get(&format!("/v3/rooms/{room}/messages?dir=b&limit=0")).await;
    let events = messages["chunk"].as_array().unwrap().len();
    assert!(events > 1, "{messages}");
    // What has events has an end, and what comes after it has neither.
    let end = messages["end"].as_str().unwrap();
    let after = alice.get(&format!("/v3/rooms/{room}/messages?dir=b&limit=100&from={end}")).await;
    assert_eq!((&after["chunk"], after.get("end")), (&json!([]), None));
}

#[tokio::test]
async fn filters_keep_no_nulls() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let filters = format!("/v3/user/{}/filter", alice.id);
    let filter = json!({ "room": { "timeline": { "limit": 5, "types": null }, "state": null }, "presence": null });
    let id = alice.post(&filters, filter).await["filter_id"].clone();
    let id = id.as_str().unwrap();
    let kept = alice.get(&format!("{filters}/{id}")).await;
    assert_eq!(kept, json!({ "room": { "timeline": { "limit": 5 } } }));
    alice.get(&format!("/v3/sync?filter={id}")).await;
    alice.get("/v3/sync?filter=%7B%22presence%22%3Anull%7D").await;
}

/// What is counted by old rules stays what it is, after a change of the rules too.
#[tokio::test]
async fn a_change_of_push_rules_changes_what_comes_after() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let bob = world.register("bob").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.post(&format!("/v3/rooms/{room}/join"), json!({})).await;
    let say = async |number: usize| {
        alice
            .put(
                &format!("/v3/rooms/{room}/send/m.room.message/{number}"),
                json!({ "msgtype": "m.text", "body": "hi" }),
            )
            .await;
    };
    let mute = "/v3/pushrules/global/override/mute";
    let condition = json!({ "kind": "event_match", "key": "type", "pattern": "m.room.message" });
    bob.put(mute, json!({ "conditions": [condition], "actions": [] })).await;
    for number in 0..4 {
        say(number).await;
    }
    bob.delete(mute).await;
    let count = async || {
        let body = bob.get("/v3/sync").await;
        let (_, joined) = body["rooms"]["join"].as_object().unwrap().iter().next().unwrap();
        joined["unread_notifications"]["notification_count"].clone()
    };
    assert_eq!(count().await, 0);
    say(4).await;
    assert_eq!(count().await, 1);
    // Whom one ignores from now on was heard until now.
    let ignored = json!({ "ignored_users": { (alice.id.as_str()): {} } });
    bob.put(&format!("/v3/user/{}/account_data/m.ignored_user_list", bob.id), ignored).await;
    say(5).await;
    assert_eq!(count().await, 1);
}

#[tokio::test]
async fn a_guest_becomes_a_user_and_stays_in_their_rooms() {
    let world = World::with(|config| {
        config.allow_registration = true;
        config.allow_guest_registration = true;
    })
    .await;
    let (_, guest) = world.ask(None, Method::POST, "/v3/register?kind=guest", Some(json!({}))).await;
    let (token, id) = (guest["access_token"].as_str(), guest["user_id"].as_str().unwrap());
    let name = id.trim_start_matches('@').split(':').next().unwrap();
    let alice = world.register("alice").await;
    let register = |name: &str, token: Option<&str>| {
        let auth = json!({ "type": "m.login.dummy" });
        json!({ "username": name, "password": "a long secret", "guest_access_token": token, "auth": auth })
    };
    let path = "/v3/register";
    for (name, token, expected) in [
        (name, Some("nonsense"), (401, "M_UNKNOWN_TOKEN")),
        ("somebody", token, (400, "M_INVALID_USERNAME")),
        ("alice", Some(&*alice.token), (403, "M_FORBIDDEN")),
    ] {
        let (status, answer) = world.ask(None, Method::POST, path, Some(register(name, token))).await;
        assert_eq!((status, answer["errcode"].as_str().unwrap_or("")), expected, "{answer}");
    }
    let (status, answer) = world.ask(None, Method::POST, path, Some(register(name, token))).await;
    assert_eq!((status, &answer["user_id"]), (200, &json!(id)), "{answer}");
    let (_, who) = world.ask(answer["access_token"].as_str(), Method::GET, "/v3/account/whoami", None).await;
    assert_eq!(who["is_guest"], false);
}

#[tokio::test]
async fn settings_go_along_into_an_upgraded_room() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let bob = world.register("bob").await;
    let old = alice.create_room(json!({ "preset": "public_chat", "room_version": "10", "name": "Reef" })).await;
    bob.post(&format!("/v3/rooms/{old}/join"), json!({})).await;
    let user = format!("/v3/user/{}", bob.id);
    bob.put(&format!("{user}/rooms/{old}/tags/m.favourite"), json!({ "order": 0.1 })).await;
    let rule = old.replace("%21", "!");
    bob.put(&format!("/v3/pushrules/global/room/{old}"), json!({ "actions": [] })).await;
    bob.put(&format!("{user}/account_data/m.direct"), json!({ alice.id.clone(): [rule] })).await;
    bob.fails(
        Method::POST,
        &format!("/v3/rooms/{old}/upgrade"),
        Some(json!({ "new_version": "12" })),
        (403, "M_FORBIDDEN"),
    )
    .await;
    let bad = json!({ "new_version": "nonsense" });
    alice
        .fails(Method::POST, &format!("/v3/rooms/{old}/upgrade"), Some(bad), (400, "M_UNSUPPORTED_ROOM_VERSION"))
        .await;
    let answer = alice.post(&format!("/v3/rooms/{old}/upgrade"), json!({ "new_version": "12" })).await;
    let new = answer["replacement_room"].as_str().unwrap().to_owned();
    let path = new.replace('!', "%21");
    bob.post(&format!("/v3/rooms/{path}/join"), json!({})).await;
    assert_eq!(bob.get(&format!("{user}/rooms/{path}/tags")).await["tags"]["m.favourite"]["order"], 0.1);
    bob.get(&format!("/v3/pushrules/global/room/{path}")).await;
    let direct = bob.get(&format!("{user}/account_data/m.direct")).await;
    assert!(direct[&alice.id].as_array().unwrap().contains(&json!(new)), "{direct}");
    let name = alice.get(&format!("/v3/rooms/{path}/state/m.room.name")).await;
    assert_eq!(name, json!({ "name": "Reef" }));
}

#[tokio::test]
async fn what_goes_along_counts_for_what_a_user_may_store() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let old = alice.create_room(json!({ "room_version": "10" })).await;
    let user = format!("/v3/user/{}", alice.id);
    let long = "x".repeat(200_000);
    alice.put(&format!("{user}/rooms/{old}/tags/u.long"), json!({ "org.example.text": long })).await;
    let direct = json!({ "@bob:example.org": [old.replace("%21", "!")] });
    alice.put(&format!("{user}/account_data/m.direct"), direct).await;
    alice.post(&format!("/v3/rooms/{old}/upgrade"), json!({ "new_version": "12" })).await;
    let (mut number, mut bytes) = (0, 250_000);
    while bytes > 1_000 {
        let content = serde_json::value::to_raw_value(&json!({ "text": "x".repeat(bytes) })).unwrap();
        let user = <&ruma::UserId>::try_from(alice.id.as_str()).unwrap();
        match world.users.set_account_data(user, None, &format!("org.{number}"), &content).await {
            Ok(()) => number += 1,
            Err(users::Error::UserLimit(_)) => bytes /= 2,
            Err(error) => panic!("{error}"),
        }
    }
    let user = <&ruma::UserId>::try_from(alice.id.as_str()).unwrap();
    let all = world.users.account_data_all(&world.store.view().await.unwrap(), user).await.unwrap();
    assert_eq!(all.iter().filter(|row| row.event_type == "m.tag").count(), 2);
    let stored = all.iter().filter(|row| row.event_type != "m.push_rules");
    let stored: usize = stored.map(|row| row.event_type.len() + row.content.get().len()).sum();
    assert!(stored as u64 <= users::ACCOUNT_DATA_TOTAL_BYTES_MAX, "{stored}");
}

#[tokio::test]
async fn forgetting_deletes_what_was_stored_about_the_room() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let tags = format!("/v3/user/{}/rooms/{room}/tags", alice.id);
    alice.put(&format!("{tags}/m.favourite"), json!({})).await;
    alice.post(&format!("/v3/rooms/{room}/leave"), json!({})).await;
    alice.post(&format!("/v3/rooms/{room}/forget"), json!({})).await;
    assert_eq!(alice.get(&tags).await, json!({ "tags": {} }));
}
