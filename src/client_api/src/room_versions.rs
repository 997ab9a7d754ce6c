//! Room versions that a request names.

use haima_http::{ApiError, Incoming, StatusCode, json_object};
use ruma::{RoomVersionId, exports::http::Request};

/// Reads a request whose body's `field` may name a room version, which `version_of` gives. A version that this server doesn't know is
/// refused as such, whatever it looks like and whatever else is wrong.
///
/// # Errors
/// `M_UNSUPPORTED_ROOM_VERSION`; as [`Incoming::read`].
pub(crate) fn read_with_version<T: Incoming>(
    request: Request<&[u8]>,
    path_args: &[&str],
    field: &str,
    version_of: impl FnOnce(&T) -> Option<&RoomVersionId>,
) -> Result<T, ApiError> {
    let body = *request.body();
    let read = T::read(request, path_args);
    let is_known = match &read {
        Ok(request) => version_of(request).is_none_or(is_known),
        // The type may have refused the version for its looks. What is no text isn't one.
        Err(_) => {
            named(body, field).is_none_or(|version| RoomVersionId::try_from(version).as_ref().is_ok_and(is_known))
        }
    };
    if is_known {
        return read;
    }
    let message = "This server doesn't support that room version";
    Err(ApiError::new(StatusCode::BAD_REQUEST, "M_UNSUPPORTED_ROOM_VERSION", message))
}

fn is_known(version: &RoomVersionId) -> bool {
    event::rules(version).is_some()
}

fn named(body: &[u8], field: &str) -> Option<String> {
    let value = json_object(body).ok()?.remove(field)?;
    serde_json::from_str(value.get()).ok()
}

#[cfg(test)]
mod tests {
    use ruma::api::client::room::create_room::v3::Request as Create;

    use super::*;

    #[test]
    fn unknown_versions_are_told_whatever_they_look_like() {
        let read = |body: &str| {
            let request = Request::builder().method("POST").uri("/").body(body.as_bytes()).unwrap();
            let read = read_with_version::<Create>(request, &[], "room_version", |req| req.room_version.as_ref());
            read.map(|_| ()).map_err(|error| error.errcode().to_owned())
        };
        for version in ["", "99", "Version 1!", &"1".repeat(100), " 11", "11\\u0000"] {
            for other in ["", r#","name":1"#] {
                let body = format!(r#"{{"room_version":"{version}"{other}}}"#);
                assert_eq!(read(&body), Err("M_UNSUPPORTED_ROOM_VERSION".to_owned()), "{body}");
            }
        }
        for body in ["", "{}", r#"{"room_version":"11"}"#, r#"{"room_version":null}"#] {
            assert_eq!(read(body), Ok(()), "{body}");
        }
        for body in ["[", r#"{"room_version":11}"#, r#"{"room_version":"11","name":1}"#] {
            assert_eq!(read(body), Err("M_BAD_JSON".to_owned()), "{body}");
        }
    }
}
