//! The background task that does the jobs.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use ruma::OwnedUserId;
use store::{Range, Table, Text};
use tokio::sync::watch;
use tracing::error;

use crate::{
    FlowsError, Inner,
    tables::{LeaveJobs, ProfileJobs},
};

/// Users looked at in one round.
const USERS_PER_ROUND: usize = 256;
/// Users whose jobs go on at the same time.
const USERS_AT_ONCE: usize = 8;
/// Pause after a round that failed, in milliseconds.
const RETRY_MS: u64 = 5_000;

/// Tells the background task of jobs, and others when it is done.
pub(crate) struct Jobs {
    /// Counts the jobs written down; 1 stands for those of an earlier process.
    wanted: watch::Sender<u64>,
    /// The value of `wanted` at which the task last found nothing to do.
    done: watch::Sender<u64>,
}

impl Jobs {
    pub(crate) fn new() -> Self {
        Self { wanted: watch::Sender::new(1), done: watch::Sender::new(0) }
    }

    /// Says that a job was written down.
    pub(crate) fn wake(&self) {
        self.wanted.send_modify(|wanted| *wanted += 1);
    }

    /// Waits until all jobs written down by now are done.
    pub(crate) async fn finished(&self) {
        let wanted = *self.wanted.borrow();
        let mut done = self.done.subscribe();
        while *done.borrow_and_update() < wanted {
            // The sender lives as long as we do.
            if done.changed().await.is_err() {
                return;
            }
        }
    }
}

/// Does jobs until the flows are dropped.
pub(crate) async fn run(flows: Weak<Inner>, jobs: Arc<Jobs>) {
    let mut wanted = jobs.wanted.subscribe();
    loop {
        let now = *wanted.borrow_and_update();
        let Some(inner) = flows.upgrade() else { return };
        let done = round(&inner).await;
        drop(inner);
        match done {
            Ok(0) => {
                jobs.done.send_replace(now);
                if wanted.changed().await.is_err() {
                    return;
                }
            }
            Ok(_) => {}
            Err(failed) => {
                error!(error = %failed, "background jobs failed");
                tokio::time::sleep(Duration::from_millis(RETRY_MS)).await;
            }
        }
    }
}

/// One step of every job. Gives their number.
async fn round(inner: &Inner) -> Result<usize, FlowsError> {
    let profiles = users_with::<ProfileJobs>(inner).await?;
    let leaves = users_with::<LeaveJobs>(inner).await?;
    let jobs = profiles.len() + leaves.len();
    let profiles = stream::iter(profiles).map(|user| async move { inner.profile_step(&user).await });
    let mut profiles = profiles.buffer_unordered(USERS_AT_ONCE);
    let mut failed = None;
    // A job that can't go on now doesn't keep those of others.
    while let Some(done) = profiles.next().await {
        failed = done.err().or(failed);
    }
    for user in leaves {
        failed = inner.leave_step(&user).await.err().or(failed);
    }
    match failed {
        None => Ok(jobs),
        Some(failed) => Err(failed),
    }
}

async fn users_with<T>(inner: &Inner) -> Result<Vec<OwnedUserId>, FlowsError>
where
    T: Table<Key = Text<OwnedUserId>>,
{
    let page = inner.store.view().await?.scan(Range::<T>::all().limit(USERS_PER_ROUND)).await?;
    Ok(page.rows.into_iter().map(|(Text(user), _)| user).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    };

    use event::{Clock, SystemRandom};
    use reading::Reading;
    use rooms::{CreateRoom, Ports, Rooms};
    use ruma::{OwnedRoomId, OwnedUserId, server_name};
    use store::{Batch, Store};
    use users::{Kind, NewAccount, Origin, PasswordConfig, ProfileChange, Users, user_id_for};

    use crate::{
        Flows,
        tables::{LeaveJobs, ProfileJob, ProfileJobs},
    };

    /// A time that goes on with each look at it, so that no two rooms are made at the same moment.
    #[derive(Default)]
    struct Ticks(AtomicU64);

    impl Clock for Ticks {
        fn now_ms(&self) -> u64 {
            1_700_000_000_000 + self.0.fetch_add(1, Ordering::Relaxed)
        }
    }

    struct World {
        store: Store,
        users: Users,
        rooms: Rooms,
        reading: Reading,
    }

    impl World {
        async fn new() -> Self {
            let store =
                Store::in_memory(&[rooms::TABLES, reading::TABLES, users::TABLES, crate::TABLES]).await.unwrap();
            let (clock, random) = (Arc::new(Ticks::default()), Arc::new(SystemRandom));
            let password = PasswordConfig { memory_kib: 8, passes: 1, ..PasswordConfig::default() };
            let config = users::Config { password, ..users::Config::default() };
            let users = Users::open(config, store.clone(), clock.clone(), random.clone()).await.unwrap();
            let config = rooms::Config::new(server_name!("example.org").to_owned());
            let rooms =
                Rooms::open(config, store.clone(), clock.clone(), random, Ports::no_federation()).await.unwrap();
            let reading = Reading::new(rooms.clone(), store.clone(), clock, 1 << 20);
            Self { store, users, rooms, reading }
        }

        /// Background jobs begin with this, as after a restart.
        fn flows(&self) -> Flows {
            Flows::new(self.store.clone(), self.users.clone(), self.reading.clone())
        }

        async fn user(&self, name: &str) -> OwnedUserId {
            let new = NewAccount {
                user_id: user_id_for(name, server_name!("example.org")).unwrap(),
                password: None,
                kind: Kind::User,
                admin: false,
                origin: Origin::Administrator,
                display_name: None,
                login: None,
            };
            self.users.create_account(new).await.unwrap().user_id
        }

        async fn room(&self, creator: &OwnedUserId) -> OwnedRoomId {
            self.rooms.create(&CreateRoom::new(creator.clone())).await.unwrap()
        }

        async fn display_name(&self, room: &OwnedRoomId, user: &OwnedUserId) -> Option<String> {
            let view = self.store.view().await.unwrap();
            let state = self.rooms.current_state(&view, room).await.unwrap();
            let member = state.shown("m.room.member", user.as_str()).await.unwrap().unwrap();
            let content: serde_json::Value = serde_json::from_str(member.content().get()).unwrap();
            content["displayname"].as_str().map(ToOwned::to_owned)
        }
    }

    #[tokio::test]
    async fn a_profile_reaches_more_rooms_than_one_step_tells() {
        let world = World::new().await;
        let alice = world.user("alice").await;
        let mut rooms = Vec::new();
        for _ in 0..70 {
            rooms.push(world.room(&alice).await);
        }
        let flows = world.flows();
        flows.change_profile(&alice, &ProfileChange::display_name("First")).await.unwrap();
        flows.change_profile(&alice, &ProfileChange::display_name("Alice")).await.unwrap();
        flows.finish_jobs().await;
        for room in &rooms {
            assert_eq!(world.display_name(room, &alice).await.as_deref(), Some("Alice"));
        }
        assert_eq!(world.store.view().await.unwrap().get::<ProfileJobs>(&alice).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_job_goes_on_after_a_restart_where_it_was() {
        let world = World::new().await;
        let alice = world.user("alice").await;
        let mut rooms = [world.room(&alice).await, world.room(&alice).await];
        rooms.sort_unstable();
        world.users.change_profile(&alice, &ProfileChange::display_name("Alice")).await.unwrap();
        let mut batch = Batch::new();
        batch.put::<ProfileJobs>(&alice, &ProfileJob { version: 1, last: &rooms[0] });
        world.store.commit(batch).await.unwrap();
        world.flows().finish_jobs().await;
        // The first was done before.
        assert_eq!(world.display_name(&rooms[0], &alice).await, None);
        assert_eq!(world.display_name(&rooms[1], &alice).await.as_deref(), Some("Alice"));
    }

    #[tokio::test]
    async fn a_profile_that_changes_while_its_user_comes_in_gets_there() {
        let world = World::new().await;
        let alice = world.user("alice").await;
        let flows = world.flows();
        let had = world.users.profile(&world.store.view().await.unwrap(), &alice).await.unwrap();
        world.users.change_profile(&alice, &ProfileChange::display_name("Alice")).await.unwrap();
        // Made with the profile of before, after the change was told to all rooms that there were.
        let room = world.room(&alice).await;
        flows.catch_up(&alice, &room, &had).await;
        assert_eq!(world.display_name(&room, &alice).await.as_deref(), Some("Alice"));
        for round in 0..20 {
            let name = format!("Alice {round}");
            let change = ProfileChange::display_name(&name);
            let make = flows.create_room(CreateRoom::new(alice.clone()));
            let (room, changed) = tokio::join!(make, flows.change_profile(&alice, &change));
            changed.unwrap();
            flows.finish_jobs().await;
            assert_eq!(world.display_name(&room.unwrap(), &alice).await, Some(name));
        }
    }

    #[tokio::test]
    async fn a_room_that_was_left_is_not_joined_again() {
        let world = World::new().await;
        let alice = world.user("alice").await;
        let room = world.room(&alice).await;
        world.rooms.leave(&alice, &room, None).await.unwrap();
        let flows = world.flows();
        flows.change_profile(&alice, &ProfileChange::display_name("Alice")).await.unwrap();
        flows.finish_jobs().await;
        assert!(world.rooms.joined_rooms(&world.store.view().await.unwrap(), &alice).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn leaving_goes_on_after_a_restart() {
        let world = World::new().await;
        let alice = world.user("alice").await;
        for _ in 0..40 {
            world.room(&alice).await;
        }
        let mut batch = Batch::new();
        batch.put::<LeaveJobs>(&alice, &());
        world.store.commit(batch).await.unwrap();
        world.flows().finish_jobs().await;
        let view = world.store.view().await.unwrap();
        assert!(world.rooms.joined_rooms(&view, &alice).await.unwrap().is_empty());
        assert_eq!(view.get::<LeaveJobs>(&alice).await.unwrap(), None);
    }
}
