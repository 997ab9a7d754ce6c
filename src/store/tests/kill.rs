//! A process that writes is killed at random points: what it was told is written is there, whole. So it is where the power is cut
//! and the disk has only what was synced (`power_cut.c`).

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use store::{Batch, Bytes, CommitError, FollowError, Options, Position, Range, Store, TableInfo};

store::table! {
    /// How far each writer is.
    Heads = 340, Points: u8 => u64;
    /// One row for each batch, by writer and number.
    Rows = 341, Ranges: (u8, u64) => Position;
    /// A large value for each batch.
    Bodies = 342, Large: (u8, u64) => Bytes
}

const TABLES: &[TableInfo] = &[TableInfo::of::<Heads>(), TableInfo::of::<Rows>(), TableInfo::of::<Bodies>()];

/// In the environment of the process that writes: the store's directory.
const DIRECTORY: &str = "HAIMA_STORE_KILL_TEST_DIRECTORY";
const WRITERS: u8 = 6;
const ROUNDS: u64 = 25;
/// Rounds that end with the power.
#[cfg(target_os = "linux")]
const POWER_CUTS: u64 = 12;
/// A round is killed before it is told of this many batches.
const ANSWERS_MAX: u64 = 400;

struct Wrote {
    writer: u8,
    number: u64,
}

impl store::LogEntry for Wrote {
    const KIND: u16 = 340;

    fn encode_entry(&self, w: &mut store::Writer) {
        w.raw(&[self.writer]);
        w.raw(&self.number.to_be_bytes());
    }

    fn decode_entry(bytes: &[u8]) -> Result<Wrote, store::DecodeError> {
        let (writer, number) = store::decode_all(bytes)?;
        Ok(Wrote { writer, number })
    }
}

async fn open(path: &Path) -> Store {
    let options = Options { memory_budget_bytes: 16 * 1024 * 1024, ..Options::default() };
    Store::open_rocksdb(path, &options, &[TABLES]).await.unwrap()
}

fn body(writer: u8, number: u64) -> Bytes {
    Bytes::from(vec![writer ^ (number as u8); 100 + (number as usize * 797) % 9000])
}

/// The process that writes, which is this test started anew with [`DIRECTORY`] set. Says what it was told in lines; a line
/// counts once it is complete.
fn child(path: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = open(path).await;
        say(&format!("open {}", store.published()));
        let follower = tokio::spawn(follow(store.clone()));
        let writers: Vec<_> = (0..WRITERS).map(|writer| tokio::spawn(write(store.clone(), writer))).collect();
        for writer in writers {
            writer.await.unwrap();
        }
        follower.abort();
    });
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// Whether a writer doesn't wait for the disk.
fn is_relaxed(writer: u8) -> bool {
    writer % 3 == 2
}

async fn write(store: Store, writer: u8) {
    let mut head = store.view().await.unwrap().get::<Heads>(&writer).await.unwrap();
    loop {
        let number = head.map_or(1, |head| head + 1);
        let mut batch = Batch::new();
        if is_relaxed(writer) {
            batch.relaxed();
        }
        batch.expect::<Heads>(&writer, head.as_ref());
        batch.put::<Bodies>(&(writer, number), &body(writer, number));
        let stamp = batch.log(&Wrote { writer, number });
        batch.put::<Rows>(&(writer, number), &stamp);
        batch.put::<Heads>(&writer, &number);
        match store.commit(batch).await {
            Ok(position) => say(&format!("wrote {writer} {number} {position}")),
            Err(CommitError::Closed) => return,
            Err(error) => panic!("{error}"),
        }
        head = Some(number);
    }
}

async fn follow(store: Store) {
    let mut follower = store.read_log(store.published());
    loop {
        match follower.next().await {
            Ok(records) => {
                for record in records {
                    say(&format!("saw {}", record.position));
                }
            }
            Err(FollowError::Closed) => return,
            Err(error) => panic!("{error}"),
        }
    }
}

/// What a process said before it was killed.
#[derive(Default)]
struct Said {
    opened_at: u64,
    wrote: Vec<(u8, u64, u64)>,
    saw: BTreeSet<u64>,
}

/// Lets a process write until it has been told of `answers` batches, then kills it. `environment` is what else it has in its
/// environment.
fn write_and_kill(path: &Path, answers: u64, environment: &[(&str, &Path)]) -> Said {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "killed_writer_loses_nothing_that_was_acknowledged", "--nocapture"])
        .env(DIRECTORY, path)
        .envs(environment.iter().copied())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = Said::default();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    let mut killed = false;
    loop {
        line.clear();
        lines.read_line(&mut line).unwrap();
        if !line.ends_with('\n') {
            break;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |index: usize| words[index].parse::<u64>().unwrap();
        match words.first() {
            Some(&"open") => said.opened_at = number(1),
            Some(&"wrote") => said.wrote.push((number(1) as u8, number(2), number(3))),
            Some(&"saw") => {
                said.saw.insert(number(1));
            }
            _ => {}
        }
        // What is still in the pipe was said, too.
        if !killed && said.wrote.len() as u64 >= answers {
            child.kill().unwrap();
            killed = true;
        }
    }
    child.wait().unwrap();
    assert!(killed, "the process ended by itself");
    said
}

/// Everything that the store holds is whole; returns the rows.
async fn check_whole(store: &Store) -> BTreeMap<(u8, u64), Position> {
    let view = store.view().await.unwrap();
    let mut rows = BTreeMap::new();
    for writer in 0..WRITERS {
        let head = view.get::<Heads>(&writer).await.unwrap().unwrap_or(0);
        rows.extend(view.scan_all(Range::<Rows>::prefix(&(writer,))).await.unwrap());
        assert!(rows.range((writer, 0)..=(writer, u64::MAX)).map(|(key, _)| key.1).eq(1..=head));
        for number in 1..=head {
            let stored = view.get::<Bodies>(&(writer, number)).await.unwrap();
            assert_eq!(stored.unwrap(), body(writer, number), "{writer} {number}");
        }
        let beyond = Range::<Bodies>::prefix(&(writer,)).after(&(writer, head));
        assert!(view.first(beyond).await.unwrap().is_none());
    }
    rows
}

async fn logged(store: &Store) -> BTreeMap<(u8, u64), Position> {
    let mut follower = store.read_log(Position::ZERO);
    let mut entries = BTreeMap::new();
    loop {
        let records = follower.try_next().await.unwrap();
        if records.is_empty() {
            return entries;
        }
        for record in records {
            let Wrote { writer, number } = record.decode().unwrap().unwrap();
            assert_eq!(entries.insert((writer, number), record.position), None);
        }
    }
}

/// What was acknowledged of those who waited for the disk, and is lost. Whatever else is there is whole.
#[cfg(target_os = "linux")]
async fn lost(store: &Store, said: &Said) -> Vec<(u8, u64)> {
    let rows = check_whole(store).await;
    assert_eq!(rows, logged(store).await);
    let mut lost = Vec::new();
    for (writer, number, position) in &said.wrote {
        match rows.get(&(*writer, *number)) {
            Some(stored) => assert_eq!(stored.get(), *position),
            None if is_relaxed(*writer) => {}
            None => lost.push((*writer, *number)),
        }
    }
    lost
}

async fn check_said(store: &Store, said: &Said) {
    let rows = check_whole(store).await;
    assert_eq!(rows, logged(store).await);
    for (writer, number, position) in &said.wrote {
        assert_eq!(rows[&(*writer, *number)].get(), *position);
    }
    // Nothing appeared below a position that a follower had reached, and nothing it saw is gone.
    let Some(reached) = said.saw.last() else { return };
    let of_round = |position: &u64| *position > said.opened_at && position <= reached;
    let stored: BTreeSet<u64> = rows.values().map(|position| position.get()).filter(of_round).collect();
    assert_eq!(stored, said.saw);
    assert!(store.published().get() > *reached);
}

#[test]
fn killed_writer_loses_nothing_that_was_acknowledged() {
    if let Some(path) = std::env::var_os(DIRECTORY) {
        return child(Path::new(&path));
    }
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for (round, answers) in answers().take(ROUNDS as usize).enumerate() {
        let said = write_and_kill(directory.path(), answers, &[]);
        println!("round {round}: {answers} asked, {} answered", said.wrote.len());
        runtime.block_on(async {
            let store = open(directory.path()).await;
            check_said(&store, &said).await;
            store.close().await;
        });
    }
}

/// After how many answers each process is killed: the same in every run.
fn answers() -> impl Iterator<Item = u64> {
    let step = |seed: &u64| {
        // A step of xorshift.
        let mut seed = *seed;
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        Some(seed)
    };
    std::iter::successors(step(&0x9e37_79b9_7f4a_7c15), step).map(|seed| seed % ANSWERS_MAX)
}

/// A disk whose power can be cut, and the library that plays it.
#[cfg(target_os = "linux")]
struct Disk {
    directory: tempfile::TempDir,
    cuts: u32,
}

#[cfg(target_os = "linux")]
impl Disk {
    fn new() -> Disk {
        let directory = tempfile::tempdir().unwrap();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/power_cut.c");
        let mut compiler = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
        compiler.args(["-shared", "-fPIC", "-O1", source, "-ldl", "-pthread", "-o"]);
        assert!(compiler.arg(directory.path().join("power_cut.so")).status().unwrap().success());
        let disk = Disk { directory, cuts: 0 };
        std::fs::create_dir(disk.store()).unwrap();
        disk
    }

    /// The store's directory until the power is cut the next time.
    fn store(&self) -> PathBuf {
        self.directory.path().join(format!("store-{}", self.cuts))
    }

    /// Lets a process write until it was told of `answers` batches, and cuts the power. With `deaf`, fsync does nothing.
    fn write_and_cut(&mut self, answers: u64, deaf: bool) -> Said {
        let (library, store) = (self.directory.path().join("power_cut.so"), self.store());
        let left = self.directory.path().join(format!("left-{}", self.cuts));
        std::fs::create_dir(&left).unwrap();
        let mut environment: Vec<(&str, &Path)> =
            vec![("LD_PRELOAD", &library), ("HAIMA_POWER_CUT_DISK", &store), ("HAIMA_POWER_CUT_LEFT", &left)];
        if deaf {
            environment.push(("HAIMA_POWER_CUT_DEAF", Path::new("1")));
        }
        let said = write_and_kill(&store, answers, &environment);
        self.cuts += 1;
        std::fs::create_dir(self.store()).unwrap();
        for line in std::fs::read_to_string(left.join("names")).unwrap().lines() {
            let (number, name) = line.split_once(' ').unwrap();
            let file = self.store().join(name);
            match left.join(number) {
                kept if kept.exists() => std::fs::rename(kept, file).unwrap(),
                // It was made, and nothing of it was synced.
                _ => std::fs::write(file, []).unwrap(),
            }
        }
        std::fs::remove_dir_all(store).unwrap();
        std::fs::remove_dir_all(left).unwrap();
        said
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_power_cut_loses_nothing_that_was_acknowledged() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut disk = Disk::new();
    for (round, answers) in answers().take(POWER_CUTS as usize).enumerate() {
        let said = disk.write_and_cut(answers, false);
        println!("cut {round}: {answers} asked, {} answered", said.wrote.len());
        runtime.block_on(async {
            let store = open(&disk.store()).await;
            assert_eq!(lost(&store, &said).await, []);
            let last = said.wrote.iter().map(|(.., position)| *position).chain(said.saw.iter().copied()).max();
            assert!(last.is_none_or(|last| store.published().get() > last), "a position may be given again");
            store.close().await;
        });
    }
}

/// Shows that the disk of the test above forgets.
#[cfg(target_os = "linux")]
#[test]
fn without_syncing_a_power_cut_loses_what_was_acknowledged() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut disk = Disk::new();
    let said = disk.write_and_cut(ANSWERS_MAX, true);
    runtime.block_on(async {
        let store = open(&disk.store()).await;
        assert!(!lost(&store, &said).await.is_empty());
        store.close().await;
    });
}
