//! Module "Password management".

use std::sync::Arc;

use axum::extract::State;
use haima_http::{ApiError, Interactive, JsonBytes, Session};
use ruma::api::client::account::change_password::v3::Request;
use serde_json::json;
use users::{OtherDevices, Users};

use crate::{
    Config,
    error::Result,
    uia::{Ask, Uia},
};

/// `POST /_matrix/client/v3/account/password`
pub(crate) async fn change_password(
    State(config): State<Arc<Config>>,
    State(users): State<Users>,
    State(uia): State<Arc<Uia>>,
    caller: Session,
    mut req: Interactive<Request>,
) -> Result<JsonBytes> {
    if !config.login_with_password {
        return Err(ApiError::forbidden("Passwords are switched off").into());
    }
    uia.recall(Some(&caller.user), &mut req);
    let request = req.request()?;
    users.check_new_password(&request.new_password)?;
    let others = if request.logout_devices {
        OtherDevices::LogOut { keep: Some(caller.device.clone()) }
    } else {
        OtherDevices::Keep
    };
    let change = |_| async {
        users.change_password(&caller.user, &request.new_password, others).await?;
        Ok(json!({}))
    };
    uia.confirm(&Ask::password(&req, &caller.user), change).await
}
