//! This server's signing keys and the secret of its database, made at the first start.

use std::sync::{Arc, PoisonError, RwLock};

use event::{Clock, Random, SIGNING_KEY_BYTES, SigningKey};
use ruma::serde::Base64;
use store::{Batch, CommitError, Range, Store};

use crate::{
    Rooms, RoomsError,
    rows::SigningKeyRow,
    tables::{Secrets, SigningKeys},
};

/// Name of the secret that keys the state trees' hashes.
const TREE_SECRET: &str = "state_tree";

/// Bytes of a secret.
pub(crate) const SECRET_BYTES: usize = 32;

/// How long after a new key was made the one before it counts, in milliseconds: what was being signed at that moment is right.
const OLD_KEY_GRACE_MS: u64 = 60_000;

/// A key with which this server signed before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldSigningKey {
    /// Its id: `ed25519:<version>`.
    pub id: String,
    /// Its public half.
    pub public_key: Base64,
    /// Until when events may be signed with it, in Unix ms (server-server API, "Publishing Keys", `expired_ts`).
    pub expired_ms: u64,
}

/// The key that signs, and those that did before it, newest first.
#[derive(Clone)]
struct Ring {
    current: Arc<SigningKey>,
    created_ms: u64,
    old: Vec<OldSigningKey>,
}

impl Ring {
    fn of(mut keys: Vec<(SigningKey, u64)>) -> Option<Self> {
        keys.sort_by(|(one, one_ms), (other, other_ms)| {
            one_ms.cmp(other_ms).then_with(|| one.version().cmp(other.version()))
        });
        let (current, created_ms) = keys.pop()?;
        let mut old = Vec::with_capacity(keys.len());
        let mut ended_ms = created_ms;
        for (key, key_created_ms) in keys.iter().rev() {
            old.push(OldSigningKey {
                id: key.id().to_owned(),
                public_key: Base64::new(key.public_key().to_vec()),
                expired_ms: ended_ms.saturating_add(OLD_KEY_GRACE_MS),
            });
            ended_ms = *key_created_ms;
        }
        Some(Self { current: Arc::new(current), created_ms, old })
    }
}

/// All signing keys that this server has and had.
pub(crate) struct OwnKeys(RwLock<Ring>);

impl OwnKeys {
    /// Reads the keys; makes and stores one if there is none.
    pub(crate) async fn load(store: &Store, clock: &dyn Clock, random: &dyn Random) -> Result<Self, RoomsError> {
        loop {
            if let Some(ring) = Ring::of(stored_keys(store).await?) {
                return Ok(Self(RwLock::new(ring)));
            }
            match store_key(store, &SigningKey::generate(random), clock.now_ms()).await {
                // Another opener was faster: its key counts too, and the later one signs.
                Ok(()) | Err(CommitError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn ring(&self) -> Ring {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The key that signs.
    pub(crate) fn current(&self) -> Arc<SigningKey> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).current.clone()
    }

    /// The public halves of the keys that count for an event: all, or those that were in use at `valid_at_ms`.
    pub(crate) fn valid_at(&self, valid_at_ms: Option<u64>) -> Vec<(String, Base64)> {
        let ring = self.ring();
        let counts = |key: &OldSigningKey| valid_at_ms.is_none_or(|at_ms| at_ms <= key.expired_ms);
        let mut keys: Vec<(String, Base64)> =
            ring.old.into_iter().filter(counts).map(|key| (key.id, key.public_key)).collect();
        keys.push((ring.current.id().to_owned(), Base64::new(ring.current.public_key().to_vec())));
        keys
    }
}

impl Rooms {
    /// The key with which this server signs.
    pub fn signing_key(&self) -> Arc<SigningKey> {
        self.inner.keys.current()
    }

    /// The keys with which this server signed before, newest first, for other servers that check old events.
    pub fn old_signing_keys(&self) -> Vec<OldSigningKey> {
        self.inner.keys.ring().old
    }

    /// Makes a new signing key, with which this server signs from now on. The one before is kept as an old one.
    pub async fn renew_signing_key(&self) -> Result<Arc<SigningKey>, RoomsError> {
        let store = &self.inner.store;
        let key = SigningKey::generate(&*self.inner.random);
        // However the clock stands, it is newer than the one before.
        let created_ms = self.inner.clock.now_ms().max(self.inner.keys.ring().created_ms.saturating_add(1));
        store_key(store, &key, created_ms).await?;
        let ring = Ring::of(stored_keys(store).await?);
        let ring = ring.ok_or_else(|| RoomsError::corrupt("the signing keys are gone"))?;
        let current = ring.current.clone();
        *self.inner.keys.0.write().unwrap_or_else(PoisonError::into_inner) = ring;
        Ok(current)
    }
}

async fn store_key(store: &Store, key: &SigningKey, created_ms: u64) -> Result<(), CommitError> {
    let mut batch = Batch::new();
    batch.expect::<SigningKeys>(&key.version(), None);
    batch.put::<SigningKeys>(&key.version(), &SigningKeyRow { seed: key.seed(), created_ms });
    store.commit(batch).await.map(|_| ())
}

async fn stored_keys(store: &Store) -> Result<Vec<(SigningKey, u64)>, RoomsError> {
    let mut keys = Vec::new();
    for (version, SigningKeyRow { seed, created_ms }) in
        store.view().await?.scan_all::<SigningKeys>(Range::all()).await?
    {
        let seed: [u8; SIGNING_KEY_BYTES] =
            seed.try_into().map_err(|_| RoomsError::corrupt("a signing key of the wrong length"))?;
        keys.push((SigningKey::from_seed(&seed, &version)?, created_ms));
    }
    Ok(keys)
}

/// The secret that keys the state trees' hashes, made at the first start.
pub(crate) async fn tree_secret(store: &Store, random: &dyn Random) -> Result<[u8; SECRET_BYTES], RoomsError> {
    loop {
        if let Some(secret) = store.view().await?.get::<Secrets>(&TREE_SECRET).await? {
            return secret.try_into().map_err(|_| RoomsError::corrupt("a secret of the wrong length"));
        }
        let mut secret = [0; SECRET_BYTES];
        random.fill(&mut secret);
        let mut batch = Batch::new();
        batch.expect::<Secrets>(&TREE_SECRET, None);
        batch.put::<Secrets>(&TREE_SECRET, &secret);
        match store.commit(batch).await {
            // Another opener was faster: its secret counts.
            Ok(_) | Err(CommitError::Conflict) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
