//! Which pages may be asked for.

use net::Url;

/// The least port besides 80 and 443 that is asked: the lower ones belong to mail, file transfer and the like.
const PORT_MIN: u16 = 1_024;

/// The lists that decide. Nothing is allowed while all of them are empty.
#[derive(Clone, Debug, Default)]
pub struct PreviewLists {
    /// Allowed if the host contains one of these; `*` allows every host.
    pub domain_contains: Vec<String>,
    /// Allowed if the host is one of these; `*` allows every host.
    pub domain: Vec<String>,
    /// Refused if the host is one of these, whatever else allows it.
    pub domain_denied: Vec<String>,
    /// Allowed if the URL contains one of these; `*` allows every URL.
    pub url_contains: Vec<String>,
    /// Look at the domains above a host as well: an entry for `example.org` then holds for `www.example.org`.
    pub parents: bool,
}

impl PreviewLists {
    /// Whether any URL is allowed.
    pub(super) fn any(&self) -> bool {
        !(self.domain_contains.is_empty() && self.domain.is_empty() && self.url_contains.is_empty())
    }

    /// Whether a URL is denied: by its host, or by a port of services that are no web servers.
    pub(super) fn denies(&self, url: &Url) -> bool {
        let web = url.port_or_known_default().is_some_and(|port| matches!(port, 80 | 443) || port >= PORT_MIN);
        !web || host(url).is_none_or(|host| self.names(&self.domain_denied, host))
    }

    /// Whether a URL is allowed.
    pub(super) fn allow(&self, url: &Url) -> bool {
        let Some(host) = host(url) else { return false };
        if !matches!(url.scheme(), "http" | "https") || self.denies(url) {
            return false;
        }
        let every = |list: &[String]| list.iter().any(|entry| entry == "*");
        every(&self.domain)
            || self.names(&self.domain, host)
            || every(&self.domain_contains)
            || self.domain_contains.iter().any(|part| host.contains(part.as_str()))
            || every(&self.url_contains)
            || self.url_contains.iter().any(|part| url.as_str().contains(part.as_str()))
    }

    fn names(&self, list: &[String], host: &str) -> bool {
        list.iter().any(|entry| {
            let entry = entry.to_ascii_lowercase();
            let below = || host.strip_suffix(&entry).is_some_and(|rest| rest.ends_with('.'));
            entry == host || (self.parents && entry.contains('.') && below())
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

    fn allows(lists: &PreviewLists, url: &str) -> bool {
        lists.allow(&url.parse().expect("a URL"))
    }

    #[test]
    fn lists_decide() {
        let none = PreviewLists::default();
        assert!(!none.any() && !allows(&none, "https://example.org/"));
        let explicit = PreviewLists { domain: list(&["example.org"]), ..none.clone() };
        assert!(allows(&explicit, "https://example.org/a"));
        assert!(!allows(&explicit, "https://www.example.org/"));
        assert!(!allows(&explicit, "ftp://example.org/"));
        assert!(allows(&explicit, "https://example.org./") && allows(&explicit, "http://example.org:8080/"));
        assert!(!allows(&explicit, "http://example.org:25/") && !allows(&explicit, "https://example.org:22/"));
        let parents = PreviewLists { parents: true, ..explicit };
        assert!(allows(&parents, "https://www.example.org/"));
        assert!(!allows(&parents, "https://badexample.org/"));
        let all = PreviewLists { domain: list(&["*"]), domain_denied: list(&["example.org"]), ..none.clone() };
        assert!(allows(&all, "http://other.example/") && !allows(&all, "https://EXAMPLE.org/"));
        assert!(!allows(&all, "https://example.org./"), "the same host");
        let loud = PreviewLists { domain_denied: list(&["Example.ORG"]), parents: true, ..all };
        assert!(!allows(&loud, "https://www.example.org/"));
        let contains = PreviewLists { domain_contains: list(&["example"]), ..none.clone() };
        assert!(allows(&contains, "https://badexample.com/") && !allows(&contains, "https://other.org/example"));
        let url = PreviewLists { url_contains: list(&["/wiki/"]), ..none };
        assert!(allows(&url, "https://other.org/wiki/Seahorse") && !allows(&url, "https://other.org/"));
    }
}
