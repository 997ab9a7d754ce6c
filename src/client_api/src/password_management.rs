//! Module "Password management".

use haima_http::{ApiError, Interactive, JsonBytes, Session};
use ruma::api::client::account::change_password::v3::Request;
use serde_json::json;
use users::OtherDevices;

use crate::{ClientApi, error::Result, uia::Ask};

/// `POST /_matrix/client/v3/account/password`
pub(crate) async fn change_password(
    api: ClientApi,
    caller: Session,
    mut req: Interactive<Request>,
) -> Result<JsonBytes> {
    if !api.config.login_with_password {
        return Err(ApiError::forbidden("Passwords are switched off").into());
    }
    api.uia.recall(Some(&caller.user), &mut req);
    let request = req.request()?;
    api.users.check_new_password(&request.new_password)?;
    let others = if request.logout_devices {
        OtherDevices::LogOut { keep: Some(caller.device.clone()) }
    } else {
        OtherDevices::Keep
    };
    let change = |_| async {
        api.users.change_password(&caller.user, &request.new_password, others).await?;
        Ok(json!({}))
    };
    api.uia.confirm(&Ask::password(&req, &caller.user), change).await
}
