//! Members and summaries of members.

use reading::{MembersQuery, TimelineToken, Viewer};
use rooms::{Membership, RoomsError};
use ruma::{UserId, user_id};
use serde_json::json;

use crate::world::{World, alice, bob, carol, raw, value};

async fn members(world: &World, user: &UserId, room: &ruma::RoomId, query: MembersQuery) -> Vec<String> {
    let events =
        world.reading.room(&world.view().await, Viewer::new(user), room).members(query).await.expect("members");
    let mut names = Vec::new();
    for event in events {
        let event = value(&event);
        let (user, membership) = (&event["state_key"], &event["content"]["membership"]);
        names.push(format!("{} {}", user.as_str().unwrap_or(""), membership.as_str().unwrap_or("")));
    }
    names
}

#[tokio::test]
async fn members_by_membership_and_time() {
    let world = World::new().await;
    let room = world.room(&[alice(), bob()]).await;
    let then = TimelineToken::at(world.view().await.position());
    world.leave(bob(), &room).await;
    world.rooms.invite(alice(), &room, carol(), None).await.expect("invited");
    let all = MembersQuery::default();
    assert_eq!(
        members(&world, alice(), &room, all).await,
        ["@alice:here join", "@bob:here leave", "@carol:here invite"]
    );
    let joined = MembersQuery { membership: Some(Membership::Join), ..all };
    assert_eq!(members(&world, alice(), &room, joined).await, ["@alice:here join"]);
    let stayed = MembersQuery { not_membership: Some(Membership::Leave), ..all };
    assert_eq!(members(&world, alice(), &room, stayed).await, ["@alice:here join", "@carol:here invite"]);
    let at = MembersQuery { at: Some(then), ..all };
    assert_eq!(members(&world, alice(), &room, at).await, ["@alice:here join", "@bob:here join"]);
    // Who left gets the members as they left them.
    assert_eq!(members(&world, bob(), &room, all).await, ["@alice:here join", "@bob:here leave"]);
    let stranger = Viewer::new(user_id!("@dan:here"));
    let refused = world.reading.room(&world.view().await, stranger, &room).members(all).await;
    assert!(matches!(refused, Err(RoomsError::NotJoined)));
}

#[tokio::test]
async fn profiles_of_the_joined() {
    let world = World::new().await;
    let room = world.room(&[alice()]).await;
    let profile = raw(json!({ "displayname": "Bob", "avatar_url": "mxc://here/bob" }));
    world.rooms.join(bob(), &room, Some(&*profile)).await.expect("joined");
    let joined =
        world.reading.room(&world.view().await, Viewer::new(alice()), &room).joined_profiles().await.expect("profiles");
    assert_eq!(joined.len(), 2);
    assert_eq!(joined[1].display_name.as_deref(), Some("Bob"));
    assert_eq!(joined[1].avatar_url.as_deref(), Some("mxc://here/bob"));
    let refused = world.reading.room(&world.view().await, Viewer::new(carol()), &room).joined_profiles().await;
    assert!(matches!(refused, Err(RoomsError::NotJoined)));
}

#[tokio::test]
async fn a_redacted_profile_is_not_shown() {
    let world = World::new().await;
    let room = world.room(&[alice(), bob()]).await;
    let content = json!({ "membership": "join", "displayname": "Insult" });
    let member = world.set(bob(), &room, ("m.room.member", bob().as_str()), content).await;
    world.redact(alice(), &room, &member).await;
    let joined =
        world.reading.room(&world.view().await, Viewer::new(alice()), &room).joined_profiles().await.expect("profiles");
    assert_eq!(joined.len(), 2);
    assert_eq!(joined[1].display_name, None);
}

#[tokio::test]
async fn members_of_a_time_that_one_may_not_see_are_not_told() {
    let world = World::new().await;
    let room = world.room(&[alice(), carol()]).await;
    world.set_history(alice(), &room, "joined").await;
    let then = TimelineToken::at(world.view().await.position());
    world.leave(carol(), &room).await;
    world.join(bob(), &room).await;
    let query = MembersQuery { at: Some(then), membership: Some(Membership::Join), not_membership: None };
    assert_eq!(members(&world, alice(), &room, query).await, ["@alice:here join", "@carol:here join"]);
    assert_eq!(members(&world, bob(), &room, query).await, ["@alice:here join", "@bob:here join"]);
}

#[tokio::test]
async fn heroes_stand_for_rooms_without_a_name() {
    let world = World::new().await;
    let room = world.room(&[carol(), alice()]).await;
    world.rooms.invite(carol(), &room, bob(), None).await.expect("invited");
    let summary = async |user| {
        let view = world.view().await;
        let root = world.rooms.head(&view, &room).await.expect("read").expect("a head").root;
        world.reading.room(&view, Viewer::new(user), &room).member_summary(root).await.expect("a summary")
    };
    let of_alice = summary(alice()).await;
    assert_eq!((of_alice.joined, of_alice.invited), (2, 1));
    // In the order in which they came, without the asker.
    assert_eq!(of_alice.heroes, Some(vec![carol().to_owned(), bob().to_owned()]));
    assert_eq!(summary(carol()).await.heroes, Some(vec![alice().to_owned(), bob().to_owned()]));

    world.leave(bob(), &room).await;
    world.leave(alice(), &room).await;
    let gone = vec![bob().to_owned(), alice().to_owned()];
    assert_eq!(summary(carol()).await.heroes, Some(gone));
    world.set(carol(), &room, ("m.room.name", ""), json!({ "name": "A room" })).await;
    assert_eq!(summary(carol()).await.heroes, None);
}
