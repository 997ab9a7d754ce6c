//! Identity keys of devices, and what the tests of keys share: devices and users with real keys.

use std::collections::BTreeMap;

use ruma::{CanonicalJsonObject, DeviceId, OwnedDeviceId, OwnedOneTimeKeyId, OwnedUserId, UserId};
use serde_json::{Value, json, value::RawValue, value::to_raw_value};
use users::{Change, DEVICE_KEYS_BYTES_MAX, DEVICES_PER_USER_MAX, Erasure, Error, KeyUpload, UserChanged, UserKeys};
use vodozemac::{Ed25519SecretKey, olm::Account};

use crate::world::{World, user, world};

/// Adds a signature to an object, as clients do.
pub fn sign(object: &mut Value, user: &UserId, key_id: &str, sign: impl Fn(&[u8]) -> String) {
    let mut signed: CanonicalJsonObject = serde_json::from_value(object.clone()).unwrap();
    signed.remove("signatures");
    signed.remove("unsigned");
    let signature = sign(serde_json::to_string(&signed).unwrap().as_bytes());
    object["signatures"][user.as_str()][key_id] = signature.into();
}

pub fn raw(value: &Value) -> Box<RawValue> {
    to_raw_value(value).unwrap()
}

/// A logged-in device with keys.
pub struct Device {
    pub user: OwnedUserId,
    pub id: OwnedDeviceId,
    pub account: Account,
}

impl Device {
    pub async fn new(world: &World, user: &UserId, id: &str) -> Self {
        world.login(user, id).await;
        Self { user: user.to_owned(), id: id.into(), account: Account::new() }
    }

    pub fn key_id(&self) -> String {
        format!("ed25519:{}", self.id)
    }

    pub fn sign(&self, object: &mut Value) {
        sign(object, &self.user, &self.key_id(), |text| self.account.sign(text).to_base64());
    }

    /// Its identity keys, signed.
    pub fn keys(&self) -> Value {
        let curve25519 = format!("curve25519:{}", self.id);
        let mut keys = json!({
            "user_id": self.user, "device_id": self.id,
            "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
            "keys": {
                self.key_id(): self.account.ed25519_key().to_base64(),
                curve25519: self.account.curve25519_key().to_base64(),
            },
        });
        self.sign(&mut keys);
        keys
    }

    /// New one-time keys, signed.
    pub fn one_time_keys(&mut self, count: usize) -> BTreeMap<String, Value> {
        self.account.generate_one_time_keys(count);
        let new = self.account.one_time_keys();
        self.account.mark_keys_as_published();
        let signed = |(id, key): (vodozemac::KeyId, vodozemac::Curve25519PublicKey)| {
            let mut object = json!({ "key": key.to_base64() });
            self.sign(&mut object);
            (format!("signed_curve25519:{}", id.to_base64()), object)
        };
        new.into_iter().map(signed).collect()
    }

    /// A new fallback key, signed.
    pub fn fallback_key(&mut self) -> BTreeMap<String, Value> {
        self.account.generate_fallback_key();
        let (id, key) = self.account.fallback_key().into_iter().next().unwrap();
        self.account.mark_keys_as_published();
        let mut object = json!({ "key": key.to_base64(), "fallback": true });
        self.sign(&mut object);
        [(format!("signed_curve25519:{}", id.to_base64()), object)].into()
    }

    pub async fn upload(&self, world: &World, upload: &KeyUpload) -> Result<BTreeMap<String, u64>, Error> {
        world.users.upload_keys(&self.user, &self.id, upload).await
    }

    pub async fn upload_identity(&self, world: &World) {
        self.upload(world, &identity(&self.keys())).await.unwrap();
    }
}

pub fn identity(keys: &Value) -> KeyUpload {
    KeyUpload { device_keys: Some(raw(keys)), ..KeyUpload::default() }
}

pub fn key_map(keys: &BTreeMap<String, Value>) -> BTreeMap<OwnedOneTimeKeyId, Box<RawValue>> {
    keys.iter().map(|(id, key)| (id.as_str().try_into().unwrap(), raw(key))).collect()
}

pub fn one_time(keys: &BTreeMap<String, Value>) -> KeyUpload {
    KeyUpload { one_time_keys: key_map(keys), ..KeyUpload::default() }
}

pub fn fallback(keys: &BTreeMap<String, Value>) -> KeyUpload {
    KeyUpload { fallback_keys: key_map(keys), ..KeyUpload::default() }
}

/// What `asker` sees of all keys of `of`.
pub async fn seen(world: &World, asker: &UserId, of: &UserId) -> Option<UserKeys> {
    let wanted = [(of.to_owned(), Vec::new())].into();
    world.users.query_keys(&world.view().await, asker, &wanted).await.unwrap().remove(of)
}

pub fn value(raw: &RawValue) -> Value {
    serde_json::from_str(raw.get()).unwrap()
}

pub async fn device_seen(world: &World, asker: &UserId, of: &Device) -> Option<Value> {
    let keys = seen(world, asker, &of.user).await?;
    keys.devices.get(&of.id).map(|keys| value(keys))
}

/// A key pair of nobody's device: one of cross-signing.
pub fn key_pair(seed: u8) -> Ed25519SecretKey {
    Ed25519SecretKey::from_slice(&[seed; 32])
}

/// The changes in the log after `from`.
pub async fn changes(world: &World, from: store::Position) -> Vec<Change> {
    let to = world.store.published();
    let mut follower = world.store.read_log(from);
    let mut changes = Vec::new();
    let mut at = from;
    while at < to {
        for record in follower.next().await.unwrap() {
            at = record.position;
            changes.extend(record.decode::<UserChanged>().unwrap().map(|entry| entry.change));
        }
    }
    changes
}

#[tokio::test]
async fn identity_keys_are_kept_as_they_were_sent() {
    let world = world().await;
    let (alice, bob) = (world.register("alice").await, world.register("bob").await);
    let phone = Device::new(&world, &alice, "PHONE").await;
    assert!(seen(&world, &bob, &alice).await.unwrap().devices.is_empty());
    let mut keys = phone.keys();
    keys["org.example.more"] = json!({ "b": [1, "ä"], "a": null });
    phone.sign(&mut keys);
    let plain = keys.clone();
    keys["unsigned"] = json!({ "device_display_name": "a lie" });
    keys["signatures"]["@eve:example.org"] = json!({ "ed25519:EVE": "c2lnbmF0dXJl" });
    let before = world.store.published();
    assert_eq!(phone.upload(&world, &identity(&keys)).await.unwrap(), [("signed_curve25519".to_owned(), 0)].into());
    assert_eq!(device_seen(&world, &bob, &phone).await.unwrap(), plain);
    assert_eq!(changes(&world, before).await, [Change::DeviceKeys]);

    // The same again is nothing new.
    let before = world.store.published();
    phone.upload(&world, &identity(&keys)).await.unwrap();
    assert_eq!(world.store.published(), before);

    world.users.rename_device(&alice, &phone.id, Some("Phone \"1\"")).await.unwrap();
    assert!(changes(&world, before).await.contains(&Change::DeviceKeys));
    let mut named = plain;
    named["unsigned"] = json!({ "device_display_name": "Phone \"1\"" });
    assert_eq!(device_seen(&world, &bob, &phone).await.unwrap(), named);
}

#[tokio::test]
async fn what_is_not_signed_by_the_device_is_refused() {
    let world = world().await;
    let alice = world.register("alice").await;
    let phone = Device::new(&world, &alice, "PHONE").await;
    let other = Device::new(&world, &alice, "OTHER").await;
    let good = phone.keys();
    let refused = async |change: &dyn Fn(&mut Value)| {
        let mut keys = good.clone();
        change(&mut keys);
        phone.upload(&world, &identity(&keys)).await.unwrap_err()
    };
    let is_key = |error: Error| assert!(matches!(error, Error::InvalidKey(_)), "{error:?}");
    let is_signature = |error: Error| assert!(matches!(error, Error::InvalidSignature(_)), "{error:?}");
    is_signature(refused(&|keys| keys["algorithms"] = json!([])).await);
    is_signature(refused(&|keys| keys["signatures"] = json!({})).await);
    is_signature(refused(&|keys| keys["signatures"] = json!({ alice.as_str(): 5 })).await);
    is_signature(refused(&|keys| keys["signatures"][alice.as_str()][phone.key_id()] = "AAAA".into()).await);
    is_key(refused(&|keys| keys["signatures"] = json!([])).await);
    is_key(refused(&|keys| keys["user_id"] = "@bob:example.org".into()).await);
    is_key(refused(&|keys| keys["device_id"] = "OTHER".into()).await);
    is_key(refused(&|keys| keys["algorithms"] = json!("x")).await);
    is_key(refused(&|keys| keys["more"] = json!(1.5)).await);
    is_key(refused(&|keys| *keys = json!([])).await);
    for field in ["algorithms", "device_id", "keys", "signatures", "user_id"] {
        let error = refused(&|keys| drop(keys.as_object_mut().unwrap().remove(field))).await;
        assert!(matches!(error, Error::MissingKeyField(missing) if missing == field), "{error:?}");
    }
    // Lengths at which a careless reader of base64 trips.
    for text in ["", "AAAA", &"A".repeat(44), &format!("{}=", "A".repeat(42)), &format!("{}==", "A".repeat(42))] {
        is_key(refused(&|keys| keys["keys"][phone.key_id()] = text.into()).await);
        is_key(refused(&|keys| keys["keys"]["curve25519:PHONE"] = text.into()).await);
    }
    let large = refused(&|keys| keys["more"] = "x".repeat(DEVICE_KEYS_BYTES_MAX).into()).await;
    assert!(matches!(large, Error::TooLarge { .. }));
    assert!(phone.upload(&world, &identity(&other.keys())).await.is_err());
    let gone = world.users.upload_keys(&alice, "GONE".into(), &KeyUpload::default()).await;
    assert!(matches!(gone, Err(Error::UnknownDevice)));
    assert!(seen(&world, &alice, &alice).await.unwrap().devices.is_empty());
    phone.upload(&world, &identity(&good)).await.unwrap();
}

#[tokio::test]
async fn identity_keys_never_change_but_what_is_around_them_may() {
    let world = world().await;
    let alice = world.register("alice").await;
    let mut phone = Device::new(&world, &alice, "PHONE").await;
    phone.upload_identity(&world).await;
    let mut keys = phone.keys();
    keys["algorithms"] = json!(["m.megolm.v9"]);
    phone.sign(&mut keys);
    phone.upload(&world, &identity(&keys)).await.unwrap();
    assert_eq!(device_seen(&world, &alice, &phone).await.unwrap(), keys);
    phone.account = Account::new();
    assert!(matches!(phone.upload(&world, &identity(&phone.keys())).await, Err(Error::IdentityChanged)));
    assert_eq!(device_seen(&world, &alice, &phone).await.unwrap(), keys);
}

#[tokio::test]
async fn a_query_names_devices_or_wants_all() {
    let world = world().await;
    let alice = world.register("alice").await;
    for id in ["A", "B", "C"] {
        Device::new(&world, &alice, id).await.upload_identity(&world).await;
    }
    Device::new(&world, &alice, "WITHOUT").await;
    let ask = async |devices: &[&str]| {
        let devices: Vec<OwnedDeviceId> = devices.iter().map(|id| (*id).into()).collect();
        let wanted = [(alice.clone(), devices), (user("nobody"), Vec::new())].into();
        let mut found = world.users.query_keys(&world.view().await, &alice, &wanted).await.unwrap();
        assert_eq!(found.len(), 1);
        let found = found.remove(&alice).unwrap().devices;
        found.into_keys().map(|id| id.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(ask(&[]).await, ["A", "B", "C"]);
    assert_eq!(ask(&["B", "WITHOUT", "GONE"]).await, ["B"]);
    assert_eq!(ask(&["GONE"]).await, Vec::<String>::new());
}

#[tokio::test]
async fn keys_go_with_the_device_and_with_the_account() {
    let world = world().await;
    let (alice, bob) = (world.register("alice").await, world.register("bob").await);
    let mut devices = Vec::new();
    for id in ["A", "B", "C", "D"] {
        let mut device = Device::new(&world, &alice, id).await;
        let keys = device.one_time_keys(2);
        device.upload(&world, &identity(&device.keys())).await.unwrap();
        device.upload(&world, &one_time(&keys)).await.unwrap();
        devices.push(device);
    }
    let bobs = Device::new(&world, &bob, "A").await;
    bobs.upload_identity(&world).await;
    let plain = Device::new(&world, &alice, "PLAIN").await;
    let before = world.store.published();
    world.users.delete_devices(&alice, std::slice::from_ref(&plain.id)).await.unwrap();
    assert!(!changes(&world, before).await.contains(&Change::DeviceKeys), "it had no keys");

    let before = world.store.published();
    world.users.delete_devices(&alice, &["A".into(), "C".into()]).await.unwrap();
    assert!(changes(&world, before).await.contains(&Change::DeviceKeys));
    let left = seen(&world, &bob, &alice).await.unwrap().devices;
    assert_eq!(left.keys().map(|id| id.as_str()).collect::<Vec<_>>(), ["B", "D"]);
    let count = async |id: &str| {
        let id = <&DeviceId>::from(id);
        world.users.key_counts(&world.view().await, &alice, id).await.unwrap().one_time["signed_curve25519"]
    };
    assert_eq!([count("A").await, count("B").await, count("C").await, count("D").await], [0, 2, 0, 2]);

    // A new device of the same id is another.
    let again = Device::new(&world, &alice, "A").await;
    again.upload_identity(&world).await;
    world.users.deactivate(&alice, Erasure::Keep).await.unwrap();
    let left = seen(&world, &bob, &alice).await.unwrap();
    assert!(left.devices.is_empty() && left.master.is_none());
    assert!(device_seen(&world, &alice, &bobs).await.is_some());
}

#[tokio::test]
async fn any_set_of_devices_is_deleted_and_no_other() {
    let world = world().await;
    // Names between which the runs of the first must end.
    let alice = world.register("alice").await;
    let others = [world.register("alic").await, world.register("alice0").await, user("alice")];
    for other in &others[..2] {
        Device::new(&world, other, "A").await.upload_identity(&world).await;
    }
    for chosen in 0..32_u32 {
        let ids = ["A", "AA", "B", "\u{1}", "~"];
        for id in ids {
            Device::new(&world, &alice, id).await.upload_identity(&world).await;
        }
        let is_chosen = |index: usize| chosen & (1 << index) != 0;
        let gone: Vec<OwnedDeviceId> =
            (0..ids.len()).filter(|index| is_chosen(*index)).map(|index| ids[index].into()).collect();
        world.users.delete_devices(&alice, &gone).await.unwrap();
        for (index, id) in ids.iter().enumerate() {
            let device = world.users.device(&world.view().await, &alice, (*id).into()).await.unwrap();
            assert_eq!(device.is_some(), !is_chosen(index), "{id} of {chosen:b}");
        }
        let left = seen(&world, &alice, &alice).await.unwrap().devices.len();
        assert_eq!(left, ids.len() - gone.len());
        world.users.delete_all_devices(&alice).await.unwrap();
    }
    for other in &others[..2] {
        assert_eq!(seen(&world, &alice, other).await.unwrap().devices.len(), 1);
    }
}

#[tokio::test]
async fn all_devices_with_keys_are_deleted_at_once() {
    let world = world().await;
    let alice = world.register("alice").await;
    let kept = world.login_refreshable(&alice, "DEVICE500").await;
    for number in 0..DEVICES_PER_USER_MAX {
        let id = format!("DEVICE{number}");
        world.login_refreshable(&alice, &id).await;
        let device = Device { user: alice.clone(), id: id.into(), account: Account::new() };
        let keys = BTreeMap::from([("unknown:1".to_owned(), json!("key"))]);
        let upload = KeyUpload { one_time_keys: key_map(&keys), ..identity(&device.keys()) };
        device.upload(&world, &upload).await.unwrap();
    }
    drop(kept);
    let gone: Vec<OwnedDeviceId> = (0..DEVICES_PER_USER_MAX)
        .filter(|number| *number != 500)
        .map(|number| format!("DEVICE{number}").into())
        .collect();
    world.users.delete_devices(&alice, &gone).await.unwrap();
    assert_eq!(seen(&world, &alice, &alice).await.unwrap().devices.len(), 1);
}

/// Each second of many devices with long ids, so that there is no run of neighbours, and more to delete than a batch holds.
#[tokio::test]
async fn half_of_very_many_devices_are_deleted() {
    let world = world().await;
    let alice = world.register(&"alice".repeat(40)).await;
    let id = |number: usize| OwnedDeviceId::from(format!("{number:0255}"));
    for number in 0..DEVICES_PER_USER_MAX {
        world.login_refreshable(&alice, id(number).as_str()).await;
        world.login_refreshable(&alice, id(number).as_str()).await;
    }
    let gone: Vec<OwnedDeviceId> = (0..DEVICES_PER_USER_MAX).step_by(2).map(id).collect();
    world.users.delete_devices(&alice, &gone).await.unwrap();
    let left: Vec<_> = world.users.devices(&world.view().await, &alice).await.unwrap();
    let left: Vec<_> = left.into_iter().map(|device| device.device_id).collect();
    assert_eq!(left, (0..DEVICES_PER_USER_MAX).skip(1).step_by(2).map(id).collect::<Vec<_>>());
    // All of them are one run, however long their ids.
    for number in (0..DEVICES_PER_USER_MAX).step_by(2) {
        world.login_refreshable(&alice, id(number).as_str()).await;
    }
    world.users.delete_all_devices(&alice).await.unwrap();
    assert!(world.users.devices(&world.view().await, &alice).await.unwrap().is_empty());
}
