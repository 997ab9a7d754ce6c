//! Room versions that a request names.

use haima_http::{ApiError, StatusCode};
use ruma::RoomVersionId;
use serde_json::Value;

/// Refuses a version that this server doesn't know, whatever it looks like. What is no text the request's type refuses.
///
/// # Errors
/// `M_UNSUPPORTED_ROOM_VERSION`.
pub(crate) fn check_version(body: &[u8], field: &str) -> Result<(), ApiError> {
    // What isn't JSON is refused where the rest is read.
    let Ok(body) = serde_json::from_slice::<Value>(body) else { return Ok(()) };
    let Some(version) = body.get(field).and_then(Value::as_str) else { return Ok(()) };
    let known = RoomVersionId::try_from(version).is_ok_and(|version| event::rules(&version).is_some());
    if known {
        return Ok(());
    }
    let message = "This server doesn't support that room version";
    Err(ApiError::new(StatusCode::BAD_REQUEST, "M_UNSUPPORTED_ROOM_VERSION", message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_versions_are_told_whatever_they_look_like() {
        let check = |body: &str| check_version(body.as_bytes(), "room_version").is_ok();
        for version in ["", "99", "Version 1!", &"1".repeat(100), " 11", "11\\u0000"] {
            assert!(!check(&format!(r#"{{"room_version":"{version}"}}"#)), "{version}");
        }
        for body in ["", "{}", r#"{"room_version":"11"}"#, r#"{"room_version":11}"#, r#"{"room_version":null}"#] {
            assert!(check(body), "{body}");
        }
    }
}
