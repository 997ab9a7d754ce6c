//! Registration tokens, with which administrators let people in, and the bootstrap token for the first
//! administrator.
//!
//! Specification: client-server API, "Token-authenticated registration". A registration reserves a use of
//! its token in memory while it goes on; the use is counted in the batch that creates the account, which
//! also checks that it is still allowed.

use std::{collections::HashMap, sync::Arc};

use event::Random;
use parking_lot::Mutex;
use store::{Batch, Range, View};
use subtle::ConstantTimeEq;

use crate::{Error, Result, Users, rows::RegistrationTokenRow, tables, tokens};

/// The greatest number of characters of a registration token.
const TOKEN_CHARS_MAX: usize = 64;
/// Characters of a token that the server makes.
const NEW_TOKEN_CHARS: usize = 24;
const BOOTSTRAP_TOKEN_CHARS: usize = 32;

/// Uses that are reserved in this process, and the bootstrap token of this process.
pub(crate) struct Reservations {
    pending: Arc<Mutex<HashMap<String, u64>>>,
    bootstrap: String,
}

impl Reservations {
    pub(crate) fn new(random: &dyn Random) -> Self {
        Self { pending: Arc::default(), bootstrap: random.alphanumeric(BOOTSTRAP_TOKEN_CHARS) }
    }
}

/// A use of a registration token that is set aside until this is dropped.
pub struct Reservation {
    token: String,
    bootstrap: bool,
    pending: Arc<Mutex<HashMap<String, u64>>>,
}

impl std::fmt::Debug for Reservation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reservation").finish_non_exhaustive()
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.bootstrap {
            return;
        }
        let mut pending = self.pending.lock();
        if let Some(count) = pending.get_mut(&self.token) {
            *count -= 1;
            if *count == 0 {
                pending.remove(&self.token);
            }
        }
    }
}

/// A registration token as an administrator sees it.
#[derive(Clone, PartialEq, Eq)]
pub struct RegistrationToken {
    /// The token.
    pub token: String,
    /// How many accounts may be created with it; without a number any.
    pub uses_allowed: Option<u64>,
    /// How many registrations with it are going on.
    pub pending: u64,
    /// How many accounts were created with it.
    pub completed: u64,
    /// When it expires, in Unix milliseconds.
    pub expires_ms: Option<u64>,
}

/// Without the token.
impl std::fmt::Debug for RegistrationToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegistrationToken")
            .field("uses_allowed", &self.uses_allowed)
            .field("pending", &self.pending)
            .field("completed", &self.completed)
            .field("expires_ms", &self.expires_ms)
            .finish_non_exhaustive()
    }
}

impl RegistrationToken {
    /// Whether another registration could start with it at `now_ms`.
    pub fn is_valid(&self, now_ms: u64) -> bool {
        let left = self.uses_allowed.is_none_or(|allowed| self.pending + self.completed < allowed);
        left && self.expires_ms.is_none_or(|at| now_ms < at)
    }
}

/// A registration token to create.
#[derive(Clone, Default)]
pub struct NewRegistrationToken {
    /// The token: 1 to 64 of `A-Za-z0-9._~-`; without one a random one is made.
    pub token: Option<String>,
    /// How many accounts may be created with it.
    pub uses_allowed: Option<u64>,
    /// When it expires, in Unix milliseconds.
    pub expires_ms: Option<u64>,
}

/// Without the token.
impl std::fmt::Debug for NewRegistrationToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewRegistrationToken")
            .field("uses_allowed", &self.uses_allowed)
            .field("expires_ms", &self.expires_ms)
            .finish_non_exhaustive()
    }
}

/// What to change of a registration token. `None` leaves a value, `Some(None)` lifts the limit.
#[derive(Clone, Debug, Default)]
pub struct RegistrationTokenUpdate {
    /// How many accounts may be created with it.
    pub uses_allowed: Option<Option<u64>>,
    /// When it expires, in Unix milliseconds.
    pub expires_ms: Option<Option<u64>>,
}

fn check_token(token: &str) -> Result<()> {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || b"._~-".contains(&c);
    if token.is_empty() || token.len() > TOKEN_CHARS_MAX || !token.bytes().all(allowed) {
        return Err(Error::MalformedRegistrationToken);
    }
    Ok(())
}

impl Users {
    /// The token of this process with which the first account can be registered and becomes an
    /// administrator; none if there are accounts already.
    ///
    /// # Errors
    ///
    /// Fails only if the store does.
    pub async fn bootstrap_token(&self) -> Result<Option<String>> {
        let view = self.inner.store.view().await?;
        if self.has_accounts(&view).await? {
            return Ok(None);
        }
        Ok(Some(self.inner.reservations.bootstrap.clone()))
    }

    async fn is_bootstrap_token(&self, view: &View, token: &str) -> Result<bool> {
        let expected = tokens::hash(&self.inner.reservations.bootstrap);
        let same: bool = tokens::hash(token).ct_eq(&expected).into();
        Ok(same && !self.has_accounts(view).await?)
    }

    /// Whether a registration could start with the token now.
    ///
    /// # Errors
    ///
    /// Fails only if the store does.
    pub async fn is_registration_token_valid(&self, token: &str) -> Result<bool> {
        let view = self.inner.store.view().await?;
        if self.is_bootstrap_token(&view, token).await? {
            return Ok(true);
        }
        let found = self.registration_token(&view, token).await?;
        Ok(found.is_some_and(|found| found.is_valid(self.now_ms())))
    }

    /// Sets a use of the token aside for a registration that begins.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidRegistrationToken`] if it is unknown, expired or used up.
    pub async fn reserve_registration_token(&self, token: &str) -> Result<Reservation> {
        let view = self.inner.store.view().await?;
        let pending = self.inner.reservations.pending.clone();
        let bootstrap = self.is_bootstrap_token(&view, token).await?;
        if !bootstrap {
            let found = self.registration_token(&view, token).await?;
            let mut found = found.ok_or(Error::InvalidRegistrationToken)?;
            let mut counts = pending.lock();
            found.pending = counts.get(token).copied().unwrap_or(0);
            if !found.is_valid(self.now_ms()) {
                return Err(Error::InvalidRegistrationToken);
            }
            counts.insert(token.to_owned(), found.pending + 1);
        }
        Ok(Reservation { token: token.to_owned(), bootstrap, pending })
    }

    /// Counts the reserved use. Says whether the account becomes an administrator's.
    pub(crate) async fn prepare_use_reservation(
        &self,
        view: &View,
        batch: &mut Batch,
        reservation: &Reservation,
    ) -> Result<bool> {
        if reservation.bootstrap {
            // The batch that creates the first account expects that there is none.
            if self.has_accounts(view).await? {
                return Err(Error::InvalidRegistrationToken);
            }
            return Ok(true);
        }
        let key = reservation.token.as_str();
        let row = view.get::<tables::RegistrationTokens>(&key).await?;
        let row = row.ok_or(Error::InvalidRegistrationToken)?;
        let found = registration_token(key, row, 0);
        if !found.is_valid(self.now_ms()) {
            return Err(Error::InvalidRegistrationToken);
        }
        batch.expect::<tables::RegistrationTokens>(&key, Some(&row));
        batch.put::<tables::RegistrationTokens>(&key, &RegistrationTokenRow { completed: row.completed + 1, ..row });
        Ok(false)
    }

    /// Creates a registration token.
    ///
    /// # Errors
    ///
    /// [`Error::MalformedRegistrationToken`], [`Error::RegistrationTokenTaken`].
    pub async fn create_registration_token(&self, new: NewRegistrationToken) -> Result<RegistrationToken> {
        let token = match new.token {
            Some(token) => token,
            None => self.inner.random.alphanumeric(NEW_TOKEN_CHARS),
        };
        check_token(&token)?;
        let token = token.as_str();
        let row = RegistrationTokenRow { uses_allowed: new.uses_allowed, completed: 0, expires_ms: new.expires_ms };
        let decide = |view: View| async move {
            let mut batch = Batch::new();
            let known = view.contains::<tables::RegistrationTokens>(&token).await?;
            if known {
                return Err(Error::RegistrationTokenTaken);
            }
            batch.expect::<tables::RegistrationTokens>(&token, None);
            batch.put::<tables::RegistrationTokens>(&token, &row);
            Ok((batch, registration_token(token, row, 0)))
        };
        self.inner.store.retry(decide).await
    }

    /// One registration token.
    ///
    /// # Errors
    ///
    /// Fails only if the store does.
    pub async fn registration_token(&self, view: &View, token: &str) -> Result<Option<RegistrationToken>> {
        if check_token(token).is_err() {
            return Ok(None);
        }
        let row = view.get::<tables::RegistrationTokens>(&token).await?;
        let pending = self.pending_uses(token);
        Ok(row.map(|row| registration_token(token, row, pending)))
    }

    /// A page of registration tokens in the order of their names, after `after`.
    ///
    /// # Errors
    ///
    /// Fails only if the store does.
    pub async fn registration_tokens(
        &self,
        view: &View,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<RegistrationToken>> {
        let mut range = Range::<tables::RegistrationTokens>::all().limit(limit);
        if let Some(after) = after {
            range = range.after(&(after,));
        }
        let mut found = Vec::new();
        for (token, row) in view.scan(range).await?.rows {
            let pending = self.pending_uses(&token);
            found.push(registration_token(&token, row, pending));
        }
        Ok(found)
    }

    fn pending_uses(&self, token: &str) -> u64 {
        let pending = self.inner.reservations.pending.lock();
        pending.get(token).copied().unwrap_or(0)
    }

    /// Changes the limits of a registration token.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownRegistrationToken`], [`Error::Contended`].
    pub async fn update_registration_token(
        &self,
        token: &str,
        update: &RegistrationTokenUpdate,
    ) -> Result<RegistrationToken> {
        let decide = |view: View| async move {
            let mut batch = Batch::new();
            let old = view.get::<tables::RegistrationTokens>(&token).await?;
            let old = old.ok_or(Error::UnknownRegistrationToken)?;
            let uses_allowed = update.uses_allowed.unwrap_or(old.uses_allowed);
            let expires_ms = update.expires_ms.unwrap_or(old.expires_ms);
            let new = RegistrationTokenRow { uses_allowed, expires_ms, ..old };
            batch.expect::<tables::RegistrationTokens>(&token, Some(&old));
            batch.put::<tables::RegistrationTokens>(&token, &new);
            Ok((batch, registration_token(token, new, self.pending_uses(token))))
        };
        self.inner.store.retry(decide).await
    }

    /// Deletes a registration token. Registrations that reserved it can't finish.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownRegistrationToken`], [`Error::Contended`].
    pub async fn delete_registration_token(&self, token: &str) -> Result<()> {
        let decide = |view: View| async move {
            let mut batch = Batch::new();
            let old = view.get::<tables::RegistrationTokens>(&token).await?;
            let old = old.ok_or(Error::UnknownRegistrationToken)?;
            batch.expect::<tables::RegistrationTokens>(&token, Some(&old));
            batch.delete::<tables::RegistrationTokens>(&token);
            Ok((batch, ()))
        };
        self.inner.store.retry(decide).await
    }
}

fn registration_token(token: &str, row: RegistrationTokenRow, pending: u64) -> RegistrationToken {
    let RegistrationTokenRow { uses_allowed, completed, expires_ms } = row;
    RegistrationToken { token: token.to_owned(), uses_allowed, pending, completed, expires_ms }
}
