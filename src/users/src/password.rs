//! Password hashes: argon2id, computed off the async threads, a bounded number at a time.

use std::sync::Arc;

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{
        PasswordHasher, PasswordVerifier,
        phc::{Output, PasswordHash, Salt},
    },
};
use event::Random;
use ruma::{OwnedDeviceId, UserId};
use store::{Batch, View};
use tokio::sync::Semaphore;

use crate::{Change, Config, Error, Result, Users, bump_version, log, rows::Account, tables};

/// The greatest number of bytes of a password.
pub const PASSWORD_BYTES_MAX: usize = 1024;

const SALT_BYTES: usize = 16;

/// Computes and checks password hashes.
pub(crate) struct Passwords {
    argon: Argon2<'static>,
    length_min: usize,
    random: Arc<dyn Random>,
    /// One permit for each hash that may be computed now.
    running: Arc<Semaphore>,
    /// One permit for each hash that may be computed or wait.
    admitted: Arc<Semaphore>,
    /// What the password of an unknown user is compared with, so that it takes as long: the hash of nothing.
    decoy: PasswordHash,
}

impl Passwords {
    pub(crate) fn new(config: &Config, random: Arc<dyn Random>) -> Result<Self> {
        let costs = &config.password;
        let params = Params::new(costs.memory_kib, costs.passes, costs.lanes, None)
            .map_err(|error| Error::Hash(error.to_string()))?;
        let decoy = decoy(&params, random.as_ref()).map_err(|error| Error::Hash(error.to_string()))?;
        let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let concurrent = config.password_hashes_at_once.max(1);
        Ok(Self {
            argon,
            length_min: costs.length_min,
            running: Arc::new(Semaphore::new(concurrent)),
            admitted: Arc::new(Semaphore::new(concurrent + costs.waiting)),
            decoy,
            random,
        })
    }

    /// Checks the length of a new password.
    pub(crate) fn check_new(&self, password: &str) -> Result<()> {
        if password.len() > PASSWORD_BYTES_MAX {
            return Err(Error::PasswordTooLong { max: PASSWORD_BYTES_MAX });
        }
        if password.chars().count() < self.length_min {
            return Err(Error::PasswordTooShort { min: self.length_min });
        }
        Ok(())
    }

    /// The PHC string of a new password.
    pub(crate) async fn hash(&self, password: &str) -> Result<String> {
        self.check_new(password)?;
        let argon = self.argon.clone();
        let random = self.random.clone();
        let password = password.to_owned();
        self.off_thread(move || hash(&argon, &password, random.as_ref())).await
    }

    /// Whether `password` is the one of `stored`. Without a stored hash it takes as long and is `false`.
    async fn verify(&self, password: &str, stored: Option<String>) -> Result<bool> {
        if password.len() > PASSWORD_BYTES_MAX {
            return Ok(false);
        }
        let argon = self.argon.clone();
        let password = password.to_owned();
        let known = stored.is_some();
        let hash = match stored {
            Some(stored) => PasswordHash::new(&stored).map_err(|error| Error::Hash(error.to_string()))?,
            None => self.decoy.clone(),
        };
        self.off_thread(move || {
            let right = argon.verify_password(password.as_bytes(), &hash).is_ok();
            Ok(right && known)
        })
        .await
    }

    /// Whether `stored` was made with other costs than those configured now.
    fn is_outdated(&self, stored: &str) -> bool {
        let Ok(parsed) = PasswordHash::new(stored) else {
            return true;
        };
        let Ok(params) = Params::try_from(&parsed) else {
            return true;
        };
        let now = self.argon.params();
        params.m_cost() != now.m_cost() || params.t_cost() != now.t_cost() || params.p_cost() != now.p_cost()
    }

    async fn off_thread<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let admitted = self.admitted.clone().try_acquire_owned();
        let Ok(admitted) = admitted else {
            return Err(Error::Busy);
        };
        let Ok(running) = self.running.clone().acquire_owned().await else {
            return Err(Error::Busy);
        };
        // The permits go with the work: it runs to its end even if the caller is gone.
        let task = tokio::task::spawn_blocking(move || {
            let result = work();
            drop((admitted, running));
            result
        });
        match task.await {
            Ok(result) => result,
            Err(error) => Err(Error::Hash(error.to_string())),
        }
    }
}

/// A hash of these costs that no password has: its output is random, for computing one would cost the memory of a hash.
fn decoy(params: &Params, random: &dyn Random) -> argon2::password_hash::Result<PasswordHash> {
    let (mut salt, mut output) = ([0u8; SALT_BYTES], [0u8; Params::DEFAULT_OUTPUT_LEN]);
    random.fill(&mut salt);
    random.fill(&mut output);
    Ok(PasswordHash {
        algorithm: Algorithm::Argon2id.ident(),
        version: Some(Version::V0x13.into()),
        params: params.try_into()?,
        salt: Some(Salt::new(&salt)?),
        hash: Some(Output::new(&output)?),
    })
}

fn hash(argon: &Argon2<'_>, password: &str, random: &dyn Random) -> Result<String> {
    let mut salt = [0u8; SALT_BYTES];
    random.fill(&mut salt);
    let hash =
        argon.hash_password_with_salt(password.as_bytes(), &salt).map_err(|error| Error::Hash(error.to_string()))?;
    Ok(hash.to_string())
}

impl Users {
    /// Whether `password` meets the rules for new passwords, without hashing it.
    ///
    /// # Errors
    ///
    /// [`Error::PasswordTooShort`] or [`Error::PasswordTooLong`].
    pub fn check_new_password(&self, password: &str) -> Result<()> {
        self.inner.passwords.check_new(password)
    }

    /// The account of `user` if `password` is theirs. An unknown user, an account without a password and a
    /// wrong password take the same time and give the same error. Whether a locked account may go on is for
    /// the caller to decide.
    ///
    /// # Errors
    ///
    /// [`Error::WrongPassword`]; [`Error::Deactivated`], whatever the password, of which nothing is left to
    /// compare with; [`Error::Busy`] if too many checks wait.
    pub async fn check_password(&self, user: &UserId, password: &str) -> Result<Account> {
        let view = self.inner.store.view().await?;
        let stored = view.get::<tables::Passwords>(&user).await?;
        let account = self.account(&view, user).await?;
        let right = self.inner.passwords.verify(password, stored.clone()).await?;
        if account.as_ref().is_some_and(|account| account.deactivated) {
            return Err(Error::Deactivated);
        }
        let (Some(account), Some(stored), true) = (account, stored, right) else {
            return Err(Error::WrongPassword);
        };
        if self.inner.passwords.is_outdated(&stored) {
            self.upgrade_hash(user, password, &stored).await;
        }
        Ok(account)
    }

    /// Stores the hash of a right password again with the costs configured now. Failing doesn't matter.
    async fn upgrade_hash(&self, user: &UserId, password: &str, stored: &String) {
        let argon = self.inner.passwords.argon.clone();
        let random = self.inner.passwords.random.clone();
        let owned = password.to_owned();
        let work = move || hash(&argon, &owned, random.as_ref());
        let Ok(new) = self.inner.passwords.off_thread(work).await else {
            return;
        };
        let mut batch = Batch::new();
        batch.expect::<tables::Passwords>(&user, Some(stored));
        batch.put::<tables::Passwords>(&user, &new);
        if let Err(error) = self.inner.store.commit(batch).await {
            tracing::debug!(%error, "password hash not upgraded");
        }
    }

    /// Whether the user can log in by password.
    ///
    /// # Errors
    ///
    /// Fails only if the store does.
    pub async fn has_password(&self, view: &View, user: &UserId) -> Result<bool> {
        Ok(view.contains::<tables::Passwords>(&user).await?)
    }

    /// Sets the password. With `logout_others` every device but `keep` is deleted in the same batch.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownUser`], [`Error::Deactivated`], the errors of new passwords, [`Error::Busy`],
    /// [`Error::Contended`].
    pub async fn change_password(&self, user: &UserId, new: &str, others: OtherDevices) -> Result<()> {
        let (hash, others) = (&self.inner.passwords.hash(new).await?, &others);
        let decide = |view: View| async move {
            let mut batch = Batch::new();
            self.active_account(&view, user).await?;
            bump_version(&view, &mut batch, user).await?;
            batch.put::<tables::Passwords>(&user, hash);
            match others {
                OtherDevices::Keep => {
                    log(&mut batch, user, Change::Account);
                }
                OtherDevices::LogOut { keep } => {
                    log(&mut batch, user, Change::Account);
                    self.prepare_delete_all_devices(&view, &mut batch, user, keep.as_deref()).await?;
                }
            }
            Ok((batch, ()))
        };
        self.inner.store.retry(decide).await
    }
}

/// What happens to the other devices when the password changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OtherDevices {
    /// They stay logged in.
    Keep,
    /// They are logged out and deleted, all but `keep`.
    LogOut {
        /// The device that asked.
        keep: Option<OwnedDeviceId>,
    },
}

#[cfg(test)]
mod tests {
    use event::SystemRandom;

    use super::*;

    #[test]
    fn the_decoy_is_compared_at_the_same_cost() {
        let params = Params::new(64, 1, 1, Some(Params::DEFAULT_OUTPUT_LEN)).unwrap();
        let decoy = decoy(&params, &SystemRandom).unwrap();
        assert_eq!(Params::try_from(&decoy).unwrap(), params);
        let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        // Anything else than a wrong password would be an error before the work.
        let answer = argon.verify_password(b"a guess", &decoy);
        assert_eq!(answer, Err(argon2::password_hash::Error::PasswordInvalid));
    }
}
