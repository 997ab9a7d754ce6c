//! What requests count as: one table, of which the classes, their limits in the configuration and who counts against what are made.

use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

/// One class's limit: a bucket that fills with `per_second` and holds `burst` requests.
#[derive(Copy, Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Rate {
    /// Requests per second in the long run; 0 turns the limit off.
    pub per_second: f64,
    /// Requests at once; at least 1.
    pub burst: u32,
}

impl Rate {
    /// No limit.
    const OFF: Self = Self::new(0.0, 1);

    pub(super) const fn new(per_second: f64, burst: u32) -> Self {
        Self { per_second, burst }
    }
}

impl Default for Rate {
    fn default() -> Self {
        Self::OFF
    }
}

/// Whom a request counts against. Without an account it is always the address.
#[derive(Copy, Clone, PartialEq, Eq)]
enum Per {
    User,
    Address,
}

/// What becomes of a request whose client goes away, whatever its method: those that only read end.
#[derive(Copy, Clone, PartialEq, Eq)]
enum Does {
    Read,
    Act,
}

/// Takes the table of classes: explanation, class, key, `per_second` and `burst` by default, whom it counts against, what it does.
macro_rules! classes {
    ($(
        $(#[$docs:meta])*
        $class:ident: $key:ident = ($per_second:literal, $burst:literal), $per:ident, $does:ident;
    )+) => {
        /// What a request counts as.
        #[derive(Copy, Clone, PartialEq, Eq, Debug)]
        pub enum Class {
            /// Not limited: what costs next to nothing.
            Free,
            /// Reading whose answer may be large: counted as reading, and one at a time for each user.
            Bulk,
            /// Synchronising: counted as reading, but may wait long.
            Sync,
            $($(#[$docs])* $class,)+
        }

        /// The limits by kind of request.
        #[derive(Clone, Debug, Serialize, Deserialize, DocumentedFields)]
        #[serde(default)]
        pub struct Config {
            $($(#[$docs])* pub $key: Rate,)+
        }

        impl Default for Config {
            fn default() -> Self {
                Self { $($key: Rate::new($per_second, $burst),)+ }
            }
        }

        impl Config {
            /// No limits at all: for tests and load measurements.
            pub fn off() -> Self {
                Self { $($key: Rate::OFF,)+ }
            }

            /// The limit of a class, if it has one of its own.
            pub(super) fn rate(&self, class: Class) -> Option<Rate> {
                match class {
                    Class::Free | Class::Bulk | Class::Sync => None,
                    $(Class::$class => Some(self.$key),)+
                }
            }
        }

        impl Class {
            /// Every class in the order of its declaration.
            pub(super) const ALL: &[Self] = &[Self::Free, Self::Bulk, Self::Sync, $(Self::$class,)+];

            fn kind(self) -> (Per, Does) {
                match self {
                    Self::Free => (Per::Address, Does::Read),
                    Self::Bulk | Self::Sync => (Per::User, Does::Read),
                    $(Self::$class => (Per::$per, Does::$does),)+
                }
            }
        }
    };
}

classes! {
    /// Registrations, per client address: a class of pupils has one.
    Registration: registration = (0.2, 60), Address, Act;

    /// Questions whether a user name is free or a registration token holds, per client address.
    Availability: availability = (5.0, 300), Address, Act;

    /// Log-ins and token refreshes, per client address.
    Login: login = (1.0, 60), Address, Act;

    /// Wrong passwords per account and client address; per account five times as many from all addresses that its user has not
    /// logged in from. Right ones don't count.
    LoginAccount: login_account = (0.2, 10), Address, Act;

    /// Sent events and redactions, per user.
    Message: message = (10.0, 100), User, Act;

    /// New rooms and upgrades, per user.
    CreateRoom: create_room = (0.5, 20), User, Act;

    /// Joins and knocks, per user.
    Join: join = (2.0, 50), User, Act;

    /// Invites, per user.
    Invite: invite = (2.0, 50), User, Act;

    /// Searches of directories, per user.
    Search: search = (2.0, 20), User, Read;

    /// Uploaded files and names set aside for them, per user.
    Upload: upload = (10.0, 100), User, Act;

    /// Thumbnails that have to be made, per user (those that were made before count as reading).
    Thumbnail: thumbnail = (10.0, 200), User, Act;

    /// Previews of web pages, per user.
    Preview: preview = (2.0, 20), User, Act;

    /// Everything else that writes, per user.
    Write: write = (20.0, 200), User, Act;

    /// Everything else that reads, per user.
    Read: read = (100.0, 1000), User, Read;

    /// Requests without an account, per client address.
    Anonymous: anonymous = (10.0, 100), Address, Act;
}

impl Class {
    /// Whether a request counts against its user, where there is one.
    pub(crate) fn is_per_user(self) -> bool {
        self.kind().0 == Per::User
    }

    /// Whether such requests only read: they end when their client goes away, whatever their method.
    pub(crate) fn is_reading(self) -> bool {
        self.kind().1 == Does::Read
    }

    /// The class that limits such a request where there is no user.
    pub(crate) fn of_address(self) -> Self {
        if self.is_per_user() { Self::Anonymous } else { self }
    }

    /// The class whose limit it shares.
    pub(super) fn shares(self) -> Self {
        match self {
            // Waiting for news and all reading share one bucket.
            Self::Bulk | Self::Sync => Self::Read,
            own => own,
        }
    }
}
