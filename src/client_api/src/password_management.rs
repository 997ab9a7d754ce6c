//! Module "Password management".

use haima_http::{ApiError, Interactive, Session};
use ruma::api::client::account::change_password::v3::{Request, Response};
use users::OtherDevices;

use crate::{
    ClientApi,
    error::Result,
    uia::{Ask, Binding, Stage},
};

/// `POST /_matrix/client/v3/account/password`
pub(crate) async fn change_password(api: ClientApi, caller: Session, req: Interactive<Request>) -> Result<Response> {
    if !api.config.login_with_password {
        return Err(ApiError::forbidden("Passwords are switched off").into());
    }
    let request = req.request;
    api.users.check_new_password(&request.new_password)?;
    let ask = Ask {
        flows: vec![vec![Stage::Password]],
        binding: Binding::Request(req.fingerprint),
        user: Some(&caller.user),
    };
    api.uia.authorize(&ask, request.auth.as_ref()).await?;
    let others = if request.logout_devices {
        OtherDevices::LogOut { keep: Some(caller.device.clone()) }
    } else {
        OtherDevices::Keep
    };
    api.users.change_password(&caller.user, &request.new_password, others).await?;
    Ok(Response::new())
}
