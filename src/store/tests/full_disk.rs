//! RocksDB can't write any more (its files reach the size that the system allows): nothing that was
//! acknowledged is lost, and the store recovers without a restart.
#![cfg(target_os = "linux")]

use std::{
    path::Path,
    process::{Command, Stdio},
};

use store::{Batch, Bytes, CommitError, Options, Position, Store, TableInfo};

store::table! {
    /// Something to fill files with.
    Rows = 350, Points: u64 => Bytes
}

const TABLES: &[TableInfo] = &[TableInfo::of::<Rows>()];

/// In the environment of the limited process: the store's directory.
const DIRECTORY: &str = "HAIMA_STORE_FULL_DISK_TEST_DIRECTORY";
/// The limited process's last line.
const DONE: &str = "done";
/// The largest file that the process may write, in KiB: the write-ahead log reaches the first limit, the
/// files that compaction writes the second one.
const FILE_KIB_MAX: [u64; 2] = [600, 2048];
/// Failures that the process lives through.
const FAILURES: u32 = 1;
/// More than the process needs for that.
const ROWS_MAX: u64 = 100_000;

struct Wrote(u64);

impl store::LogEntry for Wrote {
    const KIND: u16 = 350;

    fn encode_entry(&self, w: &mut store::Writer) {
        w.raw(&self.0.to_be_bytes());
    }

    fn decode_entry(bytes: &[u8]) -> Result<Wrote, store::DecodeError> {
        store::decode_all(bytes).map(Wrote)
    }
}

async fn open(path: &Path) -> Store {
    let options = Options { memory_budget_bytes: 16 * 1024 * 1024, ..Options::default() };
    Store::open_rocksdb(path, &options, &[TABLES]).await.unwrap()
}

fn content(number: u64) -> Bytes {
    // Not compressible, so that files grow.
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::new();
    for _ in 0..512 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_be_bytes());
    }
    bytes.into()
}

/// The limited process, which is this test started anew with [`DIRECTORY`] set: writes until it has failed often enough, then
/// says what was acknowledged.
fn child(path: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = open(path).await;
        let mut acknowledged = Vec::new();
        let mut failures = 0;
        let mut failing = false;
        let mut last = Position::ZERO;
        for number in 0..ROWS_MAX {
            let mut batch = Batch::new();
            let _ = batch.log(&Wrote(number));
            batch.put::<Rows>(&number, &content(number));
            match store.commit(batch).await {
                Ok(position) => {
                    assert!(position > last);
                    last = position;
                    acknowledged.push(number);
                    failing = false;
                }
                Err(CommitError::Failed(_)) if failing => store.recovered().await.unwrap(),
                Err(CommitError::Failed(reason)) => {
                    println!("failed {reason}");
                    failing = true;
                    failures += 1;
                }
                Err(error) => panic!("{error}"),
            }
            if failures > FAILURES {
                break;
            }
        }
        assert!(failures > FAILURES, "the limit was not reached");
        for number in acknowledged {
            println!("acknowledged {number}");
        }
    });
    println!("{DONE}");
    // Not closed: what was acknowledged doesn't depend on it. An ordinary end of the process would take RocksDB's globals away
    // from its threads.
    std::process::abort();
}

#[test]
fn failed_writes_lose_nothing_that_was_acknowledged() {
    if let Some(path) = std::env::var_os(DIRECTORY) {
        return child(Path::new(&path));
    }
    for kib_max in FILE_KIB_MAX {
        with_files_up_to(kib_max);
    }
}

fn with_files_up_to(kib_max: u64) {
    let directory = tempfile::tempdir().unwrap();
    // `ulimit -f` counts in units of 512 bytes in some shells and of 1 KiB in bash.
    let script = format!("trap '' XFSZ; ulimit -f {kib_max}; exec \"$0\" \"$@\"");
    let output = Command::new("bash")
        .args(["-c", &script])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "failed_writes_lose_nothing_that_was_acknowledged", "--nocapture"])
        .env(DIRECTORY, directory.path())
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.lines().any(|line| line == DONE), "{said}");
    let acknowledged: Vec<u64> =
        said.lines().filter_map(|line| line.strip_prefix("acknowledged ")?.parse().ok()).collect();
    assert!(!acknowledged.is_empty());

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = open(directory.path()).await;
        let view = store.view().await.unwrap();
        for number in &acknowledged {
            assert_eq!(view.get::<Rows>(number).await.unwrap(), Some(content(*number)), "{number}");
        }
        let mut follower = store.read_log(Position::ZERO);
        let mut logged = Vec::new();
        loop {
            let records = follower.try_next().await.unwrap();
            if records.is_empty() {
                break;
            }
            for record in records {
                let Wrote(number) = record.decode().unwrap().unwrap();
                assert!(view.contains::<Rows>(&number).await.unwrap(), "a torn batch");
                logged.push(number);
            }
        }
        assert!(acknowledged.iter().all(|number| logged.contains(number)));
        drop(view);
        store.close().await;
    });
}

/// A small file system, if this process may mount one.
struct Small(tempfile::TempDir);

impl Small {
    fn mount() -> Option<Small> {
        let directory = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"]).arg(directory.path());
        mount.stderr(Stdio::null()).status().ok()?.success().then(|| Small(directory))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Whoever can mount can unmount; a failure leaves an empty directory behind.
        Command::new("umount").arg("-l").arg(self.0.path()).status().ok();
    }
}

#[test]
fn full_disk_is_read_from_and_recovers_when_there_is_room() {
    let Some(small) = Small::mount() else {
        println!("not tested: a file system can't be mounted here");
        return;
    };
    let ballast = small.0.path().join("ballast");
    std::fs::write(&ballast, vec![1; 12 * 1024 * 1024]).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let path = small.0.path().join("store");
        let store = open(&path).await;
        let mut number = 0;
        loop {
            let mut batch = Batch::new();
            batch.put::<Rows>(&(number % 64), &content(number));
            match store.commit(batch).await {
                Ok(_) => number += 1,
                Err(CommitError::Failed(reason)) => {
                    println!("{number} rows, then {reason}");
                    break;
                }
                Err(error) => panic!("{error}"),
            }
            assert!(number < ROWS_MAX, "the disk never got full");
        }
        let newest = content(number - 1);
        let read = || async { store.view().await.unwrap().get::<Rows>(&((number - 1) % 64)).await.unwrap() };
        for _ in 0..20 {
            assert_eq!(read().await, Some(newest.clone()), "reading goes on");
            let mut batch = Batch::new();
            let _ = batch.log(&Wrote(number));
            assert!(matches!(store.commit(batch).await, Err(CommitError::Failed(_))));
        }
        assert!(!store.is_writable());
        std::fs::remove_file(&ballast).unwrap();
        let mut marker = store.commit(Batch::new()).await.unwrap();
        loop {
            let mut batch = Batch::new();
            let _ = batch.log(&Wrote(number));
            match store.commit(batch).await {
                Ok(position) => {
                    assert!(position > marker);
                    marker = position;
                    break;
                }
                Err(CommitError::Failed(_)) => store.recovered().await.unwrap(),
                Err(error) => panic!("{error}"),
            }
        }
        assert!(store.is_writable());
        assert_eq!(store.published(), marker);
        store.close().await;
        assert!(!store.is_writable());

        let store = open(&path).await;
        assert_eq!(store.view().await.unwrap().get::<Rows>(&((number - 1) % 64)).await.unwrap(), Some(newest));
        store.close().await;
    });
}
