//! What the tests ask of each operation and are answered, of what the documents of the specification name: recorded in
//! the directory that `MATRIX_SPEC_COVERAGE` names, by every process of a run, and counted afterwards.

use std::{
    collections::{BTreeSet, HashMap},
    io::Write,
    path::Path,
};

use reqwest::Url;
use serde_json::Value;

use crate::{
    ledger::rows,
    schema::{Operation, Specification},
};

/// Every operation may refuse a request for the rate of requests; that is shown for one, not for each.
const TOO_MANY: &str = "M_LIMIT_EXCEEDED";

/// Notes a request and its answer.
pub fn record(operation: &Operation, url: &Url, sent: Option<&[u8]>, status: u16, answer: Option<&Value>) {
    let Some(directory) = std::env::var_os("MATRIX_SPEC_COVERAGE").filter(|directory| !directory.is_empty()) else {
        return;
    };
    let sent: Value = sent.and_then(|bytes| serde_json::from_slice(bytes).ok()).unwrap_or_default();
    // What is refused doesn't show that a parameter does something.
    let names: BTreeSet<_> = match status {
        200..300 => url.query_pairs().map(|(name, _)| format!("?{name}")).chain(keys(&sent)).collect(),
        _ => BTreeSet::new(),
    };
    let names: Vec<_> = names.into_iter().filter(|name| !name.contains(char::is_whitespace)).collect();
    let errcode = answer.and_then(|answer| answer["errcode"].as_str()).unwrap_or("-");
    let line = format!("{} {errcode} {}\n", operation.id, names.join(" "));
    let path = Path::new(&directory).join(std::process::id().to_string());
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    file.and_then(|mut file| file.write_all(line.as_bytes())).expect("MATRIX_SPEC_COVERAGE");
}

fn keys(object: &Value) -> impl Iterator<Item = String> {
    object.as_object().into_iter().flatten().map(|(name, _)| name.clone())
}

/// What the documents name of an operation: parameters (those of the query with a question mark) and error codes.
fn documented(specification: &Specification, operation: &Operation) -> (BTreeSet<String>, BTreeSet<String>) {
    let mut parameters = BTreeSet::new();
    for parameter in operation.parameters() {
        let (_, parameter) = specification.follow(&operation.file, parameter);
        if parameter["in"] == "query" {
            parameters.insert(format!("?{}", parameter["name"].as_str().expect("a name")));
        }
    }
    let (file, body) = specification.follow(&operation.file, &operation.definition()["requestBody"]);
    if let Some(schema) = body.pointer("/content/application~1json/schema") {
        add_properties(specification, &file, schema, &mut parameters);
    }
    let mut errcodes = BTreeSet::new();
    for (status, response) in operation.definition()["responses"].as_object().expect("responses") {
        if status.starts_with(['4', '5']) {
            let text = specification.follow(&operation.file, response).1.to_string();
            let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
            errcodes.extend(words.filter(|word| word.starts_with("M_")).map(str::to_owned));
        }
    }
    errcodes.remove(TOO_MANY);
    (parameters, errcodes)
}

fn add_properties(specification: &Specification, file: &str, schema: &Value, found: &mut BTreeSet<String>) {
    let (file, schema) = specification.follow(file, schema);
    found.extend(keys(&schema["properties"]));
    for part in ["allOf", "oneOf", "anyOf"].iter().filter_map(|key| schema[key].as_array()).flatten() {
        add_properties(specification, &file, part, found);
    }
}

#[test]
fn what_the_documents_name_and_the_tests_exercise() {
    let Some(specification) = Specification::given() else { return };
    let (mut answers, mut seen) = (0, HashMap::<String, BTreeSet<String>>::new());
    let directory = std::env::var_os("MATRIX_SPEC_COVERAGE").filter(|directory| !directory.is_empty());
    let recorded = directory.map(|directory| std::fs::read_dir(directory).expect("what was recorded"));
    for entry in recorded.into_iter().flatten() {
        let text = std::fs::read_to_string(entry.expect("an entry").path()).expect("a record");
        for line in text.lines() {
            let mut words = line.split(' ').map(str::to_owned);
            seen.entry(words.next().expect("an operation")).or_default().extend(words);
            answers += 1;
        }
    }
    let (mut operations, mut totals) = (0, [0; 4]);
    println!(
        "operation: parameters and error codes exercised of those documented; the others that are served; what is missing"
    );
    for row in rows().iter().filter(|row| row.api == "client-server" && row.is_served()) {
        let found = specification.operations.iter().find(|operation| operation.id == row.operation);
        let operation = found.unwrap_or_else(|| panic!("{} is not documented", row.operation));
        let (parameters, errcodes) = documented(specification, operation);
        let missing: BTreeSet<_> = row.missing().map(str::to_owned).collect();
        let unknown = missing.iter().find(|name| !parameters.contains(*name) && !errcodes.contains(*name));
        assert_eq!(unknown, None, "{}: what the ledger says is missing is not documented", row.operation);
        let seen = seen.get(&operation.id).cloned().unwrap_or_default();
        let counts = [&parameters, &errcodes].map(|names| (names.intersection(&seen).count(), names.len()));
        let [(parameters_seen, parameters_all), (errcodes_seen, errcodes_all)] = counts;
        for (total, count) in totals.iter_mut().zip([parameters_seen, parameters_all, errcodes_seen, errcodes_all]) {
            *total += count;
        }
        operations += 1;
        let left: Vec<_> = parameters
            .union(&errcodes)
            .filter(|name| !seen.contains(*name) && !missing.contains(*name))
            .cloned()
            .collect();
        let missing: Vec<_> = missing.into_iter().collect();
        println!(
            "{}: {parameters_seen}/{parameters_all} {errcodes_seen}/{errcodes_all}; {}; {}",
            operation.id,
            left.join(" "),
            missing.join(" ")
        );
    }
    let [parameters_seen, parameters_all, errcodes_seen, errcodes_all] = totals;
    println!(
        "{answers} answers of {} operations fit the specification; of {operations} operations served, \
         {parameters_seen} of {parameters_all} parameters and {errcodes_seen} of {errcodes_all} error codes were exercised",
        seen.len()
    );
}
