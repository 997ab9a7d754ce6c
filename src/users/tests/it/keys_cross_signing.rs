//! Cross-signing keys and signatures.

use ruma::{OwnedUserId, UserId};
use serde_json::{Value, json};
use users::{Change, Confirmation, CrossSigningUpload, Erasure, Error, Login, SignatureFailure, SignedKey};
use vodozemac::Ed25519SecretKey;

use crate::{
    keys::{Device, changes, device_seen, identity, key_pair, raw, seen, sign, value},
    world::{World, world},
};

/// The private halves of a user's cross-signing keys.
pub struct Owner {
    user: OwnedUserId,
    master: Ed25519SecretKey,
    self_signing: Ed25519SecretKey,
    user_signing: Ed25519SecretKey,
}

fn name(key: &Ed25519SecretKey) -> String {
    key.public_key().to_base64()
}

fn key_id(key: &Ed25519SecretKey) -> String {
    format!("ed25519:{}", name(key))
}

impl Owner {
    /// Another user's master key with the signature of this one's.
    pub fn sign_master_of(&self, other: &Owner) -> SignedKey {
        let mut object = other.master();
        self.sign(&self.user_signing, &mut object);
        SignedKey { user: other.user.clone(), key: name(&other.master), json: raw(&object) }
    }

    pub fn new(user: &UserId, seed: u8) -> Self {
        let [master, self_signing, user_signing] = [seed, seed + 1, seed + 2].map(key_pair);
        Self { user: user.to_owned(), master, self_signing, user_signing }
    }

    fn object(&self, usage: &str, key: &Ed25519SecretKey) -> Value {
        json!({ "user_id": self.user, "usage": [usage], "keys": { key_id(key): name(key) } })
    }

    fn sign(&self, key: &Ed25519SecretKey, object: &mut Value) {
        sign(object, &self.user, &key_id(key), |text| key.sign(text).to_base64());
    }

    fn signed(&self, usage: &str, key: &Ed25519SecretKey) -> Value {
        let mut object = self.object(usage, key);
        self.sign(&self.master, &mut object);
        object
    }

    fn master(&self) -> Value {
        self.object("master", &self.master)
    }

    pub fn upload(&self) -> CrossSigningUpload {
        CrossSigningUpload {
            master_key: Some(raw(&self.master())),
            self_signing_key: Some(raw(&self.signed("self_signing", &self.self_signing))),
            user_signing_key: Some(raw(&self.signed("user_signing", &self.user_signing))),
        }
    }
}

async fn put(world: &World, user: &UserId, upload: &CrossSigningUpload) -> Result<(), Error> {
    world.users.upload_cross_signing(user, upload, Confirmation::NotAsked).await
}

async fn put_confirmed(world: &World, user: &UserId, upload: &CrossSigningUpload) -> Result<(), Error> {
    world.users.upload_cross_signing(user, upload, Confirmation::Given).await
}

/// Uploads one signed object; what it fails with.
async fn sign_key(world: &World, signer: &UserId, user: &UserId, key: &str, json: &Value) -> Option<SignatureFailure> {
    let signed = SignedKey { user: user.to_owned(), key: key.to_owned(), json: raw(json) };
    let mut failures = world.users.upload_signatures(signer, &[signed]).await.unwrap();
    failures.remove(user).and_then(|mut failed| failed.remove(key))
}

#[tokio::test]
async fn the_first_keys_and_the_same_keys_need_no_confirmation() {
    let world = world().await;
    let (alice, bob) = (world.register("alice").await, world.register("bob").await);
    let first = Owner::new(&alice, 1);
    let before = world.store.published();
    put(&world, &alice, &first.upload()).await.unwrap();
    assert_eq!(changes(&world, before).await, [Change::DeviceKeys]);
    let before = world.store.published();
    put(&world, &alice, &first.upload()).await.unwrap();
    let part = CrossSigningUpload { user_signing_key: None, ..first.upload() };
    put(&world, &alice, &part).await.unwrap();
    put(&world, &alice, &CrossSigningUpload::default()).await.unwrap();
    assert_eq!(world.store.published(), before);

    let others = seen(&world, &bob, &alice).await.unwrap();
    assert_eq!(value(&others.master.unwrap())["keys"], first.master()["keys"]);
    let self_signing = first.signed("self_signing", &first.self_signing);
    assert_eq!(value(&others.self_signing.unwrap()), self_signing);
    assert!(others.user_signing.is_none(), "nobody else sees it");
    let own = seen(&world, &alice, &alice).await.unwrap();
    assert_eq!(value(&own.user_signing.unwrap()), first.signed("user_signing", &first.user_signing));

    let mut second = Owner::new(&alice, 1);
    second.self_signing = key_pair(9);
    let upload = CrossSigningUpload { self_signing_key: second.upload().self_signing_key, ..Default::default() };
    assert!(matches!(put(&world, &alice, &upload).await, Err(Error::ConfirmationNeeded)));
    put_confirmed(&world, &alice, &upload).await.unwrap();
    let own = seen(&world, &alice, &alice).await.unwrap();
    assert_eq!(value(&own.self_signing.unwrap()), second.signed("self_signing", &second.self_signing));
    assert!(own.user_signing.is_some());
}

#[tokio::test]
async fn a_new_master_key_needs_confirmation_and_ends_the_other_keys() {
    let world = world().await;
    let alice = world.register("alice").await;
    put(&world, &alice, &Owner::new(&alice, 1).upload()).await.unwrap();
    let second = Owner::new(&alice, 11);
    assert!(matches!(put(&world, &alice, &second.upload()).await, Err(Error::ConfirmationNeeded)));
    let master = CrossSigningUpload { master_key: second.upload().master_key, ..Default::default() };
    put_confirmed(&world, &alice, &master).await.unwrap();
    let own = seen(&world, &alice, &alice).await.unwrap();
    assert!(own.self_signing.is_none() && own.user_signing.is_none());
    assert_eq!(value(&own.master.unwrap())["keys"], second.master()["keys"]);
    // The others are new again.
    assert!(matches!(put(&world, &alice, &second.upload()).await, Err(Error::ConfirmationNeeded)));
    put_confirmed(&world, &alice, &second.upload()).await.unwrap();
}

#[tokio::test]
async fn keys_must_be_of_the_user_and_signed_by_the_master_key() {
    let world = world().await;
    let (alice, bob) = (world.register("alice").await, world.register("bob").await);
    let owner = Owner::new(&alice, 1);
    let only = |key: &Value| CrossSigningUpload { self_signing_key: Some(raw(key)), ..Default::default() };
    let good = owner.signed("self_signing", &owner.self_signing);
    assert!(matches!(put(&world, &alice, &only(&good)).await, Err(Error::MissingMasterKey)));
    assert!(matches!(put(&world, &alice, &CrossSigningUpload::default()).await, Err(Error::MissingMasterKey)));
    let unsigned = owner.object("self_signing", &owner.self_signing);
    let upload = CrossSigningUpload { self_signing_key: Some(raw(&unsigned)), ..owner.upload() };
    assert!(matches!(put(&world, &alice, &upload).await, Err(Error::InvalidSignature(_))));
    let mut tampered = good.clone();
    tampered["more"] = json!(1);
    let upload = CrossSigningUpload { self_signing_key: Some(raw(&tampered)), ..owner.upload() };
    assert!(matches!(put(&world, &alice, &upload).await, Err(Error::InvalidSignature(_))));
    assert!(matches!(put(&world, &bob, &owner.upload()).await, Err(Error::InvalidKey(_))));
    let wrong = [
        json!({ "usage": ["self_signing"] }),
        json!({ "usage": "master" }),
        json!({ "keys": {} }),
        json!({ "keys": { "ed25519:other": name(&owner.master) } }),
        json!({ "keys": { key_id(&owner.master): name(&owner.master), "ed25519:x": "y" } }),
        json!({ "keys": { "ed25519:AAAA": "AAAA" } }),
    ];
    for change in wrong {
        let mut master = owner.master();
        for (field, value) in change.as_object().unwrap() {
            master[field] = value.clone();
        }
        let upload = CrossSigningUpload { master_key: Some(raw(&master)), ..Default::default() };
        assert!(matches!(put(&world, &alice, &upload).await, Err(Error::InvalidKey(_))), "{change}");
    }
    assert!(seen(&world, &alice, &alice).await.unwrap().master.is_none());
}

#[tokio::test]
async fn devices_and_cross_signing_keys_have_different_names() {
    let world = world().await;
    let alice = world.register("alice").await;
    let owner = Owner::new(&alice, 1);
    world.login(&alice, &name(&owner.self_signing)).await;
    assert!(matches!(put(&world, &alice, &owner.upload()).await, Err(Error::KeyIdInUse)));
    let other = Owner::new(&alice, 11);
    put(&world, &alice, &other.upload()).await.unwrap();
    let login = Login { device_id: Some(name(&other.master).into()), ..Login::default() };
    assert!(matches!(world.users.login(&alice, &login).await, Err(Error::KeyIdInUse)));
}

#[tokio::test]
async fn own_devices_are_signed_by_the_self_signing_key() {
    let world = world().await;
    let (alice, bob) = (world.register("alice").await, world.register("bob").await);
    let phone = Device::new(&world, &alice, "PHONE").await;
    phone.upload_identity(&world).await;
    let owner = Owner::new(&alice, 1);
    let mut signed = phone.keys();
    owner.sign(&owner.self_signing, &mut signed);
    let none = sign_key(&world, &alice, &alice, "PHONE", &signed).await;
    assert_eq!(none, Some(SignatureFailure::NoSigningKey));
    put(&world, &alice, &owner.upload()).await.unwrap();
    let before = world.store.published();
    assert_eq!(sign_key(&world, &alice, &alice, "PHONE", &signed).await, None);
    assert_eq!(changes(&world, before).await, [Change::DeviceKeys]);
    assert_eq!(device_seen(&world, &bob, &phone).await.unwrap(), signed);
    let before = world.store.published();
    assert_eq!(sign_key(&world, &alice, &alice, "PHONE", &signed).await, None);
    assert_eq!(world.store.published(), before, "it was there already");
    // The device uploading its keys again does not lose it, and its saying something else does.
    phone.upload_identity(&world).await;
    assert_eq!(device_seen(&world, &bob, &phone).await.unwrap(), signed);

    let mut by_master = phone.keys();
    owner.sign(&owner.master, &mut by_master);
    let fails = sign_key(&world, &alice, &alice, "PHONE", &by_master).await;
    assert_eq!(fails, Some(SignatureFailure::Invalid));
    let mut other = signed.clone();
    other["algorithms"] = json!([]);
    owner.sign(&owner.self_signing, &mut other);
    let fails = sign_key(&world, &alice, &alice, "PHONE", &other).await;
    assert_eq!(fails, Some(SignatureFailure::Mismatch));
    assert_eq!(sign_key(&world, &alice, &alice, "GONE", &signed).await, Some(SignatureFailure::UnknownKey));
    assert_eq!(sign_key(&world, &bob, &alice, "PHONE", &signed).await, Some(SignatureFailure::UnknownKey));

    let mut changed = phone.keys();
    changed["algorithms"] = json!(["m.new"]);
    phone.sign(&mut changed);
    phone.upload(&world, &identity(&changed)).await.unwrap();
    assert_eq!(device_seen(&world, &bob, &phone).await.unwrap(), changed);

    // With another self-signing key the signature of the old one goes.
    let second = Owner::new(&alice, 11);
    owner.sign(&owner.self_signing, &mut changed);
    assert_eq!(sign_key(&world, &alice, &alice, "PHONE", &changed).await, None);
    put_confirmed(&world, &alice, &second.upload()).await.unwrap();
    second.sign(&second.self_signing, &mut changed);
    assert_eq!(sign_key(&world, &alice, &alice, "PHONE", &changed).await, None);
    let seen = device_seen(&world, &bob, &phone).await.unwrap();
    let signatures = seen["signatures"][alice.as_str()].as_object().unwrap();
    assert!(signatures.len() == 2 && signatures.contains_key(&key_id(&second.self_signing)));
}

#[tokio::test]
async fn the_master_key_is_signed_by_devices() {
    let world = world().await;
    let (alice, bob) = (world.register("alice").await, world.register("bob").await);
    let phone = Device::new(&world, &alice, "PHONE").await;
    let tablet = Device::new(&world, &alice, "TABLET").await;
    phone.upload_identity(&world).await;
    tablet.upload_identity(&world).await;
    let owner = Owner::new(&alice, 1);
    let mut master = owner.master();
    phone.sign(&mut master);
    let upload = CrossSigningUpload { master_key: Some(raw(&master)), ..owner.upload() };
    put(&world, &alice, &upload).await.unwrap();
    let seen_master = async || value(&seen(&world, &bob, &alice).await.unwrap().master.unwrap());
    assert_eq!(seen_master().await, master);

    let mut by_tablet = owner.master();
    tablet.sign(&mut by_tablet);
    assert_eq!(sign_key(&world, &alice, &alice, &name(&owner.master), &by_tablet).await, None);
    tablet.sign(&mut master);
    assert_eq!(seen_master().await, master, "both signatures");
    let mut wrong = owner.master();
    wrong["signatures"] = json!({ alice.as_str(): { "ed25519:PHONE": "AAAA" } });
    let fails = sign_key(&world, &alice, &alice, &name(&owner.master), &wrong).await;
    assert_eq!(fails, Some(SignatureFailure::Invalid));
    let fails = sign_key(&world, &alice, &alice, &name(&owner.master), &owner.master()).await;
    assert_eq!(fails, Some(SignatureFailure::Invalid), "nothing is signed");

    // A device of the same id that is another doesn't stand in the way of signatures.
    world.users.delete_devices(&alice, std::slice::from_ref(&phone.id)).await.unwrap();
    let phone = Device::new(&world, &alice, "PHONE").await;
    phone.upload_identity(&world).await;
    phone.sign(&mut master);
    assert_eq!(sign_key(&world, &alice, &alice, &name(&owner.master), &master).await, None);
    assert_eq!(seen_master().await, master);
}

#[tokio::test]
async fn who_signs_others_is_seen_by_nobody_else() {
    let world = world().await;
    let (alice, bob, carol) =
        (world.register("alice").await, world.register("bob").await, world.register("carol").await);
    let (of_alice, of_bob) = (Owner::new(&alice, 1), Owner::new(&bob, 11));
    put(&world, &bob, &of_bob.upload()).await.unwrap();
    let mut signed = of_bob.master();
    of_alice.sign(&of_alice.user_signing, &mut signed);
    let bobs = name(&of_bob.master);
    assert_eq!(sign_key(&world, &alice, &bob, &bobs, &signed).await, Some(SignatureFailure::NoSigningKey));
    put(&world, &alice, &of_alice.upload()).await.unwrap();
    assert_eq!(sign_key(&world, &alice, &bob, &bobs, &of_bob.master()).await, Some(SignatureFailure::Invalid));
    let before = world.store.published();
    assert_eq!(sign_key(&world, &alice, &bob, &bobs, &signed).await, None);
    assert_eq!(changes(&world, before).await, [Change::SignedUser { other: bob.clone() }]);
    let before = world.store.published();
    assert_eq!(sign_key(&world, &alice, &bob, &bobs, &signed).await, None);
    assert_eq!(world.store.published(), before);
    assert_eq!(sign_key(&world, &alice, &bob, "other", &signed).await, Some(SignatureFailure::UnknownKey));
    assert_eq!(sign_key(&world, &alice, &carol, &bobs, &signed).await, Some(SignatureFailure::UnknownKey));

    let master = async |asker: &UserId| value(&seen(&world, asker, &bob).await.unwrap().master.unwrap());
    assert_eq!(master(&alice).await, signed);
    for other in [&bob, &carol] {
        assert!(master(other).await["signatures"].get(alice.as_str()).is_none());
    }
    // A new master key isn't the one that was signed.
    let again = Owner::new(&bob, 21);
    put_confirmed(&world, &bob, &again.upload()).await.unwrap();
    assert!(master(&alice).await["signatures"].get(alice.as_str()).is_none());
    let mut signed = again.master();
    of_alice.sign(&of_alice.user_signing, &mut signed);
    assert_eq!(sign_key(&world, &alice, &bob, &name(&again.master), &signed).await, None);
    assert_eq!(master(&alice).await, signed);
    // Nor does a new user-signing key vouch for it.
    put_confirmed(&world, &alice, &Owner::new(&alice, 31).upload()).await.unwrap();
    assert!(master(&alice).await["signatures"].get(alice.as_str()).is_none());
    world.users.deactivate(&bob, Erasure::Keep).await.unwrap();
    assert!(seen(&world, &alice, &bob).await.unwrap().master.is_none());
    let signed_by_alice = async || {
        let since = store::Position::ZERO;
        world.users.users_signed_between(&world.view().await, &alice, since, store::Position::MAX).await.unwrap()
    };
    assert_eq!(signed_by_alice().await, std::slice::from_ref(&bob));
    world.users.deactivate(&alice, Erasure::Keep).await.unwrap();
    assert!(signed_by_alice().await.is_empty());
}

#[tokio::test]
async fn one_upload_signs_many_and_tells_what_failed() {
    let world = world().await;
    let alice = world.register("alice").await;
    let owner = Owner::new(&alice, 1);
    put(&world, &alice, &owner.upload()).await.unwrap();
    let mut signed = Vec::new();
    for number in 0..150 {
        let device = Device::new(&world, &alice, &format!("D{number}")).await;
        device.upload_identity(&world).await;
        let mut keys = device.keys();
        owner.sign(if number % 10 == 3 { &owner.master } else { &owner.self_signing }, &mut keys);
        signed.push(SignedKey { user: alice.clone(), key: device.id.to_string(), json: raw(&keys) });
    }
    let failures = world.users.upload_signatures(&alice, &signed).await.unwrap();
    assert_eq!(failures[&alice].len(), 15);
    assert!(failures[&alice].iter().all(|(key, why)| key.ends_with('3') && *why == SignatureFailure::Invalid));
    let signed = seen(&world, &alice, &alice).await.unwrap().devices.into_values().map(|keys| value(&keys));
    assert_eq!(signed.filter(|keys| keys["signatures"][alice.as_str()].as_object().unwrap().len() == 2).count(), 135);
    let many = vec![SignedKey { user: alice.clone(), key: "D1".to_owned(), json: raw(&json!({})) }; 1_001];
    assert!(matches!(world.users.upload_signatures(&alice, &many).await, Err(Error::TooMany(_))));
}
