//! Rows of whose keys changed.

use ruma::{OwnedUserId, UserId};
use store::{Batch, CommitError, Position};
use users::DEVICE_LIST_CHANGES_KEPT;

use crate::world::{World, user, world};

async fn change(world: &World, who: &UserId) -> Result<Position, CommitError> {
    let (view, mut batch) = (world.view().await, Batch::new());
    world.users.prepare_remote_device_list(&view, &mut batch, who, Vec::new()).await.unwrap();
    world.store.commit(batch).await
}

async fn changes(world: &World, since: Position, limit: usize) -> Vec<OwnedUserId> {
    let changes = world.users.device_list_changes(&world.view().await, since, limit).await.unwrap();
    changes.into_iter().map(|(user, _)| user).collect()
}

#[tokio::test]
async fn each_user_is_listed_once_at_the_last_change() {
    let world = world().await;
    let (alice, bob, carol) = (user("alice"), user("bob"), user("carol"));
    let first = change(&world, &alice).await.unwrap();
    let second = change(&world, &bob).await.unwrap();
    let third = change(&world, &alice).await.unwrap();
    assert_eq!(changes(&world, Position::ZERO, 10).await, [bob.clone(), alice.clone()]);
    assert_eq!(changes(&world, first, 10).await, [bob.clone(), alice.clone()]);
    assert_eq!(changes(&world, first, 1).await, std::slice::from_ref(&bob));
    assert_eq!(changes(&world, second, 10).await, std::slice::from_ref(&alice));
    assert!(changes(&world, third, 10).await.is_empty());
    let asked = [&*carol, &*bob, &*alice];
    let positions = world.users.device_list_positions(&world.view().await, &asked).await.unwrap();
    assert_eq!(positions, [None, Some(second), Some(third)]);
}

#[tokio::test]
async fn of_two_changes_at_once_one_is_built_again() {
    let world = world().await;
    let alice = user("alice");
    change(&world, &alice).await.unwrap();
    let (view, mut one, mut other) = (world.view().await, Batch::new(), Batch::new());
    world.users.prepare_remote_device_list(&view, &mut one, &alice, Vec::new()).await.unwrap();
    world.users.prepare_remote_device_list(&view, &mut other, &alice, Vec::new()).await.unwrap();
    world.store.commit(one).await.unwrap();
    assert!(matches!(world.store.commit(other).await, Err(CommitError::Conflict)));
    assert_eq!(changes(&world, Position::ZERO, 10).await, [alice]);
}

#[tokio::test]
async fn it_is_known_for_a_while_when_keys_changed() {
    let world = world().await;
    let alice = user("alice");
    let mut positions = Vec::new();
    for _ in 0..DEVICE_LIST_CHANGES_KEPT + 8 {
        change(&world, &user("bob")).await.unwrap();
        positions.push(change(&world, &alice).await.unwrap());
    }
    let changed = async |since: Position, until: Position| {
        world.users.device_list_changed_between(&world.view().await, &alice, since, until).await.unwrap()
    };
    let before = |position: Position| Position::from_u64(position.get() - 1);
    for pair in positions[8..].windows(2) {
        assert!(!changed(pair[0], before(pair[1])).await);
        assert!(changed(before(pair[0]), pair[0]).await && changed(pair[0], pair[1]).await);
    }
    // Where it isn't known any more it is better to ask for keys in vain.
    assert!(changed(positions[3], before(positions[4])).await);
}
