//! `spec/endpoints.tsv` against the router and against the tests.

use std::collections::{BTreeMap, BTreeSet};

const LEDGER: &str = include_str!("../spec/endpoints.tsv");
const TESTS: &[(&str, &str)] = &[
    ("accounts", include_str!("accounts.rs")),
    ("bad_input", include_str!("bad_input.rs")),
    ("command_line", include_str!("command_line.rs")),
    ("devices", include_str!("devices.rs")),
    ("durability", include_str!("durability.rs")),
    ("messages", include_str!("messages.rs")),
    ("profiles", include_str!("profiles.rs")),
    ("rooms", include_str!("rooms.rs")),
    ("sdk", include_str!("sdk.rs")),
    ("sync", include_str!("sync.rs")),
];

struct Row<'l> {
    api: &'l str,
    method: &'l str,
    path: &'l str,
    operation: &'l str,
    status: &'l str,
    test: &'l str,
}

fn rows() -> Vec<Row<'static>> {
    let lines = LEDGER.lines().filter(|line| !line.starts_with('#')).skip(1);
    lines
        .map(|line| {
            let fields: Vec<_> = line.split('\t').collect();
            let &[api, method, path, operation, status, test] = fields.as_slice() else {
                panic!("a row has six fields: {line}");
            };
            Row { api, method, path, operation, status, test }
        })
        .collect()
}

/// A path with its parameters' names left out: they differ between the specification and the router.
fn shape(path: &str) -> String {
    path.trim_end_matches('/').split('/').map(|part| if part.starts_with('{') { "{}" } else { part }).collect::<Vec<_>>().join("/")
}

#[test]
fn every_row_says_served_or_not_and_names_a_test_that_is_there() {
    for row in rows() {
        match row.status {
            "served" => {
                let (file, name) = row.test.split_once("::").unwrap_or_else(|| panic!("{}: no test", row.operation));
                let source = TESTS.iter().find(|(module, _)| *module == file);
                let (_, source) = source.unwrap_or_else(|| panic!("{}: no file {file}", row.operation));
                assert!(source.contains(&format!("fn {name}(")), "{}: no test {}", row.operation, row.test);
            }
            "not yet" => assert_eq!(row.test, "-", "{}", row.operation),
            other => panic!("{}: {other} is neither \"served\" nor \"not yet\"", row.operation),
        }
    }
}

#[test]
fn the_router_serves_what_the_ledger_says_and_nothing_else() {
    let routed: BTreeMap<(String, String), &str> = client_api::ENDPOINTS
        .iter()
        .map(|endpoint| ((endpoint.method.to_owned(), shape(endpoint.path)), endpoint.operation))
        .collect();
    let mut known = BTreeSet::new();
    for row in rows() {
        let key = (row.method.to_owned(), shape(row.path));
        let served = routed.contains_key(&key);
        assert_eq!(served, row.status == "served", "{} {} {} ({})", row.api, row.method, row.path, row.status);
        known.insert(key);
    }
    for ((method, path), operation) in &routed {
        let other_version = |version: &str| {
            let parts: Vec<_> = path.split('/').collect();
            parts.get(3).is_some_and(|_| known.iter().any(|(known_method, known_path)| {
                let mut alike = parts.clone();
                if alike.len() > 3 { alike[3] = version; }
                known_method == method && *known_path == alike.join("/")
            }))
        };
        let is_specified = known.contains(&(method.clone(), path.clone()))
            || ["v1", "v3"].iter().any(|version| other_version(version))
            || path.starts_with("/_haima/")
            || path.contains("/unstable/");
        assert!(is_specified, "{operation}: {method} {path} is not in the ledger");
    }
}
