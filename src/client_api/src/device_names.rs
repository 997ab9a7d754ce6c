//! What a device is called that its client gave no name: people have to tell their devices apart.

use haima_http::Origin;

/// The name of a device of which nothing is known.
const UNKNOWN: &str = "Unknown client";

/// Parts of browsers' names for themselves, most of which name other browsers besides their own.
const BROWSERS: [(&str, &str); 9] = [
    ("Element/", "Element"),
    ("Edg/", "Edge"),
    ("EdgA/", "Edge"),
    ("OPR/", "Opera"),
    ("Firefox/", "Firefox"),
    ("FxiOS/", "Firefox"),
    ("CriOS/", "Chrome"),
    ("Chrome/", "Chrome"),
    ("Safari/", "Safari"),
];

/// Parts of browsers' names that tell the system, in the order in which they count.
const SYSTEMS: [(&str, &str); 7] = [
    ("Windows", "Windows"),
    ("Android", "Android"),
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Mac OS X", "macOS"),
    ("CrOS", "ChromeOS"),
    ("Linux", "Linux"),
];

/// The name that the client gave, else one from what it calls itself.
pub(crate) fn device_name(given: Option<String>, origin: &Origin) -> String {
    match given {
        Some(name) if !name.trim().is_empty() => name,
        _ => origin.user_agent.as_deref().and_then(from_user_agent).unwrap_or_else(|| UNKNOWN.to_owned()),
    }
}

/// The first product of a `User-Agent` (RFC 9110, section 10.1.5) without its version; browsers say more.
fn from_user_agent(agent: &str) -> Option<String> {
    let product = agent.split([' ', '/', '(']).next().filter(|product| !product.is_empty())?;
    if product != "Mozilla" {
        return Some(product.to_owned());
    }
    let part =
        |parts: &[(&str, &'static str)]| parts.iter().find(|(part, _)| agent.contains(part)).map(|(_, name)| *name);
    let browser = part(&BROWSERS).unwrap_or("Browser");
    Some(match part(&SYSTEMS) {
        Some(system) => format!("{browser} on {system}"),
        None => browser.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn a_device_always_has_a_name() {
        let firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0";
        let edge = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 \
                    Safari/537.36 Edg/126.0.0.0";
        let phone = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) \
                     Version/17.5 Mobile/15E148 Safari/604.1";
        for (given, agent, expected) in [
            (Some("Phone"), Some(firefox), "Phone"),
            (None, Some(firefox), "Firefox on Linux"),
            (Some(" "), Some(edge), "Edge on Windows"),
            (None, Some(phone), "Safari on iPhone"),
            (None, Some("Mozilla/5.0"), "Browser"),
            (None, Some("matrix-nio/0.25.2"), "matrix-nio"),
            (None, Some("nheko v0.12"), "nheko"),
            (None, Some(""), UNKNOWN),
            (None, None, UNKNOWN),
        ] {
            let origin = Origin { address: Ipv4Addr::LOCALHOST.into(), user_agent: agent.map(ToOwned::to_owned) };
            assert_eq!(device_name(given.map(ToOwned::to_owned), &origin), expected);
        }
    }
}
