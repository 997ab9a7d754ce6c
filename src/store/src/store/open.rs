//! Opening a store: its own numbers, the catalogue of tables, restoring, migrations.

use std::sync::Arc;

use crate::{
    batch::Batch,
    budget::Budget,
    codec::{decode_all, encode_to_vec},
    engine::Engine,
    error::{OpenError, StoreError},
    position::Position,
    range::Range,
    store::{Store, migrate, options::Options, view::View},
    table::{self, Catalog, Counters, Meta, TableInfo, decode_error},
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

/// Prepares what is stored in `engine`, which is closed if that fails. To restore, the engine has to give positions from
/// [`RESTORE_JUMP`] further on.
pub(crate) async fn open(
    engine: Arc<dyn Engine>,
    options: &Options,
    tables: &[&[TableInfo]],
    purpose: Purpose,
) -> Result<Store, OpenError> {
    let prepared = prepare(&engine, options, tables, purpose).await;
    if prepared.is_err() {
        engine.close().await;
    }
    prepared
}

async fn prepare(
    engine: &Arc<dyn Engine>,
    options: &Options,
    tables: &[&[TableInfo]],
    purpose: Purpose,
) -> Result<Store, OpenError> {
    let tables: Vec<TableInfo> = table::TABLES.iter().chain(tables.iter().copied().flatten()).copied().collect();
    check_distinct(&tables)?;
    let newest_schema = migrate::newest_schema(&options.migrations)?;

    let view = View::new(engine.snapshot().wait().await?);
    let mut epoch = meta_number(&view, EPOCH).await?.unwrap_or(1);
    let boot = meta_number(&view, BOOT_ID).await?;

    let mut batch = Batch::new();
    if purpose == Purpose::Restore {
        epoch += 1;
        forget(&view, &tables, &mut batch).await?;
    }
    put_meta_number(&mut batch, EPOCH, epoch);
    let boot_id = boot.unwrap_or(0) + 1;
    put_meta_number(&mut batch, BOOT_ID, boot_id);
    if boot.is_none() {
        put_meta_number(&mut batch, SCHEMA_VERSION, u64::from(newest_schema));
    }
    declare(&view, &tables, &mut batch).await?;
    drop(view);

    let store = Store::new(Arc::clone(engine), Budget::of(options.memory_budget_bytes), epoch, boot_id);
    store.commit(batch).await?;
    migrate::run(&store, &options.migrations).await?;
    Ok(store)
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
async fn declare(view: &View, tables: &[TableInfo], batch: &mut Batch) -> Result<(), OpenError> {
    for table in tables {
        let declared = table.declaration();
        match view.get::<Catalog>(&table.id).await? {
            None => batch.put::<Catalog>(&table.id, &declared),
            Some(stored) if stored == declared => {}
            Some(stored) => return Err(OpenError::TableChanged { id: table.id, declared, stored }),
        }
    }
    Ok(())
}

/// Empties the tables that a restored store must not know, and moves counters far ahead.
async fn forget(view: &View, tables: &[TableInfo], batch: &mut Batch) -> Result<(), OpenError> {
    for table in tables.iter().filter(|table| table.forget_on_restore) {
        batch.clear_table(table);
    }
    let mut next = Some(Range::<Counters>::all());
    while let Some(range) = next {
        let page = view.scan(range).await?;
        for (name, end) in page.rows {
            batch.put::<Counters>(&name, &(end + RESTORE_JUMP));
        }
        next = page.next;
    }
    Ok(())
}

/// A number that the store keeps about itself.
pub(crate) async fn meta_number(view: &View, name: &str) -> Result<Option<u64>, StoreError> {
    let stored = view.get::<Meta>(&name).await?;
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
    decode_all(bytes).map_err(decode_error::<Meta>)
}
