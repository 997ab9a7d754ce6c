//! Projections, to which everything is applied before it is published.

use std::sync::{Arc, Mutex};

use store::{LogRecord, Position, Projection, Store};

use crate::{
    backend::{Backend, run},
    log::note,
    model::Note,
};

/// Keeps what was applied to it.
pub struct Applied {
    /// The position of the view as of which it began.
    pub from: Position,
    notes: Mutex<Vec<(Position, Vec<u8>)>>,
}

impl Projection for Applied {
    fn apply(&self, records: &[LogRecord]) {
        let mut notes = self.notes.lock().unwrap();
        for record in records {
            notes.push((record.position, record.decode::<Note>().unwrap().unwrap().0));
        }
    }
}

impl Applied {
    pub async fn begin(store: &Store) -> Arc<Applied> {
        store.project(|view| Arc::new(Applied { from: view.position(), notes: Mutex::default() })).await.unwrap()
    }

    pub fn notes(&self) -> Vec<(Position, Vec<u8>)> {
        self.notes.lock().unwrap().clone()
    }
}

pub fn what_is_dropped_is_told_nothing_more(backend: &impl Backend) {
    run(async {
        let store = backend.open(&[]).await;
        let (dropped, kept) = (Applied::begin(&store).await, Applied::begin(&store).await);
        let first = note(&store, "to both").await;
        assert_eq!(dropped.notes(), kept.notes());
        let dropped = {
            let weak = Arc::downgrade(&dropped);
            drop(dropped);
            weak
        };
        let second = note(&store, "to one").await;
        assert!(dropped.upgrade().is_none());
        let late = Applied::begin(&store).await;
        assert_eq!(late.from, second);
        assert_eq!(kept.notes().iter().map(|note| note.0).collect::<Vec<_>>(), [first, second]);
        assert!(late.notes().is_empty());
        store.close().await;
    });
}
