//! A process that writes is killed at random points: what it was told is written is there, whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Write},
    path::Path,
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

fn open(path: &Path) -> Store {
    let options = Options { memory_budget_bytes: 16 * 1024 * 1024, ..Options::default() };
    Store::open_rocksdb(path, &options, &[TABLES]).unwrap()
}

fn body(writer: u8, number: u64) -> Bytes {
    Bytes::from(vec![writer ^ (number as u8); 100 + (number as usize * 797) % 9000])
}

/// The process that writes, which is this test started anew with [`DIRECTORY`] set. Says what it was told in lines; a line
/// counts once it is complete.
fn child(path: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = open(path);
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

async fn write(store: Store, writer: u8) {
    let mut head = store.view().get::<Heads>(&writer).await.unwrap();
    loop {
        let number = head.map_or(1, |head| head + 1);
        let mut batch = Batch::new();
        if writer % 3 == 2 {
            batch.relaxed();
        }
        batch.expect::<Heads>(&writer, head.as_ref());
        batch.put::<Bodies>(&(writer, number), &body(writer, number));
        let stamp = batch.log(&Wrote { writer, number });
        batch.put::<Rows>(&(writer, number), &stamp.into());
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
    let mut follower = store.follow(store.published());
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

/// Lets a process write until it has been told of `answers` batches, then kills it.
fn write_and_kill(path: &Path, answers: u64) -> Said {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "killed_writer_loses_nothing_that_was_acknowledged", "--nocapture"])
        .env(DIRECTORY, path)
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
    let view = store.view();
    let mut rows = BTreeMap::new();
    for writer in 0..WRITERS {
        let head = view.get::<Heads>(&writer).await.unwrap().unwrap_or(0);
        let mut from = 0;
        loop {
            let page = view.scan(Range::<Rows>::prefix(&(writer,)).after(&(writer, from))).await.unwrap();
            let Some(((_, last), _)) = page.last() else { break };
            from = *last;
            rows.extend(page);
        }
        assert!(rows.range((writer, 0)..=(writer, u64::MAX)).map(|(key, _)| key.1).eq(1..=head));
        for number in 1..=head {
            let stored = view.get::<Bodies>(&(writer, number)).await.unwrap();
            assert_eq!(stored.unwrap(), body(writer, number), "{writer} {number}");
        }
        assert!(view.scan(Range::<Bodies>::prefix(&(writer,)).after(&(writer, head))).await.unwrap().is_empty());
    }
    rows
}

async fn logged(store: &Store) -> BTreeMap<(u8, u64), Position> {
    let mut follower = store.follow(Position::ZERO);
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
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..ROUNDS {
        // A step of xorshift.
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let answers = seed % ANSWERS_MAX;
        let said = write_and_kill(directory.path(), answers);
        println!("round {round}: {answers} asked, {} answered", said.wrote.len());
        runtime.block_on(async {
            let store = open(directory.path());
            check_said(&store, &said).await;
            store.close().await;
        });
    }
}
