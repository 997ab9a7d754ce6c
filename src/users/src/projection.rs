//! What the log says is applied to what is kept in memory of users, before anybody sees it.

use ruma::OwnedUserId;
use store::{LogEntry, LogRecord, Position, Projection};

use crate::{Change, Inner, UserChanged, account_data, push_rules};

impl Projection for Inner {
    fn apply(&self, records: &[LogRecord]) {
        for record in records {
            if record.kind != UserChanged::KIND {
                continue;
            }
            match UserChanged::decode_entry(&record.payload) {
                Ok(entry) => self.apply_change(record.position, entry.user, &entry.change),
                Err(error) => {
                    tracing::error!(%error, position = record.position.get(), "unreadable log entry");
                    self.forget_all(record.position);
                }
            }
        }
    }
}

impl Inner {
    fn apply_change(&self, position: Position, user: OwnedUserId, change: &Change) {
        match change {
            Change::Account | Change::Deactivated => {
                if *change == Change::Deactivated {
                    self.presence.deactivated(&user);
                    self.erased.changed(position);
                }
                self.sessions.changed(position, user.clone());
                self.rules.users.changed(position, user.clone());
                self.ignored.changed(position, user.clone());
                self.watchers.changed(&user);
            }
            Change::Sessions => self.sessions.changed(position, user),
            Change::Devices { deleted, .. } => {
                self.sessions.changed(position, user.clone());
                if !deleted.is_empty() {
                    self.watchers.changed(&user);
                }
                for device in deleted {
                    self.queues.forget(&(user.clone(), device.clone()));
                }
            }
            Change::AccountData { room: None, event_type } => {
                if event_type == push_rules::TYPE {
                    self.rules.users.changed(position, user);
                } else if event_type == account_data::IGNORED_TYPE {
                    self.ignored.changed(position, user);
                }
            }
            Change::AccountData { room: Some(_), .. }
            | Change::Profile { .. }
            | Change::DeviceKeys
            | Change::RemoteDeviceKeys { .. }
            | Change::SignedUser { .. }
            | Change::OneTimeKeys { .. } => {}
        }
    }

    /// Nobody knows what changed up to a position.
    fn forget_all(&self, position: Position) {
        self.sessions.clear(position);
        self.rules.users.clear(position);
        self.ignored.clear(position);
        self.queues.clear();
        self.watchers.all_changed();
        self.erased.changed(position);
    }
}
