//! The tables of this crate. Nothing outside reads them.
//!
//! Rows that several writers read, change and write are either guarded by the user's row in [`Versions`]
//! (account, devices, tokens) or aren't `Record`s, so that a batch can expect the very bytes that it read.

use ruma::OwnedUserId;
use store::{Fixed, Position, Record, TableInfo, Text};

use crate::rows::{
    AccessTokenRow, Account, AccountDataKey, BackupContents, BackupKeyPlace, BackupKeyRow, ChangedAccountData,
    CrossSigningRow, DehydratedRow, DeviceRow, DeviceSeenRow, DeviceTokenKey, DeviceTokenRow, FilterUse, KeyBackupRow,
    PoolKeyPlace, PoolRow, RefreshTokenRow, RegistrationTokenRow, SignedUserKey, StoredAccountData, SupersededTokenRow,
    ToDeviceKey, ToDeviceTxnKey, ToDeviceTxnRow, UserSignatureRow, UserTokenRow,
};

store::table! { /// Account of a local user.
pub(crate) Accounts = 128, Points: Text<OwnedUserId> => Record<Account> }
store::table! { /// Bumped and expected by every writer of a user's account, devices and tokens.
pub(crate) Versions = 129, Points: Text<OwnedUserId> => u64 }
store::table! { /// Password hash as a PHC string.
pub(crate) Passwords = 130, Points: Text<OwnedUserId> => String }
store::table! { /// Device of a user by device id.
pub(crate) Devices = 131, Ranges: (Text<OwnedUserId>, String) => Record<DeviceRow> }
store::table! { /// When a device was last seen.
pub(crate) DeviceSeen = 132, Ranges: (Text<OwnedUserId>, String) => DeviceSeenRow }
store::table! { /// Access token by SHA-256.
pub(crate) AccessTokens = 133, Points: Fixed<32> => Record<AccessTokenRow> }
store::table! { /// Refresh token by SHA-256.
pub(crate) RefreshTokens = 134, Points: Fixed<32> => Record<RefreshTokenRow> }
store::table! { /// The tokens of a device.
pub(crate) DeviceTokens = 135, Ranges: DeviceTokenKey => DeviceTokenRow }
store::table! { /// Single-use login token by SHA-256.
pub(crate) LoginTokens = 136, Points: Fixed<32> => UserTokenRow }
store::table! { /// Login tokens by expiry (Unix ms), to find those to forget.
pub(crate) LoginTokenExpiry = 137, Ranges: (u64, Fixed<32>) => () }
store::table! { /// Registration tokens.
pub(crate) RegistrationTokens = 138, Ranges: String => RegistrationTokenRow }
store::table! { /// Single facts about all users by name.
pub(crate) Facts = 139, Points: String => u64 }
store::table! { /// Profile as one JSON object.
pub(crate) Profiles = 140, Points: Text<OwnedUserId> => String }
store::table! { /// Account data.
pub(crate) AccountData = 141, Ranges: AccountDataKey => StoredAccountData }
store::table! { /// Account data by the position of its last change.
pub(crate) AccountDataChanges = 142, Ranges: (Text<OwnedUserId>, Position) => ChangedAccountData }
store::table! { /// Number of a user's rows of account data.
pub(crate) AccountDataCounts = 143, Points: Text<OwnedUserId> => u64 }
store::table! { /// Filter definition as JSON.
pub(crate) Filters = 144, Points: (Text<OwnedUserId>, u64) => String }
store::table! { /// Filter id by SHA-256 of the definition.
pub(crate) FilterIds = 145, Points: (Text<OwnedUserId>, Fixed<32>) => u64 }
store::table! { /// The last id that a filter of a user got.
pub(crate) FilterLast = 146, Points: Text<OwnedUserId> => u64 }
store::table! { /// When a user's filter was last used.
pub(crate) FilterUses = 156, Ranges: (Text<OwnedUserId>, u64) => FilterUse }
store::table! { /// The user directory: words of names and the users who bear them.
pub(crate) DirectoryWords = 147, Ranges: (String, Text<OwnedUserId>) => () }
store::table! { /// Last status message of a user.
pub(crate) PresenceStatus = 148, Points: Text<OwnedUserId> => String }
store::table! { /// Users who asked for erasure.
pub(crate) Erased = 149, Ranges: Text<OwnedUserId> => () }
store::table! { /// Identity keys of a device: the signed object as canonical JSON.
pub(crate) DeviceKeys = 150, Ranges: (Text<OwnedUserId>, String) => String }
store::table! { /// One-time and fallback keys of a device as JSON.
pub(crate) KeyPool = 151, Ranges: PoolKeyPlace => String, forget_on_restore }
store::table! { /// What there is of a device's rows in [`KeyPool`].
pub(crate) KeyPools = 152, Points: (Text<OwnedUserId>, String) => PoolRow, forget_on_restore }
store::table! { /// Cross-signing keys by usage.
pub(crate) CrossSigningKeys = 153, Ranges: (Text<OwnedUserId>, u8) => CrossSigningRow }
store::table! { /// What a user signed of another.
pub(crate) UserSignatures = 154, Ranges: SignedUserKey => UserSignatureRow }
store::table! { /// Device of a token in whose place there is another, by SHA-256.
pub(crate) SupersededTokens = 155, Points: Fixed<32> => SupersededTokenRow }

store::table! { /// Where a user's keys, as others see them, changed last; users of any server.
pub(crate) DeviceListPositions = 158, Points: Text<OwnedUserId> => Position }
store::table! { /// The users of [`DeviceListPositions`] by position.
pub(crate) DeviceListChanges = 159, Ranges: Position => Text<OwnedUserId> }
store::table! { /// Where a user last signed the master key of another.
pub(crate) SignedUserPositions = 160, Points: SignedUserKey => Position }
store::table! { /// The others of [`SignedUserPositions`] by position.
pub(crate) SignedUsers = 161, Ranges: (Text<OwnedUserId>, Position) => Text<OwnedUserId> }
store::table! { /// The last positions at which the keys of a user of [`DeviceListPositions`] changed.
pub(crate) DeviceListHistory = 162, Ranges: (Text<OwnedUserId>, Position) => () }

store::table! { /// Messages to devices, as their clients get them.
pub(crate) ToDevice = 164, Ranges: ToDeviceKey => String }
store::table! { /// How far requests to send to devices came.
pub(crate) ToDeviceTxns = 165, Ranges: ToDeviceTxnKey => ToDeviceTxnRow }
store::table! { /// [`ToDeviceTxns`] by when they began (Unix ms), to find those to forget.
pub(crate) ToDeviceTxnTimes = 166, Ranges: (u64, ToDeviceTxnKey) => () }
store::table! { /// OpenID token by SHA-256.
pub(crate) OpenIdTokens = 167, Points: Fixed<32> => UserTokenRow }
store::table! { /// OpenID tokens by expiry (Unix ms), to find those to forget.
pub(crate) OpenIdTokenExpiry = 168, Ranges: (u64, Fixed<32>) => () }
store::table! { /// Dehydrated device of a user.
pub(crate) DehydratedDevices = 169, Points: Text<OwnedUserId> => DehydratedRow }
store::table! { /// Key backup by version.
pub(crate) KeyBackups = 170, Ranges: (Text<OwnedUserId>, u64) => KeyBackupRow }
store::table! { /// What is in a key backup; every writer of keys expects and writes it.
pub(crate) KeyBackupContents = 171, Ranges: (Text<OwnedUserId>, u64) => BackupContents }
store::table! { /// The last version that a key backup of a user got.
pub(crate) KeyBackupLast = 172, Points: Text<OwnedUserId> => u64 }
store::table! { /// The keys in key backups.
pub(crate) KeyBackupKeys = 173, Ranges: BackupKeyPlace => BackupKeyRow }
store::table! { /// Bytes of the keys of a key backup; written with [`KeyBackupContents`].
pub(crate) KeyBackupBytes = 174, Ranges: (Text<OwnedUserId>, u64) => u64 }

store::table! { /// Bytes of a user's account data, contents and types together.
pub(crate) AccountDataBytes = 190, Points: Text<OwnedUserId> => u64 }
store::table! { /// Account data that was deleted, by the position of the deletion.
pub(crate) AccountDataDeletions = 240, Ranges: (Text<OwnedUserId>, Position) => () }
store::table! { /// Number of a user's rows of [`AccountDataDeletions`]; every writer of them expects it.
pub(crate) AccountDataDeletionCounts = 241, Points: Text<OwnedUserId> => u64 }

/// All tables of this crate, for opening the store.
pub const TABLES: &[TableInfo] = &[
    TableInfo::of::<Accounts>(),
    TableInfo::of::<Versions>(),
    TableInfo::of::<Passwords>(),
    TableInfo::of::<Devices>(),
    TableInfo::of::<DeviceSeen>(),
    TableInfo::of::<AccessTokens>(),
    TableInfo::of::<RefreshTokens>(),
    TableInfo::of::<DeviceTokens>(),
    TableInfo::of::<SupersededTokens>(),
    TableInfo::of::<LoginTokens>(),
    TableInfo::of::<LoginTokenExpiry>(),
    TableInfo::of::<RegistrationTokens>(),
    TableInfo::of::<Facts>(),
    TableInfo::of::<Profiles>(),
    TableInfo::of::<AccountData>(),
    TableInfo::of::<AccountDataChanges>(),
    TableInfo::of::<AccountDataCounts>(),
    TableInfo::of::<AccountDataBytes>(),
    TableInfo::of::<AccountDataDeletions>(),
    TableInfo::of::<AccountDataDeletionCounts>(),
    TableInfo::of::<Filters>(),
    TableInfo::of::<FilterIds>(),
    TableInfo::of::<FilterLast>(),
    TableInfo::of::<FilterUses>(),
    TableInfo::of::<DirectoryWords>(),
    TableInfo::of::<PresenceStatus>(),
    TableInfo::of::<Erased>(),
    TableInfo::of::<DeviceKeys>(),
    TableInfo::of::<KeyPool>(),
    TableInfo::of::<KeyPools>(),
    TableInfo::of::<CrossSigningKeys>(),
    TableInfo::of::<UserSignatures>(),
    TableInfo::of::<DeviceListPositions>(),
    TableInfo::of::<DeviceListChanges>(),
    TableInfo::of::<DeviceListHistory>(),
    TableInfo::of::<SignedUserPositions>(),
    TableInfo::of::<SignedUsers>(),
    TableInfo::of::<ToDevice>(),
    TableInfo::of::<ToDeviceTxns>(),
    TableInfo::of::<ToDeviceTxnTimes>(),
    TableInfo::of::<OpenIdTokens>(),
    TableInfo::of::<OpenIdTokenExpiry>(),
    TableInfo::of::<DehydratedDevices>(),
    TableInfo::of::<KeyBackups>(),
    TableInfo::of::<KeyBackupContents>(),
    TableInfo::of::<KeyBackupLast>(),
    TableInfo::of::<KeyBackupKeys>(),
    TableInfo::of::<KeyBackupBytes>(),
];
