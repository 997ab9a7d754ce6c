//! How far a user has read: the marker that only they see, and receipts.
//!
//! Specification: client-server API, "Read and unread markers".

use rooms::{NewReceipt, ReceiptType, RoomsError};
use ruma::{EventId, RoomId, UserId};
use serde_json::{json, value::to_raw_value};
use store::{Batch, View};
use users::AccountDataEntry;

use crate::{Flows, FlowsError};

const FULLY_READ: &str = "m.fully_read";

/// The markers that are to move.
#[derive(Copy, Clone, Debug, Default)]
pub struct ReadMarkers<'a> {
    /// `m.fully_read`
    pub fully_read: Option<&'a EventId>,
    /// `m.read`
    pub read: Option<&'a EventId>,
    /// `m.read.private`
    pub read_private: Option<&'a EventId>,
}

impl Flows {
    /// Moves a user's markers in a room that they are in.
    ///
    /// # Errors
    /// [`rooms::RoomsError::NotJoined`], and the errors of [`rooms::Rooms::set_receipt`].
    pub async fn set_read_markers(
        &self,
        user: &UserId,
        room: &RoomId,
        markers: ReadMarkers<'_>,
    ) -> Result<(), FlowsError> {
        let receipts = [(ReceiptType::Read, markers.read), (ReceiptType::ReadPrivate, markers.read_private)];
        for (receipt_type, event) in receipts {
            if let Some(event) = event {
                let receipt = NewReceipt { user, room, receipt_type, event, thread: None };
                self.inner.rooms.set_receipt(receipt).await?;
            }
        }
        match markers.fully_read {
            Some(event) => self.set_fully_read(user, room, event).await,
            None => Ok(()),
        }
    }

    async fn set_fully_read(&self, user: &UserId, room: &RoomId, event: &EventId) -> Result<(), FlowsError> {
        let content = &*to_raw_value(&json!({ "event_id": event }))?;
        let decide = |view: View| async move {
            let row = self.inner.rooms.membership(&view, user, room).await?;
            if row.is_none_or(|row| row.membership != rooms::Membership::Join) {
                return Err(RoomsError::NotJoined.into());
            }
            let mut batch = Batch::new();
            let entry = AccountDataEntry::new(Some(room), FULLY_READ, content);
            self.inner.users.prepare_account_data(&view, &mut batch, user, entry).await?;
            batch.relaxed();
            Ok((batch, ()))
        };
        self.inner.store.retry(decide).await
    }
}
