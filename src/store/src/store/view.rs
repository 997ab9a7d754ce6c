//! Views: reads that all see one position.

use std::{future::Future, sync::Arc};

use tokio::sync::oneshot;

use crate::{
    codec::Encode,
    engine::{Bulk, Later, Lookup, Rows, ScanSpan, Snapshot, Values},
    error::StoreError,
    position::Position,
    range::Range,
    table::{Table, decode_error, decode_row, stored_key},
    value::read_stored,
};

/// A key and its value.
pub type Row<T> = (<T as Table>::Key, <T as Table>::Value);

/// Rows of a table, in the order of the scan, and where it goes on.
#[must_use]
pub struct Page<T: Table> {
    /// As many rows as the range's limit, or fewer at the end of the range and where [`SCAN_BYTES_MAX`](crate::SCAN_BYTES_MAX) is
    /// reached. At least one, unless there is none.
    pub rows: Vec<Row<T>>,
    /// What comes after these rows, with the same limit. `None` once nothing can come.
    pub next: Option<Range<T>>,
}

/// The tables as they were at one position. Cheap to clone.
///
/// A view keeps old data from being reclaimed, so take a new one for each operation and don't keep it
/// while waiting for something to happen.
#[derive(Clone)]
pub struct View {
    snapshot: Arc<dyn Snapshot>,
}

/// The outcome of a look-up.
enum Found<V> {
    Known(Option<V>),
    Later(Later<Option<Vec<u8>>>),
}

impl View {
    pub(crate) fn new(snapshot: Arc<dyn Snapshot>) -> View {
        View { snapshot }
    }

    /// Everything up to this position, and nothing after it, is visible.
    pub fn position(&self) -> Position {
        self.snapshot.position()
    }

    /// The value of a key.
    pub async fn get<T: Table>(&self, key: &impl Encode<T::Key>) -> Result<Option<T::Value>, StoreError> {
        let read = match self.look_up::<T>(stored_key::<T>(key))? {
            Found::Known(value) => return Ok(value),
            Found::Later(read) => read,
        };
        let value = read.await?.map(|bytes| read_stored(&bytes)).transpose();
        value.map_err(decode_error::<T>)
    }

    /// Whether a key has a value.
    pub async fn contains<T: Table>(&self, key: &impl Encode<T::Key>) -> Result<bool, StoreError> {
        let mut present = false;
        let lookup = self.snapshot.get(T::FAMILY, stored_key::<T>(key), &mut |value| present = value.is_some())?;
        match lookup {
            Lookup::Done => Ok(present),
            Lookup::Later(read) => Ok(read.await?.is_some()),
        }
    }

    /// The values of many keys, in their order.
    pub async fn get_many<T: Table>(&self, keys: &[impl Encode<T::Key>]) -> Result<Vec<Option<T::Value>>, StoreError> {
        let stored: Vec<Vec<u8>> = keys.iter().map(stored_key::<T>).collect();
        let mut order: Vec<usize> = (0..stored.len()).collect();
        order.sort_unstable_by(|a, b| stored[*a].cmp(&stored[*b]));
        let mut values: Vec<Option<T::Value>> = Vec::with_capacity(stored.len());
        values.resize_with(stored.len(), || None);
        if let Some(read) = self.look_up_many::<T>(&stored, &order, &mut values)? {
            for (at, bytes) in read.await? {
                let value = bytes.map(|bytes| read_stored(&bytes)).transpose();
                values[order[at]] = value.map_err(decode_error::<T>)?;
            }
        }
        Ok(values)
    }

    /// A page of rows in order. Not to look at [`Page::next`] is right where fewer rows than asked for do no harm, or where
    /// the rows that there can be are known to fit.
    pub async fn scan<T: Table>(&self, range: Range<T>) -> Result<Page<T>, StoreError> {
        let span = ScanSpan {
            family: T::FAMILY,
            lower: range.lower.clone(),
            upper: range.upper.clone(),
            reverse: range.reverse,
        };
        let rows = self.snapshot.scan(span, range.limit).wait().await?;
        page_of(&rows, range)
    }

    /// Every row of a range that is known to be short: what writers put there has a limit of its own.
    pub async fn scan_all<T: Table>(&self, range: Range<T>) -> Result<Vec<Row<T>>, StoreError> {
        let Page { mut rows, mut next } = self.scan(range).await?;
        while let Some(rest) = next {
            let page = self.scan(rest).await?;
            rows.extend(page.rows);
            next = page.next;
        }
        Ok(rows)
    }

    /// The first row of a range.
    pub async fn first<T: Table>(&self, range: Range<T>) -> Result<Option<Row<T>>, StoreError> {
        Ok(self.scan(range.limit(1)).await?.rows.pop())
    }

    /// Does work that reads very much, hundreds of rows that may not be in memory, from the view that it is given: this one, for which
    /// the store has made such reads cheap. The store bounds how much of such work is done at the same time, so
    /// work must not wait for other such work. It goes on if nobody waits for it any more.
    ///
    /// # Errors
    /// [`StoreError::Closed`] if the program is shutting down.
    ///
    /// # Panics
    /// If the work does.
    pub async fn bulk<R, F>(&self, work: impl FnOnce(View) -> F + Send + 'static) -> Result<R, StoreError>
    where
        R: Send + 'static,
        F: Future<Output = R> + Send + 'static,
    {
        let (answer, outcome) = oneshot::channel();
        let work: Bulk = Box::new(move |snapshot| {
            let work = work(View::new(snapshot));
            Box::pin(async move {
                // Whoever asked may have gone.
                answer.send(work.await).ok();
            })
        });
        Arc::clone(&self.snapshot).bulk(work).await?;
        outcome.await.map_err(|_| StoreError::Closed)
    }

    /// The value of a key, if it is at hand.
    fn look_up<T: Table>(&self, key: Vec<u8>) -> Result<Found<T::Value>, StoreError> {
        let mut value = None;
        match self.snapshot.get(T::FAMILY, key, &mut |bytes| value = bytes.map(read_stored))? {
            Lookup::Done => value.transpose().map(Found::Known).map_err(decode_error::<T>),
            Lookup::Later(read) => Ok(Found::Later(read)),
        }
    }

    /// Reads those values that are at hand, and gives what to wait for, by the place in the order of the keys, where some are not.
    fn look_up_many<T: Table>(
        &self,
        stored: &[Vec<u8>],
        order: &[usize],
        values: &mut [Option<T::Value>],
    ) -> Result<Option<Later<Values>>, StoreError> {
        let sorted: Vec<&[u8]> = order.iter().map(|index| stored[*index].as_slice()).collect();
        let mut failure = None;
        let mut found = |at: usize, bytes: Option<&[u8]>| match bytes.map(read_stored).transpose() {
            Ok(value) => values[order[at]] = value,
            Err(error) => failure = Some(error),
        };
        let lookup = self.snapshot.get_many(T::FAMILY, &sorted, &mut found)?;
        if let Some(error) = failure {
            return Err(decode_error::<T>(error));
        }
        match lookup {
            Lookup::Done => Ok(None),
            Lookup::Later(read) => Ok(Some(read)),
        }
    }
}

fn page_of<T: Table>(rows: &Rows, mut range: Range<T>) -> Result<Page<T>, StoreError> {
    let mut decoded = Vec::with_capacity(rows.len());
    for (key, value) in rows.iter() {
        decoded.push(decode_row::<T>(key, value)?);
    }
    if decoded.is_empty() || !rows.is_page(range.limit) {
        return Ok(Page { rows: decoded, next: None });
    }
    rows.narrow(range.reverse, &mut range.lower, &mut range.upper);
    Ok(Page { rows: decoded, next: Some(range) })
}
