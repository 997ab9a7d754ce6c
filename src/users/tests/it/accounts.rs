//! Names, creation, flags, deactivation.

use ruma::{UserId, server_name};
use serde_json::{json, value::to_raw_value};
use users::{AccountFlag, Erasure, Error, Kind, Login, NewAccount, Origin, ProfileChange, user_id_for};

use crate::world::{PASSWORD, new_account, user, world};

#[test]
fn new_names_follow_the_strict_grammar() {
    let server = server_name!("example.org");
    for (name, id) in
        [("alice", "@alice:example.org"), ("Alice", "@alice:example.org"), ("a._=-/+9", "@a._=-/+9:example.org")]
    {
        assert_eq!(user_id_for(name, server).unwrap(), id);
    }
    for name in ["", "al ice", "älice", "a:b", "a@b", "a*", &"a".repeat(255)] {
        assert!(matches!(user_id_for(name, server), Err(Error::InvalidUserName)), "{name}");
    }
    let longest = "a".repeat(users::USER_ID_BYTES_MAX - "@:example.org".len());
    assert!(user_id_for(&longest, server).is_ok());
}

#[tokio::test]
async fn a_name_is_given_once() {
    let world = world().await;
    world.register("alice").await;
    let again = world.users.create_account(new_account("alice")).await;
    assert!(matches!(again, Err(Error::UserNameTaken)));
    let check = world.users.check_available(&world.view().await, &user("alice")).await;
    assert!(matches!(check, Err(Error::UserNameTaken)));
    assert!(world.users.check_available(&world.view().await, &user("bob")).await.is_ok());
}

#[tokio::test]
async fn of_two_registrations_at_once_one_wins() {
    let world = world().await;
    let (a, b) = tokio::join!(
        world.users.create_account(new_account("alice")),
        world.users.create_account(new_account("alice"))
    );
    assert_eq!(u32::from(a.is_ok()) + u32::from(b.is_ok()), 1);
    let loser = if a.is_ok() { b } else { a };
    assert!(matches!(loser, Err(Error::UserNameTaken)));
}

#[tokio::test]
async fn reserved_and_numeric_names_are_not_for_everyone() {
    let world = world().await;
    for name in ["server", "12345"] {
        let refused = world.users.create_account(new_account(name)).await;
        assert!(matches!(refused, Err(Error::ReservedUserName)), "{name}");
    }
    let by_admin = NewAccount { origin: Origin::Administrator, ..new_account("server") };
    assert!(world.users.create_account(by_admin).await.is_ok());
    let by_service = NewAccount { origin: Origin::AppService("irc".into()), password: None, ..new_account("haima") };
    world.users.create_account(by_service).await.unwrap();
    let account = world.users.account(&world.view().await, &user("haima")).await.unwrap().unwrap();
    assert_eq!(account.appservice.as_deref(), Some("irc"));
}

#[tokio::test]
async fn guests_get_a_number_and_a_session() {
    let world = world().await;
    let guest = world.users.create_guest(server_name!("example.org"), Some("Browser".into())).await.unwrap();
    assert!(guest.user_id.localpart().bytes().all(|c| c.is_ascii_digit()));
    let session = world.users.authenticate(&guest.session.unwrap().access_token).await.unwrap();
    assert_eq!(session.kind, Kind::Guest);
    assert!(!world.users.has_accounts(&world.view().await).await.unwrap());
}

#[tokio::test]
async fn a_guest_becomes_an_ordinary_user() {
    let world = world().await;
    let guest = world.users.create_guest(server_name!("example.org"), None).await.unwrap();
    let token = guest.session.unwrap().access_token;
    let upgrade = || NewAccount { user_id: guest.user_id.clone(), ..new_account("x") };
    assert_eq!(world.users.authenticate(&token).await.unwrap().kind, Kind::Guest);

    let login = Some(Login { device_id: Some("PHONE".into()), ..Login::default() });
    let upgraded = world.users.upgrade_guest(NewAccount { login, ..upgrade() }).await.unwrap();
    assert_eq!(upgraded.user_id, guest.user_id);
    for token in [token, upgraded.session.unwrap().access_token] {
        assert_eq!(world.users.authenticate(&token).await.unwrap().kind, Kind::User);
    }
    assert!(world.users.check_password(&guest.user_id, PASSWORD).await.is_ok());
    assert_eq!(world.users.devices(&world.view().await, &guest.user_id).await.unwrap().len(), 2);
    assert!(world.users.has_accounts(&world.view().await).await.unwrap());

    assert!(matches!(world.users.upgrade_guest(upgrade()).await, Err(Error::UserNameTaken)));
    assert!(matches!(world.users.upgrade_guest(new_account("nobody")).await, Err(Error::UnknownUser)));
}

#[tokio::test]
async fn registration_can_log_in_in_the_same_step() {
    let world = world().await;
    let login = Login { device_id: Some("PHONE".into()), display_name: Some("Phone".into()), refreshable: false };
    let new = NewAccount { login: Some(login), display_name: Some("Alice".into()), ..new_account("alice") };
    let created = world.users.create_account(new).await.unwrap();
    let session = world.users.authenticate(&created.session.unwrap().access_token).await.unwrap();
    assert_eq!((session.user_id.as_str(), session.device_id.as_str()), ("@alice:example.org", "PHONE"));
    let profile = world.users.profile(&world.view().await, &user("alice")).await.unwrap();
    assert_eq!(profile.display_name().as_deref(), Some("Alice"));
}

#[tokio::test]
async fn login_names_are_found_with_and_without_server_and_case() {
    let world = world().await;
    world.register("alice").await;
    let server = server_name!("example.org");
    for name in ["alice", "Alice", "@alice:example.org", "@ALICE:example.org"] {
        let found = world.users.find_login_name(&world.view().await, name, server).await.unwrap();
        assert_eq!(found, "@alice:example.org", "{name}");
    }
    let elsewhere = world.users.find_login_name(&world.view().await, "@alice:elsewhere.org", server).await;
    assert!(matches!(elsewhere, Err(Error::InvalidUserName)));
}

#[tokio::test]
async fn accounts_come_in_pages() {
    let world = world().await;
    for name in ["carol", "alice", "bob"] {
        world.register(name).await;
    }
    let view = world.view().await;
    let first = world.users.accounts(&view, None, 2).await.unwrap();
    let names: Vec<&str> = first.iter().map(|(user, _)| user.localpart()).collect();
    assert_eq!(names, ["alice", "bob"]);
    let rest = world.users.accounts(&view, Some(&first[1].0), 2).await.unwrap();
    assert_eq!(rest.len(), 1);
    assert_eq!(rest[0].0.localpart(), "carol");
}

#[tokio::test]
async fn admins_lock_and_suspend_others_who_are_not_admins() {
    let world = world().await;
    let (admin, other) = (world.register_admin("root1").await, world.register_admin("root2").await);
    let (alice, bob) = (world.register("alice").await, world.register("bob").await);
    let refused: [(&UserId, &UserId); 3] = [(&alice, &bob), (&admin, &admin), (&admin, &other)];
    for (actor, target) in refused {
        let result = world.users.set_flag(actor, target, AccountFlag::Locked, true).await;
        assert!(matches!(result, Err(Error::NotAllowed)), "{actor} locks {target}");
    }
    let unknown = world.users.set_flag(&admin, &user("nobody"), AccountFlag::Locked, true).await;
    assert!(matches!(unknown, Err(Error::UnknownUser)));
    let asked_by_alice = world.users.flag(&alice, &user("nobody"), AccountFlag::Locked).await;
    assert!(matches!(asked_by_alice, Err(Error::NotAllowed)));

    let session = world.login(&alice, "PHONE").await;
    world.users.set_flag(&admin, &alice, AccountFlag::Suspended, true).await.unwrap();
    assert!(world.users.authenticate(&session.access_token).await.unwrap().suspended);
    assert!(world.users.flag(&admin, &alice, AccountFlag::Suspended).await.unwrap());

    world.users.set_flag(&admin, &alice, AccountFlag::Locked, true).await.unwrap();
    assert!(world.users.authenticate(&session.access_token).await.unwrap().locked);
    assert!(matches!(world.users.login(&alice, &Login::default()).await, Err(Error::Locked)));
    world.users.set_flag(&admin, &alice, AccountFlag::Locked, false).await.unwrap();
    assert!(!world.users.authenticate(&session.access_token).await.unwrap().locked);
}

#[tokio::test]
async fn a_flag_is_seen_by_sessions_in_memory() {
    let world = world().await;
    let admin = world.register_admin("root1").await;
    let alice = world.register("alice").await;
    let session = world.login(&alice, "PHONE").await;
    for suspended in [true, false, true, false] {
        for _ in 0..3 {
            world.users.authenticate(&session.access_token).await.unwrap();
            world.settle().await;
        }
        world.users.set_flag(&admin, &alice, AccountFlag::Suspended, suspended).await.unwrap();
        for _ in 0..2 {
            let seen = world.users.authenticate(&session.access_token).await.unwrap();
            assert_eq!(seen.suspended, suspended);
            world.settle().await;
        }
    }
}

#[tokio::test]
async fn being_an_admin_can_be_given_and_taken() {
    let world = world().await;
    let alice = world.register("alice").await;
    assert!(!world.users.is_admin(&world.view().await, &alice).await.unwrap());
    world.users.set_admin(&alice, true).await.unwrap();
    assert!(world.users.is_admin(&world.view().await, &alice).await.unwrap());
    world.users.set_admin(&alice, false).await.unwrap();
    assert!(!world.users.is_admin(&world.view().await, &alice).await.unwrap());
}

#[tokio::test]
async fn deactivation_deletes_all_but_the_name() {
    let world = world().await;
    let alice = world.register("alice").await;
    let session = world.login_refreshable(&alice, "PHONE").await;
    let content = to_raw_value(&json!({"a": 1})).unwrap();
    world.users.set_account_data(&alice, None, "org.example", &content).await.unwrap();
    let filter = world.users.create_filter(&alice, &content).await.unwrap();
    world.users.change_profile(&alice, &ProfileChange::display_name("Alice")).await.unwrap();

    world.users.deactivate(&alice, Erasure::Erase).await.unwrap();

    let view = world.view().await;
    let account = world.users.account(&view, &alice).await.unwrap().unwrap();
    assert!(account.deactivated && account.erased);
    assert!(matches!(world.users.authenticate(&session.access_token).await, Err(Error::UnknownToken)));
    let refreshed = world.users.refresh(&session.refresh_token.unwrap()).await;
    assert!(matches!(refreshed, Err(Error::UnknownToken)));
    for password in [PASSWORD, "another"] {
        assert!(matches!(world.users.check_password(&alice, password).await, Err(Error::Deactivated)));
    }
    assert!(matches!(world.users.login(&alice, &Login::default()).await, Err(Error::Deactivated)));
    assert!(world.users.devices(&view, &alice).await.unwrap().is_empty());
    assert!(world.users.profile(&view, &alice).await.unwrap().is_empty());
    assert!(world.users.account_data(&view, &alice, None, "org.example").await.unwrap().is_none());
    assert!(world.users.filter(&view, &alice, &filter).await.unwrap().is_none());
    assert!(matches!(world.users.create_account(new_account("alice")).await, Err(Error::UserNameTaken)));
    world.users.deactivate(&alice, Erasure::Keep).await.unwrap();
    assert!(matches!(world.users.deactivate(&user("nobody"), Erasure::Keep).await, Err(Error::UnknownUser)));
}

#[tokio::test]
async fn who_was_erased_counts_in_the_memory_budget() {
    let world = world().await;
    let alice = world.register("alice").await;
    world.users.deactivate(&alice, Erasure::Erase).await.unwrap();
    world.settle().await;
    let before = world.store.held_bytes();
    assert!(world.users.erased_users().await.unwrap().contains(&alice));
    assert!(world.store.held_bytes() > before);
}

/// Handlers run on any thread, so what they await must be able to move between threads.
#[tokio::test]
async fn operations_can_move_between_threads() {
    fn moves<T: Send>(_: &T) {}
    let world = world().await;
    let (users, view, alice) = (&world.users, &world.view().await, &user("alice"));
    let content = &to_raw_value(&json!({})).unwrap();
    let mut batch = store::Batch::new();
    moves(&users.create_account(new_account("alice")));
    moves(&users.login(alice, &Login::default()));
    moves(&users.refresh("x"));
    moves(&users.authenticate("x"));
    moves(&users.change_password(alice, "x", users::OtherDevices::Keep));
    moves(&users.delete_all_devices(alice));
    moves(&users.set_account_data(alice, None, "x", content));
    moves(&users.account_data_all(view, alice));
    moves(&users.set_push_rule_enabled(alice, ruma::push::RuleKind::Room, "x", true));
    moves(&users.prepare_deactivate(view, &mut batch, alice, Erasure::Keep));
    moves(&users.set_admin(alice, true));
    moves(&users.search_directory(view, "x", 1, |_| std::future::ready(Ok::<_, Error>(true))));
}
