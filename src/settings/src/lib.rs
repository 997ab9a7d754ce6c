//! What the configurations of all crates have in common. A crate's `Config` is its part of the file's `[global]` table.
//!
//! A field is a key: its name is the key's, its docstring the explanation in the generated file, its value in [`Default`] what holds
//! without the key. What a crate is given otherwise (by who puts the parts together, or by tests) is `#[serde(skip)]`.

mod units;

use documented::DocumentedFields;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

pub use self::units::{Days, Mebibytes, Seconds, Time};

/// A part of the file: keys that one crate reads.
pub trait Settings: DocumentedFields + Default + Serialize + DeserializeOwned {
    /// What is wrong with values that are each of the right type.
    fn faults(&self) -> Vec<Fault> {
        Vec::new()
    }

    /// Those of the keys that are tables with keys of their own.
    fn tables() -> Vec<Table> {
        Vec::new()
    }
}

/// A key and what is wrong with its value.
pub type Fault = (&'static str, &'static str);

/// The faults among checks, each a key, whether its value is impossible, and why.
pub fn refuse<const N: usize>(checks: [(&'static str, bool, &'static str); N]) -> Vec<Fault> {
    checks.into_iter().filter(|(_, bad, _)| *bad).map(|(key, _, why)| (key, why)).collect()
}

/// A table of the file.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its name in the table around it.
    pub name: &'static str,
    /// Its keys in the order of declaration.
    pub keys: Vec<Key>,
}

/// A key of the file.
#[derive(Clone, Debug)]
pub struct Key {
    /// Its name in its table.
    pub name: &'static str,
    /// What it means.
    pub docs: &'static str,
    /// What holds without it; null where that is nothing.
    pub default: Value,
}

impl Table {
    /// The table that a structure is read from.
    pub fn of<T: DocumentedFields + Default + Serialize>(name: &'static str) -> Self {
        let mut defaults = serde_json::to_value(T::default()).unwrap_or(Value::Null);
        let fields = T::FIELD_NAMES.iter().zip(T::FIELD_DOCS);
        // What is skipped is no key.
        let keys = fields.filter_map(|(name, docs)| {
            let default = defaults.get_mut(*name)?.take();
            Some(Key { name, docs, default })
        });
        Self { name, keys: keys.collect() }
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Serialize, Deserialize, DocumentedFields)]
    #[serde(default)]
    struct Example {
        /// How long.
        wait: Seconds,
        /// How much.
        much: Option<Mebibytes>,
        /// No key.
        #[serde(skip)]
        inner: u64,
    }

    impl Default for Example {
        fn default() -> Self {
            Self { wait: Seconds::of(3), much: None, inner: 7 }
        }
    }

    #[test]
    fn a_structure_is_a_table_of_keys_with_explanations_and_defaults() {
        let table = Table::of::<Example>("example");
        let keys: Vec<_> = table.keys.iter().map(|key| (key.name, key.docs, key.default.clone())).collect();
        assert_eq!(keys, [("wait", "How long.", json!(3)), ("much", "How much.", Value::Null)]);
    }

    #[test]
    fn values_are_in_the_units_of_the_file_and_what_is_skipped_keeps_its_default() {
        let example: Example = serde_json::from_value(json!({ "much": 2, "inner": 1 })).expect("an example");
        assert_eq!((example.wait.ms(), example.much.map(Mebibytes::bytes), example.inner), (3_000, Some(2 << 20), 7));
        assert_eq!(Days::of(1).ms(), 86_400_000);
        assert_eq!(Seconds::of(u64::MAX).ms(), u64::MAX);
        assert_eq!(serde_json::to_value(Days::of(30)).expect("JSON"), json!(30));
    }
}
