//! Dehydrated devices.

use ruma::UserId;
use serde_json::json;
use store::Position;
use users::{
    DEHYDRATED_DEVICE_BYTES_MAX, Erasure, Error, KeyUpload, Login, NewDehydratedDevice, ToDeviceMessage,
    ToDeviceRequest,
};

use crate::{
    keys::{Device, identity, key_map, raw, seen},
    world::{World, world},
};

/// A device with keys that isn't logged in.
pub fn device(user: &UserId, id: &str) -> Device {
    Device { user: user.to_owned(), id: id.into(), account: vodozemac::olm::Account::new() }
}

pub fn upload(device: &mut Device) -> KeyUpload {
    let keys = device.keys();
    KeyUpload { one_time_keys: key_map(&device.one_time_keys(5)), ..identity(&keys) }
}

pub async fn put(world: &World, device: &Device, keys: KeyUpload) -> Result<(), Error> {
    let data = raw(&json!({ "device_pickle": device.id.as_str() }));
    let new = NewDehydratedDevice { device_id: &device.id, display_name: Some("Asleep"), data: &data, keys };
    world.users.put_dehydrated_device(&device.user, &new).await
}

async fn current(world: &World, user: &UserId) -> Option<(String, String)> {
    let device = world.users.dehydrated_device(&world.view().await, user).await.unwrap()?;
    Some((device.device_id.to_string(), device.data.get().to_owned()))
}

async fn device_ids(world: &World, user: &UserId) -> Vec<String> {
    let devices = world.users.devices(&world.view().await, user).await.unwrap();
    devices.into_iter().map(|device| device.device_id.to_string()).collect()
}

async fn send(world: &World, to: &Device, txn_id: &str) {
    let request = ToDeviceRequest { sender: &to.user, device: "PHONE".into(), txn_id, event_type: "m.test" };
    let content = raw(&json!({}));
    let message = ToDeviceMessage { user: &to.user, device: Some(&to.id), content: &content };
    world.users.send_to_device(&request, &[message]).await.unwrap();
}

async fn waiting(world: &World, device: &Device) -> usize {
    let (from, to) = (Position::ZERO, Position::MAX);
    world.users.to_device_messages(&device.user, &device.id, from, to).await.unwrap().events.len()
}

#[tokio::test]
async fn a_user_has_one_that_gets_messages_and_keys_claimed() {
    let world = world().await;
    let alice = world.register("alice").await;
    world.login(&alice, "PHONE").await;
    assert_eq!(current(&world, &alice).await, None);
    let mut first = device(&alice, "FIRST");
    let keys = upload(&mut first);
    put(&world, &first, keys.clone()).await.unwrap();
    assert_eq!(current(&world, &alice).await.unwrap(), ("FIRST".to_owned(), r#"{"device_pickle":"FIRST"}"#.to_owned()));
    assert_eq!(device_ids(&world, &alice).await, ["FIRST", "PHONE"]);
    assert!(seen(&world, &alice, &alice).await.unwrap().devices.contains_key(&first.id));
    let counts = world.users.key_counts(&world.view().await, &alice, &first.id).await.unwrap();
    assert_eq!(counts.one_time["signed_curve25519"], 5);
    send(&world, &first, "1").await;
    assert_eq!(waiting(&world, &first).await, 1);

    // The same once more, as after an answer that got lost, changes nothing.
    put(&world, &first, keys).await.unwrap();
    assert_eq!(waiting(&world, &first).await, 1);

    // Another takes its place, and nothing is left of it.
    let mut second = device(&alice, "SECOND");
    let keys = upload(&mut second);
    put(&world, &second, keys).await.unwrap();
    assert_eq!(current(&world, &alice).await.unwrap().0, "SECOND");
    assert_eq!(device_ids(&world, &alice).await, ["PHONE", "SECOND"]);
    assert_eq!(waiting(&world, &first).await, 0);
    let keys = seen(&world, &alice, &alice).await.unwrap().devices;
    assert!(!keys.contains_key(&first.id) && keys.contains_key(&second.id));

    assert_eq!(world.users.delete_dehydrated_device(&alice).await.unwrap(), second.id);
    assert_eq!(device_ids(&world, &alice).await, ["PHONE"]);
    assert!(matches!(world.users.delete_dehydrated_device(&alice).await, Err(Error::UnknownDevice)));
}

#[tokio::test]
async fn what_is_refused_leaves_the_one_before() {
    let world = world().await;
    let alice = world.register("alice").await;
    world.login(&alice, "PHONE").await;
    let mut first = device(&alice, "FIRST");
    let keys = upload(&mut first);
    put(&world, &first, keys.clone()).await.unwrap();
    // A device that is in use can't be put to sleep.
    let mut phone = device(&alice, "PHONE");
    let phone_keys = upload(&mut phone);
    assert!(matches!(put(&world, &phone, phone_keys).await, Err(Error::DeviceIdInUse)));
    // Keys of another device.
    assert!(matches!(put(&world, &device(&alice, "SECOND"), keys).await, Err(Error::InvalidKey(_))));
    let data = raw(&json!({ "device_pickle": "p".repeat(DEHYDRATED_DEVICE_BYTES_MAX) }));
    let third = device(&alice, "THIRD");
    let keys = identity(&third.keys());
    let new = NewDehydratedDevice { device_id: &third.id, display_name: None, data: &data, keys };
    assert!(matches!(world.users.put_dehydrated_device(&alice, &new).await, Err(Error::TooLarge { .. })));
    assert_eq!(current(&world, &alice).await.unwrap().0, "FIRST");
    assert_eq!(device_ids(&world, &alice).await, ["FIRST", "PHONE"]);
}

#[tokio::test]
async fn it_goes_when_its_device_is_deleted() {
    let world = world().await;
    let alice = world.register("alice").await;
    let mut first = device(&alice, "FIRST");
    let keys = upload(&mut first);
    put(&world, &first, keys).await.unwrap();
    world.users.delete_devices(&alice, &["OTHER".into()]).await.unwrap();
    assert!(current(&world, &alice).await.is_some());
    world.users.delete_devices(&alice, std::slice::from_ref(&first.id)).await.unwrap();
    assert_eq!(current(&world, &alice).await, None);
    let keys = upload(&mut first);
    put(&world, &first, keys).await.unwrap();
    world.users.deactivate(&alice, Erasure::Keep).await.unwrap();
    assert_eq!(current(&world, &alice).await, None);
}

#[tokio::test]
async fn nobody_logs_in_on_it_but_everybody_writes_to_it() {
    let world = world().await;
    let alice = world.register("alice").await;
    world.login(&alice, "PHONE").await;
    let mut first = device(&alice, "FIRST");
    let keys = upload(&mut first);
    put(&world, &first, keys).await.unwrap();
    let login = Login { device_id: Some(first.id.clone()), display_name: None, refreshable: false };
    assert!(matches!(world.users.login(&alice, &login).await, Err(Error::DeviceIdInUse)));

    // A message to all devices is one for it as well.
    let request = ToDeviceRequest { sender: &alice, device: "PHONE".into(), txn_id: "1", event_type: "m.test" };
    let content = raw(&json!({}));
    let message = ToDeviceMessage { user: &alice, device: None, content: &content };
    assert_eq!(world.users.send_to_device(&request, &[message]).await.unwrap().queued, 2);
    assert_eq!(waiting(&world, &first).await, 1);

    // Its id is free when it is gone, without its messages.
    world.users.delete_dehydrated_device(&alice).await.unwrap();
    world.users.login(&alice, &login).await.unwrap();
    assert_eq!(waiting(&world, &first).await, 0);
}
