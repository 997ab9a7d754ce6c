//! OpenID tokens.

use users::{Erasure, Error, OPENID_TOKEN_MS};

use crate::world::world;

#[tokio::test]
async fn a_token_says_who_it_is_for_an_hour() {
    let world = world().await;
    let alice = world.register("alice").await;
    let token = world.users.create_openid_token(&alice).await.unwrap();
    let other = world.users.create_openid_token(&alice).await.unwrap();
    assert_ne!(token, other);
    assert_eq!(world.users.openid_user(&token).await.unwrap(), Some(alice.clone()));
    assert_eq!(world.users.openid_user("nonsense").await.unwrap(), None);
    // It opens nothing else.
    assert!(matches!(world.users.authenticate(&token).await, Err(Error::UnknownToken)));
    world.pass_ms(OPENID_TOKEN_MS - 1);
    assert_eq!(world.users.openid_user(&token).await.unwrap(), Some(alice));
    world.pass_ms(1);
    assert_eq!(world.users.openid_user(&token).await.unwrap(), None);
}

#[tokio::test]
async fn expired_tokens_are_forgotten() {
    let world = world().await;
    let alice = world.register("alice").await;
    for _ in 0..30 {
        world.users.create_openid_token(&alice).await.unwrap();
    }
    assert_eq!(world.users.sweep_expired().await.unwrap(), 0);
    world.pass_ms(OPENID_TOKEN_MS + 1);
    // A new one takes ten old ones with it.
    world.users.create_openid_token(&alice).await.unwrap();
    assert_eq!(world.users.sweep_expired().await.unwrap(), 20);
    assert_eq!(world.users.sweep_expired().await.unwrap(), 0);
}

#[tokio::test]
async fn a_token_ends_with_its_account() {
    let world = world().await;
    let alice = world.register("alice").await;
    let token = world.users.create_openid_token(&alice).await.unwrap();
    world.users.deactivate(&alice, Erasure::Keep).await.unwrap();
    assert_eq!(world.users.openid_user(&token).await.unwrap(), None);
    assert!(matches!(world.users.create_openid_token(&alice).await, Err(Error::Deactivated)));
}
