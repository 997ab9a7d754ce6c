//! Module "Published room directory".

use std::sync::Arc;

use axum::extract::State;
use haima_http::{Anyone, ApiError, Incoming, Json, MaybeGuest, Session, StatusCode, Unsuspended, read_with_default};
use reading::{DirectoryToken, Network, PublicRoomsQuery, Reading, RoomDescription};
use rooms::Rooms;
use ruma::{
    OwnedServerName, RoomId, UInt,
    api::client::{
        directory::{
            get_public_rooms as get, get_public_rooms_filtered as query, get_room_visibility as get_visibility,
            set_room_visibility as set_visibility,
        },
        room::Visibility,
    },
    directory::RoomNetwork,
    exports::http::{Method, Request},
};
use serde::{Serialize, Serializer};
use store::Store;

use crate::{
    Config,
    error::{Result, or_no_room},
    events::page_size,
};

/// Rooms on a page at most.
const PAGE_ROOMS_MAX: usize = 500;
/// Rooms on a page if the client doesn't say.
const PAGE_ROOMS_DEFAULT: usize = 100;

/// `GET /_matrix/client/v3/directory/list/room/{roomId}`
pub(crate) async fn get_room_visibility_on_directory(
    State(store): State<Store>,
    State(rooms): State<Rooms>,
    _: Anyone,
    req: get_visibility::v3::Request,
) -> Result<get_visibility::v3::Response> {
    let view = store.view().await?;
    if rooms.info(&view, &req.room_id).await?.is_none() {
        return Err(ApiError::not_found("There is no such room").into());
    }
    let published = rooms.is_published(&view, &req.room_id).await?;
    let visibility = if published { Visibility::Public } else { Visibility::Private };
    Ok(get_visibility::v3::Response::new(visibility))
}

/// The request. The specification has a default for `visibility`, the library's type doesn't.
pub(crate) struct SetVisibility(set_visibility::v3::Request);

impl Incoming for SetVisibility {
    const METHOD: Method = <set_visibility::v3::Request as Incoming>::METHOD;
    // Not a private room is to be listed publicly for want of a body.
    const BODY_IS_CONTENT: bool = true;

    fn paths() -> Vec<&'static str> {
        <set_visibility::v3::Request as Incoming>::paths()
    }

    fn read(request: Request<&[u8]>, path_args: &[&str]) -> std::result::Result<Self, ApiError> {
        let default = ("visibility", "public".into());
        read_with_default(request, path_args, default).map(Self)
    }
}

/// `PUT /_matrix/client/v3/directory/list/room/{roomId}`
pub(crate) async fn set_room_visibility_on_directory(
    State(reading): State<Reading>,
    caller: Unsuspended<Session>,
    SetVisibility(req): SetVisibility,
) -> Result<set_visibility::v3::Response> {
    let publish = match req.visibility {
        Visibility::Public => true,
        Visibility::Private => false,
        _ => return Err(ApiError::bad_json("Unknown visibility").into()),
    };
    let done = reading.set_published(&caller.user, &req.room_id, publish).await;
    done.map_err(|error| or_no_room(error.into()))?;
    Ok(set_visibility::v3::Response::new())
}

/// A page of the directory.
#[derive(Serialize)]
pub(crate) struct Page {
    #[serde(serialize_with = "descriptions")]
    chunk: Vec<Arc<RoomDescription>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_batch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prev_batch: Option<String>,
    total_room_count_estimate: usize,
}

/// `PublishedRoomsChunk` of the specification: clients refuse entries with more than that.
#[derive(Serialize)]
struct Published<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    avatar_url: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    canonical_alias: Option<&'a str>,
    guest_can_join: bool,
    join_rule: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    num_joined_members: u64,
    room_id: &'a RoomId,
    #[serde(skip_serializing_if = "Option::is_none")]
    room_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<&'a str>,
    world_readable: bool,
}

impl<'a> From<&'a RoomDescription> for Published<'a> {
    fn from(room: &'a RoomDescription) -> Self {
        Self {
            avatar_url: room.avatar_url.as_deref(),
            canonical_alias: room.canonical_alias.as_deref(),
            guest_can_join: room.guest_can_join,
            join_rule: &room.join_rule,
            name: room.name.as_deref(),
            num_joined_members: room.num_joined_members,
            room_id: &room.room_id,
            room_type: room.room_type.as_deref(),
            topic: room.topic.as_deref(),
            world_readable: room.world_readable,
        }
    }
}

fn descriptions<S: Serializer>(chunk: &[Arc<RoomDescription>], s: S) -> std::result::Result<S::Ok, S::Error> {
    s.collect_seq(chunk.iter().map(|room| Published::from(&**room)))
}

/// `GET /_matrix/client/v3/publicRooms`
pub(crate) async fn get_public_rooms(
    State(config): State<Arc<Config>>,
    State(store): State<Store>,
    State(reading): State<Reading>,
    caller: MaybeGuest,
    req: get::v3::Request,
) -> Result<Json<Page>> {
    if caller.account.is_none() && !config.allow_public_room_directory_without_auth {
        return Err(ApiError::missing_token().into());
    }
    let query = PublicRoomsQuery { limit: limit(req.limit), since: since(req.since.as_deref())?, ..Default::default() };
    page(&config, &store, &reading, req.server, query).await
}

/// `POST /_matrix/client/v3/publicRooms`
pub(crate) async fn query_public_rooms(
    State(config): State<Arc<Config>>,
    State(store): State<Store>,
    State(reading): State<Reading>,
    _: Session,
    req: query::v3::Request,
) -> Result<Json<Page>> {
    let room_types = &req.filter.room_types;
    let types = room_types.iter().map(|kind| kind.as_str().map(ToOwned::to_owned)).collect::<Vec<_>>();
    let query = PublicRoomsQuery {
        limit: limit(req.limit),
        since: since(req.since.as_deref())?,
        search: req.filter.generic_search_term,
        room_types: (!types.is_empty()).then_some(types),
        network: match req.room_network {
            RoomNetwork::All => Network::All,
            RoomNetwork::ThirdParty(id) => Network::ThirdParty(id),
            _ => Network::Matrix,
        },
    };
    page(&config, &store, &reading, req.server, query).await
}

async fn page(
    config: &Config,
    store: &Store,
    reading: &Reading,
    server: Option<OwnedServerName>,
    query: PublicRoomsQuery,
) -> Result<Json<Page>> {
    if server.is_some_and(|server| server != config.server_name) {
        let message = "Other servers can't be asked for their rooms";
        return Err(ApiError::new(StatusCode::BAD_GATEWAY, "M_UNKNOWN", message).into());
    }
    let page = reading.public_rooms(&store.view().await?, &query).await?;
    Ok(Json(Page {
        chunk: page.chunk,
        next_batch: page.next.map(|token| token.to_string()),
        prev_batch: page.prev.map(|token| token.to_string()),
        total_room_count_estimate: page.total,
    }))
}

fn limit(asked: Option<UInt>) -> Option<usize> {
    Some(page_size(asked, PAGE_ROOMS_DEFAULT, PAGE_ROOMS_MAX))
}

fn since(token: Option<&str>) -> Result<Option<DirectoryToken>> {
    let Some(token) = token else { return Ok(None) };
    let token = token.parse().map_err(|_| ApiError::invalid_param("Unknown pagination token"))?;
    Ok(Some(token))
}
