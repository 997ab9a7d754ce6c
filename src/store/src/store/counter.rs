//! Counters: ascending numbers, reserved in blocks, never given twice.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    batch::Batch,
    error::{CommitError, StoreError},
    store::Store,
    table::Counters,
};

/// Numbers that a counter reserves at one time; a restart skips what is left of them.
pub const COUNTER_BLOCK: u64 = 4096;

/// The numbers in memory from which a counter gives.
#[derive(Clone, Copy, Default)]
struct Block {
    /// The last number that was given.
    last: u64,
    /// The last number that is reserved.
    end: u64,
}

#[derive(Default)]
struct Inner {
    block: Mutex<Block>,
    /// Held while a block is being reserved.
    reserving: tokio::sync::Mutex<()>,
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Block> {
        self.block.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next number, if the block has one.
    fn take(&self) -> Option<u64> {
        let mut block = self.lock();
        if block.last == block.end {
            return None;
        }
        block.last += 1;
        Some(block.last)
    }
}

/// The counters in use, by name: two handles of one name share their block.
#[derive(Default)]
pub(crate) struct Registry {
    counters: Mutex<HashMap<String, Arc<Inner>>>,
}

impl Registry {
    fn counter(&self, name: &str) -> Arc<Inner> {
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(counters.entry(name.to_owned()).or_default())
    }
}

/// Gives ascending numbers from 1 on. No number is given twice, also after a crash; some are skipped.
#[derive(Clone)]
pub struct Counter {
    store: Store,
    name: Arc<str>,
    inner: Arc<Inner>,
}

impl Counter {
    /// The counter with this name.
    pub(crate) fn new(store: &Store, registry: &Registry, name: &str) -> Counter {
        Counter { store: store.clone(), name: name.into(), inner: registry.counter(name) }
    }

    /// The next number.
    pub async fn next(&self) -> Result<u64, StoreError> {
        loop {
            if let Some(number) = self.inner.take() {
                return Ok(number);
            }
            let _reserving = self.inner.reserving.lock().await;
            // Another caller may have reserved a block meanwhile.
            if let Some(number) = self.inner.take() {
                return Ok(number);
            }
            self.reserve().await?;
        }
    }

    async fn reserve(&self) -> Result<(), StoreError> {
        let view = self.store.view().await?;
        let stored = view.get::<Counters>(&self.name).await?;
        let last = stored.unwrap_or(0);
        let end = last + COUNTER_BLOCK;
        let mut batch = Batch::new();
        batch.expect::<Counters>(&self.name, stored.as_ref());
        batch.put::<Counters>(&self.name, &end);
        match self.store.commit(batch).await {
            Ok(_) => {
                *self.inner.lock() = Block { last, end };
                Ok(())
            }
            // An earlier attempt that seemed to fail was written after all; look again.
            Err(CommitError::Conflict) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
