//! Extremities: everything that a server accepted is behind one of them, and their states make the current one.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use rooms::{EventNum, EventStatus, RoomsError, Root, TimelineIndex};
use ruma::{OwnedEventId, RoomId, UserId};

use crate::{whole, world::World};

/// Checks the current state of a server.
pub async fn check_state(seed: u64, world: &World, room: &RoomId) {
    let Some(head) = world.rooms.head(&world.view(), room).await.expect("a read") else { return };
    let name = &world.name;
    assert!(head.extremities.len() <= rooms::EXTREMITIES_MAX, "seed {seed}: {name} has too many extremities");
    assert_eq!(head.root, head.resolved, "seed {seed}: {name} is behind");
    if head.sidelined.is_none() {
        let roots: BTreeSet<Root> = head.extremities.iter().map(|extremity| extremity.after).collect();
        whole::check_resolution(seed, world, room, roots.into_iter().collect(), ("now", head.root)).await;
    }
}

/// Checks that no event of a server got lost, and that none is an extremity whose place another took.
///
/// An event takes the place of what it names, and of what that names where it was refused. Not so one whose state was told, because something
/// that it names could not be had: nobody knows what that state owes to the rest. Nor do events that are held without a place, for the sake of a
/// state or a bridge, take anybody's: old events that somebody's fork brings up are extremities, though such events lead to them. And what
/// comes after what it is named by, because only its state was known until then, is news.
pub async fn check_events(seed: u64, world: &World, room: &RoomId, events: impl Iterator<Item = &OwnedEventId>) {
    let view = world.view();
    let Some(head) = world.rooms.head(&view, room).await.expect("a read") else { return };
    let at_head: HashSet<EventNum> = head.extremities.iter().map(|extremity| extremity.num).collect();
    // Of a leave that another fork outweighed the game doesn't know.
    let mut known = at_head.clone();
    for id in events {
        known.extend(world.rooms.num(&view, id).await.expect("a read"));
    }
    let mut placed: BTreeMap<EventNum, (TimelineIndex, bool)> = BTreeMap::new();
    for num in known {
        let meta = world.rooms.meta(&view, num).await.expect("a read");
        if let (EventStatus::Accepted, Some(index)) = (meta.status, meta.index) {
            placed.insert(num, (index, meta.told));
        }
    }
    let mut taken = HashSet::new();
    for (num, (index, _)) in placed.iter().filter(|(_, (_, told))| !told) {
        let behind = behind(world, *num).await;
        taken.extend(behind.into_iter().filter(|earlier| placed.get(earlier).is_some_and(|(at, _)| at < index)));
    }
    let name = &world.name;
    assert!(taken.is_disjoint(&at_head), "seed {seed}: {name} keeps extremities that others follow");
    let left = placed.keys().filter(|num| !taken.contains(num) && !at_head.contains(num)).count() as u64;
    let counted = head.sidelined.as_ref().map_or(0, |sidelined| sidelined.count);
    assert_eq!(counted, left, "seed {seed}: {name} lost sight of events, or has sidelined what others follow");
}

/// Checks that what a server's users say merges all that it accepted, in as few events as that takes, and gives what they said. Whether they
/// may speak depends on the room's state; if nobody may, nothing is checked.
pub async fn check_merging(seed: u64, world: &World, room: &RoomId, users: &[&UserId]) -> Vec<OwnedEventId> {
    let mut said = Vec::new();
    let Some(head) = world.rooms.head(&world.view(), room).await.expect("a read") else { return said };
    let left = head.sidelined.map_or(0, |sidelined| sidelined.count);
    // Each makes one of all extremities, so that all places but one are free for those sidelined.
    for _ in 0..=left.div_ceil(rooms::EXTREMITIES_MAX as u64 - 1) {
        match somebody_speaks(world, room, users).await {
            Some(event) => said.push(event),
            None => return said,
        }
    }
    let name = &world.name;
    let head = world.rooms.head(&world.view(), room).await.expect("a read").expect("a head");
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

async fn prev_of(world: &World, num: EventNum) -> Vec<EventNum> {
    let event = world.rooms.event(&world.view(), num).await.expect("a read").expect("an event");
    event.prev.to_vec()
}

/// What an event names, and through what of it no event may name what that names.
async fn behind(world: &World, num: EventNum) -> HashSet<EventNum> {
    let mut behind = HashSet::new();
    let mut open = prev_of(world, num).await;
    while let Some(num) = open.pop() {
        if !behind.insert(num) {
            continue;
        }
        let meta = world.rooms.meta(&world.view(), num).await.expect("a read");
        match meta.status {
            EventStatus::SoftFailed | EventStatus::Rejected(_) if !meta.told => open.extend(prev_of(world, num).await),
            _ => {}
        }
    }
    behind
}
