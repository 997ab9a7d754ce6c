//! Who an access token belongs to: the port of `http`, implemented with `users`.

use std::collections::HashSet;

use futures_util::future::BoxFuture;
use haima_http::{AnyAccount, ApiError, Authenticate, Origin};
use ruma::OwnedUserId;
use tracing::warn;
use users::{Kind, Users};

use crate::error::Failure;

/// Knows the access tokens of local users.
pub struct Accounts {
    users: Users,
    admins: HashSet<OwnedUserId>,
}

impl Accounts {
    /// Accounts of `users`; `admins` are admins whatever their account says.
    pub fn new(users: Users, admins: impl IntoIterator<Item = OwnedUserId>) -> Self {
        Self { users, admins: admins.into_iter().collect() }
    }
}

impl Authenticate for Accounts {
    fn authenticate<'a>(&'a self, token: &'a str, origin: &'a Origin) -> BoxFuture<'a, Result<AnyAccount, ApiError>> {
        Box::pin(async move {
            let known_at = self.users.position().get();
            let session = self.users.authenticate(token).await.map_err(Failure::from)?;
            // When a device was last seen is a courtesy; a request doesn't fail for it.
            if let Err(error) = self.users.touch(&session, origin.address).await {
                warn!(%error, "can't note that a device was seen");
            }
            Ok(AnyAccount {
                user: session.user_id.clone(),
                device: session.device_id.clone(),
                guest: session.kind == Kind::Guest,
                admin: session.admin || self.admins.contains(&session.user_id),
                locked: session.locked,
                suspended: session.suspended,
                known_at,
            })
        })
    }
}
