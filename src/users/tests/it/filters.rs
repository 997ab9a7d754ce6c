//! Filters.

use serde_json::{json, value::to_raw_value};
use users::{Error, FILTER_BYTES_MAX, FILTERS_PER_USER_MAX};

use crate::world::{another, config, world};

#[tokio::test]
async fn a_filter_is_kept_and_the_same_one_is_kept_once() {
    let world = world().await;
    let (alice, bob) = (world.register("alice").await, world.register("bob").await);
    let one = to_raw_value(&json!({"room": {"timeline": {"limit": 10}}})).unwrap();
    let other = to_raw_value(&json!({})).unwrap();
    let id = world.users.create_filter(&alice, &one).await.unwrap();
    assert!(!id.starts_with('{'));
    assert_eq!(world.users.create_filter(&alice, &one).await.unwrap(), id);
    assert_ne!(world.users.create_filter(&alice, &other).await.unwrap(), id);
    for _ in 0..2 {
        let read = world.users.filter(&world.view().await, &alice, &id).await.unwrap().unwrap();
        assert_eq!(read.get(), one.get());
    }
    assert!(world.users.filter(&world.view().await, &bob, &id).await.unwrap().is_none());
    for unknown in ["99", "x", "", "-1"] {
        assert!(world.users.filter(&world.view().await, &alice, unknown).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn filters_are_bounded_objects() {
    let world = world().await;
    let alice = world.register("alice").await;
    let list = to_raw_value(&json!([])).unwrap();
    assert!(matches!(world.users.create_filter(&alice, &list).await, Err(Error::NotAnObject)));
    let large = to_raw_value(&json!({"x": "y".repeat(FILTER_BYTES_MAX)})).unwrap();
    assert!(matches!(world.users.create_filter(&alice, &large).await, Err(Error::TooLarge { .. })));
}

#[tokio::test]
async fn filters_that_were_not_used_for_longest_make_room_for_others() {
    let world = world().await;
    let alice = world.register("alice").await;
    let filter = |number: usize| to_raw_value(&json!({"n": number})).unwrap();
    let mut ids = Vec::new();
    for number in 0..FILTERS_PER_USER_MAX {
        ids.push(world.users.create_filter(&alice, &filter(number)).await.unwrap());
    }
    world.pass_ms(2 * 24 * 60 * 60 * 1000);
    // The oldest is used by a client, the next is defined again.
    assert!(world.users.filter(&world.view().await, &alice, &ids[0]).await.unwrap().is_some());
    assert_eq!(world.users.create_filter(&alice, &filter(1)).await.unwrap(), ids[1]);
    // Other users of the store, who keep nothing in memory, tell what is stored.
    for more in 0..3 {
        world.users.create_filter(&alice, &filter(FILTERS_PER_USER_MAX + more)).await.unwrap();
    }
    let stored = another(&world.store, &world.clock, config()).await;
    let mut gone = Vec::new();
    for id in &ids {
        if stored.filter(&world.view().await, &alice, id).await.unwrap().is_none() {
            gone.push(id);
        }
    }
    assert_eq!(gone, [&ids[2], &ids[3], &ids[4]]);
    assert_ne!(world.users.create_filter(&alice, &filter(2)).await.unwrap(), ids[2]);
}
