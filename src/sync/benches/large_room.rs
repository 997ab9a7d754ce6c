//! What a room with everybody in it costs each of its members, at several sizes: coming online, typing, and new keys of a few of them.
//! The cost for each member should not grow with their number. `HAIMA_BENCH_MEMBERS` gives other sizes, separated by commas.

use std::{sync::Arc, time::Duration};

use event::{SystemClock, SystemRandom};
use reading::Reading;
use rooms::{CreateRoom, Ports, Preset, Rooms};
use ruma::{DeviceId, OwnedRoomId, OwnedUserId, UserId, server_name};
use serde_json::{json, value::to_raw_value};
use store::{Batch, Options, Store};
use sync::{Sync, SyncRequest};
use testkit::Stopwatch;
use users::{PresenceState, Users};

type Failure = Box<dyn std::error::Error + Send + std::marker::Sync>;

const SIZES: [usize; 3] = [1_000, 5_000, 20_000];
/// Members whose keys change.
const NEW_KEYS: usize = 50;
const FILTER: &str = r#"{"room":{"state":{"lazy_load_members":true},"timeline":{"limit":1}}}"#;

struct World {
    store: Store,
    rooms: Rooms,
    users: Users,
    sync: Sync,
    room: OwnedRoomId,
    members: Vec<OwnedUserId>,
    since: Vec<Option<String>>,
}

impl World {
    async fn new(path: &std::path::Path, count: usize) -> Result<Self, Failure> {
        let store =
            Store::open_rocksdb(path, &Options::default(), &[rooms::TABLES, reading::TABLES, users::TABLES]).await?;
        let (clock, random) = (Arc::new(SystemClock), Arc::new(SystemRandom));
        let config = rooms::Config::new(server_name!("example.org").to_owned());
        let rooms = Rooms::open(config, store.clone(), clock.clone(), random.clone(), Ports::no_federation()).await?;
        let users = Users::open(users::Config::default(), store.clone(), clock.clone(), random).await?;
        let reading = Reading::new(rooms.clone(), store.clone(), clock.clone(), 30 << 20);
        let sync = Sync::start(sync::Config::default(), store.clone(), reading, users.clone(), clock).await?;
        let members: Vec<OwnedUserId> =
            (0..count).map(|number| UserId::parse(format!("@user{number}:example.org"))).collect::<Result<_, _>>()?;
        let mut request = CreateRoom::new(members[0].clone());
        request.preset = Some(Preset::PublicChat);
        let room = rooms.create(&request).await?;
        for member in &members[1..] {
            rooms.join(member, &room, None).await?;
        }
        let since = vec![None; count];
        Ok(Self { store, rooms, users, sync, room, members, since })
    }

    /// Lets all members sync, and returns how many bytes they got.
    async fn answer_all(&mut self) -> Result<usize, Failure> {
        let device: &DeviceId = "DEVICE".into();
        let mut bytes = 0;
        for (user, since) in self.members.iter().zip(&mut self.since) {
            let request = SyncRequest {
                user,
                device,
                filter: Some(FILTER),
                since: since.as_deref(),
                full_state: false,
                use_state_after: false,
                set_presence: PresenceState::Offline,
                timeout_ms: 0,
            };
            let response = self.sync.classic(request).await?;
            bytes += response.to_json()?.len();
            *since = Some(response.next_batch);
        }
        Ok(bytes)
    }

    /// Measures what happened since `stopwatch` began until all members know of it.
    async fn report(&mut self, what: &str, stopwatch: Stopwatch, routed: u64, wait: Duration) -> Result<(), Failure> {
        tokio::time::sleep(wait).await;
        let bytes = self.answer_all().await?;
        let count = self.members.len();
        let routed = (self.sync.changes_routed() - routed) as f64 / count as f64;
        stopwatch.report(&format!("{count} members, {what}, for each"), count);
        println!("    {routed:.1} changes routed and {} bytes answered for each", bytes / count);
        Ok(())
    }

    async fn measure(&mut self) -> Result<(), Failure> {
        let (stopwatch, routed) = (Stopwatch::start(), self.sync.changes_routed());
        self.report("first sync", stopwatch, routed, Duration::ZERO).await?;

        let (stopwatch, routed) = (Stopwatch::start(), self.sync.changes_routed());
        for member in &self.members {
            self.users.presence().set(member, "PHONE".into(), PresenceState::Online, None).await?;
        }
        self.report("all come online", stopwatch, routed, Duration::ZERO).await?;

        let (stopwatch, routed) = (Stopwatch::start(), self.sync.changes_routed());
        for member in &self.members {
            self.rooms.typing().start(&self.room, member, 60_000);
        }
        // Until it is told even in the largest of rooms.
        let late = Duration::from_secs(2 + self.members.len().div_ceil(1_000) as u64);
        self.report("all type", stopwatch, routed, late).await?;

        self.keys("new keys of a few").await?;
        let content = to_raw_value(&json!({ "algorithm": "m.megolm.v1.aes-sha2" }))?;
        let sender = rooms::Sender::user(&self.members[0]);
        let options = rooms::SendOptions::default();
        self.rooms
            .send_state(&sender, &self.room, rooms::NewState::new(("m.room.encryption", ""), content)?, options)
            .await?;
        self.answer_all().await?;
        self.keys("new keys of a few, encrypted").await
    }

    async fn keys(&mut self, what: &str) -> Result<(), Failure> {
        let (stopwatch, routed) = (Stopwatch::start(), self.sync.changes_routed());
        for member in self.members.iter().take(NEW_KEYS) {
            let (view, mut batch) = (self.store.view().await.unwrap(), Batch::new());
            self.users.prepare_remote_device_list(&view, &mut batch, member, vec![self.room.clone()]).await?;
            self.store.commit(batch).await?;
        }
        self.report(what, stopwatch, routed, Duration::ZERO).await
    }
}

fn main() -> Result<(), Failure> {
    let sizes: Vec<usize> = match std::env::var("HAIMA_BENCH_MEMBERS") {
        Ok(sizes) => sizes.split(',').map(str::parse).collect::<Result<_, _>>()?,
        Err(_) => SIZES.to_vec(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    for count in sizes {
        let directory = tempfile::tempdir()?;
        runtime.block_on(async {
            let mut world = World::new(directory.path(), count).await?;
            world.measure().await?;
            world.sync.shut_down();
            world.store.close().await;
            Ok::<_, Failure>(())
        })?;
    }
    Ok(())
}
