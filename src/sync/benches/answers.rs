//! What answers of sync cost on RocksDB, without HTTP: a first sync after a start and once more, a delivery to each member
//! of a room, and an answer with nothing new.

use std::{path::Path, process::Command, sync::Arc, time::Duration};

use event::{SystemClock, SystemRandom};
use reading::Reading;
use rooms::{CreateRoom, Ports, Preset, Rooms, SendOptions, Sender};
use ruma::{DeviceId, OwnedRoomId, OwnedUserId, UserId, server_name};
use serde_json::{json, value::to_raw_value};
use store::{Options, Store};
use sync::{Sync, SyncRequest};
use testkit::Stopwatch;
use users::{PresenceState, Users};

type Failure = Box<dyn std::error::Error + Send + std::marker::Sync>;

/// Names the directory of the database that a child process fills.
const PREPARE: &str = "HAIMA_BENCH_PREPARE";
const ROOMS: usize = 200;
const MEMBERS_PER_ROOM: usize = 30;
const MESSAGES_PER_ROOM: usize = 100;
const DELIVERED_MESSAGES: usize = 200;
const IDLE_ANSWERS: u32 = 2_000;

/// How long the engine is left alone after it was opened.
const SETTLE: Duration = Duration::from_secs(3);

struct World {
    store: Store,
    rooms: Rooms,
    sync: Sync,
}

impl World {
    async fn open(path: &Path) -> Result<Self, Failure> {
        let store =
            Store::open_rocksdb(path, &Options::default(), &[rooms::TABLES, reading::TABLES, users::TABLES]).await?;
        let (clock, random) = (Arc::new(SystemClock), Arc::new(SystemRandom));
        let config = rooms::Config::new(server_name!("example.org").to_owned());
        let rooms = Rooms::open(config, store.clone(), clock.clone(), random.clone(), Ports::no_federation()).await?;
        let users = Users::open(users::Config::default(), store.clone(), clock.clone(), random).await?;
        let reading = Reading::new(rooms.clone(), store.clone(), clock.clone(), 30 << 20);
        let sync = Sync::start(sync::Config::default(), store.clone(), reading, users.clone(), clock).await?;
        Ok(Self { store, rooms, sync })
    }

    async fn say(&self, user: &UserId, room: &OwnedRoomId, text: &str) -> Result<(), Failure> {
        let content = to_raw_value(&json!({ "msgtype": "m.text", "body": text }))?;
        self.rooms.send(&Sender::user(user), room, "m.room.message", content, SendOptions::default()).await?;
        Ok(())
    }
}

fn user(number: usize) -> OwnedUserId {
    UserId::parse(format!("@user{number}:example.org")).expect("a user id")
}

async fn answer(
    sync: &Sync,
    user: &UserId,
    since: Option<&str>,
    timeout_ms: u64,
) -> Result<sync::SyncResponse, Failure> {
    let device: &DeviceId = "DEVICE".into();
    let request = SyncRequest {
        user,
        device,
        filter: None,
        since,
        full_state: false,
        use_state_after: false,
        set_presence: PresenceState::Offline,
        timeout_ms,
    };
    Ok(sync.classic(request).await?)
}

/// Fills the database.
async fn prepare(path: &Path) -> Result<(), Failure> {
    let world = World::open(path).await?;
    let mut rooms = Vec::new();
    for number in 0..ROOMS {
        let mut request = CreateRoom::new(user(0));
        request.preset = Some(Preset::PublicChat);
        request.name = Some(format!("Room {number}"));
        let room = world.rooms.create(&request).await?;
        for member in 1..MEMBERS_PER_ROOM {
            world.rooms.join(&user(member), &room, None).await?;
        }
        rooms.push(room);
    }
    // In turn, as rooms live side by side: the messages of one lie apart in the database.
    for message in 0..MESSAGES_PER_ROOM {
        for room in &rooms {
            world.say(&user(message % MEMBERS_PER_ROOM), room, "The tide comes in at nine.").await?;
        }
    }
    world.store.close().await;
    Ok(())
}

async fn measure(path: &Path) -> Result<(), Failure> {
    let world = World::open(path).await?;
    // The engine tidies up after it was opened.
    tokio::time::sleep(SETTLE).await;
    for label in ["first sync after a start, for each room", "the same once more"] {
        let stopwatch = Stopwatch::start();
        let response = answer(&world.sync, &user(0), None, 0).await?;
        stopwatch.report(label, response.rooms.join.len());
    }
    let rooms = world.rooms.joined_rooms(&world.store.view().await.unwrap(), &user(0)).await?;

    let mut since = Vec::new();
    for member in 0..MEMBERS_PER_ROOM {
        since.push(answer(&world.sync, &user(member), None, 0).await?.next_batch);
    }
    let stopwatch = Stopwatch::start();
    for _ in 0..IDLE_ANSWERS {
        answer(&world.sync, &user(0), Some(&since[0]), 0).await?;
    }
    stopwatch.report("an answer with nothing new", IDLE_ANSWERS as usize);

    let stopwatch = Stopwatch::start();
    let mut members = Vec::new();
    for (member, since) in since.into_iter().enumerate() {
        let sync = world.sync.clone();
        members.push(tokio::spawn(async move {
            let (mut since, mut got) = (since, 0);
            while got < DELIVERED_MESSAGES {
                let response = answer(&sync, &user(member), Some(&since), 60_000).await?;
                for (_, room) in &response.rooms.join {
                    got += room.timeline.events.len();
                }
                since = response.next_batch;
            }
            Ok::<_, Failure>(())
        }));
    }
    for message in 0..DELIVERED_MESSAGES {
        world.say(&user(0), &rooms[message % ROOMS], "And goes out at three.").await?;
    }
    for member in members {
        member.await??;
    }
    stopwatch.report("sending and delivering, for each delivery", DELIVERED_MESSAGES * MEMBERS_PER_ROOM);
    world.store.close().await;
    Ok(())
}

/// The database is filled by a process of its own, so that nothing of it is left in memory.
fn main() -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    if let Some(path) = std::env::var_os(PREPARE) {
        return runtime.block_on(prepare(path.as_ref()));
    }
    let directory = tempfile::tempdir()?;
    let prepared = Command::new(std::env::current_exe()?).env(PREPARE, directory.path()).status()?;
    if !prepared.success() {
        return Err("the database could not be filled".into());
    }
    runtime.block_on(measure(directory.path()))
}
