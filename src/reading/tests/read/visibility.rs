//! Who may see what (client-server API, "Room History Visibility", "Ignoring Users").

use std::collections::HashSet;

use reading::{MessagesQuery, Viewer};
use rooms::RoomsError;
use serde_json::json;

use crate::world::{World, alice, bob, bodies, carol, value};

/// Says one thing before, one while invited, one while in the room, one after.
async fn stages(history: &str) -> Vec<String> {
    let world = World::new().await;
    let room = world.room(&[alice()]).await;
    world.set_history(alice(), &room, history).await;
    world.say(alice(), &room, "before").await;
    world.rooms.invite(alice(), &room, bob(), None).await.expect("invited");
    world.say(alice(), &room, "invited").await;
    world.join(bob(), &room).await;
    world.say(alice(), &room, "joined").await;
    world.leave(bob(), &room).await;
    world.say(alice(), &room, "after").await;
    world.heard(bob(), &room).await
}

#[tokio::test]
async fn each_setting_shows_its_part_of_history() {
    assert_eq!(stages("joined").await, ["joined"]);
    assert_eq!(stages("invited").await, ["invited", "joined"]);
    assert_eq!(stages("shared").await, ["before", "invited", "joined"]);
    assert_eq!(stages("world_readable").await, ["before", "invited", "joined", "after"]);
    assert_eq!(stages("nonsense").await, ["before", "invited", "joined"]);
}

#[tokio::test]
async fn strangers_read_only_what_the_world_may() {
    let world = World::new().await;
    let room = world.room(&[alice()]).await;
    let event = world.say(alice(), &room, "hi").await;
    let view = world.view().await;
    let (viewer, query) = (Viewer::new(bob()), MessagesQuery::default());
    let page = world.reading.room(&view, viewer, &room).messages(&query).await;
    assert!(matches!(page, Err(RoomsError::NotJoined)));
    assert!(world.event(bob(), &room, &event).await.is_none());

    world.set_history(alice(), &room, "world_readable").await;
    let later = world.say(alice(), &room, "open").await;
    assert!(world.event(bob(), &room, &later).await.is_some());
    // What was said before stays between those who may see it.
    assert!(world.event(bob(), &room, &event).await.is_none());
    assert_eq!(world.heard(bob(), &room).await, ["open"]);
}

#[tokio::test]
async fn changes_of_the_setting_are_seen_by_either_state() {
    let world = World::new().await;
    let room = world.room(&[alice()]).await;
    let open = json!({ "history_visibility": "world_readable" });
    let shut = json!({ "history_visibility": "joined" });
    let key = ("m.room.history_visibility", "");
    let opening = world.set(alice(), &room, key, open.clone()).await;
    let closing = world.set(alice(), &room, key, shut.clone()).await;
    let still = world.set(alice(), &room, key, json!({ "history_visibility": "joined", "x": 1 })).await;
    assert!(world.event(bob(), &room, &opening).await.is_some());
    assert!(world.event(bob(), &room, &closing).await.is_some());
    assert!(world.event(bob(), &room, &still).await.is_none());
}

/// A change to `shared` is as readable as what comes after it, also for those who join later and for other servers.
#[tokio::test]
async fn opening_the_history_is_part_of_it() {
    let world = World::new().await;
    let room = world.room(&[alice()]).await;
    let key = ("m.room.history_visibility", "");
    let hidden = world.set(alice(), &room, key, json!({ "history_visibility": "joined" })).await;
    world.say(alice(), &room, "closed").await;
    let opening = world.set(alice(), &room, key, json!({ "history_visibility": "shared" })).await;
    world.say(alice(), &room, "open").await;
    world.join(bob(), &room).await;
    assert_eq!(world.heard(bob(), &room).await, ["open"]);
    let page = world.page(bob(), &room, &MessagesQuery { limit: 100, ..Default::default() }).await;
    let seen = |event: &ruma::EventId| page.chunk.iter().any(|seen| value(seen)["event_id"] == event.as_str());
    // Before the first change it was shared, so that one counts by what was before it.
    assert!(seen(&hidden) && seen(&opening));
    assert!(world.event(bob(), &room, &opening).await.is_some());
    world.leave(bob(), &room).await;
    assert!(world.event(bob(), &room, &opening).await.is_some());
    assert!(world.event(carol(), &room, &opening).await.is_none());
}

/// That an event exists in another room isn't told, and looking for it there is no failure.
#[tokio::test]
async fn an_event_of_another_room_is_unknown() {
    let world = World::new().await;
    let (room, other) = (world.room(&[alice()]).await, world.room(&[alice()]).await);
    let elsewhere = world.say(alice(), &other, "elsewhere").await;
    let state = world.set(alice(), &other, ("m.room.name", ""), json!({ "name": "Other" })).await;
    let unknown = ruma::event_id!("$unknown").to_owned();
    // Nothing of either room's state is in memory.
    let world = world.restarted().await;
    let view = world.view().await;
    let reader = world.reading.room(&view, Viewer::new(alice()), &room);
    for event in [&elsewhere, &state, &unknown] {
        let one = reader.one_event(event).await;
        assert!(matches!(one, Err(RoomsError::EventNotFound)), "{one:?}");
        let context = reader.context(event, 10, &Default::default()).await;
        assert!(matches!(context, Err(RoomsError::EventNotFound)), "{context:?}");
        let relations = reader.relations(event, &Default::default()).await;
        assert!(matches!(relations, Err(RoomsError::EventNotFound)), "{relations:?}");
    }
}

#[tokio::test]
async fn one_sees_ones_own_leaving_and_joining_again() {
    let world = World::new().await;
    let room = world.room(&[alice()]).await;
    world.set_history(alice(), &room, "shared").await;
    world.join(bob(), &room).await;
    world.say(alice(), &room, "first time").await;
    world.leave(bob(), &room).await;
    world.say(alice(), &room, "away").await;
    assert_eq!(world.heard(bob(), &room).await, ["first time"]);
    let page = world.page(bob(), &room, &MessagesQuery { limit: 1, ..Default::default() }).await;
    let leaving = value(&page.chunk[0]);
    assert_eq!(leaving["content"]["membership"], "leave");
    assert_eq!(leaving["unsigned"]["membership"], "leave");

    world.rooms.invite(alice(), &room, bob(), None).await.expect("invited");
    world.leave(bob(), &room).await;
    // Refusing an invite doesn't show what was said since.
    assert_eq!(world.heard(bob(), &room).await, ["first time"]);
    world.join(bob(), &room).await;
    assert_eq!(world.heard(bob(), &room).await, ["first time", "away"]);
}

#[tokio::test]
async fn a_forgotten_room_is_a_strange_room() {
    let world = World::new().await;
    let room = world.room(&[alice(), bob()]).await;
    let event = world.say(alice(), &room, "hi").await;
    world.leave(bob(), &room).await;
    world.rooms.forget(bob(), &room).await.expect("forgotten");
    let (view, query) = (world.view().await, MessagesQuery::default());
    let reader = world.reading.room(&view, Viewer::new(bob()), &room);
    let page = reader.messages(&query).await;
    assert!(matches!(page, Err(RoomsError::NotJoined)));
    // Nor is it read event by event, unless all the world may.
    let one = reader.one_event(&event).await;
    assert!(matches!(one, Err(RoomsError::EventNotFound)), "{one:?}");
    let context = reader.context(&event, 10, &Default::default()).await;
    assert!(matches!(context, Err(RoomsError::EventNotFound)), "{context:?}");
    let relations = reader.relations(&event, &Default::default()).await;
    assert!(matches!(relations, Err(RoomsError::EventNotFound)), "{relations:?}");
    world.set_history(alice(), &room, "world_readable").await;
    assert!(world.event(bob(), &room, &event).await.is_some());
}

#[tokio::test]
async fn ignored_users_are_not_heard_but_their_state_counts() {
    let world = World::new().await;
    let room = world.room(&[alice(), bob(), carol()]).await;
    world.say(alice(), &room, "from alice").await;
    world.say(carol(), &room, "from carol").await;
    let ignored = HashSet::from([carol().to_owned()]);
    let viewer = Viewer { ignored: &ignored, ..Viewer::new(bob()) };
    let query = MessagesQuery { limit: 100, ..Default::default() };
    let page = world.reading.room(&world.view().await, viewer, &room).messages(&query).await.expect("a page");
    assert_eq!(bodies(&page.chunk), ["from alice"]);
    let of_carol = |event: &&reading::ClientEvent| value(event)["sender"] == carol().as_str();
    assert_eq!(page.chunk.iter().filter(of_carol).count(), 1);
}

#[tokio::test]
async fn erased_senders_are_redacted_for_those_who_came_later() {
    let world = World::new().await;
    let room = world.room(&[alice(), bob()]).await;
    world.set_history(alice(), &room, "shared").await;
    let event = world.say(bob(), &room, "secret").await;
    world.join(carol(), &room).await;
    let erased = HashSet::from([bob().to_owned()]);
    let see = async |user| {
        let viewer = Viewer { erased: &erased, ..Viewer::new(user) };
        let event = world.reading.room(&world.view().await, viewer, &room).one_event(&event).await;
        value(&event.expect("an event"))
    };
    assert_eq!(see(alice()).await["content"]["body"], "secret");
    assert_eq!(see(carol()).await["content"], json!({}));
}
