//! GET with limits.

use std::{net::IpAddr, time::Duration};

use bytes::{Bytes, BytesMut};
use reqwest::{
    Response, StatusCode, Url,
    header::{ACCEPT, ACCEPT_LANGUAGE, HeaderMap, HeaderValue, LOCATION},
    redirect,
};

use crate::{Guard, resolve::Denied, resolve::Resolver, tls};

/// Redirects that are followed for one request.
const REDIRECTS_MAX: usize = 5;
/// Longest URL that is asked for, in bytes.
const URL_BYTES_MAX: usize = 8_192;
/// Connections to one host that are kept for later requests.
const IDLE_PER_HOST_MAX: usize = 2;

/// What an admin decides about connections to others.
#[derive(Clone, Debug)]
pub struct Config {
    /// Addresses that are never connected to.
    pub guard: Guard,
    /// Longest time to connect, in milliseconds.
    pub connect_ms_max: u64,
    /// Longest time for a whole request with its redirects, in milliseconds.
    pub request_ms_max: u64,
    /// What the client calls itself.
    pub user_agent: String,
}

/// The limits of one request.
#[derive(Copy, Clone, Debug)]
pub struct Limits {
    /// The longest body, in bytes.
    pub bytes_max: usize,
    /// Take the beginning of a longer body, in place of refusing it.
    pub cut: bool,
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Not a URL of HTTP, or one that is too long or has a password.
    #[error("this URL can't be asked for")]
    BadUrl,
    /// The host has no address that may be connected to.
    #[error("the host's address is not allowed")]
    Denied,
    /// A URL on the way was not allowed.
    #[error("a redirect leads to where it may not")]
    RedirectRefused,
    /// There were more than [`REDIRECTS_MAX`].
    #[error("there are too many redirects")]
    TooManyRedirects,
    /// The body is longer than the limit.
    #[error("the answer is too large")]
    TooLarge,
    /// It took too long.
    #[error("the answer took too long")]
    TimedOut,
    /// The answer is not a success.
    #[error("the answer is {0}")]
    Status(u16),
    /// The connection failed or broke.
    #[error("the request failed: {0}")]
    Failed(#[source] reqwest::Error),
    /// The client can't be set up.
    #[error("no certificates can be checked: {0}")]
    Tls(#[from] rustls::Error),
}

/// An answer with its whole body, or as much as was wanted of it.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Where it came from, after redirects.
    pub url: Url,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Answer {
    /// The value of `Content-Type`, if it is text.
    pub fn content_type(&self) -> Option<&str> {
        self.headers.get(reqwest::header::CONTENT_TYPE)?.to_str().ok()
    }
}

/// The client. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    guard: Guard,
    request_max: Duration,
}

impl Client {
    /// A client.
    ///
    /// # Errors
    /// [`Error::Tls`] or [`Error::Failed`] if it can't be set up.
    pub fn new(config: &Config) -> Result<Self, Error> {
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::client_config()?)
            .dns_resolver(Resolver { guard: config.guard.clone() })
            .redirect(redirect::Policy::none())
            .no_proxy()
            // Limits count what comes over the wire, and nothing is unpacked, whatever features other crates switch on.
            .no_gzip()
            .no_brotli()
            .no_deflate()
            .no_zstd()
            .referer(false)
            .pool_max_idle_per_host(IDLE_PER_HOST_MAX)
            .connect_timeout(Duration::from_millis(config.connect_ms_max))
            .user_agent(&config.user_agent)
            .build()
            .map_err(Error::Failed)?;
        let request_max = Duration::from_millis(config.request_ms_max);
        Ok(Self { http, guard: config.guard.clone(), request_max })
    }

    /// Asks for a URL, following redirects to URLs that `allowed` says may be asked for.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get(
        &self,
        url: Url,
        headers: &Headers<'_>,
        limits: Limits,
        allowed: impl Fn(&Url) -> bool + Send + Sync,
    ) -> Result<Answer, Error> {
        let whole = async {
            let response = self.follow(url, headers, allowed).await?;
            read(response, limits).await
        };
        tokio::time::timeout(self.request_max, whole).await.unwrap_or(Err(Error::TimedOut))
    }

    async fn follow(&self, url: Url, headers: &Headers<'_>, allowed: impl Fn(&Url) -> bool) -> Result<Response, Error> {
        let mut url = url;
        for _ in 0..=REDIRECTS_MAX {
            self.check(&url)?;
            let mut request = self.http.get(url.clone());
            if let Some(accept) = headers.accept.and_then(|text| HeaderValue::from_str(text).ok()) {
                request = request.header(ACCEPT, accept);
            }
            if let Some(language) = headers.accept_language.and_then(|text| HeaderValue::from_str(text).ok()) {
                request = request.header(ACCEPT_LANGUAGE, language);
            }
            let response = request.send().await.map_err(failed)?;
            if !response.status().is_redirection() || response.status() == StatusCode::NOT_MODIFIED {
                let status = response.status();
                return if status.is_success() { Ok(response) } else { Err(Error::Status(status.as_u16())) };
            }
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            url = location.and_then(|location| url.join(location).ok()).ok_or(Error::BadUrl)?;
            if !allowed(&url) {
                return Err(Error::RedirectRefused);
            }
        }
        Err(Error::TooManyRedirects)
    }

    /// Refuses what is not asked for. Hosts that are addresses never come to the resolver, and are checked here.
    fn check(&self, url: &Url) -> Result<(), Error> {
        let plain = matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none();
        if !plain || url.as_str().len() > URL_BYTES_MAX {
            return Err(Error::BadUrl);
        }
        let host = url.host_str().ok_or(Error::BadUrl)?;
        let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        match literal {
            Ok(address) if !self.guard.allows(address) => Err(Error::Denied),
            _ => Ok(()),
        }
    }
}

/// What a request says besides its URL.
#[derive(Copy, Clone, Default, Debug)]
pub struct Headers<'a> {
    /// Content types that are wanted.
    pub accept: Option<&'a str>,
    /// Languages that are wanted.
    pub accept_language: Option<&'a str>,
}

async fn read(mut response: Response, limits: Limits) -> Result<Answer, Error> {
    let url = response.url().clone();
    let headers = response.headers().clone();
    let mut body = BytesMut::new();
    if !limits.cut && response.content_length().is_some_and(|length| length > limits.bytes_max as u64) {
        return Err(Error::TooLarge);
    }
    while let Some(piece) = response.chunk().await.map_err(failed)? {
        let room = limits.bytes_max.saturating_sub(body.len());
        if piece.len() > room {
            if !limits.cut {
                return Err(Error::TooLarge);
            }
            body.extend_from_slice(&piece[..room]);
            break;
        }
        body.extend_from_slice(&piece);
    }
    Ok(Answer { url, headers, body: body.freeze() })
}

fn failed(error: reqwest::Error) -> Error {
    let mut source: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(&error);
    while let Some(inner) = source {
        if inner.is::<Denied>() {
            return Error::Denied;
        }
        source = inner.source();
    }
    if error.is_timeout() { Error::TimedOut } else { Error::Failed(error) }
}
