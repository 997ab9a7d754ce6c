//! Who asks a request that reads rooms, with the view that it reads them in.

use std::{collections::HashSet, sync::Arc};

use haima_http::AnyAccount;
use reading::Viewer;
use ruma::{OwnedUserId, UserId};
use store::View;

use crate::{ClientApi, error::Result};

/// An account, a view, and what the account may not see in it.
pub(crate) struct Asker {
    pub(crate) view: View,
    user: OwnedUserId,
    account: AnyAccount,
    ignored: Arc<HashSet<OwnedUserId>>,
    erased: Arc<HashSet<OwnedUserId>>,
}

impl Asker {
    /// Begins to read for an account.
    pub(crate) async fn begin(api: &ClientApi, account: &AnyAccount) -> Result<Self> {
        let view = api.store.view();
        let ignored = api.users.ignored_users(&view, &account.user).await?;
        let erased = api.users.erased_users().await?;
        Ok(Self { view, user: account.user.clone(), account: account.clone(), ignored, erased })
    }

    /// The user.
    pub(crate) fn user(&self) -> &UserId {
        &self.user
    }

    /// On whose behalf events are read.
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
