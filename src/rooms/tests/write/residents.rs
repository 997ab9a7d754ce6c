//! Who is where, in memory, against the tables.

use std::{collections::BTreeSet, sync::Arc};

use rooms::{Config, Ports, Preset, Residents, Rooms};
use ruma::{OwnedRoomId, OwnedUserId, RoomVersionId};
use store::Store;
use testkit::SeededRandom;

use crate::world::World;

type Memberships = BTreeSet<(OwnedRoomId, OwnedUserId)>;

/// A new process with the store of a world.
async fn restarted(world: &World) -> Rooms {
    let config = Config::new(world.name.clone());
    let random = Arc::new(SeededRandom::new(9));
    let opened = Rooms::open(config, world.store.clone(), world.clock.clone(), random, Ports::no_federation());
    opened.await.expect("rooms")
}

fn known(residents: &Residents) -> Memberships {
    let mut found = Memberships::new();
    for room in 0..residents.room_count() {
        let id = residents.room_id(room).expect("a room");
        residents.each_member(room, |user| {
            assert!(residents.rooms_now(user).contains(&room), "both ways");
            assert!(found.insert((id.clone(), residents.user_id(user).expect("a user").clone())), "once");
        });
    }
    let both_ways: usize = (0..residents.user_count()).map(|user| residents.rooms_now(user).len()).sum();
    assert_eq!(both_ways, found.len());
    found
}

async fn stored(rooms: &Rooms, store: &Store) -> Memberships {
    let all = rooms.all_local_members(&store.view().await.unwrap(), None, 10_000).await.expect("a scan");
    all.into_iter().collect()
}

#[tokio::test]
async fn who_is_where_is_what_the_tables_say_whenever_the_server_restarts() {
    for seed in testkit::seeds(20) {
        let random = SeededRandom::new(seed);
        let world = World::new().await;
        let mut rooms = world.rooms.clone();
        let users: Vec<OwnedUserId> = (0..6).map(|number| world.user(&format!("user{number}"))).collect();
        let mut places = Vec::new();
        for creator in &users[..4] {
            places.push(world.room(creator, Preset::PublicChat, &RoomVersionId::V11).await);
        }
        for step in 0..60 {
            let (user, room) = (&users[random.below(6)], &places[random.below(4)]);
            // Who leaves a room that they aren't in is refused.
            match random.below(3) {
                0 => drop(rooms.leave(user, room, None).await),
                _ => drop(rooms.join(user, room, None).await),
            }
            match random.below(12) {
                0 => drop(rooms.checkpoint_residents(random.below(8) as u64).await.expect("written")),
                1 => rooms = restarted(&world).await,
                _ => {}
            }
            let view = world.store.view().await.unwrap();
            let tables = stored(&rooms, &world.store).await;
            assert_eq!(known(rooms.residents()), tables, "seed {seed}, step {step}");
            let theirs: Vec<_> =
                tables.iter().filter(|(_, member)| member == user).map(|(room, _)| room.clone()).collect();
            assert_eq!(rooms.joined_rooms(&view, user).await.expect("a read"), theirs);
            let here = rooms.is_server_joined(&view, room, &world.name).await.expect("a read");
            assert_eq!(here, tables.iter().any(|(place, _)| place == room));
        }
    }
}
