//! Filters.

use serde_json::{json, value::to_raw_value};
use users::{Error, FILTER_BYTES_MAX, FILTERS_PER_USER_MAX};

use crate::world::world;

#[tokio::test]
async fn a_filter_is_kept_and_the_same_one_is_kept_once() {
    let world = world();
    let (alice, bob) = (world.register("alice").await, world.register("bob").await);
    let one = to_raw_value(&json!({"room": {"timeline": {"limit": 10}}})).unwrap();
    let other = to_raw_value(&json!({})).unwrap();
    let id = world.users.create_filter(&alice, &one).await.unwrap();
    assert!(!id.starts_with('{'));
    assert_eq!(world.users.create_filter(&alice, &one).await.unwrap(), id);
    assert_ne!(world.users.create_filter(&alice, &other).await.unwrap(), id);
    for _ in 0..2 {
        let read = world.users.filter(&world.view(), &alice, &id).await.unwrap().unwrap();
        assert_eq!(read.get(), one.get());
    }
    assert!(world.users.filter(&world.view(), &bob, &id).await.unwrap().is_none());
    for unknown in ["99", "x", "", "-1"] {
        assert!(world.users.filter(&world.view(), &alice, unknown).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn filters_are_bounded_objects() {
    let world = world();
    let alice = world.register("alice").await;
    let list = to_raw_value(&json!([])).unwrap();
    assert!(matches!(world.users.create_filter(&alice, &list).await, Err(Error::NotAnObject)));
    let large = to_raw_value(&json!({"x": "y".repeat(FILTER_BYTES_MAX)})).unwrap();
    assert!(matches!(world.users.create_filter(&alice, &large).await, Err(Error::TooLarge { .. })));
    for number in 0..FILTERS_PER_USER_MAX {
        let filter = to_raw_value(&json!({"n": number})).unwrap();
        world.users.create_filter(&alice, &filter).await.unwrap();
    }
    let more = to_raw_value(&json!({"more": 1})).unwrap();
    assert!(matches!(world.users.create_filter(&alice, &more).await, Err(Error::TooMany(_))));
}
