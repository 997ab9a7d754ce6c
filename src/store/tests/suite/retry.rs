//! Deciding again where others were faster.

use std::cell::Cell;

use store::{Batch, CommitError, RETRY_ATTEMPTS_MAX, StoreError, TableInfo, View};

use crate::backend::{Backend, run};

store::table! {
    /// How often something was counted.
    pub Counts = 1900, Points: u64 => u64
}

const TABLES: &[TableInfo] = &[TableInfo::of::<Counts>()];

#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("there are enough")]
    Enough,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Commit(#[from] CommitError),
}

async fn next_batch(view: &View) -> Result<(Batch, u64), Refused> {
    let old = view.get::<Counts>(&1).await?;
    let next = old.unwrap_or(0) + 1;
    let mut batch = Batch::new();
    batch.expect::<Counts>(&1, old.as_ref());
    batch.put::<Counts>(&1, &next);
    Ok((batch, next))
}

pub fn who_was_slower_decides_again(backend: &impl Backend) {
    run(async {
        let store = backend.open(TABLES).await;
        let (seen, others) = (Cell::new(0), Cell::new(3));
        let count = |view: View| {
            let (store, seen, others) = (&store, &seen, &others);
            async move {
                seen.set(seen.get() + 1);
                let decided = next_batch(&view).await?;
                if others.get() > 0 {
                    others.set(others.get() - 1);
                    store.commit(next_batch(&view).await?.0).await?;
                }
                Ok::<_, Refused>(decided)
            }
        };
        assert_eq!(store.retry(count).await.unwrap(), 4);
        assert_eq!((seen.get(), others.get()), (4, 0));
        others.set(u32::MAX);
        seen.set(0);
        let contended = store.retry(count).await;
        assert!(matches!(contended, Err(Refused::Commit(CommitError::Contended))), "{contended:?}");
        assert_eq!(seen.get(), RETRY_ATTEMPTS_MAX);
        store.close().await;
    });
}

pub fn a_refusal_ends_at_once_and_an_empty_batch_writes_nothing(backend: &impl Backend) {
    run(async {
        let store = backend.open(TABLES).await;
        let refused = store.retry(|_: View| async { Err::<(Batch, ()), _>(Refused::Enough) }).await;
        assert!(matches!(refused, Err(Refused::Enough)));
        let before = store.published();
        let nothing = store.retry(|_: View| async { Ok::<_, Refused>((Batch::new(), "nothing to do")) }).await;
        assert_eq!(nothing.unwrap(), "nothing to do");
        assert_eq!(store.published(), before);
        store.close().await;
    });
}
