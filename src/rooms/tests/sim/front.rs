//! Extremities: everything that a server accepted is behind one of them, and their states make the current one.

use std::collections::{BTreeSet, HashSet};

use rooms::{EventNum, EventStatus, RoomsError, Root, TimelineIndex};
use ruma::{OwnedEventId, RoomId, UserId};

use crate::{whole, world::World};

/// Checks the current state of a server.
pub async fn check_state(seed: u64, world: &World, room: &RoomId) {
    let Some(head) = world.rooms.head(&world.view().await, room).await.expect("a read") else { return };
    let name = &world.name;
    assert!(head.extremities.len() <= rooms::EXTREMITIES_MAX, "seed {seed}: {name} has too many extremities");
    assert_eq!(head.root, head.resolved, "seed {seed}: {name} is behind");
    if head.sidelined.is_none() {
        let roots: BTreeSet<Root> = head.extremities.iter().map(|extremity| extremity.after).collect();
        whole::check_resolution(seed, world, room, roots.into_iter().collect(), ("now", head.root)).await;
    }
}

/// Checks that no event of a server got lost.
pub async fn check_events(seed: u64, world: &World, room: &RoomId, events: impl Iterator<Item = &OwnedEventId>) {
    let view = world.view().await;
    let Some(head) = world.rooms.head(&view, room).await.expect("a read") else { return };
    let mut reached: HashSet<EventNum> = head.extremities.iter().map(|extremity| extremity.num).collect();
    walk_back(world, &mut reached).await;
    let mut outside: BTreeSet<EventNum> = BTreeSet::new();
    for id in events {
        let Some(num) = world.rooms.num(&view, id).await.expect("a read") else { continue };
        let meta = world.rooms.meta(&view, num).await.expect("a read");
        // One without an index was kept without a place: it never was at the head.
        if meta.status == EventStatus::Accepted && meta.index.is_some() && !reached.contains(&num) {
            outside.insert(num);
        }
    }
    let mut followed = HashSet::new();
    for num in &outside {
        let mut before = HashSet::from([*num]);
        walk_back(world, &mut before).await;
        before.remove(num);
        followed.extend(before);
    }
    let sidelined = outside.iter().filter(|num| !followed.contains(num)).count();
    let counted = head.sidelined.as_ref().map_or(0, |sidelined| sidelined.count);
    assert_eq!(counted, sidelined as u64, "seed {seed}: {} has another count of sidelined events", world.name);
}

/// Checks that what a server's users say merges all that it accepted, in as few events as that takes, and gives what they said. Whether they
/// may speak depends on the room's state; if nobody may, nothing is checked.
pub async fn check_merging(seed: u64, world: &World, room: &RoomId, users: &[&UserId]) -> Vec<OwnedEventId> {
    let mut said = Vec::new();
    let Some(head) = world.rooms.head(&world.view().await, room).await.expect("a read") else { return said };
    let left = head.sidelined.map_or(0, |sidelined| sidelined.count);
    // Each makes one of all extremities, so that all places but one are free for those sidelined.
    for _ in 0..=left.div_ceil(rooms::EXTREMITIES_MAX as u64 - 1) {
        match somebody_speaks(world, room, users).await {
            Some(event) => said.push(event),
            None => return said,
        }
    }
    let name = &world.name;
    let head = world.rooms.head(&world.view().await, room).await.expect("a read").expect("a head");
    let sidelined = head.sidelined.map_or(0, |sidelined| sidelined.count);
    assert_eq!((head.extremities.len(), sidelined), (1, 0), "seed {seed}: {name} can't merge {left} sidelined events");
    said
}

async fn somebody_speaks(world: &World, room: &RoomId, users: &[&UserId]) -> Option<OwnedEventId> {
    for user in users {
        match world.say(user, room, "is anybody else here?").await {
            Ok(event) => return Some(event),
            Err(RoomsError::Forbidden(_) | RoomsError::NotJoined | RoomsError::RoomNotFound) => {}
            Err(error) => panic!("{error}"),
        }
    }
    None
}

/// Adds what comes before the events, as far as the room followed them: an event whose state another server told, that filled a gap later or
/// whose place nobody knows takes no extremity's place, nor does anything take that of an event that was let in only after it.
async fn walk_back(world: &World, reached: &mut HashSet<EventNum>) {
    let view = world.view().await;
    let mut open: Vec<EventNum> = reached.iter().copied().collect();
    while let Some(num) = open.pop() {
        let meta = world.rooms.meta(&view, num).await.expect("a read");
        let is_live = |index: TimelineIndex| index == TimelineIndex::live(index.major);
        let passes_on = match meta.status {
            EventStatus::Accepted => meta.index.is_some_and(is_live),
            EventStatus::SoftFailed | EventStatus::Rejected(_) => true,
            EventStatus::Missing | EventStatus::Outlier => false,
        };
        if meta.state_fetched || !passes_on {
            continue;
        }
        let Some(event) = world.rooms.event(&view, num).await.expect("a read") else { continue };
        for prev in event.prev.iter() {
            let index = world.rooms.meta(&view, *prev).await.expect("a read").index;
            let came_later = index.zip(meta.index).is_some_and(|(index, follower)| index > follower);
            if !came_later && reached.insert(*prev) {
                open.push(*prev);
            }
        }
    }
}
