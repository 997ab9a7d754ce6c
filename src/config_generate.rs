//! `conduit.toml` from the typed configuration: each key with its docstring and default.

use serde_json::Value;
use settings::{Key, Settings, Table};

use crate::config::{Config, Parts};

const HEADER: &str = "\
# Haima's configuration. It works as it stands, for trying the server out on this machine.
#
# Every key is shown with its default; one that is commented out has none. In the environment, a variable named CONDUIT_
# and the key in capitals overrides the file: CONDUIT_PORT=8448, CONDUIT_TLS__CERTS=/etc/certs/fullchain.pem.
# `haima check-config` says what is wrong with a file; `haima generate-config` prints this one.
";

/// Longest comment line, in characters.
const COMMENT_WIDTH: usize = 118;

/// What the parts are made of.
#[derive(Default)]
pub(crate) struct Outline {
    /// The keys of `[global]`.
    pub(crate) keys: Vec<Key>,
    /// Those that are tables, with their own keys.
    pub(crate) tables: Vec<Table>,
}

impl Parts for Outline {
    fn part<T: Settings>(&mut self) -> T {
        self.keys.extend(Table::of::<T>("").keys);
        self.tables.extend(T::tables());
        T::default()
    }
}

impl Outline {
    pub(crate) fn new() -> Self {
        let mut outline = Self::default();
        Config::compose(&mut outline);
        outline
    }

    fn table(&self, name: &str) -> Option<&Table> {
        self.tables.iter().find(|table| table.name == name)
    }

    /// The key with this path in `[global]`.
    fn key(&self, path: &str) -> Option<&Key> {
        let (keys, name) = match path.split_once('.') {
            Some((table, name)) => (&self.table(table)?.keys, name),
            None => (&self.keys, path),
        };
        keys.iter().find(|key| key.name == name)
    }
}

/// Whether the key of `[global]` takes text, so that a variable's value needs no quotes. Keys without a default all do.
pub(crate) fn takes_text(path: &str) -> bool {
    Outline::new().key(path).is_some_and(|key| matches!(key.default, Value::String(_) | Value::Null))
}

/// The commented configuration file, as `conduit.toml` in the repository has it.
pub fn generate() -> String {
    let outline = Outline::new();
    let mut out = format!("{HEADER}\n[global]\n");
    for key in outline.keys.iter().filter(|key| outline.table(key.name).is_none()) {
        write_key(&mut out, key, "");
    }
    for table in &outline.tables {
        let key = outline.key(table.name);
        // Without a default the table is not there.
        let mark = if key.is_some_and(|key| key.default.is_null()) { "#" } else { "" };
        out.push('\n');
        write_comment(&mut out, key.map_or("", |key| key.docs));
        out.push_str(&format!("{mark}[global.{}]\n", table.name));
        for key in &table.keys {
            write_key(&mut out, key, mark);
        }
    }
    out
}

/// A key with its explanation and default, or commented out where it has none.
fn write_key(out: &mut String, Key { name, docs, default }: &Key, mark: &str) {
    out.push('\n');
    write_comment(out, docs);
    match default {
        Value::Null => out.push_str(&format!("#{name} = \"\"\n")),
        value => out.push_str(&format!("{mark}{name} = {}\n", inline(value))),
    }
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
