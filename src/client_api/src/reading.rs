//! What a request that reads rooms reads them with: one view, and whom the reader ignores.

use std::{collections::HashSet, sync::Arc};

use haima_http::AnyAccount;
use rooms::Viewer;
use ruma::{OwnedUserId, UserId};
use store::View;

use crate::{ClientApi, error::Result};

/// A view, and what the reader may not see in it.
pub(crate) struct Reading {
    pub(crate) view: View,
    user: OwnedUserId,
    account: AnyAccount,
    ignored: Arc<HashSet<OwnedUserId>>,
    erased: Arc<HashSet<OwnedUserId>>,
}

impl Reading {
    /// Begins to read for an account.
    pub(crate) async fn begin(api: &ClientApi, account: &AnyAccount) -> Result<Self> {
        let view = api.store.view();
        let ignored = api.users.ignored_users(&view, &account.user).await?;
        let erased = api.users.erased_users().await?;
        Ok(Self { view, user: account.user.clone(), account: account.clone(), ignored, erased })
    }

    /// The reader.
    pub(crate) fn user(&self) -> &UserId {
        &self.user
    }

    /// The reader as `rooms` asks for one.
    pub(crate) fn viewer(&self) -> Viewer<'_> {
        Viewer {
            user: &self.user,
            device: Some(&self.account.device),
            ignored: &self.ignored,
            erased: &self.erased,
            joined_in: None,
        }
    }
}
