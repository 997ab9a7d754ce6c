//! Who asks a request that reads rooms, with the view that it reads them in.

use std::{collections::HashSet, sync::Arc};

use haima_http::AnyAccount;
use reading::{Reading, RoomReader, Viewer};
use ruma::{OwnedUserId, RoomId};
use store::{Store, View};
use users::Users;

use crate::error::Result;

/// An account, a view, and what the account may not see in it.
pub(crate) struct Asker {
    view: View,
    user: OwnedUserId,
    account: AnyAccount,
    ignored: Arc<HashSet<OwnedUserId>>,
    erased: Arc<HashSet<OwnedUserId>>,
}

impl Asker {
    /// Begins to read for an account.
    pub(crate) async fn begin(store: &Store, users: &Users, account: &AnyAccount) -> Result<Self> {
        let view = store.view().await?;
        let ignored = users.ignored_users(&view, &account.user).await?;
        let erased = users.erased_users().await?;
        Ok(Self { view, user: account.user.clone(), account: account.clone(), ignored, erased })
    }

    /// A room as the account may read it.
    pub(crate) fn room<'a>(&'a self, reading: &'a Reading, room: &'a RoomId) -> RoomReader<'a> {
        let viewer = Viewer {
            user: &self.user,
            device: Some(&self.account.device),
            ignored: &self.ignored,
            erased: &self.erased,
            joined_in: None,
        };
        reading.room(&self.view, viewer, room)
    }
}
