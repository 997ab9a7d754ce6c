//! Account data, of the account and of rooms.
//!
//! Specification: client-server API, "Client Config".

use ::rooms::Rooms;
use store::{LogRecord, StoreError};
use users::{Change, UserChanged};

use crate::{
    hub::Router,
    inbox::{Item, Kind},
};

/// Routes a change of account data to its user.
pub(crate) fn route(router: &mut Router<'_>, _: &Rooms, record: &LogRecord) -> Result<(), StoreError> {
    if let Some(UserChanged { user, change: Change::AccountData { .. } }) = record.decode::<UserChanged>()? {
        let user = router.hub.residents.user(&user);
        router.tell_user(user, Item::ACCOUNT, Kind::AccountData, record.position);
    }
    Ok(())
}
