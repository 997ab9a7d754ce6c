//! Devices.

use std::net::{IpAddr, Ipv4Addr};

use ruma::OwnedDeviceId;
use settings::Days;
use users::{Change, Config, DEVICE_ID_BYTES_MAX, DEVICES_PER_USER_MAX, Erasure, Error, Login, PutDevice, UserChanged};

use crate::world::{World, another, config, user, world, world_with};

async fn names(world: &World, who: &ruma::UserId) -> Vec<(String, Option<String>)> {
    let devices = world.users.devices(&world.view().await, who).await.unwrap();
    devices.into_iter().map(|device| (device.device_id.to_string(), device.display_name)).collect()
}

#[tokio::test]
async fn a_login_creates_a_device_or_takes_one_over() {
    let world = world().await;
    let alice = world.register("alice").await;
    let named =
        |name: &str| Login { device_id: Some("PHONE".into()), display_name: Some(name.to_owned()), refreshable: false };
    let first = world.users.login(&alice, &named("Phone")).await.unwrap();
    let second = world.users.login(&alice, &named("Other name")).await.unwrap();
    assert_eq!(names(&world, &alice).await, [("PHONE".to_owned(), Some("Phone".to_owned()))]);
    assert!(matches!(world.users.authenticate(&first.access_token).await, Err(Error::ExpiredToken)));
    assert!(world.users.authenticate(&second.access_token).await.is_ok());

    let new = world.users.login(&alice, &Login::default()).await.unwrap();
    assert_eq!(new.device_id.as_str().len(), 10);
    assert!(new.device_id.as_str().bytes().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit()));
    assert_eq!(names(&world, &alice).await.len(), 2);
}

#[tokio::test]
async fn who_cannot_log_in() {
    let world = world().await;
    let alice = world.register("alice").await;
    assert!(matches!(world.users.login(&user("nobody"), &Login::default()).await, Err(Error::UnknownUser)));
    for id in [String::new(), "x".repeat(DEVICE_ID_BYTES_MAX + 1)] {
        let login = Login { device_id: Some(id.into()), ..Login::default() };
        assert!(matches!(world.users.login(&alice, &login).await, Err(Error::InvalidDeviceId { .. })));
    }
}

#[tokio::test]
async fn devices_are_renamed() {
    let world = world().await;
    let alice = world.register("alice").await;
    world.login(&alice, "PHONE").await;
    let phone = "PHONE".into();
    world.users.rename_device(&alice, phone, Some("Mine")).await.unwrap();
    world.users.rename_device(&alice, phone, None).await.unwrap();
    assert_eq!(names(&world, &alice).await, [("PHONE".to_owned(), Some("Mine".to_owned()))]);
    let unknown = world.users.rename_device(&alice, "OTHER".into(), Some("x")).await;
    assert!(matches!(unknown, Err(Error::UnknownDevice)));
    let long = "x".repeat(users::DEVICE_NAME_BYTES_MAX + 1);
    let long = world.users.rename_device(&alice, phone, Some(&long)).await;
    assert!(matches!(long, Err(Error::TooLarge { .. })));
}

#[tokio::test]
async fn application_services_make_devices_without_tokens() {
    let world = world().await;
    let alice = world.register("alice").await;
    let put = world.users.put_device(&alice, "BRIDGE".into(), Some("Bridge")).await.unwrap();
    assert_eq!(put, PutDevice::Created);
    let put = world.users.put_device(&alice, "BRIDGE".into(), Some("New")).await.unwrap();
    assert_eq!(put, PutDevice::Updated);
    assert_eq!(names(&world, &alice).await, [("BRIDGE".to_owned(), Some("New".to_owned()))]);
}

#[tokio::test]
async fn deleting_devices_deletes_their_tokens_alone() {
    let world = world().await;
    let alice = world.register("alice").await;
    let bob = world.register("bob").await;
    let phone = world.login_refreshable(&alice, "PHONE").await;
    let laptop = world.login(&alice, "LAPTOP").await;
    let of_bob = world.login(&bob, "PHONE").await;

    world.users.delete_devices(&alice, &["PHONE".into(), "GONE".into(), "PHONE".into()]).await.unwrap();
    assert!(matches!(world.users.authenticate(&phone.access_token).await, Err(Error::UnknownToken)));
    assert!(matches!(world.users.refresh(&phone.refresh_token.unwrap()).await, Err(Error::UnknownToken)));
    assert!(world.users.authenticate(&laptop.access_token).await.is_ok());
    assert!(world.users.authenticate(&of_bob.access_token).await.is_ok());
    world.users.delete_devices(&alice, &["GONE".into()]).await.unwrap();

    world.users.delete_all_devices(&alice).await.unwrap();
    assert!(names(&world, &alice).await.is_empty());
    assert!(matches!(world.users.authenticate(&laptop.access_token).await, Err(Error::UnknownToken)));
}

#[tokio::test]
async fn a_device_is_deleted_however_many_unknown_ones_are_named_with_it() {
    let world = world().await;
    let alice = world.register("alice").await;
    world.login(&alice, "PHONE").await;
    let mut ids: Vec<OwnedDeviceId> = Vec::new();
    for number in 0..=DEVICES_PER_USER_MAX {
        ids.push(format!("GONE{number}").into());
    }
    ids.push("PHONE".into());
    world.users.delete_devices(&alice, &ids).await.unwrap();
    assert!(names(&world, &alice).await.is_empty());
}

#[tokio::test]
async fn a_device_too_many_takes_the_place_of_the_one_used_least_recently() {
    let world = world().await;
    let alice = world.register("alice").await;
    let mut sessions = Vec::new();
    for number in 0..DEVICES_PER_USER_MAX {
        world.pass_ms(1);
        sessions.push(world.login_refreshable(&alice, &format!("DEVICE{number}")).await);
    }
    let seen = world.users.authenticate(&sessions[0].access_token).await.unwrap();
    world.pass_ms(1);
    world.users.touch(&seen, IpAddr::V4(Ipv4Addr::LOCALHOST)).await.unwrap();
    // A later commit is answered after the one that nobody waits for.
    world.users.rename_device(&alice, "DEVICE0".into(), Some("Used")).await.unwrap();
    let more = world.users.login(&alice, &Login::default()).await.unwrap();
    assert_eq!(names(&world, &alice).await.len(), DEVICES_PER_USER_MAX);
    for session in [&sessions[0], &sessions[2], &more] {
        assert!(world.users.authenticate(&session.access_token).await.is_ok());
    }
    assert!(matches!(world.users.authenticate(&sessions[1].access_token).await, Err(Error::UnknownToken)));
    world.users.delete_all_devices(&alice).await.unwrap();
    assert!(names(&world, &alice).await.is_empty());
}

/// Long names make the most of each row.
#[tokio::test]
async fn who_has_many_devices_with_long_names_can_be_deactivated() {
    let world = world().await;
    let alice = world.register(&"alice".repeat(45)).await;
    for number in 0..DEVICES_PER_USER_MAX {
        let width = DEVICE_ID_BYTES_MAX;
        // With tokens in whose place there are others.
        for _ in 0..3 {
            world.login_refreshable(&alice, &format!("{number:0width$}")).await;
        }
    }
    world.users.deactivate(&alice, Erasure::Keep).await.unwrap();
    assert!(names(&world, &alice).await.is_empty());
}

#[tokio::test]
async fn devices_that_nobody_uses_go_after_the_configured_time() {
    const DAY_MS: u64 = 24 * 60 * 60 * 1000;
    let world = world_with(Config { unused_device_retention_days: Days::of(30), ..config() }).await;
    let alice = world.register("alice").await;
    let used = world.login(&alice, "USED").await;
    world.login(&alice, "UNUSED").await;
    world.users.put_device(&alice, "PUT".into(), None).await.unwrap();
    let session = world.users.authenticate(&used.access_token).await.unwrap();
    world.pass_ms(20 * DAY_MS);
    world.users.touch(&session, IpAddr::V4(Ipv4Addr::LOCALHOST)).await.unwrap();
    world.login(&alice, "NEW").await;
    world.users.sweep_expired().await.unwrap();
    assert_eq!(names(&world, &alice).await.len(), 4);
    world.pass_ms(11 * DAY_MS);
    world.users.sweep_expired().await.unwrap();
    let left: Vec<String> = names(&world, &alice).await.into_iter().map(|(id, _)| id).collect();
    assert_eq!(left, ["NEW", "USED"]);
    // Nothing goes where nothing is configured.
    let elsewhere = another(&world.store, &world.clock, config()).await;
    world.pass_ms(1000 * DAY_MS);
    elsewhere.sweep_expired().await.unwrap();
    assert_eq!(names(&world, &alice).await.len(), 2);
}

#[tokio::test]
async fn the_log_tells_of_devices() {
    let world = world().await;
    let alice = world.register("alice").await;
    let mut follower = world.store.read_log(world.store.published());
    world.login(&alice, "PHONE").await;
    world.users.delete_all_devices(&alice).await.unwrap();
    let mut changes = Vec::new();
    while changes.len() < 2 {
        for record in follower.next().await.unwrap() {
            let change = record.decode::<UserChanged>().unwrap();
            changes.extend(change.filter(|entry| matches!(entry.change, Change::Devices { .. })));
        }
    }
    let (changed, deleted) = (vec!["PHONE".into()], vec![]);
    assert_eq!(changes[0].change, Change::Devices { changed, deleted });
    let (changed, deleted) = (vec![], vec!["PHONE".into()]);
    assert_eq!(changes[1].change, Change::Devices { changed, deleted });
}
