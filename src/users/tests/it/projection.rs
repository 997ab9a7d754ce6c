//! What is kept in memory is told of each change before anybody sees it.

use std::sync::{Arc, Mutex, mpsc};

use ruma::push::{Action, NewPatternedPushRule, NewPushRule, Tweak};
use serde_json::{json, value::to_raw_value};
use store::{LogRecord, Projection};
use tokio::sync::mpsc as told;
use users::{Change, Erasure, Error, RulePlace, UserChanged};

use crate::world::{World, user, world};

/// Holds up the store where it has applied a change and not yet published it.
struct Gate {
    stops: fn(&Change) -> bool,
    reached: told::UnboundedSender<()>,
    open: Mutex<mpsc::Receiver<()>>,
}

impl Projection for Gate {
    fn apply(&self, records: &[LogRecord]) {
        let stops = |record: &LogRecord| {
            let entry = record.decode::<UserChanged>().unwrap();
            entry.is_some_and(|entry| (self.stops)(&entry.change))
        };
        if records.iter().any(stops) {
            self.reached.send(()).unwrap();
            // Ends when the other side is dropped.
            self.open.lock().unwrap().recv().unwrap_err();
        }
    }
}

impl Gate {
    /// What is told when the gate is reached, and what opens it when it is dropped.
    async fn new(
        world: &World,
        stops: fn(&Change) -> bool,
    ) -> (Arc<Gate>, told::UnboundedReceiver<()>, mpsc::Sender<()>) {
        let (reached, is_reached) = told::unbounded_channel();
        let (closed, open) = mpsc::channel();
        let gate = world.store.project(|_| Arc::new(Gate { stops, reached, open: Mutex::new(open) })).await.unwrap();
        (gate, is_reached, closed)
    }
}

#[tokio::test]
async fn what_others_write_makes_nobody_read_again() {
    let world = world().await;
    let (alice, bob) = (world.register("alice").await, world.register("bob").await);
    let token = world.login(&alice, "PHONE").await.access_token;
    let rule = NewPatternedPushRule::new(
        "tea".into(),
        "tea".into(),
        vec![Action::SetTweak(Tweak::Highlight(ruma::push::HighlightTweakValue::Yes))],
    );
    world.users.set_push_rule(&alice, NewPushRule::Content(rule), RulePlace::default()).await.unwrap();
    let ignored = to_raw_value(&json!({ "ignored_users": { "@carol:example.org": {} } })).unwrap();
    world.users.set_account_data(&alice, None, "m.ignored_user_list", &ignored).await.unwrap();

    let session = world.users.authenticate(&token).await.unwrap();
    let rules = world.users.compiled_push_rules(&world.view().await, &alice).await.unwrap();
    let ignored = world.users.ignored_users(&world.view().await, &alice).await.unwrap();
    assert!(ignored.contains(&user("carol")));
    for round in 0..10 {
        let old = world.view().await;
        world.login(&bob, &format!("PHONE{round}")).await;
        // From the view of before and the one that shows what was written, as soon as it does.
        for view in [old, world.view().await] {
            let (again, rules_again) = (
                world.users.ignored_users(&view, &alice).await.unwrap(),
                world.users.compiled_push_rules(&view, &alice).await.unwrap(),
            );
            assert!(Arc::ptr_eq(&ignored, &again) && Arc::ptr_eq(&rules, &rules_again));
        }
        assert!(Arc::ptr_eq(&session, &world.users.authenticate(&token).await.unwrap()));
    }
}

#[tokio::test]
async fn the_end_of_a_session_is_noticed_though_it_is_told_before_it_is_visible() {
    let world = world().await;
    let alice = world.register("alice").await;
    world.login(&alice, "PHONE").await;
    let known_at = world.users.position();
    let (_gate, mut reached, closed) =
        Gate::new(&world, |change| matches!(change, Change::Devices { deleted, .. } if !deleted.is_empty())).await;
    let (users, watched) = (world.users.clone(), alice.clone());
    let watching = tokio::spawn(async move { users.watch_session(&watched, "PHONE".into(), known_at).end().await });
    world.settle().await;
    let users = world.users.clone();
    let deleting = tokio::spawn(async move { users.delete_all_devices(&alice).await });
    reached.recv().await.unwrap();
    // Who waits is woken and looks.
    world.settle().await;
    assert!(!watching.is_finished());
    drop(closed);
    assert!(matches!(watching.await.unwrap(), Error::UnknownToken));
    deleting.await.unwrap().unwrap();
}

#[tokio::test]
async fn who_was_erased_is_known_as_soon_as_it_is_visible() {
    let world = world().await;
    let alice = world.register("alice").await;
    let (_gate, mut reached, closed) = Gate::new(&world, |change| *change == Change::Deactivated).await;
    let (users, erased) = (world.users.clone(), alice.clone());
    let deactivating = tokio::spawn(async move { users.deactivate(&erased, Erasure::Erase).await });
    reached.recv().await.unwrap();
    // What is read in this moment isn't kept.
    assert!(!world.users.erased_users().await.unwrap().contains(&alice));
    drop(closed);
    deactivating.await.unwrap().unwrap();
    assert!(world.users.erased_users().await.unwrap().contains(&alice));
}
