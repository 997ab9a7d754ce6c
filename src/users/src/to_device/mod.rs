//! Send-to-device messages: queued for each device until its client shows that it has them.
//!
//! Specification: client-server API, "Send-to-Device messaging".
//!
//! A message is one row under (user, device, position of its log entry). A request writes one message to a device at
//! most, so positions alone order a queue, and a sync token says with one number how much of it a client has. A request that
//! fits a batch is one batch; a larger one is several, and its transaction row says how far it came, so that a client that
//! repeats it after a crash goes on where it ended and no device gets a message twice.
//!
//! A batch expects that the destinations' devices are as they were read, so no message outlives its device.

mod queues;
mod senders;
mod txns;

use std::collections::BTreeMap;

use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use store::{Batch, CommitError, Position, RETRY_ATTEMPTS_MAX, Range, View};

use crate::{Error, Result, Users, device_runs::Run, rows::ToDeviceKey, tables};

pub(crate) use self::{queues::Queues, senders::count_waiting};
use self::{
    queues::{Load, Refusal},
    txns::{Progress, TxnKey},
};
pub use self::{
    queues::{TO_DEVICE_QUEUE_BYTES_MAX, TO_DEVICE_ROW_BYTES, TO_DEVICE_SENDER_BYTES_MAX},
    txns::TO_DEVICE_TXN_KEPT_MS,
};

/// The most bytes of the content of one message: as much as an event may have.
pub const TO_DEVICE_MESSAGE_BYTES_MAX: usize = 65_536;
/// The most messages that one request may send, counted after `*` was replaced by the user's devices.
pub const TO_DEVICE_MESSAGES_PER_REQUEST_MAX: usize = 10_000;
/// The most bytes of all messages of one request, counted in the same way.
pub const TO_DEVICE_BYTES_PER_REQUEST_MAX: usize = 32 * 1024 * 1024;
/// The most messages returned to a device at once.
pub const TO_DEVICE_PER_SYNC_MAX: usize = 100;
/// The most bytes of the type of a message, and of a transaction id.
pub const TO_DEVICE_NAME_BYTES_MAX: usize = 255;

/// Bytes of messages after which a batch is full: well below what the store takes at once.
const BATCH_MESSAGES_BYTES: usize = 512 * 1024;
/// What a message takes in a batch besides itself and, twice, its destination (in its key and in the log entry).
const MESSAGE_OVERHEAD_BYTES: usize = 128;
/// Rows that are deleted in one batch when they are acknowledged.
const ACKNOWLEDGE_ROWS: usize = 200;

/// Messages were queued for devices. The entry's position is that of the messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToDeviceQueued {
    /// The devices by user.
    pub to: Vec<(OwnedUserId, Vec<OwnedDeviceId>)>,
}

store::log_entry!(ToDeviceQueued = 130);

/// A request to send messages.
#[derive(Copy, Clone, Debug)]
pub struct ToDeviceRequest<'a> {
    /// Who sends.
    pub sender: &'a UserId,
    /// With which device: the scope of the transaction id.
    pub device: &'a DeviceId,
    /// The client's id of the request.
    pub txn_id: &'a str,
    /// The type of all messages.
    pub event_type: &'a str,
}

/// One message to send.
#[derive(Copy, Clone, Debug)]
pub struct ToDeviceMessage<'a> {
    /// To whom.
    pub user: &'a UserId,
    /// To which device; to all of the user's devices if `None`. A message to a device goes before one to all.
    pub device: Option<&'a DeviceId>,
    /// The content, a JSON object.
    pub content: &'a RawValue,
}

/// What became of a request.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct ToDeviceSent {
    /// Messages that were queued now. None if the request is a repetition.
    pub queued: usize,
    /// Messages that were not queued, because as many as may wait for their device, in all or of their sender, wait already.
    pub refused: usize,
}

/// Messages for a device, in the order of their arrival.
#[derive(Clone, Debug, Default)]
pub struct ToDevicePage {
    /// The events as clients get them.
    pub events: Vec<Box<RawValue>>,
    /// The position of the last of them.
    pub last: Option<Position>,
    /// Whether more wait after them.
    pub more: bool,
}

/// A message as a client gets it.
#[derive(Serialize)]
struct Event<'a> {
    content: &'a RawValue,
    sender: &'a UserId,
    #[serde(rename = "type")]
    event_type: &'a str,
}

/// Devices that are there and what to send to them, with the versions of their users' rows that say so.
struct Targets<'a> {
    sender: &'a UserId,
    messages: BTreeMap<(OwnedUserId, OwnedDeviceId), &'a RawValue>,
    versions: BTreeMap<OwnedUserId, Option<u64>>,
    refused: usize,
}

/// A message that is about to be written.
struct Outgoing {
    user: OwnedUserId,
    device: OwnedDeviceId,
    event: String,
}

impl Users {
    /// Queues messages for devices of local users. Unknown users and devices are passed over. A request that was answered
    /// already (same device, type and transaction id within [`TO_DEVICE_TXN_KEPT_MS`]) does nothing.
    ///
    /// A device whose queue is full, or has the sender's whole share in it, gets no more until its client fetched some: it is most
    /// likely abandoned, and clients that can't send to all devices of a room send nothing to the room. The log says so, once
    /// until the client comes.
    ///
    /// # Errors
    ///
    /// [`Error::NotAnObject`], [`Error::TooLarge`], [`Error::TooMany`], [`Error::Contended`].
    pub async fn send_to_device(
        &self,
        request: &ToDeviceRequest<'_>,
        messages: &[ToDeviceMessage<'_>],
    ) -> Result<ToDeviceSent> {
        check(request, messages)?;
        let key = request.txn_key();
        let mut sent = ToDeviceSent::default();
        for _ in 0..RETRY_ATTEMPTS_MAX {
            let view = self.inner.store.view().await?;
            let mut progress = self.to_device_progress(&view, &key).await?;
            if progress.is_done() {
                return Ok(sent);
            }
            let targets = self.targets(&view, request.sender, messages).await?;
            sent.refused = targets.refused;
            let outgoing = outgoing(request, &targets, &progress)?;
            let mut rest = &outgoing[..];
            while !rest.is_empty() {
                let (chunk, others) = rest.split_at(chunk_len(rest));
                rest = others;
                if !self.queue(&targets, chunk, &key, &mut progress, rest.is_empty()).await? {
                    break;
                }
                sent.queued += chunk.len();
            }
            if outgoing.is_empty() || progress.is_done() {
                return Ok(sent);
            }
        }
        Err(Error::Contended)
    }

    /// The devices that messages go to.
    async fn targets<'a>(
        &self,
        view: &View,
        sender: &'a UserId,
        messages: &[ToDeviceMessage<'a>],
    ) -> Result<Targets<'a>> {
        let mut targets = Targets { sender, messages: BTreeMap::new(), versions: BTreeMap::new(), refused: 0 };
        let mut named = Vec::new();
        for message in messages {
            let Some(device) = message.device else {
                let rows = view.scan_all(Range::<tables::Devices>::prefix(&(message.user,))).await?;
                for ((_, device), _) in rows {
                    targets.messages.insert((message.user.to_owned(), device.into()), message.content);
                }
                check_count(&targets)?;
                continue;
            };
            named.push((message, device));
        }
        let keys: Vec<_> = named.iter().map(|(message, device)| (message.user, device.as_str())).collect();
        let rows = view.get_many::<tables::Devices>(&keys).await?;
        for ((message, device), row) in named.into_iter().zip(rows) {
            if row.is_some() {
                targets.messages.insert((message.user.to_owned(), device.to_owned()), message.content);
            }
        }
        check_count(&targets)?;
        let bytes: usize = targets.messages.values().map(|content| content.get().len()).sum();
        if bytes > TO_DEVICE_BYTES_PER_REQUEST_MAX {
            return Err(Error::TooLarge { what: "the request", max: TO_DEVICE_BYTES_PER_REQUEST_MAX });
        }
        self.without_full_queues(view, &mut targets).await?;
        let mut users: Vec<OwnedUserId> = targets.messages.keys().map(|(user, _)| user.clone()).collect();
        users.dedup();
        let keys: Vec<&UserId> = users.iter().map(|user| &**user).collect();
        let versions = view.get_many::<tables::Versions>(&keys).await?;
        targets.versions = users.into_iter().zip(versions).collect();
        Ok(targets)
    }

    async fn without_full_queues(&self, view: &View, targets: &mut Targets<'_>) -> Result<()> {
        let (queues, sender) = (&self.inner.queues, targets.sender);
        let mut refused = Vec::new();
        for key in targets.messages.keys() {
            let (user, device) = key;
            if queues.must_measure(key) {
                queues.measured(key, queues.measure(view, user, device).await?);
            }
            let Some((refusal, is_news)) = queues.refuses(key, sender) else { continue };
            if is_news {
                let why = match refusal {
                    Refusal::Full => "its queue is full",
                    Refusal::Share => "it has the sender's whole share of its queue",
                    Refusal::Total => "the sender has as much in all queues together as one may",
                };
                tracing::warn!(%user, %device, %sender, "messages to a device are dropped until its client comes: {why}");
            }
            refused.push(key.clone());
        }
        targets.refused = refused.len();
        for key in refused {
            targets.messages.remove(&key);
        }
        Ok(())
    }

    /// Writes one batch of messages. `false` if a device or the transaction changed meanwhile.
    async fn queue(
        &self,
        targets: &Targets<'_>,
        chunk: &[Outgoing],
        key: &TxnKey<'_>,
        progress: &mut Progress,
        is_last: bool,
    ) -> Result<bool> {
        let Some(last) = chunk.last() else { return Ok(true) };
        let mut batch = Batch::new();
        let mut entry = ToDeviceQueued { to: Vec::new() };
        for Outgoing { user, device, .. } in chunk {
            match entry.to.last_mut() {
                Some((last, devices)) if last == user => devices.push(device.clone()),
                _ => {
                    let version = targets.versions.get(user).copied().flatten();
                    batch.expect::<tables::Versions>(user, version.as_ref());
                    entry.to.push((user.clone(), vec![device.clone()]));
                }
            }
        }
        let position = Position::from(batch.log(&entry));
        for Outgoing { user, device, event } in chunk {
            batch.put::<tables::ToDevice>(&ToDeviceKey { user, device: device.as_str(), position }, event);
        }
        let last = (&*last.user, &*last.device);
        let next = self.prepare_to_device_progress(&mut batch, key, progress, last, is_last);
        let queues = &self.inner.queues;
        for Outgoing { user, device, event } in chunk {
            queues.queued(&(user.clone(), device.clone()), targets.sender, event);
        }
        let committed = self.inner.store.commit(batch).await;
        if committed.is_ok() {
            *progress = next;
            return Ok(true);
        }
        for Outgoing { user, device, event } in chunk {
            queues.not_queued(&(user.clone(), device.clone()), targets.sender, event);
        }
        match committed {
            Err(CommitError::Conflict) => Ok(false),
            other => Ok(other.map(|_| true)?),
        }
    }

    /// The messages that wait for a device after `after` and up to `until`, [`TO_DEVICE_PER_SYNC_MAX`] of them at most. What was
    /// acknowledged meanwhile is left out, so there is no view to read them from.
    ///
    /// # Errors
    ///
    /// Fails only if the store does.
    pub async fn to_device_messages(
        &self,
        user: &UserId,
        device: &DeviceId,
        after: Position,
        until: Position,
    ) -> Result<ToDevicePage> {
        let device_id = device.as_str();
        let range = Range::<tables::ToDevice>::prefix(&(user, device_id));
        let range = range.after(&(user, device_id, after)).through(&(user, device_id, until));
        let view = self.inner.store.view().await?;
        let store::Page { mut rows, next } = view.scan(range.limit(TO_DEVICE_PER_SYNC_MAX + 1)).await?;
        let more = next.is_some();
        rows.truncate(TO_DEVICE_PER_SYNC_MAX);
        let mut page = ToDevicePage { more, ..ToDevicePage::default() };
        for (ToDeviceKey { position, .. }, event) in rows {
            let event = RawValue::from_string(event);
            let event = event.map_err(|source| Error::Damaged { what: "a message to a device", source })?;
            page.events.push(event);
            page.last = Some(position);
        }
        if let Some(last) = page.last {
            self.inner.queues.delivered(&(user.to_owned(), device.to_owned()), last);
        }
        Ok(page)
    }

    /// A client has shown that it got the messages of a device up to `up_to`: they are deleted, without waiting for the disk.
    /// Costs nothing if none were delivered since the last time.
    ///
    /// # Errors
    ///
    /// Fails only if the store does.
    pub async fn acknowledge_to_device(&self, user: &UserId, device: &DeviceId, up_to: Position) -> Result<()> {
        let key = (user.to_owned(), device.to_owned());
        if up_to == Position::ZERO || !self.inner.queues.may_acknowledge(&key) {
            return Ok(());
        }
        // Boxed, as most clients have got no messages.
        Box::pin(self.delete_up_to(key, up_to)).await
    }

    async fn delete_up_to(&self, key: (OwnedUserId, OwnedDeviceId), up_to: Position) -> Result<()> {
        let (user, device) = (&*key.0, &*key.1);
        let queues = &self.inner.queues;
        // A client may say anything.
        let up_to = up_to.min(self.inner.store.published());
        let from = queues.begin_acknowledging(&key, up_to);
        if from >= up_to {
            return Ok(());
        }
        let deleted = self.delete_acknowledged(&key, from, up_to).await;
        let freed = deleted.inspect_err(|_| queues.not_acknowledged(&key, from))?;
        if !queues.released(&key, &freed) {
            // What was counted twice, or counted and never written, would add up in the course of time.
            let rest =
                Range::<tables::ToDevice>::prefix(&(user, device.as_str())).after(&(user, device.as_str(), up_to));
            if self.inner.store.view().await?.first(rest).await?.is_none() {
                queues.found_empty(&key);
            }
        }
        queues.acknowledged(&key, up_to);
        Ok(())
    }

    /// Deletes the messages of a device after `from` and up to `up_to`, and says what they were.
    async fn delete_acknowledged(
        &self,
        (user, device): &(OwnedUserId, OwnedDeviceId),
        from: Position,
        up_to: Position,
    ) -> Result<Load> {
        let device = device.as_str();
        let range = Range::<tables::ToDevice>::prefix(&(user, device));
        let range = range.after(&(user, device, from)).through(&(user, device, up_to));
        let mut next = Some(range.limit(ACKNOWLEDGE_ROWS));
        let view = self.inner.store.view().await?;
        let mut freed = Load::default();
        while let Some(range) = next {
            let page = view.scan(range).await?;
            let mut batch = Batch::new();
            for (key, event) in &page.rows {
                batch.delete::<tables::ToDevice>(key);
                self.inner.queues.count(&mut freed, event)?;
            }
            if !page.rows.is_empty() {
                batch.relaxed();
                // What is lost in a crash is deleted with the next token.
                drop(self.inner.store.submit(batch).await?);
            }
            next = page.next;
        }
        Ok(freed)
    }

    /// Notes what waits for devices that the caller is about to delete, so that it counts for its senders no more when they are
    /// gone. What comes in that very moment counts until the next start.
    pub(crate) async fn note_leaving(&self, view: &View, user: &UserId, devices: &[OwnedDeviceId]) -> Result<()> {
        let queues = &self.inner.queues;
        for device in devices {
            let load = queues.measure(view, user, device).await?;
            queues.leaves((user.to_owned(), device.clone()), load);
        }
        Ok(())
    }
}

/// Deletes what waits for devices, when the devices are deleted.
pub(crate) fn prepare_delete_queues(batch: &mut Batch, user: &UserId, devices: &Run) {
    devices.delete_below::<tables::ToDevice>(batch, user);
    devices.delete_below::<tables::ToDeviceTxns>(batch, user);
}

/// Refuses what no device could get.
fn check(request: &ToDeviceRequest<'_>, messages: &[ToDeviceMessage<'_>]) -> Result<()> {
    let names = [("the transaction id", request.txn_id), ("the type of a message", request.event_type)];
    for (what, name) in names {
        if name.len() > TO_DEVICE_NAME_BYTES_MAX {
            return Err(Error::TooLarge { what, max: TO_DEVICE_NAME_BYTES_MAX });
        }
    }
    if messages.len() > TO_DEVICE_MESSAGES_PER_REQUEST_MAX {
        return Err(Error::TooMany("messages in one request"));
    }
    for message in messages {
        let content = message.content.get();
        if content.len() > TO_DEVICE_MESSAGE_BYTES_MAX {
            return Err(Error::TooLarge { what: "a message to a device", max: TO_DEVICE_MESSAGE_BYTES_MAX });
        }
        if !content.starts_with('{') {
            return Err(Error::NotAnObject);
        }
    }
    Ok(())
}

/// Refuses too many messages.
fn check_count(targets: &Targets<'_>) -> Result<()> {
    if targets.messages.len() > TO_DEVICE_MESSAGES_PER_REQUEST_MAX {
        return Err(Error::TooMany("messages in one request"));
    }
    Ok(())
}

/// The messages that the request did not write yet, in the order of their destinations.
fn outgoing(request: &ToDeviceRequest<'_>, targets: &Targets<'_>, progress: &Progress) -> Result<Vec<Outgoing>> {
    let mut outgoing = Vec::with_capacity(targets.messages.len());
    for ((user, device), content) in &targets.messages {
        if progress.has_passed(user, device) {
            continue;
        }
        let event = Event { content, sender: request.sender, event_type: request.event_type };
        let event = serde_json::to_string(&event);
        let event = event.map_err(|source| Error::Damaged { what: "a message to a device", source })?;
        outgoing.push(Outgoing { user: user.clone(), device: device.clone(), event });
    }
    Ok(outgoing)
}

/// How many of the first messages go into one batch: at least one.
fn chunk_len(messages: &[Outgoing]) -> usize {
    let mut bytes = 0;
    for (at, message) in messages.iter().enumerate() {
        let place = message.user.as_str().len() + message.device.as_str().len();
        bytes += message.event.len() + 2 * place + MESSAGE_OVERHEAD_BYTES;
        if at > 0 && bytes > BATCH_MESSAGES_BYTES {
            return at;
        }
    }
    messages.len()
}
