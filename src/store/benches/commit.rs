//! What a small batch costs when 50 tasks commit at the same time: processor time of the committer and
//! of the whole process, and the time that each takes until it is durable.

use store::{Batch, Bytes, Options, Position, Store, TableInfo};
use testkit::{Stopwatch, processor_ns};

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
/// The name of the store's thread that writes.
const COMMITTER: &str = "store-commit";
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
    let store = Store::open_rocksdb(directory.path(), &Options::default(), &[TABLES]).await?;
    let (stopwatch, before_ns) = (Stopwatch::start(), processor_ns(COMMITTER));
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
    stopwatch.report(label, count as usize);
    println!("    of it the committer: {} ns", (processor_ns(COMMITTER) - before_ns) / count);
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
