//! Tables: typed, ordered maps, each declared by the crate that owns it.

use crate::{
    codec::{Decode, Encode, Reader, Writer},
    error::{DecodeError, StoreError},
    value::{Value, read_stored},
};

/// How a table is used, which decides how the engine keeps it.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum Family {
    /// Single keys are looked up: filters on whole keys.
    Points,
    /// Ranges are scanned.
    Ranges,
    /// Written in order, read in order, trimmed at the old end.
    Log,
    /// Values of many kilobytes, kept apart from their keys.
    Large,
}

impl Family {
    /// All families, in the order of [`Family::index`].
    pub(crate) const ALL: [Family; 4] = [Family::Points, Family::Ranges, Family::Log, Family::Large];

    /// The family's place in [`Family::ALL`].
    pub(crate) const fn index(self) -> usize {
        match self {
            Family::Points => 0,
            Family::Ranges => 1,
            Family::Log => 2,
            Family::Large => 3,
        }
    }

    /// The name by which the engine knows the family.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Family::Points => "points",
            Family::Ranges => "ranges",
            Family::Log => "log",
            Family::Large => "large",
        }
    }
}

/// A table. Declare it with [`table!`](crate::table!).
pub trait Table: 'static {
    /// The number under which the table's keys are stored; never changed, never used again.
    const ID: u16;
    /// The table's name, for errors and tools.
    const NAME: &'static str;
    /// How the table is used.
    const FAMILY: Family;
    /// Whether a restored store starts with this table empty.
    const FORGET_ON_RESTORE: bool = false;
    /// The key: one or two parts, or a struct that derives [`Key`](crate::Key). Anything that is `Encode<Key>` can be looked up.
    type Key: Decode;
    /// The value: one thing, or a struct that derives [`Value`](macro@crate::Value).
    type Value: Value;
}

/// A key as it is stored: the table's number before it.
pub(crate) fn stored_key<T: Table>(key: &impl Encode<T::Key>) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.bytes.reserve(64);
    writer.raw(&T::ID.to_be_bytes());
    key.encode(&mut writer);
    debug_assert!(writer.stamps.is_empty(), "a stamp was looked up in table {}", T::NAME);
    writer.bytes
}

/// A stored row.
pub(crate) fn decode_row<T: Table>(key: &[u8], value: &[u8]) -> Result<(T::Key, T::Value), StoreError> {
    let decode = || {
        let mut reader = Reader::new(key);
        reader.array::<2>()?;
        let key = T::Key::decode(&mut reader)?;
        reader.finish()?;
        Ok((key, read_stored(value)?))
    };
    decode().map_err(decode_error::<T>)
}

pub(crate) fn decode_error<T: Table>(error: DecodeError) -> StoreError {
    StoreError::Decode { table: T::NAME, error }
}

/// A table's declaration as a value, to hand to [`Store::open_rocksdb`](crate::Store::open_rocksdb).
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct TableInfo {
    /// [`Table::ID`].
    pub id: u16,
    /// [`Table::NAME`].
    pub name: &'static str,
    /// [`Table::FAMILY`].
    pub family: Family,
    /// [`Table::FORGET_ON_RESTORE`].
    pub forget_on_restore: bool,
}

impl TableInfo {
    /// The declaration of `T`.
    pub const fn of<T: Table>() -> TableInfo {
        TableInfo { id: T::ID, name: T::NAME, family: T::FAMILY, forget_on_restore: T::FORGET_ON_RESTORE }
    }

    /// What must not change about a table that was opened once: its name and family.
    pub(crate) fn declaration(&self) -> String {
        format!("{} ({})", self.name, self.family.name())
    }
}

/// Declares tables. A key is one or two parts, or a struct that derives [`Key`](crate::Key); a value is one thing, or a struct that
/// derives [`Value`](macro@crate::Value).
///
/// ```
/// /// How to write to a user.
/// #[derive(store::Value)]
/// pub(crate) struct Address {
///     /// The mail address.
///     pub(crate) mail: String,
///     /// When the user proved that it is theirs, in Unix milliseconds.
///     pub(crate) confirmed_ms: u64,
/// }
/// store::table! {
///     /// The mail address of each user.
///     pub(crate) Mail = 300, Points: String => Address;
///     /// One-time codes; a restored store must not know them.
///     pub(crate) Codes = 301, Points: (String, u64) => (), forget_on_restore
/// }
/// ```
#[macro_export]
macro_rules! table {
    ($(
        $(#[$meta:meta])*
        $vis:vis $name:ident = $id:expr, $family:ident: $key:ty => $value:ty $(, $flag:ident)?
    );+ $(;)?) => {$(
        $(#[$meta])*
        $vis struct $name;

        impl $crate::Table for $name {
            const ID: u16 = $id;
            const NAME: &'static str = stringify!($name);
            const FAMILY: $crate::Family = $crate::Family::$family;
            $($crate::table!(@flag $flag);)?
            type Key = $key;
            type Value = $value;
        }
    )+};
    (@flag forget_on_restore) => {
        const FORGET_ON_RESTORE: bool = true;
    };
}

table! {
    /// Numbers and names that the store keeps about itself, encoded as their reader says.
    pub(crate) Meta = 0, Points: String => bytes::Bytes;
    /// The log: the kind of an entry (two bytes) and its payload.
    pub(crate) Log = 1, Log: crate::Position => bytes::Bytes;
    /// How far each named follower is.
    pub(crate) Cursors = 2, Points: String => crate::Position;
    /// The end of the block of numbers that each counter has reserved.
    pub(crate) Counters = 3, Points: String => u64;
    /// Every table that was ever opened, as [`TableInfo::declaration`] tells it.
    pub(crate) Catalog = 4, Ranges: u16 => String;
    /// What the store belongs to, by kind.
    pub(crate) Identities = 5, Points: String => String
}

/// The store's own tables.
pub(crate) const TABLES: &[TableInfo] = &[
    TableInfo::of::<Meta>(),
    TableInfo::of::<Log>(),
    TableInfo::of::<Cursors>(),
    TableInfo::of::<Counters>(),
    TableInfo::of::<Catalog>(),
    TableInfo::of::<Identities>(),
];
