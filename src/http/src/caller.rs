//! Who is calling. A handler says by its second argument's type whom it serves.

use std::{borrow::Cow, future::Future, ops::Deref, sync::Arc};

use futures_util::future::BoxFuture;
use ruma::{
    OwnedDeviceId, OwnedUserId,
    exports::http::{HeaderMap, header, request::Parts},
};

use crate::{
    ApiError, Class, Gate, Origin, StatusCode,
    admission::{flow::Flow, polls::Poll},
};

/// Knows access tokens: the port that an API crate implements with the accounts it serves.
pub trait Authenticate: Send + Sync + 'static {
    /// The session that a token belongs to.
    ///
    /// Called for every request, so it must be cheap.
    ///
    /// # Errors
    /// [`ApiError::unknown_token`] for a token that isn't valid (any more).
    fn authenticate<'a>(&'a self, token: &'a str, origin: &'a Origin) -> BoxFuture<'a, Result<AnyAccount, ApiError>>;
}

/// Something that a handler asks for about the sender of a request.
pub trait Caller: Sized + Send + 'static {
    /// Finds out who calls, and counts the request against the class's limit.
    ///
    /// # Errors
    /// 401 where a token is needed and missing or unknown, 403 where this account may not call, `M_LIMIT_EXCEEDED`.
    fn identify(gate: &Gate, parts: &Parts, class: Class) -> impl Future<Output = Result<Self, ApiError>> + Send;

    /// The account, where it is known.
    fn account(&self) -> Option<&AnyAccount>;
}

/// Any account with a valid token, even a locked one: logging out.
#[derive(Clone, Debug)]
pub struct AnyAccount {
    /// The user.
    pub user: OwnedUserId,
    /// The device that the token belongs to.
    pub device: OwnedDeviceId,
    /// A guest account (client-server API, "Guest access").
    pub guest: bool,
    /// An account with administrative rights on this server.
    pub admin: bool,
    /// Locked by an admin: may do nothing but log out.
    pub locked: bool,
    /// Suspended by an admin: may read, and little else.
    pub suspended: bool,
    /// The store's position that all this was true at, or at a later one: what ended the session since is found after that.
    pub known_at: u64,
}

impl Caller for AnyAccount {
    async fn identify(gate: &Gate, parts: &Parts, class: Class) -> Result<Self, ApiError> {
        match MaybeAccount::identify(gate, parts, class).await?.0 {
            Some(account) => Ok(account),
            None => Err(ApiError::missing_token()),
        }
    }

    fn account(&self) -> Option<&AnyAccount> {
        Some(self)
    }
}

/// A registered user or a guest.
#[derive(Clone, Debug)]
pub struct Guest(AnyAccount);

impl Caller for Guest {
    async fn identify(gate: &Gate, parts: &Parts, class: Class) -> Result<Self, ApiError> {
        let account = AnyAccount::identify(gate, parts, class).await?;
        if account.locked { Err(ApiError::user_locked()) } else { Ok(Self(account)) }
    }

    fn account(&self) -> Option<&AnyAccount> {
        Some(self)
    }
}

/// A registered user.
#[derive(Clone, Debug)]
pub struct Session(AnyAccount);

impl Caller for Session {
    async fn identify(gate: &Gate, parts: &Parts, class: Class) -> Result<Self, ApiError> {
        let account = Guest::identify(gate, parts, class).await?.0;
        if account.guest {
            return Err(ApiError::new(
                StatusCode::FORBIDDEN,
                "M_GUEST_ACCESS_FORBIDDEN",
                "Guests may not use this endpoint",
            ));
        }
        Ok(Self(account))
    }

    fn account(&self) -> Option<&AnyAccount> {
        Some(self)
    }
}

impl Session {
    /// Refuses a suspended account, for endpoints where it depends on the request (client-server API, "Account
    /// suspension").
    ///
    /// # Errors
    /// 403 `M_USER_SUSPENDED`.
    pub fn require_unsuspended(&self) -> Result<(), ApiError> {
        self.0.require_unsuspended()
    }
}

impl AnyAccount {
    /// Refuses a suspended account.
    ///
    /// # Errors
    /// 403 `M_USER_SUSPENDED`.
    pub fn require_unsuspended(&self) -> Result<(), ApiError> {
        if self.suspended {
            let message = "You cannot perform this action while suspended.";
            return Err(ApiError::new(StatusCode::FORBIDDEN, "M_USER_SUSPENDED", message));
        }
        Ok(())
    }
}

/// A registered user or guest that isn't suspended: joining, inviting, sending, changing the profile.
#[derive(Clone, Debug)]
pub struct Unsuspended<T>(T);

impl<T: Caller + Deref<Target = AnyAccount> + Sync> Caller for Unsuspended<T> {
    async fn identify(gate: &Gate, parts: &Parts, class: Class) -> Result<Self, ApiError> {
        let account = T::identify(gate, parts, class).await?;
        account.require_unsuspended()?;
        Ok(Self(account))
    }

    fn account(&self) -> Option<&AnyAccount> {
        Some(self)
    }
}

/// Somebody who may wait for news with this request: only a few wait at a time.
pub struct Waiting<T> {
    /// Who.
    pub caller: T,
    /// Their wait.
    pub poll: Poll,
}

impl<T: Caller + Deref<Target = AnyAccount> + Sync> Caller for Waiting<T> {
    async fn identify(gate: &Gate, parts: &Parts, class: Class) -> Result<Self, ApiError> {
        let caller = T::identify(gate, parts, class).await?;
        let flow = parts.extensions.get::<Arc<Flow>>().cloned();
        let poll = gate.admission.polls.begin(&caller.user, &caller.device, flow);
        Ok(Self { caller, poll })
    }

    fn account(&self) -> Option<&AnyAccount> {
        Some(&self.caller)
    }
}

/// Whoever calls: no token is needed. One that is given decides only whose limit the request counts against.
#[derive(Clone, Debug)]
pub struct Anyone {
    /// Where the request comes from.
    pub origin: Origin,
}

impl Caller for Anyone {
    async fn identify(gate: &Gate, parts: &Parts, class: Class) -> Result<Self, ApiError> {
        let origin = gate.origin(parts);
        // Many users may share an address, of a bridge or a network.
        if class.is_per_user()
            && let Ok(Some(token)) = token(&parts.headers, parts.uri.query())
            && let Ok(account) = gate.authenticate.authenticate(&token, &origin).await
        {
            gate.limits().check_user(class, &account.user)?;
        } else {
            gate.admission.check_address(class, parts)?;
        }
        Ok(Self { origin })
    }

    fn account(&self) -> Option<&AnyAccount> {
        None
    }
}

/// A user, a guest, or someone without a token; a token that is given must be valid.
#[derive(Clone, Debug)]
pub struct MaybeGuest {
    /// The account, where a token was given.
    pub account: Option<AnyAccount>,
    /// Where the request comes from.
    pub origin: Origin,
}

impl Caller for MaybeGuest {
    async fn identify(gate: &Gate, parts: &Parts, class: Class) -> Result<Self, ApiError> {
        let account = MaybeAccount::identify(gate, parts, class).await?.0;
        if account.as_ref().is_some_and(|account| account.locked) {
            return Err(ApiError::user_locked());
        }
        Ok(Self { account, origin: gate.origin(parts) })
    }

    fn account(&self) -> Option<&AnyAccount> {
        self.account.as_ref()
    }
}

/// The account of the token, if there is one. The root of all other callers.
struct MaybeAccount(Option<AnyAccount>);

impl Caller for MaybeAccount {
    async fn identify(gate: &Gate, parts: &Parts, class: Class) -> Result<Self, ApiError> {
        let Some(token) = token(&parts.headers, parts.uri.query())? else {
            gate.admission.check_address(class, parts)?;
            return Ok(Self(None));
        };
        let account = match gate.authenticate.authenticate(&token, &gate.origin(parts)).await {
            Ok(account) => account,
            Err(error) => {
                // Whoever guesses tokens is nobody's user. The server's own faults cost nothing.
                if error.status().is_client_error() {
                    gate.limits().check_address(Class::Anonymous, gate.admission.address(parts))?;
                }
                return Err(error);
            }
        };
        gate.limits().check_user(class, &account.user)?;
        Ok(Self(Some(account)))
    }

    fn account(&self) -> Option<&AnyAccount> {
        self.0.as_ref()
    }
}

/// The access token: of the `Authorization` header, or of the query as clients older than v1.11 send it.
fn token<'a>(headers: &'a HeaderMap, query: Option<&'a str>) -> Result<Option<Cow<'a, str>>, ApiError> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let value = value.to_str().map_err(|_| ApiError::unknown_token(false))?;
        let Some((scheme, token)) = value.split_once(' ') else { return Err(ApiError::missing_token()) };
        if !scheme.eq_ignore_ascii_case("Bearer") || token.trim().is_empty() {
            return Err(ApiError::missing_token());
        }
        return Ok(Some(Cow::Borrowed(token.trim())));
    }
    // A token is made of characters that need no percent encoding; one that is encoded all the same is read too.
    for pair in query.unwrap_or("").split('&') {
        if let Some(value) = pair.strip_prefix("access_token=")
            && !value.is_empty()
        {
            return Ok(Some(decode(value)));
        }
    }
    Ok(None)
}

fn decode(value: &str) -> Cow<'_, str> {
    if !value.contains(['%', '+']) {
        return Cow::Borrowed(value);
    }
    let mut decoded = Vec::with_capacity(value.len());
    let mut bytes = value.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => decoded.push(b' '),
            b'%' => {
                let pair = [bytes.next().unwrap_or(b'?'), bytes.next().unwrap_or(b'?')];
                let hex = std::str::from_utf8(&pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok());
                decoded.push(hex.unwrap_or(b'?'));
            }
            other => decoded.push(other),
        }
    }
    Cow::Owned(String::from_utf8_lossy(&decoded).into_owned())
}

impl Deref for Guest {
    type Target = AnyAccount;

    fn deref(&self) -> &AnyAccount {
        &self.0
    }
}

impl Deref for Session {
    type Target = AnyAccount;

    fn deref(&self) -> &AnyAccount {
        &self.0
    }
}

impl<T: Deref<Target = AnyAccount>> Deref for Unsuspended<T> {
    type Target = AnyAccount;

    fn deref(&self) -> &AnyAccount {
        &self.0
    }
}
