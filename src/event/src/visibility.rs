//! Who may see an event.
//!
//! Specification: client-server API, "Room History Visibility", "Ignoring Users", "Deactivating an
//! account"; server-server API, "Backfilling and retrieving missing events".
//!
//! One function for users and one for servers; every reader of events goes through them.

use ruma::events::TimelineEventType;
use ruma::events::room::history_visibility::HistoryVisibility;
use ruma::events::room::member::MembershipState;
use ruma::{ServerName, UserId};
use serde::Deserialize;

use crate::Pdu;

/// How much of an event somebody may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visibility {
    /// All of it.
    Visible,
    /// What redaction leaves of it.
    Redacted,
    /// Nothing, not even that it is there.
    Hidden,
}

/// What decides whether a user sees an event.
#[derive(Debug, Clone)]
pub struct Viewing<'a> {
    /// Who looks.
    pub user: &'a UserId,
    /// The history visibility in the state *before* the event; see [`history_visibility`].
    pub history: HistoryVisibility,
    /// The user's membership in the state *before* the event; `Leave` if there is none.
    pub membership: MembershipState,
    /// Whether the user was joined at any time after the event.
    pub joined_later: bool,
    /// Whether the user ignores the sender.
    pub ignores_sender: bool,
    /// Whether the sender asked to be erased before this user joined. Who was in the room before
    /// has seen what there was and keeps it.
    pub sender_erased: bool,
}

/// The history visibility that a `m.room.history_visibility` event sets; without one, or with a
/// value that nobody knows, it is `shared`.
pub fn history_visibility(event: Option<&Pdu>) -> HistoryVisibility {
    #[derive(Deserialize)]
    struct Content {
        history_visibility: HistoryVisibility,
    }
    let content = event.and_then(|event| event.content_as::<Content>().ok());
    match content.map(|content| content.history_visibility) {
        Some(
            known @ (HistoryVisibility::WorldReadable
            | HistoryVisibility::Shared
            | HistoryVisibility::Invited
            | HistoryVisibility::Joined),
        ) => known,
        _ => HistoryVisibility::Shared,
    }
}

/// The membership that a `m.room.member` event sets; `Leave` without one.
pub fn membership(event: Option<&Pdu>) -> MembershipState {
    event.and_then(Pdu::membership).map_or(MembershipState::Leave, MembershipState::from)
}

/// What `viewing.user` may see of `event`.
pub fn for_user(event: &Pdu, viewing: &Viewing<'_>) -> Visibility {
    let user = viewing.user;
    let own = event.sender() == user;
    // State events of ignored users are shown, so that the room looks the same to all.
    if viewing.ignores_sender && !own && event.state_key().is_none() {
        return Visibility::Hidden;
    }

    let membership_after = sets_membership_of(event, |target| target == user.as_str());
    let mut allowed = false;
    for history in [Some(&viewing.history), history_after(event).as_ref()].into_iter().flatten() {
        for membership in [Some(&viewing.membership), membership_after.as_ref()].into_iter().flatten() {
            allowed |= shows(history, membership, viewing.joined_later);
        }
    }
    if !allowed {
        return Visibility::Hidden;
    }
    if viewing.sender_erased && !own && viewing.membership != MembershipState::Join {
        return Visibility::Redacted;
    }
    Visibility::Visible
}

/// The history visibility after an event that sets it. Such an event may be seen if the state
/// before it or the state after it would show it.
fn history_after(event: &Pdu) -> Option<HistoryVisibility> {
    event.is_state("m.room.history_visibility", "").then(|| history_visibility(Some(event)))
}

/// The membership after an event that sets that of a user in question, for the same reason.
fn sets_membership_of(event: &Pdu, in_question: impl Fn(&str) -> bool) -> Option<MembershipState> {
    let target = event.state_key()?;
    (*event.kind() == TimelineEventType::RoomMember && in_question(target)).then(|| membership(Some(event)))
}

fn shows(history: &HistoryVisibility, membership: &MembershipState, joined_later: bool) -> bool {
    *history == HistoryVisibility::WorldReadable
        || *membership == MembershipState::Join
        || (*history == HistoryVisibility::Shared && joined_later)
        || (*history == HistoryVisibility::Invited && *membership == MembershipState::Invite)
}

/// What another server may see of `event`, given the history visibility before it, the memberships
/// before it of that server's users, and whether the sender asked to be erased.
///
/// A server that may not see an event gets it redacted, because it needs it to follow the room. The
/// state of a room at some event is for every server in the room and isn't filtered by this.
pub fn for_server<'a>(
    event: &Pdu,
    server: &ServerName,
    history: &HistoryVisibility,
    memberships: impl IntoIterator<Item = &'a MembershipState>,
    sender_erased: bool,
) -> Visibility {
    if event.sender().server_name() == server {
        return Visibility::Visible;
    }
    let is_theirs = |target: &str| <&UserId>::try_from(target).is_ok_and(|user| user.server_name() == server);
    let after = sets_membership_of(event, is_theirs);
    let mut joined = after == Some(MembershipState::Join);
    let mut invited = after == Some(MembershipState::Invite);
    for membership in memberships {
        joined |= *membership == MembershipState::Join;
        invited |= *membership == MembershipState::Invite;
    }
    if sender_erased && !joined {
        return Visibility::Redacted;
    }
    for history in [Some(history), history_after(event).as_ref()].into_iter().flatten() {
        let allowed = match history {
            HistoryVisibility::Joined => joined,
            HistoryVisibility::Invited => joined || invited,
            _ => true,
        };
        if allowed {
            return Visibility::Visible;
        }
    }
    Visibility::Redacted
}
