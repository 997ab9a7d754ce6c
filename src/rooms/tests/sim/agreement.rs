//! What servers must agree about in the end.

use std::collections::BTreeMap;

use rooms::{EventStatus, Root};
use ruma::{EventId, OwnedEventId};

use crate::{play::Game, world::World};

type State = BTreeMap<(String, String), OwnedEventId>;

/// A server's word about an event: whether it rejected it, and the state before and after it.
type Word = (bool, State, State);

pub async fn check(game: &Game, last: Option<&EventId>) {
    let present = game.present().await;
    let mut disputed: Vec<(u64, String)> = Vec::new();
    for event in &game.events {
        let mut words: Vec<(&World, Word)> = Vec::new();
        for world in &game.worlds {
            if let Some(word) = word_of(game, world, event).await {
                words.push((world, word));
            }
        }
        let Some((first, word)) = words.first() else { continue };
        for (other, different) in words.iter().filter(|(_, different)| different != word) {
            disputed.push(dispute(event, (first, word), (other, different)).await);
        }
    }
    disputed.sort();
    if let Some((_, first)) = disputed.first() {
        panic!("seed {}: {} disputes, the first about {first}", game.seed, disputed.len());
    }
    if let Some(last) = last
        && game.creator_is_in().await
    {
        for world in &present {
            let status = world.status(last).await;
            // A server may hold the last event against its own current state, but it has its place.
            assert!(
                matches!(status, EventStatus::Accepted | EventStatus::SoftFailed),
                "seed {}: {} has the last event as {status:?}",
                game.seed,
                world.name
            );
        }
    }
    check_heads(game, &present).await;
}

/// What a game was about, to see that games aren't all alike.
pub async fn statistics(game: &Game) -> String {
    let (mut accepted, mut soft_failed, mut rejected) = (0, 0, 0);
    let mut forked = 0;
    for world in &game.worlds {
        for event in &game.events {
            match world.status(event).await {
                EventStatus::Missing | EventStatus::Outlier => {}
                EventStatus::Accepted => accepted += 1,
                EventStatus::SoftFailed => soft_failed += 1,
                EventStatus::Rejected(_) => rejected += 1,
            }
            let view = world.view().await;
            if let Some(stored) = world.rooms.event_by_id(&view, event).await.expect("a read") {
                forked += usize::from(stored.prev.len() > 1);
            }
        }
    }
    format!(
        "seed {}: {} servers, {} at the end, {} events; accepted {accepted}, soft-failed {soft_failed}, rejected {rejected}, merging {forked}",
        game.seed,
        game.worlds.len(),
        game.present().await.len(),
        game.events.len(),
    )
}

/// Servers with the same extremities have the same current state, and rows that follow from it.
async fn check_heads(game: &Game, present: &[&World]) {
    let mut states: BTreeMap<Vec<OwnedEventId>, (State, String)> = BTreeMap::new();
    for world in present {
        let view = world.view().await;
        let head = world.rooms.head(&view, &game.room).await.expect("a read").expect("a head");
        let mut ids: Vec<OwnedEventId> = head.extremities.iter().map(|extremity| extremity.event_id.clone()).collect();
        ids.sort();
        let state = state_of(game, world, head.root).await;
        let joined = world.rooms.joined_members(&view, &game.room).await.expect("a read");
        assert_eq!(head.joined_count, joined.len() as u64, "seed {}: count of {}", game.seed, world.name);
        let servers = world.rooms.joined_servers(&view, &game.room).await.expect("a read");
        let counted: u64 = servers.iter().map(|(_, count)| count).sum();
        assert_eq!(counted, head.joined_count, "seed {}: servers of {}", game.seed, world.name);
        let local = world.rooms.local_members(&view, &game.room).await.expect("a read");
        let expected: Vec<_> = joined.into_iter().filter(|user| user.server_name() == world.name).collect();
        assert_eq!(local, expected, "seed {}: local members of {}", game.seed, world.name);
        let position = view.position();
        let root = world.rooms.root_at(&view, &game.room, position).await.expect("a read");
        assert_eq!(root, Some(head.root), "seed {}: roots of {}", game.seed, world.name);
        if head.sidelined.is_some() {
            // What of the state is on account of which extremity depends on the order in which they came.
            continue;
        }
        match states.get(&ids) {
            None => {
                states.insert(ids, (state, world.name.to_string()));
            }
            Some((first, other)) => {
                assert_eq!(first, &state, "seed {}: current state of {other} and {}", game.seed, world.name);
            }
        }
    }
}

/// How two servers differ about an event, with its depth.
async fn dispute(event: &EventId, one: (&World, &Word), other: (&World, &Word)) -> (u64, String) {
    let (world, _) = one;
    let stored = world.rooms.event_by_id(&world.view().await, event).await.expect("a read").expect("an event");
    let mut text = format!("{event}: {}\n", stored.pdu.as_received().json().get());
    for (world, word) in [one, other] {
        text += &format!("{} has it as {:?}\n", world.name, world.status(event).await);
        for (when, state, states) in
            [("before", &word.1, [&one.1.1, &other.1.1]), ("after", &word.2, [&one.1.2, &other.1.2])]
        {
            let alone = state.iter().filter(|entry| states.iter().any(|state| state.get(entry.0) != Some(entry.1)));
            for (key, id) in alone {
                text += &format!("  {when}: {key:?} {id}\n");
            }
        }
    }
    (stored.pdu.depth(), text)
}

async fn word_of(game: &Game, world: &World, event: &EventId) -> Option<Word> {
    let view = world.view().await;
    let num = world.rooms.num(&view, event).await.expect("a read")?;
    let meta = world.rooms.meta(&view, num).await.expect("a read");
    let rejected = match meta.status {
        EventStatus::Missing | EventStatus::Outlier => return None,
        EventStatus::Accepted | EventStatus::SoftFailed => false,
        EventStatus::Rejected(_) => true,
    };
    if meta.before.is_empty() {
        // Rejected by its own auth events, before its place was known.
        return None;
    }
    Some((rejected, state_of(game, world, meta.before).await, state_of(game, world, meta.after).await))
}

async fn state_of(game: &Game, world: &World, root: Root) -> State {
    let events = world.rooms.state(&world.view().await, &game.room, root).events().await.expect("a state");
    let key = |pdu: &event::Pdu| (pdu.event_type().to_owned(), pdu.state_key().unwrap_or_default().to_owned());
    events.iter().map(|event| (key(event.pdu.as_received()), event.pdu.owned_event_id())).collect()
}
