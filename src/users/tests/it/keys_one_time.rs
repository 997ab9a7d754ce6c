//! One-time and fallback keys.

use std::collections::{BTreeMap, HashSet};

use proptest::prelude::*;
use ruma::UserId;
use serde_json::{Value, json, value::RawValue};
use store::{MemoryDisk, Options, Store};
use users::{
    CLAIMED_DEVICES_MAX, Change, ClaimedKey, CrossSigningUpload, Error, KeyClaim, KeyUpload, ONE_TIME_KEY_BYTES_MAX,
    ONE_TIME_KEYS_PER_DEVICE_MAX, SignedKey,
};
use vodozemac::olm::Account;

use crate::{
    keys::{Device, changes, device_seen, fallback, identity, key_map, one_time, raw, value},
    world::{World, another, config, user, world},
};

const SIGNED: &str = "signed_curve25519";

fn claim_of(device: &Device, algorithm: &str) -> KeyClaim {
    KeyClaim { user: device.user.clone(), device: device.id.clone(), algorithm: algorithm.to_owned() }
}

async fn claim(world: &World, device: &Device) -> Option<ClaimedKey> {
    world.users.claim_keys(vec![claim_of(device, SIGNED)]).await.unwrap().pop()
}

async fn counts(world: &World, device: &Device) -> (u64, bool) {
    let counts = world.users.key_counts(&world.view().await, &device.user, &device.id).await.unwrap();
    (counts.one_time[SIGNED], counts.unused_fallbacks.contains(SIGNED))
}

async fn phone(world: &World) -> Device {
    let alice = world.register("alice").await;
    let phone = Device::new(world, &alice, "PHONE").await;
    phone.upload_identity(world).await;
    phone
}

#[tokio::test]
async fn the_oldest_is_handed_out_first_and_each_once() {
    let world = world().await;
    let mut phone = phone(&world).await;
    assert!(claim(&world, &phone).await.is_none());
    let (first, second) = (phone.one_time_keys(3), phone.one_time_keys(2));
    let before = world.store.published();
    // The batch with the greater ids comes first.
    assert_eq!(phone.upload(&world, &one_time(&second)).await.unwrap()[SIGNED], 2);
    assert_eq!(phone.upload(&world, &one_time(&first)).await.unwrap()[SIGNED], 5);
    assert_eq!(changes(&world, before).await, vec![Change::OneTimeKeys { device: phone.id.clone() }; 2]);
    let mut got = Vec::new();
    while let Some(key) = claim(&world, &phone).await {
        assert_eq!(value(&key.key), *first.get(&key.id).or(second.get(&key.id)).unwrap());
        got.push(key.id);
        assert_eq!(counts(&world, &phone).await.0, 5 - got.len() as u64);
    }
    assert_eq!(got.iter().collect::<HashSet<_>>().len(), 5);
    assert!(got[..2].iter().all(|id| second.contains_key(id)), "{got:?}");
}

#[tokio::test]
async fn the_same_upload_twice_is_once_even_after_a_claim() {
    let world = world().await;
    let mut phone = phone(&world).await;
    let keys = phone.one_time_keys(3);
    phone.upload(&world, &one_time(&keys)).await.unwrap();
    let claimed = claim(&world, &phone).await.unwrap();
    let before = world.store.published();
    assert_eq!(phone.upload(&world, &one_time(&keys)).await.unwrap()[SIGNED], 2);
    assert_eq!(world.store.published(), before);
    for _ in 0..2 {
        assert_ne!(claim(&world, &phone).await.unwrap().id, claimed.id);
    }
    assert!(claim(&world, &phone).await.is_none());

    let mut keys = phone.one_time_keys(1);
    phone.upload(&world, &one_time(&keys)).await.unwrap();
    let id = keys.keys().next().unwrap().clone();
    let other = phone.one_time_keys(1).into_values().next().unwrap();
    keys.insert(id, other);
    assert!(matches!(phone.upload(&world, &one_time(&keys)).await, Err(Error::KeyExists { .. })));
}

#[tokio::test]
async fn no_key_is_handed_out_twice_however_many_want_one() {
    const KEYS: usize = 30;
    let world = world().await;
    let mut phone = phone(&world).await;
    let keys = phone.one_time_keys(KEYS);
    phone.upload(&world, &one_time(&keys)).await.unwrap();
    let keys = phone.fallback_key();
    phone.upload(&world, &fallback(&keys)).await.unwrap();
    let mut claims = Vec::new();
    for number in 0..2 * KEYS {
        let (users, claim) = (world.users.clone(), claim_of(&phone, SIGNED));
        claims.push(tokio::spawn(async move { users.claim_keys(vec![claim]).await.unwrap() }));
        if number % 10 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let mut seen = BTreeMap::<String, usize>::new();
    for claim in claims {
        let key = claim.await.unwrap().pop().unwrap();
        let key = value(&key.key)["key"].as_str().unwrap().to_owned();
        *seen.entry(key).or_default() += 1;
    }
    let fallback = keys.values().next().unwrap()["key"].as_str().unwrap();
    assert_eq!(seen.remove(fallback), Some(KEYS));
    assert_eq!(seen.len(), KEYS);
    assert_eq!(counts(&world, &phone).await, (0, false));
}

#[tokio::test]
async fn two_servers_on_one_store_hand_out_each_key_once() {
    let world = world().await;
    let mut phone = phone(&world).await;
    let keys = phone.one_time_keys(8);
    phone.upload(&world, &one_time(&keys)).await.unwrap();
    let other = crate::world::another(&world.store, &world.clock, crate::world::config()).await;
    let claims = || vec![claim_of(&phone, SIGNED)];
    let mut got = HashSet::new();
    for _ in 0..4 {
        let (one, two) = tokio::join!(world.users.claim_keys(claims()), other.claim_keys(claims()));
        got.extend([one.unwrap().pop().unwrap().id, two.unwrap().pop().unwrap().id]);
    }
    assert_eq!(got.len(), 8);
}

#[tokio::test]
async fn the_fallback_key_is_for_when_there_is_no_other() {
    let world = world().await;
    let mut phone = phone(&world).await;
    let first = phone.fallback_key();
    let keys = phone.one_time_keys(1);
    let upload = KeyUpload { fallback_keys: key_map(&first), ..one_time(&keys) };
    phone.upload(&world, &upload).await.unwrap();
    assert_eq!(counts(&world, &phone).await, (1, true));
    let key = claim(&world, &phone).await.unwrap();
    assert_eq!(value(&key.key), keys[&key.id]);
    assert_eq!(counts(&world, &phone).await, (0, true));
    let before = world.store.published();
    for _ in 0..3 {
        let key = claim(&world, &phone).await.unwrap();
        assert_eq!(value(&key.key), first[&key.id]);
        assert_eq!(counts(&world, &phone).await, (0, false));
    }
    assert_eq!(changes(&world, before).await, [Change::OneTimeKeys { device: phone.id.clone() }], "used once");
    // Sent again it is as used as it was; another is unused.
    phone.upload(&world, &fallback(&first)).await.unwrap();
    assert_eq!(counts(&world, &phone).await, (0, false));
    let second = phone.fallback_key();
    phone.upload(&world, &fallback(&second)).await.unwrap();
    assert_eq!(counts(&world, &phone).await, (0, true));
    let key = claim(&world, &phone).await.unwrap();
    assert_eq!(value(&key.key), second[&key.id]);

    let mut two = phone.fallback_key();
    two.extend(phone.fallback_key());
    assert!(matches!(phone.upload(&world, &fallback(&two)).await, Err(Error::InvalidKey(_))));
}

#[tokio::test]
async fn keys_that_the_device_did_not_sign_are_refused() {
    let world = world().await;
    let mut phone = phone(&world).await;
    let mut other = Device::new(&world, &phone.user, "OTHER").await;
    let foreign = other.one_time_keys(1);
    let mut good = phone.one_time_keys(1);
    let refused = phone.upload(&world, &one_time(&foreign)).await;
    assert!(matches!(refused, Err(Error::InvalidSignature(_))));
    let refused = phone.upload(&world, &fallback(&foreign)).await;
    assert!(matches!(refused, Err(Error::InvalidSignature(_))));
    let key = good.values_mut().next().unwrap();
    key["fallback"] = true.into();
    assert!(matches!(phone.upload(&world, &one_time(&good)).await, Err(Error::InvalidSignature(_))));
    let short = json!({ "key": "AAAA", "signatures": {} });
    let number = json!({ "key": 5, "signatures": {} });
    for bad in [json!("text"), short, number, json!(null), json!([])] {
        let keys = [("signed_curve25519:A".to_owned(), bad)].into();
        assert!(matches!(phone.upload(&world, &one_time(&keys)).await, Err(Error::InvalidKey(_))));
    }
    for bad in [json!({}), json!({ "key": "AAAA" }), json!({ "signatures": {} })] {
        let keys = [("signed_curve25519:A".to_owned(), bad)].into();
        assert!(matches!(phone.upload(&world, &one_time(&keys)).await, Err(Error::MissingKeyField(_))));
    }
    assert_eq!(counts(&world, &phone).await, (0, false));
}

#[tokio::test]
async fn keys_that_came_before_the_identity_are_checked_when_it_comes() {
    let world = world().await;
    let alice = world.register("alice").await;
    let mut phone = Device::new(&world, &alice, "PHONE").await;
    let mut keys = phone.one_time_keys(2);
    let mut stranger = Device { user: alice, id: "PHONE".into(), account: Account::new() };
    stranger.account.generate_one_time_keys(10);
    stranger.account.mark_keys_as_published();
    keys.extend(stranger.one_time_keys(3));
    phone.upload(&world, &one_time(&keys)).await.unwrap();
    let keys = stranger.fallback_key();
    assert_eq!(phone.upload(&world, &fallback(&keys)).await.unwrap()[SIGNED], 5);
    assert_eq!(phone.upload(&world, &identity(&phone.keys())).await.unwrap()[SIGNED], 2);
    assert_eq!(counts(&world, &phone).await, (2, false));
}

#[tokio::test]
async fn keys_of_other_algorithms_are_kept_as_they_are() {
    let world = world().await;
    let phone = phone(&world).await;
    let keys = BTreeMap::from([
        ("curve25519:A".to_owned(), json!("base64")),
        ("org.example.pq:A".to_owned(), json!({ "key": 1.5 })),
    ]);
    let counts = phone.upload(&world, &one_time(&keys)).await.unwrap();
    assert_eq!((counts["curve25519"], counts["org.example.pq"], counts[SIGNED]), (1, 1, 0));
    let key = world.users.claim_keys(vec![claim_of(&phone, "org.example.pq")]).await.unwrap().pop().unwrap();
    assert_eq!((key.id.as_str(), value(&key.key)), ("org.example.pq:A", json!({ "key": 1.5 })));
    assert!(world.users.claim_keys(vec![claim_of(&phone, "org.example.pq")]).await.unwrap().is_empty());
}

#[tokio::test]
async fn keys_are_bounded() {
    let world = world().await;
    let phone = phone(&world).await;
    let many = |from: usize, count: usize| -> BTreeMap<String, Value> {
        (from..from + count).map(|number| (format!("x:{number}"), json!("key"))).collect()
    };
    let max = ONE_TIME_KEYS_PER_DEVICE_MAX;
    assert!(matches!(phone.upload(&world, &one_time(&many(0, max + 1))).await, Err(Error::UserLimit(_))));
    phone.upload(&world, &one_time(&many(0, max))).await.unwrap();
    assert!(matches!(phone.upload(&world, &one_time(&many(max, 1))).await, Err(Error::UserLimit(_))));
    phone.upload(&world, &one_time(&many(0, max))).await.unwrap();
    let large = [("x:l".to_owned(), json!("x".repeat(ONE_TIME_KEY_BYTES_MAX)))].into();
    assert!(matches!(phone.upload(&world, &one_time(&large)).await, Err(Error::TooLarge { .. })));
    let long = [(format!("x:{}", "l".repeat(300)), json!("x"))].into();
    assert!(matches!(phone.upload(&world, &one_time(&long)).await, Err(Error::TooLarge { .. })));
    let claims = vec![claim_of(&phone, "x"); CLAIMED_DEVICES_MAX + 1];
    assert!(matches!(world.users.claim_keys(claims).await, Err(Error::TooMany(_))));
    // What is remembered of claimed keys is bounded as well, and the newest is remembered.
    for round in 1..4 {
        let claimed = world.users.claim_keys(vec![claim_of(&phone, "x"); max]).await.unwrap();
        assert_eq!(claimed.len(), max);
        let keys = many(round * max, max);
        assert_eq!(phone.upload(&world, &one_time(&keys)).await.unwrap()["x"], max as u64);
    }
}

#[tokio::test]
async fn the_largest_upload_fits_into_a_batch() {
    let world = world().await;
    let phone = phone(&world).await;
    let name = "n".repeat(240);
    let content = "c".repeat(ONE_TIME_KEY_BYTES_MAX - 2);
    let key = |number| (format!("x:{number:03}{name}"), json!(content));
    let keys = (0..ONE_TIME_KEYS_PER_DEVICE_MAX).map(key).collect();
    phone.upload(&world, &one_time(&keys)).await.unwrap();
}

#[tokio::test]
async fn one_claim_is_of_many_devices() {
    let world = world().await;
    let mut claims = Vec::new();
    for name in 0..10 {
        let user = world.register(&format!("user-{name}")).await;
        for id in ["A", "B"] {
            let mut device = Device::new(&world, &user, id).await;
            let keys = device.one_time_keys(1);
            device.upload(&world, &one_time(&keys)).await.unwrap();
            claims.push(claim_of(&device, SIGNED));
        }
        claims.push(KeyClaim { user, device: "GONE".into(), algorithm: SIGNED.to_owned() });
    }
    claims.push(KeyClaim { user: user("nobody"), device: "A".into(), algorithm: SIGNED.to_owned() });
    let claimed = world.users.claim_keys(claims).await.unwrap();
    assert_eq!(claimed.iter().map(|key| (&key.user, &key.device)).collect::<HashSet<_>>().len(), 20);
}

#[tokio::test]
async fn a_key_that_was_handed_out_is_gone_also_after_a_loss_of_power() {
    let disk = MemoryDisk::new();
    let open = async || Store::open_memory(&disk, &Options::default(), &[users::TABLES]).await.unwrap();
    let mut world = world().await;
    world.store = open().await;
    world.users = another(&world.store, &world.clock, config()).await;
    let mut phone = phone(&world).await;
    let keys = phone.one_time_keys(3);
    phone.upload(&world, &one_time(&keys)).await.unwrap();
    let mut got = HashSet::new();
    while let Some(key) = claim(&world, &phone).await {
        assert!(got.insert(key.id));
        disk.lose_unsynced();
        world.store = open().await;
        world.users = another(&world.store, &world.clock, config()).await;
    }
    assert_eq!(got.len(), keys.len());
}

#[tokio::test]
async fn a_restored_store_hands_out_none_of_the_keys_that_it_had() {
    let disk = MemoryDisk::new();
    let mut world = world().await;
    world.store = Store::open_memory(&disk, &Options::default(), &[users::TABLES]).await.unwrap();
    world.users = another(&world.store, &world.clock, config()).await;
    let mut phone = phone(&world).await;
    let (keys, last) = (phone.one_time_keys(3), phone.fallback_key());
    phone.upload(&world, &one_time(&keys)).await.unwrap();
    phone.upload(&world, &fallback(&last)).await.unwrap();
    assert!(claim(&world, &phone).await.is_some());
    world.store.close().await;

    // Any of them may have been handed out after the copy was made.
    world.store = Store::restore_memory(&disk, &Options::default(), &[users::TABLES]).await.unwrap();
    world.users = another(&world.store, &world.clock, config()).await;
    assert!(claim(&world, &phone).await.is_none());
    assert_eq!(counts(&world, &phone).await, (0, false));
    assert!(device_seen(&world, &phone.user, &phone).await.is_some());
    // The device is told so, and makes new ones.
    let keys = phone.one_time_keys(2);
    phone.upload(&world, &one_time(&keys)).await.unwrap();
    assert!(keys.contains_key(&claim(&world, &phone).await.unwrap().id));
}

fn any_json() -> impl Strategy<Value = Value> {
    let names = prop_oneof![
        Just("signatures"),
        Just("keys"),
        Just("key"),
        Just("usage"),
        Just("unsigned"),
        Just("algorithms"),
        Just("user_id"),
        Just("@alice:example.org"),
        Just("ed25519:PHONE"),
        Just("fallback"),
        Just("x"),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f32>().prop_map(|number| json!(number)),
        "[A-Za-z0-9+/=]{0,90}".prop_map(Value::from),
        "[A-Za-z0-9+/]{42,44}={0,2}".prop_map(Value::from),
        Just(json!("@alice:example.org")),
        Just(json!(["master", "self_signing", "user_signing"])),
        ".{0,10}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(names.clone(), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())),
        ]
    })
}

/// Uploads the same garbage as everything that can be uploaded.
async fn upload_everywhere(world: &World, phone: &Device, json: Box<RawValue>) {
    let alice: &UserId = &phone.user;
    let keys = || [("signed_curve25519:A".try_into().unwrap(), json.clone())].into();
    for upload in [
        KeyUpload { device_keys: Some(json.clone()), ..KeyUpload::default() },
        KeyUpload { one_time_keys: keys(), ..KeyUpload::default() },
        KeyUpload { fallback_keys: keys(), ..KeyUpload::default() },
    ] {
        let refused = phone.upload(world, &upload).await;
        assert!(matches!(
            refused,
            Err(Error::InvalidKey(_)
                | Error::MissingKeyField(_)
                | Error::InvalidSignature(_)
                | Error::IdentityChanged
                | Error::TooLarge { .. })
        ));
    }
    let some = || Some(json.clone());
    let upload = CrossSigningUpload { master_key: some(), self_signing_key: some(), user_signing_key: some() };
    let refused = world.users.upload_cross_signing(alice, &upload, users::Confirmation::Given).await;
    assert!(matches!(
        refused,
        Err(Error::InvalidKey(_) | Error::MissingKeyField(_) | Error::InvalidSignature(_) | Error::TooLarge { .. })
    ));
    let key = |key: &str| SignedKey { user: alice.to_owned(), key: key.to_owned(), json: json.clone() };
    let failures = world.users.upload_signatures(alice, &[key("PHONE"), key("GONE"), key("")]).await.unwrap();
    assert_eq!(failures[alice].len(), 3);
}

#[test]
fn garbage_is_refused_and_changes_nothing() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (world, phone) = runtime.block_on(async {
        let world = world().await;
        let phone = phone(&world).await;
        (world, phone)
    });
    let kept = runtime.block_on(device_seen(&world, &phone.user, &phone)).unwrap();
    proptest!(ProptestConfig::with_cases(300), |(json in any_json(), tamper in any::<(bool, u8, u8)>())| {
        let mut text = raw(&json).get().to_owned();
        if tamper.0 && !text.is_empty() {
            // Device keys with one byte changed.
            text = raw(&phone.keys()).get().to_owned();
            let at = usize::from(tamper.1) * text.len() / 256;
            let byte = char::from(tamper.2 % 94 + 33);
            text.replace_range(at..=at, &byte.to_string());
        }
        let is_same = text == raw(&phone.keys()).get();
        if let Ok(json) = RawValue::from_string(text)
            && !is_same
        {
            runtime.block_on(upload_everywhere(&world, &phone, json));
        }
    });
    assert_eq!(runtime.block_on(device_seen(&world, &phone.user, &phone)).unwrap(), kept);
}
