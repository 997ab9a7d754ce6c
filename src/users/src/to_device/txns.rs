//! Transaction ids of requests that send to devices: a request that a client repeats has its effect once.
//!
//! Specification: client-server API, "Transaction identifiers". The scope is one device and one endpoint, whose path has the
//! type of the messages.

use ruma::{DeviceId, UserId};
use store::{Batch, CommitError, Range, View};

use super::ToDeviceRequest;
use crate::{
    Result, Users,
    rows::{ToDeviceTxnKey, ToDeviceTxnRow},
    tables,
};

/// How long a transaction id is remembered, in milliseconds: clients repeat requests within minutes; a day covers a phone that
/// was off.
pub const TO_DEVICE_TXN_KEPT_MS: u64 = 24 * 60 * 60 * 1000;

/// Transaction ids removed in one batch: also the longest, which a batch holds three times each, fit into it.
const SWEEP_ROWS: usize = 100;

/// A transaction id with its scope.
pub(super) type TxnKey<'a> = ToDeviceTxnKey<&'a UserId, &'a str>;

impl<'a> ToDeviceRequest<'a> {
    pub(super) fn txn_key(&self) -> TxnKey<'a> {
        let Self { sender, device, event_type, txn_id } = *self;
        TxnKey { sender, device: device.as_str(), event_type, txn_id }
    }
}

/// How far a request came.
pub(super) struct Progress {
    /// What is stored.
    row: Option<ToDeviceTxnRow>,
    /// Whether what is stored is too old to mean anything.
    expired: bool,
}

impl Progress {
    fn valid(&self) -> Option<&ToDeviceTxnRow> {
        self.row.as_ref().filter(|_| !self.expired)
    }

    /// Whether all of it is written.
    pub(super) fn is_done(&self) -> bool {
        self.valid().is_some_and(|row| row.is_done)
    }

    /// Whether the message to this device, if there was one, is written.
    pub(super) fn has_passed(&self, user: &UserId, device: &DeviceId) -> bool {
        let place = (user.as_str(), device.as_str());
        self.valid().is_some_and(|row| place <= (&*row.last_user, &*row.last_device))
    }
}

impl Users {
    /// How far a request came before.
    pub(super) async fn to_device_progress(&self, view: &View, key: &TxnKey<'_>) -> Result<Progress> {
        let row = view.get::<tables::ToDeviceTxns>(key).await?;
        let expired = row.as_ref().is_some_and(|row| row.at_ms < self.oldest_txn_ms());
        Ok(Progress { row, expired })
    }

    /// Writes how far a request came, `last` being the destination of the last message, if nobody else did meanwhile.
    pub(super) fn prepare_to_device_progress(
        &self,
        batch: &mut Batch,
        key: &TxnKey<'_>,
        progress: &Progress,
        last: (&UserId, &DeviceId),
        is_done: bool,
    ) -> Progress {
        batch.expect::<tables::ToDeviceTxns>(key, progress.row.as_ref());
        let at_ms = match &progress.row {
            Some(row) if !progress.expired => row.at_ms,
            Some(row) => {
                batch.delete::<tables::ToDeviceTxnTimes>(&(row.at_ms, key));
                self.now_ms()
            }
            None => self.now_ms(),
        };
        let (last_user, last_device) = (last.0.to_string(), last.1.to_string());
        let row = ToDeviceTxnRow { at_ms, is_done, last_user, last_device };
        batch.put::<tables::ToDeviceTxns>(key, &row);
        batch.put::<tables::ToDeviceTxnTimes>(&(at_ms, key), &());
        Progress { row: Some(row), expired: false }
    }

    fn oldest_txn_ms(&self) -> u64 {
        self.now_ms().saturating_sub(TO_DEVICE_TXN_KEPT_MS)
    }

    /// Removes transaction ids that have expired; returns how many went.
    pub(crate) async fn sweep_to_device_txns(&self) -> Result<usize> {
        let mut removed = 0;
        loop {
            let view = self.inner.store.view().await?;
            let range = Range::<tables::ToDeviceTxnTimes>::all().before(&(self.oldest_txn_ms(),)).limit(SWEEP_ROWS);
            let page = view.scan(range).await?;
            let mut count = 0;
            let mut batch = Batch::new();
            for (time_key, ()) in &page.rows {
                if batch.is_filled() {
                    break;
                }
                count += 1;
                batch.delete::<tables::ToDeviceTxnTimes>(time_key);
                let (at_ms, key) = time_key;
                let Some(row) = view.get::<tables::ToDeviceTxns>(key).await? else { continue };
                if row.at_ms == *at_ms {
                    // The client may use the id again at this moment.
                    batch.expect::<tables::ToDeviceTxns>(key, Some(&row));
                    batch.delete::<tables::ToDeviceTxns>(key);
                }
            }
            if count > 0 {
                batch.relaxed();
                match self.inner.store.commit(batch).await {
                    Ok(_) => removed += count,
                    Err(CommitError::Conflict) => continue,
                    Err(error) => return Err(error.into()),
                }
            }
            if count == page.rows.len() && page.next.is_none() {
                return Ok(removed);
            }
        }
    }
}
