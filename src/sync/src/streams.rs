//! Streams: the kinds of news that a user may get. Each is a file that routes its changes into inboxes and reads what a range of them
//! has for a user; the folds (classic `/sync`) put together what they read.

pub(crate) mod account_data;
pub(crate) mod device_lists;
pub(crate) mod receipts;
pub(crate) mod rooms;
pub(crate) mod to_device;

use ::rooms::Rooms;
use store::{LogRecord, StoreError};

use crate::hub::Router;

/// Routes a record of the log, if it is one of the stream's.
type Route = fn(&mut Router<'_>, &Rooms, &LogRecord) -> Result<(), StoreError>;

/// The streams that follow the log. Those that are volatile (typing, presence) have buses of their own.
pub(crate) const LOGGED: &[Route] =
    &[rooms::route, receipts::route, account_data::route, to_device::route, device_lists::route];
