//! Walking the tree of a space.
//!
//! Specification: client-server API, "Spaces", `GET /rooms/{roomId}/hierarchy`.

use std::{collections::HashSet, str::FromStr, sync::Arc};

use rooms::{RoomsError, Shown};
use ruma::{OwnedRoomId, RoomId, ServerName, UserId};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;
use store::View;

use crate::{Reading, format::stripped_with_time, reader::RoomReader, summary::RoomDescription};

/// The type of the events that name a space's children.
const CHILD: &str = "m.space.child";

/// The type of rooms that are spaces.
const SPACE: &str = "m.space";

/// Rooms in one page of a hierarchy.
pub const HIERARCHY_LIMIT_MAX: usize = 50;

/// Levels below the first room that are walked.
pub const HIERARCHY_DEPTH_MAX: usize = 10;

/// Rooms of one tree; what comes after them is left out.
const HIERARCHY_ROOMS_MAX: usize = 5_000;

/// Children of one space that are looked at.
const CHILDREN_MAX: usize = 1_000;

/// The longest `order` of a child, in characters, and the range that they are in.
const ORDER_CHARS_MAX: usize = 50;

/// Which part of a tree is asked for.
#[derive(Clone, Debug, Default)]
pub struct HierarchyQuery {
    /// Only children that the space suggests.
    pub suggested_only: bool,
    /// How deep, bounded by [`HIERARCHY_DEPTH_MAX`].
    pub max_depth: Option<usize>,
    /// How many rooms, bounded by [`HIERARCHY_LIMIT_MAX`].
    pub limit: Option<usize>,
    /// The token of a page, got with the same `suggested_only` and `max_depth`.
    pub from: Option<HierarchyToken>,
}

/// Where a page of a hierarchy starts.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct HierarchyToken {
    skip: usize,
    depth: usize,
    suggested_only: bool,
}

impl std::fmt::Display for HierarchyToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "h{}_{}_{}", self.skip, self.depth, u8::from(self.suggested_only))
    }
}

impl FromStr for HierarchyToken {
    type Err = RoomsError;

    fn from_str(text: &str) -> Result<Self, RoomsError> {
        let parts: Vec<&str> = text.strip_prefix('h').unwrap_or("").splitn(3, '_').collect();
        let [skip, depth, suggested] = parts[..] else { return Err(RoomsError::UnknownPos) };
        let number = |text: &str| text.parse::<usize>().map_err(|_| RoomsError::UnknownPos);
        Ok(Self { skip: number(skip)?, depth: number(depth)?, suggested_only: number(suggested)? == 1 })
    }
}

/// A room of a hierarchy.
#[derive(Clone, Debug, Serialize)]
pub struct HierarchyRoom {
    /// What it looks like.
    #[serde(flatten, serialize_with = "shared")]
    pub description: Arc<RoomDescription>,
    /// Its children, as stripped state events with their times; empty if it isn't a space.
    pub children_state: Vec<Box<RawValue>>,
}

fn shared<S: Serializer>(room: &Arc<RoomDescription>, serializer: S) -> Result<S::Ok, S::Error> {
    room.as_ref().serialize(serializer)
}

/// A page of a hierarchy, depth first.
#[derive(Clone, Debug, Default)]
pub struct HierarchyPage {
    /// The rooms.
    pub rooms: Vec<HierarchyRoom>,
    /// Where the next page starts, if there is more.
    pub next: Option<HierarchyToken>,
}

/// A space and its children as another server may know them (server-server API, `GET /hierarchy/{roomId}`).
#[derive(Clone, Debug, Serialize)]
pub struct ServerHierarchy {
    /// The room asked for.
    pub room: HierarchyRoom,
    /// Its children that the other server could join or read.
    #[serde(serialize_with = "all_shared")]
    pub children: Vec<Arc<RoomDescription>>,
    /// Its children that this server holds and the other one can't come into.
    pub inaccessible_children: Vec<OwnedRoomId>,
}

fn all_shared<S: Serializer>(rooms: &[Arc<RoomDescription>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(rooms.iter().map(Arc::as_ref))
}

/// A child of a space.
#[derive(Clone, Debug)]
struct SpaceChild {
    room: OwnedRoomId,
    order: Option<String>,
    ts: u64,
    event: Shown,
}

impl RoomReader<'_> {
    /// A page of the rooms in and below a space, as far as the user may know of them and this server holds
    /// them.
    ///
    /// Fails with [`RoomsError::Forbidden`] if the user may not know of the first room, and with
    /// [`RoomsError::UnknownPos`] if the token is of another query.
    pub async fn hierarchy(&self, query: &HierarchyQuery) -> Result<HierarchyPage, RoomsError> {
        let depth_max = query.max_depth.unwrap_or(HIERARCHY_DEPTH_MAX).min(HIERARCHY_DEPTH_MAX);
        let limit = query.limit.unwrap_or(HIERARCHY_LIMIT_MAX).clamp(1, HIERARCHY_LIMIT_MAX);
        let skip = match query.from {
            None => 0,
            Some(from) if from.depth == depth_max && from.suggested_only == query.suggested_only => from.skip,
            Some(_) => return Err(RoomsError::UnknownPos),
        };
        let mut page = HierarchyPage::default();
        let mut visited: HashSet<OwnedRoomId> = HashSet::new();
        let mut ahead = vec![(self.room.to_owned(), 0)];
        let mut count = 0;
        while let Some((room, depth)) = ahead.pop() {
            if visited.len() >= HIERARCHY_ROOMS_MAX {
                break;
            }
            if !visited.insert(room.clone()) {
                continue;
            }
            let Some(description) = self.reading.preview(self.view, self.viewer.user, &room).await? else {
                if depth == 0 {
                    return Err(RoomsError::forbidden("you are not allowed to view this room"));
                }
                continue;
            };
            let children = match description.room_type.as_deref() {
                Some(SPACE) => self.reading.space_children(self.view, &room, query.suggested_only).await?,
                _ => Vec::new(),
            };
            if depth < depth_max {
                // The first child is to come next, so it goes on top.
                ahead.extend(children.iter().rev().map(|child| (child.room.clone(), depth + 1)));
            }
            count += 1;
            if count <= skip {
                continue;
            }
            if page.rooms.len() == limit {
                let suggested_only = query.suggested_only;
                page.next = Some(HierarchyToken { skip: skip + limit, depth: depth_max, suggested_only });
                break;
            }
            let mut children_state = Vec::with_capacity(children.len());
            for child in &children {
                children_state.push(stripped_with_time(&child.event)?);
            }
            page.rooms.push(HierarchyRoom { description, children_state });
        }
        Ok(page)
    }
}

impl Reading {
    /// A space with its children, one level deep, for another server.
    ///
    /// Fails with [`RoomsError::RoomNotFound`] alike if there is no such room and if the server may not know of it.
    pub async fn hierarchy_for_server(
        &self,
        view: &View,
        server: &ServerName,
        room: &RoomId,
        suggested_only: bool,
    ) -> Result<ServerHierarchy, RoomsError> {
        let description = self.describe(view, room).await?;
        if !self.may_preview_for_server(view, server, &description).await? {
            return Err(RoomsError::RoomNotFound);
        }
        let is_space = description.room_type.as_deref() == Some(SPACE);
        let found = if is_space { self.space_children(view, room, suggested_only).await? } else { Vec::new() };
        let mut children_state = Vec::with_capacity(found.len());
        let mut children = Vec::new();
        let mut inaccessible_children = Vec::new();
        for child in found {
            children_state.push(stripped_with_time(&child.event)?);
            let description = match self.describe(view, &child.room).await {
                Ok(description) => description,
                Err(RoomsError::RoomNotFound) => continue,
                Err(error) => return Err(error),
            };
            match self.may_preview_for_server(view, server, &description).await? {
                true => children.push(description),
                false => inaccessible_children.push(child.room),
            }
        }
        let room = HierarchyRoom { description, children_state };
        Ok(ServerHierarchy { room, children, inaccessible_children })
    }

    /// The description of a room if this server holds it and the user may have it.
    async fn preview(
        &self,
        view: &View,
        user: &UserId,
        room: &RoomId,
    ) -> Result<Option<Arc<RoomDescription>>, RoomsError> {
        let description = match self.describe(view, room).await {
            Ok(description) => description,
            Err(RoomsError::RoomNotFound) => return Ok(None),
            Err(error) => return Err(error),
        };
        let may = self.may_preview(view, Some(user), &description).await?;
        Ok(may.then_some(description))
    }

    /// The children of a space, in the order in which they are shown.
    async fn space_children(
        &self,
        view: &View,
        room: &RoomId,
        suggested_only: bool,
    ) -> Result<Vec<SpaceChild>, RoomsError> {
        let (nums, _) = self.rooms.current_state(view, room).await?.page(CHILD, "", CHILDREN_MAX).await?;
        let mut children = Vec::new();
        for event in self.rooms.shown(view, &nums).await? {
            children.extend(child_of(event, suggested_only));
        }
        children.sort_by(|a, b| {
            let by_order = match (&a.order, &b.order) {
                (Some(a), Some(b)) => a.cmp(b),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (None, None) => std::cmp::Ordering::Equal,
            };
            by_order.then_with(|| a.ts.cmp(&b.ts)).then_with(|| a.room.cmp(&b.room))
        });
        Ok(children)
    }
}

/// Reads a child event; `None` if it names no room or no way to it.
fn child_of(event: Shown, suggested_only: bool) -> Option<SpaceChild> {
    #[derive(Deserialize)]
    struct Content {
        via: Vec<String>,
        #[serde(default)]
        order: serde_json::Value,
        #[serde(default)]
        suggested: serde_json::Value,
    }
    let content = event.content_as::<Content>().ok()?;
    let suggested = content.suggested.as_bool().unwrap_or(false);
    if content.via.is_empty() || (suggested_only && !suggested) {
        return None;
    }
    let room = RoomId::parse(event.state_key()?).ok()?;
    let order = content.order.as_str().filter(|order| is_valid_order(order)).map(str::to_owned);
    Some(SpaceChild { room, order, ts: event.origin_server_ts(), event })
}

/// Printable ASCII, of bounded length (`m.space.child`).
fn is_valid_order(order: &str) -> bool {
    order.len() <= ORDER_CHARS_MAX && order.bytes().all(|byte| (0x20..=0x7e).contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_read_back() {
        let token = HierarchyToken { skip: 50, depth: 3, suggested_only: true };
        assert_eq!(token.to_string().parse::<HierarchyToken>().ok(), Some(token));
        for text in ["", "h", "h1_2", "h1_2_x", "x1_2_0", "h-1_2_0"] {
            assert!(text.parse::<HierarchyToken>().is_err(), "{text}");
        }
    }

    #[test]
    fn orders_are_printable_and_short() {
        assert!(is_valid_order(" ~"));
        assert!(!is_valid_order("ä"));
        assert!(!is_valid_order(&"a".repeat(ORDER_CHARS_MAX + 1)));
    }
}
