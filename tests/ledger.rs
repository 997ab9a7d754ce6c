//! `spec/endpoints.tsv` against the router and against the tests.

use std::collections::HashSet;

use reqwest::Method;

use crate::support::Server;

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

/// A path with something in place of its parameters.
fn example(path: &str) -> String {
    path.split('/').map(|part| if part.starts_with('{') { "x" } else { part }).collect::<Vec<_>>().join("/")
}

#[tokio::test]
async fn the_server_serves_what_the_ledger_says_and_nothing_else() {
    let server = Server::start();
    // Two operations can share a method and path (inviting by user id and by third-party id).
    let places: HashSet<_> =
        rows().iter().filter(|row| row.status == "served").map(|row| (row.method, row.path)).collect();
    for row in rows() {
        let expected = places.contains(&(row.method, row.path));
        let method = Method::from_bytes(row.method.as_bytes()).expect("a method");
        let (status, answer) = server.request(method, &example(row.path), None).await;
        let served = answer["errcode"] != "M_UNRECOGNIZED";
        let Row { api, method, path, status: said, .. } = row;
        assert_eq!(served, expected, "{api} {method} {path} is {said}, and answers {status} {answer}");
    }
}
