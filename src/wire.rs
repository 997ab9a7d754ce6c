//! Puts the parts together, runs them, and takes them down in order.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use client_api::{Accounts, ClientApi, Domains};
use event::{Clock, Random, SystemClock, SystemRandom};
use flows::Flows;
use haima_http::{CancellationToken, Certificates, Front, Gate, Server};
use media::Media;
use reading::Reading;
use rooms::Rooms;
use store::{Position, Store};
use sync::Sync;
use tracing::{info, warn};
use users::Users;

use crate::{config::Config, descriptors::Descriptors, lag::Lag, private};

/// The domain crates over one store.
#[derive(Clone)]
pub(crate) struct Parts {
    descriptors: Descriptors,
    pub(crate) store: Store,
    pub(crate) rooms: Rooms,
    pub(crate) reading: Reading,
    pub(crate) users: Users,
    pub(crate) flows: Flows,
    pub(crate) media: Media,
    pub(crate) clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
}

/// How often what has expired is removed.
const SWEEP_INTERVAL: Duration = Duration::from_secs(600);

/// What decoding images takes at most, as a multiple of the memory budget.
const DECODING_PART: u64 = 1;

/// Log entries kept for followers that fall behind. One that falls further back rebuilds from the tables.
pub(crate) const LOG_ENTRIES_KEPT: u64 = 1_000_000;

/// Log entries that a start reads at most, about, to know who is where.
const RESIDENTS_RECORDS: u64 = 200_000;

const TABLES: &[&[store::TableInfo]] = &[rooms::TABLES, reading::TABLES, users::TABLES, flows::TABLES, media::TABLES];

/// Opens the database and the domains over it for some work. However that ends, the database is closed: a process must not end
/// while RocksDB's threads run.
pub(crate) async fn with_parts<T>(
    config: &Config,
    work: impl AsyncFnOnce(&Parts) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let path = &config.server.database_path;
    private::close_directories(config);
    let descriptors = Descriptors::claim();
    let store = Store::open_rocksdb(path, &store_options(config, descriptors), TABLES)
        .await
        .with_context(|| format!("can't open the database (database_path = {path:?})"))?;
    let result = async { work(&parts(config, descriptors, &store).await?).await }.await;
    store.close().await;
    result
}

async fn parts(config: &Config, descriptors: Descriptors, store: &Store) -> anyhow::Result<Parts> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let random: Arc<dyn Random> = Arc::new(SystemRandom);
    let name = config.server.server_name.as_str();
    store
        .claim_identity("server_name", name)
        .await
        .with_context(|| format!("server_name can't be changed to {name:?}"))?;

    let caches = Caches::of(store.budget().callers_bytes as u64);
    let ports = rooms::Ports::no_federation();
    let rooms = Rooms::open(rooms_config(config, &caches), store.clone(), clock.clone(), random.clone(), ports).await?;
    let reading = Reading::new(rooms.clone(), store.clone(), clock.clone(), caches.reading);
    let users = Users::open(users_config(config, &caches), store.clone(), clock.clone(), random.clone()).await?;
    let flows = Flows::new(store.clone(), users.clone(), reading.clone());
    let media = Media::open(media_config(config), store.clone(), clock.clone(), random.clone()).await?;
    Ok(Parts { descriptors, store: store.clone(), rooms, reading, users, flows, media, clock, random })
}

/// Removes what has had its time, now and then, for the life of the process.
async fn sweep(store: Store, reading: Reading, users: Users, media: Media) {
    let mut interval = tokio::time::interval(SWEEP_INTERVAL);
    let mut lag = Lag::default();
    loop {
        interval.tick().await;
        if let Err(error) = reading.rooms().checkpoint_residents(RESIDENTS_RECORDS).await {
            warn!(%error, "can't write down who is where");
        }
        if let Err(error) = reading.rooms().sweep_txn_ids().await {
            warn!(%error, "can't remove old transaction ids");
        }
        if let Err(error) = reading.refresh_directory().await {
            warn!(%error, "can't bring the room directory up to date");
        }
        if let Err(error) = users.sweep_expired().await {
            warn!(%error, "can't remove what has expired of users");
        }
        if let Err(error) = media.sweep().await {
            warn!(%error, "can't remove old files");
        }
        let before = Position::from_u64(store.published().get().saturating_sub(LOG_ENTRIES_KEPT));
        if let Err(error) = store.trim_log(before).await {
            warn!(%error, "can't trim the log");
        }
        for follower in lag.staying(store.followers()) {
            let (name, lag) = (follower.name, follower.lag);
            warn!(
                follower = name,
                lag, "a follower of the log stays behind; {LOG_ENTRIES_KEPT} entries are kept for it"
            );
        }
    }
}

/// Runs the server until it is told to stop.
pub async fn serve(config: Config) -> anyhow::Result<()> {
    with_parts(&config, async |parts| run(&config, parts).await).await?;
    info!("stopped");
    Ok(())
}

async fn run(config: &Config, parts: &Parts) -> anyhow::Result<()> {
    announce_first_token(&parts.users).await?;

    let shutdown = CancellationToken::new();
    let accounts = Accounts::new(parts.users.clone(), config.api.admins.iter().cloned());
    let gate = Arc::new(Gate::new(http_config(config, parts.descriptors), Box::new(accounts), shutdown.clone()));
    let listeners = Server::bind(gate.clone()).await?;
    let Parts { store, reading, users, media, clock, .. } = parts;
    let sync_config = sync_config(config, &Caches::of(store.budget().callers_bytes as u64));
    let sync = Sync::start(sync_config, store.clone(), reading.clone(), users.clone(), clock.clone()).await?;
    let domains = Domains {
        store: parts.store.clone(),
        users: parts.users.clone(),
        reading: parts.reading.clone(),
        flows: parts.flows.clone(),
        sync: sync.clone(),
        media: parts.media.clone(),
    };
    let api = ClientApi::new(api_config(config), gate.clone(), domains, parts.clock.clone(), parts.random.clone());
    let (router, _) = client_api::router(api);
    let front = Front::new(&gate, router);

    let scheme = if config.http.tls.is_some() { "https" } else { "http" };
    let signals = Signals::new().context("can't wait for signals")?;
    let commands = take_commands(config, parts);
    for address in listeners.addresses() {
        info!("listening on {scheme}://{address}");
    }
    tokio::spawn(heed_signals(signals, listeners.certificates().clone(), shutdown, sync));
    let sweeping = tokio::spawn(sweep(store.clone(), reading.clone(), users.clone(), media.clone()));
    listeners.run(front).await;
    sweeping.abort();
    if let Some(commands) = commands {
        commands.abort();
        // It holds parts of the database, which is closed next.
        if let Err(error) = commands.await
            && !error.is_cancelled()
        {
            warn!(%error, "taking commands has failed");
        }
    }
    Ok(())
}

/// Takes commands beside the database, as long as the server runs.
#[cfg(unix)]
fn take_commands(config: &Config, parts: &Parts) -> Option<tokio::task::JoinHandle<()>> {
    match crate::commands_socket::Control::bind(&config.server.database_path) {
        Ok(control) => Some(tokio::spawn(control.run(Arc::new(config.clone()), parts.clone()))),
        Err(error) => {
            warn!(%error, "commands on the command line need the server to be stopped: there is no socket for them");
            None
        }
    }
}

#[cfg(not(unix))]
fn take_commands(_: &Config, _: &Parts) -> Option<tokio::task::JoinHandle<()>> {
    None
}

/// Opens the database as one that was put back from an older copy.
pub async fn restore(config: &Config) -> anyhow::Result<()> {
    let path = &config.server.database_path;
    anyhow::ensure!(path.exists(), "there is no database (database_path = {path:?})");
    let store = Store::restore(path, &store_options(config, Descriptors::claim()), TABLES)
        .await
        .with_context(|| format!("can't open the database (database_path = {path:?})"))?;
    println!("The database is in epoch {} now.", store.epoch());
    store.close().await;
    Ok(())
}

/// While there is no account, the log shows the token with which the first is registered.
async fn announce_first_token(users: &Users) -> anyhow::Result<()> {
    if let Some(token) = users.bootstrap_token().await? {
        info!("no accounts yet: register the first one, an admin, with the token {token}");
    }
    Ok(())
}

/// Reads certificates anew when the process is told to, and begins the shutdown when it is told to end.
async fn heed_signals(mut signals: Signals, certificates: Certificates, shutdown: CancellationToken, sync: Sync) {
    while signals.next().await != Told::End {
        certificates.reread().await;
    }
    info!("stopping");
    sync.shut_down();
    shutdown.cancel();
}

/// What a signal tells the process.
#[derive(Copy, Clone, PartialEq, Eq)]
enum Told {
    /// To read its certificates anew.
    #[cfg(unix)]
    Reread,
    /// To end.
    End,
}

/// SIGHUP, SIGTERM and SIGINT, caught from [`Signals::new`] on.
#[cfg(unix)]
struct Signals {
    hang_up: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            hang_up: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::End,
            _ = self.interrupt.recv() => Told::End,
            _ = self.hang_up.recv() => Told::Reread,
        }
    }
}

/// Ctrl+C, where there are no Unix signals.
#[cfg(windows)]
struct Signals(tokio::signal::windows::CtrlC);

#[cfg(windows)]
impl Signals {
    fn new() -> std::io::Result<Self> {
        tokio::signal::windows::ctrl_c().map(Self)
    }

    async fn next(&mut self) -> Told {
        self.0.recv().await;
        Told::End
    }
}

/// How the crates' caches share what the store leaves of the memory budget, in bytes.
pub(crate) struct Caches {
    events: u64,
    nodes: u64,
    /// States that were resolved.
    resolutions: u64,
    /// What readers get of events and states.
    reading: u64,
    users: u64,
    sync: u64,
}

impl Caches {
    pub(crate) fn of(bytes: u64) -> Self {
        let percent = bytes / 100;
        Self {
            events: 25 * percent,
            nodes: 15 * percent,
            resolutions: 2 * percent,
            reading: 28 * percent,
            users: 25 * percent,
            sync: 5 * percent,
        }
    }
}

pub(crate) fn store_options(config: &Config, descriptors: Descriptors) -> store::Options {
    let memory_budget_bytes = usize::try_from(config.server.db_cache_capacity_mb.bytes()).unwrap_or(usize::MAX);
    let open_files_max = descriptors.database_files;
    store::Options { memory_budget_bytes, open_files_max, ..store::Options::default() }
}

pub(crate) fn rooms_config(config: &Config, caches: &Caches) -> rooms::Config {
    rooms::Config {
        server_name: config.server.server_name.clone(),
        event_cache_bytes: caches.events,
        node_cache_bytes: caches.nodes,
        resolution_cache_bytes: caches.resolutions,
        ..config.rooms.clone()
    }
}

pub(crate) fn users_config(config: &Config, caches: &Caches) -> users::Config {
    users::Config { cache_bytes: caches.users, ..config.users.clone() }
}

pub(crate) fn media_config(config: &Config) -> media::Config {
    media::Config {
        server_name: config.server.server_name.clone(),
        path_default: config.server.database_path.join("media"),
        previews: Some(config.previews.clone()),
        decoding_bytes_max: config.server.db_cache_capacity_mb.bytes().saturating_mul(DECODING_PART),
        ..config.media.clone()
    }
}

pub(crate) fn sync_config(config: &Config, caches: &Caches) -> sync::Config {
    sync::Config { cache_bytes: caches.sync, ..config.sync.clone() }
}

pub(crate) fn api_config(config: &Config) -> client_api::Config {
    client_api::Config { server_name: config.server.server_name.clone(), ..config.api.clone() }
}

pub(crate) fn http_config(config: &Config, descriptors: Descriptors) -> haima_http::Config {
    descriptors.warn_if_few(config.http.connections_max);
    haima_http::Config {
        connections_max: config.http.connections_max.min(descriptors.connections),
        upload_bytes_max: usize::try_from(config.media.max_request_size).unwrap_or(usize::MAX),
        poll_max: config.sync.client_sync_timeout_max,
        info_uri: info_uri(config),
        ..config.http.clone()
    }
}

/// Where users read about the limits of their accounts: the page with help, else what is at the server's name.
fn info_uri(config: &Config) -> String {
    let page = config.api.well_known.support_page.clone();
    page.unwrap_or_else(|| format!("https://{}/", config.server.server_name))
}
