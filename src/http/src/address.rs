//! Where a request comes from.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ruma::exports::http::{HeaderName, header, request::Parts};

/// Greatest length of a user agent that is handed on, in bytes.
const USER_AGENT_BYTES_MAX: usize = 256;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The other end of the connection; the listener puts it into each request's extensions.
#[derive(Copy, Clone, Debug)]
pub struct Peer(pub SocketAddr);

/// Where a request comes from: the client's address (behind a reverse proxy) and what it calls itself.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The client's address; unspecified where there is no connection (in tests).
    pub address: IpAddr,
    /// The `User-Agent` header, cut to a sensible length.
    pub user_agent: Option<String>,
}

impl Origin {
    pub(crate) fn of(parts: &Parts, from_forwarded_header: bool) -> Self {
        let user_agent = parts.headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok());
        let user_agent = user_agent.map(|text| text.chars().take(USER_AGENT_BYTES_MAX).collect());
        Self { address: address(parts, from_forwarded_header), user_agent }
    }
}

/// The client's address. Each proxy adds to the end of `X-Forwarded-For`, so only the last entry is our own proxy's word.
pub(crate) fn address(parts: &Parts, from_forwarded_header: bool) -> IpAddr {
    let peer = parts.extensions.get::<Peer>().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0.ip());
    let forwarded = if from_forwarded_header { last_forwarded(parts) } else { None };
    forwarded.unwrap_or(peer).to_canonical()
}

fn last_forwarded(parts: &Parts) -> Option<IpAddr> {
    let line = parts.headers.get_all(X_FORWARDED_FOR).iter().next_back()?;
    let last = line.to_str().ok()?.rsplit(',').next()?;
    last.trim().parse().ok()
}
