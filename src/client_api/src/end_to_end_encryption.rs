//! Module "End-to-end encryption": publishing, querying and claiming keys, cross-signing.

use std::{collections::BTreeMap, sync::Arc};

use axum::extract::State;
use bytes::Bytes;
use haima_http::{ApiError, Class, Content, Gate, Guest, Interactive, Json, JsonBytes, Session};
use ruma::{
    OwnedOneTimeKeyId, OwnedUserId, UInt,
    api::client::keys::{claim_keys as claim, get_keys, upload_keys, upload_signatures, upload_signing_keys},
    serde::Raw,
};
use serde_json::{Value, json, value::RawValue};
use store::Store;
use users::{Confirmation, CrossSigningUpload, KeyClaim, KeyUpload, SignatureFailure, SignedKey, Users};

use crate::{
    Config,
    error::Result,
    uia::{Ask, Uia},
};

/// `POST /_matrix/client/v3/keys/upload`
pub(crate) async fn upload_keys(
    State(users): State<Users>,
    caller: Guest,
    req: upload_keys::v3::Request,
) -> Result<upload_keys::v3::Response> {
    let upload = KeyUpload {
        device_keys: req.device_keys.map(Raw::into_json),
        one_time_keys: raw_keys(req.one_time_keys),
        fallback_keys: raw_keys(req.fallback_keys),
    };
    let counts = users.upload_keys(&caller.user, &caller.device, &upload).await?;
    let count = |(algorithm, count): (String, u64)| (algorithm.into(), UInt::new_saturating(count));
    Ok(upload_keys::v3::Response::new(counts.into_iter().map(count).collect()))
}

pub(crate) fn raw_keys<T>(keys: BTreeMap<OwnedOneTimeKeyId, Raw<T>>) -> BTreeMap<OwnedOneTimeKeyId, Box<RawValue>> {
    keys.into_iter().map(|(id, key)| (id, key.into_json())).collect()
}

/// `POST /_matrix/client/v3/keys/query`
pub(crate) async fn query_keys(
    State(config): State<Arc<Config>>,
    State(store): State<Store>,
    State(users): State<Users>,
    caller: Guest,
    req: get_keys::v3::Request,
) -> Result<get_keys::v3::Response> {
    let mut answer = get_keys::v3::Response::new();
    let mut wanted = req.device_keys;
    wanted.retain(|user, _| {
        let is_local = user.server_name() == config.server_name;
        if !is_local {
            answer.failures.insert(user.server_name().to_string(), unreachable());
        }
        is_local
    });
    for (user, keys) in users.query_keys(&store.view().await?, &caller.user, &wanted).await? {
        answer.master_keys.extend(keys.master.map(|key| (user.clone(), Raw::from_json(key))));
        answer.self_signing_keys.extend(keys.self_signing.map(|key| (user.clone(), Raw::from_json(key))));
        answer.user_signing_keys.extend(keys.user_signing.map(|key| (user.clone(), Raw::from_json(key))));
        let devices = keys.devices.into_iter().map(|(id, keys)| (id, Raw::from_json(keys)));
        answer.device_keys.insert(user, devices.collect());
    }
    Ok(answer)
}

/// Devices of which a claim of keys counts like one request more.
const CLAIMS_PER_UNIT: usize = 20;
/// The most that one claim counts: half of what may come at once by default.
const CLAIM_UNITS_MAX: usize = 100;

/// `POST /_matrix/client/v3/keys/claim`. Each device costs a write, so many of them count as many requests.
pub(crate) async fn claim_keys(
    State(config): State<Arc<Config>>,
    State(gate): State<Arc<Gate>>,
    State(users): State<Users>,
    caller: Guest,
    req: claim::v3::Request,
) -> Result<claim::v3::Response> {
    let devices: usize = req.one_time_keys.values().map(|devices| devices.len()).sum();
    for _ in 0..(devices / CLAIMS_PER_UNIT).min(CLAIM_UNITS_MAX) {
        gate.limits().check_user(Class::Write, &caller.user)?;
    }
    let mut failures = BTreeMap::new();
    let mut claims = Vec::new();
    for (user, devices) in req.one_time_keys {
        if user.server_name() != config.server_name {
            failures.insert(user.server_name().to_string(), unreachable());
            continue;
        }
        for (device, algorithm) in devices {
            claims.push(KeyClaim { user: user.clone(), device, algorithm: algorithm.to_string() });
        }
    }
    let mut keys: BTreeMap<OwnedUserId, claim::v3::OneTimeKeys> = BTreeMap::new();
    for claimed in users.claim_keys(claims).await? {
        let id = OwnedOneTimeKeyId::try_from(claimed.id).map_err(ApiError::internal)?;
        let of_device = keys.entry(claimed.user).or_default().entry(claimed.device).or_default();
        of_device.insert(id, Raw::from_json(claimed.key));
    }
    let mut answer = claim::v3::Response::new(keys);
    answer.failures = failures;
    Ok(answer)
}

/// `POST /_matrix/client/v3/keys/device_signing/upload`
pub(crate) async fn upload_cross_signing_keys(
    State(users): State<Users>,
    State(uia): State<Arc<Uia>>,
    caller: Session,
    mut req: Interactive<upload_signing_keys::v3::Request>,
) -> Result<JsonBytes> {
    uia.recall(Some(&caller.user), &mut req);
    let request = req.request()?;
    let upload = CrossSigningUpload {
        master_key: request.master_key.map(Raw::into_json),
        self_signing_key: request.self_signing_key.map(Raw::into_json),
        user_signing_key: request.user_signing_key.map(Raw::into_json),
    };
    match users.upload_cross_signing(&caller.user, &upload, Confirmation::NotAsked).await {
        Err(users::Error::ConfirmationNeeded) => {}
        other => {
            other?;
            return Ok(JsonBytes(Bytes::from_static(b"{}")));
        }
    }
    let replace = |_| async {
        users.upload_cross_signing(&caller.user, &upload, Confirmation::Given).await?;
        Ok(json!({}))
    };
    uia.confirm(&Ask::password(&req, &caller.user), replace).await
}

/// `POST /_matrix/client/v3/keys/signatures/upload`
pub(crate) async fn upload_cross_signing_signatures(
    State(users): State<Users>,
    caller: Session,
    Content(req): Content<upload_signatures::v3::Request>,
) -> Result<Json<Value>> {
    let mut signed = Vec::new();
    for (user, keys) in &req.signed_keys {
        for (key, json) in keys.iter() {
            signed.push(SignedKey { user: user.clone(), key: key.to_owned(), json: json.to_owned() });
        }
    }
    let failures = users.upload_signatures(&caller.user, &signed).await?;
    let mut answer: BTreeMap<OwnedUserId, BTreeMap<String, Value>> = BTreeMap::new();
    for (user, failed) in failures {
        answer.insert(user, failed.into_iter().map(|(key, failure)| (key, failure_json(&failure))).collect());
    }
    Ok(Json(json!({ "failures": answer })))
}

fn failure_json(failure: &SignatureFailure) -> Value {
    let errcode = match failure {
        SignatureFailure::UnknownKey | SignatureFailure::NoSigningKey => "M_NOT_FOUND",
        SignatureFailure::Invalid => "M_INVALID_SIGNATURE",
        SignatureFailure::Mismatch | SignatureFailure::Malformed(_) => "M_INVALID_PARAM",
    };
    json!({ "errcode": errcode, "error": failure.to_string() })
}

/// What is said of users of other servers, which this one doesn't reach.
fn unreachable() -> Value {
    json!({ "errcode": "M_UNKNOWN", "error": "This server does not reach other servers" })
}
