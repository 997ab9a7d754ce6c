//! Module "Account deactivation".

use std::sync::Arc;

use axum::extract::State;
use flows::Flows;
use haima_http::{Interactive, JsonBytes, Session};
use ruma::api::client::account::deactivate::v3::Request;
use serde_json::json;
use users::Erasure;

use crate::{
    error::Result,
    uia::{Ask, Uia},
};

/// `POST /_matrix/client/v3/account/deactivate`
pub(crate) async fn deactivate_account(
    State(flows): State<Flows>,
    State(uia): State<Arc<Uia>>,
    caller: Session,
    mut req: Interactive<Request>,
) -> Result<JsonBytes> {
    uia.recall(Some(&caller.user), &mut req);
    let erasure = if req.request()?.erase { Erasure::Erase } else { Erasure::Keep };
    let deactivate = |_| async {
        flows.deactivate(&caller.user, erasure).await?;
        // There are no third-party identifiers that could be bound.
        Ok(json!({ "id_server_unbind_result": "success" }))
    };
    uia.confirm(&Ask::password(&req, &caller.user), deactivate).await
}
