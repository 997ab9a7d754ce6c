//! OpenID tokens: with one a user shows to another service who they are. They are good for nothing else.
//!
//! Specification: client-server API, "OpenID". Stored are only their SHA-256 hashes.

use ruma::{OwnedUserId, UserId};
use store::{Batch, Fixed, Range};

use crate::{Error, Result, Users, rows::UserTokenRow, tables, tokens};

/// How long a token is valid, in milliseconds.
pub const OPENID_TOKEN_MS: u64 = 3_600_000;
/// Expired tokens that are forgotten when a new one is made: more than one, so that they don't pile up.
const EXPIRED_PER_ISSUE: usize = 10;
/// Expired tokens that are forgotten in one batch.
const SWEEP_ROWS: usize = 500;

impl Users {
    /// A token that tells another service who `user` is, for [`OPENID_TOKEN_MS`].
    ///
    /// # Errors
    ///
    /// [`Error::UnknownUser`], [`Error::Deactivated`], [`Error::Locked`].
    pub async fn create_openid_token(&self, user: &UserId) -> Result<String> {
        self.usable_account(&self.inner.store.view().await?, user).await?;
        let token = self.new_token("hmo");
        let key = Fixed(tokens::hash(&token));
        let expires_ms = self.now_ms().saturating_add(OPENID_TOKEN_MS);
        let mut batch = Batch::new();
        batch.put::<tables::OpenIdTokens>(&key, &UserTokenRow { user, expires_ms });
        batch.put::<tables::OpenIdTokenExpiry>(&(expires_ms, key), &());
        self.prepare_forget_openid_tokens(&mut batch, EXPIRED_PER_ISSUE).await?;
        self.inner.store.commit(batch).await?;
        Ok(token)
    }

    /// Whose token it is; `None` if it was never issued or has expired, or if its user's account is gone or locked.
    ///
    /// # Errors
    ///
    /// Fails only if the store does.
    pub async fn openid_user(&self, token: &str) -> Result<Option<OwnedUserId>> {
        let view = self.inner.store.view().await?;
        let row = view.get::<tables::OpenIdTokens>(&Fixed(tokens::hash(token))).await?;
        let Some(row) = row.filter(|row| row.expires_ms > self.now_ms()) else { return Ok(None) };
        match self.usable_account(&view, &row.user).await {
            Ok(_) => Ok(Some(row.user.into_inner())),
            Err(Error::UnknownUser | Error::Deactivated | Error::Locked) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Forgets expired tokens; returns how many.
    pub(crate) async fn sweep_openid_tokens(&self) -> Result<usize> {
        let mut removed = 0;
        loop {
            let mut batch = Batch::new();
            let count = self.prepare_forget_openid_tokens(&mut batch, SWEEP_ROWS).await?;
            if count > 0 {
                batch.relaxed();
                self.inner.store.commit(batch).await?;
                removed += count;
            }
            if count < SWEEP_ROWS {
                return Ok(removed);
            }
        }
    }

    async fn prepare_forget_openid_tokens(&self, batch: &mut Batch, rows_max: usize) -> Result<usize> {
        let range = Range::<tables::OpenIdTokenExpiry>::all().before(&(self.now_ms(),)).limit(rows_max);
        let rows = self.inner.store.view().await?.scan(range).await?.rows;
        for ((expired_ms, key), ()) in &rows {
            batch.delete::<tables::OpenIdTokens>(key);
            batch.delete::<tables::OpenIdTokenExpiry>(&(*expired_ms, *key));
        }
        Ok(rows.len())
    }
}
