//! A span of keys to scan, and the rows of one page of it.

use std::ops::ControlFlow;

use crate::table::Family;

/// The bytes, keys and values, with which a page ends, whatever its limit.
pub const SCAN_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Keys to visit: `lower` inclusive, `upper` exclusive.
#[derive(Clone, Debug)]
pub(crate) struct ScanSpan {
    pub(crate) family: Family,
    pub(crate) lower: Vec<u8>,
    pub(crate) upper: Vec<u8>,
    pub(crate) reverse: bool,
}

/// Keys and values in one buffer, at most as many as a page may have.
pub(crate) struct Rows {
    bytes: Vec<u8>,
    /// Where the key and the value of each row end.
    ends: Vec<(usize, usize)>,
    rows_max: usize,
}

impl Rows {
    pub(crate) fn new(rows_max: usize) -> Rows {
        Rows { bytes: Vec::new(), ends: Vec::new(), rows_max }
    }

    /// Adds a row, and says whether there may be another.
    pub(crate) fn push(&mut self, key: &[u8], value: &[u8]) -> ControlFlow<()> {
        self.bytes.extend_from_slice(key);
        let key_end = self.bytes.len();
        self.bytes.extend_from_slice(value);
        self.ends.push((key_end, self.bytes.len()));
        if self.is_full() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Raises the number of rows wanted and narrows `span` to what was not visited yet.
    pub(crate) fn continue_to(&mut self, rows_max: usize, span: &mut ScanSpan) {
        self.rows_max = rows_max;
        self.narrow(span.reverse, &mut span.lower, &mut span.upper);
    }

    /// Narrows the bounds of a range to what comes after these rows.
    pub(crate) fn narrow(&self, reverse: bool, lower: &mut Vec<u8>, upper: &mut Vec<u8>) {
        let Some((key, _)) = self.last() else { return };
        if reverse {
            *upper = key.to_vec();
        } else {
            // The smallest key above a key is the key with a zero byte at the end.
            *lower = [key, &[0]].concat();
        }
    }

    /// Whether there are as many rows as wanted, or as many bytes as a page may have.
    pub(crate) fn is_full(&self) -> bool {
        self.is_page(self.rows_max)
    }

    /// Whether these are all the rows that a page with this limit may have.
    pub(crate) fn is_page(&self, limit: usize) -> bool {
        self.ends.len() >= limit || self.bytes.len() >= SCAN_BYTES_MAX
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let starts = std::iter::once(0).chain(self.ends.iter().map(|(_, end)| *end));
        let row = |(start, (key_end, end)): (usize, &(usize, usize))| {
            (&self.bytes[start..*key_end], &self.bytes[*key_end..*end])
        };
        starts.zip(&self.ends).map(row)
    }

    fn last(&self) -> Option<(&[u8], &[u8])> {
        let (key_end, end) = self.ends.last()?;
        let start = match self.ends.len() {
            1 => 0,
            rows => self.ends[rows - 2].1,
        };
        Some((&self.bytes[start..*key_end], &self.bytes[*key_end..*end]))
    }
}
