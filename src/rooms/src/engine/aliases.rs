//! Names of rooms on this server.
//!
//! Specification: client-server API, "Room aliases"; `m.room.canonical_alias`.

use ruma::{
    OwnedRoomAliasId, OwnedRoomId, OwnedServerName, RoomAliasId, RoomId, UserId,
    events::room::history_visibility::HistoryVisibility,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use store::{Batch, CommitError, Range, View};

use crate::{
    Rooms, RoomsError,
    directory::{Published, move_published_in},
    engine::{append::Sender, send::NewState},
    rows::AliasRow,
    shown::Shown,
    tables::{Aliases, JoinedServers, RoomAliases},
};

/// The longest alias, in bytes.
const ALIAS_BYTES_MAX: usize = 255;

/// Aliases of one room. All of them move in one batch when the room is replaced, however long they are.
pub const ROOM_ALIASES_MAX: usize = 250;

/// Servers that are named with an alias for those who want to join.
const ALIAS_SERVERS_MAX: usize = 50;

/// The type of the event that names a room's main alias.
pub(crate) const CANONICAL_ALIAS: &str = "m.room.canonical_alias";

/// Aliases in one `m.room.canonical_alias` that are checked; more are refused.
const CANONICAL_ALIASES_MAX: usize = 100;

/// The aliases of `m.room.canonical_alias`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
struct Canonical {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    alias: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    alt_aliases: Vec<String>,
}

impl Canonical {
    /// What an event that is in the state says; what can't be read says nothing.
    fn of(event: Option<&Shown>) -> Self {
        event.and_then(|event| event.content_as().ok()).unwrap_or_default()
    }

    fn names(&self, alias: &str) -> bool {
        self.alias.as_deref() == Some(alias) || self.alt_aliases.iter().any(|other| other == alias)
    }
}

/// What a room is found by on this server.
pub(crate) struct Names {
    aliases: Vec<(OwnedRoomAliasId, AliasRow)>,
    published: Option<Published>,
}

impl Names {
    /// Gives them to another room, expecting that nobody took one away meanwhile.
    pub(crate) fn put(&self, batch: &mut Batch, old: &RoomId, new: &RoomId) {
        for (alias, row) in &self.aliases {
            batch.expect::<Aliases>(alias, Some(row));
            batch.put::<Aliases>(alias, &AliasRow { room: new, creator: &row.creator });
            batch.delete::<RoomAliases>(&(old, alias));
            batch.put::<RoomAliases>(&(new, alias), &());
        }
        if let Some(published) = &self.published {
            move_published_in(batch, old, new, published);
        }
    }
}

impl Rooms {
    /// Gives a room a name on this server, for one of its members.
    ///
    /// Fails with [`RoomsError::BadValue`] for aliases that this server can't hand out and with [`RoomsError::AliasTaken`].
    pub async fn create_alias(&self, user: &UserId, alias: &RoomAliasId, room: &RoomId) -> Result<(), RoomsError> {
        let view = self.inner.store.view().await?;
        self.head(&view, room).await?.ok_or(RoomsError::RoomNotFound)?;
        if !self.is_joined(&view, user, room).await? {
            return Err(RoomsError::NotJoined);
        }
        let rows = Range::<RoomAliases>::prefix(&(room,)).limit(ROOM_ALIASES_MAX);
        if view.scan::<RoomAliases>(rows).await?.rows.len() >= ROOM_ALIASES_MAX {
            return Err(RoomsError::LimitExceeded("aliases of the room".to_owned()));
        }
        let mut batch = Batch::new();
        self.prepare_alias(&view, &mut batch, alias, room, user).await?;
        match self.inner.store.commit(batch).await {
            Ok(_) => Ok(()),
            Err(CommitError::Conflict) => Err(RoomsError::AliasTaken),
            Err(error) => Err(error.into()),
        }
    }

    /// Puts a new alias into a batch, expecting that nobody else takes it meanwhile.
    pub(crate) async fn prepare_alias(
        &self,
        view: &View,
        batch: &mut Batch,
        alias: &RoomAliasId,
        room: &RoomId,
        user: &UserId,
    ) -> Result<(), RoomsError> {
        self.check_local_alias(alias)?;
        if view.contains::<Aliases>(&alias).await? {
            return Err(RoomsError::AliasTaken);
        }
        put_alias(batch, user, alias, room);
        Ok(())
    }

    /// Checks that an alias is one that this server may hand out (appendices, "Room Aliases").
    pub(crate) fn check_local_alias(&self, alias: &RoomAliasId) -> Result<(), RoomsError> {
        if alias.server_name() != self.server_name() {
            return Err(RoomsError::BadValue("the alias belongs to another server".to_owned()));
        }
        if alias.as_str().len() > ALIAS_BYTES_MAX {
            return Err(RoomsError::BadValue(format!("the alias has more than {ALIAS_BYTES_MAX} bytes")));
        }
        let unfit = |c: char| c.is_whitespace() || c.is_control();
        if alias.alias().is_empty() || alias.alias().contains(unfit) {
            return Err(RoomsError::BadValue("the alias has no name, or spaces in it".to_owned()));
        }
        Ok(())
    }

    /// What a room is found by on this server.
    pub(crate) async fn names_to_move(&self, view: &View, room: &RoomId) -> Result<Names, RoomsError> {
        let mut names = Names { aliases: Vec::new(), published: self.published(view, room).await? };
        let rows = Range::<RoomAliases>::prefix(&(room,)).limit(ROOM_ALIASES_MAX);
        for ((_, alias), ()) in view.scan::<RoomAliases>(rows).await?.rows {
            if let Some(row) = view.get::<Aliases>(&*alias).await? {
                names.aliases.push((alias.into_inner(), row));
            }
        }
        Ok(names)
    }

    /// Takes an alias away: for who made it, for those who may set the room's canonical alias, and for admins.
    /// If the room's canonical alias names it and the user may, it is removed there as well.
    pub async fn delete_alias(&self, user: &UserId, alias: &RoomAliasId, as_admin: bool) -> Result<(), RoomsError> {
        let view = self.inner.store.view().await?;
        let row = view.get::<Aliases>(&alias).await?.ok_or(RoomsError::AliasNotFound)?;
        let (room, creator) = (&*row.room, &*row.creator);
        let may_name = match self.head(&view, room).await? {
            Some(head) => {
                self.is_joined(&view, user, room).await? && self.state(&view, room, head.root).may_name(user).await?
            }
            None => false,
        };
        if !as_admin && creator != user && !may_name {
            return Err(RoomsError::forbidden("you may not delete this alias"));
        }
        let mut batch = Batch::new();
        batch.expect::<Aliases>(&alias, Some(&row));
        batch.delete::<Aliases>(&alias);
        batch.delete::<RoomAliases>(&(room, alias));
        match self.inner.store.commit(batch).await {
            Ok(_) => {}
            // Somebody else deleted it first.
            Err(CommitError::Conflict) => return Err(RoomsError::AliasNotFound),
            Err(error) => return Err(error.into()),
        }
        if may_name {
            self.forget_canonical(&view, user, alias, room).await?;
        }
        Ok(())
    }

    /// The content of a room's canonical alias for the room that replaces it: the names that move there, if any does.
    pub(crate) async fn moved_aliases(
        &self,
        view: &View,
        room: &RoomId,
        event: &Shown,
    ) -> Result<Option<Box<RawValue>>, RoomsError> {
        let mut moved = Canonical::of(Some(event));
        if let Some(alias) = &moved.alias
            && !self.names_room(view, alias, room).await?
        {
            moved.alias = None;
        }
        let mut others = Vec::new();
        for alias in moved.alt_aliases.into_iter().take(CANONICAL_ALIASES_MAX) {
            if self.names_room(view, &alias, room).await? {
                others.push(alias);
            }
        }
        moved.alt_aliases = others;
        if moved == Canonical::default() { Ok(None) } else { crate::json::to_json(&moved).map(Some) }
    }

    /// The content of a room's canonical alias without the names of this server, which move to another room; `None` if there
    /// are none.
    pub(crate) fn without_own_aliases(&self, event: &Shown) -> Result<Option<Box<RawValue>>, RoomsError> {
        let old = Canonical::of(Some(event));
        let mut kept = old.clone();
        kept.alias = kept.alias.filter(|alias| self.is_elsewhere(alias));
        kept.alt_aliases.retain(|alias| self.is_elsewhere(alias));
        if kept == old { Ok(None) } else { crate::json::to_json(&kept).map(Some) }
    }

    /// Whether a text isn't an alias of this server.
    fn is_elsewhere(&self, alias: &str) -> bool {
        <&RoomAliasId>::try_from(alias).map_or(true, |alias| alias.server_name() != self.server_name())
    }

    /// Whether a text is an alias of this server that leads to the room.
    async fn names_room(&self, view: &View, alias: &str, room: &RoomId) -> Result<bool, RoomsError> {
        let target = view.get::<Aliases>(&alias).await?;
        Ok(target.is_some_and(|target| *target.room == room))
    }

    /// Removes a deleted alias from the room's canonical alias.
    async fn forget_canonical(
        &self,
        view: &View,
        user: &UserId,
        alias: &RoomAliasId,
        room: &RoomId,
    ) -> Result<(), RoomsError> {
        let Some(event) = self.current_state(view, room).await?.shown(CANONICAL_ALIAS, "").await? else {
            return Ok(());
        };
        if !Canonical::of(Some(&event)).names(alias.as_str()) {
            return Ok(());
        }
        let content = event.content_as::<serde_json::Map<String, serde_json::Value>>();
        let Ok(mut content) = content else { return Ok(()) };
        if content.get("alias").and_then(|own| own.as_str()) == Some(alias.as_str()) {
            content.remove("alias");
        }
        if let Some(others) = content.get_mut("alt_aliases").and_then(|others| others.as_array_mut()) {
            others.retain(|other| other.as_str() != Some(alias.as_str()));
        }
        let state = NewState::new((CANONICAL_ALIAS, ""), crate::json::to_json(&content)?)?;
        let sent = self.send_state(&Sender::user(user), room, state, Default::default()).await;
        match sent {
            // The alias is gone either way; a canonical alias that lags behind is the room's affair.
            Ok(_) | Err(RoomsError::Forbidden(_) | RoomsError::Auth(_) | RoomsError::BadAlias(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The room that an alias of this server names, and servers in it, this one first.
    pub async fn resolve_alias(
        &self,
        view: &View,
        alias: &RoomAliasId,
    ) -> Result<Option<(OwnedRoomId, Vec<OwnedServerName>)>, RoomsError> {
        let Some(row) = view.get::<Aliases>(&alias).await? else { return Ok(None) };
        let room = row.room.into_inner();
        let rows = Range::<JoinedServers>::prefix(&(&room,)).limit(ALIAS_SERVERS_MAX);
        let mut servers = vec![self.server_name().to_owned()];
        for ((_, server), _) in view.scan::<JoinedServers>(rows).await?.rows {
            if *server != *self.server_name() {
                servers.push(server.into_inner());
            }
        }
        Ok(Some((room, servers)))
    }

    /// The aliases of a room on this server, for its members, or for anybody if it is world readable.
    ///
    /// Fails with [`RoomsError::NotJoined`] for others.
    pub async fn local_aliases(
        &self,
        view: &View,
        user: &UserId,
        room: &RoomId,
    ) -> Result<Vec<OwnedRoomAliasId>, RoomsError> {
        let state = self.current_state(view, room).await?;
        let readable = state.history_visibility().await? == HistoryVisibility::WorldReadable;
        if !readable && !self.is_joined(view, user, room).await? {
            return Err(RoomsError::NotJoined);
        }
        let rows = Range::<RoomAliases>::prefix(&(room,)).limit(ROOM_ALIASES_MAX);
        let rows = view.scan::<RoomAliases>(rows).await?.rows;
        Ok(rows.into_iter().map(|((_, alias), ())| alias.into_inner()).collect())
    }

    /// Checks the aliases that an `m.room.canonical_alias` would add: each must be one, and name the room.
    ///
    /// Fails with [`RoomsError::BadValue`] for what is no alias and with [`RoomsError::BadAlias`]. Aliases that the room's event has already aren't looked at again.
    pub(crate) async fn check_canonical_alias(&self, room: &RoomId, content: &RawValue) -> Result<(), RoomsError> {
        let new: Canonical = serde_json::from_str(content.get())
            .map_err(|error| RoomsError::BadEvent(format!("m.room.canonical_alias: {error}")))?;
        if new.alt_aliases.len() > CANONICAL_ALIASES_MAX {
            return Err(RoomsError::TooLarge("alt_aliases".to_owned()));
        }
        let view = self.inner.store.view().await?;
        let event = self.current_state(&view, room).await?.shown(CANONICAL_ALIAS, "").await?;
        let old = Canonical::of(event.as_ref());
        let own = new.alias.iter().filter(|alias| !alias.is_empty());
        for alias in own.chain(&new.alt_aliases) {
            if old.names(alias) {
                continue;
            }
            let parsed =
                RoomAliasId::parse(alias).map_err(|_| RoomsError::BadValue(format!("{alias} is not a room alias")))?;
            let target = view.get::<Aliases>(&parsed).await?;
            if target.is_none_or(|target| *target.room != room) {
                return Err(RoomsError::BadAlias(format!("{alias} does not name this room")));
            }
        }
        Ok(())
    }
}

/// Puts an alias that is free into a batch.
fn put_alias(batch: &mut Batch, user: &UserId, alias: &RoomAliasId, room: &RoomId) {
    batch.expect::<Aliases>(&alias, None);
    batch.put::<Aliases>(&alias, &AliasRow { room, creator: user });
    batch.put::<RoomAliases>(&(room, alias), &());
}
