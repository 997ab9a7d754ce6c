//! User-interactive authentication (client-server API, "User-Interactive Authentication API").
//!
//! Sessions live in memory: they are worth minutes, and a client whose session is gone is simply asked again.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use event::{Clock, Random};
use haima_http::{ApiError, Class, Fingerprint, Gate, StatusCode};
use parking_lot::Mutex;
use ruma::{
    OwnedServerName, OwnedUserId, UserId,
    api::client::uiaa::{AuthData, UserIdentifier},
};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use store::Store;
use users::{Reservation, Users};

use crate::error::{Failure, users_error};

/// Sessions kept at a time; beyond it the oldest are forgotten.
const SESSIONS_MAX: usize = 10_000;
/// How long a session is kept, in milliseconds.
const SESSION_MS_MAX: u64 = 15 * 60 * 1000;
/// Characters of a session id, of 62.
const SESSION_ID_CHARS: usize = 24;

/// A step that a client can be asked for.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    /// `m.login.dummy`
    Dummy,
    /// `m.login.password`
    Password,
    /// `m.login.registration_token`
    RegistrationToken,
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Self::Dummy => "m.login.dummy",
            Self::Password => "m.login.password",
            Self::RegistrationToken => "m.login.registration_token",
        }
    }

    fn of(auth: &AuthData) -> Option<Self> {
        match auth {
            AuthData::Dummy(_) => Some(Self::Dummy),
            AuthData::Password(_) => Some(Self::Password),
            AuthData::RegistrationToken(_) => Some(Self::RegistrationToken),
            _ => None,
        }
    }
}

/// What a session may be used for.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Binding {
    /// The same operation: registering, where clients fill in the rest of the form between the steps.
    Operation([u8; 32]),
    /// The same operation with the same parameters: what was confirmed is what is done.
    Request(Fingerprint),
}

/// What an endpoint asks of a client.
pub(crate) struct Ask<'a> {
    /// Sequences of steps, of which one must be gone through.
    pub(crate) flows: Vec<Vec<Stage>>,
    /// What the session is for.
    pub(crate) binding: Binding,
    /// Who asks; the password must be theirs.
    pub(crate) user: Option<&'a UserId>,
}

/// What was shown.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    /// The registration token, where one was asked for and it is one that counts its uses.
    pub(crate) token: Option<Reservation>,
}

struct Session {
    binding: Binding,
    user: Option<OwnedUserId>,
    completed: Vec<Stage>,
    token: Option<Reservation>,
    expires_ms: u64,
}

#[derive(Default)]
struct Sessions {
    by_id: HashMap<String, Session>,
    /// Ids in the order of their making, which is that of their expiry.
    order: VecDeque<String>,
}

/// All sessions, and what checks the steps.
pub(crate) struct Uia {
    sessions: Mutex<Sessions>,
    gate: Arc<Gate>,
    store: Store,
    users: Users,
    server_name: OwnedServerName,
    registration_token: Option<String>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
}

/// Why a step failed.
enum StepError {
    /// The client may try again.
    Refused(&'static str),
    /// The request fails as a whole.
    Failed(ApiError),
}

impl From<ApiError> for StepError {
    fn from(error: ApiError) -> Self {
        Self::Failed(error)
    }
}

/// What [`Uia`] works with.
pub(crate) struct UiaParts {
    pub(crate) gate: Arc<Gate>,
    pub(crate) store: Store,
    pub(crate) users: Users,
    pub(crate) server_name: OwnedServerName,
    pub(crate) registration_token: Option<String>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
}

impl Uia {
    pub(crate) fn new(parts: UiaParts) -> Self {
        Self {
            sessions: Mutex::default(),
            gate: parts.gate,
            store: parts.store,
            users: parts.users,
            server_name: parts.server_name,
            registration_token: parts.registration_token,
            clock: parts.clock,
            random: parts.random,
        }
    }

    /// Lets a request pass that has gone through one of the flows.
    ///
    /// # Errors
    /// 401 with what is left to do; 403 if the session was begun for another request.
    pub(crate) async fn authorize(&self, ask: &Ask<'_>, auth: Option<&AuthData>) -> Result<Passed, Failure> {
        let Some(auth) = auth else {
            let id = self.begin(ask);
            return Err(challenge(ask, &id, &[]).into());
        };
        let id = match auth.session() {
            Some(id) => id.to_owned(),
            // A client that knows the flows may begin with the first step.
            None => self.begin(ask),
        };
        let completed = self.completed(ask, &id)?;
        let is_done = Stage::of(auth).is_some_and(|stage| completed.contains(&stage));
        let is_acknowledgement = matches!(auth, AuthData::FallbackAcknowledgement(_));
        if !is_done && !is_acknowledgement {
            match self.step(ask, &completed, auth).await {
                Ok((stage, token)) => self.complete(&id, stage, token),
                Err(StepError::Failed(error)) => return Err(error.into()),
                Err(StepError::Refused(message)) => {
                    let error = ApiError::new(StatusCode::UNAUTHORIZED, "M_FORBIDDEN", message);
                    return Err(error.with_all(challenge_fields(ask, &id, &completed)).into());
                }
            }
        }
        self.finish(ask, &id)
    }

    /// Begins a session and gives its id.
    fn begin(&self, ask: &Ask<'_>) -> String {
        let id = self.random.alphanumeric(SESSION_ID_CHARS);
        let now_ms = self.clock.now_ms();
        let session = Session {
            binding: ask.binding,
            user: ask.user.map(ToOwned::to_owned),
            completed: Vec::new(),
            token: None,
            expires_ms: now_ms + SESSION_MS_MAX,
        };
        let mut sessions = self.sessions.lock();
        while let Some(oldest) = sessions.order.front() {
            let expired = sessions.by_id.get(oldest).is_none_or(|session| session.expires_ms <= now_ms);
            if !expired && sessions.order.len() < SESSIONS_MAX {
                break;
            }
            if let Some(oldest) = sessions.order.pop_front() {
                sessions.by_id.remove(&oldest);
            }
        }
        sessions.order.push_back(id.clone());
        sessions.by_id.insert(id.clone(), session);
        id
    }

    /// The steps done in a session.
    fn completed(&self, ask: &Ask<'_>, id: &str) -> Result<Vec<Stage>, ApiError> {
        let now_ms = self.clock.now_ms();
        let sessions = self.sessions.lock();
        let Some(session) = sessions.by_id.get(id).filter(|session| session.expires_ms > now_ms) else {
            drop(sessions);
            let fresh = self.begin(ask);
            let error = ApiError::new(StatusCode::UNAUTHORIZED, "M_UNKNOWN", "Unknown or expired session");
            return Err(error.with_all(challenge_fields(ask, &fresh, &[])));
        };
        if session.binding != ask.binding || session.user.as_deref() != ask.user {
            return Err(ApiError::forbidden("The request changed during authentication"));
        }
        Ok(session.completed.clone())
    }

    fn complete(&self, id: &str, stage: Stage, token: Option<Reservation>) {
        if let Some(session) = self.sessions.lock().by_id.get_mut(id)
            && !session.completed.contains(&stage)
        {
            session.completed.push(stage);
            session.token = session.token.take().or(token);
        }
    }

    /// Ends the session if a flow is complete.
    fn finish(&self, ask: &Ask<'_>, id: &str) -> Result<Passed, Failure> {
        let mut sessions = self.sessions.lock();
        let completed = sessions.by_id.get(id).map(|session| session.completed.clone()).unwrap_or_default();
        if !ask.flows.contains(&completed) {
            return Err(challenge(ask, id, &completed).into());
        }
        let session = sessions.by_id.remove(id);
        Ok(Passed { token: session.and_then(|session| session.token) })
    }

    /// Tries one step.
    async fn step(
        &self,
        ask: &Ask<'_>,
        completed: &[Stage],
        auth: &AuthData,
    ) -> Result<(Stage, Option<Reservation>), StepError> {
        let refused = StepError::Refused("This step is not asked for");
        let Some(stage) = Stage::of(auth) else { return Err(refused) };
        let is_next = |flow: &Vec<Stage>| flow.starts_with(completed) && flow.get(completed.len()) == Some(&stage);
        if !ask.flows.iter().any(is_next) {
            return Err(refused);
        }
        match auth {
            AuthData::Password(password) => {
                self.check_password(ask, &password.identifier, &password.password).await?;
                Ok((stage, None))
            }
            AuthData::RegistrationToken(token) => Ok((stage, self.check_token(&token.token).await?)),
            _ => Ok((stage, None)),
        }
    }

    async fn check_password(&self, ask: &Ask<'_>, who: &UserIdentifier, password: &str) -> Result<(), StepError> {
        let wrong = StepError::Refused("Invalid user name or password");
        let UserIdentifier::Matrix(name) = who else { return Err(wrong) };
        let view = self.store.view();
        let user = match self.users.find_login_name(&view, &name.user, &self.server_name).await {
            Ok(user) => user,
            Err(users::Error::InvalidUserName) => return Err(wrong),
            Err(error) => return Err(users_error(error).into()),
        };
        if ask.user.is_some_and(|expected| expected != user) {
            return Err(wrong);
        }
        self.gate.limits().check_user(Class::LoginAccount, &user)?;
        match self.users.check_password(&user, password).await {
            Ok(_) => Ok(()),
            Err(users::Error::WrongPassword) => Err(wrong),
            Err(error) => Err(users_error(error).into()),
        }
    }

    async fn check_token(&self, token: &str) -> Result<Option<Reservation>, StepError> {
        if self.is_configured_token(token) {
            return Ok(None);
        }
        match self.users.reserve_registration_token(token).await {
            Ok(reservation) => Ok(Some(reservation)),
            Err(users::Error::InvalidRegistrationToken) => Err(StepError::Refused("Invalid registration token")),
            Err(error) => Err(users_error(error).into()),
        }
    }

    /// Whether this is the token of the configuration. Digests are compared, so that time tells nothing about it.
    pub(crate) fn is_configured_token(&self, token: &str) -> bool {
        let configured = self.registration_token.as_deref();
        configured.is_some_and(|configured| Sha256::digest(configured) == Sha256::digest(token))
    }
}

fn challenge(ask: &Ask<'_>, session: &str, completed: &[Stage]) -> ApiError {
    ApiError::body(StatusCode::UNAUTHORIZED, challenge_fields(ask, session, completed))
}

fn challenge_fields(ask: &Ask<'_>, session: &str, completed: &[Stage]) -> Map<String, Value> {
    let names = |stages: &[Stage]| stages.iter().map(|stage| stage.name()).collect::<Vec<_>>();
    let flows: Vec<Value> = ask.flows.iter().map(|flow| json!({ "stages": names(flow) })).collect();
    let mut fields = Map::new();
    fields.insert("flows".to_owned(), Value::Array(flows));
    fields.insert("params".to_owned(), json!({}));
    fields.insert("session".to_owned(), Value::from(session));
    if !completed.is_empty() {
        fields.insert("completed".to_owned(), json!(names(completed)));
    }
    fields
}
