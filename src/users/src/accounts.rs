//! Accounts: names, creation, flags, deactivation.
//!
//! Specification: client-server API, "Account registration" and "Account management"; appendices, "User
//! Identifiers".

use std::{fmt, sync::Arc};

use ruma::{OwnedDeviceId, OwnedUserId, ServerName, UserId};
use store::{Batch, Range, Record, Text, View};

use crate::{
    Change, Error, Login, Reservation, Result, Users, bump_version, directory, keys, log,
    profile::{self, ProfileChange},
    rows::{Account, Kind},
    tables,
    tokens::IssuedSession,
};

/// The greatest number of bytes of a user identifier, with `@` and server name.
pub const USER_ID_BYTES_MAX: usize = 255;

/// How many random names are tried for a guest.
const GUEST_NAMES_TRIED_MAX: u32 = 10;
/// Digits of the localpart of a guest.
const GUEST_DIGITS: u32 = 12;
/// Characters of a name that is picked for somebody who names none.
const PICKED_NAME_CHARS: usize = 12;

/// The fact that there is an account that isn't a guest or an application service's.
const FIRST_ACCOUNT: &str = "first_account";

/// Who wants an account to be created.
#[derive(Debug)]
pub enum Origin {
    /// Anyone, through registration that is open or guarded otherwise.
    Registration,
    /// Someone with a registration token, which is used up in the same batch.
    Token(Arc<Reservation>),
    /// An administrator: reserved names are allowed.
    Administrator,
    /// The application service of that id: reserved names are allowed.
    AppService(String),
}

/// An account to create.
pub struct NewAccount {
    /// The name; checked against the grammar for new users.
    pub user_id: OwnedUserId,
    /// The password, or none (guests, application services, single sign-on).
    pub password: Option<String>,
    /// What the user is.
    pub kind: Kind,
    /// Whether they administer the server. A bootstrap token sets this as well.
    pub admin: bool,
    /// Who wants it.
    pub origin: Origin,
    /// The display name, if already known.
    pub display_name: Option<String>,
    /// Log in at once.
    pub login: Option<Login>,
}

/// Without the password.
impl fmt::Debug for NewAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewAccount")
            .field("user_id", &self.user_id)
            .field("kind", &self.kind)
            .field("admin", &self.admin)
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

/// A created account.
#[derive(Debug)]
pub struct Created {
    /// The user.
    pub user_id: OwnedUserId,
    /// Whether they administer the server.
    pub admin: bool,
    /// The session, if one was asked for.
    pub session: Option<IssuedSession>,
}

/// A flag of an account that administrators set and clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountFlag {
    /// [`Account::locked`]
    Locked,
    /// [`Account::suspended`]
    Suspended,
}

/// The user id for a name that somebody wants to register: ASCII upper case is lowered, the rest must fit
/// the grammar.
///
/// # Errors
///
/// [`Error::InvalidUserName`].
pub fn user_id_for(localpart: &str, server_name: &ServerName) -> Result<OwnedUserId> {
    let localpart = localpart.to_ascii_lowercase();
    let user = UserId::parse(format!("@{localpart}:{server_name}")).map_err(|_| Error::InvalidUserName)?;
    check_new_user_id(&user)?;
    Ok(user)
}

/// Appendices, "User Identifiers": the strict grammar, which holds for new users alone.
fn check_new_user_id(user: &UserId) -> Result<()> {
    let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"._=-/+".contains(&c);
    let localpart = user.localpart();
    if localpart.is_empty() || !localpart.bytes().all(allowed) || user.as_str().len() > USER_ID_BYTES_MAX {
        return Err(Error::InvalidUserName);
    }
    Ok(())
}

fn new_account(kind: Kind, created_ms: u64) -> Account {
    Account {
        kind,
        admin: false,
        deactivated: false,
        erased: false,
        locked: false,
        suspended: false,
        created_ms,
        appservice: None,
    }
}

/// Localparts of digits alone are kept for guests.
fn is_guest_name(localpart: &str) -> bool {
    localpart.bytes().all(|c| c.is_ascii_digit())
}

impl Users {
    /// The account of a local user.
    ///
    /// # Errors
    ///
    /// Fails only if the store does.
    pub async fn account(&self, view: &View, user: &UserId) -> Result<Option<Account>> {
        let row = view.get::<tables::Accounts>(&user).await?;
        Ok(row.map(|Record(account)| account))
    }

    /// The account of a user who exists and wasn't deactivated.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownUser`], [`Error::Deactivated`].
    pub async fn active_account(&self, view: &View, user: &UserId) -> Result<Account> {
        let account = self.account(view, user).await?;
        let account = account.ok_or(Error::UnknownUser)?;
        if account.deactivated {
            return Err(Error::Deactivated);
        }
        Ok(account)
    }

    /// Whether the user exists, is active and administers the server.
    ///
    /// # Errors
    ///
    /// Fails only if the store does.
    pub async fn is_admin(&self, view: &View, user: &UserId) -> Result<bool> {
        let account = self.account(view, user).await?;
        Ok(account.is_some_and(|account| account.admin && !account.deactivated))
    }

    /// Whether the user is a guest (client-server API, "Guest Access").
    ///
    /// # Errors
    ///
    /// Fails only if the store does.
    pub async fn is_guest(&self, view: &View, user: &UserId) -> Result<bool> {
        let account = self.account(view, user).await?;
        Ok(account.is_some_and(|account| account.kind == Kind::Guest))
    }

    /// A page of accounts in the order of their names, after `after`.
    ///
    /// # Errors
    ///
    /// Fails only if the store does.
    pub async fn accounts(
        &self,
        view: &View,
        after: Option<&UserId>,
        limit: usize,
    ) -> Result<Vec<(OwnedUserId, Account)>> {
        let mut range = Range::<tables::Accounts>::all().limit(limit);
        if let Some(after) = after {
            range = range.after(&(after,));
        }
        let rows = view.scan(range).await?.rows;
        let accounts = rows.into_iter().map(|(Text(user), Record(account))| (user, account));
        Ok(accounts.collect())
    }

    /// The id of the account that somebody names at login: a localpart or a whole id of this server. An
    /// account of exactly that name comes first (names that older rules allowed); otherwise ASCII case
    /// doesn't matter.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidUserName`] if it can't be a user of this server.
    pub async fn find_login_name(&self, view: &View, name: &str, server_name: &ServerName) -> Result<OwnedUserId> {
        let exact =
            if name.starts_with('@') { UserId::parse(name) } else { UserId::parse(format!("@{name}:{server_name}")) };
        let exact = exact.map_err(|_| Error::InvalidUserName)?;
        if exact.server_name() != server_name {
            return Err(Error::InvalidUserName);
        }
        if self.account(view, &exact).await?.is_some() {
            return Ok(exact);
        }
        let lowered = exact.localpart().to_ascii_lowercase();
        UserId::parse(format!("@{lowered}:{server_name}")).map_err(|_| Error::InvalidUserName)
    }

    /// A user id for somebody who names none.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidUserName`] only on a server whose name leaves no room for it.
    pub fn pick_user_id(&self, server_name: &ServerName) -> Result<OwnedUserId> {
        // A letter first: names of digits alone belong to guests.
        user_id_for(&format!("u{}", self.inner.random.alphanumeric(PICKED_NAME_CHARS)), server_name)
    }

    /// Whether the name could be registered now.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidUserName`], [`Error::ReservedUserName`], [`Error::UserNameTaken`].
    pub async fn check_available(&self, view: &View, user: &UserId) -> Result<()> {
        check_new_user_id(user)?;
        self.check_reserved(user)?;
        self.check_free(view, user).await
    }

    fn check_reserved(&self, user: &UserId) -> Result<()> {
        let reserved = &self.inner.config.reserved_localparts;
        if reserved.iter().any(|name| name == user.localpart()) || is_guest_name(user.localpart()) {
            return Err(Error::ReservedUserName);
        }
        Ok(())
    }

    async fn check_free(&self, view: &View, user: &UserId) -> Result<()> {
        if view.contains::<tables::Accounts>(&user).await? {
            return Err(Error::UserNameTaken);
        }
        Ok(())
    }

    /// Creates an account, with its password, display name, directory entry and first session, in one batch.
    ///
    /// # Errors
    ///
    /// The errors of names, of new passwords and of logins; [`Error::InvalidRegistrationToken`];
    /// [`Error::Contended`].
    pub async fn create_account(&self, new: NewAccount) -> Result<Created> {
        check_new_user_id(&new.user_id)?;
        let checked = matches!(new.origin, Origin::Registration | Origin::Token(_));
        if checked && new.kind == Kind::User {
            self.check_reserved(&new.user_id)?;
        }
        // A taken name needs no hash. Whether it is still free at the commit the batch expects.
        self.check_free(&self.inner.store.view().await?, &new.user_id).await?;
        let (new, hash) = (&new, &self.new_hash(&new).await?);
        let decide = |view: View| async move {
            let mut batch = Batch::new();
            self.check_free(&view, &new.user_id).await?;
            batch.expect::<tables::Accounts>(&new.user_id, None);
            let account = new_account(new.kind, self.now_ms());
            let created = self.prepare_account(&view, &mut batch, new, account, hash.as_ref()).await?;
            Ok((batch, created))
        };
        self.inner.store.retry(decide).await
    }

    /// Turns the guest `new.user_id` into an ordinary user, who keeps the name, the devices and all that the
    /// guest stored. That the guest wants it is for the caller to check.
    ///
    /// Specification: client-server API, "Guest Access" (`guest_access_token` of `POST /register`).
    ///
    /// # Errors
    ///
    /// [`Error::UnknownUser`], [`Error::Deactivated`], [`Error::Locked`]; [`Error::UserNameTaken`] if it isn't
    /// a guest; the errors of new passwords and of logins; [`Error::InvalidRegistrationToken`];
    /// [`Error::Contended`].
    pub async fn upgrade_guest(&self, new: NewAccount) -> Result<Created> {
        let (new, hash) = (&new, &self.new_hash(&new).await?);
        let decide = |view: View| async move {
            let mut batch = Batch::new();
            let mut account = self.usable_account(&view, &new.user_id).await?;
            if account.kind != Kind::Guest {
                return Err(Error::UserNameTaken);
            }
            account.kind = Kind::User;
            let created = self.prepare_account(&view, &mut batch, new, account, hash.as_ref()).await?;
            Ok((batch, created))
        };
        self.inner.store.retry(decide).await
    }

    async fn new_hash(&self, new: &NewAccount) -> Result<Option<String>> {
        match &new.password {
            Some(password) => Ok(Some(self.inner.passwords.hash(password).await?)),
            None => Ok(None),
        }
    }

    /// Writes `account` with all that belongs to a registration.
    async fn prepare_account(
        &self,
        view: &View,
        batch: &mut Batch,
        new: &NewAccount,
        mut account: Account,
        hash: Option<&String>,
    ) -> Result<Created> {
        let user: &UserId = &new.user_id;
        account.admin |= new.admin;
        match &new.origin {
            Origin::Token(reservation) => {
                let grants_admin = self.prepare_use_reservation(view, batch, reservation).await?;
                account.admin |= grants_admin;
            }
            Origin::AppService(id) => account.appservice = Some(id.clone()),
            Origin::Registration | Origin::Administrator => {}
        }
        if account.kind == Kind::User && account.appservice.is_none() {
            self.prepare_first_account(view, batch).await?;
        }
        batch.put::<tables::Accounts>(&user, &Record(account.clone()));
        bump_version(view, batch, user).await?;
        log(batch, user, Change::Account);
        if let Some(hash) = hash {
            batch.put::<tables::Passwords>(&user, hash);
        }
        if account.kind == Kind::User {
            directory::index(batch, user, None);
        }
        let default = match &new.display_name {
            None if account.kind == Kind::User && account.appservice.is_none() => self.default_name(view, user).await?,
            _ => None,
        };
        if let Some(name) = new.display_name.as_ref().or(default.as_ref()) {
            let change = ProfileChange::display_name(name);
            self.prepare_profile_change(view, batch, user, &change).await?;
        }
        let session = match &new.login {
            Some(login) => Some(self.prepare_session(view, batch, user, login).await?),
            None => None,
        };
        Ok(Created { user_id: new.user_id.clone(), admin: account.admin, session })
    }

    /// The display name of a new user who says none: people should see a name and not a whole user id.
    async fn default_name(&self, view: &View, user: &UserId) -> Result<Option<String>> {
        let config = &self.inner.config;
        if !config.new_user_displayname || self.profile(view, user).await?.display_name().is_some() {
            return Ok(None);
        }
        let suffix = &config.new_user_displayname_suffix;
        Ok(Some(format!("{} {suffix}", user.localpart()).trim_end().to_owned()))
    }

    /// Notes that there is an account now, in the batch of the first one only.
    async fn prepare_first_account(&self, view: &View, batch: &mut Batch) -> Result<()> {
        if !self.has_accounts(view).await? {
            batch.expect::<tables::Facts>(&FIRST_ACCOUNT, None);
            batch.put::<tables::Facts>(&FIRST_ACCOUNT, &self.now_ms());
        }
        Ok(())
    }

    /// Whether anybody registered yet, guests and users of application services aside.
    ///
    /// # Errors
    ///
    /// Fails only if the store does.
    pub async fn has_accounts(&self, view: &View) -> Result<bool> {
        Ok(view.contains::<tables::Facts>(&FIRST_ACCOUNT).await?)
    }

    /// Creates a guest of a random numeric name, logged in on a new device.
    ///
    /// # Errors
    ///
    /// [`Error::Contended`] if no free name was found.
    pub async fn create_guest(&self, server_name: &ServerName, device_name: Option<String>) -> Result<Created> {
        for _ in 0..GUEST_NAMES_TRIED_MAX {
            let mut bytes = [0u8; 8];
            self.inner.random.fill(&mut bytes);
            let number = u64::from_be_bytes(bytes) % 10u64.pow(GUEST_DIGITS);
            let new = NewAccount {
                user_id: user_id_for(&number.to_string(), server_name)?,
                password: None,
                kind: Kind::Guest,
                admin: false,
                origin: Origin::Registration,
                display_name: None,
                login: Some(Login { device_id: None, display_name: device_name.clone(), refreshable: false }),
            };
            match self.create_account(new).await {
                Err(Error::UserNameTaken) => {}
                other => return other,
            }
        }
        Err(Error::Contended)
    }

    /// Makes somebody an administrator, or no longer.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownUser`], [`Error::Deactivated`], [`Error::Contended`].
    pub async fn set_admin(&self, user: &UserId, admin: bool) -> Result<()> {
        self.change_account(user, |account| account.admin = admin).await
    }

    /// Locks or suspends an account on behalf of `actor`, or ends it.
    ///
    /// Specification: client-server API, "Account locking", "Account suspension", "Server administration".
    ///
    /// # Errors
    ///
    /// [`Error::NotAllowed`] if `actor` isn't an administrator, is the target, or the target is another
    /// administrator; [`Error::UnknownUser`] if the target doesn't exist or was deactivated.
    pub async fn set_flag(&self, actor: &UserId, target: &UserId, flag: AccountFlag, value: bool) -> Result<()> {
        let view = self.inner.store.view().await?;
        self.flag_target(&view, actor, target).await?;
        if actor == target {
            return Err(Error::NotAllowed);
        }
        self.set_flag_by_server(target, flag, value).await
    }

    /// Locks or suspends an account, or ends it, on behalf of whoever runs the server: that may be an administrator's too.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownUser`], [`Error::Deactivated`], [`Error::Contended`].
    pub async fn set_flag_by_server(&self, target: &UserId, flag: AccountFlag, value: bool) -> Result<()> {
        let set = |account: &mut Account| match flag {
            AccountFlag::Locked => account.locked = value,
            AccountFlag::Suspended => account.suspended = value,
        };
        self.change_account(target, set).await
    }

    /// Whether an account is locked or suspended, on behalf of `actor`.
    ///
    /// # Errors
    ///
    /// As [`Users::set_flag`], but administrators may ask about themselves.
    pub async fn flag(&self, actor: &UserId, target: &UserId, flag: AccountFlag) -> Result<bool> {
        let view = self.inner.store.view().await?;
        let account = self.flag_target(&view, actor, target).await?;
        Ok(match flag {
            AccountFlag::Locked => account.locked,
            AccountFlag::Suspended => account.suspended,
        })
    }

    async fn flag_target(&self, view: &View, actor: &UserId, target: &UserId) -> Result<Account> {
        // The right comes first, so that nobody learns who exists.
        if !self.is_admin(view, actor).await? {
            return Err(Error::NotAllowed);
        }
        let account = match self.active_account(view, target).await {
            Err(Error::Deactivated) => return Err(Error::UnknownUser),
            other => other?,
        };
        if account.admin && actor != target {
            return Err(Error::NotAllowed);
        }
        Ok(account)
    }

    async fn change_account(&self, user: &UserId, change: impl Fn(&mut Account)) -> Result<()> {
        let change = &change;
        let decide = |view: View| async move {
            let mut batch = Batch::new();
            let mut account = self.active_account(&view, user).await?;
            change(&mut account);
            bump_version(&view, &mut batch, user).await?;
            batch.put::<tables::Accounts>(&user, &Record(account));
            log(&mut batch, user, Change::Account);
            Ok((batch, ()))
        };
        self.inner.store.retry(decide).await
    }

    /// Writes the users' part of deactivation: the account is marked, and password, devices, tokens, keys,
    /// profile, account data, filters and directory entry are deleted. Leaving rooms is for the caller.
    /// Does nothing to an account that is deactivated already.
    ///
    /// Returns the devices that are deleted.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownUser`].
    pub async fn prepare_deactivate(
        &self,
        view: &View,
        batch: &mut Batch,
        user: &UserId,
        erasure: Erasure,
    ) -> Result<Vec<OwnedDeviceId>> {
        let mut account = match self.active_account(view, user).await {
            Err(Error::Deactivated) => return Ok(Vec::new()),
            other => other?,
        };
        account.deactivated = true;
        account.erased = erasure == Erasure::Erase;
        account.admin = false;
        bump_version(view, batch, user).await?;
        batch.put::<tables::Accounts>(&user, &Record(account));
        if erasure == Erasure::Erase {
            batch.put::<tables::Erased>(&user, &());
        }
        batch.delete::<tables::Passwords>(&user);
        let deleted = self.prepare_delete_all_devices(view, batch, user, None).await?;
        keys::prepare_delete_cross_signing(view, batch, user).await?;
        profile::remove(view, batch, user).await?;
        self.prepare_delete_account_data(batch, user);
        self.prepare_delete_filters(batch, user);
        self.prepare_delete_key_backups(batch, user);
        batch.delete::<tables::PresenceStatus>(&user);
        log(batch, user, Change::Deactivated);
        Ok(deleted)
    }

    /// Deactivates an account: see [`Users::prepare_deactivate`].
    ///
    /// # Errors
    ///
    /// [`Error::UnknownUser`], [`Error::Contended`].
    pub async fn deactivate(&self, user: &UserId, erasure: Erasure) -> Result<()> {
        let decide = |view: View| async move {
            let mut batch = Batch::new();
            self.prepare_deactivate(&view, &mut batch, user, erasure).await?;
            Ok((batch, ()))
        };
        self.inner.store.retry(decide).await
    }
}

/// Whether a deactivated user wants their messages hidden.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Erasure {
    /// No: messages stay as visible as they were.
    Keep,
    /// Yes (`erase: true`).
    Erase,
}
