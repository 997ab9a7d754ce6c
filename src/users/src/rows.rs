//! What is stored in tables of this crate, where it is more than a few numbers and texts.

use ruma::{OwnedDeviceId, OwnedUserId};
use serde::{Deserialize, Serialize};
use store::Versioned;

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

/// Device id, its keys as JSON, and the dehydrated device that it replaces and that is still to be deleted.
pub(crate) type DehydratedRow = (String, String, Option<String>);
