//! Passwords.

use users::{Config, Error, OtherDevices, PASSWORD_BYTES_MAX, PasswordConfig};

use crate::world::{PASSWORD, another, config, new_account, user, world, world_with};

#[tokio::test]
async fn the_right_password_is_right() {
    let world = world().await;
    let alice = world.register("alice").await;
    assert!(world.users.check_password(&alice, PASSWORD).await.is_ok());
    assert!(world.users.has_password(&world.view().await, &alice).await.unwrap());
}

#[tokio::test]
async fn wrong_password_unknown_user_and_no_password_are_the_same() {
    let world = world().await;
    let alice = world.register("alice").await;
    let bot = users::NewAccount { password: None, ..new_account("bot") };
    let bot = world.users.create_account(bot).await.unwrap().user_id;
    let too_long = "x".repeat(PASSWORD_BYTES_MAX + 1);
    for (who, password) in
        [(&alice, "wrong"), (&alice, ""), (&alice, too_long.as_str()), (&user("nobody"), PASSWORD), (&bot, PASSWORD)]
    {
        let refused = world.users.check_password(who, password).await;
        assert!(matches!(refused, Err(Error::WrongPassword)), "{who}");
    }
}

#[tokio::test]
async fn new_passwords_have_a_length() {
    let world = world().await;
    let alice = world.register("alice").await;
    let short = world.users.change_password(&alice, "short", OtherDevices::Keep).await;
    assert!(matches!(short, Err(Error::PasswordTooShort { min: 8 })));
    let long = "x".repeat(PASSWORD_BYTES_MAX + 1);
    let long = world.users.change_password(&alice, &long, OtherDevices::Keep).await;
    assert!(matches!(long, Err(Error::PasswordTooLong { .. })));
    assert!(world.users.check_password(&alice, PASSWORD).await.is_ok());
}

#[tokio::test]
async fn a_changed_password_logs_other_devices_out_if_asked() {
    let world = world().await;
    let alice = world.register("alice").await;
    let (phone, laptop) = (world.login(&alice, "PHONE").await, world.login(&alice, "LAPTOP").await);

    world.users.change_password(&alice, "another password", OtherDevices::Keep).await.unwrap();
    assert!(world.users.authenticate(&laptop.access_token).await.is_ok());
    assert!(matches!(world.users.check_password(&alice, PASSWORD).await, Err(Error::WrongPassword)));
    assert!(world.users.check_password(&alice, "another password").await.is_ok());

    let others = OtherDevices::LogOut { keep: Some("PHONE".into()) };
    world.users.change_password(&alice, "a third password", others).await.unwrap();
    assert!(world.users.authenticate(&phone.access_token).await.is_ok());
    assert!(matches!(world.users.authenticate(&laptop.access_token).await, Err(Error::UnknownToken)));
    assert_eq!(world.users.devices(&world.view().await, &alice).await.unwrap().len(), 1);
}

#[tokio::test]
async fn hashes_are_stored_again_when_the_costs_change() {
    let world = world().await;
    let alice = world.register("alice").await;
    let dearer = PasswordConfig { passes: 2, ..config().password };
    let users = another(&world.store, &world.clock, Config { password: dearer, ..config() }).await;
    for _ in 0..2 {
        assert!(users.check_password(&alice, PASSWORD).await.is_ok());
    }
    assert!(world.users.check_password(&alice, PASSWORD).await.is_ok());
}

#[tokio::test]
async fn too_many_at_once_are_turned_away() {
    let password = PasswordConfig { waiting: 1, ..config().password };
    let world = world_with(Config { password, password_hashes_at_once: 1, ..config() }).await;
    let alice = world.register("alice").await;
    let checks = (0..20).map(|_| {
        let (users, alice) = (world.users.clone(), alice.clone());
        tokio::spawn(async move { users.check_password(&alice, PASSWORD).await })
    });
    let checks: Vec<_> = checks.collect();
    let (mut right, mut busy) = (0, 0);
    for check in checks {
        match check.await.unwrap() {
            Ok(_) => right += 1,
            Err(Error::Busy) => busy += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(right >= 2 && busy >= 1, "{right} right, {busy} busy");
}
