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
    /// Whether the sender's account was deactivated with a wish to be erased.
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

    let is_state_now = |kind| *event.kind() == kind && event.state_key().is_some();
    // An event that changes what it is judged by may be seen if either state would show it.
    let history_after = (is_state_now(TimelineEventType::RoomHistoryVisibility) && event.state_key() == Some(""))
        .then(|| history_visibility(Some(event)));
    let membership_after = (is_state_now(TimelineEventType::RoomMember) && event.state_key() == Some(user.as_str()))
        .then(|| membership(Some(event)));

    let mut allowed = false;
    for history in [Some(&viewing.history), history_after.as_ref()].into_iter().flatten() {
        for membership in [Some(&viewing.membership), membership_after.as_ref()].into_iter().flatten() {
            allowed |= shows(history, membership, viewing.joined_later);
        }
    }
    if !allowed {
        return Visibility::Hidden;
    }
    // Who was in the room when it was sent has seen it and keeps it.
    if viewing.sender_erased && !own && viewing.membership != MembershipState::Join {
        return Visibility::Redacted;
    }
    Visibility::Visible
}

fn shows(history: &HistoryVisibility, membership: &MembershipState, joined_later: bool) -> bool {
    *history == HistoryVisibility::WorldReadable
        || *membership == MembershipState::Join
        || (*history == HistoryVisibility::Shared && joined_later)
        || (*history == HistoryVisibility::Invited && *membership == MembershipState::Invite)
}

/// What another server may see of `event`, given the history visibility before it and the
/// memberships before it of that server's users.
///
/// A server that may not see an event gets it redacted, because it needs it to follow the room.
pub fn for_server<'a>(
    event: &Pdu,
    server: &ServerName,
    history: &HistoryVisibility,
    memberships: impl IntoIterator<Item = &'a MembershipState>,
    sender_erased: bool,
) -> Visibility {
    // State is what the room consists of; every server in it needs all of it.
    if event.state_key().is_some() || event.sender().server_name() == server {
        return Visibility::Visible;
    }
    let mut joined = false;
    let mut invited = false;
    for membership in memberships {
        joined |= *membership == MembershipState::Join;
        invited |= *membership == MembershipState::Invite;
    }
    if sender_erased && !joined {
        return Visibility::Redacted;
    }
    let allowed = match history {
        HistoryVisibility::Joined => joined,
        HistoryVisibility::Invited => joined || invited,
        _ => true,
    };
    if allowed { Visibility::Visible } else { Visibility::Redacted }
}
