//! Profiles.

use ruma::mxc_uri;
use serde_json::{Value, json, value::to_raw_value};
use users::{Error, PROFILE_BYTES_MAX, ProfileChange};

use crate::world::{World, user, world};

fn set(key: &str, value: Value) -> ProfileChange {
    ProfileChange::Set { key: key.to_owned(), value: to_raw_value(&value).unwrap() }
}

async fn fields(world: &World) -> Value {
    let profile = world.users.profile(&world.view().await, &user("alice")).await.unwrap();
    serde_json::to_value(profile.fields()).unwrap()
}

#[tokio::test]
async fn fields_are_set_and_deleted() {
    let world = world().await;
    let alice = world.register("alice").await;
    let changes = [
        ProfileChange::display_name("Alice"),
        ProfileChange::avatar_url(mxc_uri!("mxc://example.org/a")),
        set("m.tz", json!("Europe/London")),
        set("org.example.pronouns", json!([{"a": null}])),
        set("org.example.nothing", json!(null)),
        set("org.example-dash.x", json!(1.5)),
    ];
    for change in &changes {
        world.users.change_profile(&alice, change).await.unwrap();
    }
    let all = json!({"displayname": "Alice", "avatar_url": "mxc://example.org/a", "m.tz": "Europe/London",
        "org.example.pronouns": [{"a": null}], "org.example.nothing": null, "org.example-dash.x": 1.5});
    assert_eq!(fields(&world).await, all);
    for change in &changes {
        let delete = ProfileChange::Delete { key: change.key().to_owned() };
        world.users.change_profile(&alice, &delete).await.unwrap();
        world.users.change_profile(&alice, &delete).await.unwrap();
    }
    assert_eq!(fields(&world).await, json!({}));
}

#[tokio::test]
async fn empty_names_and_avatars_are_none() {
    let world = world().await;
    let alice = world.register("alice").await;
    for key in ["displayname", "avatar_url"] {
        for empty in [json!(""), json!(null)] {
            world.users.change_profile(&alice, &set(key, json!("mxc://example.org/a"))).await.unwrap();
            world.users.change_profile(&alice, &set(key, empty)).await.unwrap();
            assert_eq!(fields(&world).await, json!({}));
        }
    }
}

#[tokio::test]
async fn names_of_fields_follow_the_grammar() {
    let world = world().await;
    let alice = world.register("alice").await;
    for key in ["", "name", "Displayname", "org.Example", ".org.a", "1org.a", "org..a", "org.a.", "org.ä", "org/a"] {
        let refused = world.users.change_profile(&alice, &set(key, json!(1))).await;
        assert!(matches!(refused, Err(Error::InvalidProfileKey)), "{key}");
    }
    let longest = format!("org.{}", "a".repeat(251));
    assert!(world.users.change_profile(&alice, &set(&longest, json!(1))).await.is_ok());
    let longer = format!("org.{}", "a".repeat(252));
    let refused = world.users.change_profile(&alice, &set(&longer, json!(1))).await;
    assert!(matches!(refused, Err(Error::ProfileKeyTooLarge)));
}

#[tokio::test]
async fn values_of_known_fields_have_their_types() {
    let world = world().await;
    let alice = world.register("alice").await;
    let wrong = [
        ("displayname", json!(1)),
        ("avatar_url", json!("https://example.org/a.png")),
        ("avatar_url", json!({"url": "mxc://example.org/a"})),
        ("m.tz", json!(0)),
        ("m.tz", json!("")),
    ];
    for (key, value) in wrong {
        let refused = world.users.change_profile(&alice, &set(key, value)).await;
        assert!(matches!(refused, Err(Error::InvalidProfileValue(_))), "{key}");
    }
    let long = set("displayname", json!("x".repeat(4096)));
    assert!(matches!(world.users.change_profile(&alice, &long).await, Err(Error::TooLarge { .. })));
}

#[tokio::test]
async fn a_profile_is_at_most_64_kib() {
    let world = world().await;
    let alice = world.register("alice").await;
    let overhead = json!({"org.a": "", "org.b": ""}).to_string().len();
    let half = (PROFILE_BYTES_MAX - overhead) / 2;
    world.users.change_profile(&alice, &set("org.a", json!("x".repeat(half)))).await.unwrap();
    let refused = world.users.change_profile(&alice, &set("org.b", json!("x".repeat(half + 2)))).await;
    assert!(matches!(refused, Err(Error::ProfileTooLarge)));
    world.users.change_profile(&alice, &set("org.b", json!("x".repeat(half)))).await.unwrap();
}

#[tokio::test]
async fn a_change_tells_whether_rooms_care() {
    let world = world().await;
    let alice = world.register("alice").await;
    let named = world.users.change_profile(&alice, &ProfileChange::display_name("Alice")).await.unwrap();
    assert!(named.concerns_rooms());
    assert_eq!((named.old.display_name(), named.new.display_name()), (None, Some("Alice".to_owned())));
    let again = world.users.change_profile(&alice, &ProfileChange::display_name("Alice")).await.unwrap();
    assert!(!again.concerns_rooms());
    let other = world.users.change_profile(&alice, &set("m.tz", json!("UTC"))).await.unwrap();
    assert!(!other.concerns_rooms());
}

#[tokio::test]
async fn changes_at_once_are_all_kept() {
    let world = world().await;
    let alice = world.register("alice").await;
    let (a, b) = (set("org.a", json!(1)), set("org.b", json!(2)));
    let (a, b) = tokio::join!(world.users.change_profile(&alice, &a), world.users.change_profile(&alice, &b));
    a.and(b).unwrap();
    assert_eq!(fields(&world).await, json!({"org.a": 1, "org.b": 2}));
}
