//! Many keys of a backup as one JSON object that is written while it is sent, a page of keys at a time: a backup may be larger than
//! what a request should hold in memory.

use std::io;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use haima_http::JsonStream;
use ruma::{OwnedRoomId, OwnedUserId, UserId};
use store::Store;
use users::{BackupKey, Users};

use super::KeyData;
use crate::error::Result;

/// The keys of a backup, or of one of its rooms. A backup that isn't there is refused before the answer begins; if it is deleted
/// meanwhile, the answer breaks off.
pub(super) async fn stream_keys(
    (store, users): (Store, Users),
    user: &UserId,
    version: u64,
    room: Option<OwnedRoomId>,
) -> Result<JsonStream> {
    let source = Source { store, users, user: user.to_owned(), version, room };
    let page = source.page_after(None).await?;
    let writer = Writer { by_room: source.room.is_none(), last: None };
    let state = State { source, writer, page, is_done: false };
    Ok(JsonStream(stream::try_unfold(state, State::next).boxed()))
}

struct State {
    source: Source,
    writer: Writer,
    /// What is written next; the end of the object if it is empty.
    page: Vec<BackupKey>,
    is_done: bool,
}

impl State {
    /// The next piece of text; `None` after the last.
    async fn next(mut self) -> io::Result<Option<(Bytes, Self)>> {
        if self.is_done {
            return Ok(None);
        }
        let Some(last) = self.page.last() else {
            self.is_done = true;
            let end = self.writer.end();
            return Ok(Some((Bytes::from(end), self)));
        };
        let next = self.source.page_after(Some(last)).await.map_err(io::Error::other)?;
        let page = std::mem::replace(&mut self.page, next);
        let text = self.writer.page(page)?;
        Ok(Some((Bytes::from(text), self)))
    }
}

/// Where keys come from.
struct Source {
    store: Store,
    users: Users,
    user: OwnedUserId,
    version: u64,
    room: Option<OwnedRoomId>,
}

impl Source {
    async fn page_after(&self, after: Option<&BackupKey>) -> users::Result<Vec<BackupKey>> {
        // Each page has a view of its own: a slow client must not keep the database from letting go of what is old.
        let view = self.store.view().await?;
        self.users.backup_keys(&view, &self.user, self.version, self.room.as_deref(), after).await
    }
}

/// Writes `{"rooms": {room: {"sessions": {session: key}}}}`, or for one room `{"sessions": {session: key}}`.
struct Writer {
    by_room: bool,
    /// The room of the last key that was written.
    last: Option<OwnedRoomId>,
}

impl Writer {
    fn begin(&self) -> &'static [u8] {
        if self.by_room { b"{\"rooms\":{" } else { b"{\"sessions\":{" }
    }

    fn page(&mut self, keys: Vec<BackupKey>) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        for BackupKey { room, session, key } in keys {
            let is_same_room = self.last.as_ref() == Some(&room);
            match &self.last {
                None => text.extend_from_slice(self.begin()),
                Some(_) if is_same_room || !self.by_room => text.push(b','),
                Some(_) => text.extend_from_slice(b"}},"),
            }
            if self.by_room && !is_same_room {
                serde_json::to_writer(&mut text, &room)?;
                text.extend_from_slice(b":{\"sessions\":{");
            }
            serde_json::to_writer(&mut text, &session)?;
            text.push(b':');
            serde_json::to_writer(&mut text, &KeyData::from(key))?;
            self.last = Some(room);
        }
        Ok(text)
    }

    fn end(&self) -> Vec<u8> {
        match &self.last {
            None => [self.begin(), b"}}"].concat(),
            Some(_) if self.by_room => b"}}}}".to_vec(),
            Some(_) => b"}}".to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use ruma::RoomId;
    use serde_json::{Value, json, value::RawValue};
    use users::BackedUpKey;

    use super::*;

    fn key(room: &str, session: &str) -> BackupKey {
        let session_data = RawValue::from_string("{}".to_owned()).unwrap();
        let key = BackedUpKey { first_message_index: 1, forwarded_count: 0, is_verified: true, session_data };
        BackupKey { room: RoomId::parse(room).unwrap(), session: session.to_owned(), key }
    }

    #[track_caller]
    fn check(by_room: bool, pages: Vec<Vec<BackupKey>>, expected: &Value) {
        let mut writer = Writer { by_room, last: None };
        let mut text = Vec::new();
        for page in pages {
            text.extend(writer.page(page).unwrap());
        }
        text.extend(writer.end());
        assert_eq!(&serde_json::from_slice::<Value>(&text).unwrap(), expected);
    }

    #[test]
    fn pages_make_one_object() {
        let data = json!({ "first_message_index": 1, "forwarded_count": 0, "is_verified": true, "session_data": {} });
        check(true, vec![], &json!({ "rooms": {} }));
        check(false, vec![], &json!({ "sessions": {} }));
        let keys = [key("!a:x", "1"), key("!a:x", "\"2"), key("!b:x", "1")];
        let sessions = json!({ "sessions": { "1": data, "\"2": data } });
        let rooms = json!({ "rooms": { "!a:x": sessions, "!b:x": { "sessions": { "1": data } } } });
        check(true, vec![keys.to_vec()], &rooms);
        check(true, keys.iter().map(|key| vec![key.clone()]).collect(), &rooms);
        check(false, vec![keys[..1].to_vec(), keys[1..2].to_vec()], &sessions);
    }
}
