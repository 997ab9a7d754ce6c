//! Many tasks change the same rows while others read and follow.

use std::{collections::BTreeMap, sync::Arc};

use store::{Batch, CommitError, FollowError, Position, Range, Store, TableInfo};

use crate::{backend::Backend, model::Note, projection::Applied};

/// A move of one between two accounts.
#[derive(store::Value)]
pub struct Move {
    from: u64,
    to: u64,
}

store::table! {
    /// Amounts that are moved between accounts; their sum stays.
    pub Accounts = 330, Points: u64 => i64;
    /// Every move, under its position.
    pub Moves = 331, Ranges: (Position,) => Move
}

const TABLES: &[TableInfo] = &[TableInfo::of::<Accounts>(), TableInfo::of::<Moves>()];
const ACCOUNTS: u64 = 4;
const TASKS: u64 = 8;
const MOVES: u64 = 40;

/// Moves one from an account to another, as often as it takes to get through.
async fn move_one(store: &Store, from: u64, to: u64) -> Position {
    loop {
        let view = store.view().await.unwrap();
        let amounts = view.get_many::<Accounts>(&[from, to]).await.unwrap();
        let mut batch = Batch::new();
        batch.expect::<Accounts>(&from, amounts[0].as_ref());
        batch.expect::<Accounts>(&to, amounts[1].as_ref());
        batch.put::<Accounts>(&from, &(amounts[0].unwrap_or(0) - 1));
        batch.put::<Accounts>(&to, &(amounts[1].unwrap_or(0) + 1));
        let stamp = batch.log(&Note(vec![from as u8, to as u8]));
        batch.put::<Moves>(&(stamp,), &Move { from, to });
        match store.commit(batch).await {
            Ok(position) => return position,
            Err(CommitError::Conflict) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Projections that a reader keeps, of which it began each at another time.
const PROJECTIONS: usize = 4;

/// In every view the sum is zero, the rows tell the same as the amounts, nothing is beyond its position, and all is in the projections
/// already.
async fn read(store: Store) {
    let mut projections: Vec<Arc<Applied>> = Vec::new();
    while store.subscribe().has_changed().is_ok() {
        if projections.len() == PROJECTIONS {
            projections.remove(1);
        }
        projections.push(Applied::begin(&store).await);
        let view = store.view().await.unwrap();
        let applied: Vec<_> = projections.iter().map(|projection| (projection.from, projection.notes())).collect();
        let amounts = view.get_many::<Accounts>(&(0..ACCOUNTS).collect::<Vec<_>>()).await.unwrap();
        let mut told = BTreeMap::new();
        let moves = view.scan_all(Range::<Moves>::all()).await.unwrap();
        for (begun, notes) in applied {
            let shown = moves.iter().map(|((position,), row)| (*position, vec![row.from as u8, row.to as u8]));
            let shown: Vec<_> = shown.filter(|(position, _)| *position > begun).collect();
            assert!(notes.starts_with(&shown), "a view shows what was not applied");
        }
        for ((position,), Move { from, to }) in moves {
            assert!(position <= view.position());
            *told.entry(from).or_insert(0) -= 1;
            *told.entry(to).or_insert(0) += 1;
        }
        for (account, amount) in (0..ACCOUNTS).zip(amounts) {
            assert_eq!(amount.unwrap_or(0), told.get(&account).copied().unwrap_or(0));
        }
        if told.values().sum::<i64>() != 0 {
            panic!("a torn view");
        }
        tokio::task::yield_now().await;
    }
}

/// A follower sees every move once, in order, and what it sees is in the tables.
async fn follow(store: Store) -> Vec<Position> {
    let mut follower = store.read_log(Position::ZERO);
    let mut seen = Vec::new();
    loop {
        match follower.next().await {
            Ok(records) => {
                let view = store.view().await.unwrap();
                for record in records {
                    assert!(view.contains::<Moves>(&(record.position,)).await.unwrap());
                    seen.push(record.position);
                }
            }
            Err(FollowError::Closed) => return seen,
            Err(error) => panic!("{error}"),
        }
        if seen.len() as u64 == TASKS * MOVES {
            return seen;
        }
    }
}

pub fn no_update_is_lost_and_no_view_is_torn(backend: &impl Backend) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = backend.open(TABLES).await;
        let follower = tokio::spawn(follow(store.clone()));
        let readers = [tokio::spawn(read(store.clone())), tokio::spawn(read(store.clone()))];
        let mut tasks = Vec::new();
        for task in 0..TASKS {
            let store = store.clone();
            tasks.push(tokio::spawn(async move {
                let mut positions = Vec::new();
                for number in 0..MOVES {
                    let from = (task + number) % ACCOUNTS;
                    positions.push(move_one(&store, from, (from + 1 + task % 3) % ACCOUNTS).await);
                }
                positions
            }));
        }
        let mut positions = Vec::new();
        for task in tasks {
            positions.extend(task.await.unwrap());
        }
        positions.sort();
        assert_eq!(follower.await.unwrap(), positions);
        for reader in readers {
            reader.abort();
            if let Err(error) = reader.await {
                assert!(error.is_cancelled(), "{error}");
            }
        }
        store.close().await;
    });
}
