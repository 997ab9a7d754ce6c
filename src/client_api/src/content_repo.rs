//! Module "Content repository": the operations with a token, and the deprecated ones without.
#![allow(deprecated, reason = "clients of the time before v1.11 know no other")]

use std::time::Duration;

use futures_util::StreamExt;
use haima_http::{
    Anyone, ApiError, ApiResult, Class, Conditions, FileReply, Guest, Json, Selection, Session, StatusCode,
    Unsuspended, Upload, UploadBody, WithConditions, limit,
};
use media::{Ask, Details, Received, Thumbnail};
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedMxcUri, ServerName, UInt, UserId,
    api::client::{authenticated_media as authed, media as legacy},
    media::Method,
};
use serde_json::{Value, json};

use crate::{ClientApi, error::Result};

/// Who may upload.
pub(crate) type Uploader = Unsuspended<Session>;

/// `POST /_matrix/media/v3/upload`
pub(crate) async fn upload_content(
    api: ClientApi,
    caller: Uploader,
    upload: Upload<legacy::create_content::v3::Request>,
) -> Result<legacy::create_content::v3::Response> {
    let (req, body) = upload.into_parts();
    let received = receive(&api, &caller.user, body, None).await?;
    let details = Details { content_type: req.content_type, file_name: req.filename, expires_ms: None };
    let id = api.media.add(Some(&caller.user), received, details).await?;
    Ok(legacy::create_content::v3::Response::new(content_uri(&api, &id)))
}

/// `PUT /_matrix/media/v3/upload/{serverName}/{mediaId}`
pub(crate) async fn upload_content_to_mxc(
    api: ClientApi,
    caller: Uploader,
    upload: Upload<legacy::create_content_async::v3::Request>,
) -> Result<Json<Value>> {
    let (req, body) = upload.into_parts();
    let reserved = Reserved { server: &req.server_name, id: &req.media_id };
    let received = receive(&api, &caller.user, body, Some(reserved)).await?;
    let details = Details { content_type: req.content_type, file_name: req.filename, expires_ms: None };
    api.media.add_reserved(&caller.user, &req.media_id, received, details).await?;
    Ok(Json(json!({})))
}

/// `POST /_matrix/media/v1/create`
pub(crate) async fn create_content(
    api: ClientApi,
    caller: Uploader,
    _: legacy::create_mxc_uri::v1::Request,
) -> Result<legacy::create_mxc_uri::v1::Response> {
    let reserved = api.media.reserve_id(&caller.user).await?;
    let mut response = legacy::create_mxc_uri::v1::Response::new(content_uri(&api, &reserved.id));
    response.unused_expires_at = UInt::new(reserved.expires_ms).map(MilliSecondsSinceUnixEpoch);
    Ok(response)
}

/// `GET /_matrix/client/v1/media/download/{serverName}/{mediaId}`
pub(crate) async fn get_content_authed(
    api: ClientApi,
    _: Guest,
    req: WithConditions<authed::get_content::v1::Request>,
) -> Result<FileReply> {
    let WithConditions { request, conditions } = req;
    let wanted = Wanted { server: &request.server_name, id: &request.media_id, wait: request.timeout_ms };
    download(&api, wanted, &conditions, None).await
}

/// `GET /_matrix/client/v1/media/download/{serverName}/{mediaId}/{fileName}`
pub(crate) async fn get_content_override_name_authed(
    api: ClientApi,
    _: Guest,
    req: WithConditions<authed::get_content_as_filename::v1::Request>,
) -> Result<FileReply> {
    let WithConditions { request, conditions } = req;
    let wanted = Wanted { server: &request.server_name, id: &request.media_id, wait: request.timeout_ms };
    download(&api, wanted, &conditions, Some(request.filename)).await
}

/// `GET /_matrix/media/v3/download/{serverName}/{mediaId}`
pub(crate) async fn get_content(
    api: ClientApi,
    _: Anyone,
    req: WithConditions<legacy::get_content::v3::Request>,
) -> Result<FileReply> {
    require_legacy(&api)?;
    let WithConditions { request, conditions } = req;
    let wanted = Wanted { server: &request.server_name, id: &request.media_id, wait: request.timeout_ms };
    download(&api, wanted, &conditions, None).await
}

/// `GET /_matrix/media/v3/download/{serverName}/{mediaId}/{fileName}`
pub(crate) async fn get_content_override_name(
    api: ClientApi,
    _: Anyone,
    req: WithConditions<legacy::get_content_as_filename::v3::Request>,
) -> Result<FileReply> {
    require_legacy(&api)?;
    let WithConditions { request, conditions } = req;
    let wanted = Wanted { server: &request.server_name, id: &request.media_id, wait: request.timeout_ms };
    download(&api, wanted, &conditions, Some(request.filename)).await
}

/// `GET /_matrix/client/v1/media/thumbnail/{serverName}/{mediaId}`
pub(crate) async fn get_content_thumbnail_authed(
    api: ClientApi,
    caller: Guest,
    req: WithConditions<authed::get_content_thumbnail::v1::Request>,
) -> Result<FileReply> {
    let WithConditions { request: req, conditions } = req;
    let wanted = Wanted { server: &req.server_name, id: &req.media_id, wait: req.timeout_ms };
    let ask = ask(req.width, req.height, req.method.as_ref(), req.animated);
    let count = || api.gate.limits().check_user(Class::Thumbnail, &caller.user);
    let client = Client { name: caller.user.as_str(), count };
    thumbnail(&api, wanted, &conditions, ask, client).await
}

/// `GET /_matrix/media/v3/thumbnail/{serverName}/{mediaId}`
pub(crate) async fn get_content_thumbnail(
    api: ClientApi,
    caller: Anyone,
    req: WithConditions<legacy::get_content_thumbnail::v3::Request>,
) -> Result<FileReply> {
    require_legacy(&api)?;
    let WithConditions { request: req, conditions } = req;
    let wanted = Wanted { server: &req.server_name, id: &req.media_id, wait: req.timeout_ms };
    let ask = ask(req.width, req.height, req.method.as_ref(), req.animated);
    let address = caller.origin.address;
    let count = || api.gate.limits().check_address(Class::Thumbnail, address);
    let client = Client { name: &limit::network(address).to_string(), count };
    thumbnail(&api, wanted, &conditions, ask, client).await
}

/// `GET /_matrix/client/v1/media/preview_url`
pub(crate) async fn get_url_preview_authed(
    api: ClientApi,
    caller: Session,
    req: authed::get_media_preview::v1::Request,
) -> Result<authed::get_media_preview::v1::Response> {
    Ok(authed::get_media_preview::v1::Response::from_raw_value(api.media.preview(&caller.user, &req.url).await?))
}

/// `GET /_matrix/media/v3/preview_url`
pub(crate) async fn get_url_preview(
    api: ClientApi,
    caller: Session,
    req: legacy::get_media_preview::v3::Request,
) -> Result<legacy::get_media_preview::v3::Response> {
    Ok(legacy::get_media_preview::v3::Response::from_raw_value(api.media.preview(&caller.user, &req.url).await?))
}

/// `GET /_matrix/client/v1/media/config`
pub(crate) async fn get_config_authed(
    api: ClientApi,
    _: Session,
    _: authed::get_media_config::v1::Request,
) -> Result<authed::get_media_config::v1::Response> {
    Ok(authed::get_media_config::v1::Response::new(upload_size(&api)))
}

/// `GET /_matrix/media/v3/config`
pub(crate) async fn get_config(
    api: ClientApi,
    _: Session,
    _: legacy::get_media_config::v3::Request,
) -> Result<legacy::get_media_config::v3::Response> {
    Ok(legacy::get_media_config::v3::Response::new(upload_size(&api)))
}

fn upload_size(api: &ClientApi) -> UInt {
    UInt::new_saturating(api.media.config().max_request_size)
}

fn content_uri(api: &ClientApi, id: &str) -> OwnedMxcUri {
    format!("mxc://{}/{id}", api.config.server_name).into()
}

/// A name that was set aside for an upload.
struct Reserved<'a> {
    server: &'a ServerName,
    id: &'a str,
}

/// Takes a file from the client.
async fn receive(
    api: &ClientApi,
    user: &UserId,
    mut body: UploadBody,
    reserved: Option<Reserved<'_>>,
) -> Result<Received> {
    let received = try_receive(api, user, &mut body, reserved).await;
    if received.is_err() {
        body.discard().await;
    }
    received
}

async fn try_receive(
    api: &ClientApi,
    user: &UserId,
    body: &mut UploadBody,
    reserved: Option<Reserved<'_>>,
) -> Result<Received> {
    if let Some(Reserved { server, id }) = reserved {
        if server != api.config.server_name {
            return Err(media::Error::NotFound.into());
        }
        api.media.check_reserved(user, id).await?;
    }
    api.media.check_quota(user, body.announced().unwrap_or(0)).await?;
    let mut receiving = api.media.receive(user)?;
    while let Some(piece) = body.next().await? {
        receiving.write(piece).await?;
    }
    Ok(receiving.finish().await?)
}

/// The file that a request names.
struct Wanted<'a> {
    server: &'a ServerName,
    id: &'a str,
    wait: Duration,
}

async fn find(api: &ClientApi, wanted: &Wanted<'_>) -> Result<media::File> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if wanted.id.is_empty() || !wanted.id.bytes().all(allowed) {
        return Err(ApiError::invalid_param("Media ids are made of letters, digits, _ and -").into());
    }
    if wanted.server != api.config.server_name {
        return Err(ApiError::not_found("Files of other servers can't be fetched yet").into());
    }
    let found = api.media.find(wanted.server, wanted.id, wanted.wait);
    match api.gate.shutdown().run_until_cancelled(found).await {
        Some(found) => Ok(found?),
        // Like every long poll it ends when the server does.
        None => Ok(api.media.find(wanted.server, wanted.id, Duration::ZERO).await?),
    }
}

async fn download(
    api: &ClientApi,
    wanted: Wanted<'_>,
    conditions: &Conditions,
    file_name: Option<String>,
) -> Result<FileReply> {
    let mut file = find(api, &wanted).await?;
    file.file_name = file_name.or(file.file_name);
    answer(api, file, conditions).await
}

fn ask(width: UInt, height: UInt, method: Option<&Method>, animated: Option<bool>) -> Ask {
    let pixels = |side: UInt| u32::try_from(u64::from(side)).unwrap_or(u32::MAX);
    let crop = matches!(method, Some(Method::Crop));
    Ask { width: pixels(width), height: pixels(height), crop, animated: animated == Some(true) }
}

/// Who asks for a thumbnail.
struct Client<'a, F> {
    /// A user or a network.
    name: &'a str,
    /// Refuses a thumbnail that has to be made where too many were.
    count: F,
}

async fn thumbnail(
    api: &ClientApi,
    wanted: Wanted<'_>,
    conditions: &Conditions,
    ask: Ask,
    client: Client<'_, impl FnOnce() -> ApiResult<()>>,
) -> Result<FileReply> {
    let file = find(api, &wanted).await?;
    if let Some(kept) = api.media.kept_thumbnail(&file, ask).await? {
        return answer(api, kept, conditions).await;
    }
    (client.count)()?;
    let (bytes, content_type) = match api.media.thumbnail(client.name, &file, ask).await? {
        Thumbnail::Kept(file) => return answer(api, file, conditions).await,
        Thumbnail::Made { bytes, content_type } => (bytes, content_type),
    };
    Ok(FileReply {
        selection: Selection::Whole,
        size: bytes.len() as u64,
        etag: media::etag(&bytes),
        body: futures_util::stream::once(async { Ok(bytes) }).boxed(),
        content_type: Some(content_type.to_owned()),
        file_name: Some(media::thumbnail_name(content_type)),
    })
}

/// A file, or the part of it that the conditions select.
async fn answer(api: &ClientApi, file: media::File, conditions: &Conditions) -> Result<FileReply> {
    let etag = file.etag();
    let selection = conditions.select(&etag, file.size);
    let range = match &selection {
        Selection::Whole => 0..file.size,
        Selection::Part(part) => part.clone(),
        Selection::Unchanged | Selection::Unsatisfiable => 0..0,
    };
    let body = api.media.read(&file, range).await?;
    let media::File { size, content_type, file_name, .. } = file;
    Ok(FileReply { selection, body, size, etag, content_type, file_name })
}

/// Refuses what needs no token unless the configuration allows it (client-server API, "Content repository": the freeze
/// of unauthenticated media).
fn require_legacy(api: &ClientApi) -> Result<()> {
    if api.config.allow_legacy_media {
        return Ok(());
    }
    Err(ApiError::new(StatusCode::NOT_FOUND, "M_NOT_FOUND", "Files are served to clients that send their token").into())
}
