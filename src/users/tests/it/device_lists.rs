//! Rows of whose keys changed.

use ruma::{OwnedUserId, UserId};
use store::{Batch, CommitError, Position};

use crate::world::{World, user, world};

async fn change(world: &World, who: &UserId) -> Result<Position, CommitError> {
    let (view, mut batch) = (world.view(), Batch::new());
    world.users.prepare_remote_device_list(&view, &mut batch, who, Vec::new()).await.unwrap();
    world.store.commit(batch).await
}

async fn changes(world: &World, since: Position, limit: usize) -> Vec<OwnedUserId> {
    world.users.device_list_changes(&world.view(), since, limit).await.unwrap()
}

#[tokio::test]
async fn each_user_is_listed_once_at_the_last_change() {
    let world = world();
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
    let positions = world.users.device_list_positions(&world.view(), &asked).await.unwrap();
    assert_eq!(positions, [None, Some(second), Some(third)]);
}

#[tokio::test]
async fn of_two_changes_at_once_one_is_built_again() {
    let world = world();
    let alice = user("alice");
    change(&world, &alice).await.unwrap();
    let (view, mut one, mut other) = (world.view(), Batch::new(), Batch::new());
    world.users.prepare_remote_device_list(&view, &mut one, &alice, Vec::new()).await.unwrap();
    world.users.prepare_remote_device_list(&view, &mut other, &alice, Vec::new()).await.unwrap();
    world.store.commit(one).await.unwrap();
    assert!(matches!(world.store.commit(other).await, Err(CommitError::Conflict)));
    assert_eq!(changes(&world, Position::ZERO, 10).await, [alice]);
}
