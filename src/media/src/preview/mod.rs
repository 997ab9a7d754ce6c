//! Previews of web pages: fetched through the guarded client, read, and kept for a while.

mod config;
mod page;
mod pictures;

use std::{collections::BTreeMap, sync::Arc};

use net::{Headers, Limits, Url};
use ruma::UserId;
use serde_json::{Value, value::RawValue};
use store::{Batch, Fixed, Range, Record};
use tokio::sync::{Mutex, Semaphore};

use crate::tables::PreviewRow;

pub use self::config::PreviewConfig;
use self::page::{Page, cut};
pub(crate) use self::pictures::Pictures;
use crate::{
    Details, Error, Media, Result,
    slots::Slots,
    tables::{Digest, PreviewExpiry, Previews, Quarantined},
    thumbnail::{dimensions, image_type, work},
    to_its_end,
};

/// Pages that are fetched at the same time.
const FETCHING_MAX: usize = 8;
/// Requests that wait for their turn.
const WAITING_MAX: usize = 64;
/// Of these, how many one user may have.
const WAITING_PER_USER_MAX: usize = 8;
/// Locks that keep two requests from fetching the same page.
const LOCKS: usize = 64;
/// How long a preview is kept, in milliseconds.
const KEEP_MS: u64 = 60 * 60 * 1000;
/// How long it is kept that there is none, in milliseconds.
const KEEP_FAILED_MS: u64 = 60 * 1000;
/// How long a page's picture is kept, in milliseconds: longer than any preview that names it.
const KEEP_IMAGE_MS: u64 = 24 * 60 * 60 * 1000;
/// The largest picture of a page, in bytes.
const IMAGE_BYTES_MAX: u64 = 8 << 20;
/// The largest oEmbed document, in bytes.
const OEMBED_BYTES_MAX: usize = 64 * 1024;
/// Longest text of an oEmbed document that is kept, in bytes.
const OEMBED_TEXT_BYTES_MAX: usize = 500;
/// Longest URL that is previewed, in bytes.
const URL_BYTES_MAX: usize = 4_096;
/// Previews forgotten with one write.
const PAGE_ROWS: usize = 1_000;
/// How often that is done in one sweep.
const PAGES_MAX: usize = 100;
/// Longest time to connect to a page's server, in milliseconds.
const CONNECT_MS_MAX: u64 = 5_000;
/// Longest time to fetch a page, in milliseconds.
const REQUEST_MS_MAX: u64 = 15_000;
/// What the client that fetches pages calls itself.
const USER_AGENT: &str = concat!("Haima/", env!("CARGO_PKG_VERSION"), " (preview bot)");

/// What fetches previews.
pub(crate) struct Previewer {
    config: PreviewConfig,
    client: net::Client,
    waiting: Arc<Semaphore>,
    users: Slots,
    fetching: Semaphore,
    locks: Vec<Mutex<()>>,
}

impl Previewer {
    pub(crate) fn new(config: PreviewConfig) -> Result<Self> {
        let client = net::Config {
            guard: config.ip_range_denylist.clone(),
            connect_ms_max: CONNECT_MS_MAX,
            request_ms_max: REQUEST_MS_MAX,
            user_agent: USER_AGENT.to_owned(),
        };
        Ok(Self {
            client: net::Client::new(&client)?,
            config,
            waiting: Arc::new(Semaphore::new(WAITING_MAX)),
            users: Slots::new(WAITING_PER_USER_MAX),
            fetching: Semaphore::new(FETCHING_MAX),
            locks: (0..LOCKS).map(|_| Mutex::default()).collect(),
        })
    }
}

impl Media {
    /// What a page says about itself, as the client-server API has it; asked by `user`.
    ///
    /// # Errors
    /// [`Error::PreviewNotAllowed`], [`Error::PreviewFailed`], [`Error::Busy`].
    pub async fn preview(&self, user: &UserId, url: &str) -> Result<Box<RawValue>> {
        let previewer = self.previewer()?;
        let mut url = match url.len() <= URL_BYTES_MAX {
            true => Url::parse(url).map_err(|_| Error::PreviewNotAllowed)?,
            false => return Err(Error::PreviewNotAllowed),
        };
        url.set_fragment(None);
        if !previewer.config.allows_any() || !previewer.config.allows(&url) {
            return Err(Error::PreviewNotAllowed);
        }
        let key = Fixed(*blake3::hash(url.as_str().as_bytes()).as_bytes());
        if let Some(row) = self.known_preview(&key).await? {
            return shape(row);
        }
        let slot = previewer.users.take(user.as_str())?;
        let waiting = previewer.waiting.clone().try_acquire_owned().map_err(|_| Error::Busy)?;
        let (media, user) = (self.clone(), user.to_owned());
        let row = to_its_end(async move {
            let _held = (slot, waiting);
            media.fetch_preview(&key, url, &user).await
        });
        shape(row.await?)
    }

    fn previewer(&self) -> Result<&Previewer> {
        self.inner.previewer.as_ref().ok_or(Error::PreviewNotAllowed)
    }

    async fn fetch_preview(&self, key: &Digest, url: Url, user: &UserId) -> Result<PreviewRow> {
        let previewer = self.previewer()?;
        let _one = previewer.locks[usize::from(key.0[0]) % LOCKS].lock().await;
        if let Some(row) = self.known_preview(key).await? {
            return Ok(row);
        }
        // The semaphore is never closed.
        let _turn = previewer.fetching.acquire().await.map_err(|_| Error::Busy)?;
        let made = self.make_preview(previewer, url, user).await;
        let now_ms = self.now_ms();
        let row = match made {
            Ok(properties) => {
                let json = serde_json::to_string(&properties).map_err(|_| Error::PreviewFailed)?;
                PreviewRow { json: Some(json), expires_ms: now_ms.saturating_add(KEEP_MS) }
            }
            Err(Error::PreviewFailed) => PreviewRow { json: None, expires_ms: now_ms.saturating_add(KEEP_FAILED_MS) },
            Err(error) => return Err(error),
        };
        self.keep_preview(key, &row).await?;
        Ok(row)
    }

    async fn known_preview(&self, key: &Digest) -> Result<Option<PreviewRow>> {
        let row = self.view().await?.get::<Previews>(key).await?;
        Ok(row.map(|row| row.0).filter(|row| row.expires_ms > self.now_ms()))
    }

    async fn keep_preview(&self, key: &Digest, row: &PreviewRow) -> Result<()> {
        let mut batch = Batch::new();
        batch.relaxed();
        batch.put::<Previews>(key, &Record(row.clone()));
        batch.put::<PreviewExpiry>(&(row.expires_ms, *key), &());
        self.inner.store.commit(batch).await?;
        Ok(())
    }

    /// Forgets old previews.
    pub(crate) async fn sweep_previews(&self, now_ms: u64) -> Result<()> {
        for _ in 0..PAGES_MAX {
            let view = self.view().await?;
            let range = Range::<PreviewExpiry>::all().through(&(now_ms,)).limit(PAGE_ROWS);
            let page = view.scan(range).await?;
            let mut batch = Batch::new();
            batch.relaxed();
            for ((at, key), ()) in &page.rows {
                batch.delete::<PreviewExpiry>(&(*at, *key));
                // One that was made again meanwhile has another row of its own.
                if view.get::<Previews>(key).await?.is_some_and(|row| row.0.expires_ms <= now_ms) {
                    batch.delete::<Previews>(key);
                }
            }
            if !batch.is_empty() {
                self.inner.store.commit(batch).await?;
            }
            if page.next.is_none() {
                break;
            }
        }
        Ok(())
    }

    async fn make_preview(&self, previewer: &Previewer, url: Url, user: &UserId) -> Result<BTreeMap<String, Value>> {
        let limits = Limits { bytes_max: previewer.config.url_preview_max_spider_size, cut: true };
        let accept = Headers { accept: Some("text/html, application/xhtml+xml, image/*;q=0.8"), ..Headers::default() };
        let answer = previewer.fetch(url, &accept, limits).await?;
        let content_type = answer.content_type().unwrap_or("").to_ascii_lowercase();
        if content_type.starts_with("image/") {
            return self.keep_image(previewer, answer.url, user).await;
        }
        if !content_type.contains("html") {
            return Ok(BTreeMap::new());
        }
        let url = answer.url.clone();
        let reading = work(move || page::read(&answer.body, &content_type, answer.url.domain()));
        let mut page = reading.await.map_err(|_| Error::PreviewFailed)?;
        if let Some(oembed) = page.oembed.take().and_then(|href| url.join(&href).ok()) {
            previewer.add_oembed(&mut page, oembed).await;
        }
        let mut properties: BTreeMap<String, Value> =
            page.properties.into_iter().map(|(name, value)| (name, Value::from(value))).collect();
        if let Some(image) = page.image.and_then(|href| url.join(&href).ok()) {
            match self.keep_image(previewer, image, user).await {
                Ok(image) => properties.extend(image),
                // A page without its picture is still worth a preview.
                Err(Error::PreviewFailed) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(properties)
    }

    /// Fetches a picture and keeps it as a file, for the user who asked for the preview.
    async fn keep_image(&self, previewer: &Previewer, url: Url, user: &UserId) -> Result<BTreeMap<String, Value>> {
        let bytes_max = IMAGE_BYTES_MAX.min(self.inner.config.max_request_size);
        let limits = Limits { bytes_max: usize::try_from(bytes_max).unwrap_or(0), cut: false };
        let accept = Headers { accept: Some("image/*"), ..Headers::default() };
        let bytes = previewer.fetch(url, &accept, limits).await?.body;
        let content_type = image_type(&bytes).map_err(|_| Error::PreviewFailed)?;
        let measured = bytes.clone();
        let measuring = work(move || dimensions(&measured)).await;
        let (width, height) = measuring.flatten().map_err(|_| Error::PreviewFailed)?;
        let received = Self::received(bytes);
        if self.view().await?.contains::<Quarantined>(&received.digest).await? {
            return Err(Error::PreviewFailed);
        }
        let size = received.size;
        let details = Details {
            content_type: Some(content_type.to_owned()),
            file_name: None,
            expires_ms: Some(self.now_ms().saturating_add(KEEP_IMAGE_MS)),
        };
        let id = self.add_picture(user, received, details).await?;
        Ok(BTreeMap::from([
            ("og:image".to_owned(), Value::from(format!("mxc://{}/{id}", self.inner.config.server_name))),
            ("og:image:type".to_owned(), Value::from(content_type)),
            ("og:image:width".to_owned(), Value::from(width)),
            ("og:image:height".to_owned(), Value::from(height)),
            ("matrix:image:size".to_owned(), Value::from(size)),
        ]))
    }
}

impl Previewer {
    async fn fetch(&self, url: Url, headers: &Headers<'_>, limits: Limits) -> Result<net::Answer> {
        // What a page names may be anywhere that isn't denied; only where it leads back into is the guard's matter.
        let allowed = |url: &Url| !self.config.denies(url);
        if !allowed(&url) {
            return Err(Error::PreviewFailed);
        }
        self.client.get(url, headers, limits, allowed).await.map_err(|error| {
            tracing::debug!(%error, "a page could not be fetched for its preview");
            Error::PreviewFailed
        })
    }

    /// Adds what an oEmbed document tells and the page doesn't.
    async fn add_oembed(&self, page: &mut Page, url: Url) {
        let limits = Limits { bytes_max: OEMBED_BYTES_MAX, cut: false };
        let accept = Headers { accept: Some("application/json"), ..Headers::default() };
        let Ok(answer) = self.fetch(url, &accept, limits).await else { return };
        let Ok(oembed) = serde_json::from_slice::<Value>(&answer.body) else { return };
        for (field, name) in [("title", "og:title"), ("provider_name", "og:site_name"), ("author_name", "og:author")] {
            if let Some(text) = oembed[field].as_str().filter(|text| !text.is_empty()) {
                page.properties.entry(name.to_owned()).or_insert_with(|| cut(text, OEMBED_TEXT_BYTES_MAX));
            }
        }
        if let Some(image) = oembed["thumbnail_url"].as_str() {
            page.image.get_or_insert_with(|| image.to_owned());
        }
    }
}

fn shape(row: PreviewRow) -> Result<Box<RawValue>> {
    let json = row.json.ok_or(Error::PreviewFailed)?;
    RawValue::from_string(json).map_err(|_| Error::PreviewFailed)
}
