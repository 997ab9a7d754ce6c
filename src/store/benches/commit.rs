//! What a small batch costs when 50 tasks commit at the same time: processor time of the committer and
//! of the whole process, and how many are durable in a second.

use std::time::Instant;

use store::{Batch, Bytes, Options, Position, Store, TableInfo};

store::table! {
    /// Looked up by identifier.
    Names = 360, Points: String => u64;
    /// In order, under a stamp.
    Timeline = 361, Ranges: (String, Position) => u64;
    /// A kilobyte each.
    Bodies = 362, Large: u64 => Bytes;
    /// Moved by every batch of a task.
    Heads = 363, Points: u64 => u64
}

const TABLES: &[TableInfo] =
    &[TableInfo::of::<Names>(), TableInfo::of::<Timeline>(), TableInfo::of::<Bodies>(), TableInfo::of::<Heads>()];
const TASKS: u64 = 50;
const BATCHES: u64 = 400;

struct Sent(u64);

impl store::LogEntry for Sent {
    const KIND: u16 = 360;

    fn encode_entry(&self, w: &mut store::Writer) {
        w.raw(&self.0.to_be_bytes());
    }

    fn decode_entry(bytes: &[u8]) -> Result<Sent, store::DecodeError> {
        store::decode_all(bytes).map(Sent)
    }
}

/// Time on a processor, in nanoseconds, of the threads with this name (all for an empty one).
fn processor_ns(name: &str) -> u64 {
    let mut sum = 0;
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else { return 0 };
    for thread in threads.flatten() {
        let read = |file: &str| std::fs::read_to_string(thread.path().join(file)).unwrap_or_default();
        if name.is_empty() || read("comm").trim() == name {
            let time = read("schedstat").split(' ').next().and_then(|word| word.parse::<u64>().ok());
            sum += time.unwrap_or(0);
        }
    }
    sum
}

fn batch(task: u64, number: u64, relaxed: bool) -> Batch {
    let event = task * 1_000_000 + number;
    let mut batch = Batch::new();
    if relaxed {
        batch.relaxed();
    }
    let name = format!("$7Lw0Q6Y9mWbXyF4cJ2rT8vZ1nK3pS5dG6hA0eU{event}");
    batch.expect::<Names>(&name, None);
    batch.expect::<Heads>(&task, number.checked_sub(1).as_ref());
    batch.put::<Heads>(&task, &number);
    batch.put::<Names>(&name, &event);
    batch.put::<Bodies>(&event, &Bytes::from(vec![b'x'; 700]));
    let stamp = batch.log(&Sent(event));
    batch.put::<Timeline>(&("!room:example.org", stamp), &event);
    batch
}

async fn measure(label: &str, relaxed: bool) -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let store = Store::open_rocksdb(directory.path(), &Options::default(), &[TABLES])?;
    let before = (Instant::now(), processor_ns("store-commit"), processor_ns(""));
    let mut tasks = Vec::new();
    for task in 0..TASKS {
        let store = store.clone();
        tasks.push(tokio::spawn(async move {
            for number in 0..BATCHES {
                store.commit(batch(task, number, relaxed)).await?;
            }
            Ok::<_, store::CommitError>(())
        }));
    }
    for task in tasks {
        task.await??;
    }
    let count = TASKS * BATCHES;
    let wall = before.0.elapsed();
    let committer = (processor_ns("store-commit") - before.1) / count;
    let process = (processor_ns("") - before.2) / count;
    let rate = count as f64 / wall.as_secs_f64();
    println!("{label}: {rate:.0}/s, committer {committer} ns, process {process} ns for each batch");
    store.close().await;
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        measure("durable", false).await?;
        measure("relaxed", true).await
    })
}
