//! Access tokens, refresh tokens and login tokens.

use std::net::{IpAddr, Ipv4Addr};

use users::{Config, Error, TokenConfig};

use crate::world::{another, config, world, world_with};

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

#[tokio::test]
async fn unknown_tokens_are_unknown() {
    let world = world().await;
    for token in ["", "hma_nothing", "\0"] {
        assert!(matches!(world.users.authenticate(token).await, Err(Error::UnknownToken)));
        assert!(matches!(world.users.refresh(token).await, Err(Error::UnknownToken)));
        assert!(matches!(world.users.use_login_token(token).await, Err(Error::UnknownToken)));
    }
}

#[tokio::test]
async fn tokens_without_a_lifetime_stay() {
    let world = world().await;
    let alice = world.register("alice").await;
    let session = world.login(&alice, "PHONE").await;
    assert_eq!((session.expires_in_ms, session.refresh_token), (None, None));
    world.pass_ms(1000 * DAY_MS);
    assert!(world.users.authenticate(&session.access_token).await.is_ok());
}

#[tokio::test]
async fn an_expired_token_is_a_soft_logout_until_the_device_is_gone() {
    let world = world().await;
    let alice = world.register("alice").await;
    let session = world.login_refreshable(&alice, "PHONE").await;
    assert_eq!(session.expires_in_ms, Some(7 * DAY_MS));
    world.pass_ms(7 * DAY_MS - 1);
    assert!(world.users.authenticate(&session.access_token).await.is_ok());
    world.pass_ms(1);
    assert!(matches!(world.users.authenticate(&session.access_token).await, Err(Error::ExpiredToken)));
    world.users.delete_devices(&alice, &["PHONE".into()]).await.unwrap();
    assert!(matches!(world.users.authenticate(&session.access_token).await, Err(Error::UnknownToken)));
}

#[tokio::test]
async fn plain_tokens_can_have_a_lifetime_too() {
    let tokens = TokenConfig { plain_access_token_ms: Some(1000), ..TokenConfig::default() };
    let world = world_with(Config { tokens, ..config() }).await;
    let alice = world.register("alice").await;
    let session = world.login(&alice, "PHONE").await;
    assert_eq!(session.expires_in_ms, Some(1000));
    world.pass_ms(1000);
    assert!(matches!(world.users.authenticate(&session.access_token).await, Err(Error::ExpiredToken)));
    let again = world.login(&alice, "PHONE").await;
    assert!(world.users.authenticate(&again.access_token).await.is_ok());
}

#[tokio::test]
async fn the_first_use_of_the_new_access_token_revokes_the_old_pair() {
    let world = world().await;
    let alice = world.register("alice").await;
    let first = world.login_refreshable(&alice, "PHONE").await;
    let old_refresh = first.refresh_token.unwrap();
    assert!(world.users.authenticate(&first.access_token).await.is_ok());

    let second = world.users.refresh(&old_refresh).await.unwrap();
    assert_eq!(second.device_id, "PHONE");
    assert!(world.users.authenticate(&first.access_token).await.is_ok(), "not used yet");

    assert!(world.users.authenticate(&second.access_token).await.is_ok());
    assert!(matches!(world.users.authenticate(&first.access_token).await, Err(Error::ExpiredToken)));
    assert!(matches!(world.users.refresh(&old_refresh).await, Err(Error::ExpiredToken)));
    let third = world.users.refresh(&second.refresh_token.unwrap()).await.unwrap();
    assert!(world.users.authenticate(&third.access_token).await.is_ok());
}

#[tokio::test]
async fn a_lost_answer_can_be_asked_for_again() {
    let world = world().await;
    let alice = world.register("alice").await;
    let first = world.login_refreshable(&alice, "PHONE").await;
    let old_refresh = first.refresh_token.unwrap();
    let lost = world.users.refresh(&old_refresh).await.unwrap();
    let got = world.users.refresh(&old_refresh).await.unwrap();
    assert!(matches!(world.users.authenticate(&lost.access_token).await, Err(Error::ExpiredToken)));
    assert!(matches!(world.users.refresh(&lost.refresh_token.unwrap()).await, Err(Error::ExpiredToken)));
    assert!(world.users.authenticate(&got.access_token).await.is_ok());
    assert!(matches!(world.users.refresh(&old_refresh).await, Err(Error::ExpiredToken)));
}

#[tokio::test]
async fn the_first_use_of_the_new_refresh_token_revokes_the_old_pair() {
    let world = world().await;
    let alice = world.register("alice").await;
    let first = world.login_refreshable(&alice, "PHONE").await;
    let old_refresh = first.refresh_token.unwrap();
    let second = world.users.refresh(&old_refresh).await.unwrap();
    let third = world.users.refresh(second.refresh_token.as_deref().unwrap()).await.unwrap();
    assert!(matches!(world.users.authenticate(&first.access_token).await, Err(Error::ExpiredToken)));
    assert!(matches!(world.users.refresh(&old_refresh).await, Err(Error::ExpiredToken)));
    assert!(world.users.authenticate(&second.access_token).await.is_ok());
    assert!(world.users.authenticate(&third.access_token).await.is_ok());
    assert!(matches!(world.users.authenticate(&second.access_token).await, Err(Error::ExpiredToken)));
}

#[tokio::test]
async fn a_token_in_whose_place_there_is_another_ends_no_session() {
    let world = world().await;
    let alice = world.register("alice").await;
    let first = world.login_refreshable(&alice, "PHONE").await;
    let second = world.login_refreshable(&alice, "PHONE").await;
    let third = world.users.refresh(second.refresh_token.as_deref().unwrap()).await.unwrap();
    assert!(world.users.authenticate(&third.access_token).await.is_ok());
    let old = [&first.access_token, &second.access_token];
    let old_refresh = [first.refresh_token.as_ref().unwrap(), second.refresh_token.as_ref().unwrap()];
    // Also for who keeps nothing in memory.
    let elsewhere = another(&world.store, &world.clock, config()).await;
    for users in [&world.users, &elsewhere] {
        for token in old {
            assert!(matches!(users.authenticate(token).await, Err(Error::ExpiredToken)));
        }
        for token in old_refresh {
            assert!(matches!(users.refresh(token).await, Err(Error::ExpiredToken)));
        }
    }
    // Once the session is gone, so is what was remembered.
    world.users.delete_devices(&alice, &["PHONE".into()]).await.unwrap();
    for token in old {
        assert!(matches!(world.users.authenticate(token).await, Err(Error::UnknownToken)));
    }
    for token in old_refresh {
        assert!(matches!(world.users.refresh(token).await, Err(Error::UnknownToken)));
    }
}

#[tokio::test]
async fn of_the_tokens_of_a_device_only_the_last_are_remembered() {
    let world = world().await;
    let alice = world.register("alice").await;
    let mut tokens = Vec::new();
    for _ in 0..40 {
        world.pass_ms(1);
        tokens.push(world.login(&alice, "PHONE").await.access_token);
    }
    let mut remembered = Vec::new();
    for token in &tokens {
        remembered.push(match world.users.authenticate(token).await {
            Err(Error::UnknownToken) => 'u',
            Err(Error::ExpiredToken) => 'e',
            other => other.map(|_| '+').unwrap(),
        });
    }
    let remembered: String = remembered.into_iter().collect();
    assert_eq!(remembered, format!("{}{}+", "u".repeat(35), "e".repeat(4)));
}

#[tokio::test]
async fn of_many_refreshes_at_once_one_pair_remains() {
    let world = world().await;
    let alice = world.register("alice").await;
    let refresh = world.login_refreshable(&alice, "PHONE").await.refresh_token.unwrap();
    let (a, b, c) =
        tokio::join!(world.users.refresh(&refresh), world.users.refresh(&refresh), world.users.refresh(&refresh));
    let mut valid = 0;
    for session in [a, b, c] {
        valid += u32::from(world.users.authenticate(&session.unwrap().access_token).await.is_ok());
    }
    assert_eq!(valid, 1);
}

#[tokio::test]
async fn refresh_tokens_can_expire() {
    let tokens = TokenConfig { refresh_token_ms: Some(1000), ..TokenConfig::default() };
    let world = world_with(Config { tokens, ..config() }).await;
    let alice = world.register("alice").await;
    let refresh = world.login_refreshable(&alice, "PHONE").await.refresh_token.unwrap();
    world.pass_ms(1000);
    assert!(matches!(world.users.refresh(&refresh).await, Err(Error::ExpiredToken)));
}

#[tokio::test]
async fn a_revoked_token_is_never_answered_from_memory() {
    let world = world().await;
    let alice = world.register("alice").await;
    // Another process of the server, whose memory hears of the deletion only through the log.
    let elsewhere = another(&world.store, &world.clock, config()).await;
    for round in 0..20 {
        let session = world.login(&alice, "PHONE").await;
        for _ in 0..round {
            assert!(elsewhere.authenticate(&session.access_token).await.is_ok());
            world.settle().await;
        }
        world.users.delete_all_devices(&alice).await.unwrap();
        for _ in 0..2 {
            for users in [&world.users, &elsewhere] {
                assert!(matches!(users.authenticate(&session.access_token).await, Err(Error::UnknownToken)));
            }
            world.settle().await;
        }
    }
}

#[tokio::test]
async fn devices_are_seen_at_most_once_in_a_while() {
    let world = world().await;
    let alice = world.register("alice").await;
    let issued = world.login(&alice, "PHONE").await;
    let session = world.users.authenticate(&issued.access_token).await.unwrap();
    let home = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let away = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    let start = crate::world::START_MS;
    // (milliseconds that pass, address, what is stored then)
    let interval = TokenConfig::default().last_seen_interval_ms;
    let steps = [
        (0, home, start, "127.0.0.1"),
        (1, away, start, "127.0.0.1"),
        (interval, away, start + interval + 1, "192.0.2.1"),
    ];
    for (ms, address, seen_ms, seen_ip) in steps {
        world.pass_ms(ms);
        world.users.touch(&session, address).await.unwrap();
        // A later commit is answered after the one that nobody waits for.
        world.users.rename_device(&alice, "PHONE".into(), Some("Phone")).await.unwrap();
        let device = world.users.device(&world.view().await, &alice, "PHONE".into()).await.unwrap().unwrap();
        assert_eq!(device.last_seen_ms, Some(seen_ms));
        assert_eq!(device.last_seen_ip.as_deref(), Some(seen_ip));
    }
    world.users.delete_all_devices(&alice).await.unwrap();
    world.pass_ms(interval);
    world.users.touch(&session, home).await.unwrap();
    world.login(&alice, "PHONE").await;
    let device = world.users.device(&world.view().await, &alice, "PHONE".into()).await.unwrap().unwrap();
    assert_eq!(device.last_seen_ms, None);
}

#[tokio::test]
async fn login_tokens_work_once_and_for_a_time() {
    let world = world().await;
    let alice = world.register("alice").await;
    let (token, lifetime) = world.users.create_login_token(&alice).await.unwrap();
    assert_eq!(lifetime, 120_000);
    assert_eq!(world.users.use_login_token(&token).await.unwrap(), alice);
    assert!(matches!(world.users.use_login_token(&token).await, Err(Error::UnknownToken)));

    let (token, _) = world.users.create_login_token(&alice).await.unwrap();
    world.pass_ms(lifetime);
    assert!(matches!(world.users.use_login_token(&token).await, Err(Error::UnknownToken)));

    let (token, _) = world.users.create_login_token(&alice).await.unwrap();
    let (a, b) = tokio::join!(world.users.use_login_token(&token), world.users.use_login_token(&token));
    assert_eq!(u32::from(a.is_ok()) + u32::from(b.is_ok()), 1);
}
