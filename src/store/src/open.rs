//! Opening a store: its own numbers, the catalogue of tables, restoring, migrations.

use std::{sync::Arc, thread};

use tokio::sync::mpsc;

use crate::{
    batch::Batch,
    budget::Budget,
    codec::{decode_all, encode_to_vec},
    committer::{Committer, POSITION_CEILING},
    engine::Engine,
    error::{OpenError, StoreError},
    held::Holdings,
    migrate,
    options::Options,
    position::Position,
    range::Range,
    shared::Shared,
    store::Store,
    table::{self, Catalog, Counters, Meta, Table, TableInfo},
    view::View,
};

/// Where the number of starts is kept in [`Meta`].
const BOOT_ID: &str = "boot_id";
/// Where the number of restores is kept in [`Meta`].
const EPOCH: &str = "epoch";
/// Where the schema version is kept in [`Meta`].
pub(crate) const SCHEMA_VERSION: &str = "schema_version";
/// Where the first position that the log may still hold is kept in [`Meta`].
pub(crate) const LOG_OLDEST: &str = "log_oldest";
/// How far positions and counters jump when a store is restored: more than a server uses up between
/// a backup and its loss, and a small part of the numbers that JSON can carry.
pub const RESTORE_JUMP: u64 = 1 << 36;

/// Why a store is opened.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    /// To be used.
    Use,
    /// It was put back from a backup.
    Restore,
}

/// Prepares the data behind `engine` and starts the committer.
pub(crate) fn open(
    mut engine: Box<dyn Engine>,
    options: &Options,
    tables: &[&[TableInfo]],
    purpose: Purpose,
) -> Result<Store, OpenError> {
    let tables: Vec<TableInfo> = table::TABLES.iter().chain(tables.iter().copied().flatten()).copied().collect();
    check_distinct(&tables)?;
    let newest_schema = migrate::newest_schema(&options.migrations)?;
    let budget = Budget::of(options.memory_budget_bytes);

    let holdings = Holdings::new(budget.block_cache_bytes, engine.set_cache());
    let snapshot = engine.snapshot()?;
    let (shared, senders) = Shared::new(Position::ZERO, snapshot, budget.log_tail_bytes);
    let view = shared.view();
    let mut last = Position::from_u64(meta_number(&view, POSITION_CEILING)?.unwrap_or(0));
    let mut epoch = meta_number(&view, EPOCH)?.unwrap_or(1);
    let boot = meta_number(&view, BOOT_ID)?;

    let mut batch = Batch::new();
    if purpose == Purpose::Restore {
        last = Position::from_u64(last.get() + RESTORE_JUMP);
        epoch += 1;
        forget(&view, &tables, &mut batch)?;
    }
    put_meta_number(&mut batch, EPOCH, epoch);
    let boot_id = boot.unwrap_or(0) + 1;
    put_meta_number(&mut batch, BOOT_ID, boot_id);
    if boot.is_none() {
        put_meta_number(&mut batch, SCHEMA_VERSION, u64::from(newest_schema));
    }
    declare(&view, &tables, &mut batch)?;
    drop(view);

    // Everything stored is at or below the old ceiling.
    shared.tail.reset(last);
    let mut committer = Committer::new(engine, Arc::clone(&shared), senders, last);
    committer.commit_now(batch)?;
    migrate::run(&mut committer, &shared, &options.migrations)?;

    let (requests, received) = mpsc::unbounded_channel();
    let thread = thread::Builder::new().name("store-commit".to_owned());
    thread.spawn(move || committer.run(received)).map_err(|error| OpenError::Thread(error.to_string()))?;
    Ok(Store::new(shared, requests, (budget, holdings), epoch, boot_id))
}

/// Refuses two tables with one number or one name.
fn check_distinct(tables: &[TableInfo]) -> Result<(), OpenError> {
    for (index, second) in tables.iter().enumerate() {
        let clash = |first: &&TableInfo| first.id == second.id || first.name == second.name;
        if let Some(first) = tables[..index].iter().find(clash) {
            let (first, second, id) = (first.name, second.name, second.id);
            return Err(OpenError::DuplicateTable { first, second, id });
        }
    }
    Ok(())
}

/// Compares the declared tables with those that were ever opened, and adds the new ones.
fn declare(view: &View, tables: &[TableInfo], batch: &mut Batch) -> Result<(), OpenError> {
    for table in tables {
        let declared = table.declaration();
        match view.get_blocking::<Catalog>(&table.id)? {
            None => batch.put::<Catalog>(&table.id, &declared),
            Some(stored) if stored == declared => {}
            Some(stored) => return Err(OpenError::TableChanged { id: table.id, declared, stored }),
        }
    }
    Ok(())
}

/// Empties the tables that a restored store must not know, and moves counters far ahead.
fn forget(view: &View, tables: &[TableInfo], batch: &mut Batch) -> Result<(), OpenError> {
    for table in tables.iter().filter(|table| table.forget_on_restore) {
        batch.clear_table(table);
    }
    let mut next = Some(Range::<Counters>::all());
    while let Some(range) = next {
        let page = view.scan_blocking(range)?;
        for (name, end) in page.rows {
            batch.put::<Counters>(&name, &(end + RESTORE_JUMP));
        }
        next = page.next;
    }
    Ok(())
}

/// A number that the store keeps about itself.
pub(crate) fn meta_number(view: &View, name: &str) -> Result<Option<u64>, StoreError> {
    let stored = view.get_blocking::<Meta>(&name)?;
    stored.map(|bytes| decode_number(&bytes)).transpose()
}

pub(crate) fn put_meta_number(batch: &mut Batch, name: &str, number: u64) {
    batch.put::<Meta>(&name, &encode_to_vec::<u64>(&number));
}

/// The first position that the log may still hold.
pub(crate) async fn log_oldest(view: &View) -> Result<Position, StoreError> {
    let stored = view.get::<Meta>(&LOG_OLDEST).await?;
    let number = stored.map(|bytes| decode_number(&bytes)).transpose()?;
    Ok(Position::from_u64(number.unwrap_or(0)))
}

fn decode_number(bytes: &[u8]) -> Result<u64, StoreError> {
    decode_all(bytes).map_err(|error| StoreError::Decode { table: Meta::NAME, error })
}
