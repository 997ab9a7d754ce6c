//! The one writer: takes all waiting batches, writes them together, publishes, answers.

use std::{ops::ControlFlow, sync::Arc, thread, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tracing::{error, info, warn};

use crate::{
    batch::{BATCH_BYTES_MAX, Batch, WriteOp},
    codec::{decode_all, encode_to_vec},
    engine::ScanSpan,
    error::{CommitError, EngineError, StoreError},
    local::{
        disk::{Disk, DiskSnapshot, Durability, Tier},
        overlay::Overlay,
        shared::{Senders, Shared},
    },
    log::{FOLLOW_RECORDS_MAX, LogRecord},
    position::Position,
    range::Range,
    table::{Log, Meta, Table, decode_error, decode_row, stored_key},
    value::read_stored,
};

/// The most bytes that are written together.
pub const GROUP_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The most batches that are written together.
const GROUP_BATCHES_MAX: usize = 1024;
/// Positions that are reserved durably at one time. More than a group can take, several times over.
const POSITIONS_RESERVED: u64 = 1 << 20;
/// The wait before the first attempt to write again after a failure; it doubles.
const RECOVERY_DELAY_FIRST: Duration = Duration::from_millis(20);
/// The longest wait between two attempts.
const RECOVERY_DELAY_MAX: Duration = Duration::from_secs(2);
/// Attempts to go on with the disk as it is before it is closed and opened again.
const RESUME_ATTEMPTS: u32 = 5;

/// Where the end of the reserved positions is kept in [`Meta`].
const POSITION_CEILING: &str = "position_ceiling";

/// What is sent to the committer.
pub(crate) enum Request {
    Commit(Submission),
    /// Everything sent before is to be written, then the disk closed.
    Close(oneshot::Sender<()>),
}

/// A batch on its way.
pub(crate) struct Submission {
    pub(crate) batch: Batch,
    pub(crate) answer: oneshot::Sender<Result<Position, CommitError>>,
    /// Its room in the queue, given back when it is answered.
    pub(crate) room: OwnedSemaphorePermit,
}

/// The outcome of writing one group: the error that failed it.
type Written = Result<(), EngineError>;

/// Owns the disk and all writing.
pub(crate) struct Committer {
    disk: Box<dyn Disk>,
    shared: Arc<Shared>,
    senders: Senders,
    /// The last position that was given, whether or not its group was written.
    last: Position,
    /// No position above this one may be given before a higher ceiling is on the disk.
    ceiling: Position,
    /// Empty between groups.
    records: Vec<LogRecord>,
}

impl Committer {
    /// A committer that gives positions after `last`, none of which is reserved yet.
    pub(crate) fn new(disk: Box<dyn Disk>, shared: Arc<Shared>, senders: Senders, last: Position) -> Committer {
        Committer { disk, shared, senders, last, ceiling: last, records: Vec::new() }
    }

    /// Serves requests until it is told to close or nobody can send any more.
    pub(crate) fn run(mut self, mut requests: mpsc::UnboundedReceiver<Request>) {
        let mut group = Vec::new();
        let mut closing = None;
        while closing.is_none() {
            let Some(request) = requests.blocking_recv() else { break };
            closing = gather(request, &mut requests, &mut group);
            if group.is_empty() {
                continue;
            }
            if let Err(error) = self.commit_group(&mut group) {
                let interrupted = self.recover(&error, &mut requests, closing.is_some());
                closing = closing.or(interrupted);
            }
        }
        requests.close();
        self.close();
        if let Some(done) = closing {
            // Whoever asked may have gone.
            done.send(()).ok();
        }
    }

    fn close(self) {
        let Committer { mut disk, shared, senders, .. } = self;
        if let Err(error) = disk.flush() {
            error!(%error, "the store could not be flushed before closing");
        }
        shared.withdraw_snapshot();
        drop(senders);
        drop(disk);
    }

    /// Decides on, writes, applies to the projections, publishes and answers a group. On an error all of it is answered as failed.
    fn commit_group(&mut self, group: &mut Vec<Submission>) -> Written {
        let before = self.last;
        let verdicts = self.decide(group);
        if let Err(error) = self.write(group, &verdicts) {
            fail(group.drain(..), &error);
            return Err(error);
        }
        let snapshot = match self.disk.snapshot() {
            Ok(snapshot) => snapshot,
            Err(error) => {
                fail(group.drain(..), &error);
                return Err(error);
            }
        };
        let mut last = before;
        for (submission, verdict) in group.iter().zip(&verdicts) {
            if let Ok(position) = verdict {
                self.records.extend(LogRecord::of_batch(last, &submission.batch));
                last = *position;
            }
        }
        let applied = self.shared.projections.apply(&self.records);
        // Before it is published, as followers take what isn't there for positions that were skipped.
        self.shared.tail.extend(self.records.drain(..));
        self.shared.publish(self.last, snapshot);
        drop(applied);
        self.records.shrink_to(FOLLOW_RECORDS_MAX);
        self.announce();
        for (submission, verdict) in group.drain(..).zip(verdicts) {
            // A caller that stopped waiting doesn't need its answer.
            submission.answer.send(verdict).ok();
            drop(submission.room);
        }
        Ok(())
    }

    /// Checks expectations in order and gives positions to the batches that pass.
    fn decide(&mut self, group: &mut [Submission]) -> Vec<Result<Position, CommitError>> {
        let published = self.shared.published.load_full();
        let remember = group.iter().any(|submission| submission.batch.has_expectations());
        let mut overlay = Overlay::default();
        let mut verdicts = Vec::with_capacity(group.len());
        for submission in group.iter_mut() {
            if let Err(error) = overlay.check(&submission.batch, &*published.snapshot) {
                verdicts.push(Err(error));
                continue;
            }
            submission.batch.give_positions(self.last);
            let taken = submission.batch.entry_count() as u64;
            self.last = Position::from_u64(self.last.get() + taken);
            verdicts.push(Ok(self.last));
            if remember {
                overlay.add(&submission.batch);
            }
        }
        verdicts
    }

    /// Writes the accepted batches of a group, durably unless all of them are relaxed.
    fn write(&mut self, group: &[Submission], verdicts: &[Result<Position, CommitError>]) -> Written {
        let accepted = || {
            let pairs = group.iter().zip(verdicts);
            pairs.filter(|(_, verdict)| verdict.is_ok()).map(|(submission, _)| &submission.batch)
        };
        if !accepted().any(Batch::has_ops) {
            return Ok(());
        }
        let mut durability = match accepted().all(|batch| batch.is_relaxed() || !batch.has_ops()) {
            true => Durability::Relaxed,
            false => Durability::Synced,
        };
        let mut ops: Vec<WriteOp<'_>> = Vec::with_capacity(group.len() * 8);
        for batch in accepted() {
            ops.extend(batch.ops());
        }
        // A new ceiling is synced long before the old one is reached.
        let mut ceiling_batch = Batch::new();
        let mut ceiling = self.ceiling;
        if self.last.get() + POSITIONS_RESERVED / 2 > ceiling.get() {
            ceiling = Position::from_u64(self.last.get() + POSITIONS_RESERVED);
            let stored = encode_to_vec::<Position>(&ceiling);
            ceiling_batch.put::<Meta>(&POSITION_CEILING, &stored);
            durability = Durability::Synced;
        }
        ops.extend(ceiling_batch.ops());
        self.disk.write(&ops, durability)?;
        self.ceiling = ceiling;
        Ok(())
    }

    /// Lets followers know the published position, if it changed.
    fn announce(&self) {
        self.senders.positions.send_if_modified(|position| {
            let changed = *position != self.last;
            *position = self.last;
            changed
        });
    }

    /// After a failed write: fails what waits, and tries until the disk can be written again. Returns early,
    /// with whom to tell, when the store is to be closed.
    fn recover(
        &mut self,
        failure: &EngineError,
        requests: &mut mpsc::UnboundedReceiver<Request>,
        closing: bool,
    ) -> Option<oneshot::Sender<()>> {
        error!(error = %failure, "writing to the store failed; nothing is accepted until it recovers");
        self.senders.failing.send_replace(true);
        let mut delay = RECOVERY_DELAY_FIRST;
        let mut attempt = 0;
        let mut error = failure.clone();
        loop {
            match fail_waiting(requests, &error) {
                Waiting::None => {}
                Waiting::Close(done) => return Some(done),
                Waiting::Gone => return None,
            }
            if closing {
                return None;
            }
            thread::sleep(delay);
            delay = (delay * 2).min(RECOVERY_DELAY_MAX);
            attempt += 1;
            match self.try_recover(attempt, &error) {
                Ok(()) => break,
                Err(next) => {
                    warn!(attempt, error = %next, "the store has not recovered yet");
                    error = next;
                }
            }
        }
        self.senders.failing.send_replace(false);
        info!(attempt, position = %self.last, "the store writes again");
        None
    }

    fn try_recover(&mut self, attempt: u32, error: &EngineError) -> Result<(), EngineError> {
        // While the disk is full opening would fail, too, and reading would stop.
        let full = matches!(error, EngineError::NoSpace(_));
        if attempt <= RESUME_ATTEMPTS || full {
            self.disk.resume()?;
        } else {
            self.shared.withdraw_snapshot();
            self.disk.reopen()?;
        }
        let snapshot = self.disk.snapshot()?;
        // What the failed group was about to write may be there or not: look.
        let records = stored_after_published(&self.shared, &*snapshot)?;
        self.last = records.last().map_or(self.last, |record| self.last.max(record.position));
        let applied = self.shared.projections.apply(&records);
        self.shared.tail.reset(self.last);
        self.shared.publish(self.last, snapshot);
        drop(applied);
        self.announce();
        Ok(())
    }
}

/// The position up to which positions may have been given; everything stored is at or below it.
pub(crate) fn stored_ceiling(snapshot: &dyn DiskSnapshot) -> Result<Position, StoreError> {
    let mut stored = None;
    snapshot.get(Meta::FAMILY, &stored_key::<Meta>(&POSITION_CEILING), Tier::Disk, &mut |value| {
        stored = value.map(<[u8]>::to_vec);
    })?;
    let Some(stored) = stored else { return Ok(Position::ZERO) };
    let value = read_stored::<<Meta as Table>::Value>(&stored).and_then(|value| decode_all::<Position>(&value));
    value.map_err(decode_error::<Meta>)
}

/// The log entries of a snapshot that were not published: those of one group at most.
fn stored_after_published(shared: &Shared, snapshot: &dyn DiskSnapshot) -> Result<Vec<LogRecord>, EngineError> {
    let position = shared.published.load().position;
    let Range { lower, upper, .. } = Range::<Log>::all().after(&(position,));
    let span = ScanSpan { family: Log::FAMILY, lower, upper, reverse: false };
    let (mut records, mut unreadable) = (Vec::new(), None);
    snapshot.scan(&span, Tier::Disk, &mut |key, value| {
        let row = decode_row::<Log>(key, value);
        match row.and_then(|(position, value)| LogRecord::from_value(position, value)) {
            Ok(record) => {
                records.push(record);
                ControlFlow::Continue(())
            }
            Err(error) => {
                unreadable = Some(EngineError::Failed(error.to_string()));
                ControlFlow::Break(())
            }
        }
    })?;
    unreadable.map_or(Ok(records), Err)
}

/// Adds `first` and what else waits to the group, within its limits. Returns whom to tell if the store
/// is to be closed after this group.
fn gather(
    first: Request,
    requests: &mut mpsc::UnboundedReceiver<Request>,
    group: &mut Vec<Submission>,
) -> Option<oneshot::Sender<()>> {
    let mut bytes = 0;
    let mut next = Some(first);
    while let Some(request) = next {
        match request {
            Request::Close(done) => return Some(done),
            Request::Commit(submission) => {
                bytes += submission.batch.bytes();
                group.push(submission);
            }
        }
        if bytes + BATCH_BYTES_MAX > GROUP_BYTES_MAX || group.len() >= GROUP_BATCHES_MAX {
            break;
        }
        next = requests.try_recv().ok();
    }
    None
}

/// Answers all of `submissions` as failed.
fn fail(submissions: impl Iterator<Item = Submission>, error: &EngineError) {
    let reason: Arc<str> = error.to_string().into();
    for submission in submissions {
        submission.answer.send(Err(CommitError::Failed(Arc::clone(&reason)))).ok();
    }
}

/// What was found in the queue besides batches.
enum Waiting {
    None,
    Close(oneshot::Sender<()>),
    /// Nobody can send any more.
    Gone,
}

/// Answers everything in the queue as failed.
fn fail_waiting(requests: &mut mpsc::UnboundedReceiver<Request>, error: &EngineError) -> Waiting {
    loop {
        match requests.try_recv() {
            Ok(Request::Commit(submission)) => fail(std::iter::once(submission), error),
            Ok(Request::Close(done)) => return Waiting::Close(done),
            Err(mpsc::error::TryRecvError::Empty) => return Waiting::None,
            Err(mpsc::error::TryRecvError::Disconnected) => return Waiting::Gone,
        }
    }
}
