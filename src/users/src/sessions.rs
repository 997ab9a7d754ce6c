//! Who an access token stands for: the check that every request makes.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use ruma::{OwnedDeviceId, OwnedUserId, UserId};
use store::{Batch, Fixed, Record, View};

use crate::{
    Account, Error, Kind, Result, Users, expect_version,
    group_cache::GroupCache,
    rows::{AccessTokenRow, DeviceSeenRow, TokenHash},
    tables, tokens,
};

pub(crate) type SessionCache = GroupCache<OwnedUserId, TokenHash, Arc<Session>>;

/// A valid access token: its user, device, and what of the account matters to every request.
#[derive(Debug)]
pub struct Session {
    /// The user.
    pub user_id: OwnedUserId,
    /// The device.
    pub device_id: OwnedDeviceId,
    /// What the user is.
    pub kind: Kind,
    /// Whether the user administers the server.
    pub admin: bool,
    /// Whether the account is locked: then only logging out is allowed.
    pub locked: bool,
    /// Whether the account is suspended.
    pub suspended: bool,
    /// When the token expires, in Unix milliseconds.
    pub expires_ms: Option<u64>,
    /// When it was last written down that the device was seen, in Unix milliseconds; 0 if not since the
    /// start.
    seen_ms: AtomicU64,
}

impl Users {
    /// The session of an access token.
    ///
    /// Costs one look-up in memory, or two point reads. The first use of a token that came from a refresh
    /// revokes the tokens before it.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownToken`] (hard logout), [`Error::ExpiredToken`] (soft logout), also for a token in whose place there is
    /// another.
    pub async fn authenticate(&self, access_token: &str) -> Result<Arc<Session>> {
        let key = tokens::hash(access_token);
        let session = match self.inner.sessions.get(self.inner.store.published(), &key) {
            Some(session) => session,
            // Boxed, as it is seldom needed: every request asks for its session.
            None => Box::pin(self.find_session(key)).await?,
        };
        if self.is_expired(session.expires_ms) {
            return Err(Error::ExpiredToken);
        }
        Ok(session)
    }

    async fn find_session(&self, key: TokenHash) -> Result<Arc<Session>> {
        let mut view = self.inner.store.view().await?;
        let mut row = self.access_token(&view, key).await?;
        if row.replaces.is_some() && !self.is_expired(row.expires_ms) {
            self.confirm_refresh(key).await?;
            view = self.inner.store.view().await?;
            row = self.access_token(&view, key).await?;
        }
        self.load_session(&view, key, row).await
    }

    async fn access_token(&self, view: &View, key: TokenHash) -> Result<AccessTokenRow> {
        let row = view.get::<tables::AccessTokens>(&Fixed(key)).await?;
        match row {
            Some(Record(row)) => Ok(row),
            None => Err(tokens::why_unknown(view, key).await?),
        }
    }

    async fn load_session(&self, view: &View, key: TokenHash, row: AccessTokenRow) -> Result<Arc<Session>> {
        let account = self.account(view, &row.user).await?;
        let Some(account) = account.filter(|account| !account.deactivated) else {
            return Err(Error::UnknownToken);
        };
        let sessions = &self.inner.sessions;
        // That something of their user changed is no reason to write that they were seen.
        let seen_ms = sessions.last(&key).map_or(0, |known| known.seen_ms.load(Ordering::Relaxed));
        let session = Arc::new(Session {
            user_id: row.user.clone(),
            device_id: row.device,
            kind: account.kind,
            admin: account.admin,
            locked: account.locked,
            suspended: account.suspended,
            expires_ms: row.expires_ms,
            seen_ms: AtomicU64::new(seen_ms),
        });
        let bytes = size_of::<Session>() + 2 * row.user.as_str().len() + session.device_id.as_str().len();
        sessions.insert(view.position(), row.user, key, session.clone(), bytes);
        Ok(session)
    }

    fn is_expired(&self, expires_ms: Option<u64>) -> bool {
        expires_ms.is_some_and(|at| at <= self.now_ms())
    }

    /// An account that can get new tokens: active and not locked.
    pub(crate) async fn usable_account(&self, view: &View, user: &UserId) -> Result<Account> {
        let account = self.active_account(view, user).await?;
        if account.locked {
            return Err(Error::Locked);
        }
        Ok(account)
    }

    /// Notes that the session's device was seen now at `address`. Most calls do nothing: it is written down
    /// at most once in the configured interval, without waiting for the disk, and lost if the device
    /// changes at that moment.
    ///
    /// # Errors
    ///
    /// Fails only if the store does.
    pub async fn touch(&self, session: &Session, address: IpAddr) -> Result<()> {
        let now = self.now_ms();
        let interval = self.inner.config.tokens.last_seen_interval_ms;
        let seen = session.seen_ms.load(Ordering::Relaxed);
        if seen != 0 && now < seen.saturating_add(interval) {
            return Ok(());
        }
        let order = Ordering::Relaxed;
        let swapped = session.seen_ms.compare_exchange(seen, now, order, order);
        if swapped.is_err() {
            return Ok(());
        }
        Box::pin(self.write_seen(session, now, address)).await
    }

    async fn write_seen(&self, session: &Session, now: u64, address: IpAddr) -> Result<()> {
        let view = self.inner.store.view().await?;
        let user: &UserId = &session.user_id;
        let key = (user, session.device_id.as_str());
        if !view.contains::<tables::Devices>(&key).await? {
            return Ok(());
        }
        let mut batch = Batch::new();
        batch.relaxed();
        expect_version(&view, &mut batch, user).await?;
        batch.put::<tables::DeviceSeen>(&key, &DeviceSeenRow { at_ms: now, address: address.to_string() });
        // Whether it is written doesn't matter to anybody.
        drop(self.inner.store.submit(batch).await?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use event::{SystemClock, SystemRandom};
    use ruma::user_id;
    use store::Store;

    use super::*;
    use crate::{Config, Login, NewAccount, Origin};

    #[tokio::test]
    async fn a_session_that_is_read_again_was_seen_before() {
        let store = Store::in_memory(&[crate::TABLES]).await.unwrap();
        let users =
            Users::open(Config::default(), store.clone(), Arc::new(SystemClock), Arc::new(SystemRandom)).await.unwrap();
        let alice = user_id!("@alice:h");
        let new = NewAccount {
            user_id: alice.to_owned(),
            password: None,
            kind: Kind::User,
            admin: false,
            origin: Origin::Administrator,
            display_name: None,
            login: None,
        };
        users.create_account(new).await.unwrap();
        let login = Login { device_id: Some("PHONE".into()), display_name: None, refreshable: false };
        let token = users.login(alice, &login).await.unwrap().access_token;
        let first = users.authenticate(&token).await.unwrap();
        users.touch(&first, Ipv4Addr::LOCALHOST.into()).await.unwrap();
        let seen = first.seen_ms.load(Ordering::Relaxed);
        assert_ne!(seen, 0);
        // As where something of the user changed.
        let (key, view) = (tokens::hash(&token), store.view().await.unwrap());
        let row = users.access_token(&view, key).await.unwrap();
        let again = users.load_session(&view, key, row).await.unwrap();
        assert!(!Arc::ptr_eq(&first, &again));
        assert_eq!(again.seen_ms.load(Ordering::Relaxed), seen);
    }
}
