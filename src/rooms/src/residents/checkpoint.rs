//! Filling who is where: from the last checkpoint and what the log tells since, or else from the tables, which takes longer the more
//! memberships there are.
//!
//! A checkpoint is written while users come and go. Each of its parts is as of some moment after the position that it names, and what
//! the log tells from there on ends up the same however much of it is in a part already.

use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId};
use serde::{Deserialize, Serialize};
use std::sync::atomic::Ordering;
use store::{Batch, CommitError, FollowError, LogEntry, NoPrevious, Position, Range, Record, Store, Versioned, View};

use super::{Inner, Residents};
use crate::{
    RoomsError,
    log::RoomAdvanced,
    tables::{JoinedServers, LocalMembers, ResidentCheckpoints, ResidentParts},
};

/// Bytes of ids and numbers that one part of a checkpoint has, about.
const PART_BYTES: usize = 256 * 1024;

/// What an id takes in a part, about.
const ID_BYTES: usize = 48;

/// Members of a room in one entry of a part; a larger room has several.
const MEMBERS_PER_ENTRY: usize = 50_000;

/// The key of the last checkpoint.
const LAST: u8 = 0;

/// Rows of the tables read at once.
const PAGE_ROWS: usize = 5_000;

/// A whole checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointInfo {
    /// Which parts are its own: a number that grows.
    pub(crate) generation: u64,
    /// The log tells from here on what isn't in it.
    pub(crate) position: u64,
    /// How many parts it has.
    pub(crate) parts: u32,
}

/// A part of a checkpoint. Users and servers are named by the order in which parts list them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    /// The next users.
    Users(Vec<OwnedUserId>),
    /// The next servers.
    Servers(Vec<OwnedServerName>),
    /// The next rooms.
    Rooms(Vec<RoomPart>),
}

/// A room in a part of a checkpoint, or some of its members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomPart {
    room: OwnedRoomId,
    members: Vec<u32>,
    servers: Vec<u32>,
}

impl Versioned for CheckpointInfo {
    const VERSION: u8 = 1;
    type Previous = NoPrevious;

    fn upgrade(previous: NoPrevious) -> Self {
        match previous {}
    }
}

impl Versioned for Part {
    const VERSION: u8 = 1;
    type Previous = NoPrevious;

    fn upgrade(previous: NoPrevious) -> Self {
        match previous {}
    }
}

impl Residents {
    /// Reads who is where, and goes on with what was told meanwhile.
    pub(crate) async fn fill(&self, store: &Store) -> Result<(), RoomsError> {
        let view = store.view().await?;
        if !self.read_checkpoint(store, &view).await? {
            self.read_tables(&view).await?;
        }
        self.go_on_after(&view);
        Ok(())
    }

    /// Reads who is where anew from the tables, if an entry of the log that couldn't be read left it behind.
    pub(crate) async fn refill(&self, store: &Store) -> Result<(), RoomsError> {
        if self.is_filled(store.published()) {
            return Ok(());
        }
        self.0.forget();
        let view = store.view().await?;
        self.read_tables(&view).await?;
        self.go_on_after(&view);
        Ok(())
    }

    fn go_on_after(&self, view: &View) {
        let mut early = self.0.early.lock();
        for (position, entry) in early.take().unwrap_or_default() {
            if position > view.position() {
                self.0.advance(position, &entry);
            }
        }
        self.0.filled.store(view.position().get(), Ordering::Release);
        drop(early);
        self.0.count_held();
    }

    /// Reads the last checkpoint and the log since. `false` if there is none from which the log leads to the view.
    async fn read_checkpoint(&self, store: &Store, view: &View) -> Result<bool, RoomsError> {
        let Some(Record(info)) = view.get::<ResidentCheckpoints>(&LAST).await? else { return Ok(false) };
        let mut log = store.read_log(Position::from_u64(info.position));
        let mut moves = Vec::new();
        while log.position() < view.position() {
            let records = match log.try_next().await {
                Ok(records) => records,
                Err(FollowError::TooOld { .. }) => return Ok(false),
                Err(FollowError::Closed) => return Err(store::StoreError::Closed.into()),
                Err(FollowError::Store(error)) => return Err(error.into()),
            };
            for record in records.iter().filter(|record| record.kind == RoomAdvanced::KIND) {
                let entry = record.decode::<RoomAdvanced>()?;
                let tells = |entry: &RoomAdvanced| !entry.members.is_empty() || !entry.servers.is_empty();
                moves.extend(entry.filter(tells).map(|entry| (record.position, entry)));
            }
        }
        let (mut users, mut servers) = (Vec::new(), Vec::new());
        for number in 0..info.parts {
            let Some(Record(part)) = view.get::<ResidentParts>(&(info.generation, number)).await? else {
                return Err(RoomsError::corrupt("a checkpoint of who is where lacks a part"));
            };
            self.read_part(part, &mut users, &mut servers);
        }
        for (position, entry) in moves {
            self.0.advance(position, &entry);
        }
        Ok(true)
    }

    fn read_part(&self, part: Part, users: &mut Vec<u32>, servers: &mut Vec<u32>) {
        let inner: &Inner = &self.0;
        match part {
            Part::Users(ids) => users.extend(ids.iter().map(|id| inner.users.number(&**id))),
            Part::Servers(names) => servers.extend(names.iter().map(|name| inner.servers.number(&**name))),
            Part::Rooms(rooms) => {
                for RoomPart { room, members, servers: there } in rooms {
                    let room = inner.rooms.number(&*room);
                    for user in members.iter().filter_map(|member| users.get(*member as usize)) {
                        inner.move_user(room, *user, true, Position::ZERO);
                    }
                    for server in there.iter().filter_map(|server| servers.get(*server as usize)) {
                        inner.move_server(room, *server, true, Position::ZERO);
                    }
                }
            }
        }
    }

    async fn read_tables(&self, view: &View) -> Result<(), RoomsError> {
        let inner: &Inner = &self.0;
        let mut next = Some(Range::<LocalMembers>::all().limit(PAGE_ROWS));
        while let Some(range) = next {
            let page = view.scan::<LocalMembers>(range).await?;
            for ((room, user), _) in page.rows {
                let (room, user) = (inner.rooms.number(&**room), inner.users.number(&**user));
                inner.move_user(room, user, true, Position::ZERO);
            }
            next = page.next;
        }
        let mut next = Some(Range::<JoinedServers>::all().limit(PAGE_ROWS));
        while let Some(range) = next {
            let page = view.scan::<JoinedServers>(range).await?;
            for ((room, server), _) in page.rows {
                let (room, server) = (inner.rooms.number(&**room), inner.servers.number(&**server));
                inner.move_server(room, server, true, Position::ZERO);
            }
            next = page.next;
        }
        Ok(())
    }

    /// Writes a checkpoint, if the log has as many records since the last. Says whether it did.
    pub(crate) async fn checkpoint(&self, store: &Store, records: u64) -> Result<bool, RoomsError> {
        let view = store.view().await?;
        let last = view.get::<ResidentCheckpoints>(&LAST).await?.map(|Record(info)| info);
        let position = view.position();
        let since = position.get() - last.as_ref().map_or(0, |info| info.position.min(position.get()));
        if since < records || !self.is_filled(position) {
            return Ok(false);
        }
        let generation = last.as_ref().map_or(0, |info| info.generation) + 1;
        // What a crash left of an attempt.
        forget_parts(store, generation, u64::MAX).await?;
        let parts = self.write_parts(store, generation).await?;
        let info = CheckpointInfo { generation, position: position.get(), parts };
        let mut batch = Batch::new();
        batch.relaxed();
        batch.expect::<ResidentCheckpoints>(&LAST, last.map(Record).as_ref());
        batch.put::<ResidentCheckpoints>(&LAST, &Record(info));
        match store.commit(batch).await {
            Ok(_) => forget_parts(store, 0, generation).await?,
            // Somebody else wrote one meanwhile.
            Err(CommitError::Conflict) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(true)
    }

    /// Writes all that is known, and gives how many parts that are. Who comes while this goes on may be named by a number beyond those
    /// listed: the log tells of them.
    async fn write_parts(&self, store: &Store, generation: u64) -> Result<u32, RoomsError> {
        let inner: &Inner = &self.0;
        let mut writer = PartWriter { store, generation, parts: 0 };
        for ids in numbers(inner.users.count()) {
            writer.write(Part::Users(ids.filter_map(|user| inner.users.id(user).cloned()).collect())).await?;
        }
        for names in numbers(inner.servers.count()) {
            writer.write(Part::Servers(names.filter_map(|server| inner.servers.id(server).cloned()).collect())).await?;
        }
        let (mut rooms, mut bytes) = (Vec::new(), 0);
        for room in 0..inner.rooms.count() {
            let Some(id) = inner.rooms.id(room) else { continue };
            let (members, servers) = match inner.of_room(room) {
                Some(known) => (known.members.clone(), known.servers.clone()),
                None => continue,
            };
            let mut servers = Some(servers);
            for members in members.chunks(MEMBERS_PER_ENTRY).chain(members.is_empty().then_some(&[][..])) {
                let part = RoomPart {
                    room: id.clone(),
                    members: members.to_vec(),
                    servers: servers.take().unwrap_or_default(),
                };
                bytes += ID_BYTES + size_of::<u32>() * (part.members.len() + part.servers.len());
                rooms.push(part);
                if bytes >= PART_BYTES {
                    writer.write(Part::Rooms(std::mem::take(&mut rooms))).await?;
                    bytes = 0;
                }
            }
        }
        if !rooms.is_empty() {
            writer.write(Part::Rooms(rooms)).await?;
        }
        Ok(writer.parts)
    }
}

/// The numbers below `count`, as many at a time as there are ids in a part.
fn numbers(count: u32) -> impl Iterator<Item = std::ops::Range<u32>> {
    const IDS: usize = PART_BYTES / ID_BYTES;
    (0..count).step_by(IDS).map(move |from| from..count.min(from.saturating_add(IDS as u32)))
}

/// Writes parts one after another.
struct PartWriter<'a> {
    store: &'a Store,
    generation: u64,
    parts: u32,
}

impl PartWriter<'_> {
    async fn write(&mut self, part: Part) -> Result<(), RoomsError> {
        let mut batch = Batch::new();
        batch.relaxed();
        batch.put::<ResidentParts>(&(self.generation, self.parts), &Record(part));
        self.store.commit(batch).await?;
        self.parts += 1;
        Ok(())
    }
}

/// Deletes the parts of generations from one on and before another.
async fn forget_parts(store: &Store, from: u64, before: u64) -> Result<(), RoomsError> {
    let mut batch = Batch::new();
    batch.relaxed();
    batch.delete_between::<ResidentParts>(&(from,), &(before,));
    store.commit(batch).await?;
    Ok(())
}
