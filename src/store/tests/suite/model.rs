//! A store does what a BTreeMap and a list would.

use std::{collections::BTreeMap, sync::Arc};

use proptest::{prelude::*, test_runner::TestRunner};
use store::{Batch, CommitError, LogRecord, Pending, Position, Range, Store, TableInfo, View};

use crate::{
    backend::{Backend, in_bulk, run},
    projection::Applied,
};

/// The key of [`Stamped`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, store::Key)]
pub struct Place<P = Position> {
    group: u8,
    position: P,
}

/// The value of [`Stamped`].
#[derive(Clone, Copy, PartialEq, Debug, store::Value)]
pub struct Mark<P = Position> {
    number: u64,
    position: P,
}

store::table! {
    /// Looked up.
    pub Named = 301, Points: (String, u8) => Vec<u8>;
    /// Scanned, with stamps in keys and values.
    pub Stamped = 302, Ranges: Place => Mark;
    /// Between the two in the engine's order, and never touched.
    pub Bystander = 303, Points: (String, u8) => Vec<u8>
}

const TABLES: &[TableInfo] = &[TableInfo::of::<Named>(), TableInfo::of::<Stamped>(), TableInfo::of::<Bystander>()];

/// Names that are prefixes of each other, with the bytes that the encoding escapes.
const NAMES: [&str; 7] = ["", "a", "a\0", "a\0b", "a\u{1}", "ab", "b"];

#[derive(Clone, Debug, PartialEq)]
pub struct Note(pub Vec<u8>);

impl store::LogEntry for Note {
    const KIND: u16 = 300;

    fn encode_entry(&self, w: &mut store::Writer) {
        w.raw(&self.0);
    }

    fn decode_entry(bytes: &[u8]) -> Result<Note, store::DecodeError> {
        Ok(Note(bytes.to_vec()))
    }
}

#[derive(Clone, Debug)]
enum Op {
    Put(usize, u8, Vec<u8>),
    Delete(usize, u8),
    DeletePrefix(usize),
    /// Expects what is there, or something else.
    Expect(usize, u8, bool),
    Log(Vec<u8>),
    /// An entry, and a row with its stamp in key and value.
    Stamp(u8),
    ForgetStamped(u8),
    Relaxed,
}

#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<Op>),
    /// Submitted one after another before the first is answered.
    Pipeline(Vec<Vec<Op>>),
    Scan {
        from: (usize, u8),
        through: (usize, u8),
        reverse: bool,
        limit: usize,
    },
    GetMany(Vec<(usize, u8)>),
    /// Keeps a view to look at later.
    Hold,
    /// Begins another projection.
    Project,
    Follow,
    Reopen,
}

fn name() -> std::ops::Range<usize> {
    0..NAMES.len()
}

fn op() -> impl Strategy<Value = Op> {
    let payload = || proptest::collection::vec(any::<u8>(), 0..4);
    prop_oneof![
        4 => (name(), 0..3_u8, payload()).prop_map(|(name, n, value)| Op::Put(name, n, value)),
        2 => (name(), 0..3_u8).prop_map(|(name, n)| Op::Delete(name, n)),
        1 => name().prop_map(Op::DeletePrefix),
        2 => (name(), 0..3_u8, prop::bool::weighted(0.8)).prop_map(|(name, n, right)| Op::Expect(name, n, right)),
        2 => payload().prop_map(Op::Log),
        2 => (0..2_u8).prop_map(Op::Stamp),
        1 => (0..2_u8).prop_map(Op::ForgetStamped),
        1 => Just(Op::Relaxed),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let ops = || proptest::collection::vec(op(), 0..6);
    let key = || (name(), 0..3_u8);
    prop_oneof![
        4 => ops().prop_map(Step::Commit),
        2 => proptest::collection::vec(ops(), 0..6).prop_map(Step::Pipeline),
        2 => (key(), key(), any::<bool>(), 0..8_usize)
            .prop_map(|(from, through, reverse, limit)| Step::Scan { from, through, reverse, limit }),
        1 => proptest::collection::vec(key(), 0..6).prop_map(Step::GetMany),
        1 => Just(Step::Hold),
        1 => Just(Step::Project),
        1 => Just(Step::Follow),
        1 => Just(Step::Reopen),
    ]
}

#[derive(Clone, Default)]
struct Model {
    named: BTreeMap<(String, u8), Vec<u8>>,
    stamped: BTreeMap<Place, Mark>,
    log: Vec<(Position, Vec<u8>)>,
}

/// What a batch does to the model once its last position is known; `None` if it conflicts.
struct Planned {
    batch: Batch,
    entries: u64,
    conflict: bool,
}

impl Planned {
    /// Batches without effect are answered at once and say nothing about those before them.
    fn is_empty(ops: &[Op]) -> bool {
        ops.iter().all(|op| matches!(op, Op::Relaxed))
    }
}

impl Model {
    fn plan(&self, ops: &[Op]) -> Planned {
        let mut planned = Planned { batch: Batch::new(), entries: 0, conflict: false };
        let batch = &mut planned.batch;
        for op in ops {
            match op {
                Op::Put(name, n, value) => batch.put::<Named>(&(NAMES[*name], *n), value),
                Op::Delete(name, n) => batch.delete::<Named>(&(NAMES[*name], *n)),
                Op::DeletePrefix(name) => batch.delete_prefix::<Named>(&(NAMES[*name],)),
                Op::Expect(name, n, right) => {
                    let stored = self.named.get(&(NAMES[*name].to_owned(), *n));
                    let wrong = stored.map_or(Some(vec![9; 9]), |_| None);
                    let expected = if *right { stored } else { wrong.as_ref() };
                    batch.expect::<Named>(&(NAMES[*name], *n), expected);
                    planned.conflict |= !right;
                }
                Op::Log(payload) => {
                    let _ = batch.log(&Note(payload.clone()));
                    planned.entries += 1;
                }
                Op::Stamp(group) => {
                    let stamp = batch.log(&Note(vec![*group]));
                    let place = Place { group: *group, position: stamp };
                    batch.put::<Stamped>(&place, &Mark { number: 7, position: stamp });
                    planned.entries += 1;
                }
                Op::ForgetStamped(group) => batch.delete_prefix::<Stamped>(&(*group,)),
                Op::Relaxed => batch.relaxed(),
            }
        }
        planned
    }

    fn apply(&mut self, ops: &[Op], last: Position, entries: u64) {
        let mut position = Position::from_u64(last.get() - entries);
        for op in ops {
            match op {
                Op::Put(name, n, value) => {
                    self.named.insert((NAMES[*name].to_owned(), *n), value.clone());
                }
                Op::Delete(name, n) => {
                    self.named.remove(&(NAMES[*name].to_owned(), *n));
                }
                Op::DeletePrefix(name) => self.named.retain(|key, _| key.0 != NAMES[*name]),
                Op::Log(payload) => {
                    position = position.next();
                    self.log.push((position, payload.clone()));
                }
                Op::Stamp(group) => {
                    position = position.next();
                    self.log.push((position, vec![*group]));
                    self.stamped.insert(Place { group: *group, position }, Mark { number: 7, position });
                }
                Op::ForgetStamped(group) => self.stamped.retain(|place, _| place.group != *group),
                Op::Expect(..) | Op::Relaxed => {}
            }
        }
    }

    async fn check(&self, view: &View) {
        let rows = view.scan_all(Range::<Named>::all()).await.unwrap();
        assert_eq!(rows, self.named.clone().into_iter().collect::<Vec<_>>());
        let rows = view.scan_all(Range::<Stamped>::all().reverse()).await.unwrap();
        assert_eq!(rows, self.stamped.clone().into_iter().rev().collect::<Vec<_>>());
        assert!(view.first(Range::<Bystander>::all()).await.unwrap().is_none());
        if let Some((last, _)) = self.log.last() {
            assert!(view.position() >= *last);
        }
    }
}

struct World<'a, B> {
    backend: &'a B,
    store: Store,
    model: Model,
    held: Vec<(View, Model)>,
    projections: Vec<Arc<Applied>>,
    followed: Position,
    /// Where in the model's log the follower is.
    seen: usize,
}

impl<B: Backend> World<'_, B> {
    async fn take(&mut self, step: &Step) {
        match step {
            Step::Commit(ops) => self.pipeline(std::slice::from_ref(ops)).await,
            Step::Pipeline(batches) => self.pipeline(batches).await,
            Step::Hold => self.held.push((self.store.view().await.unwrap(), self.model.clone())),
            Step::Project => self.projections.push(Applied::begin(&self.store).await),
            Step::Follow => self.follow().await,
            Step::Reopen => self.reopen().await,
            Step::Scan { from, through, reverse, limit } => {
                self.scan(*from, *through, *reverse, *limit).await;
            }
            Step::GetMany(keys) => {
                let keys: Vec<_> = keys.iter().map(|(name, n)| (NAMES[*name], *n)).collect();
                let view = self.store.view().await.unwrap();
                let values = view.get_many::<Named>(&keys).await.unwrap();
                for ((name, n), value) in keys.into_iter().zip(values) {
                    assert_eq!(view.get::<Named>(&(name, n)).await.unwrap(), value);
                    assert_eq!(view.contains::<Named>(&(name, n)).await.unwrap(), value.is_some());
                    assert_eq!(self.model.named.get(&(name.to_owned(), n)), value.as_ref());
                }
            }
        }
    }

    async fn pipeline(&mut self, batches: &[Vec<Op>]) {
        // Later batches expect what earlier ones will have written, so the model runs ahead with made-up
        // positions; only its tables of names matter to expectations.
        let mut ahead = self.model.clone();
        let mut pending: Vec<(Pending, &[Op], u64, bool)> = Vec::new();
        let batches = batches.iter().filter(|ops| !Planned::is_empty(ops));
        for ops in batches {
            let Planned { batch, entries, conflict } = ahead.plan(ops);
            let answer = self.store.submit(batch).await.unwrap();
            if !conflict {
                ahead.apply(ops, Position::from_u64(1 << 40), entries);
            }
            pending.push((answer, ops, entries, conflict));
        }
        let mut last = Position::ZERO;
        for (answer, ops, entries, conflict) in pending {
            match answer.await {
                Err(CommitError::Conflict) => assert!(conflict, "{ops:?}"),
                Ok(position) => {
                    assert!(!conflict, "{ops:?}");
                    assert!(position.get() >= last.get() + entries);
                    assert!(self.store.published() >= position);
                    last = position;
                    self.model.apply(ops, position, entries);
                    self.check_projections();
                }
                Err(error) => panic!("{error}"),
            }
        }
        self.model.check(&self.store.view().await.unwrap()).await;
        for (projection, applied) in self.projections.iter().zip(self.check_projections()) {
            assert_eq!(projection.notes().len(), applied);
        }
    }

    /// What was answered is applied. Gives how much of it each projection has, which may have more already.
    fn check_projections(&self) -> Vec<usize> {
        let log = &self.model.log;
        let check = |projection: &Arc<Applied>| {
            let answered = &log[log.partition_point(|(position, _)| *position <= projection.from)..];
            assert!(projection.notes().starts_with(answered));
            answered.len()
        };
        self.projections.iter().map(check).collect()
    }

    async fn scan(&self, from: (usize, u8), through: (usize, u8), reverse: bool, limit: usize) {
        let (first, last) = ((NAMES[from.0], from.1), (NAMES[through.0], through.1));
        let mut range = Range::<Named>::all().from(&first).through(&last).limit(limit);
        let mut exclusive = Range::<Named>::all().after(&(first.0,)).before(&last).limit(limit);
        if reverse {
            range = range.reverse();
            exclusive = exclusive.reverse();
        }
        let owned = |key: (&str, u8)| (key.0.to_owned(), key.1);
        let page = |keep: &dyn Fn(&(String, u8)) -> bool| {
            let mut rows: Vec<_> = self.model.named.clone().into_iter().filter(|row| keep(&row.0)).collect();
            if reverse {
                rows.reverse();
            }
            rows.truncate(limit);
            rows
        };
        let view = self.store.view().await.unwrap();
        let (low, high) = (owned(first), owned(last));
        assert_eq!(view.scan(range).await.unwrap().rows, page(&|key| *key >= low && *key <= high));
        let expected = page(&|key| *key.0 > *low.0 && *key < high);
        assert_eq!(view.scan(exclusive.clone()).await.unwrap().rows, expected);
        assert_eq!(in_bulk(&view, exclusive).await, expected);
    }

    async fn follow(&mut self) {
        let mut follower = self.store.read_log(self.followed);
        loop {
            let records: Vec<LogRecord> = follower.try_next().await.unwrap();
            if records.is_empty() {
                break;
            }
            for record in records {
                let (position, payload) = &self.model.log[self.seen];
                assert_eq!(
                    (record.position, record.decode::<Note>().unwrap().unwrap().0),
                    (*position, payload.clone())
                );
                self.seen += 1;
            }
        }
        assert_eq!(self.seen, self.model.log.len());
        self.followed = follower.position();
    }

    async fn reopen(&mut self) {
        self.check_held().await;
        self.projections.clear();
        self.store.close().await;
        self.store = self.backend.open(TABLES).await;
        self.projections.push(Applied::begin(&self.store).await);
        self.model.check(&self.store.view().await.unwrap()).await;
    }

    async fn check_held(&mut self) {
        for (view, model) in self.held.drain(..) {
            model.check(&view).await;
        }
    }
}

pub fn agrees_with_a_model<B: Backend>(_: &B) {
    let config = ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() };
    let steps = proptest::collection::vec(step(), 1..24);
    TestRunner::new(config)
        .run(&steps, |steps| {
            run(async {
                let backend = &B::create();
                let store = backend.open(TABLES).await;
                let mut world = World {
                    backend,
                    store,
                    model: Model::default(),
                    held: Vec::new(),
                    projections: Vec::new(),
                    followed: Position::ZERO,
                    seen: 0,
                };
                for step in &steps {
                    world.take(step).await;
                }
                world.follow().await;
                world.check_held().await;
                world.store.close().await;
            });
            Ok(())
        })
        .unwrap();
}
