//! A store, users, a clock that stands still and randomness that repeats.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use event::{Clock, Random};
use ruma::{OwnedUserId, UserId, server_name};
use store::Store;
use users::{Config, IssuedSession, Kind, Login, NewAccount, Origin, PasswordConfig, Users};

pub const START_MS: u64 = 1_700_000_000_000;
pub const PASSWORD: &str = "correct horse";

pub struct ManualClock(AtomicU64);

impl Clock for ManualClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

struct CountingRandom(Mutex<u64>);

impl Random for CountingRandom {
    fn fill(&self, bytes: &mut [u8]) {
        let mut state = self.0.lock().unwrap();
        for byte in bytes {
            // xorshift64*
            *state ^= *state >> 12;
            *state ^= *state << 25;
            *state ^= *state >> 27;
            *byte = (state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 56) as u8;
        }
    }
}

pub struct World {
    pub store: Store,
    pub users: Users,
    pub clock: Arc<ManualClock>,
}

pub fn config() -> Config {
    let password = PasswordConfig { memory_kib: 8, passes: 1, ..PasswordConfig::default() };
    Config { password, new_user_displayname: false, ..Config::default() }
}

pub async fn world() -> World {
    world_with(config()).await
}

pub async fn world_with(config: Config) -> World {
    let store = Store::in_memory(&[users::TABLES]).await.unwrap();
    let clock = Arc::new(ManualClock(AtomicU64::new(START_MS)));
    let users = another(&store, &clock, config).await;
    World { store, users, clock }
}

/// More users of the same store, as another process of the server would have them.
pub async fn another(store: &Store, clock: &Arc<ManualClock>, config: Config) -> Users {
    static SEED: AtomicU64 = AtomicU64::new(1);
    let seed = SEED.fetch_add(0x9E37_79B9, Ordering::Relaxed);
    let random = Arc::new(CountingRandom(Mutex::new(seed)));
    Users::open(config, store.clone(), clock.clone(), random).await.unwrap()
}

pub fn user(localpart: &str) -> OwnedUserId {
    UserId::parse(format!("@{localpart}:example.org")).unwrap()
}

pub fn new_account(localpart: &str) -> NewAccount {
    NewAccount {
        user_id: users::user_id_for(localpart, server_name!("example.org")).unwrap(),
        password: Some(PASSWORD.to_owned()),
        kind: Kind::User,
        admin: false,
        origin: Origin::Registration,
        display_name: None,
        login: None,
    }
}

impl World {
    pub fn pass_ms(&self, ms: u64) {
        self.clock.0.fetch_add(ms, Ordering::SeqCst);
    }

    pub async fn view(&self) -> store::View {
        self.store.view().await.unwrap()
    }

    pub async fn register(&self, localpart: &str) -> OwnedUserId {
        self.users.create_account(new_account(localpart)).await.unwrap().user_id
    }

    pub async fn register_admin(&self, localpart: &str) -> OwnedUserId {
        let new = NewAccount { admin: true, origin: Origin::Administrator, ..new_account(localpart) };
        self.users.create_account(new).await.unwrap().user_id
    }

    pub async fn login(&self, user: &UserId, device: &str) -> IssuedSession {
        let login = Login { device_id: Some(device.into()), display_name: None, refreshable: false };
        self.users.login(user, &login).await.unwrap()
    }

    pub async fn login_refreshable(&self, user: &UserId, device: &str) -> IssuedSession {
        let login = Login { device_id: Some(device.into()), display_name: None, refreshable: true };
        self.users.login(user, &login).await.unwrap()
    }

    /// Lets the users' own tasks catch up with the log, as far as that needs no waiting.
    pub async fn settle(&self) {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }
}
