//! Answering with a file: conditions, ranges (RFC 9110) and the headers that keep it harmless in a browser.

use std::{io, ops::Range};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures_util::stream::BoxStream;
use ruma::{
    api::{IncomingRequest, path_builder::PathBuilder},
    exports::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header},
};

use crate::{ApiError, Incoming, Reply};

/// What browsers may do with a file that is opened by itself (client-server API, "Content repository").
const CONTENT_SECURITY_POLICY: HeaderValue = HeaderValue::from_static(
    "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; style-src 'unsafe-inline'; \
     object-src 'self';",
);
/// A file never changes under its name; only the client itself may keep it, as it took a token to get it.
const CACHE_CONTROL: HeaderValue = HeaderValue::from_static("private, max-age=31536000, immutable");
const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// Types that are safe to show in place (client-server API, "Serving inline content").
const INLINE_TYPES: [&str; 26] = [
    "text/css",
    "text/plain",
    "text/csv",
    "application/json",
    "application/ld+json",
    "image/jpeg",
    "image/gif",
    "image/png",
    "image/apng",
    "image/webp",
    "image/avif",
    "video/mp4",
    "video/webm",
    "video/ogg",
    "video/quicktime",
    "audio/mp4",
    "audio/webm",
    "audio/aac",
    "audio/mpeg",
    "audio/ogg",
    "audio/wave",
    "audio/wav",
    "audio/x-wav",
    "audio/x-pn-wav",
    "audio/flac",
    "audio/x-flac",
];

/// The type of a file that has none.
const OCTET_STREAM: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// Marks an answer that is not worth compressing, or would break if it were.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Uncompressed;

/// Which part of a file a request asks for, and what it has already.
#[derive(Clone, Debug, Default)]
pub struct Conditions {
    range: Option<String>,
    if_range: Option<String>,
    if_none_match: Option<String>,
}

/// What to answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Selection {
    /// The whole file.
    Whole,
    /// These bytes of it.
    Part(Range<u64>),
    /// The client has it.
    Unchanged,
    /// Nothing of what the client asks for is in the file.
    Unsatisfiable,
}

impl Conditions {
    /// The conditions in a request's headers.
    pub fn of(headers: &HeaderMap) -> Self {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Self {
            range: text(header::RANGE),
            if_range: text(header::IF_RANGE),
            if_none_match: text(header::IF_NONE_MATCH),
        }
    }

    /// What they select of a file of `size` bytes whose entity tag (with its quotes) is `etag`.
    pub fn select(&self, etag: &str, size: u64) -> Selection {
        if let Some(known) = &self.if_none_match {
            let same = |tag: &str| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag;
            if known.split(',').any(|tag| same(tag.trim())) {
                return Selection::Unchanged;
            }
        }
        // Files have no dates, so an `If-Range` with one never holds.
        if self.if_range.as_ref().is_some_and(|tag| tag.trim() != etag) {
            return Selection::Whole;
        }
        self.range.as_deref().map_or(Selection::Whole, |range| select_range(range, size))
    }
}

/// One range of bytes. Several ranges, other units and what can't be understood get the whole file, as RFC 9110 allows.
fn select_range(range: &str, size: u64) -> Selection {
    let Some((unit, range)) = range.split_once('=') else { return Selection::Whole };
    let Some((first, last)) = range.trim().split_once('-') else { return Selection::Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") || range.contains(',') {
        return Selection::Whole;
    }
    let number = |text: &str| match text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => None,
        // More digits than fit is past the end of any file.
        false => Some(text.parse::<u64>().unwrap_or(u64::MAX)),
    };
    let part = match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(size),
        (Some(first), None) if last.is_empty() => first..size,
        (None, Some(count)) if first.is_empty() => size.saturating_sub(count)..size,
        _ => return Selection::Whole,
    };
    if part.start >= part.end { Selection::Unsatisfiable } else { Selection::Part(part) }
}

/// A request together with its conditions.
#[derive(Clone, Debug)]
pub struct WithConditions<T> {
    /// The request.
    pub request: T,
    /// The conditions.
    pub conditions: Conditions,
}

impl<T: IncomingRequest + Send + 'static> Incoming for WithConditions<T> {
    const METHOD: Method = T::METHOD;

    fn paths() -> Vec<&'static str> {
        T::PATH_BUILDER.all_paths().collect()
    }

    fn read(request: Request<&[u8]>, path_args: &[&str]) -> Result<Self, ApiError> {
        let conditions = Conditions::of(request.headers());
        Ok(Self { request: T::read(request, path_args)?, conditions })
    }
}

/// Answers with a file or a part of it.
pub struct FileReply {
    /// What is answered.
    pub selection: Selection,
    /// The bytes of the selection: none for [`Selection::Unchanged`] and [`Selection::Unsatisfiable`].
    pub body: BoxStream<'static, io::Result<Bytes>>,
    /// The size of the whole file in bytes.
    pub size: u64,
    /// The entity tag with its quotes.
    pub etag: String,
    /// The type that the file was uploaded with.
    pub content_type: Option<String>,
    /// The name to save it under.
    pub file_name: Option<String>,
}

impl Reply for FileReply {
    fn into_reply(self) -> Result<Response, ApiError> {
        if self.selection == Selection::Unsatisfiable {
            let message = "The file has no bytes in this range";
            let error = ApiError::new(StatusCode::RANGE_NOT_SATISFIABLE, "M_INVALID_PARAM", message);
            let mut response = error.into_response();
            let range = HeaderValue::try_from(format!("bytes */{}", self.size)).map_err(ApiError::internal)?;
            response.headers_mut().insert(header::CONTENT_RANGE, range);
            return Ok(response);
        }
        let whole = 0..self.size;
        let (status, part) = match &self.selection {
            Selection::Whole => (StatusCode::OK, Some(&whole)),
            Selection::Part(part) => (StatusCode::PARTIAL_CONTENT, Some(part)),
            Selection::Unchanged | Selection::Unsatisfiable => (StatusCode::NOT_MODIFIED, None),
        };
        let body = if part.is_some() { Body::from_stream(self.body) } else { Body::empty() };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        response.extensions_mut().insert(Uncompressed);
        let headers = response.headers_mut();
        let content_type = self.content_type.as_deref();
        let value = content_type.and_then(|text| HeaderValue::from_str(text).ok()).unwrap_or(OCTET_STREAM);
        headers.insert(header::CONTENT_TYPE, value);
        let disposition = content_disposition(content_type.unwrap_or(""), self.file_name.as_deref());
        headers.insert(header::CONTENT_DISPOSITION, disposition);
        headers.insert(header::ETAG, HeaderValue::try_from(self.etag).map_err(ApiError::internal)?);
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        headers.insert(header::CACHE_CONTROL, CACHE_CONTROL);
        headers.insert(header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY);
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(CROSS_ORIGIN_RESOURCE_POLICY, HeaderValue::from_static("cross-origin"));
        if let Some(part) = part {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(part.end.saturating_sub(part.start)));
        }
        if let Selection::Part(part) = &self.selection {
            let range = format!("bytes {}-{}/{}", part.start, part.end.saturating_sub(1), self.size);
            headers.insert(header::CONTENT_RANGE, HeaderValue::try_from(range).map_err(ApiError::internal)?);
        }
        Ok(response)
    }
}

/// Whether a file of this type may be shown in place.
fn is_inline(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or("").trim();
    INLINE_TYPES.iter().any(|safe| safe.eq_ignore_ascii_case(essence))
}

/// `Content-Disposition` (RFC 6266): a plain name as a quoted string, another one encoded as RFC 8187 says, with an
/// approximation in plain letters for those who can't read that.
fn content_disposition(content_type: &str, file_name: Option<&str>) -> HeaderValue {
    let kind = if is_inline(content_type) { "inline" } else { "attachment" };
    let fallback = if kind == "inline" { "inline" } else { "attachment" };
    let fallback = HeaderValue::from_static(fallback);
    let Some(name) = file_name.filter(|name| !name.is_empty()) else { return fallback };
    let plain = |c: char| (c == ' ' || c.is_ascii_graphic()) && !matches!(c, '"' | '\\' | '%');
    let approximation: String = name.chars().map(|c| if plain(c) { c } else { '_' }).collect();
    let mut text = format!("{kind}; filename=\"{approximation}\"");
    if approximation != name {
        text.push_str("; filename*=UTF-8''");
        for byte in name.bytes() {
            // The characters that RFC 8187 calls attr-char.
            if byte.is_ascii_alphanumeric() || b"!#$&+-.^_`|~".contains(&byte) {
                text.push(byte.into());
            } else {
                text.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    HeaderValue::try_from(text).unwrap_or(fallback)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: &str = "\"tag\"";

    fn select(range: Option<&str>, if_range: Option<&str>, if_none_match: Option<&str>) -> Selection {
        let text = |value: Option<&str>| value.map(str::to_owned);
        let conditions =
            Conditions { range: text(range), if_range: text(if_range), if_none_match: text(if_none_match) };
        conditions.select(TAG, 10)
    }

    #[test]
    fn ranges_are_those_of_rfc_9110() {
        let cases = [
            ("bytes=0-3", Selection::Part(0..4)),
            ("bytes=3-", Selection::Part(3..10)),
            ("bytes=-4", Selection::Part(6..10)),
            ("bytes=-40", Selection::Part(0..10)),
            ("BYTES=9-9", Selection::Part(9..10)),
            ("bytes=9-99999999999999999999999", Selection::Part(9..10)),
            ("bytes=10-", Selection::Unsatisfiable),
            ("bytes=99999999999999999999999-", Selection::Unsatisfiable),
            ("bytes=-0", Selection::Unsatisfiable),
            ("bytes=3-2", Selection::Whole),
            ("bytes=0-1,4-5", Selection::Whole),
            ("bytes=+1-2", Selection::Whole),
            ("bytes=-", Selection::Whole),
            ("lines=1-2", Selection::Whole),
            ("nonsense", Selection::Whole),
        ];
        for (range, expected) in cases {
            assert_eq!(select(Some(range), None, None), expected, "{range}");
        }
        let empty = Conditions { range: Some("bytes=0-".to_owned()), ..Conditions::default() };
        assert_eq!(empty.select(TAG, 0), Selection::Unsatisfiable);
    }

    #[test]
    fn conditions_are_those_of_rfc_9110() {
        let range = Some("bytes=0-3");
        assert_eq!(select(range, Some(TAG), None), Selection::Part(0..4));
        assert_eq!(select(range, Some("\"other\""), None), Selection::Whole);
        assert_eq!(select(range, Some("Wed, 21 Oct 2015 07:28:00 GMT"), None), Selection::Whole);
        assert_eq!(select(range, None, Some("\"a\", W/\"tag\"")), Selection::Unchanged);
        assert_eq!(select(None, None, Some("*")), Selection::Unchanged);
        assert_eq!(select(None, None, Some("\"other\"")), Selection::Whole);
    }

    #[test]
    fn names_and_types_make_a_safe_disposition() {
        let cases = [
            ("image/png", None, "inline"),
            ("image/png", Some(""), "inline"),
            ("IMAGE/PNG; a=b", Some("a b.png"), "inline; filename=\"a b.png\""),
            ("text/html", Some("a.html"), "attachment; filename=\"a.html\""),
            ("image/svg+xml", None, "attachment"),
            ("", Some("x"), "attachment; filename=\"x\""),
            ("", Some("a\"\\\r\nb"), "attachment; filename=\"a____b\"; filename*=UTF-8''a%22%5C%0D%0Ab"),
            ("", Some("100%.txt"), "attachment; filename=\"100_.txt\"; filename*=UTF-8''100%25.txt"),
            ("text/plain", Some("海.txt"), "inline; filename=\"_.txt\"; filename*=UTF-8''%E6%B5%B7.txt"),
        ];
        for (content_type, name, expected) in cases {
            assert_eq!(content_disposition(content_type, name), expected);
        }
    }
}
