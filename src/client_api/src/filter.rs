//! Module "Filtering".

use axum::extract::State;
use haima_http::{ApiError, Guest, Incoming, JsonBytes, WithBody};
use ruma::{
    api::client::filter::{create_filter as create, get_filter as get},
    exports::http::{Method, Request},
};
use serde_json::Value;
use store::Store;
use users::Users;

use crate::{error::Result, events::raw, require_self};

/// A definition, read without fields that are `null`: they say no more than absent ones, and not every client can read them
/// back.
pub(crate) struct Definition(WithBody<create::v3::Request>);

impl Incoming for Definition {
    const METHOD: Method = <create::v3::Request as Incoming>::METHOD;
    const BODY_IS_CONTENT: bool = true;

    fn paths() -> Vec<&'static str> {
        <create::v3::Request as Incoming>::paths()
    }

    fn read(request: Request<&[u8]>, path_args: &[&str]) -> std::result::Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        // What isn't JSON is refused where the rest is read.
        let stripped = serde_json::from_slice(body).map(|definition| without_nulls(definition).to_string());
        let body = stripped.as_ref().map_or(body, |stripped| stripped.as_bytes());
        WithBody::read(Request::from_parts(parts, body), path_args).map(Self)
    }
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(field, value)| (field, without_nulls(value))).collect())
        }
        Value::Array(values) => Value::Array(values.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

/// `POST /_matrix/client/v3/user/{userId}/filter`. The definition is kept as it was sent, unknown fields included.
pub(crate) async fn define_filter(
    State(users): State<Users>,
    caller: Guest,
    Definition(req): Definition,
) -> Result<create::v3::Response> {
    require_self(&caller, &req.request.user_id)?;
    let id = users.create_filter(&caller.user, &req.body).await?;
    Ok(create::v3::Response::new(id))
}

/// `GET /_matrix/client/v3/user/{userId}/filter/{filterId}`
pub(crate) async fn get_filter(
    State(store): State<Store>,
    State(users): State<Users>,
    caller: Guest,
    req: get::v3::Request,
) -> Result<JsonBytes> {
    require_self(&caller, &req.user_id)?;
    let filter = users.filter(&store.view().await?, &req.user_id, &req.filter_id).await?;
    let filter = filter.ok_or(ApiError::not_found("There is no such filter"))?;
    Ok(raw(&filter))
}
