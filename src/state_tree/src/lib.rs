//! Room state at a point, as a persistent search tree.
//!
//! The state of a room maps `(event type, state key)` to an event. Here such a map is a tree of small immutable
//! nodes, each named by a hash of its content; the map is named by its [`Root`]. Maps that differ little share most
//! of their nodes, so a change writes one path, and two maps are compared by walking only what differs.
//!
//! Where nodes begin is decided by a hash of the keys alone (see [`layout`]), so the same map has the same root
//! however it came about. Both hashes are keyed with a secret of the database: nobody outside can craft keys that
//! never split, or two nodes with one name.
//!
//! [`StateTree`] reads and writes trees; [`Source`] tells it where nodes come from; [`Overlay`] holds new nodes until
//! (and after) they are put into a batch; [`auth_difference`] answers what state resolution asks of several trees.

mod apply;
mod auth_diff;
mod diff;
mod event_num;
mod layout;
mod mark;
mod node;
mod overlay;
mod scan;
mod tree;

#[cfg(test)]
mod tests;

use std::fmt;

use ruma::{OwnedRoomId, RoomId};
use store::{Decode, DecodeError, Encode, EncodeValue, Fixed, Reader, StoreError, Text, Value, View, Writer, table};

pub use self::{
    auth_diff::{AuthDiffError, AuthDifference, AuthEdges, EventEdges, FORKS_MAX, Reached, auth_difference},
    diff::{Conflict, DiffPage, StateChange},
    event_num::EventNum,
    mark::{Marked, Marker},
    overlay::Overlay,
    scan::RangePage,
    tree::{NodeReads, StateTree},
};

/// Bytes of a [`Root`].
const ROOT_BYTES: usize = 16;

table! {
    /// Nodes of state trees by room and hash. Never changed, only removed when nothing reaches them.
    pub Nodes = 16, Points: (Text<OwnedRoomId>, Root) => node::Node
}

/// The name of a state: the keyed hash of the topmost node of its tree. Equal states of one database have equal roots.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Ord, PartialOrd, serde::Serialize, serde::Deserialize)]
pub struct Root([u8; ROOT_BYTES]);

impl Root {
    /// The state without any event.
    pub const EMPTY: Self = Self([0; ROOT_BYTES]);

    /// Whether this is the state without any event.
    pub fn is_empty(self) -> bool {
        self == Self::EMPTY
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Root(")?;
        for byte in self.0 {
            write!(f, "{byte:02x}")?;
        }
        f.write_str(")")
    }
}

impl Encode<Root> for Root {
    fn encode(&self, w: &mut Writer) {
        Encode::<Fixed<ROOT_BYTES>>::encode(&Fixed(self.0), w);
    }
}

impl Decode for Root {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self(Fixed::<ROOT_BYTES>::decode(r)?.0))
    }
}

impl EncodeValue<Root> for Root {
    fn encode_value(&self, w: &mut Writer) {
        Fixed(self.0).encode_value(w);
    }
}

impl Value for Root {
    fn decode_value(bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self(Fixed::<ROOT_BYTES>::decode_value(bytes)?.0))
    }
}

/// What a state holds at a key.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug)]
pub struct Entry {
    /// The state event.
    pub event: EventNum,
    /// Its generation: 1 + the highest generation of its auth events, 0 without any.
    pub generation: u32,
}

/// Event type and state key.
pub type StateKey<'a> = (&'a str, &'a str);

/// An owned [`StateKey`], in the same order.
#[derive(Clone, Eq, PartialEq, Hash, Ord, PartialOrd, Debug)]
pub struct OwnedStateKey {
    /// The event type.
    pub event_type: Box<str>,
    /// The state key.
    pub state_key: Box<str>,
}

impl OwnedStateKey {
    /// The borrowed form.
    pub fn as_key(&self) -> StateKey<'_> {
        (&self.event_type, &self.state_key)
    }
}

impl From<StateKey<'_>> for OwnedStateKey {
    fn from((event_type, state_key): StateKey<'_>) -> Self {
        Self { event_type: event_type.into(), state_key: state_key.into() }
    }
}

/// Where the nodes of a room's trees come from: overlays of batches that may not be committed yet (the later ones
/// first), then the node cache, then the store.
#[derive(Copy, Clone)]
pub struct Source<'a> {
    /// The room whose state is read.
    pub room: &'a RoomId,
    /// The store as of one position.
    pub view: &'a View,
    /// Nodes that the view may not have yet.
    pub overlays: &'a [&'a Overlay],
}

/// The error for nodes that are missing or contradict each other.
fn corrupt(what: &'static str) -> StoreError {
    StoreError::Decode { table: <Nodes as store::Table>::NAME, error: DecodeError::Invalid(what) }
}
