//! Server-side key backups.

use std::collections::BTreeMap;

use proptest::prelude::*;
use ruma::{RoomId, UserId};
use serde_json::value::RawValue;
use store::{MemoryDisk, Options, Store};
use users::{
    BackedUpKey, BackupContents, BackupKey, BackupScope, Config, Erasure, Error, KEY_BACKUP_SESSION_BYTES_MAX,
    KEY_BACKUPS_PER_USER_MAX,
};

use crate::world::{World, another, config, world, world_with};

const ALGORITHM: &str = "m.megolm_backup.v1.curve25519-aes-sha2";

fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).unwrap()
}

fn key(room: &str, session: &str, rank: (u64, u64, bool), data: &str) -> BackupKey {
    let (first_message_index, forwarded_count, is_verified) = rank;
    let key = BackedUpKey { first_message_index, forwarded_count, is_verified, session_data: raw(data) };
    BackupKey { room: RoomId::parse(room).unwrap(), session: session.to_owned(), key }
}

async fn create(world: &World, user: &UserId) -> u64 {
    world.users.create_key_backup(user, ALGORITHM, &raw(r#"{"public_key":"a"}"#)).await.unwrap()
}

async fn contents(world: &World, user: &UserId, version: u64) -> BackupContents {
    world.users.key_backup(&world.view().await, user, version).await.unwrap().unwrap().contents
}

async fn all(world: &World, user: &UserId, version: u64, room: Option<&RoomId>) -> Vec<BackupKey> {
    let mut keys: Vec<BackupKey> = Vec::new();
    loop {
        let page = world.users.backup_keys(&world.view().await, user, version, room, keys.last()).await.unwrap();
        if page.is_empty() {
            return keys;
        }
        keys.extend(page);
    }
}

#[tokio::test]
async fn versions_are_numbered_and_never_given_twice() {
    let world = world().await;
    let alice = world.register("alice").await;
    let bob = world.register("bob").await;
    let users = &world.users;
    assert_eq!(users.current_key_backup(&world.view().await, &alice).await.unwrap(), None);
    assert!(matches!(users.delete_key_backup(&alice, 1).await, Err(Error::UnknownKeyBackup)));
    assert_eq!(create(&world, &alice).await, 1);
    assert_eq!(create(&world, &alice).await, 2);
    assert_eq!(create(&world, &bob).await, 1);
    assert_eq!(users.current_key_backup(&world.view().await, &alice).await.unwrap(), Some(2));
    users.delete_key_backup(&alice, 2).await.unwrap();
    users.delete_key_backup(&alice, 2).await.unwrap();
    assert!(matches!(users.delete_key_backup(&alice, 3).await, Err(Error::UnknownKeyBackup)));
    assert!(matches!(users.delete_key_backup(&alice, 0).await, Err(Error::UnknownKeyBackup)));
    assert_eq!(users.current_key_backup(&world.view().await, &alice).await.unwrap(), Some(1));
    assert_eq!(create(&world, &alice).await, 3);
    assert_eq!(create(&world, &alice).await, 4);
    for version in [1, 3, 4] {
        users.delete_key_backup(&alice, version).await.unwrap();
    }
    assert_eq!(users.current_key_backup(&world.view().await, &alice).await.unwrap(), None);
    assert_eq!(create(&world, &alice).await, 5);
}

#[tokio::test]
async fn a_restored_store_gives_no_version_or_etag_again() {
    let disk = MemoryDisk::new();
    let mut world = world().await;
    world.store = Store::open_memory(&disk, &Options::default(), &[users::TABLES]).await.unwrap();
    world.users = another(&world.store, &world.clock, config()).await;
    let alice = world.register("alice").await;
    let version = create(&world, &alice).await;
    world.users.put_backup_keys(&alice, version, &[key("!a:x", "1", (1, 0, false), "{}")]).await.unwrap();
    let before = contents(&world, &alice, version).await;
    world.store.close().await;

    world.store = Store::restore_memory(&disk, &Options::default(), &[users::TABLES]).await.unwrap();
    world.users = another(&world.store, &world.clock, config()).await;
    assert_eq!(contents(&world, &alice, version).await, before);
    let keys = [key("!a:x", "2", (1, 0, false), "{}")];
    let after = world.users.put_backup_keys(&alice, version, &keys).await.unwrap();
    assert_eq!(after.count, 2);
    // Clients may have seen any of these after the copy was made that the store was restored from.
    let forgotten = 1_000_000;
    assert!(after.etag > before.etag + forgotten);
    let next = create(&world, &alice).await;
    assert!(next > version + forgotten);
    assert_eq!(create(&world, &alice).await, next + 1);
}

#[tokio::test]
async fn no_backup_is_made_while_its_user_is_deactivated() {
    let world = world().await;
    let alice = world.register("alice").await;
    let auth_data = raw("{}");
    let (gone, created) = tokio::join!(
        world.users.deactivate(&alice, Erasure::Keep),
        world.users.create_key_backup(&alice, ALGORITHM, &auth_data)
    );
    gone.unwrap();
    assert!(matches!(created, Err(Error::Deactivated)));
    assert_eq!(world.users.current_key_backup(&world.view().await, &alice).await.unwrap(), None);
}

#[tokio::test]
async fn auth_data_can_be_replaced_and_the_algorithm_not() {
    let world = world().await;
    let alice = world.register("alice").await;
    let version = create(&world, &alice).await;
    let auth_data = raw(r#"{"public_key":"b","signatures":{}}"#);
    world.users.update_key_backup(&alice, version, ALGORITHM, &auth_data).await.unwrap();
    let backup = world.users.key_backup(&world.view().await, &alice, version).await.unwrap().unwrap();
    assert_eq!((backup.auth_data.get(), backup.algorithm.as_str()), (auth_data.get(), ALGORITHM));
    let error = world.users.update_key_backup(&alice, version, "org.example", &auth_data).await.unwrap_err();
    assert!(matches!(error, Error::KeyBackupAlgorithm));
    let error = world.users.update_key_backup(&alice, 9, ALGORITHM, &auth_data).await.unwrap_err();
    assert!(matches!(error, Error::UnknownKeyBackup));
    let error = world.users.create_key_backup(&alice, ALGORITHM, &raw("[]")).await.unwrap_err();
    assert!(matches!(error, Error::NotAnObject));
}

#[tokio::test]
async fn the_better_key_stays() {
    let world = world().await;
    let alice = world.register("alice").await;
    let version = create(&world, &alice).await;
    // In this order each is better than the one before: verified, then a lower index, then forwarded less.
    let ranks = [(5, 5, false), (5, 4, false), (4, 9, false), (9, 9, true), (9, 8, true), (3, 9, true)];
    for (n, rank) in ranks.into_iter().enumerate() {
        let before = contents(&world, &alice, version).await;
        let better = key("!a:x", "s", rank, &format!(r#"{{"n":{n}}}"#));
        let after = world.users.put_backup_keys(&alice, version, &[better]).await.unwrap();
        assert_eq!(after.count, 1);
        assert_ne!(before.etag, after.etag);
        // Neither itself nor a worse one replaces it, and then nothing changes.
        for (worse, rank) in ranks[..=n].iter().enumerate() {
            let worse = key("!a:x", "s", *rank, &format!(r#"{{"worse":{worse}}}"#));
            assert_eq!(world.users.put_backup_keys(&alice, version, &[worse]).await.unwrap(), after);
        }
        let room = RoomId::parse("!a:x").unwrap();
        let stored = world.users.backup_key(&world.view().await, &alice, version, (&room, "s")).await.unwrap();
        assert_eq!(stored.unwrap().session_data.get(), format!(r#"{{"n":{n}}}"#));
    }
}

#[tokio::test]
async fn keys_go_into_the_newest_backup_alone() {
    let world = world().await;
    let alice = world.register("alice").await;
    let keys = [key("!a:x", "s", (0, 0, true), "{}")];
    let error = world.users.put_backup_keys(&alice, 1, &keys).await.unwrap_err();
    assert!(matches!(error, Error::UnknownKeyBackup));
    create(&world, &alice).await;
    world.users.put_backup_keys(&alice, 1, &keys).await.unwrap();
    create(&world, &alice).await;
    for version in [0, 1, 3] {
        let error = world.users.put_backup_keys(&alice, version, &keys).await.unwrap_err();
        assert!(matches!(error, Error::WrongKeyBackup { current: 2 }), "{error}");
    }
    // The older one is still read and cleared.
    assert_eq!(all(&world, &alice, 1, None).await.len(), 1);
    let after = world.users.delete_backup_keys(&alice, 1, BackupScope::All).await.unwrap();
    assert_eq!(after.count, 0);
    let error = world.users.backup_keys(&world.view().await, &alice, 7, None, None).await.unwrap_err();
    assert!(matches!(error, Error::UnknownKeyBackup));
}

#[tokio::test]
async fn thousands_of_keys_are_stored_read_and_deleted() {
    let world = world().await;
    let alice = world.register("alice").await;
    let version = create(&world, &alice).await;
    let data = format!(r#"{{"ciphertext":"{}"}}"#, "c".repeat(700));
    let mut keys = Vec::new();
    for room in 0..3 {
        for session in 0..1_500 {
            keys.push(key(&format!("!{room}:x"), &format!("{session:04}"), (0, 0, true), &data));
        }
    }
    // More than a batch holds by far.
    assert_eq!(world.users.put_backup_keys(&alice, version, &keys).await.unwrap().count, 4_500);
    let read = all(&world, &alice, version, None).await;
    let places =
        |keys: &[BackupKey]| keys.iter().map(|key| (key.room.clone(), key.session.clone())).collect::<Vec<_>>();
    assert_eq!(places(&read), places(&keys));
    let room = RoomId::parse("!1:x").unwrap();
    assert_eq!(all(&world, &alice, version, Some(&room)).await.len(), 1_500);
    let after = world.users.delete_backup_keys(&alice, version, BackupScope::Session(&room, "0007")).await.unwrap();
    assert_eq!(after.count, 4_499);
    assert_eq!(
        world.users.delete_backup_keys(&alice, version, BackupScope::Session(&room, "0007")).await.unwrap(),
        after
    );
    let after = world.users.delete_backup_keys(&alice, version, BackupScope::Room(&room)).await.unwrap();
    assert_eq!(after.count, 3_000);
    assert_eq!(all(&world, &alice, version, None).await.len(), 3_000);
    world.users.delete_key_backup(&alice, version).await.unwrap();
    let next = create(&world, &alice).await;
    assert!(all(&world, &alice, next, None).await.is_empty());
}

#[tokio::test]
async fn limits_hold() {
    let world = world().await;
    let alice = world.register("alice").await;
    let version = create(&world, &alice).await;
    let large = format!(r#"{{"c":"{}"}}"#, "c".repeat(KEY_BACKUP_SESSION_BYTES_MAX));
    for bad in [key("!a:x", "s", (0, 0, true), &large), key("!a:x", &"s".repeat(256), (0, 0, true), "{}")] {
        let error = world.users.put_backup_keys(&alice, version, &[bad]).await.unwrap_err();
        assert!(matches!(error, Error::TooLarge { .. }));
    }
    let error = world.users.put_backup_keys(&alice, version, &[key("!a:x", "s", (0, 0, true), "1")]).await.unwrap_err();
    assert!(matches!(error, Error::NotAnObject));
    for _ in 1..KEY_BACKUPS_PER_USER_MAX {
        create(&world, &alice).await;
    }
    let error = world.users.create_key_backup(&alice, ALGORITHM, &raw("{}")).await.unwrap_err();
    assert!(matches!(error, Error::UserLimit(_)));
    world.users.delete_key_backup(&alice, 1).await.unwrap();
    create(&world, &alice).await;
}

#[tokio::test]
async fn what_all_backups_of_a_user_take_is_bounded() {
    let world = world_with(Config { key_backup_bytes_max: 10_000, ..config() }).await;
    let (alice, bob) = (world.register("alice").await, world.register("bob").await);
    let large = format!(r#"{{"c":"{}"}}"#, "c".repeat(4_000));
    let put = async |user: &UserId, version: u64, session: &str, data: &str| {
        let keys = [key("!a:x", session, (0, 0, true), data)];
        world.users.put_backup_keys(user, version, &keys).await
    };
    let is_full = |result: Result<BackupContents, Error>| matches!(result, Err(Error::UserLimit(_)));
    let old = create(&world, &alice).await;
    put(&alice, old, "1", &large).await.unwrap();
    let new = create(&world, &alice).await;
    put(&alice, new, "2", &large).await.unwrap();
    let before = contents(&world, &alice, new).await;
    assert!(is_full(put(&alice, new, "3", &large).await));
    assert_eq!(contents(&world, &alice, new).await, before);
    // There is room for a small one, and for others' keys.
    put(&alice, new, "3", "{}").await.unwrap();
    let version = create(&world, &bob).await;
    put(&bob, version, "1", &large).await.unwrap();
    // What is deleted is free: a key, a room, a backup.
    for scope in [BackupScope::Session("!a:x".try_into().unwrap(), "2"), BackupScope::Room("!a:x".try_into().unwrap())]
    {
        world.users.delete_backup_keys(&alice, new, scope).await.unwrap();
        put(&alice, new, "2", &large).await.unwrap();
        assert!(is_full(put(&alice, new, "4", &large).await));
    }
    world.users.delete_key_backup(&alice, old).await.unwrap();
    put(&alice, new, "4", &large).await.unwrap();
    world.users.delete_backup_keys(&alice, new, BackupScope::All).await.unwrap();
    put(&alice, new, "5", &large).await.unwrap();
    put(&alice, new, "6", &large).await.unwrap();
}

#[tokio::test]
async fn backups_go_with_the_account() {
    let world = world().await;
    let alice = world.register("alice").await;
    let version = create(&world, &alice).await;
    world.users.put_backup_keys(&alice, version, &[key("!a:x", "s", (0, 0, true), "{}")]).await.unwrap();
    world.users.deactivate(&alice, Erasure::Keep).await.unwrap();
    assert!(world.users.key_backup(&world.view().await, &alice, version).await.unwrap().is_none());
}

#[derive(Clone, Debug)]
enum Step {
    Put(Vec<(u8, u8, (u64, u64, bool))>),
    DeleteSession(u8, u8),
    DeleteRoom(u8),
    DeleteAll,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let rank = (0u64..3, 0u64..3, any::<bool>());
    let put = prop::collection::vec((0u8..3, 0u8..4, rank), 0..12).prop_map(Step::Put);
    let step = prop_oneof![
        6 => put,
        2 => (0u8..3, 0u8..4).prop_map(|(room, session)| Step::DeleteSession(room, session)),
        1 => (0u8..3).prop_map(Step::DeleteRoom),
        1 => Just(Step::DeleteAll),
    ];
    prop::collection::vec(step, 0..20)
}

type Model = BTreeMap<(String, String), (bool, u64, u64)>;

/// Better keys are larger, as far as forwarding goes.
fn data(forwarded: u64) -> String {
    format!(r#"{{"c":"{}"}}"#, "c".repeat(40 * (3 - forwarded as usize)))
}

/// What the keys of a model take.
fn bytes(model: &Model) -> u64 {
    let keys = model.iter();
    keys.map(|((room, session), (.., forwarded))| (room.len() + session.len() + data(*forwarded).len() + 128) as u64)
        .sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    /// The number of keys is exact, the etag changes when and only when keys do, and what is kept follows the rules.
    #[test]
    fn a_backup_is_what_a_map_would_be(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let max = 1_500;
            let world = world_with(Config { key_backup_bytes_max: max, ..config() }).await;
            let alice = world.register("alice").await;
            let version = create(&world, &alice).await;
            let mut model = Model::new();
            let mut etag = contents(&world, &alice, version).await.etag;
            for step in steps {
                let before = model.clone();
                let room = |n: u8| RoomId::parse(format!("!{n}:x")).unwrap();
                let after = match step {
                    Step::Put(keys) => {
                        // One key for each session, as in a JSON object.
                        let mut unique = BTreeMap::new();
                        for (room, session, rank) in keys {
                            unique.insert((room, session), rank);
                        }
                        let mut list = Vec::new();
                        for ((room, session), rank) in unique {
                            let (room, session) = (format!("!{room}:x"), session.to_string());
                            list.push(key(&room, &session, rank, &data(rank.1)));
                            let (index, forwarded, verified) = rank;
                            let new = (!verified, index, forwarded);
                            let best = model.entry((room, session)).or_insert(new);
                            *best = new.min(*best);
                        }
                        let put = world.users.put_backup_keys(&alice, version, &list).await;
                        if bytes(&model) > bytes(&before).max(max) {
                            assert!(matches!(put, Err(Error::UserLimit(_))), "{put:?}");
                            model = before;
                            continue;
                        }
                        put.unwrap()
                    }
                    Step::DeleteSession(n, session) => {
                        let session = session.to_string();
                        model.remove(&(format!("!{n}:x"), session.clone()));
                        let scope_room = room(n);
                        let scope = BackupScope::Session(&scope_room, &session);
                        world.users.delete_backup_keys(&alice, version, scope).await.unwrap()
                    }
                    Step::DeleteRoom(n) => {
                        model.retain(|(room, _), _| *room != format!("!{n}:x"));
                        let room = room(n);
                        world.users.delete_backup_keys(&alice, version, BackupScope::Room(&room)).await.unwrap()
                    }
                    Step::DeleteAll => {
                        model.clear();
                        world.users.delete_backup_keys(&alice, version, BackupScope::All).await.unwrap()
                    }
                };
                assert_eq!(after, contents(&world, &alice, version).await);
                assert_eq!(after.count, model.len() as u64);
                assert_eq!(after.etag == etag, model == before);
                etag = after.etag;
            }
            let mut stored = BTreeMap::new();
            for BackupKey { room, session, key } in all(&world, &alice, version, None).await {
                let rank = (!key.is_verified, key.first_message_index, key.forwarded_count);
                stored.insert((room.to_string(), session), rank);
            }
            assert_eq!(stored, model);
        });
    }
}
