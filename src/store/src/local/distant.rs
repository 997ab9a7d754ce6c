//! The engine in memory as one on other machines is: nothing is at hand, all is waited for, and the log is read from its table. What a store promises
//! must not depend on more.

use std::{path::PathBuf, sync::Arc};

use tokio::{sync::watch, task::yield_now};

use crate::{
    batch::Batch,
    engine::{
        BoxFuture, Bulk, Engine, Eventual, Later, Lookup, MakeProjection, Pending, Rows, ScanSpan, SetCache, Snapshot,
        Values,
    },
    error::{CommitError, StoreError},
    local::Local,
    log::LogRecord,
    position::Position,
    table::Family,
};

pub(crate) struct Distant(pub(crate) Local);

impl Engine for Distant {
    fn snapshot(&self) -> Eventual<'_, Result<Arc<dyn Snapshot>, StoreError>> {
        Eventual::Later(Box::pin(async {
            yield_now().await;
            let snapshot: Arc<dyn Snapshot> = Arc::new(DistantSnapshot(self.0.snapshot().wait().await?));
            Ok(snapshot)
        }))
    }

    fn published(&self) -> Position {
        self.0.published()
    }

    fn positions(&self) -> watch::Receiver<Position> {
        self.0.positions()
    }

    fn submit(&self, batch: Batch) -> Eventual<'_, Result<Pending, CommitError>> {
        Eventual::Later(Box::pin(async {
            yield_now().await;
            self.0.submit(batch).wait().await
        }))
    }

    fn is_writable(&self) -> bool {
        self.0.is_writable()
    }

    fn recovered(&self) -> BoxFuture<'_, Result<(), CommitError>> {
        self.0.recovered()
    }

    fn recent_log(&self, _: Position, _: Position) -> Option<Vec<LogRecord>> {
        None
    }

    fn project<'a>(&'a self, make: MakeProjection<'a>) -> Eventual<'a, Result<(), StoreError>> {
        Eventual::Later(Box::pin(async {
            yield_now().await;
            let make: MakeProjection<'a> = Box::new(|snapshot| make(Arc::new(DistantSnapshot(snapshot))));
            self.0.project(make).wait().await
        }))
    }

    fn set_cache(&self) -> SetCache {
        self.0.set_cache()
    }

    fn backup(&self, path: PathBuf) -> Later<()> {
        self.0.backup(path)
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        self.0.close()
    }
}

struct DistantSnapshot(Arc<dyn Snapshot>);

impl Snapshot for DistantSnapshot {
    fn position(&self) -> Position {
        self.0.position()
    }

    fn get(
        &self,
        family: Family,
        key: Vec<u8>,
        _: &mut dyn FnMut(Option<&[u8]>),
    ) -> Result<Lookup<Option<Vec<u8>>>, StoreError> {
        let snapshot = Arc::clone(&self.0);
        Ok(Lookup::Later(Box::pin(async move {
            yield_now().await;
            let mut value = None;
            let lookup = snapshot.get(family, key, &mut |bytes| value = bytes.map(<[u8]>::to_vec))?;
            match lookup {
                Lookup::Done => Ok(value),
                Lookup::Later(read) => read.await,
            }
        })))
    }

    fn get_many(
        &self,
        family: Family,
        keys: &[&[u8]],
        _: &mut dyn FnMut(usize, Option<&[u8]>),
    ) -> Result<Lookup<Values>, StoreError> {
        let snapshot = Arc::clone(&self.0);
        let keys: Vec<Vec<u8>> = keys.iter().map(|key| key.to_vec()).collect();
        Ok(Lookup::Later(Box::pin(async move {
            yield_now().await;
            let mut values = Vec::new();
            let lookup = {
                let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
                snapshot.get_many(family, &keys, &mut |at, bytes| values.push((at, bytes.map(<[u8]>::to_vec))))?
            };
            if let Lookup::Later(read) = lookup {
                values.extend(read.await?);
            }
            Ok(values)
        })))
    }

    fn scan(&self, span: ScanSpan, limit: usize) -> Eventual<'static, Result<Rows, StoreError>> {
        let snapshot = Arc::clone(&self.0);
        Eventual::Later(Box::pin(async move {
            yield_now().await;
            snapshot.scan(span, limit).wait().await
        }))
    }

    fn bulk(self: Arc<Self>, work: Bulk) -> Later<()> {
        Box::pin(async move {
            work(self).await;
            Ok(())
        })
    }
}
