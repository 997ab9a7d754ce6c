//! Registration tokens and the bootstrap token.

use users::{Created, Error, NewAccount, NewRegistrationToken, Origin, RegistrationTokenUpdate, Reservation, Result};

use crate::world::{START_MS, World, new_account, world};

async fn create(world: &World, token: &str, uses_allowed: Option<u64>, expires_ms: Option<u64>) {
    let new = NewRegistrationToken { token: Some(token.to_owned()), uses_allowed, expires_ms };
    world.users.create_registration_token(new).await.unwrap();
}

async fn register(world: &World, name: &str, reservation: Reservation) -> Result<Created> {
    let new = NewAccount { origin: Origin::Token(reservation.into()), ..new_account(name) };
    world.users.create_account(new).await
}

async fn counts(world: &World, token: &str) -> (u64, u64) {
    let found = world.users.registration_token(&world.view().await, token).await.unwrap().unwrap();
    (found.pending, found.completed)
}

#[tokio::test]
async fn uses_are_reserved_and_then_counted() {
    let world = world().await;
    create(&world, "letmein", Some(2), None).await;
    let first = world.users.reserve_registration_token("letmein").await.unwrap();
    let second = world.users.reserve_registration_token("letmein").await.unwrap();
    assert_eq!(counts(&world, "letmein").await, (2, 0));
    assert!(!world.users.is_registration_token_valid("letmein").await.unwrap());
    let third = world.users.reserve_registration_token("letmein").await;
    assert!(matches!(third, Err(Error::InvalidRegistrationToken)));

    drop(second);
    assert_eq!(counts(&world, "letmein").await, (1, 0));
    register(&world, "alice", first).await.unwrap();
    assert_eq!(counts(&world, "letmein").await, (0, 1));
    let last = world.users.reserve_registration_token("letmein").await.unwrap();
    register(&world, "bob", last).await.unwrap();
    assert_eq!(counts(&world, "letmein").await, (0, 2));
    assert!(!world.users.is_registration_token_valid("letmein").await.unwrap());
}

#[tokio::test]
async fn tokens_expire() {
    let world = world().await;
    create(&world, "soon", None, Some(START_MS + 1000)).await;
    assert!(world.users.is_registration_token_valid("soon").await.unwrap());
    let reservation = world.users.reserve_registration_token("soon").await.unwrap();
    world.pass_ms(1000);
    assert!(!world.users.is_registration_token_valid("soon").await.unwrap());
    let late = register(&world, "alice", reservation).await;
    assert!(matches!(late, Err(Error::InvalidRegistrationToken)));
}

#[tokio::test]
async fn a_failed_registration_uses_nothing_up() {
    let world = world().await;
    world.register("alice").await;
    create(&world, "letmein", Some(1), None).await;
    let reservation = world.users.reserve_registration_token("letmein").await.unwrap();
    assert!(matches!(register(&world, "alice", reservation).await, Err(Error::UserNameTaken)));
    assert_eq!(counts(&world, "letmein").await, (0, 0));
}

#[tokio::test]
async fn the_limit_holds_whatever_was_reserved() {
    let world = world().await;
    create(&world, "letmein", Some(2), None).await;
    let first = world.users.reserve_registration_token("letmein").await.unwrap();
    let second = world.users.reserve_registration_token("letmein").await.unwrap();
    let update = RegistrationTokenUpdate { uses_allowed: Some(Some(1)), expires_ms: None };
    world.users.update_registration_token("letmein", &update).await.unwrap();
    let (a, b) = tokio::join!(register(&world, "alice", first), register(&world, "bob", second));
    assert_eq!(u32::from(a.is_ok()) + u32::from(b.is_ok()), 1);
    assert_eq!(counts(&world, "letmein").await, (0, 1));
}

#[tokio::test]
async fn administrators_create_list_change_and_delete() {
    let world = world().await;
    let users = &world.users;
    let random = users.create_registration_token(NewRegistrationToken::default()).await.unwrap();
    assert_eq!(random.token.len(), 24);
    create(&world, "b", None, None).await;
    let taken = NewRegistrationToken { token: Some("b".into()), ..NewRegistrationToken::default() };
    assert!(matches!(users.create_registration_token(taken).await, Err(Error::RegistrationTokenTaken)));
    for bad in ["", "a b", "ä", "a/b", &"x".repeat(65)] {
        let new = NewRegistrationToken { token: Some(bad.to_owned()), ..NewRegistrationToken::default() };
        let refused = users.create_registration_token(new).await;
        assert!(matches!(refused, Err(Error::MalformedRegistrationToken)), "{bad}");
        assert!(!users.is_registration_token_valid(bad).await.unwrap());
    }
    let all = users.registration_tokens(&world.view().await, None, 10).await.unwrap();
    assert_eq!(all.len(), 2);
    let after = users.registration_tokens(&world.view().await, Some(&all[0].token), 10).await.unwrap();
    assert_eq!(after, all[1..]);

    let update = RegistrationTokenUpdate { uses_allowed: Some(Some(5)), expires_ms: Some(Some(9)) };
    users.update_registration_token("b", &update).await.unwrap();
    let lifted = RegistrationTokenUpdate { uses_allowed: None, expires_ms: Some(None) };
    let updated = users.update_registration_token("b", &lifted).await.unwrap();
    assert_eq!((updated.uses_allowed, updated.expires_ms), (Some(5), None));

    users.delete_registration_token("b").await.unwrap();
    assert!(matches!(users.delete_registration_token("b").await, Err(Error::UnknownRegistrationToken)));
    let gone = users.update_registration_token("b", &lifted).await;
    assert!(matches!(gone, Err(Error::UnknownRegistrationToken)));
}

#[tokio::test]
async fn the_bootstrap_token_makes_one_administrator() {
    let world = world().await;
    let token = world.users.bootstrap_token().await.unwrap().unwrap();
    assert_eq!(world.users.bootstrap_token().await.unwrap().as_deref(), Some(token.as_str()));
    assert!(world.users.is_registration_token_valid(&token).await.unwrap());
    let first = world.users.reserve_registration_token(&token).await.unwrap();
    let second = world.users.reserve_registration_token(&token).await.unwrap();
    let (a, b) = tokio::join!(register(&world, "alice", first), register(&world, "bob", second));
    let (winner, loser) = if a.is_ok() { (a, b) } else { (b, a) };
    let winner = winner.unwrap();
    assert!(winner.admin);
    assert!(world.users.is_admin(&world.view().await, &winner.user_id).await.unwrap());
    assert!(matches!(loser, Err(Error::InvalidRegistrationToken)));
    assert!(world.users.bootstrap_token().await.unwrap().is_none());
    assert!(!world.users.is_registration_token_valid(&token).await.unwrap());
}

#[tokio::test]
async fn guests_and_services_leave_the_bootstrap_token_alone() {
    let world = world().await;
    world.users.create_guest(ruma::server_name!("example.org"), None).await.unwrap();
    let bot = NewAccount { origin: Origin::AppService("irc".into()), password: None, ..new_account("bot") };
    world.users.create_account(bot).await.unwrap();
    assert!(world.users.bootstrap_token().await.unwrap().is_some());
    world.register("alice").await;
    assert!(world.users.bootstrap_token().await.unwrap().is_none());
}
