//! Room events in the form that a filter asks for.

use reading::{ClientEvent, ClientFormat, EventForm, Sight};
use rooms::EventNum;
use ruma::RoomId;
use serde_json::{Map, Value, value::RawValue};

use super::{Answer, account::to_event};
use crate::{EventFormat, SyncError, reader::SeenEvent};

impl Answer<'_> {
    fn format(&self, limited: bool) -> ClientFormat {
        let mut format = ClientFormat::sync(limited);
        if self.session.filter.event_format == EventFormat::Federation {
            format.form = EventForm::Federation;
        }
        format
    }

    /// Events of a timeline.
    pub(super) async fn timeline_events(
        &self,
        room: &RoomId,
        events: &[SeenEvent],
        limited: bool,
    ) -> Result<Vec<ClientEvent>, SyncError> {
        let format = self.format(limited);
        let mut formatted = Vec::with_capacity(events.len());
        let reader = self.reader.room(room);
        for SeenEvent { event, meta, sight, .. } in events {
            let json = reader.client_event(event, meta, *sight, format).await?;
            formatted.push(self.only_fields(json)?);
        }
        Ok(formatted)
    }

    /// Those of these state events that the filter wants.
    pub(super) async fn state_events(&self, room: &RoomId, nums: &[EventNum]) -> Result<Vec<ClientEvent>, SyncError> {
        let filter = &self.session.filter.room.state;
        let (rooms, view, reader) = (self.reader.rooms, self.reader.view, self.reader.room(room));
        let format = ClientFormat { with_replaced: false, ..self.format(false) };
        let mut events = Vec::with_capacity(nums.len());
        let metas = self.reader.metas(nums).await?;
        for (event, meta) in rooms.events(view, nums).await?.into_iter().zip(metas) {
            let Some(event) = event else { continue };
            if reader.wants(filter, &event, &meta).await? {
                let json = reader.client_event(&event, &meta, Sight::OF_STATE, format).await?;
                events.push(self.only_fields(json)?);
            }
        }
        Ok(events)
    }

    /// Leaves out the fields that the filter doesn't name.
    fn only_fields(&self, event: ClientEvent) -> Result<ClientEvent, SyncError> {
        match &self.session.filter.event_fields {
            None => Ok(event),
            Some(fields) => pick(&event, fields),
        }
    }
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
