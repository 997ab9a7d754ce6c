//! Devices with keys.

use ruma::{OwnedUserId, UserId};
use serde_json::{Value, json};
use users::{KeyUpload, Kind, Login, NewAccount, Origin};
use vodozemac::olm::Account;

use super::{World, raw};

/// Keys of one device.
pub struct Keys {
    user: OwnedUserId,
    device: String,
    account: Account,
}

impl Keys {
    pub fn new(user: &UserId, device: &str) -> Self {
        Self { user: user.to_owned(), device: device.to_owned(), account: Account::new() }
    }

    fn sign(&self, mut object: Value) -> Value {
        // The keys of objects are in order here, and there are no numbers: this is canonical JSON.
        let signature = self.account.sign(object.to_string().as_bytes()).to_base64();
        object["signatures"] = json!({ self.user.as_str(): { format!("ed25519:{}", self.device): signature } });
        object
    }

    /// An upload of the identity keys.
    pub fn identity(&self) -> KeyUpload {
        let keys = self.account.identity_keys();
        let object = json!({
            "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
            "device_id": self.device,
            "keys": {
                format!("curve25519:{}", self.device): keys.curve25519.to_base64(),
                format!("ed25519:{}", self.device): keys.ed25519.to_base64(),
            },
            "user_id": self.user,
        });
        KeyUpload { device_keys: Some(raw(&self.sign(object))), ..KeyUpload::default() }
    }

    /// An upload of so many one-time keys, and of a fallback key.
    pub fn one_time(&mut self, count: usize) -> KeyUpload {
        let mut upload = KeyUpload::default();
        self.account.generate_one_time_keys(count);
        for (id, key) in self.account.one_time_keys() {
            let id = format!("signed_curve25519:{}", id.to_base64()).as_str().try_into().unwrap();
            upload.one_time_keys.insert(id, raw(&self.sign(json!({ "key": key.to_base64() }))));
        }
        self.account.generate_fallback_key();
        for (id, key) in self.account.fallback_key() {
            let id = format!("signed_curve25519:{}", id.to_base64()).as_str().try_into().unwrap();
            let key = self.sign(json!({ "fallback": true, "key": key.to_base64() }));
            upload.fallback_keys.insert(id, raw(&key));
        }
        self.account.mark_keys_as_published();
        upload
    }
}

impl World {
    /// Makes an account, without a password.
    pub async fn register(&self, user: &UserId) {
        let new = NewAccount {
            user_id: user.to_owned(),
            password: None,
            kind: Kind::User,
            admin: false,
            origin: Origin::Administrator,
            display_name: None,
            login: None,
        };
        self.users.create_account(new).await.unwrap();
    }

    /// Logs in with a device that has keys.
    pub async fn log_in(&self, user: &UserId, device: &str) -> Keys {
        let login = Login { device_id: Some(device.into()), display_name: None, refreshable: false };
        self.users.login(user, &login).await.unwrap();
        let keys = Keys::new(user, device);
        self.users.upload_keys(user, device.into(), &keys.identity()).await.unwrap();
        keys
    }
}
