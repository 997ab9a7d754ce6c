//! Module "Room upgrades".

use axum::extract::State;
use flows::Flows;
use haima_http::{ApiError, Incoming, Session, Unsuspended};
use ruma::{
    api::client::room::upgrade_room::v3::{Request, Response},
    exports::http::{Method, Request as HttpRequest},
};

use crate::{error::Result, room_versions::read_with_version};

/// The request, with a room version that this server knows.
pub(crate) struct Upgrade(Request);

impl Incoming for Upgrade {
    const METHOD: Method = <Request as Incoming>::METHOD;

    fn paths() -> Vec<&'static str> {
        <Request as Incoming>::paths()
    }

    fn read(request: HttpRequest<&[u8]>, path_args: &[&str]) -> std::result::Result<Self, ApiError> {
        read_with_version(request, path_args, "new_version", |req: &Request| Some(&req.new_version)).map(Self)
    }
}

/// `POST /_matrix/client/v3/rooms/{roomId}/upgrade`
pub(crate) async fn upgrade_room(
    State(flows): State<Flows>,
    caller: Unsuspended<Session>,
    Upgrade(req): Upgrade,
) -> Result<Response> {
    let (version, creators) = (req.new_version, req.additional_creators);
    let new = flows.upgrade_room(&caller.user, &req.room_id, version, creators).await?;
    Ok(Response::new(new))
}
