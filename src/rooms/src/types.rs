//! The small types that every part of the crate speaks in: event numbers, timeline indices, event records, memberships.

use std::sync::{Arc, OnceLock};

use event::Pdu;
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, events::room::member::MembershipState};
use serde::{Deserialize, Serialize};
use state_tree::{EventNum, Root};
use store::{Decode, DecodeError, Encode, EncodeValue, Key, Position, Reader, Text, Value, Writer, decode_all};

use crate::{notable::Notability, shown::Envelope};

/// The type of membership events.
pub const MEMBER: &str = "m.room.member";

/// The type of redactions.
pub const REDACTION: &str = "m.room.redaction";

/// Where an event stands in its room's timeline on this server: the order of `/sync` and `/messages`.
///
/// Live events take the position of their log entry as `major`; events fetched later for a gap sort
/// just before the event after the gap (same `major`, smaller `minor`: live events have [`TimelineIndex::LIVE_MINOR`]),
/// and history from before our first event has `era` 0.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Key)]
pub struct TimelineIndex {
    /// 0 for history before this server's first event in the room, 1 for everything since.
    pub era: u8,
    /// The position of the log entry (era 1), or a number that counts down from [`TimelineIndex::HISTORY_START`] (era 0).
    pub major: Position,
    /// Orders the events of one `major`.
    pub minor: u32,
}

impl TimelineIndex {
    /// The minor of a live event: the events that fill the gap before it count down from here.
    pub const LIVE_MINOR: u32 = 1 << 31;
    /// Majors of era 0 count down from here.
    pub const HISTORY_START: u64 = 1 << 62;
    /// Sorts before every event.
    pub const MIN: Self = Self { era: 0, major: Position::ZERO, minor: 0 };

    /// The index of the live event whose log entry has this position.
    pub fn live(position: Position) -> Self {
        Self { era: 1, major: position, minor: Self::LIVE_MINOR }
    }

    /// Whether it is the place of an event that was news when it came.
    pub fn is_live(self) -> bool {
        self.era == 1 && self.minor == Self::LIVE_MINOR
    }

    /// Sorts after every event at or before `position` and before every later one.
    pub fn after_position(position: Position) -> Self {
        Self { era: 1, major: position, minor: u32::MAX }
    }
}

/// What this server made of an event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EventStatus {
    /// Only its id is known.
    Missing,
    /// Stored and valid on its own, but not placed in the room's graph (fetched as an auth event, say).
    Outlier,
    /// Part of the room.
    Accepted,
    /// Passed authorisation at its place in the graph but not against the current state
    /// (server-server API, "Soft failure"): takes part in state resolution, is not shown to clients.
    SoftFailed,
    /// Failed authorisation; never part of any state. The reason is for admins and logs.
    Rejected(String),
}

/// What never changes about a stored event. Cached without bound in time.
#[derive(Clone, Debug)]
pub struct StoredEvent {
    /// This server's number for it.
    pub num: EventNum,
    /// The event as received, its content apart.
    pub pdu: Envelope,
    /// Numbers of its auth events.
    pub auth: Arc<[EventNum]>,
    /// Numbers of its prev events.
    pub prev: Arc<[EventNum]>,
    /// 1 + the highest generation of its auth events; 0 for an event without any.
    pub generation: u32,
    /// Whom it notifies by the default rules, once somebody has asked.
    pub(crate) notability: OnceLock<Notability>,
}

impl StoredEvent {
    pub(crate) fn new(num: EventNum, pdu: Pdu, auth: Vec<EventNum>, prev: Vec<EventNum>, generation: u32) -> Self {
        Self {
            num,
            pdu: Envelope::new(pdu),
            auth: auth.into(),
            prev: prev.into(),
            generation,
            notability: OnceLock::new(),
        }
    }
}

/// What may change about a stored event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EventMeta {
    /// Where it stands with us.
    pub status: EventStatus,
    /// Room state before the event; [`Root::EMPTY`] for outliers.
    pub before: Root,
    /// Room state after the event; equal to `before` for message and rejected events.
    pub after: Root,
    /// Its place in the timeline, for accepted events that clients may see.
    pub index: Option<TimelineIndex>,
    /// The redaction that applies to it.
    pub redacted_by: Option<EventNum>,
    /// Whether other events relate to it (so that most events cost no look-up for bundled aggregations).
    pub has_relations: bool,
    /// Whether the state before it was fetched from another server, which may owe nothing then to the events that it names.
    pub state_fetched: bool,
}

impl Extremity {
    /// An event with the state after it.
    pub(crate) fn of(event: &StoredEvent, after: Root) -> Self {
        Self { num: event.num, event_id: event.pdu.owned_event_id(), depth: event.pdu.depth(), after }
    }
}

impl RoomHead {
    /// The head of a room without events.
    pub(crate) fn before_creation() -> Self {
        Self {
            version: 0,
            root: Root::EMPTY,
            resolved: Root::EMPTY,
            depth: 0,
            extremities: Vec::new(),
            sidelined: None,
            joined_count: 0,
            invited_count: 0,
        }
    }
}

impl EventMeta {
    /// The meta of an event that has no place in the room's graph.
    pub(crate) fn outlier(status: EventStatus) -> Self {
        Self {
            status,
            before: Root::EMPTY,
            after: Root::EMPTY,
            index: None,
            redacted_by: None,
            has_relations: false,
            state_fetched: false,
        }
    }

    /// Whether the event was judged for good. One without a place in the timeline that was judged by a state that was fetched from
    /// another server is judged again when it comes: nobody must be able to spoil an event of others by being faster and lying about what
    /// comes before it.
    pub(crate) fn is_settled(&self) -> bool {
        match self.status {
            EventStatus::Missing | EventStatus::Outlier => false,
            EventStatus::Accepted | EventStatus::SoftFailed | EventStatus::Rejected(_) => {
                self.index.is_some() || !self.state_fetched
            }
        }
    }

    /// Whether it is known what the state after the event is. What was told to be before an event that doesn't fit there is not
    /// worth to build on.
    pub(crate) fn has_state(&self) -> bool {
        let is_doubtful = self.state_fetched && matches!(self.status, EventStatus::Rejected(_));
        !self.after.is_empty() && !is_doubtful
    }
}

/// A user's membership of a room, as rows and log entries keep it.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[repr(u8)]
pub enum Membership {
    /// Not in the room.
    Leave = 0,
    /// Invited.
    Invite = 1,
    /// Asked to join.
    Knock = 2,
    /// In the room.
    Join = 3,
    /// Banned.
    Ban = 4,
}

impl Membership {
    /// From an `m.room.member` event; one without a valid `membership` counts as not in the room.
    pub fn of(pdu: &Pdu) -> Self {
        match pdu.membership() {
            Some(text) => Self::from_event(&MembershipState::from(text)),
            None => Self::Leave,
        }
    }

    /// From the value of `membership` in an `m.room.member` event; unknown values count as not in the room.
    pub fn from_event(state: &MembershipState) -> Self {
        match state {
            MembershipState::Invite => Self::Invite,
            MembershipState::Knock => Self::Knock,
            MembershipState::Join => Self::Join,
            MembershipState::Ban => Self::Ban,
            _ => Self::Leave,
        }
    }
}

impl Encode<Membership> for Membership {
    fn encode(&self, w: &mut Writer) {
        Encode::<u8>::encode(&(*self as u8), w);
    }
}

impl EncodeValue<Membership> for Membership {
    fn encode_value(&self, w: &mut Writer) {
        Encode::<Self>::encode(self, w);
    }
}

impl Value for Membership {
    fn decode_value(bytes: &[u8]) -> Result<Self, DecodeError> {
        decode_all(bytes)
    }
}

impl Decode for Membership {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match u8::decode(r)? {
            0 => Self::Leave,
            1 => Self::Invite,
            2 => Self::Knock,
            3 => Self::Join,
            4 => Self::Ban,
            _ => return Err(DecodeError::Invalid("membership")),
        })
    }
}

/// A local user's present membership of one room.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Value)]
pub struct MembershipRow {
    /// The membership.
    pub membership: Membership,
    /// The member event, where we hold it (not for invites and knocks to rooms of other servers).
    pub event: Option<EventNum>,
    /// The log position of the change that made it so.
    pub position: Position,
    /// The user has forgotten the room (client-server API, "Leaving rooms").
    pub forgotten: bool,
}

/// A change of a local user's membership, ordered by position: what `/sync` cuts its intervals from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MembershipLogRow {
    /// The room.
    pub room: OwnedRoomId,
    /// The membership from here on.
    pub membership: Membership,
    /// The member event, where we hold it.
    pub event: Option<EventNum>,
    /// Whether this row only records that the room was forgotten.
    pub forgotten: bool,
}

/// A local user's membership changing with a room's state, as the log tells it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MemberChange {
    /// Who.
    pub user: OwnedUserId,
    /// What they were.
    pub old: Membership,
    /// What they are now.
    pub new: Membership,
}

/// An event of a room that no other accepted event names as its predecessor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Extremity {
    /// Its number.
    pub num: EventNum,
    /// Its id.
    pub event_id: OwnedEventId,
    /// The depth that it claims.
    pub depth: u64,
    /// Room state after it.
    pub after: Root,
}

/// Forward extremities for which the head has no place. They are rows of a table, and come back when there is one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sidelined {
    /// How many there are.
    pub count: u64,
    /// The states that count in the resolution on their account, until the last of them has come back.
    pub roots: Vec<Root>,
    /// The server of the one that came back last: next is another's turn. Empty at first.
    pub served: String,
}

/// What a room currently is: its forward extremities and resolved state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RoomHead {
    /// Counts every advance; what a writer expects.
    pub version: u64,
    /// The current state, as members and everybody who reads the room have it.
    pub root: Root,
    /// The resolution of the states after all extremities. Where it is far from `root`, that follows in steps.
    pub resolved: Root,
    /// Highest depth among the extremities.
    pub depth: u64,
    /// Forward extremities, bounded by [`crate::EXTREMITIES_MAX`].
    pub extremities: Vec<Extremity>,
    /// Those beyond the bound.
    pub sidelined: Option<Sidelined>,
    /// Number of joined members in `root`.
    pub joined_count: u64,
    /// Number of invited members in `root`.
    pub invited_count: u64,
}

impl RoomHead {
    /// Whether the current state is still on its way to the resolved one.
    pub(crate) fn is_behind(&self) -> bool {
        self.root != self.resolved
    }
}

/// The version byte that starts every stored [`EventMeta`] and [`RoomHead`].
const CODING: u8 = 1;

fn check_coding(r: &mut Reader<'_>, what: &'static str) -> Result<(), DecodeError> {
    match u8::decode(r)? {
        CODING => Ok(()),
        stored if stored > CODING => Err(DecodeError::Newer { stored, known: CODING }),
        _ => Err(DecodeError::Invalid(what)),
    }
}

impl EventStatus {
    fn encode(&self, w: &mut Writer) {
        let number: u8 = match self {
            Self::Missing => 0,
            Self::Outlier => 1,
            Self::Accepted => 2,
            Self::SoftFailed => 3,
            Self::Rejected(_) => 4,
        };
        Encode::<u8>::encode(&number, w);
        if let Self::Rejected(reason) = self {
            Encode::<String>::encode(reason, w);
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match u8::decode(r)? {
            0 => Self::Missing,
            1 => Self::Outlier,
            2 => Self::Accepted,
            3 => Self::SoftFailed,
            4 => Self::Rejected(String::decode(r)?),
            _ => return Err(DecodeError::Invalid("event status")),
        })
    }
}

impl EncodeValue<EventMeta> for EventMeta {
    fn encode_value(&self, w: &mut Writer) {
        Encode::<u8>::encode(&CODING, w);
        self.status.encode(w);
        Encode::<Root>::encode(&self.before, w);
        Encode::<Root>::encode(&self.after, w);
        Encode::<Option<TimelineIndex>>::encode(&self.index, w);
        Encode::<Option<EventNum>>::encode(&self.redacted_by, w);
        Encode::<bool>::encode(&self.has_relations, w);
        Encode::<bool>::encode(&self.state_fetched, w);
    }
}

impl Value for EventMeta {
    fn decode_value(bytes: &[u8]) -> Result<Self, DecodeError> {
        let r = &mut Reader::new(bytes);
        check_coding(r, "event meta")?;
        let meta = Self {
            status: EventStatus::decode(r)?,
            before: Root::decode(r)?,
            after: Root::decode(r)?,
            index: Option::decode(r)?,
            redacted_by: Option::decode(r)?,
            has_relations: bool::decode(r)?,
            state_fetched: bool::decode(r)?,
        };
        r.finish()?;
        Ok(meta)
    }
}

impl EncodeValue<RoomHead> for RoomHead {
    fn encode_value(&self, w: &mut Writer) {
        Encode::<u8>::encode(&CODING, w);
        Encode::<u64>::encode(&self.version, w);
        Encode::<Root>::encode(&self.root, w);
        Encode::<Root>::encode(&self.resolved, w);
        Encode::<u64>::encode(&self.depth, w);
        Encode::<u64>::encode(&self.joined_count, w);
        Encode::<u64>::encode(&self.invited_count, w);
        Encode::<bool>::encode(&self.sidelined.is_some(), w);
        if let Some(sidelined) = &self.sidelined {
            Encode::<u64>::encode(&sidelined.count, w);
            Encode::<String>::encode(&sidelined.served, w);
            Encode::<u64>::encode(&(sidelined.roots.len() as u64), w);
            for root in &sidelined.roots {
                Encode::<Root>::encode(root, w);
            }
        }
        for extremity in &self.extremities {
            Encode::<EventNum>::encode(&extremity.num, w);
            Encode::<Text<OwnedEventId>>::encode(&extremity.event_id, w);
            Encode::<u64>::encode(&extremity.depth, w);
            Encode::<Root>::encode(&extremity.after, w);
        }
    }
}

impl Value for RoomHead {
    fn decode_value(bytes: &[u8]) -> Result<Self, DecodeError> {
        let r = &mut Reader::new(bytes);
        check_coding(r, "room head")?;
        let mut head = Self {
            version: u64::decode(r)?,
            root: Root::decode(r)?,
            resolved: Root::decode(r)?,
            depth: u64::decode(r)?,
            joined_count: u64::decode(r)?,
            invited_count: u64::decode(r)?,
            extremities: Vec::new(),
            sidelined: None,
        };
        if bool::decode(r)? {
            let (count, served) = (u64::decode(r)?, String::decode(r)?);
            let mut roots = Vec::new();
            for _ in 0..u64::decode(r)? {
                roots.push(Root::decode(r)?);
            }
            head.sidelined = Some(Sidelined { count, roots, served });
        }
        while r.finish().is_err() {
            head.extremities.push(Extremity {
                num: EventNum::decode(r)?,
                event_id: Text::<OwnedEventId>::decode(r)?.into_inner(),
                depth: u64::decode(r)?,
                after: Root::decode(r)?,
            });
        }
        Ok(head)
    }
}

#[cfg(test)]
mod tests {
    use ruma::owned_event_id;
    use store::encode_value_to_vec;

    use super::*;

    #[test]
    fn metas_and_heads_survive_storing() {
        let mut meta = EventMeta::outlier(EventStatus::Rejected("no\0 way".to_owned()));
        meta.index = Some(TimelineIndex::live(Position::from_u64(7)));
        meta.redacted_by = Some(EventNum(9));
        let bytes = encode_value_to_vec(&meta);
        assert_eq!(EventMeta::decode_value(&bytes).unwrap(), meta);
        assert!(EventMeta::decode_value(&bytes[..bytes.len() - 1]).is_err());

        let mut head = RoomHead {
            version: 3,
            root: Root::EMPTY,
            resolved: Root::EMPTY,
            depth: 4,
            extremities: vec![Extremity {
                num: EventNum(1),
                event_id: owned_event_id!("$one"),
                depth: 4,
                after: Root::EMPTY,
            }],
            sidelined: None,
            joined_count: 5,
            invited_count: 6,
        };
        for sidelined in [None, Some(Sidelined { count: 7, roots: vec![Root::EMPTY; 2], served: "a.org".to_owned() })] {
            head.sidelined = sidelined;
            let bytes = encode_value_to_vec(&head);
            assert_eq!(RoomHead::decode_value(&bytes).unwrap(), head);
            assert!(RoomHead::decode_value(&bytes[..bytes.len() - 1]).is_err());
        }
    }
}
