//! Opening again: positions, counters, identity, restoring, migrations.

use std::sync::atomic::{AtomicU32, Ordering};

use store::{
    Batch, COUNTER_BLOCK, CommitError, Migration, OpenError, Options, RESTORE_JUMP, Range, Step, StepFuture, TableInfo,
    View,
};

use crate::{
    backend::{Backend, run, small},
    model::Note,
};

store::table! {
    /// Kept over a restore.
    pub Kept = 310, Points: String => u64;
    /// Not kept.
    pub OneTime = 311, Ranges: (String, u64) => (), forget_on_restore
}

const TABLES: &[TableInfo] = &[TableInfo::of::<Kept>(), TableInfo::of::<OneTime>()];

pub fn content_survives_and_positions_never_repeat(backend: &impl Backend) {
    run(async {
        let mut last = store::Position::ZERO;
        let mut boot = 0;
        for round in 0..3_u64 {
            let store = backend.open(TABLES).await;
            assert!(store.published() >= last);
            assert!(store.boot_id() > boot);
            boot = store.boot_id();
            assert_eq!(store.epoch(), 1);
            let mut batch = Batch::new();
            batch.expect::<Kept>(&"round", round.checked_sub(1).as_ref());
            batch.put::<Kept>(&"round", &round);
            let _ = batch.log(&Note(Vec::new()));
            let position = store.commit(batch).await.unwrap();
            assert!(position > last);
            last = position;
            store.close().await;
        }
    });
}

pub fn counters_never_repeat(backend: &impl Backend) {
    run(async {
        let store = backend.open(TABLES).await;
        let counter = store.counter("events").await.unwrap();
        let twin = store.counter("events").await.unwrap();
        for number in (1..COUNTER_BLOCK + 10).step_by(2) {
            assert_eq!(counter.next().await.unwrap(), number);
            assert_eq!(twin.next().await.unwrap(), number + 1);
        }
        assert_eq!(store.counter("other").await.unwrap().next().await.unwrap(), 1);
        store.close().await;

        let store = backend.open(TABLES).await;
        let counter = store.counter("events").await.unwrap();
        assert_eq!(counter.next().await.unwrap(), 2 * COUNTER_BLOCK + 1);
        store.close().await;
    });
}

pub fn identity_is_kept(backend: &impl Backend) {
    run(async {
        let store = backend.open(TABLES).await;
        store.claim_identity("server_name", "one.example").await.unwrap();
        store.close().await;

        let store = backend.open(TABLES).await;
        store.claim_identity("server_name", "one.example").await.unwrap();
        match store.claim_identity("server_name", "two.example").await {
            Err(OpenError::IdentityChanged { stored }) => assert_eq!(stored, "one.example"),
            other => panic!("{other:?}"),
        }
        assert_eq!(store.identity("server_name").await.unwrap().as_deref(), Some("one.example"));
        assert_eq!(store.identity("key").await.unwrap(), None);
        store.close().await;
    });
}

pub fn restore_jumps_ahead_and_forgets(backend: &impl Backend) {
    run(async {
        let store = backend.open(TABLES).await;
        let counter = store.counter("events").await.unwrap();
        let number = counter.next().await.unwrap();
        let mut batch = Batch::new();
        batch.put::<Kept>(&"a", &1);
        batch.put::<OneTime>(&("key", 1), &());
        let position = store.commit(batch).await.unwrap();
        store.close().await;

        let store = backend.restore(&[TABLES]).await;
        assert_eq!(store.epoch(), 2);
        assert!(store.published().get() >= position.get() + RESTORE_JUMP);
        let counter = store.counter("events").await.unwrap();
        assert!(counter.next().await.unwrap() > number + RESTORE_JUMP);
        let view = store.view().await.unwrap();
        assert_eq!(view.get::<Kept>(&"a").await.unwrap(), Some(1));
        assert!(view.first(Range::<OneTime>::all()).await.unwrap().is_none());
        drop(view);
        store.close().await;

        let store = backend.open(TABLES).await;
        assert_eq!(store.epoch(), 2);
        store.close().await;
    });
}

/// Doubles each value of [`Kept`], one row a step, and refuses after the first row while `broken`.
async fn double(view: View, at: Option<Vec<u8>>, broken: bool) -> Result<Step, String> {
    let from = at.map(|bytes| String::from_utf8(bytes).unwrap());
    let range = match &from {
        None => Range::<Kept>::all(),
        Some(key) => Range::<Kept>::all().after(&(key,)),
    };
    if broken && from.is_some() {
        return Err("out of order".to_owned());
    }
    let rows = view.scan(range.limit(1)).await.map_err(|error| error.to_string())?.rows;
    let mut batch = Batch::new();
    let Some((key, value)) = rows.into_iter().next() else {
        return Ok(Step { batch, resume_at: None });
    };
    batch.put::<Kept>(&key, &(value * 2));
    Ok(Step { batch, resume_at: Some(key.into_bytes()) })
}

/// The step of a migration that changes nothing.
fn nothing() -> StepFuture {
    Box::pin(async { Ok(Step { batch: Batch::new(), resume_at: None }) })
}

fn with_migrations(migrations: &[Migration]) -> Options {
    Options { migrations: migrations.to_vec(), ..small() }
}

pub fn migrations_run_once_and_resume(backend: &impl Backend) {
    static EARLIER: AtomicU32 = AtomicU32::new(0);
    let earlier = Migration {
        number: 1,
        name: "made before",
        step: |_, _| {
            EARLIER.fetch_add(1, Ordering::Relaxed);
            nothing()
        },
    };
    let broken = Migration { number: 2, name: "double", step: |view, at| Box::pin(double(view, at, true)) };
    let mended = Migration { step: |view, at| Box::pin(double(view, at, false)), ..broken };
    let read = async |store: &store::Store| {
        let rows = store.view().await.unwrap().scan(Range::<Kept>::all()).await.unwrap().rows;
        rows.into_iter().map(|(_, value)| value).collect::<Vec<_>>()
    };
    run(async {
        let store = backend.try_open(&with_migrations(&[earlier]), &[TABLES]).await.unwrap();
        let mut batch = Batch::new();
        for (key, value) in [("a", 1), ("b", 2), ("c", 3)] {
            batch.put::<Kept>(&key, &value);
        }
        store.commit(batch).await.unwrap();
        store.close().await;

        match backend.try_open(&with_migrations(&[earlier, broken]), &[TABLES]).await {
            Err(OpenError::Migration { number: 2, .. }) => {}
            other => panic!("{:?}", other.err()),
        }
        for _ in 0..2 {
            let store = backend.try_open(&with_migrations(&[earlier, mended]), &[TABLES]).await.unwrap();
            assert_eq!(read(&store).await, [2, 4, 6]);
            store.close().await;
        }
    });
    assert_eq!(EARLIER.load(Ordering::Relaxed), 0, "a new store starts with the newest schema");
}

pub fn newer_schema_is_refused(backend: &impl Backend) {
    let migration = Migration { number: 3, name: "later", step: |_, _| nothing() };
    run(async {
        backend.try_open(&with_migrations(&[migration]), &[TABLES]).await.unwrap().close().await;
        let refused = backend.try_open(&small(), &[TABLES]).await.err();
        assert!(matches!(refused, Some(OpenError::SchemaTooNew { stored: 3, known: 0 })));
        let refused = backend.try_open(&with_migrations(&[migration, migration]), &[TABLES]).await.err();
        assert!(matches!(refused, Some(OpenError::MigrationOrder(3))));
    });
}

pub fn changed_tables_are_refused(backend: &impl Backend) {
    let kept = TableInfo::of::<Kept>();
    run(async {
        let twice = backend.try_open(&small(), &[TABLES, &[kept]]).await.err();
        assert!(matches!(twice, Some(OpenError::DuplicateTable { id: 310, .. })));
        backend.open(TABLES).await.close().await;
        let renamed = TableInfo { name: "Renamed", ..kept };
        let refused = backend.try_open(&small(), &[&[renamed]]).await.err();
        assert!(matches!(refused, Some(OpenError::TableChanged { id: 310, .. })));
        backend.open(TABLES).await.close().await;
    });
}

pub fn closed_store_refuses_batches(backend: &impl Backend) {
    run(async {
        let store = backend.open(TABLES).await;
        let mut batch = Batch::new();
        batch.put::<Kept>(&"a", &1);
        let pending = store.submit(batch).await.unwrap();
        store.close().await;
        pending.await.unwrap();
        let mut batch = Batch::new();
        batch.put::<Kept>(&"a", &2);
        assert!(matches!(store.commit(batch).await, Err(CommitError::Closed)));
        assert!(store.view().await.unwrap().get::<Kept>(&"a").await.is_err());

        let store = backend.open(TABLES).await;
        assert_eq!(store.view().await.unwrap().get::<Kept>(&"a").await.unwrap(), Some(1));
        store.close().await;
    });
}

#[test]
fn backup_is_restored() {
    let directory = tempfile::tempdir().unwrap();
    let (original, copy) = (directory.path().join("store"), directory.path().join("copy"));
    run(async {
        let store = store::Store::open_rocksdb(&original, &small(), &[TABLES]).await.unwrap();
        let mut batch = Batch::new();
        batch.put::<Kept>(&"a", &1);
        batch.put::<OneTime>(&("key", 1), &());
        store.commit(batch).await.unwrap();
        store.backup(&copy).await.unwrap();
        assert!(store.backup(&copy).await.is_err(), "a copy is never written over");
        let mut batch = Batch::new();
        batch.put::<Kept>(&"a", &2);
        let position = store.commit(batch).await.unwrap();
        store.close().await;

        let store = store::Store::restore(&copy, &small(), &[TABLES]).await.unwrap();
        assert_eq!(store.view().await.unwrap().get::<Kept>(&"a").await.unwrap(), Some(1));
        assert!(!store.view().await.unwrap().contains::<OneTime>(&("key", 1)).await.unwrap());
        assert!(store.published() > position);
        store.close().await;
    });
}
