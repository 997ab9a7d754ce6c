//! Module "Room upgrades".

use haima_http::{ApiError, Incoming, Session, Unsuspended};
use ruma::{
    api::client::room::upgrade_room::v3::{Request, Response},
    exports::http::{Method, Request as HttpRequest},
};

use crate::{ClientApi, error::Result, room_versions::check_version};

/// The request, with a room version that this server knows.
pub(crate) struct Upgrade(Request);

impl Incoming for Upgrade {
    const METHOD: Method = <Request as Incoming>::METHOD;

    fn paths() -> Vec<&'static str> {
        <Request as Incoming>::paths()
    }

    fn read(request: HttpRequest<&[u8]>, path_args: &[&str]) -> std::result::Result<Self, ApiError> {
        check_version(request.body(), "new_version")?;
        Request::read(request, path_args).map(Self)
    }
}

/// `POST /_matrix/client/v3/rooms/{roomId}/upgrade`
pub(crate) async fn upgrade_room(
    api: ClientApi,
    caller: Unsuspended<Session>,
    Upgrade(req): Upgrade,
) -> Result<Response> {
    let (version, creators) = (req.new_version, req.additional_creators);
    let new = api.flows.upgrade_room(&caller.user, &req.room_id, version, creators).await?;
    Ok(Response::new(new))
}
