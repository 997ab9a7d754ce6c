//! The user directory.

use std::convert::Infallible;

use ruma::OwnedUserId;
use users::{DirectoryResults, Erasure, Error, ProfileChange};

use crate::world::{World, world};

/// Anything that can go wrong while searching.
#[derive(Debug)]
struct Failed(#[expect(dead_code, reason = "shown when a test fails")] Error);

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl From<Infallible> for Failed {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

async fn search_as(
    world: &World,
    term: &str,
    limit: usize,
    visible: impl Fn(&OwnedUserId) -> bool,
) -> DirectoryResults {
    let visible = |user: OwnedUserId| std::future::ready(Ok::<bool, Failed>(visible(&user)));
    world.users.search_directory(&world.view().await, term, limit, visible).await.unwrap()
}

async fn search(world: &World, term: &str) -> Vec<String> {
    let found = search_as(world, term, 10, |_| true).await;
    found.matches.iter().map(|found| found.user_id.localpart().to_owned()).collect()
}

async fn people() -> World {
    let world = world().await;
    let people = [
        ("alice", "Alice Margatroid"),
        ("bob.smith", "Bob"),
        ("carol", "山田太郎"),
        ("dave", "ÉMILE Zola"),
        ("smithy", "Dave the Smith"),
        ("frida", "Fri\u{301}da 🌊 Straße"),
        ("ravi", "रवि हिन्दी"),
    ];
    for (name, display_name) in people {
        let user = world.register(name).await;
        world.users.change_profile(&user, &ProfileChange::display_name(display_name)).await.unwrap();
    }
    world
}

#[tokio::test]
async fn names_are_found_by_parts_without_regard_to_case() {
    let world = people().await;
    for (term, found) in [
        ("alice", vec!["alice"]),
        ("ALI", vec!["alice"]),
        ("@alice:example.org", vec!["alice"]),
        ("@ali", vec!["alice"]),
        ("gatroid", vec!["alice"]),
        ("marg alice", vec!["alice"]),
        ("smith", vec!["smithy", "bob.smith"]),
        ("bob.smith", vec!["bob.smith"]),
        ("smith dave", vec!["smithy"]),
        ("dave", vec!["dave", "smithy"]),
        ("山田", vec!["carol"]),
        ("太郎", vec!["carol"]),
        ("田", vec!["carol"]),
        ("émile", vec!["dave"]),
        ("emile", vec!["dave"]),
        ("E\u{301}MILE", vec!["dave"]),
        ("frída", vec!["frida"]),
        ("🌊", vec!["frida"]),
        ("STRASSE 🌊", vec!["frida"]),
        ("ＡＬＩＣＥ", vec!["alice"]),
        ("हिन्दी", vec!["ravi"]),
        ("🔥", vec![]),
        ("alice bob", vec![]),
        ("nobody", vec![]),
        ("", vec![]),
        ("  ", vec![]),
        ("@", vec![]),
        (":", vec![]),
    ] {
        assert_eq!(search(&world, term).await, found, "{term}");
    }
}

#[tokio::test]
async fn a_match_has_the_profile() {
    let world = people().await;
    let found = search_as(&world, "alice", 10, |_| true).await;
    assert_eq!(found.matches[0].display_name.as_deref(), Some("Alice Margatroid"));
    assert_eq!(found.matches[0].avatar_url, None);
    assert!(!found.limited);
}

#[tokio::test]
async fn of_equal_matches_those_with_a_profile_come_first() {
    let world = world().await;
    for name in ["worker1", "worker2", "worker3"] {
        world.register(name).await;
    }
    let named = crate::world::user("worker2");
    world.users.change_profile(&named, &ProfileChange::display_name("Bob")).await.unwrap();
    assert_eq!(search(&world, "worker").await, ["worker2", "worker1", "worker3"]);
}

#[tokio::test]
async fn the_caller_says_who_is_visible() {
    let world = people().await;
    let found = search_as(&world, "smith", 10, |user| user.localpart() != "smithy").await;
    assert_eq!(found.matches.len(), 1);
    assert_eq!(found.matches[0].user_id.localpart(), "bob.smith");
}

#[tokio::test]
async fn results_are_limited() {
    let world = people().await;
    let found = search_as(&world, "smith", 1, |_| true).await;
    assert_eq!((found.matches.len(), found.limited), (1, true));
    let found = search_as(&world, "smith", 2, |_| true).await;
    assert_eq!((found.matches.len(), found.limited), (2, false));
}

#[tokio::test]
async fn many_rows_are_read_in_pages() {
    let world = world().await;
    for number in 0..250 {
        world.register(&format!("worker{number}")).await;
    }
    let found = search_as(&world, "worker", 1000, |_| true).await;
    assert_eq!((found.matches.len(), found.limited), (250, false));
}

#[tokio::test]
async fn old_names_and_deactivated_users_are_not_found() {
    let world = people().await;
    let alice = crate::world::user("alice");
    world.users.change_profile(&alice, &ProfileChange::display_name("Reimu")).await.unwrap();
    assert!(search(&world, "margatroid").await.is_empty());
    assert_eq!(search(&world, "reimu").await, ["alice"]);
    world.users.deactivate(&alice, Erasure::Keep).await.unwrap();
    assert!(search(&world, "reimu").await.is_empty());
    assert!(search(&world, "alice").await.is_empty());
}
