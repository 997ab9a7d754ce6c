//! What an admin decides about previews, which is first of all which pages may be asked for.

use documented::DocumentedFields;
use net::{DENIED_DEFAULT, Guard, Url};
use serde::{Deserialize, Serialize};
use settings::{Fault, Mebibytes, Settings, refuse};

/// The least port besides 80 and 443 that is asked: the lower ones belong to mail, file transfer and the like.
const PORT_MIN: u16 = 1_024;

/// Settings of previews. The lists decide which pages may be asked for; nothing is while all that allow are empty.
#[derive(Clone, Debug, Serialize, Deserialize, DocumentedFields)]
#[serde(default)]
pub struct PreviewConfig {
    /// Web pages that users may ask this server to preview: those whose host contains one of these. `*` stands for all.
    /// While all the allow lists are empty there are no previews.
    pub url_preview_domain_contains_allowlist: Vec<String>,

    /// Hosts whose pages may be previewed. `*` stands for all.
    pub url_preview_domain_explicit_allowlist: Vec<String>,

    /// Hosts whose pages are not previewed, whatever the allow lists say.
    pub url_preview_domain_explicit_denylist: Vec<String>,

    /// Pages may be previewed whose URL contains one of these. `*` stands for all.
    pub url_preview_url_contains_allowlist: Vec<String>,

    /// Whether a host in the explicit lists stands for those below it as well: `example.org` for `www.example.org`.
    pub url_preview_check_root_domain: bool,

    /// How much of a page is read for its preview, in bytes.
    pub url_preview_max_spider_size: usize,

    /// MiB that the pictures of all previews may take together; 0 for no limit. Each is kept for a day. Those that one user asked for may
    /// take an eighth. A preview for whose picture there is no room has none.
    pub url_preview_pictures_mb: Mebibytes,

    /// Addresses and networks that this server doesn't connect to for a user: those that only its own network reaches.
    pub ip_range_denylist: Guard,
}

impl Default for PreviewConfig {
    fn default() -> Self {
        Self {
            url_preview_domain_contains_allowlist: Vec::new(),
            url_preview_domain_explicit_allowlist: Vec::new(),
            url_preview_domain_explicit_denylist: Vec::new(),
            url_preview_url_contains_allowlist: Vec::new(),
            url_preview_check_root_domain: false,
            url_preview_max_spider_size: 256_000,
            url_preview_pictures_mb: Mebibytes::of(1_024),
            ip_range_denylist: Guard::parse(DENIED_DEFAULT).expect("networks"),
        }
    }
}

impl Settings for PreviewConfig {
    fn faults(&self) -> Vec<Fault> {
        refuse([(
            "url_preview_max_spider_size",
            !(1_024..=16 << 20).contains(&self.url_preview_max_spider_size),
            "must be from 1024 to 16777216",
        )])
    }
}

impl PreviewConfig {
    /// Whether any URL is allowed.
    pub(super) fn allows_any(&self) -> bool {
        let lists = [
            &self.url_preview_domain_contains_allowlist,
            &self.url_preview_domain_explicit_allowlist,
            &self.url_preview_url_contains_allowlist,
        ];
        lists.iter().any(|list| !list.is_empty())
    }

    /// Whether a URL is denied: by its host, or by a port of services that are no web servers.
    pub(super) fn denies(&self, url: &Url) -> bool {
        let web = url.port_or_known_default().is_some_and(|port| matches!(port, 80 | 443) || port >= PORT_MIN);
        !web || host(url).is_none_or(|host| self.names(&self.url_preview_domain_explicit_denylist, host))
    }

    /// Whether a URL is allowed.
    pub(super) fn allows(&self, url: &Url) -> bool {
        let Some(host) = host(url) else { return false };
        if !matches!(url.scheme(), "http" | "https") || self.denies(url) {
            return false;
        }
        let (hosts, parts_of_host, parts_of_url) = (
            &self.url_preview_domain_explicit_allowlist,
            &self.url_preview_domain_contains_allowlist,
            &self.url_preview_url_contains_allowlist,
        );
        [hosts, parts_of_host, parts_of_url].iter().any(|list| list.iter().any(|entry| entry == "*"))
            || self.names(hosts, host)
            || parts_of_host.iter().any(|part| host.contains(part.as_str()))
            || parts_of_url.iter().any(|part| url.as_str().contains(part.as_str()))
    }

    fn names(&self, list: &[String], host: &str) -> bool {
        list.iter().any(|entry| {
            let entry = entry.to_ascii_lowercase();
            let below = || host.strip_suffix(&entry).is_some_and(|rest| rest.ends_with('.'));
            entry == host || (self.url_preview_check_root_domain && entry.contains('.') && below())
        })
    }
}

/// The host in small letters, without the dot that makes it the same host under another name.
fn host(url: &Url) -> Option<&str> {
    url.host_str().map(|host| host.trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[&str]) -> Vec<String> {
        entries.iter().map(|entry| (*entry).to_owned()).collect()
    }

    fn allows(lists: &PreviewConfig, url: &str) -> bool {
        lists.allows(&url.parse().expect("a URL"))
    }

    #[test]
    fn lists_decide() {
        let none = PreviewConfig::default();
        assert!(!none.allows_any() && !allows(&none, "https://example.org/"));
        let explicit = PreviewConfig { url_preview_domain_explicit_allowlist: list(&["example.org"]), ..none.clone() };
        assert!(allows(&explicit, "https://example.org/a"));
        assert!(!allows(&explicit, "https://www.example.org/"));
        assert!(!allows(&explicit, "ftp://example.org/"));
        assert!(allows(&explicit, "https://example.org./") && allows(&explicit, "http://example.org:8080/"));
        assert!(!allows(&explicit, "http://example.org:25/") && !allows(&explicit, "https://example.org:22/"));
        let parents = PreviewConfig { url_preview_check_root_domain: true, ..explicit };
        assert!(allows(&parents, "https://www.example.org/"));
        assert!(!allows(&parents, "https://badexample.org/"));
        let all = PreviewConfig {
            url_preview_domain_explicit_allowlist: list(&["*"]),
            url_preview_domain_explicit_denylist: list(&["example.org"]),
            ..none.clone()
        };
        assert!(allows(&all, "http://other.example/") && !allows(&all, "https://EXAMPLE.org/"));
        assert!(!allows(&all, "https://example.org./"), "the same host");
        let loud = PreviewConfig {
            url_preview_domain_explicit_denylist: list(&["Example.ORG"]),
            url_preview_check_root_domain: true,
            ..all
        };
        assert!(!allows(&loud, "https://www.example.org/"));
        let contains = PreviewConfig { url_preview_domain_contains_allowlist: list(&["example"]), ..none.clone() };
        assert!(allows(&contains, "https://badexample.com/") && !allows(&contains, "https://other.org/example"));
        let url = PreviewConfig { url_preview_url_contains_allowlist: list(&["/wiki/"]), ..none };
        assert!(allows(&url, "https://other.org/wiki/Seahorse") && !allows(&url, "https://other.org/"));
    }
}
