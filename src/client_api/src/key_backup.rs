//! Module "End-to-end encryption": server-side key backups.

mod stream;

use axum::extract::State;
use haima_http::{ApiError, Content, Json, JsonStream, Session};
use ruma::{
    OwnedRoomId,
    api::client::backup::{
        KeyBackupData, RoomKeyBackup, add_backup_keys as put_all, add_backup_keys_for_room as put_room,
        add_backup_keys_for_session as put_one, create_backup_version as create, delete_backup_keys as delete_all,
        delete_backup_keys_for_room as delete_room, delete_backup_keys_for_session as delete_one,
        delete_backup_version as delete, get_backup_info as get, get_backup_keys as get_all,
        get_backup_keys_for_room as get_room, get_backup_keys_for_session as get_one,
        get_latest_backup_info as get_latest, update_backup_version as update,
    },
    serde::Raw,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use store::Store;
use users::{BackedUpKey, BackupContents, BackupKey, BackupScope, Users};

use self::stream::stream_keys;
use crate::error::Result;

/// What a client says of a backup.
#[derive(Deserialize)]
struct Described {
    algorithm: String,
    auth_data: Box<RawValue>,
    version: Option<String>,
}

/// A backup as clients get it.
#[derive(Serialize)]
pub(crate) struct Info {
    algorithm: String,
    auth_data: Box<RawValue>,
    #[serde(flatten)]
    contents: Contents,
    version: String,
}

/// What is in a backup.
#[derive(Serialize)]
pub(crate) struct Contents {
    count: u64,
    etag: String,
}

impl From<BackupContents> for Contents {
    fn from(contents: BackupContents) -> Self {
        let BackupContents { count, etag } = contents;
        Self { count, etag: etag.to_string() }
    }
}

/// A key as clients send and get it.
#[derive(Serialize, Deserialize)]
pub(crate) struct KeyData {
    first_message_index: u64,
    forwarded_count: u64,
    is_verified: bool,
    session_data: Box<RawValue>,
}

impl From<KeyData> for BackedUpKey {
    fn from(data: KeyData) -> Self {
        let KeyData { first_message_index, forwarded_count, is_verified, session_data } = data;
        Self { first_message_index, forwarded_count, is_verified, session_data }
    }
}

impl From<BackedUpKey> for KeyData {
    fn from(key: BackedUpKey) -> Self {
        let BackedUpKey { first_message_index, forwarded_count, is_verified, session_data } = key;
        Self { first_message_index, forwarded_count, is_verified, session_data }
    }
}

/// `POST /_matrix/client/v3/room_keys/version`
pub(crate) async fn post_room_keys_version(
    State(users): State<Users>,
    caller: Session,
    Content(req): Content<create::v3::Request>,
) -> Result<create::v3::Response> {
    let described: Described = parse(&req.algorithm)?;
    let version = users.create_key_backup(&caller.user, &described.algorithm, &described.auth_data).await?;
    Ok(create::v3::Response::new(version.to_string()))
}

/// `GET /_matrix/client/v3/room_keys/version`
pub(crate) async fn get_room_keys_version_current(
    State(store): State<Store>,
    State(users): State<Users>,
    caller: Session,
    _: get_latest::v3::Request,
) -> Result<Json<Info>> {
    let current = users.current_key_backup(&store.view().await?, &caller.user).await?;
    info(&store, &users, &caller, current.ok_or(users::Error::UnknownKeyBackup)?).await
}

/// `GET /_matrix/client/v3/room_keys/version/{version}`
pub(crate) async fn get_room_keys_version(
    State(store): State<Store>,
    State(users): State<Users>,
    caller: Session,
    req: get::v3::Request,
) -> Result<Json<Info>> {
    info(&store, &users, &caller, version_number(&req.version)?).await
}

async fn info(store: &Store, users: &Users, caller: &Session, version: u64) -> Result<Json<Info>> {
    let backup = users.key_backup(&store.view().await?, &caller.user, version).await?;
    let backup = backup.ok_or(users::Error::UnknownKeyBackup)?;
    Ok(Json(Info {
        algorithm: backup.algorithm,
        auth_data: backup.auth_data,
        contents: backup.contents.into(),
        version: backup.version.to_string(),
    }))
}

/// `PUT /_matrix/client/v3/room_keys/version/{version}`
pub(crate) async fn put_room_keys_version(
    State(users): State<Users>,
    caller: Session,
    Content(req): Content<update::v3::Request>,
) -> Result<update::v3::Response> {
    let Described { algorithm, auth_data, version } = parse(&req.algorithm)?;
    if version.is_some_and(|version| version != req.version) {
        return Err(ApiError::invalid_param("The versions in path and body differ").into());
    }
    let version = version_number(&req.version)?;
    users.update_key_backup(&caller.user, version, &algorithm, &auth_data).await?;
    Ok(update::v3::Response::new())
}

/// `DELETE /_matrix/client/v3/room_keys/version/{version}`
pub(crate) async fn delete_room_keys_version(
    State(users): State<Users>,
    caller: Session,
    req: delete::v3::Request,
) -> Result<delete::v3::Response> {
    users.delete_key_backup(&caller.user, version_number(&req.version)?).await?;
    Ok(delete::v3::Response::new())
}

/// `PUT /_matrix/client/v3/room_keys/keys/{roomId}/{sessionId}`
pub(crate) async fn put_room_key_by_session_id(
    State(users): State<Users>,
    caller: Session,
    Content(req): Content<put_one::v3::Request>,
) -> Result<Json<Contents>> {
    let key = backup_key(&req.room_id, req.session_id, &req.session_data)?;
    put(&users, &caller, &req.version, &[key]).await
}

/// `PUT /_matrix/client/v3/room_keys/keys/{roomId}`
pub(crate) async fn put_room_keys_by_room_id(
    State(users): State<Users>,
    caller: Session,
    Content(req): Content<put_room::v3::Request>,
) -> Result<Json<Contents>> {
    let mut keys = Vec::with_capacity(req.sessions.len());
    for (session, data) in req.sessions {
        keys.push(backup_key(&req.room_id, session, &data)?);
    }
    put(&users, &caller, &req.version, &keys).await
}

/// `PUT /_matrix/client/v3/room_keys/keys`
pub(crate) async fn put_room_keys(
    State(users): State<Users>,
    caller: Session,
    Content(req): Content<put_all::v3::Request>,
) -> Result<Json<Contents>> {
    let mut keys = Vec::new();
    for (room, RoomKeyBackup { sessions, .. }) in req.rooms {
        for (session, data) in sessions {
            keys.push(backup_key(&room, session, &data)?);
        }
    }
    put(&users, &caller, &req.version, &keys).await
}

async fn put(users: &Users, caller: &Session, version: &str, keys: &[BackupKey]) -> Result<Json<Contents>> {
    let contents = users.put_backup_keys(&caller.user, version_number(version)?, keys).await?;
    Ok(Json(contents.into()))
}

/// `GET /_matrix/client/v3/room_keys/keys/{roomId}/{sessionId}`
pub(crate) async fn get_room_key_by_session_id(
    State(store): State<Store>,
    State(users): State<Users>,
    caller: Session,
    req: get_one::v3::Request,
) -> Result<Json<KeyData>> {
    let version = version_number(&req.version)?;
    let place = (&*req.room_id, req.session_id.as_str());
    let key = users.backup_key(&store.view().await?, &caller.user, version, place).await?;
    let key = key.ok_or(ApiError::not_found("There is no such key in the backup"))?;
    Ok(Json(key.into()))
}

/// `GET /_matrix/client/v3/room_keys/keys/{roomId}`
pub(crate) async fn get_room_keys_by_room_id(
    State(store): State<Store>,
    State(users): State<Users>,
    caller: Session,
    req: get_room::v3::Request,
) -> Result<JsonStream> {
    stream_keys((store, users), &caller.user, version_number(&req.version)?, Some(req.room_id)).await
}

/// `GET /_matrix/client/v3/room_keys/keys`
pub(crate) async fn get_room_keys(
    State(store): State<Store>,
    State(users): State<Users>,
    caller: Session,
    req: get_all::v3::Request,
) -> Result<JsonStream> {
    stream_keys((store, users), &caller.user, version_number(&req.version)?, None).await
}

/// `DELETE /_matrix/client/v3/room_keys/keys/{roomId}/{sessionId}`
pub(crate) async fn delete_room_key_by_session_id(
    State(users): State<Users>,
    caller: Session,
    req: delete_one::v3::Request,
) -> Result<Json<Contents>> {
    remove(&users, &caller, &req.version, BackupScope::Session(&req.room_id, &req.session_id)).await
}

/// `DELETE /_matrix/client/v3/room_keys/keys/{roomId}`
pub(crate) async fn delete_room_keys_by_room_id(
    State(users): State<Users>,
    caller: Session,
    req: delete_room::v3::Request,
) -> Result<Json<Contents>> {
    remove(&users, &caller, &req.version, BackupScope::Room(&req.room_id)).await
}

/// `DELETE /_matrix/client/v3/room_keys/keys`
pub(crate) async fn delete_room_keys(
    State(users): State<Users>,
    caller: Session,
    req: delete_all::v3::Request,
) -> Result<Json<Contents>> {
    remove(&users, &caller, &req.version, BackupScope::All).await
}

async fn remove(users: &Users, caller: &Session, version: &str, scope: BackupScope<'_>) -> Result<Json<Contents>> {
    let contents = users.delete_backup_keys(&caller.user, version_number(version)?, scope).await?;
    Ok(Json(contents.into()))
}

/// The number that a version is. No other version was ever made here.
fn version_number(version: &str) -> Result<u64> {
    match version.parse::<u64>() {
        Ok(number) if number.to_string() == version => Ok(number),
        _ => Err(users::Error::UnknownKeyBackup.into()),
    }
}

fn parse<T, U: DeserializeOwned>(raw: &Raw<T>) -> Result<U> {
    let parsed = serde_json::from_str(raw.json().get());
    Ok(parsed.map_err(|error| ApiError::bad_json(error.to_string()))?)
}

fn backup_key(room: &OwnedRoomId, session: String, data: &Raw<KeyBackupData>) -> Result<BackupKey> {
    let data: KeyData = parse(data)?;
    Ok(BackupKey { room: room.clone(), session, key: data.into() })
}
