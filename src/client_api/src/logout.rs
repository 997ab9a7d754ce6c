//! Module "Logout".

use std::slice::from_ref;

use axum::extract::State;
use haima_http::AnyAccount;
use ruma::api::client::session::{logout as one, logout_all as all};
use users::Users;

use crate::error::Result;

/// `POST /_matrix/client/v3/logout`
pub(crate) async fn logout(
    State(users): State<Users>,
    caller: AnyAccount,
    _: one::v3::Request,
) -> Result<one::v3::Response> {
    users.delete_devices(&caller.user, from_ref(&caller.device)).await?;
    Ok(one::v3::Response::new())
}

/// `POST /_matrix/client/v3/logout/all`
pub(crate) async fn logout_all(
    State(users): State<Users>,
    caller: AnyAccount,
    _: all::v3::Request,
) -> Result<all::v3::Response> {
    users.delete_all_devices(&caller.user).await?;
    Ok(all::v3::Response::new())
}
