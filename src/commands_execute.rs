//! What the commands do.

use anyhow::{Context, bail};
use chrono::DateTime;
use client_api::Registration;
use event::Secret;
use media::Media;
use reading::Reading;
use rooms::Rooms;
use ruma::{MxcUri, OwnedUserId};
use users::{
    Account, AccountFlag, Erasure, Kind, NewAccount, NewRegistrationToken, Origin, OtherDevices, RegistrationToken,
    Users,
};

use crate::{
    commands::{Command, Output, Request},
    config::Config,
    wire::Parts,
};

/// Rows that are listed from one view.
const PAGE_ROWS: usize = 500;
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// Does what is asked. The answer goes to `output`.
///
/// # Errors
/// If it is refused or fails.
pub(crate) async fn execute(config: &Config, parts: &Parts, request: Request, output: Output) -> anyhow::Result<()> {
    let Request { command, password } = request;
    let on = On { config, parts, output };
    match command {
        Command::CreateUser { localpart, admin } => on.create_user(&localpart, admin, password).await,
        Command::ResetPassword { user, keep_devices } => on.reset_password(&user, keep_devices, password).await,
        Command::LockUser { user } => on.flag(&user, AccountFlag::Locked, true).await,
        Command::UnlockUser { user } => on.flag(&user, AccountFlag::Locked, false).await,
        Command::SuspendUser { user } => on.flag(&user, AccountFlag::Suspended, true).await,
        Command::UnsuspendUser { user } => on.flag(&user, AccountFlag::Suspended, false).await,
        Command::DeactivateUser { user, erase } => on.deactivate(&user, erase).await,
        Command::MakeAdmin { user } => on.set_admin(&user, true).await,
        Command::RevokeAdmin { user } => on.set_admin(&user, false).await,
        Command::ListUsers => on.list_users().await,
        Command::CreateToken { token, uses, days } => on.create_token(token, uses, days).await,
        Command::ListTokens => on.list_tokens().await,
        Command::RevokeToken { token } => on.revoke_token(&token).await,
        Command::QuarantineFile { uri } => on.quarantine(&uri, true).await,
        Command::ReleaseFile { uri } => on.quarantine(&uri, false).await,
        Command::ListRooms => on.list_rooms().await,
    }
}

/// What the commands work on.
struct On<'a> {
    config: &'a Config,
    parts: &'a Parts,
    output: Output,
}

impl On<'_> {
    fn users(&self) -> &Users {
        &self.parts.users
    }

    fn reading(&self) -> &Reading {
        &self.parts.reading
    }

    fn rooms(&self) -> &Rooms {
        &self.parts.rooms
    }

    fn media(&self) -> &Media {
        &self.parts.media
    }

    /// A user who has an account that isn't deactivated.
    async fn user(&self, name: &str) -> anyhow::Result<(OwnedUserId, Account)> {
        let view = self.parts.store.view().await?;
        let server = &self.config.server.server_name;
        let found = self.users().find_login_name(&view, name, server).await;
        let user = found.with_context(|| format!("{name} can't be a user of {server}"))?;
        let account = self.users().active_account(&view, &user).await.with_context(|| user.to_string())?;
        Ok((user, account))
    }

    async fn create_user(&self, localpart: &str, admin: bool, password: Option<String>) -> anyhow::Result<()> {
        let account = NewAccount {
            user_id: users::user_id_for(localpart, &self.config.server.server_name)?,
            password: Some(password.context("the password is missing")?),
            kind: Kind::User,
            admin,
            origin: Origin::Administrator,
            display_name: None,
            login: None,
        };
        let created = self.users().create_account(account).await?;
        self.output.done(format!("Made {}.", created.user_id)).await
    }

    async fn reset_password(&self, name: &str, keep: bool, password: Option<String>) -> anyhow::Result<()> {
        let (user, account) = self.user(name).await?;
        if account.kind == Kind::Guest {
            bail!("{user}: guests have no password");
        }
        let devices = if keep { OtherDevices::Keep } else { OtherDevices::LogOut { keep: None } };
        self.users().change_password(&user, &password.context("the password is missing")?, devices).await?;
        let sessions = if keep { "" } else { " and ended all sessions" };
        self.output.done(format!("Set a new password for {user}{sessions}.")).await
    }

    async fn flag(&self, name: &str, flag: AccountFlag, value: bool) -> anyhow::Result<()> {
        let (user, _) = self.user(name).await?;
        self.users().set_flag_by_server(&user, flag, value).await?;
        let what = match (flag, value) {
            (AccountFlag::Locked, true) => "Locked",
            (AccountFlag::Locked, false) => "Unlocked",
            (AccountFlag::Suspended, true) => "Suspended",
            (AccountFlag::Suspended, false) => "Ended the suspension of",
        };
        self.output.done(format!("{what} {user}.")).await
    }

    async fn deactivate(&self, name: &str, erase: bool) -> anyhow::Result<()> {
        let (user, _) = self.user(name).await?;
        let erasure = if erase { Erasure::Erase } else { Erasure::Keep };
        self.parts.flows.deactivate(&user, erasure).await?;
        self.output.done(format!("Deactivated {user}. The running server leaves its rooms.")).await
    }

    async fn set_admin(&self, name: &str, admin: bool) -> anyhow::Result<()> {
        let (user, account) = self.user(name).await?;
        if admin && account.kind == Kind::Guest {
            bail!("{user}: a guest can't be an admin");
        }
        self.users().set_admin(&user, admin).await?;
        let what = if admin { "an admin" } else { "no longer an admin" };
        self.output.done(format!("{user} is {what}.")).await?;
        if !admin && self.config.api.admins.contains(&user) {
            self.output.line(format!("But `admins` in the configuration names {user}.")).await?;
        }
        Ok(())
    }

    async fn list_users(&self) -> anyhow::Result<()> {
        let mut after: Option<OwnedUserId> = None;
        loop {
            let page = self.users().accounts(&self.parts.store.view().await?, after.as_deref(), PAGE_ROWS).await?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(last.clone());
            for (user, account) in page {
                let is_admin = account.admin || self.config.api.admins.contains(&user);
                let special = [
                    (is_admin, "admin"),
                    (account.kind == Kind::Guest, "guest"),
                    (account.locked, "locked"),
                    (account.suspended, "suspended"),
                    (account.deactivated, "deactivated"),
                    (account.erased, "erased"),
                ];
                let special: Vec<_> = special.into_iter().filter_map(|(is, what)| is.then_some(what)).collect();
                let special = if special.is_empty() { "-".to_owned() } else { special.join(",") };
                self.output.line(format!("{user}\t{special}\t{}", day(account.created_ms))).await?;
            }
        }
    }

    async fn create_token(&self, token: Option<Secret>, uses: Option<u64>, days: Option<u64>) -> anyhow::Result<()> {
        let now_ms = self.parts.clock.now_ms();
        let expires_ms = days.map(|days| now_ms.saturating_add(days.saturating_mul(DAY_MS)));
        let token = token.map(|token| token.to_string());
        let new = NewRegistrationToken { token, uses_allowed: uses, expires_ms };
        let made = self.users().create_registration_token(new).await?;
        tracing::info!("on the command line: made a registration token");
        self.output.line(made.token).await?;
        // Only with both does the server ask for tokens.
        if self.config.api.registration() != Registration::Token {
            let needed = "It can be used once `allow_registration = true` and a `registration_token` are configured.";
            self.output.line(needed.to_owned()).await?;
        }
        Ok(())
    }

    async fn list_tokens(&self) -> anyhow::Result<()> {
        let mut after: Option<String> = None;
        loop {
            let page =
                self.users().registration_tokens(&self.parts.store.view().await?, after.as_deref(), PAGE_ROWS).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.token.clone());
            for RegistrationToken { token, uses_allowed, completed, expires_ms, .. } in page {
                let allowed = uses_allowed.map_or("any".to_owned(), |uses| uses.to_string());
                let last_day = expires_ms.map_or("-".to_owned(), day);
                self.output.line(format!("{token}\t{completed} of {allowed}\t{last_day}")).await?;
            }
        }
    }

    async fn revoke_token(&self, token: &str) -> anyhow::Result<()> {
        self.users().delete_registration_token(token).await?;
        self.output.done("Revoked a registration token.".to_owned()).await
    }

    async fn quarantine(&self, uri: &str, quarantined: bool) -> anyhow::Result<()> {
        let parts = <&MxcUri>::from(uri).parts();
        let (server, id) = parts.with_context(|| format!("{uri} is no URI of a file, such as mxc://server/id"))?;
        self.media().set_quarantined(server, id, quarantined).await?;
        let what = if quarantined { "Took out of circulation" } else { "Put back" };
        self.output.done(format!("{what}: mxc://{server}/{id}")).await
    }

    async fn list_rooms(&self) -> anyhow::Result<()> {
        let mut after = None;
        loop {
            let page = self.rooms().all_rooms(&self.parts.store.view().await?, after.as_deref(), PAGE_ROWS).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.clone());
            for room in page {
                let view = self.parts.store.view().await?;
                let description = match self.reading().describe(&view, &room).await {
                    // It was begun and never filled.
                    Err(rooms::RoomsError::RoomNotFound) => continue,
                    other => other?,
                };
                let published = if self.rooms().is_published(&view, &room).await? { "published" } else { "-" };
                let name = description.name.as_deref().or(description.canonical_alias.as_deref()).unwrap_or("-");
                let (members, version) = (description.num_joined_members, &description.room_version);
                let line = format!("{room}\t{members}\t{version}\t{published}\t{}", printable(name));
                // Whoever reads may take their time, which the database should not remember the past for.
                drop(view);
                self.output.line(line).await?;
            }
        }
    }
}

/// What users write, without what could control a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// The day of a time in Unix milliseconds.
fn day(ms: u64) -> String {
    let time = i64::try_from(ms).ok().and_then(DateTime::from_timestamp_millis);
    time.map_or("-".to_owned(), |time| time.format("%Y-%m-%d").to_string())
}
