//! Access tokens, refresh tokens and single-use login tokens. Stored are only their SHA-256 hashes.
//!
//! Specification: client-server API, "Refreshing access tokens": the old refresh token stays valid until a
//! token of the new pair is used. So the old refresh token remembers the pair that it was last exchanged
//! for, the new access token remembers the refresh token that it came from, and its first use revokes the
//! old pair.
//!
//! A token in whose place there is another is remembered while its device is there: a client that comes with it is told
//! to log in again, and not that its session is gone, upon which it would throw its encryption keys away ("Soft logout").

use std::fmt;

use ruma::{OwnedDeviceId, OwnedUserId, UserId};
use sha2::{Digest, Sha256};
use store::{Batch, Fixed, Range, Record, View};

use crate::{
    Change, Error, Result, Users, bump_version, log,
    rows::{
        AccessTokenRow, DeviceTokenKey, DeviceTokenRow, RefreshTokenRow, SupersededTokenRow, TokenHash, UserTokenRow,
    },
    tables,
};

/// Characters of the random part of a token, of 62: 256 bits.
const TOKEN_RANDOM_CHARS: usize = 43;
/// Expired login tokens that are forgotten when a new one is made.
const EXPIRED_LOGIN_TOKENS_PER_SWEEP: usize = 10;

/// Tokens of a device that are remembered after others took their place. So few that those of all devices of a user can be deleted in
/// one batch.
const SUPERSEDED_PER_DEVICE_MAX: usize = 4;

const ACCESS: u8 = 1;
const REFRESH: u8 = 2;
const SUPERSEDED: u8 = 3;

/// How somebody logs in.
#[derive(Clone, Debug, Default)]
pub struct Login {
    /// The device to log in again, or to create with this id; a new one without.
    pub device_id: Option<OwnedDeviceId>,
    /// The display name of a device that is created.
    pub display_name: Option<String>,
    /// Whether the client can refresh its access token.
    pub refreshable: bool,
}

/// Tokens that were issued. This is the only time that they can be read.
#[derive(Clone)]
pub struct IssuedSession {
    /// The user.
    pub user_id: OwnedUserId,
    /// The device.
    pub device_id: OwnedDeviceId,
    /// The access token.
    pub access_token: String,
    /// The refresh token, for clients that can use one.
    pub refresh_token: Option<String>,
    /// Lifetime of the access token in milliseconds, if it has one.
    pub expires_in_ms: Option<u64>,
}

/// Without the tokens.
impl fmt::Debug for IssuedSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedSession")
            .field("user_id", &self.user_id)
            .field("device_id", &self.device_id)
            .field("expires_in_ms", &self.expires_in_ms)
            .finish_non_exhaustive()
    }
}

pub(crate) fn hash(token: &str) -> TokenHash {
    Sha256::digest(token.as_bytes()).into()
}

/// The session to issue tokens for.
struct Issue<'a> {
    user: &'a UserId,
    device: &'a OwnedDeviceId,
    refreshable: bool,
    /// The refresh token that is exchanged.
    replaces: Option<TokenHash>,
}

impl Users {
    pub(crate) fn new_token(&self, prefix: &str) -> String {
        let random = self.inner.random.alphanumeric(TOKEN_RANDOM_CHARS);
        format!("{prefix}_{random}")
    }

    /// Writes new tokens of a device.
    pub(crate) fn issue_tokens(
        &self,
        batch: &mut Batch,
        user: &UserId,
        device: &OwnedDeviceId,
        refreshable: bool,
    ) -> IssuedSession {
        let issue = Issue { user, device, refreshable, replaces: None };
        self.issue(batch, &issue).0
    }

    fn issue(&self, batch: &mut Batch, issue: &Issue<'_>) -> (IssuedSession, Option<(TokenHash, TokenHash)>) {
        let lifetimes = &self.inner.config.tokens;
        let now = self.now_ms();
        let access_token = self.new_token("hma");
        let access = hash(&access_token);
        let refresh_token = issue.refreshable.then(|| self.new_token("hmr"));
        let refresh = refresh_token.as_deref().map(hash);
        let lifetime = match issue.refreshable {
            true => Some(self.inner.config.access_token_ttl.ms()),
            false => lifetimes.plain_access_token_ms,
        };
        let row = AccessTokenRow {
            user: issue.user.to_owned(),
            device: issue.device.clone(),
            expires_ms: lifetime.map(|ms| now.saturating_add(ms)),
            replaces: issue.replaces,
            refresh,
        };
        batch.put::<tables::AccessTokens>(&Fixed(access), &Record(row));
        let (user, device) = (issue.user, issue.device.as_str());
        let holds = |kind| DeviceTokenRow { kind, superseded_ms: 0 };
        batch.put::<tables::DeviceTokens>(&DeviceTokenKey { user, device, token: Fixed(access) }, &holds(ACCESS));
        if let Some(refresh) = refresh {
            let row = RefreshTokenRow {
                user: issue.user.to_owned(),
                device: issue.device.clone(),
                expires_ms: lifetimes.refresh_token_ms.map(|ms| now.saturating_add(ms)),
                access,
                replaces: issue.replaces,
                next: None,
            };
            batch.put::<tables::RefreshTokens>(&Fixed(refresh), &Record(row));
            let key = DeviceTokenKey { user, device, token: Fixed(refresh) };
            batch.put::<tables::DeviceTokens>(&key, &holds(REFRESH));
        }
        let session = IssuedSession {
            user_id: issue.user.to_owned(),
            device_id: issue.device.clone(),
            access_token,
            refresh_token,
            expires_in_ms: lifetime,
        };
        (session, refresh.map(|refresh| (access, refresh)))
    }

    /// Exchanges a refresh token for a new pair of tokens.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownToken`]; [`Error::ExpiredToken`], also for a token in whose place there is another; [`Error::Locked`] if
    /// the account is locked; [`Error::Contended`].
    pub async fn refresh(&self, refresh_token: &str) -> Result<IssuedSession> {
        let old = hash(refresh_token);
        let decide = |view: View| async move {
            let mut batch = Batch::new();
            let session = self.prepare_refresh(&view, &mut batch, old).await?;
            Ok((batch, session))
        };
        self.inner.store.retry(decide).await
    }

    async fn prepare_refresh(&self, view: &View, batch: &mut Batch, old: TokenHash) -> Result<IssuedSession> {
        let row = view.get::<tables::RefreshTokens>(&Fixed(old)).await?;
        let Some(Record(mut row)) = row else { return Err(why_unknown(view, old).await?) };
        if row.expires_ms.is_some_and(|at| at <= self.now_ms()) {
            return Err(Error::ExpiredToken);
        }
        self.usable_account(view, &row.user).await?;
        bump_version(view, batch, &row.user).await?;
        // Using the refresh token shows that the client has this pair, so the pair before it goes.
        let mut superseded = Vec::new();
        if let Some(before) = row.replaces.take() {
            superseded.extend(pair_of(view, before).await?);
            let access = view.get::<tables::AccessTokens>(&Fixed(row.access)).await?;
            if let Some(Record(mut access)) = access {
                access.replaces = None;
                batch.put::<tables::AccessTokens>(&Fixed(row.access), &Record(access));
            }
        }
        // An answer that the client never got is void.
        if let Some((access, refresh)) = row.next.take() {
            superseded.extend([access, refresh]);
        }
        self.supersede(view, batch, (&row.user, row.device.as_str()), |token| superseded.contains(token)).await?;
        let issue = Issue { user: &row.user, device: &row.device, refreshable: true, replaces: Some(old) };
        let (session, pair) = self.issue(batch, &issue);
        row.next = pair;
        log(batch, &row.user, Change::Sessions);
        batch.put::<tables::RefreshTokens>(&Fixed(old), &Record(row));
        Ok(session)
    }

    /// The first use of an access token that a refresh gave: the old pair is revoked. Does nothing if the
    /// token is gone.
    pub(crate) async fn confirm_refresh(&self, access: TokenHash) -> Result<()> {
        let decide = |view: View| async move {
            let mut batch = Batch::new();
            let row = view.get::<tables::AccessTokens>(&Fixed(access)).await?;
            let Some(Record(mut row)) = row else {
                return Ok((Batch::new(), ()));
            };
            let Some(before) = row.replaces.take() else {
                return Ok((Batch::new(), ()));
            };
            bump_version(&view, &mut batch, &row.user).await?;
            let pair = pair_of(&view, before).await?;
            self.supersede(&view, &mut batch, (&row.user, row.device.as_str()), |token| pair.contains(token)).await?;
            if let Some(refresh) = row.refresh {
                let own = view.get::<tables::RefreshTokens>(&Fixed(refresh)).await?;
                if let Some(Record(mut own)) = own {
                    own.replaces = None;
                    batch.put::<tables::RefreshTokens>(&Fixed(refresh), &Record(own));
                }
            }
            log(&mut batch, &row.user, Change::Sessions);
            batch.put::<tables::AccessTokens>(&Fixed(access), &Record(row));
            Ok((batch, ()))
        };
        self.inner.store.retry(decide).await
    }

    /// Revokes those tokens of a device for which `is_superseded` says so, and remembers them.
    pub(crate) async fn supersede(
        &self,
        view: &View,
        batch: &mut Batch,
        (user, device): (&UserId, &str),
        is_superseded: impl Fn(&TokenHash) -> bool,
    ) -> Result<()> {
        // A clock that is wrong must not make a token hold.
        let now = self.now_ms().max(1);
        let mut added = 0;
        let mut remembered = Vec::new();
        let range = Range::<tables::DeviceTokens>::prefix(&(user, device));
        for (DeviceTokenKey { token, .. }, row) in view.scan_all(range).await? {
            if row.kind == SUPERSEDED {
                remembered.push((row.superseded_ms, token));
            } else if is_superseded(&token.0) {
                delete_token(batch, row.kind, token);
                batch.put::<tables::SupersededTokens>(&token, &SupersededTokenRow { user, device });
                let row = DeviceTokenRow { kind: SUPERSEDED, superseded_ms: now };
                batch.put::<tables::DeviceTokens>(&DeviceTokenKey { user, device, token }, &row);
                added += 1;
            }
        }
        remembered.sort_unstable_by_key(|&(superseded_ms, _)| std::cmp::Reverse(superseded_ms));
        for (_, token) in remembered.into_iter().skip(SUPERSEDED_PER_DEVICE_MAX.saturating_sub(added)) {
            delete_token(batch, SUPERSEDED, token);
            batch.delete::<tables::DeviceTokens>(&DeviceTokenKey { user, device, token });
        }
        Ok(())
    }

    /// A single-use token with which another client can log in as `user`, and its lifetime in milliseconds.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownUser`], [`Error::Deactivated`], [`Error::Locked`].
    pub async fn create_login_token(&self, user: &UserId) -> Result<(String, u64)> {
        let view = self.inner.store.view().await?;
        self.usable_account(&view, user).await?;
        let now = self.now_ms();
        let lifetime = self.inner.config.tokens.login_token_ms;
        let expires_ms = now.saturating_add(lifetime);
        let token = self.new_token("hml");
        let key = Fixed(hash(&token));
        let mut batch = Batch::new();
        batch.put::<tables::LoginTokens>(&key, &UserTokenRow { user, expires_ms });
        batch.put::<tables::LoginTokenExpiry>(&(expires_ms, key), &());
        self.prepare_forget_login_tokens(&view, &mut batch).await?;
        self.inner.store.commit(batch).await?;
        Ok((token, lifetime))
    }

    /// Forgets expired login tokens; returns how many.
    pub(crate) async fn sweep_login_tokens(&self) -> Result<usize> {
        let mut removed = 0;
        loop {
            let mut batch = Batch::new();
            let count = self.prepare_forget_login_tokens(&self.inner.store.view().await?, &mut batch).await?;
            if count > 0 {
                batch.relaxed();
                self.inner.store.commit(batch).await?;
                removed += count;
            }
            if count < EXPIRED_LOGIN_TOKENS_PER_SWEEP {
                return Ok(removed);
            }
        }
    }

    async fn prepare_forget_login_tokens(&self, view: &View, batch: &mut Batch) -> Result<usize> {
        let range = Range::<tables::LoginTokenExpiry>::all().before(&(self.now_ms(),));
        let rows = view.scan(range.limit(EXPIRED_LOGIN_TOKENS_PER_SWEEP)).await?.rows;
        for ((expired, token), ()) in &rows {
            batch.delete::<tables::LoginTokens>(token);
            batch.delete::<tables::LoginTokenExpiry>(&(*expired, *token));
        }
        Ok(rows.len())
    }

    /// Uses up a login token and says whose it is.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownToken`] if it isn't known, was used or has expired.
    pub async fn use_login_token(&self, token: &str) -> Result<OwnedUserId> {
        let key = Fixed(hash(token));
        let take = |view: View| async move {
            let mut batch = Batch::new();
            let row = view.get::<tables::LoginTokens>(&key).await?;
            let row = row.ok_or(Error::UnknownToken)?;
            batch.expect::<tables::LoginTokens>(&key, Some(&row));
            batch.delete::<tables::LoginTokens>(&key);
            batch.delete::<tables::LoginTokenExpiry>(&(row.expires_ms, key));
            Ok::<_, Error>((batch, row))
        };
        let row = self.inner.store.retry(take).await?;
        if row.expires_ms <= self.now_ms() {
            return Err(Error::UnknownToken);
        }
        Ok(row.user.into_inner())
    }
}

/// What is wrong with a token that isn't among those that hold.
pub(crate) async fn why_unknown(view: &View, token: TokenHash) -> Result<Error> {
    let superseded = view.contains::<tables::SupersededTokens>(&Fixed(token)).await?;
    Ok(if superseded { Error::ExpiredToken } else { Error::UnknownToken })
}

/// Deletes all tokens of a device, but for the device's rows of them, [`tables::DeviceTokens`].
pub(crate) async fn delete_device_tokens(view: &View, batch: &mut Batch, user: &UserId, device: &str) -> Result<()> {
    let range = Range::<tables::DeviceTokens>::prefix(&(user, device));
    for (DeviceTokenKey { token, .. }, row) in view.scan_all(range).await? {
        delete_token(batch, row.kind, token);
    }
    Ok(())
}

/// A refresh token and the access token that was issued with it.
async fn pair_of(view: &View, refresh: TokenHash) -> Result<Vec<TokenHash>> {
    let row = view.get::<tables::RefreshTokens>(&Fixed(refresh)).await?;
    Ok(row.map(|Record(row)| row.access).into_iter().chain([refresh]).collect())
}

/// Deletes the row by which a token is found.
fn delete_token(batch: &mut Batch, kind: u8, token: Fixed<32>) {
    match kind {
        REFRESH => batch.delete::<tables::RefreshTokens>(&token),
        SUPERSEDED => batch.delete::<tables::SupersededTokens>(&token),
        _ => batch.delete::<tables::AccessTokens>(&token),
    }
}
