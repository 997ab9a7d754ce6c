//! Module "Content repository": the operations with a token, and the deprecated ones without.
#![allow(deprecated, reason = "clients of the time before v1.11 know no other")]

use std::{sync::Arc, time::Duration};

use axum::extract::{FromRef, State};
use futures_util::StreamExt;
use haima_http::{
    Anyone, ApiError, ApiResult, Class, Conditions, FileReply, Gate, Guest, Json, Selection, Session, StatusCode,
    Unsuspended, Upload, UploadBody, WithConditions, limit,
};
use media::{Ask, Details, Media, Received, Thumbnail};
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedMxcUri, ServerName, UInt, UserId,
    api::client::{authenticated_media as authed, media as legacy},
    media::Method,
};
use serde_json::{Value, json};

use crate::{ClientApi, Config, error::Result};

/// Who may upload.
pub(crate) type Uploader = Unsuspended<Session>;

/// `POST /_matrix/media/v3/upload`
pub(crate) async fn upload_content(
    State(files): State<Files>,
    caller: Uploader,
    upload: Upload<legacy::create_content::v3::Request>,
) -> Result<legacy::create_content::v3::Response> {
    let (req, body) = upload.into_parts();
    let received = files.receive(&caller.user, body, None).await?;
    let details = Details { content_type: req.content_type, file_name: req.filename, expires_ms: None };
    let id = files.media.add(Some(&caller.user), received, details).await?;
    Ok(legacy::create_content::v3::Response::new(files.content_uri(&id)))
}

/// `PUT /_matrix/media/v3/upload/{serverName}/{mediaId}`
pub(crate) async fn upload_content_to_mxc(
    State(files): State<Files>,
    caller: Uploader,
    upload: Upload<legacy::create_content_async::v3::Request>,
) -> Result<Json<Value>> {
    let (req, body) = upload.into_parts();
    let reserved = Reserved { server: &req.server_name, id: &req.media_id };
    let received = files.receive(&caller.user, body, Some(reserved)).await?;
    let details = Details { content_type: req.content_type, file_name: req.filename, expires_ms: None };
    files.media.add_reserved(&caller.user, &req.media_id, received, details).await?;
    Ok(Json(json!({})))
}

/// `POST /_matrix/media/v1/create`
pub(crate) async fn create_content(
    State(files): State<Files>,
    caller: Uploader,
    _: legacy::create_mxc_uri::v1::Request,
) -> Result<legacy::create_mxc_uri::v1::Response> {
    let reserved = files.media.reserve_id(&caller.user).await?;
    let mut response = legacy::create_mxc_uri::v1::Response::new(files.content_uri(&reserved.id));
    response.unused_expires_at = UInt::new(reserved.expires_ms).map(MilliSecondsSinceUnixEpoch);
    Ok(response)
}

/// `GET /_matrix/client/v1/media/download/{serverName}/{mediaId}`
pub(crate) async fn get_content_authed(
    State(files): State<Files>,
    _: Guest,
    req: WithConditions<authed::get_content::v1::Request>,
) -> Result<FileReply> {
    let WithConditions { request, conditions } = req;
    let wanted = Wanted { server: &request.server_name, id: &request.media_id, wait: request.timeout_ms };
    files.download(wanted, &conditions, None).await
}

/// `GET /_matrix/client/v1/media/download/{serverName}/{mediaId}/{fileName}`
pub(crate) async fn get_content_override_name_authed(
    State(files): State<Files>,
    _: Guest,
    req: WithConditions<authed::get_content_as_filename::v1::Request>,
) -> Result<FileReply> {
    let WithConditions { request, conditions } = req;
    let wanted = Wanted { server: &request.server_name, id: &request.media_id, wait: request.timeout_ms };
    files.download(wanted, &conditions, Some(request.filename)).await
}

/// `GET /_matrix/media/v3/download/{serverName}/{mediaId}`
pub(crate) async fn get_content(
    State(files): State<Files>,
    _: Anyone,
    req: WithConditions<legacy::get_content::v3::Request>,
) -> Result<FileReply> {
    files.require_legacy()?;
    let WithConditions { request, conditions } = req;
    let wanted = Wanted { server: &request.server_name, id: &request.media_id, wait: request.timeout_ms };
    files.download(wanted, &conditions, None).await
}

/// `GET /_matrix/media/v3/download/{serverName}/{mediaId}/{fileName}`
pub(crate) async fn get_content_override_name(
    State(files): State<Files>,
    _: Anyone,
    req: WithConditions<legacy::get_content_as_filename::v3::Request>,
) -> Result<FileReply> {
    files.require_legacy()?;
    let WithConditions { request, conditions } = req;
    let wanted = Wanted { server: &request.server_name, id: &request.media_id, wait: request.timeout_ms };
    files.download(wanted, &conditions, Some(request.filename)).await
}

/// `GET /_matrix/client/v1/media/thumbnail/{serverName}/{mediaId}`
pub(crate) async fn get_content_thumbnail_authed(
    State(files): State<Files>,
    caller: Guest,
    req: WithConditions<authed::get_content_thumbnail::v1::Request>,
) -> Result<FileReply> {
    let WithConditions { request: req, conditions } = req;
    let wanted = Wanted { server: &req.server_name, id: &req.media_id, wait: req.timeout_ms };
    let ask = ask(req.width, req.height, req.method.as_ref(), req.animated);
    let count = || files.gate.limits().check_user(Class::Thumbnail, &caller.user);
    let client = Client { name: caller.user.as_str(), count };
    files.thumbnail(wanted, &conditions, ask, client).await
}

/// `GET /_matrix/media/v3/thumbnail/{serverName}/{mediaId}`
pub(crate) async fn get_content_thumbnail(
    State(files): State<Files>,
    caller: Anyone,
    req: WithConditions<legacy::get_content_thumbnail::v3::Request>,
) -> Result<FileReply> {
    files.require_legacy()?;
    let WithConditions { request: req, conditions } = req;
    let wanted = Wanted { server: &req.server_name, id: &req.media_id, wait: req.timeout_ms };
    let ask = ask(req.width, req.height, req.method.as_ref(), req.animated);
    let address = caller.origin.address;
    let count = || files.gate.limits().check_address(Class::Thumbnail, address);
    let client = Client { name: &limit::network(address).to_string(), count };
    files.thumbnail(wanted, &conditions, ask, client).await
}

/// `GET /_matrix/client/v1/media/preview_url`
pub(crate) async fn get_url_preview_authed(
    State(media): State<Media>,
    caller: Session,
    req: authed::get_media_preview::v1::Request,
) -> Result<authed::get_media_preview::v1::Response> {
    Ok(authed::get_media_preview::v1::Response::from_raw_value(media.preview(&caller.user, &req.url).await?))
}

/// `GET /_matrix/media/v3/preview_url`
pub(crate) async fn get_url_preview(
    State(media): State<Media>,
    caller: Session,
    req: legacy::get_media_preview::v3::Request,
) -> Result<legacy::get_media_preview::v3::Response> {
    Ok(legacy::get_media_preview::v3::Response::from_raw_value(media.preview(&caller.user, &req.url).await?))
}

/// `GET /_matrix/client/v1/media/config`
pub(crate) async fn get_config_authed(
    State(files): State<Files>,
    _: Session,
    _: authed::get_media_config::v1::Request,
) -> Result<authed::get_media_config::v1::Response> {
    Ok(authed::get_media_config::v1::Response::new(files.upload_size()))
}

/// `GET /_matrix/media/v3/config`
pub(crate) async fn get_config(
    State(files): State<Files>,
    _: Session,
    _: legacy::get_media_config::v3::Request,
) -> Result<legacy::get_media_config::v3::Response> {
    Ok(legacy::get_media_config::v3::Response::new(files.upload_size()))
}

/// Takes files from clients and answers with them.
#[derive(Clone)]
pub(crate) struct Files {
    config: Arc<Config>,
    gate: Arc<Gate>,
    media: Media,
}

impl FromRef<ClientApi> for Files {
    fn from_ref(api: &ClientApi) -> Self {
        Self { config: api.config.clone(), gate: api.gate.clone(), media: api.media.clone() }
    }
}

/// A name that was set aside for an upload.
struct Reserved<'a> {
    server: &'a ServerName,
    id: &'a str,
}

/// The file that a request names.
struct Wanted<'a> {
    server: &'a ServerName,
    id: &'a str,
    wait: Duration,
}

/// Who asks for a thumbnail.
struct Client<'a, F> {
    /// A user or a network.
    name: &'a str,
    /// Refuses a thumbnail that has to be made where too many were.
    count: F,
}

impl Files {
    fn upload_size(&self) -> UInt {
        UInt::new_saturating(self.media.config().max_request_size)
    }

    fn content_uri(&self, id: &str) -> OwnedMxcUri {
        format!("mxc://{}/{id}", self.config.server_name).into()
    }

    /// Takes a file from the client.
    async fn receive(&self, user: &UserId, mut body: UploadBody, reserved: Option<Reserved<'_>>) -> Result<Received> {
        let received = self.try_receive(user, &mut body, reserved).await;
        if received.is_err() {
            body.discard().await;
        }
        received
    }

    async fn try_receive(
        &self,
        user: &UserId,
        body: &mut UploadBody,
        reserved: Option<Reserved<'_>>,
    ) -> Result<Received> {
        if let Some(Reserved { server, id }) = reserved {
            if server != self.config.server_name {
                return Err(media::Error::NotFound.into());
            }
            self.media.check_reserved(user, id).await?;
        }
        self.media.check_quota(user, body.announced().unwrap_or(0)).await?;
        let mut receiving = self.media.receive(user)?;
        while let Some(piece) = body.next().await? {
            receiving.write(piece).await?;
        }
        Ok(receiving.finish().await?)
    }

    async fn find(&self, wanted: &Wanted<'_>) -> Result<media::File> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        if wanted.id.is_empty() || !wanted.id.bytes().all(allowed) {
            return Err(ApiError::invalid_param("Media ids are made of letters, digits, _ and -").into());
        }
        if wanted.server != self.config.server_name {
            return Err(ApiError::not_found("Files of other servers can't be fetched yet").into());
        }
        let found = self.media.find(wanted.server, wanted.id, wanted.wait);
        match self.gate.shutdown().run_until_cancelled(found).await {
            Some(found) => Ok(found?),
            // Like every long poll it ends when the server does.
            None => Ok(self.media.find(wanted.server, wanted.id, Duration::ZERO).await?),
        }
    }

    async fn download(
        &self,
        wanted: Wanted<'_>,
        conditions: &Conditions,
        file_name: Option<String>,
    ) -> Result<FileReply> {
        let mut file = self.find(&wanted).await?;
        file.file_name = file_name.or(file.file_name);
        self.answer(file, conditions).await
    }

    async fn thumbnail(
        &self,
        wanted: Wanted<'_>,
        conditions: &Conditions,
        ask: Ask,
        client: Client<'_, impl FnOnce() -> ApiResult<()>>,
    ) -> Result<FileReply> {
        let file = self.find(&wanted).await?;
        if let Some(kept) = self.media.kept_thumbnail(&file, ask).await? {
            return self.answer(kept, conditions).await;
        }
        (client.count)()?;
        let (bytes, content_type) = match self.media.thumbnail(client.name, &file, ask).await? {
            Thumbnail::Kept(file) => return self.answer(file, conditions).await,
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
    async fn answer(&self, file: media::File, conditions: &Conditions) -> Result<FileReply> {
        let etag = file.etag();
        let selection = conditions.select(&etag, file.size);
        let range = match &selection {
            Selection::Whole => 0..file.size,
            Selection::Part(part) => part.clone(),
            Selection::Unchanged | Selection::Unsatisfiable => 0..0,
        };
        let body = self.media.read(&file, range).await?;
        let media::File { size, content_type, file_name, .. } = file;
        Ok(FileReply { selection, body, size, etag, content_type, file_name })
    }

    /// Refuses what needs no token unless the configuration allows it (client-server API, "Content repository": the freeze
    /// of unauthenticated media).
    fn require_legacy(&self) -> Result<()> {
        if self.config.allow_legacy_media {
            return Ok(());
        }
        let message = "Files are served to clients that send their token";
        Err(ApiError::new(StatusCode::NOT_FOUND, "M_NOT_FOUND", message).into())
    }
}

fn ask(width: UInt, height: UInt, method: Option<&Method>, animated: Option<bool>) -> Ask {
    let pixels = |side: UInt| u32::try_from(u64::from(side)).unwrap_or(u32::MAX);
    let crop = matches!(method, Some(Method::Crop));
    Ask { width: pixels(width), height: pixels(height), crop, animated: animated == Some(true) }
}
