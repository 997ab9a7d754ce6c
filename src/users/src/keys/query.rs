//! What users see of each other's keys.
//!
//! Specification: client-server API, `POST /keys/query`; "Key and signature security" for who sees what.

use std::collections::{BTreeMap, HashSet};

use ruma::{OwnedDeviceId, OwnedUserId, UserId};
use serde_json::{json, value::RawValue};
use store::{Range, Record, View};

use super::{
    cross_signing::Usage,
    signed::{SignedObject, ed25519_id},
};
use crate::{
    Error, Result, Users,
    rows::{CrossSigningRow, SignedUserKey},
    tables,
};

/// The most bytes of keys that are given at once.
pub const QUERY_BYTES_MAX: usize = 32 * 1024 * 1024;

/// After how many users others have a turn on the thread.
const USERS_PER_TURN: usize = 64;

/// The keys of a user.
#[derive(Clone, Debug, Default)]
pub struct UserKeys {
    /// The identity keys of devices that have some, with the display name of the device in `unsigned`.
    pub devices: BTreeMap<OwnedDeviceId, Box<RawValue>>,
    /// The master key.
    pub master: Option<Box<RawValue>>,
    /// The self-signing key.
    pub self_signing: Option<Box<RawValue>>,
    /// The user-signing key, if the user asked themselves.
    pub user_signing: Option<Box<RawValue>>,
}

impl UserKeys {
    /// How many bytes of keys these are.
    fn bytes(&self) -> usize {
        let single = [&self.master, &self.self_signing, &self.user_signing].into_iter().flatten();
        self.devices.values().chain(single).map(|key| key.get().len()).sum()
    }
}

impl Users {
    /// What `asker` sees of the keys of these users of this server: of the devices named, or of all if there are none
    /// named. Users who don't exist are left out.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`] if the keys are more than [`QUERY_BYTES_MAX`].
    pub async fn query_keys(
        &self,
        view: &View,
        asker: &UserId,
        wanted: &BTreeMap<OwnedUserId, Vec<OwnedDeviceId>>,
    ) -> Result<BTreeMap<OwnedUserId, UserKeys>> {
        let mut found = BTreeMap::new();
        let mut bytes = 0;
        for (index, (user, devices)) in wanted.iter().enumerate() {
            if let Some(keys) = self.user_keys(view, asker, user, devices).await? {
                bytes += keys.bytes();
                found.insert(user.clone(), keys);
            }
            if bytes > QUERY_BYTES_MAX {
                return Err(Error::TooLarge { what: "the keys asked for", max: QUERY_BYTES_MAX });
            }
            if index % USERS_PER_TURN == USERS_PER_TURN - 1 {
                tokio::task::yield_now().await;
            }
        }
        Ok(found)
    }

    async fn user_keys(
        &self,
        view: &View,
        asker: &UserId,
        user: &UserId,
        devices: &[OwnedDeviceId],
    ) -> Result<Option<UserKeys>> {
        if self.account(view, user).await?.is_none() {
            return Ok(None);
        }
        let mut keys = UserKeys { devices: device_keys(view, user, devices).await?, ..UserKeys::default() };
        let range = Range::<tables::CrossSigningKeys>::prefix(&(user,));
        for ((_, usage), CrossSigningRow { name, json }) in view.scan_all(range).await? {
            if usage == Usage::Master as u8 {
                keys.master = Some(raw(with_signature_of(view, asker, user, &name, json).await?)?);
            } else if usage == Usage::SelfSigning as u8 {
                keys.self_signing = Some(raw(json)?);
            } else if usage == Usage::UserSigning as u8 && asker == user {
                keys.user_signing = Some(raw(json)?);
            }
        }
        Ok(Some(keys))
    }
}

async fn device_keys(
    view: &View,
    user: &UserId,
    wanted: &[OwnedDeviceId],
) -> Result<BTreeMap<OwnedDeviceId, Box<RawValue>>> {
    let wanted: HashSet<&str> = wanted.iter().map(|id| id.as_str()).collect();
    let mut rows = view.scan_all(Range::<tables::DeviceKeys>::prefix(&(user,))).await?;
    rows.retain(|((_, id), _)| wanted.is_empty() || wanted.contains(id.as_str()));
    let names: Vec<(&UserId, &str)> = rows.iter().map(|((_, id), _)| (user, id.as_str())).collect();
    let names = view.get_many::<tables::Devices>(&names).await?;
    let mut keys = BTreeMap::new();
    for (((_, id), json), device) in rows.into_iter().zip(names) {
        let name = device.and_then(|Record(device)| device.display_name);
        keys.insert(id.into(), raw(with_name(json, name.as_deref()))?);
    }
    Ok(keys)
}

/// Device keys with the display name in `unsigned`, which stored objects don't have.
fn with_name(mut json: String, name: Option<&str>) -> String {
    if let Some(name) = name
        && json.pop() == Some('}')
    {
        let unsigned = json!({ "device_display_name": name });
        json.push_str(&format!(",\"unsigned\":{unsigned}}}"));
    }
    json
}

/// The master key with the signature of the asker's user-signing key, which nobody else sees.
async fn with_signature_of(view: &View, asker: &UserId, user: &UserId, name: &str, json: String) -> Result<String> {
    let signed = view.get::<tables::UserSignatures>(&SignedUserKey { signer: asker, other: user }).await?;
    let Some(signed) = signed.filter(|signed| signed.master == name) else {
        return Ok(json);
    };
    let mut object = SignedObject::stored(&json)?;
    object.add_signature(asker, &ed25519_id(&signed.user_signing), &signed.signature);
    Ok(object.to_json())
}

fn raw(json: String) -> Result<Box<RawValue>> {
    RawValue::from_string(json).map_err(|source| Error::Damaged { what: "a public key", source })
}
