//! Events in the form that clients ask for.

use reading::{ClientEvent, ClientFormat, EventForm, RoomEventFilter, Sight};
use rooms::EventNum;
use ruma::RoomId;
use serde::Serialize;
use serde_json::{
    Map, Value,
    value::{RawValue, to_raw_value},
};

use crate::{
    SyncError,
    reader::{Reader, SeenEvent},
};

/// What of room events a client wants, and how.
#[derive(Copy, Clone)]
pub(crate) struct Form<'a> {
    pub(crate) form: EventForm,
    /// Paths of the fields, with dots; all if absent.
    pub(crate) fields: Option<&'a [String]>,
}

impl Form<'_> {
    fn format(self, limited: bool) -> ClientFormat {
        ClientFormat { form: self.form, ..ClientFormat::sync(limited) }
    }

    /// Leaves out the fields that aren't named.
    fn only_fields(self, event: ClientEvent) -> Result<ClientEvent, SyncError> {
        match self.fields {
            None => Ok(event),
            Some(fields) => pick(&event, fields),
        }
    }
}

impl Reader<'_> {
    /// Events of a timeline.
    pub(crate) async fn timeline_events(
        &self,
        room: &RoomId,
        events: &[SeenEvent],
        limited: bool,
        form: Form<'_>,
    ) -> Result<Vec<ClientEvent>, SyncError> {
        let format = form.format(limited);
        let mut formatted = Vec::with_capacity(events.len());
        let reader = self.room(room);
        for SeenEvent { event, meta, sight, .. } in events {
            let json = reader.client_event(event, meta, *sight, format).await?;
            formatted.push(form.only_fields(json)?);
        }
        Ok(formatted)
    }

    /// Those of these state events that a filter wants.
    pub(crate) async fn state_events(
        &self,
        room: &RoomId,
        nums: &[EventNum],
        filter: &RoomEventFilter,
        form: Form<'_>,
    ) -> Result<Vec<ClientEvent>, SyncError> {
        let (rooms, view, reader) = (self.rooms, self.view, self.room(room));
        let format = ClientFormat { with_replaced: false, ..form.format(false) };
        let mut events = Vec::with_capacity(nums.len());
        let metas = self.metas(nums).await?;
        for (event, meta) in rooms.events(view, nums).await?.into_iter().zip(metas) {
            let Some(event) = event else { continue };
            if reader.wants(filter, &event, &meta).await? {
                let json = reader.client_event(&event, &meta, Sight::OF_STATE, format).await?;
                events.push(form.only_fields(json)?);
            }
        }
        Ok(events)
    }
}

/// Writes an event out.
pub(crate) fn to_event(event: &impl Serialize) -> Result<ClientEvent, SyncError> {
    Ok(to_raw_value(event)?.into())
}

/// An event with the fields at these paths alone.
fn pick(event: &RawValue, paths: &[String]) -> Result<ClientEvent, SyncError> {
    let whole: Map<String, Value> = serde_json::from_str(event.get())?;
    let mut picked = Map::new();
    for path in paths {
        let keys = split_path(path);
        pick_into(&whole, &keys, &mut picked);
    }
    to_event(&picked)
}

fn pick_into(from: &Map<String, Value>, keys: &[String], to: &mut Map<String, Value>) {
    let Some((key, rest)) = keys.split_first() else {
        return;
    };
    let Some(value) = from.get(key) else { return };
    if rest.is_empty() {
        to.insert(key.clone(), value.clone());
        return;
    }
    let Value::Object(inner) = value else { return };
    let entry = to.entry(key.clone()).or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(picked) = entry {
        pick_into(inner, rest, picked);
    }
}

/// The keys of a path (appendices, "Dot-separated property paths"): `\.` and `\\` stand for the characters themselves.
fn split_path(path: &str) -> Vec<String> {
    let mut keys = vec![String::new()];
    let mut chars = path.chars().peekable();
    while let Some(char) = chars.next() {
        if char == '.' {
            keys.push(String::new());
            continue;
        }
        let escaped = char == '\\' && matches!(chars.peek(), Some('.' | '\\'));
        let plain = if escaped { chars.next().unwrap_or(char) } else { char };
        if let Some(key) = keys.last_mut() {
            key.push(plain);
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(event: &str, paths: &[&str], expected: &str) {
        let event: Box<RawValue> = serde_json::from_str(event).unwrap();
        let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
        assert_eq!(pick(&event, &paths).unwrap().get(), expected);
    }

    #[test]
    fn only_the_named_fields_stay() {
        let event = r#"{"content":{"a.b":1,"body":"x","deep":{"one":1,"two":2}},"type":"t"}"#;
        check(event, &["type"], r#"{"type":"t"}"#);
        check(event, &["content.body", "content.deep.two"], r#"{"content":{"body":"x","deep":{"two":2}}}"#);
        check(event, &["content.a\\.b"], r#"{"content":{"a.b":1}}"#);
        check(event, &["content.a.b", "type.x", "nothing"], r#"{"content":{}}"#);
        check(event, &["content.deep", "content.deep.one"], r#"{"content":{"deep":{"one":1,"two":2}}}"#);
    }

    #[test]
    fn paths_are_split_at_plain_dots() {
        assert_eq!(split_path("a.b\\.c.d\\\\e\\f"), ["a", "b.c", "d\\e\\f"]);
    }
}
