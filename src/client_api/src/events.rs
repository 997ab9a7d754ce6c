//! Events and tokens as answers carry them.

use bytes::Bytes;
use haima_http::{ApiError, JsonBytes};
use reading::{ClientEvent, TimelineToken};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::error::Result;

/// A list of events whose JSON is written already.
#[derive(Clone, Debug, Default)]
pub(crate) struct Events(pub(crate) Vec<ClientEvent>);

impl Events {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Events {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|event| &**event))
    }
}

/// JSON that is written already.
pub(crate) fn raw(json: &RawValue) -> JsonBytes {
    JsonBytes(Bytes::copy_from_slice(json.get().as_bytes()))
}

/// A pagination token: of a timeline, or one that `/sync` gave.
///
/// # Errors
/// `M_INVALID_PARAM` for anything else.
pub(crate) fn timeline_token(text: &str) -> Result<TimelineToken> {
    if let Ok(token) = text.parse() {
        return Ok(token);
    }
    match text.parse::<sync::Token>() {
        Ok(token) => Ok(TimelineToken::at(token.position)),
        Err(_) => Err(ApiError::invalid_param("Unknown pagination token").into()),
    }
}

/// An optional pagination token.
pub(crate) fn optional_token(text: Option<&str>) -> Result<Option<TimelineToken>> {
    text.map(timeline_token).transpose()
}

/// A page size as asked for, within bounds; who asks for nothing gets the default.
pub(crate) fn page_size(asked: Option<ruma::UInt>, default: usize, max: usize) -> usize {
    let asked = asked.filter(|asked| *asked > ruma::UInt::MIN).and_then(|asked| usize::try_from(u64::from(asked)).ok());
    asked.unwrap_or(default).min(max)
}
