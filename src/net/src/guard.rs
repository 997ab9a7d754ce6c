//! Which addresses may be connected to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Networks that nothing outside this server's own network is on (RFC 6890 and its successors): private, shared, local,
/// documentation, benchmarking, multicast and reserved addresses.
pub const DENIED_DEFAULT: [&str; 30] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::/128",
    "::1/128",
    "64:ff9b:1::/48",
    "100::/64",
    "100:0:0:1::/64",
    "2001:2::/48",
    "2001:10::/28",
    "2001:20::/28",
    "2001:db8::/32",
    "3fff::/20",
    "5f00::/16",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
];

/// A list of networks that are not connected to. A configuration has it as a list of texts.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Guard {
    denied: Vec<IpNet>,
}

impl Guard {
    /// A guard that refuses these networks.
    pub fn new(denied: Vec<IpNet>) -> Self {
        Self { denied }
    }

    /// A guard from networks in text, such as `10.0.0.0/8`.
    ///
    /// # Errors
    /// The first entry that is no network.
    pub fn parse<'a>(denied: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut networks = Vec::new();
        for text in denied {
            let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
            networks.push(network.map_err(|_| text.to_owned())?);
        }
        Ok(Self::new(networks))
    }

    /// Whether an address may be connected to. An IPv6 address that stands for an IPv4 address is looked at as both.
    pub fn allows(&self, address: IpAddr) -> bool {
        let denied = |address: IpAddr| self.denied.iter().any(|network| network.contains(&address));
        if denied(address) {
            return false;
        }
        match address {
            IpAddr::V4(_) => true,
            IpAddr::V6(address) => embedded(address).is_none_or(|inner| !denied(IpAddr::V4(inner))),
        }
    }
}

impl TryFrom<Vec<String>> for Guard {
    type Error = &'static str;

    fn try_from(denied: Vec<String>) -> Result<Self, Self::Error> {
        let guard = Self::parse(denied.iter().map(String::as_str));
        guard.map_err(|_| "must be addresses and networks, such as \"10.0.0.0/8\"")
    }
}

impl From<Guard> for Vec<String> {
    fn from(guard: Guard) -> Self {
        guard.denied.iter().map(IpNet::to_string).collect()
    }
}

/// The IPv4 address that packets to an IPv6 address end at: mapped and compatible addresses (RFC 4291), NAT64 (RFC
/// 6052), 6to4 (RFC 3056), Teredo (RFC 4380) and ISATAP (RFC 5214).
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = address.segments();
    let from = |high: u16, low: u16| Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
    match s {
        [0, 0, 0, 0, 0, 0xFFFF, high, low]
        | [0, 0, 0, 0, 0xFFFF, 0, high, low]
        | [0, 0, 0, 0, 0, 0, high, low]
        | [0x64, 0xFF9B, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, _, _, _, _, _] => from(high, low),
        [0x2001, 0, _, _, _, _, high, low] => from(!high, !low),
        [_, _, _, _, 0 | 0x200, 0x5EFE, high, low] => from(high, low),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_public_is_denied() {
        let guard = Guard::parse(DENIED_DEFAULT).expect("networks");
        let denied = [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.0.1",
            "169.254.169.254",
            "172.31.255.255",
            "192.168.1.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "::ffff:0:127.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::1",
            "2001:0:1:2:3:4:80ff:fffe",
            "fc00::1",
            "fd12:3456::1",
            "fe80::1",
            "fec0::1",
            "2606:4700::5efe:10.0.0.1",
            "ff02::1",
        ];
        for address in denied {
            assert!(!guard.allows(address.parse().expect("an address")), "{address}");
        }
        let allowed = ["1.1.1.1", "100.63.255.255", "100.128.0.0", "172.32.0.1", "2606:4700::1111", "::ffff:8.8.8.8"];
        for address in allowed {
            assert!(guard.allows(address.parse().expect("an address")), "{address}");
        }
        assert!(Guard::default().allows(IpAddr::from([127, 0, 0, 1])));
        assert_eq!(Guard::parse(["10.0.0.0/8", "ten"]).map(drop), Err("ten".to_owned()));
    }
}
