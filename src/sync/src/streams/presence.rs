//! How present others are. In no log, but what is stored of status messages.
//!
//! Specification: client-server API, "Presence".

use std::{collections::BTreeSet, fmt};

use reading::ClientEvent;
use ruma::UserId;
use serde::Serialize;
use tokio::sync::watch;
use users::{PresenceInfo, PresenceState};

use super::{
    Sources, Stream, StreamId, Subject, VolatileStream,
    changes::Changes,
    device_lists::UserSet,
    span::Span,
    token::{BadToken, Part, TokenNumbers, write_if_any},
};
use crate::{
    SyncError,
    format::to_event,
    hub::Router,
    inbox::Kind,
    sequence::{Numbers, Sequence},
};

/// See the module.
pub(crate) struct Presence;

const CHANGED: Kind = StreamId::Presence.relaxed();

impl Stream for Presence {
    const SUBJECT: Subject = Subject::User;
    const SEQUENCE: Sequence = Sequence::Presence;
    type Part = PresencePart;
}

impl VolatileStream for Presence {
    fn last(sources: &Sources<'_>) -> u64 {
        sources.users.presence().sequence()
    }

    fn subscribe(sources: &Sources<'_>) -> watch::Receiver<u64> {
        sources.users.presence().subscribe()
    }

    fn route_after(router: &mut Router<'_>, sources: &Sources<'_>, since: u64) -> u64 {
        let (hub, presence) = (router.hub, sources.users.presence());
        let last = presence.sequence();
        let changed = presence.changed_since(since);
        hub.routing(Sequence::Presence, last);
        for user in changed.iter().filter_map(|(_, user)| hub.residents.known_user(user)) {
            for other in hub.presence_around(user) {
                router.put(other, Sequence::Presence, user, CHANGED, last);
            }
        }
        last
    }
}

/// How much of presence a client has seen.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) struct PresencePart {
    /// Changes up to this number; `None` if none of this run of the server.
    pub(crate) seen: Option<u64>,
}

impl Part for PresencePart {
    fn told(_: Option<Self>, numbers: &Numbers) -> Self {
        Self { seen: Some(numbers[Sequence::Presence]) }
    }

    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_if_any(self.seen, f)
    }

    fn read(numbers: &mut TokenNumbers<'_>) -> Result<Self, BadToken> {
        Ok(Self { seen: numbers.number_if_any()? })
    }

    fn after_restart(self) -> Self {
        Self { seen: None }
    }
}

#[derive(Serialize)]
struct PresenceEvent<'a> {
    content: PresenceContent<'a>,
    sender: &'a UserId,
    #[serde(rename = "type")]
    event_type: &'static str,
}

#[derive(Serialize)]
struct PresenceContent<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    currently_active: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_active_ago: Option<u64>,
    presence: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status_msg: Option<&'a str>,
}

impl Presence {
    /// Everybody whom the user sees.
    pub(super) fn add_around(span: &Span<'_>, changes: &mut Changes) {
        if !span.wanted.contains(StreamId::Presence) {
            return;
        }
        let hub = &span.inner.hub;
        changes.streams.insert(StreamId::Presence);
        for number in hub.presence_around(span.number) {
            changes.users.extend(hub.residents.user_id(number).cloned());
        }
        changes.users.sort_unstable();
    }

    /// Presence of those wanted whose presence changed; of those whom the client knows nothing of, because they were met since or because
    /// its token is of another run of the server, if there is something to say.
    pub(crate) fn read(
        span: &Span<'_>,
        changes: &Changes,
        mut met: UserSet,
        wants: impl Fn(&UserId) -> bool,
    ) -> Vec<PresenceInfo> {
        if !span.wanted.contains(StreamId::Presence) {
            return Vec::new();
        }
        if !met.is_empty() {
            let hub = &span.inner.hub;
            let around = hub.presence_around(span.number);
            let sees =
                |user: &UserId| hub.residents.known_user(user).is_some_and(|user| around.binary_search(&user).is_ok());
            met.retain(|user| sees(user));
        }
        // In order, each once.
        let mut users: BTreeSet<&UserId> = changes.users.iter().chain(&met).map(|user| &**user).collect();
        users.retain(|user| wants(user) && !span.reader.viewer.ignored.contains(*user));
        let seen = span.since.and_then(|since| since.parts.presence.seen);
        let mut news = span.inner.users.presence().get(users);
        news.retain(|info| match seen {
            // The client may know what they were when they were last met.
            Some(_) if met.contains(&info.user_id) => info.sequence > 0,
            Some(seen) => info.sequence > seen,
            None => info.state != PresenceState::Offline || info.status_msg.is_some(),
        });
        news
    }

    /// As clients get it.
    pub(crate) fn event(info: &PresenceInfo) -> Result<ClientEvent, SyncError> {
        let presence = match info.state {
            PresenceState::Online => "online",
            PresenceState::Unavailable => "unavailable",
            PresenceState::Offline => "offline",
        };
        let online = info.state == PresenceState::Online;
        let content = PresenceContent {
            currently_active: online.then_some(info.currently_active),
            last_active_ago: info.last_active_ago_ms,
            presence,
            status_msg: info.status_msg.as_deref(),
        };
        to_event(&PresenceEvent { content, sender: &info.user_id, event_type: "m.presence" })
    }
}
