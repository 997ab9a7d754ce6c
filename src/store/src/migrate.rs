//! Migrations: numbered changes of stored data, run when the store is opened.

use crate::{
    batch::Batch,
    codec::{decode_all, encode_to_vec},
    committer::Committer,
    error::OpenError,
    open::{SCHEMA_VERSION, meta_number, put_meta_number},
    shared::Shared,
    table::Meta,
    view::View,
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
    /// Does a bounded part of the work: reads with the view's blocking methods and returns what to write.
    /// Gets what the step before it returned as [`Step::resume_at`], `None` for the first. An `Err` says
    /// why it can't go on.
    pub step: fn(&View, Option<&[u8]>) -> Result<Step, String>,
}

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
pub(crate) fn run(committer: &mut Committer, shared: &Shared, migrations: &[Migration]) -> Result<(), OpenError> {
    let known = newest_schema(migrations)?;
    let stored = meta_number(&shared.view(), SCHEMA_VERSION)?.unwrap_or(0);
    let stored = u32::try_from(stored).unwrap_or(u32::MAX);
    if stored > known {
        return Err(OpenError::SchemaTooNew { stored, known });
    }
    for migration in migrations.iter().filter(|migration| migration.number > stored) {
        tracing::info!(number = migration.number, name = migration.name, "migrating the store");
        run_one(committer, shared, migration)?;
    }
    Ok(())
}

fn run_one(committer: &mut Committer, shared: &Shared, migration: &Migration) -> Result<(), OpenError> {
    let number = migration.number;
    let failed = |reason: String| OpenError::Migration { number, reason };
    let mut at = match shared.view().get_blocking::<Meta>(&PROGRESS)? {
        None => None,
        Some(stored) => {
            let (of, at): (u32, Vec<u8>) = decode_all(&stored).map_err(|error| failed(error.to_string()))?;
            (of == number).then_some(at)
        }
    };
    loop {
        let Step { mut batch, resume_at } = (migration.step)(&shared.view(), at.as_deref()).map_err(failed)?;
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
        committer.commit_now(batch)?;
        if resume_at.is_none() {
            return Ok(());
        }
        at = resume_at;
    }
}
