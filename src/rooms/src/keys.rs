//! This server's signing key and the secret of its database, made at the first start.

use std::sync::Arc;

use event::{Clock, Random, SIGNING_KEY_BYTES, SigningKey};
use store::{Batch, CommitError, Range, Store};

use crate::{
    RoomsError,
    tables::{Secrets, SigningKeys},
};

/// Name of the secret that keys the state trees' hashes.
const TREE_SECRET: &str = "state_tree";

/// Bytes of a secret.
pub(crate) const SECRET_BYTES: usize = 32;

/// The newest signing key in the store; makes and stores one if there is none.
pub(crate) async fn signing_key(
    store: &Store,
    clock: &dyn Clock,
    random: &dyn Random,
) -> Result<Arc<SigningKey>, RoomsError> {
    if let Some(key) = newest_key(store).await? {
        return Ok(Arc::new(key));
    }
    let key = SigningKey::generate(random);
    let mut batch = Batch::new();
    batch.expect::<SigningKeys>(&key.version(), None);
    batch.put::<SigningKeys>(&key.version(), &(key.seed().to_vec(), clock.now_ms()));
    store.commit(batch).await?;
    Ok(Arc::new(key))
}

async fn newest_key(store: &Store) -> Result<Option<SigningKey>, RoomsError> {
    let stored = store.view().scan::<SigningKeys>(Range::all()).await?;
    let newest = stored.into_iter().max_by_key(|(_, (_, created_ms))| *created_ms);
    let Some((version, (seed, _))) = newest else { return Ok(None) };
    let seed: [u8; SIGNING_KEY_BYTES] =
        seed.try_into().map_err(|_| RoomsError::corrupt("a signing key of the wrong length"))?;
    Ok(Some(SigningKey::from_seed(&seed, &version)?))
}

/// The secret that keys the state trees' hashes, made at the first start.
pub(crate) async fn tree_secret(store: &Store, random: &dyn Random) -> Result<[u8; SECRET_BYTES], RoomsError> {
    loop {
        if let Some(secret) = store.view().get::<Secrets>(&TREE_SECRET).await? {
            return secret.try_into().map_err(|_| RoomsError::corrupt("a secret of the wrong length"));
        }
        let mut secret = [0; SECRET_BYTES];
        random.fill(&mut secret);
        let mut batch = Batch::new();
        batch.expect::<Secrets>(&TREE_SECRET, None);
        batch.put::<Secrets>(&TREE_SECRET, &secret.to_vec());
        match store.commit(batch).await {
            // Another opener was faster: its secret counts.
            Ok(_) | Err(CommitError::Conflict) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
