//! Forward extremities: what a room's next event follows, and which states count in its resolution.
//!
//! Whoever sends events that name old ones makes extremities, as many as they like; each may bring a state of its own into
//! the resolution. So the head holds a bounded number, in the order in which they came: nothing that an event claims of
//! itself ranks it. An event that names one of them takes its place, so what honest servers and this one send always has one.
//! One that names none, when there is no place left, is *sidelined*: it becomes a row of a table, and its state goes on counting. Each
//! event of this server names all extremities of the head and so leaves one; then those sidelined come back, the servers that sent
//! them in turn, so that nobody's wait behind a flood of another's. When none is left, the states that counted for them are
//! all behind those of the head's extremities.

use std::collections::HashSet;

use ruma::{OwnedServerName, ServerName};
use state_tree::{EventNum, Root};
use store::Range;

use crate::{
    EXTREMITIES_MAX, RoomsError,
    engine::turn::Turn,
    rows::SidelinedKey,
    tables::SidelinedExtremities,
    types::{Extremity, RoomHead, Sidelined},
};

/// Different states that count for sidelined extremities. When there are more, the resolution of all states of the room takes
/// their place, as it would with an event that named them all.
const SIDELINED_ROOTS_MAX: usize = 40;

/// What becomes of a head's extremities with a new event.
pub(crate) struct Front {
    pub(crate) extremities: Vec<Extremity>,
    pub(crate) sidelined: Option<Sidelined>,
    /// Changed rows: the state after an extremity that was sidelined, nothing for one that is it no more.
    rows: Vec<(OwnedServerName, EventNum, Option<Root>)>,
}

impl Front {
    /// The states that count, each once, in order.
    pub(crate) fn roots(&self) -> Vec<Root> {
        roots(&self.extremities, self.sidelined.as_ref())
    }
}

impl RoomHead {
    /// The states that count, each once, in order.
    pub(crate) fn roots(&self) -> Vec<Root> {
        roots(&self.extremities, self.sidelined.as_ref())
    }

    /// The states after the extremities that the next event of this server names, each once, in order. If none are sidelined,
    /// their resolution is that of the whole room.
    pub(crate) fn cited_roots(&self) -> Vec<Root> {
        roots(&self.extremities, None)
    }
}

fn roots(extremities: &[Extremity], sidelined: Option<&Sidelined>) -> Vec<Root> {
    let mut roots: Vec<Root> = extremities.iter().map(|extremity| extremity.after).collect();
    roots.extend(sidelined.iter().flat_map(|sidelined| &sidelined.roots));
    roots.sort_unstable();
    roots.dedup();
    roots
}

impl Turn {
    /// What the extremities become with a new one that takes the place of those in `behind`.
    pub(crate) async fn front_after(&self, new: Extremity, behind: &HashSet<EventNum>) -> Result<Front, RoomsError> {
        let mut extremities = self.head.extremities.clone();
        extremities.retain(|extremity| !behind.contains(&extremity.num));
        let mut front = Front { extremities, sidelined: self.head.sidelined.clone(), rows: Vec::new() };
        if front.sidelined.is_some() {
            for num in behind {
                self.pass(&mut front, *num).await?;
            }
        }
        if front.extremities.len() < EXTREMITIES_MAX {
            front.extremities.push(new);
        } else {
            let server = self.event(new.num).await?.pdu.sender().server_name().to_owned();
            let none = || Sidelined { count: 0, roots: Vec::new(), served: String::new() };
            let sidelined = front.sidelined.get_or_insert_with(none);
            sidelined.count += 1;
            if !sidelined.roots.contains(&new.after) {
                sidelined.roots.push(new.after);
            }
            front.rows.push((server, new.num, Some(new.after)));
        }
        if front.sidelined.is_some() && front.extremities.len() < EXTREMITIES_MAX {
            self.take_back(&mut front).await?;
        }
        Ok(front)
    }

    /// Makes the extremities those of the head, whose states resolve to `resolved`.
    pub(crate) fn set_front(&mut self, front: Front, resolved: Root) {
        for (server, event, after) in &front.rows {
            let key = SidelinedKey { room: &self.room, server, event: *event };
            match after {
                Some(after) => self.batch.put::<SidelinedExtremities>(&key, after),
                None => self.batch.delete::<SidelinedExtremities>(&key),
            }
            self.sidelined.insert(*event, after.is_some());
        }
        self.head.depth = front.extremities.iter().map(|extremity| extremity.depth).max().unwrap_or(0);
        self.head.extremities = front.extremities;
        self.head.sidelined = front.sidelined;
        if let Some(sidelined) = &mut self.head.sidelined
            && sidelined.roots.len() > SIDELINED_ROOTS_MAX
        {
            sidelined.roots = vec![resolved];
        }
    }

    /// Nothing that is sidelined counts any more: this server enters the room anew.
    pub(crate) fn forget_sidelined(&mut self) {
        if self.head.sidelined.take().is_some() {
            self.batch.delete_prefix::<SidelinedExtremities>(&(&self.room,));
            for num in self.pending_sidelined_nums() {
                self.sidelined.insert(num, false);
            }
        }
    }

    /// A new event comes after `num`: if that was sidelined, it is no extremity any more.
    async fn pass(&self, front: &mut Front, num: EventNum) -> Result<(), RoomsError> {
        if self.pending_sidelined(num) == Some(false) {
            return Ok(());
        }
        // An event of which nothing is known but its id was never an extremity.
        let Some(event) = self.known_event(num).await? else { return Ok(()) };
        let server = event.pdu.sender().server_name().to_owned();
        let key = SidelinedKey { room: &self.room, server: &server, event: num };
        let stored = self.pending_sidelined(num).is_some() || self.view.contains::<SidelinedExtremities>(&key).await?;
        if stored {
            front.rows.push((server, num, None));
            count_down(&mut front.sidelined);
        }
        Ok(())
    }

    /// Gives the free places of the head to sidelined extremities, to one of each server and then again.
    async fn take_back(&self, front: &mut Front) -> Result<(), RoomsError> {
        let Some(sidelined) = &front.sidelined else { return Ok(()) };
        let mut taken: HashSet<EventNum> = front.rows.iter().map(|(_, num, _)| *num).collect();
        let mut last = sidelined.served.clone();
        let mut wrapped = false;
        let mut found = false;
        while front.extremities.len() < EXTREMITIES_MAX && front.sidelined.is_some() {
            let mut range = Range::<SidelinedExtremities>::prefix(&(&self.room,)).limit(1);
            if !last.is_empty() {
                range = range.after(&(&self.room, &last));
            }
            let Some((SidelinedKey { server, .. }, _)) = self.view.scan(range).await?.rows.pop() else {
                if wrapped && !found {
                    // What else there is isn't published yet.
                    return Ok(());
                }
                (wrapped, found) = (true, false);
                last.clear();
                continue;
            };
            let server = server.into_inner();
            last = server.to_string();
            let Some((num, after)) = self.oldest_of(&server, &taken).await? else { continue };
            let event = self.event(num).await?;
            found = true;
            taken.insert(num);
            front.rows.push((server, num, None));
            front.extremities.push(Extremity::of(&event, after));
            if let Some(sidelined) = &mut front.sidelined {
                sidelined.served.clone_from(&last);
            }
            count_down(&mut front.sidelined);
        }
        Ok(())
    }

    /// The first sidelined extremity of a server that isn't among `taken` nor was taken by a queued batch.
    async fn oldest_of(
        &self,
        server: &ServerName,
        taken: &HashSet<EventNum>,
    ) -> Result<Option<(EventNum, Root)>, RoomsError> {
        let range = Range::<SidelinedExtremities>::prefix(&(&self.room, server)).limit(EXTREMITIES_MAX);
        let mut next = Some(range);
        while let Some(range) = next {
            let page = self.view.scan(range).await?;
            for (SidelinedKey { event, .. }, after) in page.rows {
                if !taken.contains(&event) && self.pending_sidelined(event) != Some(false) {
                    return Ok(Some((event, after)));
                }
            }
            next = page.next;
        }
        Ok(None)
    }
}

fn count_down(sidelined: &mut Option<Sidelined>) {
    if let Some(left) = sidelined {
        left.count = left.count.saturating_sub(1);
        if left.count == 0 {
            *sidelined = None;
        }
    }
}
