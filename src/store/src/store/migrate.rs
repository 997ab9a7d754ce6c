//! Migrations: numbered changes of stored data, run when the store is opened.

use std::{future::Future, pin::Pin};

use crate::{
    batch::Batch,
    codec::{decode_all, encode_to_vec},
    error::OpenError,
    store::{
        Store,
        open::{SCHEMA_VERSION, meta_number, put_meta_number},
        view::View,
    },
    table::Meta,
};

/// Where the progress of an unfinished migration is kept in [`Meta`].
const PROGRESS: &str = "migration_progress";

/// One change of stored data, done in steps that can be resumed.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// The schema version that the store has afterwards. Ascending, from 1 on.
    pub number: u32,
    /// What it does, for the log.
    pub name: &'static str,
    /// Does a bounded part of the work: reads from the view and gives what to write.
    /// Gets what the step before it gave as [`Step::resume_at`], `None` for the first. An `Err` says
    /// why it can't go on.
    pub step: fn(View, Option<Vec<u8>>) -> StepFuture,
}

/// A step of a migration, under way.
pub type StepFuture = Pin<Box<dyn Future<Output = Result<Step, String>> + Send>>;

/// A part of a migration.
pub struct Step {
    /// What this part writes, in one batch with the progress.
    pub batch: Batch,
    /// Where to go on, or `None` if the migration is done.
    pub resume_at: Option<Vec<u8>>,
}

/// Checks that numbers ascend and returns the newest schema version.
pub(crate) fn newest_schema(migrations: &[Migration]) -> Result<u32, OpenError> {
    let mut newest = 0;
    for migration in migrations {
        if migration.number <= newest {
            return Err(OpenError::MigrationOrder(migration.number));
        }
        newest = migration.number;
    }
    Ok(newest)
}

/// Runs the migrations that the store has not seen.
pub(crate) async fn run(store: &Store, migrations: &[Migration]) -> Result<(), OpenError> {
    let known = newest_schema(migrations)?;
    let stored = meta_number(&store.view().await?, SCHEMA_VERSION).await?.unwrap_or(0);
    let stored = u32::try_from(stored).unwrap_or(u32::MAX);
    if stored > known {
        return Err(OpenError::SchemaTooNew { stored, known });
    }
    for migration in migrations.iter().filter(|migration| migration.number > stored) {
        tracing::info!(number = migration.number, name = migration.name, "migrating the store");
        run_one(store, migration).await?;
    }
    Ok(())
}

async fn run_one(store: &Store, migration: &Migration) -> Result<(), OpenError> {
    let number = migration.number;
    let failed = |reason: String| OpenError::Migration { number, reason };
    let mut at = match store.view().await?.get::<Meta>(&PROGRESS).await? {
        None => None,
        Some(stored) => {
            let (of, at): (u32, Vec<u8>) = decode_all(&stored).map_err(|error| failed(error.to_string()))?;
            (of == number).then_some(at)
        }
    };
    loop {
        let Step { mut batch, resume_at } = (migration.step)(store.view().await?, at).await.map_err(failed)?;
        match &resume_at {
            Some(next) => {
                let progress = encode_to_vec::<(u32, Vec<u8>)>(&(number, next));
                batch.put::<Meta>(&PROGRESS, &progress);
            }
            None => {
                batch.delete::<Meta>(&PROGRESS);
                put_meta_number(&mut batch, SCHEMA_VERSION, u64::from(number));
            }
        }
        store.commit(batch).await?;
        if resume_at.is_none() {
            return Ok(());
        }
        at = resume_at;
    }
}
