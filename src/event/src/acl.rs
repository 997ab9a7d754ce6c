//! Server access lists: which servers may take part in a room.
//!
//! Specification: client-server API, `m.room.server_acl`.

use std::net::{Ipv4Addr, Ipv6Addr};

use ruma::ServerName;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::glob::Glob;

/// The access list of a room. A room without one lets every server in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerAcl {
    allow: Vec<Glob>,
    deny: Vec<Glob>,
    allow_ip_literals: bool,
}

impl ServerAcl {
    /// Reads the content of a `m.room.server_acl` event. What isn't as specified counts as absent:
    /// a list that isn't a list is empty, so without a good `allow` nobody may enter.
    pub fn parse(content: &RawValue) -> Self {
        let content = serde_json::from_str::<Value>(content.get()).unwrap_or(Value::Null);
        let patterns = |field: &str| {
            let list = content.get(field).and_then(Value::as_array);
            let texts = list.into_iter().flatten().filter_map(Value::as_str);
            texts.map(Glob::new).collect()
        };
        Self {
            allow: patterns("allow"),
            deny: patterns("deny"),
            allow_ip_literals: content.get("allow_ip_literals").and_then(Value::as_bool).unwrap_or(true),
        }
    }

    /// Whether `server` may take part. Its port doesn't matter.
    pub fn allows(&self, server: &ServerName) -> bool {
        let host = server.host();
        if !self.allow_ip_literals && is_ip_literal(host) {
            return false;
        }
        let any = |patterns: &[Glob]| patterns.iter().any(|pattern| pattern.matches_all(host));
        !any(&self.deny) && any(&self.allow)
    }
}

fn is_ip_literal(host: &str) -> bool {
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match bracketed {
        Some(host) => host.parse::<Ipv6Addr>().is_ok(),
        None => host.parse::<Ipv4Addr>().is_ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(content: &str, server: &str, allowed: bool) {
        let content: Box<RawValue> = serde_json::from_str(content).expect("JSON");
        let server = <&ServerName>::try_from(server).expect("server name");
        assert_eq!(ServerAcl::parse(&content).allows(server), allowed, "{server}");
    }

    #[test]
    fn order_of_the_rules() {
        let acl = r#"{"allow": ["*"], "deny": ["*.evil.com", "evil.com"], "allow_ip_literals": false}"#;
        check(acl, "good.org", true);
        check(acl, "evil.com", false);
        check(acl, "EVIL.com:8448", false);
        check(acl, "very.evil.com", false);
        check(acl, "notevil.com", true);
        check(acl, "1.2.3.4", false);
        check(acl, "1.2.3.4:8448", false);
        check(acl, "[1234:5678::abcd]:80", false);
        check(acl, "1.2.3.4.example.org", true);
    }

    #[test]
    fn what_is_not_as_specified_counts_as_absent() {
        check("{}", "good.org", false);
        check(r#"{"allow": "*"}"#, "good.org", false);
        check(r#"{"allow": ["*", 5], "deny": {"evil.com": 1}}"#, "evil.com", true);
        check(r#"{"allow": ["*"], "allow_ip_literals": "false"}"#, "1.2.3.4", true);
        check(r#"{"allow": ["good.?rg"]}"#, "good.org", true);
    }
}
