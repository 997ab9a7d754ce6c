//! Account data, of the account and of rooms.
//!
//! Specification: client-server API, "Client Config".

use reading::ClientEvent;
use ruma::RoomId;
use serde::Serialize;
use serde_json::value::RawValue;
use store::{LogRecord, StoreError};
use users::{AccountDataRow, Change, UserChanged};

use super::{Stream, StreamId, Subject, changes::Changes, span::Span};
use crate::{
    SyncError,
    format::to_event,
    hub::Router,
    inbox::{Item, Kind},
};

/// See the module.
pub(crate) struct AccountData;

const CHANGED: Kind = StreamId::AccountData.urgent();

impl Stream for AccountData {
    const SUBJECT: Subject = Subject::Account;
    type Part = ();

    fn route(router: &mut Router<'_>, record: &LogRecord) -> Result<(), StoreError> {
        if let Some(UserChanged { user, change: Change::AccountData { .. } }) = record.decode::<UserChanged>()? {
            let user = router.hub.residents.user(&user);
            router.tell_user(user, Item::ACCOUNT, CHANGED, record.position);
        }
        Ok(())
    }
}

#[derive(Serialize)]
struct DataEvent<'a> {
    content: &'a RawValue,
    #[serde(rename = "type")]
    event_type: &'a str,
}

impl AccountData {
    /// What changed in the range, of rooms and of the account; in a first sync all there is.
    pub(crate) async fn read(span: &Span<'_>, changes: &Changes) -> Result<Vec<AccountDataRow>, SyncError> {
        if !changes.has(StreamId::AccountData) {
            return Ok(Vec::new());
        }
        let (users, reader) = (&span.inner.users, &span.reader);
        let (view, user) = (reader.view, reader.viewer.user);
        Ok(match span.since_position() {
            None => users.account_data_all(view, user).await?,
            Some(since) => users.account_data_since(view, user, since, reader.now()).await?,
        })
    }

    /// All of a room that the client sees for the first time, though this is not its first sync.
    pub(crate) async fn read_of_room(span: &Span<'_>, room: &RoomId) -> Result<Vec<AccountDataRow>, SyncError> {
        let (users, reader) = (&span.inner.users, &span.reader);
        Ok(users.account_data_of_room(reader.view, reader.viewer.user, room).await?)
    }

    /// As clients get it.
    pub(crate) fn event(row: &AccountDataRow) -> Result<ClientEvent, SyncError> {
        to_event(&DataEvent { content: &row.content, event_type: &row.event_type })
    }
}
