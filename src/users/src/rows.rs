//! What the keys and values of this crate's tables are, where a key has more than two fields or a value more than one.

use ruma::{OwnedDeviceId, OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde::{Deserialize, Serialize};
use store::{Fixed, Key, Position, Text, Value, Versioned};

/// A user's id in a key or value.
pub(crate) type User = Text<OwnedUserId>;
/// A room's id in a key or value.
pub(crate) type Room = Text<OwnedRoomId>;

/// What a user is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// An ordinary account.
    User,
    /// A guest: no password, few rights.
    Guest,
}

/// The account of a local user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// What the user is.
    pub kind: Kind,
    /// May administer the server.
    #[serde(default)]
    pub admin: bool,
    /// Gone for ever; the name isn't given again.
    #[serde(default)]
    pub deactivated: bool,
    /// Deactivated with the wish that what they wrote be hidden from those who don't see it yet.
    #[serde(default)]
    pub erased: bool,
    /// Can do nothing but log out, until unlocked.
    #[serde(default)]
    pub locked: bool,
    /// Can read but not write, until the suspension ends.
    #[serde(default)]
    pub suspended: bool,
    /// When the account was created, in Unix milliseconds.
    pub created_ms: u64,
    /// The id of the application service that registered it.
    #[serde(default)]
    pub appservice: Option<String>,
}

impl Versioned for Account {
    const VERSION: u8 = 1;
    type Previous = store::NoPrevious;
    fn upgrade(previous: Self::Previous) -> Self {
        match previous {}
    }
}

/// What is stored of a device.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct DeviceRow {
    pub(crate) display_name: Option<String>,
    pub(crate) created_ms: u64,
}

impl Versioned for DeviceRow {
    const VERSION: u8 = 1;
    type Previous = store::NoPrevious;
    fn upgrade(previous: Self::Previous) -> Self {
        match previous {}
    }
}

/// What is stored of an access token.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct AccessTokenRow {
    pub(crate) user: OwnedUserId,
    pub(crate) device: OwnedDeviceId,
    pub(crate) expires_ms: Option<u64>,
    /// The refresh token that this one was got with, until this one is used.
    #[serde(default)]
    pub(crate) replaces: Option<TokenHash>,
    /// The refresh token that was issued with it.
    #[serde(default)]
    pub(crate) refresh: Option<TokenHash>,
}

impl Versioned for AccessTokenRow {
    const VERSION: u8 = 1;
    type Previous = store::NoPrevious;
    fn upgrade(previous: Self::Previous) -> Self {
        match previous {}
    }
}

/// What is stored of a refresh token.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RefreshTokenRow {
    pub(crate) user: OwnedUserId,
    pub(crate) device: OwnedDeviceId,
    pub(crate) expires_ms: Option<u64>,
    /// The access token that was issued with it.
    pub(crate) access: TokenHash,
    /// The refresh token that this one was got with, until this one or its access token is used.
    pub(crate) replaces: Option<TokenHash>,
    /// The pair (access, refresh) that it was exchanged for and that wasn't used yet.
    pub(crate) next: Option<(TokenHash, TokenHash)>,
}

impl Versioned for RefreshTokenRow {
    const VERSION: u8 = 1;
    type Previous = store::NoPrevious;
    fn upgrade(previous: Self::Previous) -> Self {
        match previous {}
    }
}

pub(crate) type TokenHash = [u8; 32];

/// When a device was last seen.
#[derive(Clone, Debug, Value)]
pub(crate) struct DeviceSeenRow<S = String> {
    /// When, in Unix milliseconds.
    pub(crate) at_ms: u64,
    /// From which address.
    pub(crate) address: S,
}

/// A token of a device.
#[derive(Clone, Debug, Key)]
pub(crate) struct DeviceTokenKey<U = User, S = String> {
    /// The device's user.
    pub(crate) user: U,
    /// The device.
    pub(crate) device: S,
    /// The token's SHA-256.
    pub(crate) token: Fixed<32>,
}

/// What a token of a device is.
#[derive(Clone, Copy, Debug, Value)]
pub(crate) struct DeviceTokenRow {
    /// The kind of token.
    pub(crate) kind: u8,
    /// When others took its place, in Unix milliseconds; 0 for those that hold.
    pub(crate) superseded_ms: u64,
}

/// Whose a token was that others took the place of.
#[derive(Clone, Debug, Value)]
pub(crate) struct SupersededTokenRow<U = User, S = String> {
    /// The user.
    pub(crate) user: U,
    /// The device.
    pub(crate) device: S,
}

/// A token that stands for a user for a while.
#[derive(Clone, Debug, Value)]
pub(crate) struct UserTokenRow<U = User> {
    /// The user.
    pub(crate) user: U,
    /// When it expires, in Unix milliseconds.
    pub(crate) expires_ms: u64,
}

/// What a registration token allows.
#[derive(Clone, Copy, Debug, Value)]
pub(crate) struct RegistrationTokenRow {
    /// How many accounts may be created with it; any number without.
    pub(crate) uses_allowed: Option<u64>,
    /// How many were.
    pub(crate) completed: u64,
    /// When it expires, in Unix milliseconds.
    pub(crate) expires_ms: Option<u64>,
}

/// One content of a user's account data.
#[derive(Clone, Copy, Debug, Key)]
pub(crate) struct AccountDataKey<U = User, R = Room, S = String> {
    /// The user.
    pub(crate) user: U,
    /// The room that it is about, if it is.
    pub(crate) room: Option<R>,
    /// Its type.
    pub(crate) event_type: S,
}

impl<'a> AccountDataKey<&'a UserId, &'a RoomId, &'a str> {
    /// That of account data that is about no room.
    pub(crate) fn global(user: &'a UserId, event_type: &'a str) -> Self {
        Self { user, room: None, event_type }
    }
}

/// Account data.
#[derive(Clone, Debug, Value)]
pub(crate) struct StoredAccountData<S = String> {
    /// The position of the last change.
    pub(crate) position: Position,
    /// A JSON object.
    pub(crate) content: S,
}

/// Which of a user's account data changed.
#[derive(Clone, Debug, Value)]
pub(crate) struct ChangedAccountData<R = Room, S = String> {
    /// As [`AccountDataKey::room`].
    pub(crate) room: Option<R>,
    /// As [`AccountDataKey::event_type`].
    pub(crate) event_type: S,
}

/// The last use of a filter.
#[derive(Clone, Copy, Debug, Value)]
pub(crate) struct FilterUse {
    /// When, in Unix days.
    pub(crate) day: u64,
    /// The SHA-256 of the filter's definition.
    pub(crate) digest: Fixed<32>,
}

/// A one-time or fallback key of a device. Those of one kind and algorithm are in the order of their upload.
#[derive(Clone, Debug, Key)]
pub(crate) struct PoolKeyPlace<U = User, S = String> {
    /// The device's user.
    pub(crate) user: U,
    /// The device.
    pub(crate) device: S,
    /// What the key is for.
    pub(crate) kind: u8,
    /// The algorithm that it is used with.
    pub(crate) algorithm: S,
    /// The position of its upload.
    pub(crate) position: Position,
    /// Its id, without the algorithm.
    pub(crate) name: S,
}

/// What there is of a device's one-time and fallback keys.
#[derive(Clone, Debug, Value)]
pub(crate) struct PoolRow<S = String> {
    /// Bumped and expected by every writer of the keys.
    pub(crate) version: u64,
    /// The counts, as JSON.
    pub(crate) counts: S,
}

/// A cross-signing key.
#[derive(Clone, Debug, Value)]
pub(crate) struct CrossSigningRow<S = String> {
    /// The public key as unpadded base64.
    pub(crate) name: S,
    /// The signed object as canonical JSON.
    pub(crate) json: S,
}

/// A user and another whose master key they signed.
#[derive(Clone, Copy, Debug, Key)]
pub(crate) struct SignedUserKey<U = User> {
    /// Who signed.
    pub(crate) signer: U,
    /// Whose key.
    pub(crate) other: U,
}

/// A signature of another user's master key.
#[derive(Clone, PartialEq, Eq, Debug, Value)]
pub(crate) struct UserSignatureRow<S = String> {
    /// The master key that is signed, as unpadded base64.
    pub(crate) master: S,
    /// The signer's user-signing key, as unpadded base64.
    pub(crate) user_signing: S,
    /// The signature.
    pub(crate) signature: S,
}

/// A message to a device.
#[derive(Clone, Debug, Key)]
pub(crate) struct ToDeviceKey<U = User, S = String> {
    /// The device's user.
    pub(crate) user: U,
    /// The device.
    pub(crate) device: S,
    /// The position of the log entry that tells of the message.
    pub(crate) position: Position,
}

/// The transaction id of a request to send to devices, with its scope.
#[derive(Clone, Copy, Debug, Key)]
pub(crate) struct ToDeviceTxnKey<U = User, S = String> {
    /// Who sends.
    pub(crate) sender: U,
    /// From which device.
    pub(crate) device: S,
    /// The type of the messages.
    pub(crate) event_type: S,
    /// The transaction id.
    pub(crate) txn_id: S,
}

/// How far a request to send to devices came.
#[derive(Clone, Debug, Value)]
pub(crate) struct ToDeviceTxnRow {
    /// When it began, in Unix milliseconds.
    pub(crate) at_ms: u64,
    /// Whether all of it is written.
    pub(crate) is_done: bool,
    /// The user whom the last message that is written goes to.
    pub(crate) last_user: String,
    /// The device that it goes to.
    pub(crate) last_device: String,
}

/// The dehydrated device of a user.
#[derive(Clone, Debug, Value)]
pub(crate) struct DehydratedRow<S = String> {
    /// Its id.
    pub(crate) device: S,
    /// Its private keys, encrypted: a JSON object.
    pub(crate) data: S,
    /// The dehydrated device that it replaces, as long as that is still to be deleted.
    pub(crate) replaces: Option<S>,
}

/// A key backup.
#[derive(Clone, Debug, Value)]
pub(crate) struct KeyBackupRow<S = String> {
    /// How keys are encrypted.
    pub(crate) algorithm: S,
    /// What the algorithm needs to know, a JSON object.
    pub(crate) auth_data: S,
}

/// What is in a key backup.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Value)]
pub struct BackupContents {
    /// The number of keys.
    pub count: u64,
    /// Another number whenever keys were changed.
    pub etag: u64,
}

/// A key's place in a key backup.
#[derive(Clone, Copy, Debug, Key)]
pub(crate) struct BackupKeyPlace<U = User, R = Room, S = String> {
    /// Whose backup.
    pub(crate) user: U,
    /// Its version.
    pub(crate) version: u64,
    /// The room that the key is for.
    pub(crate) room: R,
    /// The session.
    pub(crate) session: S,
}

/// A key in a key backup.
#[derive(Clone, Debug, Value)]
pub(crate) struct BackupKeyRow<S = String> {
    /// The index of the first message that it decrypts.
    pub(crate) first_message_index: u64,
    /// How often it was forwarded between devices.
    pub(crate) forwarded_count: u64,
    /// Whether the device that stored it verified the one that the key is from.
    pub(crate) is_verified: bool,
    /// The key, encrypted: a JSON object.
    pub(crate) session_data: S,
}
