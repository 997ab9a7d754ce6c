//! `spec/endpoints.tsv` against the router and against the tests.

use std::collections::HashSet;

use reqwest::Method;

use crate::support::Server;

const LEDGER: &str = include_str!("../spec/endpoints.tsv");
const TESTS: &[(&str, &str)] = &[
    ("accounts", include_str!("accounts.rs")),
    ("bad_input", include_str!("bad_input.rs")),
    ("bodies", include_str!("bodies.rs")),
    ("command_line", include_str!("command_line.rs")),
    ("device_lists", include_str!("device_lists.rs")),
    ("devices", include_str!("devices.rs")),
    ("durability", include_str!("durability.rs")),
    ("key_backup", include_str!("key_backup.rs")),
    ("keys", include_str!("keys.rs")),
    ("media", include_str!("media.rs")),
    ("messages", include_str!("messages.rs")),
    ("openid", include_str!("openid.rs")),
    ("profiles", include_str!("profiles.rs")),
    ("rooms", include_str!("rooms.rs")),
    ("sdk", include_str!("sdk.rs")),
    ("sdk_encrypted", include_str!("sdk_encrypted.rs")),
    ("sync", include_str!("sync.rs")),
    ("to_device", include_str!("to_device.rs")),
];

/// An endpoint of the specification.
pub struct Row<'l> {
    pub api: &'l str,
    pub method: &'l str,
    pub path: &'l str,
    pub operation: &'l str,
    status: &'l str,
    test: &'l str,
    missing: &'l str,
}

impl<'l> Row<'l> {
    pub fn is_served(&self) -> bool {
        matches!(self.status, "served" | "partly")
    }

    /// The documented parameters (those of the query with a question mark) and error codes that aren't served.
    pub fn missing(&self) -> impl Iterator<Item = &'l str> {
        self.missing.split(' ').filter(|name| *name != "-")
    }
}

/// All endpoints.
pub fn rows() -> Vec<Row<'static>> {
    let lines = LEDGER.lines().filter(|line| !line.starts_with('#')).skip(1);
    lines
        .map(|line| {
            let fields: Vec<_> = line.split('\t').collect();
            let &[api, method, path, operation, status, test, missing] = fields.as_slice() else {
                panic!("a row has seven fields: {line}");
            };
            Row { api, method, path, operation, status, test, missing }
        })
        .collect()
}

#[test]
fn every_row_says_served_or_not_and_names_a_test_that_is_there() {
    for row in rows() {
        match row.status {
            "served" | "partly" => {
                assert_eq!(
                    row.missing().next().is_some(),
                    row.status == "partly",
                    "{}: what is missing?",
                    row.operation
                );
                let (file, name) = row.test.split_once("::").unwrap_or_else(|| panic!("{}: no test", row.operation));
                let source = TESTS.iter().find(|(module, _)| *module == file);
                let (_, source) = source.unwrap_or_else(|| panic!("{}: no file {file}", row.operation));
                assert!(source.contains(&format!("fn {name}(")), "{}: no test {}", row.operation, row.test);
            }
            "not yet" => assert_eq!((row.test, row.missing), ("-", "-"), "{}", row.operation),
            other => panic!("{}: {other} is neither \"served\", \"partly\" nor \"not yet\"", row.operation),
        }
    }
}

/// A path with something in place of its parameters.
fn example(path: &str) -> String {
    path.split('/').map(|part| if part.starts_with('{') { "x" } else { part }).collect::<Vec<_>>().join("/")
}

#[tokio::test]
async fn the_server_serves_what_the_ledger_says_and_nothing_else() {
    let server = Server::start();
    // Two operations can share a method and path (inviting by user id and by third-party id).
    let places: HashSet<_> = rows().iter().filter(|row| row.is_served()).map(|row| (row.method, row.path)).collect();
    for row in rows() {
        let expected = places.contains(&(row.method, row.path));
        let method = Method::from_bytes(row.method.as_bytes()).expect("a method");
        let (status, answer) = server.request(method, &example(row.path), None).await;
        let served = answer["errcode"] != "M_UNRECOGNIZED";
        let Row { api, method, path, status: said, .. } = row;
        assert_eq!(served, expected, "{api} {method} {path} is {said}, and answers {status} {answer}");
    }
}

#[test]
fn every_invariant_names_a_test_that_is_there() {
    let page = include_str!("../docs/architecture.md");
    let mut count = 0;
    for row in page.lines().filter(|line| line.ends_with("` |")) {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        let &[_, file, test] = cells.as_slice() else { panic!("three cells: {row}") };
        let source = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(source.contains(&format!("fn {test}")), "{file} has no test {test}");
        count += 1;
    }
    assert!(count > 10, "the table of invariants was not found");
}
