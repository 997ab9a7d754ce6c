//! `conduit.toml` from the typed configuration: each key with its docstring and default.

use documented::DocumentedFields;
use serde::Serialize;
use serde_json::Value;

use media::S3Config;

use crate::config::{Config, RateLimits, Tls, WellKnown};

const HEADER: &str = "\
# Haima's configuration. It works as it stands, for trying the server out on this machine.
#
# Every key is shown with its default; one that is commented out has none. In the environment, a variable named CONDUIT_
# and the key in capitals overrides the file: CONDUIT_PORT=8448, CONDUIT_TLS__CERTS=/etc/certs/fullchain.pem.
# `haima check-config` says what is wrong with a file; `haima generate-config` prints this one.
";

/// Longest comment line, in characters.
const COMMENT_WIDTH: usize = 118;

/// One table of the file.
pub(crate) struct Section {
    /// Its dotted name.
    name: &'static str,
    /// Keys and docstrings in the order of declaration.
    fields: Vec<(&'static str, &'static str)>,
    /// The default of every key; `null` where there is none.
    defaults: Value,
    /// Whether the table is there by default.
    live: bool,
}

impl Section {
    fn new<T: DocumentedFields + Default + Serialize>(name: &'static str, live: bool) -> Self {
        let fields = T::FIELD_NAMES.iter().copied().zip(T::FIELD_DOCS.iter().copied()).collect();
        let defaults = serde_json::to_value(T::default()).unwrap_or(Value::Null);
        Self { name, fields, defaults, live }
    }
}

/// Every table of the file.
pub(crate) fn sections() -> Vec<Section> {
    vec![
        Section::new::<Config>("global", true),
        Section::new::<Tls>("global.tls", false),
        Section::new::<S3Config>("global.media_s3", false),
        Section::new::<WellKnown>("global.well_known", true),
        Section::new::<RateLimits>("global.rate_limit", true),
    ]
}

/// Whether the key takes text, so that a variable's value needs no quotes. Keys without a default all do.
pub(crate) fn takes_text(path: &str) -> bool {
    let Some((table, key)) = path.rsplit_once('.') else { return false };
    sections().iter().any(|section| {
        section.name == table
            && section.fields.iter().any(|(name, _)| *name == key)
            && matches!(section.defaults[key], Value::String(_) | Value::Null)
    })
}

/// Every key with its table. Those that are tables themselves have theirs instead.
#[cfg(test)]
pub(crate) fn keys() -> Vec<(&'static str, &'static str)> {
    let sections = sections();
    let all = sections.iter().flat_map(|section| section.fields.iter().map(|(key, _)| (section.name, *key)));
    let is_table = |key: &str| sections.iter().any(|other| other.name.strip_prefix("global.") == Some(key));
    all.filter(|(_, key)| !is_table(key)).collect()
}

/// The commented configuration file, as `conduit.toml` in the repository has it.
pub fn generate() -> String {
    let mut out = String::from(HEADER);
    let sections = sections();
    let heading = |key: &str| sections.iter().find(|section| section.name.strip_prefix("global.") == Some(key));
    for section in &sections {
        if section.name == "global" {
            out.push_str("\n[global]\n");
        }
        let mark = if section.live { "" } else { "#" };
        for (key, docs) in &section.fields {
            if section.name == "global" && heading(key).is_some() {
                continue;
            }
            out.push('\n');
            write_comment(&mut out, docs);
            match &section.defaults[key] {
                Value::Null => out.push_str(&format!("#{key} = \"\"\n")),
                value => out.push_str(&format!("{mark}{key} = {}\n", inline(value))),
            }
        }
        if let Some(next) = sections.iter().skip_while(|other| other.name != section.name).nth(1) {
            out.push('\n');
            let docs = next.name.strip_prefix("global.").and_then(|key| Config::get_field_docs(key).ok());
            write_comment(&mut out, docs.unwrap_or_default());
            out.push_str(&format!("{}[{}]\n", if next.live { "" } else { "#" }, next.name));
        }
    }
    out
}

/// A value as TOML on one line. Null never comes here: such keys are commented out.
fn inline(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(inline).collect::<Vec<_>>().join(", ")),
        Value::Object(fields) => {
            let fields: Vec<_> = fields.iter().rev().map(|(key, value)| format!("{key} = {}", inline(value))).collect();
            format!("{{ {} }}", fields.join(", "))
        }
        // JSON's strings, numbers and booleans are TOML's too.
        plain => plain.to_string(),
    }
}

/// A docstring as comment lines.
fn write_comment(out: &mut String, text: &str) {
    let mut line = String::from("#");
    for word in text.split_whitespace() {
        if line.len() + word.len() >= COMMENT_WIDTH {
            out.push_str(&line);
            out.push('\n');
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    out.push_str(&line);
    out.push('\n');
}
