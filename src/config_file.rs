//! Reading the configuration: file and environment merged, errors with key and place.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use serde::Deserialize;
use settings::Settings;
use toml::{Table, Value};

use crate::{
    config::{Config, Parts},
    config_generate::takes_text,
};

/// The one table of the file; what else it has is inside.
const GLOBAL: &str = "global";
/// Variables with this prefix override keys.
const ENV_PREFIX: &str = "CONDUIT_";
/// Keys that files of earlier versions have, and nothing reads now. They are no reason not to start.
const RETIRED: &[&str] = &["global.trusted_servers", "global.ip_from_forwarded_header"];
/// Names the file, not a key.
const ENV_CONFIG: &str = "CONDUIT_CONFIG";

/// Why a configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Something in it is wrong: a line for each fault.
    #[error("{}", .0.join("\n"))]
    Invalid(Vec<String>),
}

/// A configuration that can be used.
#[derive(Debug)]
pub struct Loaded {
    /// What it says.
    pub config: Config,
    /// What it says to no effect: a line for each key.
    pub ignored: Vec<String>,
}

/// Reads the configuration file, with `env` (names and values) in place of what the file says.
///
/// # Errors
/// If the file can't be read, isn't TOML, has an unknown key, a value of a wrong type or an impossible value; every
/// message names the key with its line or variable.
pub fn load(path: &Path, env: impl Iterator<Item = (String, String)>) -> Result<Loaded, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    parse(&text, &path.display().to_string(), env)
}

/// As [`load`], for text that was read from `name`.
pub(crate) fn parse(
    text: &str,
    name: &str,
    env: impl Iterator<Item = (String, String)>,
) -> Result<Loaded, ConfigError> {
    let mut table: Table = toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(1, |span| line_at(text, span.start));
        ConfigError::Invalid(vec![format!("{name}:{line}: {}", error.message())])
    })?;
    let variables = merge_env(&mut table, env);
    let places = Places { name, lines: key_lines(text), variables };
    let mut reader = Reader::of(table);
    let config = Config::compose(&mut reader);
    let Reader { global, mut unknown, mut faults } = reader;
    // What is left is of no part.
    unknown.extend(global.keys().map(|key| in_global(key)));
    if faults.is_empty() {
        faults.extend(config.faults().iter().map(|(key, why)| (in_global(key), (*why).to_owned())));
    }
    let (retired, unknown): (Vec<_>, Vec<_>) = unknown.iter().partition(|key| RETIRED.contains(&key.as_str()));
    let ignored = retired.into_iter().map(|key| places.fault(key, "has no effect any more")).collect();
    let unknown = unknown.into_iter().map(|key| places.fault(key, "unknown key"));
    let faults: Vec<_> = unknown.chain(faults.iter().map(|(key, why)| places.fault(key, why))).collect();
    if faults.is_empty() { Ok(Loaded { config, ignored }) } else { Err(ConfigError::Invalid(faults)) }
}

/// The path of a key of `[global]`.
fn in_global(key: &str) -> String {
    format!("{GLOBAL}.{key}")
}

/// Reads each part from its keys.
struct Reader {
    /// What no part has taken yet.
    global: Table,
    unknown: BTreeSet<String>,
    /// Keys and what is wrong with them.
    faults: Vec<(String, String)>,
}

impl Reader {
    fn of(mut file: Table) -> Self {
        let mut faults = Vec::new();
        let global = match file.remove(GLOBAL) {
            Some(Value::Table(global)) => global,
            None => Table::new(),
            Some(_) => {
                faults.push((GLOBAL.to_owned(), "must be a table".to_owned()));
                Table::new()
            }
        };
        Self { global, unknown: file.keys().cloned().collect(), faults }
    }
}

impl Parts for Reader {
    /// The part as the file has it, or its default if that can't be.
    fn part<T: Settings>(&mut self) -> T {
        let keys = settings::Table::of::<T>(GLOBAL).keys.into_iter();
        let own = keys.filter_map(|key| Some((key.name.to_owned(), self.global.remove(key.name)?))).collect();
        let mut track = serde_path_to_error::Track::new();
        let tracked = serde_path_to_error::Deserializer::new(Value::Table(own), &mut track);
        let parsed: Result<T, _> = serde_ignored::deserialize(tracked, |path| {
            self.unknown.insert(in_global(&plain_path(&path.to_string())));
        });
        match parsed {
            Ok(part) => {
                self.faults.extend(part.faults().into_iter().map(|(key, why)| (in_global(key), why.to_owned())));
                part
            }
            Err(error) => {
                let key = in_global(&plain_path(&track.path().to_string()));
                self.faults.push((key, error.message().to_owned()));
                T::default()
            }
        }
    }
}

/// Where each key got its value.
struct Places<'a> {
    name: &'a str,
    lines: BTreeMap<String, usize>,
    variables: BTreeMap<String, String>,
}

impl Places<'_> {
    fn fault(&self, key: &str, why: &str) -> String {
        let shown = key.strip_prefix("global.").unwrap_or(key);
        if let Some(variable) = self.variables.get(key) {
            return format!("{variable} (in the environment): {shown}: {why}");
        }
        let mut known = key;
        loop {
            if let Some(line) = self.lines.get(known) {
                return format!("{}:{line}: {shown}: {why}", self.name);
            }
            match known.rsplit_once('.') {
                Some((parent, _)) => known = parent,
                None => return format!("{}: {shown}: {why}", self.name),
            }
        }
    }
}

/// Puts the environment's values into the table and returns `key -> variable`.
fn merge_env(table: &mut Table, env: impl Iterator<Item = (String, String)>) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    for (variable, text) in env {
        let Some(rest) = variable.strip_prefix(ENV_PREFIX) else { continue };
        if variable == ENV_CONFIG {
            continue;
        }
        let path: Vec<String> = rest.to_lowercase().split("__").map(str::to_owned).collect();
        let Some((key, parents)) = path.split_last() else { continue };
        let dotted = in_global(&path.join("."));
        let value = env_value(&text, takes_text(&path.join(".")));
        let mut inner = table.entry(GLOBAL).or_insert_with(|| Value::Table(Table::new()));
        for parent in parents {
            let Value::Table(map) = inner else { break };
            inner = map.entry(parent.as_str()).or_insert_with(|| Value::Table(Table::new()));
        }
        if let Value::Table(map) = inner {
            map.insert(key.clone(), value);
        }
        variables.insert(dotted, variable);
    }
    variables
}

/// A variable's text as the TOML value that the key takes: as it stands for strings, else parsed.
fn env_value(text: &str, is_string: bool) -> Value {
    if is_string {
        return Value::String(text.to_owned());
    }
    #[derive(Deserialize)]
    struct Holder {
        value: Value,
    }
    match toml::from_str::<Holder>(&format!("value = {text}")) {
        Ok(holder) => holder.value,
        Err(_) => Value::String(text.to_owned()),
    }
}

/// The lines of all keys, by their dotted path.
fn key_lines(text: &str) -> BTreeMap<String, usize> {
    let mut lines = BTreeMap::new();
    if let Ok(document) = toml_edit::Document::parse(text) {
        collect_lines(document.as_table(), "", text, &mut lines);
    }
    lines
}

fn collect_lines(table: &dyn toml_edit::TableLike, prefix: &str, text: &str, lines: &mut BTreeMap<String, usize>) {
    for (key, item) in table.iter() {
        let path = if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") };
        let span = table.key(key).and_then(toml_edit::Key::span).or_else(|| item.span());
        if let Some(span) = span {
            lines.insert(path.clone(), line_at(text, span.start));
        }
        if let Some(inner) = item.as_table_like() {
            collect_lines(inner, &path, text, lines);
        }
    }
}

/// The number, from 1, of the line with this byte.
fn line_at(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

/// A path as the tracking crates write it (`global.tls.?.key`), with the marks of optional values left out.
fn plain_path(path: &str) -> String {
    path.split('.').filter(|part| *part != "?").collect::<Vec<_>>().join(".")
}
