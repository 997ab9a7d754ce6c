//! What is left of a user who is gone: rows of all tables are looked through for their name.

use std::collections::BTreeMap;

use ruma::{UserId, room_id};
use serde_json::json;
use store::{Decode, DecodeError, EncodeValue, Family, Range, Reader, Table, TableInfo, Value, Writer};
use users::{
    Confirmation, Erasure, Login, NewDehydratedDevice, ProfileChange, TABLES, TO_DEVICE_TXN_KEPT_MS, ToDeviceMessage,
    ToDeviceRequest,
};

use crate::{
    dehydrated,
    keys::{Device, fallback, identity, one_time, raw},
    keys_cross_signing::Owner,
    world::{World, world},
};

/// A key or value as it is stored.
struct Stored(Vec<u8>);

impl Decode for Stored {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self(r.rest().to_vec()))
    }
}

impl EncodeValue<Stored> for Stored {
    fn encode_value(&self, w: &mut Writer) {
        w.raw(&self.0);
    }
}

impl Value for Stored {
    fn decode_value(bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self(bytes.to_vec()))
    }
}

/// The table at a place of [`TABLES`], with whatever rows.
struct AnyTable<const AT: usize>;

impl<const AT: usize> Table for AnyTable<AT> {
    const ID: u16 = TABLES[AT].id;
    const NAME: &'static str = TABLES[AT].name;
    const FAMILY: Family = TABLES[AT].family;
    type Key = Stored;
    type Value = Stored;
}

type Rows = BTreeMap<&'static str, usize>;

/// Counts the rows that have a text in them.
async fn count<const AT: usize>(world: &World, text: &str, rows: &mut Rows) {
    let names = |bytes: &[u8]| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    let all = world.view().await.scan_all(Range::<AnyTable<AT>>::all()).await.unwrap();
    let count = all.iter().filter(|(key, value)| names(&key.0) || names(&value.0)).count();
    if count > 0 {
        rows.insert(TABLES[AT].name, count);
    }
}

/// The tables with rows that have a text in them, and how many.
async fn rows_with(world: &World, text: &str) -> Rows {
    let mut rows = Rows::new();
    macro_rules! count_all {
        ($($at:literal)*) => {
            const COUNTED: &[TableInfo] = &[$(TABLES[$at]),*];
            assert_eq!(COUNTED.len(), TABLES.len(), "a table is missing here");
            $(count::<$at>(world, text, &mut rows).await;)*
        };
    }
    count_all!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37
        38 39 40 41 42 43 44 45 46 47);
    rows
}

async fn send_to_all(world: &World, from: &Device, to: &UserId) {
    let request = ToDeviceRequest { sender: &from.user, device: &from.id, txn_id: to.as_str(), event_type: "m.test" };
    let content = raw(&json!({}));
    let message = ToDeviceMessage { user: to, device: None, content: &content };
    assert!(world.users.send_to_device(&request, &[message]).await.unwrap().queued > 0);
}

/// A user who has used everything.
async fn busy_user(world: &World, name: &str, seed: u8) -> (Device, Owner) {
    let (users, user) = (&world.users, world.register(name).await);
    let login = Login { device_id: None, display_name: Some("Tablet".to_owned()), refreshable: true };
    users.login(&user, &login).await.unwrap();
    let mut phone = Device::new(world, &user, "PHONE").await;
    phone.upload_identity(world).await;
    let (keys, last) = (phone.one_time_keys(3), phone.fallback_key());
    phone.upload(world, &one_time(&keys)).await.unwrap();
    phone.upload(world, &fallback(&last)).await.unwrap();
    let owner = Owner::new(&user, seed);
    users.upload_cross_signing(&user, &owner.upload(), Confirmation::NotAsked).await.unwrap();
    let mut sleeper = dehydrated::device(&user, "SLEEPER");
    let keys = dehydrated::upload(&mut sleeper);
    dehydrated::put(world, &sleeper, keys).await.unwrap();
    users.create_key_backup(&user, "a", &raw(&json!({}))).await.unwrap();
    let content = raw(&json!({ "a": 1 }));
    for room in [None, Some(room_id!("!a:x"))] {
        users.set_account_data(&user, room, "m.test", &content).await.unwrap();
        users.set_account_data(&user, room, "m.gone", &content).await.unwrap();
        users.delete_account_data(&user, room, "m.gone").await.unwrap();
    }
    users.create_filter(&user, &content).await.unwrap();
    users.create_openid_token(&user).await.unwrap();
    users.create_login_token(&user).await.unwrap();
    users.change_profile(&user, &ProfileChange::display_name("Somebody Known")).await.unwrap();
    (phone, owner)
}

#[tokio::test]
async fn of_a_deactivated_user_only_what_others_must_know_is_left() {
    let world = world().await;
    let (alice, alices) = busy_user(&world, "alice", 10).await;
    let (bob, bobs) = busy_user(&world, "bob", 20).await;
    for (from, own, to, others) in [(&alice, &alices, &bob, &bobs), (&bob, &bobs, &alice, &alices)] {
        send_to_all(&world, from, &to.user).await;
        send_to_all(&world, from, &from.user).await;
        let failures = world.users.upload_signatures(&from.user, &[own.sign_master_of(others)]).await.unwrap();
        assert!(failures.is_empty(), "{failures:?}");
    }
    let before = rows_with(&world, alice.user.as_str()).await;
    let untouched = rows_with(&world, bob.user.as_str()).await;
    assert!(before.len() > 30, "{before:?}");

    world.users.deactivate(&alice.user, Erasure::Erase).await.unwrap();
    world.pass_ms(TO_DEVICE_TXN_KEPT_MS);
    world.pass_ms(1);
    world.users.sweep_expired().await.unwrap();
    let left = rows_with(&world, alice.user.as_str()).await;
    let expected = [
        // That the name is taken, and how to show what the user wrote.
        ("Accounts", 1),
        ("Versions", 1),
        ("Erased", 1),
        // That there are no keys any more.
        ("DeviceListPositions", 1),
        ("DeviceListChanges", 1),
        ("DeviceListHistory", left["DeviceListHistory"]),
        // What belongs to others: messages to their devices, whom they verified.
        ("ToDevice", 3),
        ("UserSignatures", 1),
        ("SignedUserPositions", 1),
        ("SignedUsers", 1),
    ];
    assert_eq!(left, expected.into());
    let kept = rows_with(&world, bob.user.as_str()).await;
    let expired = ["ToDeviceTxns", "ToDeviceTxnTimes", "OpenIdTokens", "LoginTokens"];
    assert!(
        untouched.keys().all(|table| expired.contains(table) || kept.contains_key(table)),
        "{untouched:?} {kept:?}"
    );
}

#[tokio::test]
async fn of_a_deleted_device_nothing_is_left() {
    let world = world().await;
    let alice = world.register("alice").await;
    let other = Device::new(&world, &alice, "OTHER").await;
    let mut device = Device::new(&world, &alice, "PHONE").await;
    device.upload_identity(&world).await;
    let keys = device.one_time_keys(3);
    device.upload(&world, &one_time(&keys)).await.unwrap();
    for from in [&other, &device] {
        send_to_all(&world, from, &alice).await;
    }
    let data = raw(&json!({}));
    let sleeper = dehydrated::device(&alice, "SLEEPER");
    let keys = identity(&sleeper.keys());
    let new = NewDehydratedDevice { device_id: &sleeper.id, display_name: None, data: &data, keys };
    world.users.put_dehydrated_device(&alice, &new).await.unwrap();
    world.users.delete_devices(&alice, &[device.id.clone(), sleeper.id.clone()]).await.unwrap();
    world.pass_ms(TO_DEVICE_TXN_KEPT_MS);
    world.pass_ms(1);
    world.users.sweep_expired().await.unwrap();
    for device in ["PHONE", "SLEEPER"] {
        assert_eq!(rows_with(&world, device).await, Rows::new());
    }
}
