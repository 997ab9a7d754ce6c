//! Ranges of keys to scan.

use std::marker::PhantomData;

use crate::{
    codec::{Prefix, Writer, successor},
    table::Table,
};

/// Rows that a scan returns if it is not told otherwise, and the most that it can be told.
pub const SCAN_LIMIT: usize = 10_000;

/// Keys of table `T` between two bounds, the direction to read them in, and how many at most.
///
/// Each of [`after`](Range::after), [`from`](Range::from), [`before`](Range::before) and
/// [`through`](Range::through) narrows the range; none of them depends on the direction.
#[derive(Debug)]
pub struct Range<T> {
    pub(crate) lower: Vec<u8>,
    pub(crate) upper: Vec<u8>,
    pub(crate) reverse: bool,
    pub(crate) limit: usize,
    table: PhantomData<fn() -> T>,
}

impl<T> Clone for Range<T> {
    fn clone(&self) -> Range<T> {
        Range {
            lower: self.lower.clone(),
            upper: self.upper.clone(),
            reverse: self.reverse,
            limit: self.limit,
            table: PhantomData,
        }
    }
}

impl<T: Table> Range<T> {
    /// The whole table.
    pub fn all() -> Range<T> {
        Range::prefix(&())
    }

    /// Every key that starts with these elements.
    pub fn prefix(prefix: &impl Prefix<T::Key>) -> Range<T> {
        let lower = bound::<T>(prefix);
        let upper = above(&lower);
        Range { lower, upper, reverse: false, limit: SCAN_LIMIT, table: PhantomData }
    }

    /// Keys from everything below `from` up to, but not including, everything below `to`.
    pub fn between(from: &impl Prefix<T::Key>, to: &impl Prefix<T::Key>) -> Range<T> {
        Range::all().from(from).before(to)
    }

    /// Only keys strictly after everything that starts with `prefix`.
    pub fn after(mut self, prefix: &impl Prefix<T::Key>) -> Range<T> {
        self.lower = self.lower.max(above(&bound::<T>(prefix)));
        self
    }

    /// Only keys at or after `prefix`.
    pub fn from(mut self, prefix: &impl Prefix<T::Key>) -> Range<T> {
        self.lower = self.lower.max(bound::<T>(prefix));
        self
    }

    /// Only keys strictly before everything that starts with `prefix`.
    pub fn before(mut self, prefix: &impl Prefix<T::Key>) -> Range<T> {
        self.upper = self.upper.min(bound::<T>(prefix));
        self
    }

    /// Only keys up to everything that starts with `prefix`, inclusive.
    pub fn through(mut self, prefix: &impl Prefix<T::Key>) -> Range<T> {
        self.upper = self.upper.min(above(&bound::<T>(prefix)));
        self
    }

    /// Reads from the last key to the first.
    pub fn reverse(mut self) -> Range<T> {
        self.reverse = true;
        self
    }

    /// Returns at most `rows` rows (and never more than [`SCAN_LIMIT`]).
    pub fn limit(mut self, rows: usize) -> Range<T> {
        self.limit = rows.min(SCAN_LIMIT);
        self
    }
}

/// The stored form of leading elements of a key.
fn bound<T: Table>(prefix: &impl Prefix<T::Key>) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.raw(&T::ID.to_be_bytes());
    prefix.encode_prefix(&mut writer);
    writer.bytes
}

/// The smallest stored key above everything that starts with `prefix`. Table numbers end before
/// `ff ff`, so there always is one.
fn above(prefix: &[u8]) -> Vec<u8> {
    successor(prefix).unwrap_or_else(|| vec![0xff; 2])
}
