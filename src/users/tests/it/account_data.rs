//! Account data, tags, ignored users, private chats.

use std::collections::BTreeSet;

use proptest::prelude::*;
use ruma::{RoomId, UserId, room_id};
use serde_json::{Value, json, value::RawValue, value::to_raw_value};
use store::{Batch, Position};
use users::{
    ACCOUNT_DATA_BYTES_MAX, ACCOUNT_DATA_TOTAL_BYTES_MAX, AccountDataEntry, AccountDataRow, Change, Error, UserChanged,
};

use crate::world::{World, another, config, user, world};

fn raw(value: Value) -> Box<RawValue> {
    to_raw_value(&value).unwrap()
}

fn room() -> &'static RoomId {
    room_id!("!room:example.org")
}

/// Position aside: `room type content`.
fn shown(rows: &[AccountDataRow]) -> Vec<String> {
    rows.iter()
        .filter(|row| row.event_type != "m.push_rules")
        .map(|row| {
            format!("{} {} {}", row.room.as_deref().map_or("-", |room| room.as_str()), row.event_type, row.content)
        })
        .collect()
}

async fn since(world: &World, from: Position) -> Vec<String> {
    let view = world.view().await;
    let rows = world.users.account_data_since(&view, &user("alice"), from, view.position()).await.unwrap();
    shown(&rows)
}

#[tokio::test]
async fn contents_are_kept_for_the_account_and_for_each_room() {
    let world = world().await;
    let alice = world.register("alice").await;
    let users = &world.users;
    users.set_account_data(&alice, None, "org.a", &raw(json!({"n": 1}))).await.unwrap();
    users.set_account_data(&alice, Some(room()), "org.a", &raw(json!({"n": 2}))).await.unwrap();
    let view = world.view().await;
    let global = users.account_data(&view, &alice, None, "org.a").await.unwrap().unwrap();
    let local = users.account_data(&view, &alice, Some(room()), "org.a").await.unwrap().unwrap();
    assert_eq!((global.get(), local.get()), (r#"{"n":1}"#, r#"{"n":2}"#));
    assert!(users.account_data(&view, &alice, None, "org.b").await.unwrap().is_none());
    assert!(users.account_data(&view, &user("bob"), None, "org.a").await.unwrap().is_none());
    let all = users.account_data_all(&view, &alice).await.unwrap();
    assert_eq!(shown(&all), [r#"- org.a {"n":1}"#, r#"!room:example.org org.a {"n":2}"#]);
}

#[tokio::test]
async fn what_clients_must_not_set() {
    let world = world().await;
    let alice = world.register("alice").await;
    for room in [None, Some(room())] {
        for event_type in users::SERVER_MANAGED_TYPES {
            let refused = world.users.set_account_data(&alice, room, event_type, &raw(json!({}))).await;
            assert!(matches!(refused, Err(Error::ServerManagedType)), "{event_type}");
            let refused = world.users.delete_account_data(&alice, room, event_type).await;
            assert!(matches!(refused, Err(Error::ServerManagedType)), "{event_type}");
        }
    }
    for content in [json!([]), json!("text"), json!(null)] {
        let refused = world.users.set_account_data(&alice, None, "org.a", &raw(content)).await;
        assert!(matches!(refused, Err(Error::NotAnObject)));
    }
    let large = raw(json!({"text": "x".repeat(ACCOUNT_DATA_BYTES_MAX)}));
    assert!(matches!(world.users.set_account_data(&alice, None, "org.a", &large).await, Err(Error::TooLarge { .. })));
    let long = "x".repeat(256);
    assert!(matches!(
        world.users.set_account_data(&alice, None, &long, &raw(json!({}))).await,
        Err(Error::TooLarge { .. })
    ));
}

#[tokio::test]
async fn the_largest_content_can_be_replaced() {
    let world = world().await;
    let alice = world.register("alice").await;
    let text = "x".repeat(ACCOUNT_DATA_BYTES_MAX - r#"{"text":""}"#.len());
    for _ in 0..2 {
        let content = raw(json!({"text": text}));
        world.users.set_account_data(&alice, None, "org.a", &content).await.unwrap();
    }
}

#[tokio::test]
async fn the_server_writes_its_own_types() {
    let world = world().await;
    let alice = world.register("alice").await;
    let content = raw(json!({"event_id": "$a"}));
    let (view, mut batch) = (world.view().await, Batch::new());
    let entry = AccountDataEntry::new(Some(room()), "m.fully_read", &content);
    world.users.prepare_account_data(&view, &mut batch, &alice, entry).await.unwrap();
    world.store.commit(batch).await.unwrap();
    let read = world.users.account_data(&world.view().await, &alice, Some(room()), "m.fully_read").await.unwrap();
    assert_eq!(read.unwrap().get(), content.get());
}

#[tokio::test]
async fn a_sync_reads_each_content_that_changed_once() {
    let world = world().await;
    let alice = world.register("alice").await;
    let set = async |event_type: &str, n: u64| {
        world.users.set_account_data(&alice, None, event_type, &raw(json!({"n": n}))).await.unwrap();
        world.store.published()
    };
    let start = world.store.published();
    set("org.a", 1).await;
    let middle = set("org.b", 1).await;
    let end = set("org.a", 2).await;
    assert_eq!(since(&world, start).await, [r#"- org.b {"n":1}"#, r#"- org.a {"n":2}"#]);
    assert_eq!(since(&world, middle).await, [r#"- org.a {"n":2}"#]);
    assert!(since(&world, end).await.is_empty());
    let view = world.view().await;
    let bounded = world.users.account_data_since(&view, &alice, start, middle).await.unwrap();
    assert_eq!(shown(&bounded), [r#"- org.b {"n":1}"#], "what changed again comes later");
    assert_eq!(bounded[0].position, middle);
}

#[tokio::test]
async fn writers_at_once_leave_one_row_each() {
    let world = world().await;
    let alice = world.register("alice").await;
    let start = world.store.published();
    let content = raw(json!({"n": 1}));
    let set = |event_type: &'static str| world.users.set_account_data(&alice, None, event_type, &content);
    let (a, b, c, d) = tokio::join!(set("org.a"), set("org.a"), set("org.b"), set("org.a"));
    for result in [a, b, c, d] {
        result.unwrap();
    }
    let mut rows = since(&world, start).await;
    rows.sort();
    assert_eq!(rows, [r#"- org.a {"n":1}"#, r#"- org.b {"n":1}"#]);
}

#[tokio::test]
async fn the_log_entry_has_the_position_of_the_row() {
    let world = world().await;
    let alice = world.register("alice").await;
    let start = world.store.published();
    let mut follower = world.store.read_log(start);
    world.users.set_account_data(&alice, Some(room()), "org.a", &raw(json!({"n": 1}))).await.unwrap();
    let records = follower.next().await.unwrap();
    let change = Change::AccountData { room: Some(room().to_owned()), event_type: "org.a".to_owned() };
    assert_eq!(records[0].decode::<UserChanged>().unwrap().unwrap().change, change);
    let view = world.view().await;
    let rows = world.users.account_data_since(&view, &alice, start, view.position()).await.unwrap();
    assert_eq!(rows[0].position, records[0].position);
}

/// Forgets [`room`] in as many batches as it takes, and says how many.
async fn forget(world: &World, user: &UserId) -> usize {
    let mut batches = 0;
    loop {
        let (view, mut batch) = (world.view().await, Batch::new());
        let is_all = world.users.prepare_forget_room(&view, &mut batch, user, room()).await.unwrap();
        world.store.commit(batch).await.unwrap();
        batches += 1;
        if is_all {
            return batches;
        }
    }
}

#[tokio::test]
async fn a_forgotten_room_takes_its_data_along() {
    let world = world().await;
    let alice = world.register("alice").await;
    let start = world.store.published();
    let other = room_id!("!other:example.org");
    for room in [None, Some(room()), Some(other)] {
        world.users.set_account_data(&alice, room, "org.a", &raw(json!({"n": 1}))).await.unwrap();
    }
    forget(&world, &alice).await;
    let left = [r#"- org.a {"n":1}"#, r#"!other:example.org org.a {"n":1}"#];
    assert_eq!(since(&world, start).await, left);
    let all = world.users.account_data_all(&world.view().await, &alice).await.unwrap();
    assert_eq!(shown(&all), left);
}

/// A long name, so that what is deleted doesn't fit into one batch.
#[tokio::test]
async fn a_room_with_more_data_than_a_batch_holds_is_forgotten() {
    let world = world().await;
    let alice = world.register(&"alice".repeat(40)).await;
    let start = world.store.published();
    for number in 0..4_000 {
        let content = raw(json!({"number": number}));
        world.users.set_account_data(&alice, Some(room()), &format!("org.{number}"), &content).await.unwrap();
    }
    world.users.set_account_data(&alice, None, "org.kept", &raw(json!({"n": 1}))).await.unwrap();
    assert!(forget(&world, &alice).await > 1);
    let view = world.view().await;
    let left = world.users.account_data_since(&view, &alice, start, view.position()).await.unwrap();
    assert_eq!(shown(&left), [r#"- org.kept {"n":1}"#]);
}

/// More than one page of rows.
#[tokio::test]
async fn a_room_with_much_data_is_forgotten_as_well() {
    let world = world().await;
    let alice = world.register("alice").await;
    let start = world.store.published();
    for number in 0..450 {
        let content = raw(json!({"number": number}));
        world.users.set_account_data(&alice, Some(room()), &format!("org.{number}"), &content).await.unwrap();
    }
    forget(&world, &alice).await;
    assert!(since(&world, start).await.is_empty());
    assert!(shown(&world.users.account_data_all(&world.view().await, &alice).await.unwrap()).is_empty());
}

#[tokio::test]
async fn all_contents_together_are_bounded() {
    let world = world().await;
    let alice = world.register("alice").await;
    let set = async |room: Option<&RoomId>, event_type: &str, bytes: usize| {
        let content = raw(json!({"text": "x".repeat(bytes)}));
        world.users.set_account_data(&alice, room, event_type, &content).await
    };
    let large = ACCOUNT_DATA_BYTES_MAX - 100;
    let fit = usize::try_from(ACCOUNT_DATA_TOTAL_BYTES_MAX).unwrap() / (large + 50);
    for number in 0..fit {
        set(Some(room()), &format!("org.{number}"), large).await.unwrap();
    }
    assert!(matches!(set(None, "org.more", large).await, Err(Error::UserLimit(_))));
    // What is deleted makes room, and deleting always fits.
    world.users.delete_account_data(&alice, Some(room()), "org.1").await.unwrap();
    set(None, "org.more", large).await.unwrap();
    assert!(matches!(set(Some(room()), "org.1", large).await, Err(Error::UserLimit(_))));
    world.users.set_account_data(&alice, None, "org.more", &raw(json!({}))).await.unwrap();
    set(Some(room()), "org.1", large).await.unwrap();
    // What shrinks, or takes no more than before, always fits.
    set(Some(room()), "org.0", large).await.unwrap();
    set(Some(room()), "org.0", 10).await.unwrap();
    set(None, "org.more", large - 100).await.unwrap();
    forget(&world, &alice).await;
    set(None, "org.again", large).await.unwrap();
}

#[tokio::test]
async fn what_is_deleted_is_told_once_and_gone() {
    let world = world().await;
    let alice = world.register("alice").await;
    let users = &world.users;
    let other = room_id!("!other:example.org");
    for room in [None, Some(room()), Some(other)] {
        users.set_account_data(&alice, room, "org.a", &raw(json!({"n": 1}))).await.unwrap();
    }
    let start = world.store.published();
    users.delete_account_data(&alice, None, "org.a").await.unwrap();
    let middle = world.store.published();
    let empty = RawValue::from_string("{ }".to_owned()).unwrap();
    users.set_account_data(&alice, Some(room()), "org.a", &empty).await.unwrap();
    let end = world.store.published();
    assert_eq!(since(&world, start).await, ["- org.a {}", "!room:example.org org.a {}"]);
    assert_eq!(since(&world, middle).await, ["!room:example.org org.a {}"]);
    let view = world.view().await;
    assert_eq!(
        shown(&users.account_data_all(&view, &alice).await.unwrap()),
        [r#"!other:example.org org.a {"n":1}"#],
        "a first sync lists what is there"
    );
    for room in [None, Some(room())] {
        assert!(users.account_data(&view, &alice, room, "org.a").await.unwrap().is_none());
    }
    // A client that left the room before and comes back hears of it as well.
    assert_eq!(
        shown(&users.account_data_of_room(&view, &alice, room()).await.unwrap()),
        ["!room:example.org org.a {}"]
    );
    for event_type in ["org.a", "org.never"] {
        users.delete_account_data(&alice, None, event_type).await.unwrap();
    }
    assert_eq!(world.store.published(), end, "nothing was there");
    users.set_account_data(&alice, None, "org.a", &raw(json!({"n": 2}))).await.unwrap();
    assert_eq!(since(&world, start).await, ["!room:example.org org.a {}", r#"- org.a {"n":2}"#]);
}

#[tokio::test]
async fn deleted_tags_and_ignored_users_are_none() {
    let world = world().await;
    let alice = world.register("alice").await;
    let users = &world.users;
    users.set_tag(&alice, room(), "u.work", &raw(json!({}))).await.unwrap();
    users.delete_account_data(&alice, Some(room()), "m.tag").await.unwrap();
    assert!(users.tags(&world.view().await, &alice, room()).await.unwrap().is_empty());
    users.set_tag(&alice, room(), "u.play", &raw(json!({}))).await.unwrap();
    assert_eq!(users.tags(&world.view().await, &alice, room()).await.unwrap().len(), 1);
    let list = raw(json!({"ignored_users": {"@bob:example.org": {}}}));
    users.set_account_data(&alice, None, "m.ignored_user_list", &list).await.unwrap();
    world.settle().await;
    assert_eq!(users.ignored_users(&world.view().await, &alice).await.unwrap().len(), 1);
    users.delete_account_data(&alice, None, "m.ignored_user_list").await.unwrap();
    world.settle().await;
    assert!(users.ignored_users(&world.view().await, &alice).await.unwrap().is_empty());
}

#[tokio::test]
async fn tags_are_set_removed_and_checked() {
    let world = world().await;
    let alice = world.register("alice").await;
    let users = &world.users;
    users.set_tag(&alice, room(), "m.favourite", &raw(json!({"order": 0.25}))).await.unwrap();
    users.set_tag(&alice, room(), "u.work", &raw(json!({}))).await.unwrap();
    let tags = users.tags(&world.view().await, &alice, room()).await.unwrap();
    assert_eq!(tags.keys().collect::<Vec<_>>(), ["m.favourite", "u.work"]);
    let row = users.account_data(&world.view().await, &alice, Some(room()), "m.tag").await.unwrap().unwrap();
    assert_eq!(row.get(), r#"{"tags":{"m.favourite":{"order":0.25},"u.work":{}}}"#);
    users.remove_tag(&alice, room(), "u.work").await.unwrap();
    users.remove_tag(&alice, room(), "u.unknown").await.unwrap();
    assert_eq!(users.tags(&world.view().await, &alice, room()).await.unwrap().len(), 1);

    for order in [json!(-0.1), json!(1.5), json!("0.5"), json!(null)] {
        let refused = users.set_tag(&alice, room(), "u.x", &raw(json!({"order": order}))).await;
        assert!(matches!(refused, Err(Error::InvalidTagOrder)), "{order}");
    }
    let long = "x".repeat(256);
    assert!(matches!(users.set_tag(&alice, room(), &long, &raw(json!({}))).await, Err(Error::TooLarge { .. })));
    assert!(matches!(users.set_tag(&alice, room(), "u.x", &raw(json!(1))).await, Err(Error::NotAnObject)));
}

#[tokio::test]
async fn tags_set_at_once_are_all_kept() {
    let world = world().await;
    let alice = world.register("alice").await;
    let info = raw(json!({}));
    let set = |tag: &'static str| world.users.set_tag(&alice, room(), tag, &info);
    let (a, b, c) = tokio::join!(set("u.a"), set("u.b"), set("u.c"));
    for result in [a, b, c] {
        result.unwrap();
    }
    assert_eq!(world.users.tags(&world.view().await, &alice, room()).await.unwrap().len(), 3);
}

#[tokio::test]
async fn tags_follow_an_upgrade() {
    let world = world().await;
    let alice = world.register("alice").await;
    let new = room_id!("!new:example.org");
    world.users.set_tag(&alice, room(), "m.favourite", &raw(json!({"order": 0.5}))).await.unwrap();
    let (view, mut batch) = (world.view().await, Batch::new());
    world.users.prepare_copy_tags(&view, &mut batch, &alice, room(), new).await.unwrap();
    world.store.commit(batch).await.unwrap();
    assert_eq!(world.users.tags(&world.view().await, &alice, new).await.unwrap().len(), 1);
}

#[tokio::test]
async fn ignored_users_are_what_the_client_stored_last() {
    let world = world().await;
    let alice = world.register("alice").await;
    let elsewhere = another(&world.store, &world.clock, config()).await;
    let lists = [
        (json!({"ignored_users": {"@bob:example.org": {}, "@alice:example.org": {}, "nonsense": {}}}), vec!["bob"]),
        (json!({"ignored_users": {"@bob:example.org": {}, "@carol:example.org": {}}}), vec!["bob", "carol"]),
        (json!({"ignored_users": ["@bob:example.org"]}), vec![]),
        (json!({}), vec![]),
    ];
    for (content, expected) in lists {
        let expected: BTreeSet<_> = expected.into_iter().map(user).collect();
        world.users.set_account_data(&alice, None, "m.ignored_user_list", &raw(content)).await.unwrap();
        for _ in 0..3 {
            for users in [&world.users, &elsewhere] {
                let ignored = users.ignored_users(&world.view().await, &alice).await.unwrap();
                assert_eq!(ignored.iter().cloned().collect::<BTreeSet<_>>(), expected);
            }
            world.settle().await;
        }
    }
}

#[tokio::test]
async fn an_older_view_has_the_older_list() {
    let world = world().await;
    let alice = world.register("alice").await;
    let before = world.view().await;
    let content = raw(json!({"ignored_users": {"@bob:example.org": {}}}));
    world.users.set_account_data(&alice, None, "m.ignored_user_list", &content).await.unwrap();
    assert_eq!(world.users.ignored_users(&world.view().await, &alice).await.unwrap().len(), 1);
    world.settle().await;
    assert_eq!(world.users.ignored_users(&before, &alice).await.unwrap().len(), 0);
    assert_eq!(world.users.ignored_users(&world.view().await, &alice).await.unwrap().len(), 1);
}

#[tokio::test]
async fn private_chats_are_those_listed() {
    let world = world().await;
    let alice = world.register("alice").await;
    let content =
        json!({"@bob:example.org": ["!room:example.org", 7, "nonsense"], "@eve:example.org": "!x:example.org"});
    world.users.set_account_data(&alice, None, "m.direct", &raw(content)).await.unwrap();
    let rooms = world.users.direct_rooms(&world.view().await, &alice).await.unwrap();
    assert_eq!(rooms.into_iter().collect::<Vec<_>>(), [room()]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Following the changes from any point gives what reading everything gives.
    #[test]
    fn changes_add_up_to_everything(
        writes in prop::collection::vec((0..3u8, 0..3u8, prop::option::of(any::<u16>())), 1..40),
        stops in prop::collection::btree_set(0..40usize, 0..6),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let world = world().await;
            let alice = user("alice");
            let rooms = [None, Some(room_id!("!a:example.org")), Some(room_id!("!b:example.org"))];
            let mut followed = std::collections::BTreeMap::new();
            let mut from = world.store.published();
            for (step, (room, kind, n)) in writes.iter().enumerate() {
                let room = rooms[usize::from(*room)];
                let event_type = format!("org.{kind}");
                match n {
                    Some(n) => {
                        let content = raw(json!({"n": n}));
                        world.users.set_account_data(&alice, room, &event_type, &content).await.unwrap();
                    }
                    None => world.users.delete_account_data(&alice, room, &event_type).await.unwrap(),
                }
                if stops.contains(&step) || step + 1 == writes.len() {
                    let view = world.view().await;
                    for row in world.users.account_data_since(&view, &alice, from, view.position()).await.unwrap() {
                        let place = (row.room, row.event_type);
                        match row.content.get() {
                            "{}" => followed.remove(&place),
                            content => followed.insert(place, content.to_owned()),
                        };
                    }
                    from = view.position();
                }
            }
            let mut all = std::collections::BTreeMap::new();
            for row in world.users.account_data_all(&world.view().await, &alice).await.unwrap() {
                if row.event_type != "m.push_rules" {
                    all.insert((row.room, row.event_type), row.content.get().to_owned());
                }
            }
            assert_eq!(followed, all);
        });
    }
}
