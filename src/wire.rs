//! Puts the parts together, runs them, and takes them down in order.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use client_api::{Accounts, ClientApi, Domains, Registration, Turn, TurnAccess};
use event::{Clock, Random, SystemClock, SystemRandom};
use flows::Flows;
use haima_http::{CancellationToken, Certificates, Front, Gate, Networks, Server, limit};
use media::Media;
use reading::Reading;
use rooms::Rooms;
use ruma::api::client::discovery::discover_support::{Contact, ContactRole};
use store::{Position, Store};
use sync::Sync;
use tracing::{info, warn};
use users::Users;

use crate::{
    config::{Config, RateLimit, RateLimits, WellKnown},
    descriptors::Descriptors,
    lag::Lag,
    private,
};

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

const TABLES: &[&[store::TableInfo]] = &[rooms::TABLES, reading::TABLES, users::TABLES, flows::TABLES, media::TABLES];

/// Opens the database and the domains over it for some work. However that ends, the database is closed: a process must not end
/// while RocksDB's threads run.
pub(crate) async fn with_parts<T>(
    config: &Config,
    work: impl AsyncFnOnce(&Parts) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let path = &config.database_path;
    private::close_directories(config);
    let descriptors = Descriptors::claim();
    let store = Store::open_rocksdb(path, &store_options(config, descriptors), TABLES)
        .with_context(|| format!("can't open the database (database_path = {path:?})"))?;
    let result = async { work(&parts(config, descriptors, &store).await?).await }.await;
    store.close().await;
    result
}

async fn parts(config: &Config, descriptors: Descriptors, store: &Store) -> anyhow::Result<Parts> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let random: Arc<dyn Random> = Arc::new(SystemRandom);
    let name = config.server_name.as_str();
    store
        .claim_identity("server_name", name)
        .await
        .with_context(|| format!("server_name can't be changed to {name:?}"))?;

    let caches = Caches::of(store.budget().callers_bytes as u64);
    let mut rooms_config = rooms_config(config);
    rooms_config.event_cache_bytes = caches.events;
    rooms_config.node_cache_bytes = caches.nodes;
    rooms_config.resolution_cache_bytes = caches.resolutions;
    let ports = rooms::Ports::no_federation();
    let rooms = Rooms::open(rooms_config, store.clone(), clock.clone(), random.clone(), ports).await?;
    let reading = Reading::new(rooms.clone(), store.clone(), clock.clone(), caches.reading);
    let users_config = users::Config { cache_bytes: caches.users, ..users_config(config) };
    let users = Users::new(users_config, store.clone(), clock.clone(), random.clone())?;
    let flows = Flows::new(store.clone(), users.clone(), reading.clone());
    let media = Media::open(media_config(config)?, store.clone(), clock.clone(), random.clone()).await?;
    Ok(Parts { descriptors, store: store.clone(), rooms, reading, users, flows, media, clock, random })
}

/// Removes what has had its time, now and then, for the life of the process.
async fn sweep(store: Store, reading: Reading, users: Users, media: Media) {
    let mut interval = tokio::time::interval(SWEEP_INTERVAL);
    let mut lag = Lag::default();
    loop {
        interval.tick().await;
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
    let accounts = Accounts::new(parts.users.clone(), config.admins.iter().cloned());
    let gate = Arc::new(Gate::new(http_config(config, parts.descriptors)?, Box::new(accounts), shutdown.clone()));
    let listeners = Server::bind(gate.clone()).await?;
    let Parts { store, reading, users, media, clock, .. } = parts;
    let cache_bytes = Caches::of(store.budget().callers_bytes as u64).sync;
    let sync_config = sync::Config { cache_bytes, ..sync_config(config) };
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

    let scheme = if config.tls.is_some() { "https" } else { "http" };
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
    match crate::commands_socket::Control::bind(&config.database_path) {
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
    let path = &config.database_path;
    anyhow::ensure!(path.exists(), "there is no database (database_path = {path:?})");
    let store = Store::restore(path, &store_options(config, Descriptors::claim()), TABLES)
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

pub(crate) fn store_options(config: &Config, descriptors: Descriptors) -> store::Options {
    let memory_budget_bytes = usize::try_from(config.db_cache_capacity_mb << 20).unwrap_or(usize::MAX);
    let open_files_max = descriptors.database_files;
    store::Options { memory_budget_bytes, open_files_max, ..store::Options::default() }
}

pub(crate) fn rooms_config(config: &Config) -> rooms::Config {
    let mut rooms = rooms::Config::new(config.server_name.clone());
    rooms.default_room_version = config.default_room_version.clone();
    rooms.encryption_by_default = config.encryption_enabled_by_default_for_room_type;
    rooms.federate_by_default = config.allow_federation;
    rooms
}

/// How the crates' caches share what the store leaves of the memory budget, in bytes.
struct Caches {
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
    fn of(bytes: u64) -> Self {
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

pub(crate) fn users_config(config: &Config) -> users::Config {
    let mut users = users::Config::default();
    users.password.concurrent = config.password_hashes_at_once;
    users.tokens.refreshable_access_token_ms = Some(config.access_token_ttl.saturating_mul(1000));
    let days = config.unused_device_retention_days;
    users.device_unused_ms_max = (days > 0).then(|| days.saturating_mul(24 * 60 * 60 * 1000));
    users.new_user_displayname_suffix = config.new_user_displayname.then(|| config.new_user_displayname_suffix.clone());
    users.presence.enabled = config.allow_local_presence;
    users.presence.idle_ms = config.presence_idle_timeout_s.saturating_mul(1000);
    users.presence.offline_ms = config.presence_offline_timeout_s.saturating_mul(1000);
    users
}

pub(crate) fn media_config(config: &Config) -> anyhow::Result<media::Config> {
    let path = config.media_path.clone().unwrap_or_else(|| config.database_path.join("media"));
    let mut media = media::Config::new(config.server_name.clone(), path);
    media.s3 = config.media_s3.clone();
    media.decoding_bytes_max = config.db_cache_capacity_mb.saturating_mul(DECODING_PART << 20);
    media.upload_bytes_max = config.max_request_size as u64;
    media.user_bytes_max = config.media_user_quota_mb.saturating_mul(1 << 20);
    media.pending_max = config.max_pending_media_uploads;
    media.pending_ms_max = config.media_create_unused_expiration_time.saturating_mul(1000);
    media.keep_ms = config.media_retention_days.saturating_mul(24 * 60 * 60 * 1000);
    media.keep_bytes = config.media_retention_mb.saturating_mul(1 << 20);
    media.previews = Some(preview_config(config)?);
    Ok(media)
}

fn preview_config(config: &Config) -> anyhow::Result<media::PreviewConfig> {
    let guard = net::Guard::parse(config.ip_range_denylist.iter().map(String::as_str));
    let guard = guard.map_err(|entry| anyhow::anyhow!("ip_range_denylist: {entry:?} is no network"))?;
    let client = net::Config {
        guard,
        connect_ms_max: 5_000,
        request_ms_max: 15_000,
        user_agent: concat!("Haima/", env!("CARGO_PKG_VERSION"), " (preview bot)").to_owned(),
    };
    let lists = media::PreviewLists {
        domain_contains: config.url_preview_domain_contains_allowlist.clone(),
        domain: config.url_preview_domain_explicit_allowlist.clone(),
        domain_denied: config.url_preview_domain_explicit_denylist.clone(),
        url_contains: config.url_preview_url_contains_allowlist.clone(),
        parents: config.url_preview_check_root_domain,
    };
    let pictures_bytes_max = config.url_preview_pictures_mb.saturating_mul(1 << 20);
    Ok(media::PreviewConfig { lists, page_bytes_max: config.url_preview_max_spider_size, pictures_bytes_max, client })
}

pub(crate) fn sync_config(config: &Config) -> sync::Config {
    sync::Config {
        timeout_max_ms: config.client_sync_timeout_max.saturating_mul(1000),
        large_room_members: config.large_room_members,
        ..sync::Config::default()
    }
}

pub(crate) fn api_config(config: &Config) -> client_api::Config {
    let mut api = client_api::Config::new(config.server_name.clone());
    api.default_room_version.clone_from(&config.default_room_version);
    api.registration = match (config.allow_registration, &config.registration_token) {
        (false, _) => Registration::Closed,
        (true, Some(_)) => Registration::Token,
        (true, None) => Registration::Open,
    };
    api.registration_token.clone_from(&config.registration_token);
    api.guests = config.allow_guest_registration;
    api.login_with_password = config.login_with_password;
    api.admins.clone_from(&config.admins);
    api.public_rooms_without_auth = config.allow_public_room_directory_without_auth;
    api.search_all_users = config.show_all_local_users_in_user_directory;
    api.sync_timeout_ms_max = config.client_sync_timeout_max.saturating_mul(1000);
    api.legacy_media = config.allow_legacy_media;
    api.turn = turn(config);
    api.well_known_client.clone_from(&config.well_known.client);
    api.well_known_server.clone_from(&config.well_known.server);
    api.support_page.clone_from(&config.well_known.support_page);
    api.support_contacts = support_contact(&config.well_known).into_iter().collect();
    api
}

/// The TURN server that the configuration names. The secret goes before the account.
fn turn(config: &Config) -> Option<Turn> {
    if config.turn_uris.is_empty() {
        return None;
    }
    let access = match (&config.turn_secret, &config.turn_username, &config.turn_password) {
        (Some(secret), ..) => TurnAccess::Secret(secret.to_string()),
        (None, Some(username), Some(password)) => {
            TurnAccess::Account { username: username.clone(), password: password.to_string() }
        }
        _ => return None,
    };
    Some(Turn { uris: config.turn_uris.clone(), ttl_s: config.turn_ttl, access })
}

/// The contact that the configuration names, if it says how to reach them.
fn support_contact(well_known: &WellKnown) -> Option<Contact> {
    let role = ContactRole::from(well_known.support_role.as_deref().unwrap_or("m.role.admin"));
    let mut contact = match (&well_known.support_email, &well_known.support_mxid) {
        (Some(email), _) => Contact::with_email_address(role, email.clone()),
        (None, Some(user)) => Contact::with_matrix_id(role, user.clone()),
        (None, None) => return None,
    };
    contact.matrix_id.clone_from(&well_known.support_mxid);
    Some(contact)
}

pub(crate) fn http_config(config: &Config, descriptors: Descriptors) -> anyhow::Result<haima_http::Config> {
    let defaults = haima_http::Config::default();
    descriptors.warn_if_few(defaults.connections_max);
    let tls = config.tls.as_ref().map(|tls| haima_http::Tls { certificate: tls.certs.clone(), key: tls.key.clone() });
    let mut listen = Vec::new();
    for address in config.address.as_slice() {
        for port in config.port.as_slice() {
            listen.push(haima_http::Listen { address: SocketAddr::new(*address, *port), tls: tls.clone() });
        }
    }
    let proxies = Networks::parse(config.trusted_proxies.iter().map(String::as_str));
    let trusted_proxies = proxies.map_err(|entry| anyhow::anyhow!("trusted_proxies: {entry:?} is no network"))?;
    Ok(haima_http::Config {
        listen,
        connections_per_address_max: config.max_connections_per_address,
        trusted_proxies,
        request_bytes_max: config.max_request_size,
        json_bytes_max: config.max_json_request_size,
        request_seconds_max: config.client_request_timeout,
        long_poll_seconds_max: config.client_sync_timeout_max.saturating_add(config.client_request_timeout),
        shutdown_seconds_max: config.client_shutdown_timeout,
        info_uri: info_uri(config),
        limits: limits(&config.rate_limit),
        connections_max: defaults.connections_max.min(descriptors.connections),
        ..defaults
    })
}

/// Where users read about the limits of their accounts: the page with help, else what is at the server's name.
fn info_uri(config: &Config) -> String {
    config.well_known.support_page.clone().unwrap_or_else(|| format!("https://{}/", config.server_name))
}

fn limits(limits: &RateLimits) -> limit::Config {
    let rate = |limit: RateLimit| limit::Rate { per_second: limit.per_second, burst: limit.burst };
    limit::Config {
        registration: rate(limits.registration),
        availability: rate(limits.availability),
        login: rate(limits.login),
        login_account: rate(limits.login_account),
        message: rate(limits.message),
        create_room: rate(limits.create_room),
        join: rate(limits.join),
        invite: rate(limits.invite),
        search: rate(limits.search),
        upload: rate(limits.upload),
        thumbnail: rate(limits.thumbnail),
        preview: rate(limits.preview),
        write: rate(limits.write),
        read: rate(limits.read),
        anonymous: rate(limits.anonymous),
    }
}
