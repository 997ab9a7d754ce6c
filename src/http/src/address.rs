//! Where a request comes from.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;
use ruma::exports::http::{HeaderName, header, request::Parts};

/// Greatest length of a user agent that is handed on, in bytes.
const USER_AGENT_BYTES_MAX: usize = 256;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The other end of the connection; the listener puts it into each request's extensions.
#[derive(Copy, Clone, Debug)]
pub struct Peer(pub SocketAddr);

/// Where a request comes from: the client's address (behind trusted proxies) and what it calls itself.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The client's address; unspecified where there is no connection (in tests).
    pub address: IpAddr,
    /// The `User-Agent` header, cut to a sensible length.
    pub user_agent: Option<String>,
}

impl Origin {
    pub(crate) fn of(parts: &Parts, trusted_proxies: &[IpNet]) -> Self {
        let user_agent = parts.headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok());
        let user_agent = user_agent.map(|text| text.chars().take(USER_AGENT_BYTES_MAX).collect());
        Self { address: address(parts, trusted_proxies), user_agent }
    }
}

/// The client's address. `X-Forwarded-For` is read from its end: each trusted proxy vouches for the entry before it.
pub(crate) fn address(parts: &Parts, trusted_proxies: &[IpNet]) -> IpAddr {
    let peer = parts.extensions.get::<Peer>().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0.ip());
    let mut address = peer.to_canonical();
    let trusted = |address: &IpAddr| trusted_proxies.iter().any(|net| net.contains(address));
    if !trusted(&address) {
        return address;
    }
    for line in parts.headers.get_all(X_FORWARDED_FOR).iter().rev() {
        let Ok(line) = line.to_str() else { return address };
        for entry in line.rsplit(',') {
            let Ok(entry) = entry.trim().parse::<IpAddr>() else { return address };
            address = entry.to_canonical();
            if !trusted(&address) {
                return address;
            }
        }
    }
    address
}
