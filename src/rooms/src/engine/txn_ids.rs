//! Transaction ids: a request that a client repeats has its effect once.
//!
//! Specification: client-server API, "Transaction identifiers". The scope is one device and one endpoint with its path.
//! They are kept for [`TXN_KEPT_MS`], across restarts.

use ruma::RoomId;
use state_tree::EventNum;
use store::{Batch, CommitError, Range, View};

use crate::{
    Rooms, RoomsError,
    engine::{
        append::{Sender, Sent},
        turn::Turn,
    },
    rows::{EventTxn, TxnKey, TxnRow},
    tables::{EventTxnIds, TxnIds, TxnTimes},
};

/// How long a transaction id is remembered, in milliseconds: clients repeat requests within minutes; a day covers a phone that was off.
pub const TXN_KEPT_MS: u64 = 24 * 60 * 60 * 1000;

/// Transaction ids removed in one batch.
const SWEEP_ROWS: usize = 500;

/// The longest transaction id that is accepted, in bytes.
const TXN_ID_BYTES_MAX: usize = 1024;

impl TxnKey {
    /// The key of a request, if it has a transaction id.
    pub(crate) fn of(sender: &Sender<'_>, method: &str, room: &RoomId, rest: &str) -> Result<Option<Self>, RoomsError> {
        let (Some(device), Some(txn_id)) = (sender.device, sender.txn_id) else { return Ok(None) };
        if txn_id.len() > TXN_ID_BYTES_MAX {
            return Err(RoomsError::TooLarge("the transaction id".to_owned()));
        }
        Ok(Some(Self {
            user: sender.user.to_string(),
            device: device.to_string(),
            endpoint: format!("{method} {room} {rest}"),
            txn_id: txn_id.to_owned(),
        }))
    }
}

/// The answer that a transaction had.
pub(crate) struct Answered {
    pub(crate) sent: Sent,
}

impl Rooms {
    /// What a transaction was answered with, if it was and that isn't long ago.
    pub(crate) async fn answered(&self, view: &View, txn: &TxnKey) -> Result<Option<Answered>, RoomsError> {
        let Some(row) = view.get::<TxnIds>(txn).await? else { return Ok(None) };
        if self.is_expired(row.at_ms) {
            return Ok(None);
        }
        let event = self.event(view, row.event).await?;
        let event = event.ok_or_else(|| RoomsError::corrupt("a transaction without its event"))?;
        let index = self.meta(view, row.event).await?.index;
        let position = index.map_or(view.position(), |index| index.major);
        Ok(Some(Answered { sent: Sent { event_id: event.pdu.owned_event_id(), position } }))
    }

    fn is_expired(&self, at_ms: u64) -> bool {
        self.inner.clock.now_ms().saturating_sub(at_ms) > TXN_KEPT_MS
    }

    /// Removes transaction ids that have expired. To be called now and then; returns how many went.
    pub async fn sweep_txn_ids(&self) -> Result<usize, RoomsError> {
        let mut removed = 0;
        loop {
            let before_ms = self.inner.clock.now_ms().saturating_sub(TXN_KEPT_MS);
            let view = self.inner.store.view().await?;
            let range = Range::<TxnTimes>::all().before(&(before_ms,)).limit(SWEEP_ROWS);
            let page = view.scan(range).await?;
            let mut count = 0;
            let mut batch = Batch::new();
            for (time_key, ()) in &page.rows {
                if batch.is_filled() {
                    break;
                }
                count += 1;
                let (at_ms, txn) = time_key;
                batch.delete::<TxnTimes>(time_key);
                let Some(row) = view.get::<TxnIds>(txn).await? else { continue };
                if row.at_ms == *at_ms {
                    // The client may use the id again at this moment.
                    batch.expect::<TxnIds>(txn, Some(&row));
                    batch.delete::<TxnIds>(txn);
                    batch.delete::<EventTxnIds>(&row.event);
                }
            }
            batch.relaxed();
            match self.inner.store.commit(batch).await {
                Ok(_) => removed += count,
                Err(CommitError::Conflict) => continue,
                Err(error) => return Err(error.into()),
            }
            if count == page.rows.len() && page.next.is_none() {
                return Ok(removed);
            }
        }
    }
}

impl Turn {
    /// Remembers that `num` answers a transaction.
    pub(crate) async fn store_answer(&mut self, txn: &TxnKey, num: EventNum) -> Result<(), RoomsError> {
        let now_ms = self.rooms.inner.clock.now_ms();
        let old = self.view.get::<TxnIds>(txn).await?;
        self.batch.expect::<TxnIds>(txn, old.as_ref());
        if let Some(old) = old {
            self.batch.delete::<TxnTimes>(&(old.at_ms, txn));
            self.batch.delete::<EventTxnIds>(&old.event);
        }
        self.batch.put::<TxnIds>(txn, &TxnRow { event: num, at_ms: now_ms });
        self.batch.put::<TxnTimes>(&(now_ms, txn), &());
        let TxnKey { user, device, txn_id, .. } = txn;
        self.batch.put::<EventTxnIds>(&num, &EventTxn { user, device, txn_id });
        self.answer(txn.clone());
        Ok(())
    }
}
