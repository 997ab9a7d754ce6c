//! Where a request comes from.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;
use ruma::exports::http::{HeaderMap, HeaderName, header};
use serde::{Deserialize, Serialize};

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
    pub(crate) fn new(address: IpAddr, headers: &HeaderMap) -> Self {
        let user_agent = headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok());
        let user_agent = user_agent.map(|text| text.chars().take(USER_AGENT_BYTES_MAX).collect());
        Self { address, user_agent }
    }
}

/// A list of networks and addresses. A configuration has it as a list of texts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Networks(Vec<IpNet>);

impl Networks {
    /// Networks from text, such as `10.0.0.0/8` or `192.0.2.1`.
    ///
    /// # Errors
    /// The first entry that is no network.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut networks = Vec::new();
        for text in texts {
            let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
            networks.push(network.map_err(|_| text.to_owned())?);
        }
        Ok(Self(networks))
    }

    /// The machine itself.
    pub fn loopback() -> Self {
        let v4 = IpNet::new_assert(IpAddr::from([127, 0, 0, 0]), 8);
        Self(vec![v4, IpNet::from(IpAddr::from([0_u16, 0, 0, 0, 0, 0, 0, 1]))])
    }

    /// Whether an address is in one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }
}

impl TryFrom<Vec<String>> for Networks {
    type Error = &'static str;

    fn try_from(networks: Vec<String>) -> Result<Self, Self::Error> {
        let networks = Self::parse(networks.iter().map(String::as_str));
        networks.map_err(|_| "must be addresses and networks, such as \"10.0.0.0/8\"")
    }
}

impl From<Networks> for Vec<String> {
    fn from(networks: Networks) -> Self {
        networks.0.iter().map(IpNet::to_string).collect()
    }
}

/// The client's address. Each proxy adds whom it was asked by to the end of `X-Forwarded-For`, so from the connection's other end
/// backwards every entry is the word of the one before it, and is believed as long as those are proxies that are trusted.
pub(crate) fn of_client(peer: Option<&Peer>, headers: &HeaderMap, proxies: &Networks) -> IpAddr {
    let mut client = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0.ip()).to_canonical();
    if !proxies.contains(client) {
        return client;
    }
    for line in headers.get_all(X_FORWARDED_FOR).iter().rev() {
        for entry in line.to_str().unwrap_or("").rsplit(',') {
            // What can't be read hides whatever stands before it.
            let Some(address) = entry_address(entry.trim()) else { return client };
            client = address.to_canonical();
            if !proxies.contains(client) {
                return client;
            }
        }
    }
    client
}

/// An entry is an address; some proxies write a port behind it.
fn entry_address(entry: &str) -> Option<IpAddr> {
    entry.parse().ok().or_else(|| entry.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

#[cfg(test)]
mod tests {
    use ruma::exports::http::HeaderValue;

    use super::*;

    #[test]
    fn only_trusted_proxies_are_believed_however_many_stand_in_a_row() {
        let proxies = Networks::parse(["10.0.0.0/8", "2001:db8::1"]).expect("networks");
        let cases: [(&str, &[&'static str], &str); 12] = [
            ("10.0.0.1", &["203.0.113.7"], "203.0.113.7"),
            ("10.0.0.1", &["198.51.100.1, 203.0.113.7"], "203.0.113.7"),
            ("10.0.0.1", &["203.0.113.7, 10.2.2.2, 10.3.3.3"], "203.0.113.7"),
            ("10.0.0.1", &["198.51.100.1,203.0.113.7", "10.2.2.2"], "203.0.113.7"),
            ("2001:db8::1", &["203.0.113.7:4711, [2001:db8::1]:80"], "203.0.113.7"),
            ("::ffff:10.0.0.1", &["::ffff:203.0.113.7"], "203.0.113.7"),
            // Everybody is a proxy: the first of them.
            ("10.0.0.1", &["10.9.9.9, 10.8.8.8"], "10.9.9.9"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["nonsense"], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.7, nonsense, 10.2.2.2"], "10.2.2.2"),
            // Others may claim what they like.
            ("203.0.113.9", &["198.51.100.1"], "203.0.113.9"),
            ("2001:db8::2", &["198.51.100.1"], "2001:db8::2"),
        ];
        for (peer, lines, expected) in cases {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(X_FORWARDED_FOR, HeaderValue::from_static(line));
            }
            let peer = Peer(SocketAddr::new(peer.parse().expect("an address"), 1));
            let expected: IpAddr = expected.parse().expect("an address");
            assert_eq!(of_client(Some(&peer), &headers, &proxies), expected, "{lines:?}");
        }
        assert_eq!(Networks::parse(["ten"]), Err("ten".to_owned()));
        assert!(Networks::loopback().contains(IpAddr::from([127, 1, 2, 3])));
    }
}
