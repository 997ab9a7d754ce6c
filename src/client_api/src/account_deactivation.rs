//! Module "Account deactivation".

use haima_http::{Interactive, Session};
use ruma::api::client::account::{
    ThirdPartyIdRemovalStatus,
    deactivate::v3::{Request, Response},
};
use users::Erasure;

use crate::{
    ClientApi,
    error::Result,
    uia::{Ask, Binding, Stage},
};

/// `POST /_matrix/client/v3/account/deactivate`
pub(crate) async fn deactivate_account(api: ClientApi, caller: Session, req: Interactive<Request>) -> Result<Response> {
    let ask = Ask {
        flows: vec![vec![Stage::Password]],
        binding: Binding::Request(req.fingerprint),
        user: Some(&caller.user),
    };
    api.uia.authorize(&ask, req.request.auth.as_ref()).await?;
    let erasure = if req.request.erase { Erasure::Erase } else { Erasure::Keep };
    api.flows.deactivate(&caller.user, erasure).await?;
    // There are no third-party identifiers that could be bound.
    Ok(Response::new(ThirdPartyIdRemovalStatus::Success))
}
