//! Rooms: making, entering, leaving, moderating, state, aliases, the directory, upgrades.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Server, User, encode};

#[tokio::test]
async fn presets_give_the_specified_state() {
    let server = Server::start();
    let alice = server.register("alice").await;
    for (preset, join_rule, history, guests) in [
        ("private_chat", "invite", "shared", "can_join"),
        ("trusted_private_chat", "invite", "shared", "can_join"),
        ("public_chat", "public", "shared", "forbidden"),
    ] {
        let room = alice.create_room(json!({ "preset": preset, "name": "Reef", "topic": "Fish" })).await;
        let state = |kind: &str| format!("/v3/rooms/{room}/state/{kind}");
        assert_eq!(alice.get(&state("m.room.join_rules")).await["join_rule"], join_rule);
        assert_eq!(alice.get(&state("m.room.history_visibility")).await["history_visibility"], history);
        assert_eq!(alice.get(&state("m.room.guest_access/")).await["guest_access"], guests);
        assert_eq!(alice.get(&state("m.room.name/")).await["name"], "Reef");
        assert_eq!(alice.get(&state("m.room.topic")).await["topic"], "Fish");
    }
}

#[tokio::test]
async fn new_rooms_are_encrypted_by_default_where_the_admin_wants_it() {
    let algorithm = json!("m.megolm.v1.aes-sha2");
    for (setting, private, public) in [("off", false, false), ("invite", true, false), ("all", true, true)] {
        let server = Server::start_with(&format!("encryption_enabled_by_default_for_room_type = \"{setting}\"\n"));
        let alice = server.register("alice").await;
        let encryption = async |request: Value| {
            let room = alice.create_room(request).await;
            let state = alice.get(&format!("/v3/rooms/{}/state", encode(&room))).await;
            let events = state.as_array().expect("events").clone();
            let found = events.into_iter().find(|event| event["type"] == "m.room.encryption");
            found.map(|event| event["content"].clone())
        };
        for (preset, encrypted) in
            [("private_chat", private), ("trusted_private_chat", private), ("public_chat", public)]
        {
            let expected = encrypted.then(|| json!({ "algorithm": algorithm }));
            assert_eq!(encryption(json!({ "preset": preset })).await, expected, "{setting} {preset}");
        }
        let own = json!({ "algorithm": algorithm, "rotation_period_msgs": 7 });
        let state = json!([{ "type": "m.room.encryption", "content": own }]);
        assert_eq!(encryption(json!({ "initial_state": state })).await, Some(own));
        assert_eq!(encryption(json!({ "creation_content": { "type": "m.space" } })).await, None);
    }
}

#[tokio::test]
async fn new_rooms_are_closed_to_other_servers_where_the_admin_wants_it() {
    let federate = async |alice: &User<'_>, room: &str| {
        let create = alice.get(&format!("/v3/rooms/{}/state/m.room.create", encode(room))).await;
        create.get("m.federate").cloned()
    };
    let mut server = Server::start_with("allow_federation = false\n");
    let alice = server.register("alice").await;
    let closed = alice.create_room(json!({})).await;
    assert_eq!(federate(&alice, &closed).await, Some(json!(false)));
    for asked in [true, false] {
        let room = alice.create_room(json!({ "creation_content": { "m.federate": asked } })).await;
        assert_eq!(federate(&alice, &room).await, Some(json!(asked)));
    }
    let token = alice.token.clone();
    server.stop();
    server.set("allow_federation = true\n");
    server.restart();
    let alice = server.user("@alice:localhost", "FIRST", &token);
    let open = alice.create_room(json!({})).await;
    assert_eq!(federate(&alice, &open).await, None);
    let upgraded = async |alice: &User<'_>, room: &str| {
        let path = format!("/v3/rooms/{}/upgrade", encode(room));
        let answer = alice.post(&path, json!({ "new_version": "12" })).await;
        federate(alice, answer["replacement_room"].as_str().expect("a room")).await
    };
    assert_eq!(upgraded(&alice, &closed).await, Some(json!(false)), "what replaces a closed room is closed");
    server.stop();
    server.set("allow_federation = false\n");
    server.restart();
    let alice = server.user("@alice:localhost", "FIRST", &token);
    assert_eq!(upgraded(&alice, &open).await, None, "what replaces an open room is open");
}

#[tokio::test]
async fn room_creation_takes_versions_overrides_and_initial_state() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    for version in ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"] {
        let room = alice
            .create_room(json!({
                "room_version": version,
                "creation_content": { "org.example.kind": "test" },
                "power_level_content_override": { "users_default": 1, "events": { "m.room.topic": 0 } },
                "initial_state": [{ "type": "org.example.colour", "content": { "colour": "blue" } }],
                "invite": [bob.id],
            }))
            .await;
        let path = format!("/v3/rooms/{}/state", encode(&room));
        let create = alice.get(&format!("{path}/m.room.create")).await;
        assert_eq!(create["room_version"], version);
        assert_eq!(create["org.example.kind"], "test");
        let levels = alice.get(&format!("{path}/m.room.power_levels")).await;
        assert_eq!((&levels["users_default"], &levels["events"]["m.room.topic"]), (&json!(1), &json!(0)));
        assert_eq!(alice.get(&format!("{path}/org.example.colour")).await["colour"], "blue");
        bob.join(&room).await;
        let id = bob.say(&room, "t", "hello").await;
        assert_eq!(
            alice.get(&format!("/v3/rooms/{}/event/{}", encode(&room), encode(&id))).await["type"],
            "m.room.message"
        );
    }
    let unknown = Some(json!({ "room_version": "99" }));
    alice.fails(Method::POST, "/v3/createRoom", unknown, 400, "M_UNSUPPORTED_ROOM_VERSION").await;
    let bad = Some(json!({ "preset": "no_such" }));
    let (status, _) = alice.call(Method::POST, "/_matrix/client/v3/createRoom", bad).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn invites_are_needed_and_can_be_refused() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_room(json!({ "preset": "private_chat" })).await;
    let at = format!("/v3/rooms/{}", encode(&room));
    bob.fails(Method::POST, &format!("{at}/join"), Some(json!({})), 403, "M_FORBIDDEN").await;
    bob.fails(Method::GET, &format!("{at}/state"), None, 403, "M_FORBIDDEN").await;
    bob.fails(Method::GET, &format!("{at}/messages?dir=b"), None, 403, "M_FORBIDDEN").await;

    alice.post(&format!("{at}/invite"), json!({ "user_id": bob.id, "reason": "come" })).await;
    let invited = bob.sync(None).await;
    let stripped = invited["rooms"]["invite"][&room]["invite_state"]["events"].as_array().expect("stripped").clone();
    assert!(stripped.iter().any(|event| event["type"] == "m.room.member" && event["state_key"] == json!(bob.id)));
    assert!(stripped.iter().any(|event| event["type"] == "m.room.join_rules"));
    bob.post(&format!("{at}/leave"), json!({})).await;
    bob.fails(Method::POST, &format!("{at}/join"), Some(json!({})), 403, "M_FORBIDDEN").await;
    let after = bob.sync(invited["next_batch"].as_str()).await;
    assert!(after["rooms"]["invite"].get(&room).is_none());

    alice.post(&format!("{at}/invite"), json!({ "user_id": bob.id })).await;
    let answer = bob.post(&format!("{at}/join"), json!({})).await;
    assert_eq!(answer, json!({ "room_id": room }));
    assert_eq!(bob.get("/v3/joined_rooms").await, json!({ "joined_rooms": [room] }));
    let members = bob.get(&format!("{at}/members")).await;
    assert_eq!(members["chunk"].as_array().expect("chunk").len(), 2);
    let joined = bob.get(&format!("{at}/joined_members")).await;
    assert!(joined["joined"].get(&alice.id).is_some() && joined["joined"].get(&bob.id).is_some());
}

#[tokio::test]
async fn moderation_needs_power() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let carol = server.register("carol").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let at = format!("/v3/rooms/{}", encode(&room));
    bob.join(&room).await;
    carol.join(&room).await;
    let target = json!({ "user_id": carol.id, "reason": "spam" });
    bob.fails(Method::POST, &format!("{at}/kick"), Some(target.clone()), 403, "M_FORBIDDEN").await;
    bob.fails(Method::POST, &format!("{at}/ban"), Some(target.clone()), 403, "M_FORBIDDEN").await;
    alice.post(&format!("{at}/kick"), target.clone()).await;
    let member = format!("{at}/state/m.room.member/{}", encode(&carol.id));
    let kicked = alice.get(&member).await;
    assert_eq!((&kicked["membership"], &kicked["reason"]), (&json!("leave"), &json!("spam")));
    carol.join(&room).await;
    alice.post(&format!("{at}/ban"), target.clone()).await;
    carol.fails(Method::POST, &format!("{at}/join"), Some(json!({})), 403, "M_FORBIDDEN").await;
    let banned = alice.get(&format!("{at}/members?membership=ban")).await;
    assert_eq!(banned["chunk"].as_array().expect("chunk").len(), 1);
    alice.post(&format!("{at}/unban"), json!({ "user_id": carol.id })).await;
    carol.join(&room).await;
}

#[tokio::test]
async fn knocking_and_restricted_rooms() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let knock = json!([{ "type": "m.room.join_rules", "content": { "join_rule": "knock" } }]);
    let room = alice.create_room(json!({ "initial_state": knock })).await;
    bob.post(&format!("/v3/knock/{}", encode(&room)), json!({ "reason": "please" })).await;
    let answer = bob.sync(None).await;
    assert!(answer["rooms"]["knock"][&room]["knock_state"]["events"].is_array(), "{answer}");
    alice.post(&format!("/v3/rooms/{}/invite", encode(&room)), json!({ "user_id": bob.id })).await;
    bob.join(&room).await;

    let allow = json!([{ "type": "m.room.join_rules", "content": {
        "join_rule": "restricted", "allow": [{ "type": "m.room_membership", "room_id": room }],
    } }]);
    let inner = alice.create_room(json!({ "initial_state": allow })).await;
    bob.join(&inner).await;
    let carol = server.register("carol").await;
    carol.fails(Method::POST, &format!("/v3/join/{}", encode(&inner)), Some(json!({})), 403, "M_FORBIDDEN").await;
}

#[tokio::test]
async fn a_left_room_can_be_forgotten() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let at = format!("/v3/rooms/{}", encode(&room));
    alice.fails(Method::POST, &format!("{at}/forget"), Some(json!({})), 400, "M_UNKNOWN").await;
    alice.post(&format!("{at}/leave"), json!({})).await;
    let filter = encode(r#"{"room":{"include_leave":true}}"#);
    let answer = alice.get(&format!("/v3/sync?filter={filter}")).await;
    assert!(answer["rooms"]["leave"].get(&room).is_some(), "{answer}");
    alice.post(&format!("{at}/forget"), json!({})).await;
    let answer = alice.get(&format!("/v3/sync?filter={filter}")).await;
    assert!(answer["rooms"]["leave"].get(&room).is_none(), "{answer}");
    alice.fails(Method::GET, &format!("{at}/messages?dir=b"), None, 403, "M_FORBIDDEN").await;
}

#[tokio::test]
async fn state_is_set_and_read() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    let at = format!("/v3/rooms/{}/state", encode(&room));
    alice.put(&format!("{at}/org.example.colour/sea"), json!({ "colour": "blue" })).await;
    assert_eq!(bob.get(&format!("{at}/org.example.colour/sea")).await, json!({ "colour": "blue" }));
    let event = bob.get(&format!("{at}/org.example.colour/sea?format=event")).await;
    assert_eq!((&event["sender"], &event["content"]["colour"]), (&json!(alice.id), &json!("blue")));
    bob.fails(Method::GET, &format!("{at}/org.example.colour/land"), None, 404, "M_NOT_FOUND").await;
    bob.fails(Method::PUT, &format!("{at}/m.room.name"), Some(json!({ "name": "mine" })), 403, "M_FORBIDDEN").await;
    let all = bob.ok(Method::GET, &format!("/_matrix/client{at}"), None).await;
    let kinds: Vec<_> = all.as_array().expect("events").iter().map(|event| event["type"].clone()).collect();
    for kind in ["m.room.create", "m.room.member", "m.room.power_levels", "org.example.colour"] {
        assert!(kinds.contains(&json!(kind)), "{kind}");
    }
}

#[tokio::test]
async fn aliases_and_the_public_directory() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice
        .create_room(
            json!({ "preset": "public_chat", "visibility": "public", "name": "Coral reef", "room_alias_name": "reef" }),
        )
        .await;
    let (status, found) =
        server.request(Method::GET, "/_matrix/client/v3/directory/room/%23reef%3Alocalhost", None).await;
    assert_eq!((status, &found["room_id"]), (StatusCode::OK, &json!(room)));
    let other = "/v3/directory/room/%23kelp%3Alocalhost";
    bob.fails(Method::GET, other, None, 404, "M_NOT_FOUND").await;
    alice.put(other, json!({ "room_id": room })).await;
    let (status, answer) =
        alice.call(Method::PUT, &format!("/_matrix/client{other}"), Some(json!({ "room_id": room }))).await;
    assert_eq!((status, answer["errcode"].as_str()), (StatusCode::CONFLICT, Some("M_UNKNOWN")), "{answer}");
    let aliases = alice.get(&format!("/v3/rooms/{}/aliases", encode(&room))).await;
    assert_eq!(aliases["aliases"].as_array().expect("aliases").len(), 2);
    bob.fails(Method::DELETE, other, None, 403, "M_FORBIDDEN").await;
    alice.delete(other, None).await;
    bob.join("#reef:localhost").await;
    let in_use = Some(json!({ "room_alias_name": "reef" }));
    bob.fails(Method::POST, "/v3/createRoom", in_use, 400, "M_ROOM_IN_USE").await;

    for n in 0..3 {
        alice
            .create_room(json!({ "preset": "public_chat", "visibility": "public", "name": format!("Wreck {n}") }))
            .await;
    }
    let hidden = alice.create_room(json!({ "preset": "public_chat", "name": "Wreck hidden" })).await;
    let found = bob.post("/v3/publicRooms", json!({ "filter": { "generic_search_term": "CORAL" } })).await;
    assert_eq!(found["chunk"].as_array().expect("chunk").len(), 1, "{found}");
    let entry = &found["chunk"][0];
    assert_eq!(entry["num_joined_members"], 2);
    assert_eq!((&entry["name"], &entry["canonical_alias"]), (&json!("Coral reef"), &json!("#reef:localhost")));
    let mut names = Vec::new();
    let mut since = String::new();
    for _ in 0..10 {
        let page = bob.get(&format!("/v3/publicRooms?limit=2{since}")).await;
        for room in page["chunk"].as_array().expect("chunk") {
            names.push(room["name"].as_str().expect("name").to_owned());
        }
        match page["next_batch"].as_str() {
            Some(next) => since = format!("&since={}", encode(next)),
            None => break,
        }
    }
    names.sort();
    assert_eq!(names, ["Coral reef", "Wreck 0", "Wreck 1", "Wreck 2"]);
    let listed = format!("/v3/directory/list/room/{}", encode(&hidden));
    assert_eq!(alice.get(&listed).await["visibility"], "private");
    alice.put(&listed, json!({ "visibility": "public" })).await;
    assert_eq!(alice.get(&listed).await["visibility"], "public");
    bob.fails(Method::PUT, &listed, Some(json!({ "visibility": "private" })), 403, "M_FORBIDDEN").await;
}

#[tokio::test]
async fn an_upgrade_leaves_a_tombstone_and_copies_state() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_room(json!({ "preset": "public_chat", "name": "Reef", "room_version": "10" })).await;
    bob.join(&room).await;
    let at = format!("/v3/rooms/{}", encode(&room));
    bob.fails(Method::POST, &format!("{at}/upgrade"), Some(json!({ "new_version": "12" })), 403, "M_FORBIDDEN").await;
    let answer = alice.post(&format!("{at}/upgrade"), json!({ "new_version": "12" })).await;
    let next = answer["replacement_room"].as_str().expect("replacement_room");
    assert_eq!(alice.get(&format!("{at}/state/m.room.tombstone")).await["replacement_room"], next);
    let new = format!("/v3/rooms/{}/state", encode(next));
    let create = alice.get(&format!("{new}/m.room.create")).await;
    assert_eq!((&create["room_version"], &create["predecessor"]["room_id"]), (&json!("12"), &json!(room)));
    assert_eq!(alice.get(&format!("{new}/m.room.name")).await["name"], "Reef");
    bob.fails(Method::PUT, &format!("{at}/send/m.room.message/1"), Some(json!({ "body": "x" })), 403, "M_FORBIDDEN")
        .await;
    bob.join(next).await;
}

#[tokio::test]
async fn typing_and_receipts_reach_the_others() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    let at = format!("/v3/rooms/{}", encode(&room));
    let event = alice.say(&room, "1", "hello").await;
    let since = alice.sync(None).await["next_batch"].as_str().expect("token").to_owned();
    bob.put(&format!("{at}/typing/{}", encode(&bob.id)), json!({ "typing": true, "timeout": 30000 })).await;
    let answer = alice.sync_until(&since, |answer| answer.to_string().contains("m.typing")).await;
    let ephemeral = &answer["rooms"]["join"][&room]["ephemeral"]["events"];
    assert!(ephemeral.to_string().contains(&bob.id));
    let others = format!("{at}/typing/{}", encode(&alice.id));
    bob.fails(Method::PUT, &others, Some(json!({ "typing": true })), 403, "M_FORBIDDEN").await;

    let since = answer["next_batch"].as_str().expect("token").to_owned();
    bob.post(&format!("{at}/receipt/m.read/{}", encode(&event)), json!({})).await;
    let answer = alice.sync_until(&since, |answer| answer.to_string().contains("m.receipt")).await;
    let receipts = &answer["rooms"]["join"][&room]["ephemeral"]["events"];
    assert!(receipts.to_string().contains(&event) && receipts.to_string().contains("m.read"), "{receipts}");

    let private = bob.say(&room, "2", "mine").await;
    bob.post(&format!("{at}/receipt/m.read.private/{}", encode(&private)), json!({})).await;
    assert!(bob.sync(None).await.to_string().contains("m.read.private"));
    assert!(!alice.sync(None).await.to_string().contains("m.read.private"), "private receipts stay private");

    alice.post(&format!("{at}/read_markers"), json!({ "m.fully_read": event, "m.read": event })).await;
    let path = format!("/v3/user/{}/rooms/{}/account_data/m.fully_read", encode(&alice.id), encode(&room));
    assert_eq!(alice.get(&path).await, json!({ "event_id": event }));
}

#[tokio::test]
async fn a_room_can_be_looked_at_from_outside() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let open = alice.create_room(json!({ "preset": "public_chat", "name": "Reef" })).await;
    let closed = alice.create_room(json!({ "preset": "private_chat", "name": "Cave" })).await;
    let summary = bob.get(&format!("/v1/room_summary/{}", encode(&open))).await;
    assert_eq!((&summary["name"], &summary["num_joined_members"]), (&json!("Reef"), &json!(1)));
    bob.fails(Method::GET, &format!("/v1/room_summary/{}", encode(&closed)), None, 404, "M_NOT_FOUND").await;

    let space = alice
        .create_room(json!({ "preset": "public_chat", "name": "Sea", "creation_content": { "type": "m.space" } }))
        .await;
    for child in [&open, &closed] {
        let path = format!("/v3/rooms/{}/state/m.space.child/{}", encode(&space), encode(child));
        alice.put(&path, json!({ "via": ["localhost"] })).await;
    }
    let path = format!("/v1/rooms/{}/hierarchy", encode(&space));
    let seen = |answer: serde_json::Value| {
        let rooms = answer["rooms"].as_array().expect("rooms").clone();
        rooms.iter().map(|room| room["name"].as_str().unwrap_or("").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(seen(alice.get(&path).await).len(), 3);
    assert_eq!(seen(bob.get(&path).await), ["Sea", "Reef"]);
}

#[tokio::test]
async fn mutual_rooms_are_told() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let shared = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.create_room(json!({})).await;
    bob.join(&shared).await;
    let answer = alice.get(&format!("/v1/mutual_rooms?user_id={}", encode(&bob.id))).await;
    assert_eq!((&answer["joined"], &answer["count"]), (&json!([shared]), &json!(1)), "{answer}");
    let own = format!("/v1/mutual_rooms?user_id={}", encode(&alice.id));
    alice.fails(Method::GET, &own, None, 400, "M_INVALID_PARAM").await;
}
