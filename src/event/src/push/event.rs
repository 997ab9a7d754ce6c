//! An event as push rules look at it.

use ruma::UserId;
use serde_json::Value;

use crate::Pdu;

/// An event, prepared to be tried against the rules of many users.
#[derive(Debug)]
pub struct PushEvent<'a> {
    pdu: &'a Pdu,
    content: Value,
    /// `content.body` in lower case, if it is a string.
    body: Option<String>,
}

/// A property of an event.
#[derive(Debug, Clone, Copy)]
pub(super) enum Property<'a> {
    Text(&'a str),
    Json(&'a Value),
    Number(u64),
}

impl<'a> Property<'a> {
    pub(super) fn as_str(self) -> Option<&'a str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Json(value) => value.as_str(),
            Self::Number(_) => None,
        }
    }
}

impl<'a> PushEvent<'a> {
    /// Prepares an event.
    pub fn new(pdu: &'a Pdu) -> Self {
        // The content of an event has been read before, so this doesn't fail; if it did, no
        // condition on it would hold.
        let content = serde_json::from_str(pdu.content().get()).unwrap_or(Value::Null);
        let body = content.get("body").and_then(Value::as_str).map(str::to_lowercase);
        Self { pdu, content, body }
    }

    pub(super) fn sender(&self) -> &UserId {
        self.pdu.sender()
    }

    pub(super) fn lowercase_body(&self) -> Option<&str> {
        self.body.as_deref()
    }

    /// The property at a path, in the event as clients see it.
    pub(super) fn property(&self, path: &[Box<str>]) -> Option<Property<'_>> {
        let (first, rest) = path.split_first()?;
        let text = match &**first {
            "content" => {
                let mut value = &self.content;
                for key in rest {
                    value = value.as_object()?.get(&**key)?;
                }
                return Some(Property::Json(value));
            }
            "origin_server_ts" if rest.is_empty() => {
                return Some(Property::Number(self.pdu.origin_server_ts()));
            }
            "type" => self.pdu.event_type(),
            "sender" => self.pdu.sender().as_str(),
            "room_id" => self.pdu.room_id().as_str(),
            "event_id" => self.pdu.event_id().as_str(),
            "state_key" => self.pdu.state_key()?,
            _ => return None,
        };
        rest.is_empty().then_some(Property::Text(text))
    }
}
