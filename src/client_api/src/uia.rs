//! User-interactive authentication (client-server API, "User-Interactive Authentication API").
//!
//! Sessions live in memory: they are worth minutes, and a client whose session is gone is simply asked again.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    future::Future,
    net::IpAddr,
    sync::Arc,
};

use bytes::Bytes;
use event::{Clock, Random};
use haima_http::{ApiError, Class, Fingerprint, Gate, Interactive, JsonBytes, StatusCode, limit::Guesser};
use parking_lot::Mutex;
use ruma::{OwnedUserId, UserId, api::IncomingRequest};
use serde::Serialize;
use serde_json::{Map, Value, json, value::RawValue};
use sha2::{Digest, Sha256};
use store::Store;
use tokio::sync::Mutex as Turn;
use users::{Reservation, Users};

use crate::{
    Config,
    error::{Failure, store_error, users_error},
};

/// Sessions kept at a time; beyond it the oldest are forgotten.
const SESSIONS_MAX: usize = 10_000;
/// How long a session is kept, in milliseconds.
const SESSION_MS_MAX: u64 = 15 * 60 * 1000;
/// Characters of a session id, of 62.
const SESSION_ID_CHARS: usize = 24;
/// Parameters of a request that are remembered for its session, in bytes; who sends more has to send it each time.
const PARAMETERS_BYTES_MAX: usize = 4 * 1024;

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

    fn of(name: &str) -> Option<Self> {
        [Self::Dummy, Self::Password, Self::RegistrationToken].into_iter().find(|stage| stage.name() == name)
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

impl Binding {
    fn operation(&self) -> [u8; 32] {
        match self {
            Self::Operation(operation) => *operation,
            Self::Request(fingerprint) => fingerprint.operation,
        }
    }
}

/// What a client shows: `auth` of a request. A field that isn't what it should be counts as left out: the client is told
/// what is asked for, and not that its request is no request.
#[derive(Default)]
pub(crate) struct Shown(Map<String, Value>);

impl Shown {
    /// `None` where nothing is shown.
    fn of(auth: Option<&RawValue>) -> Option<Self> {
        match serde_json::from_str(auth?.get()) {
            Ok(Value::Null) => None,
            Ok(Value::Object(fields)) => Some(Self(fields)),
            _ => Some(Self::default()),
        }
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    /// Whose password it is: `identifier`, or `user` as clients wrote it before there were identifiers.
    fn user(&self) -> Option<&str> {
        let Some(identifier) = self.0.get("identifier") else { return self.text("user") };
        let is_matrix = identifier["type"] == "m.id.user";
        if is_matrix { identifier["user"].as_str() } else { None }
    }
}

/// What an endpoint asks of a client.
pub(crate) struct Ask<'a> {
    /// Sequences of steps, of which one must be gone through.
    flows: Vec<Vec<Stage>>,
    /// What the session is for.
    binding: Binding,
    /// What the request asks for, digested.
    fingerprint: Fingerprint,
    /// Who asks; the password must be theirs.
    user: Option<&'a UserId>,
    /// What the client shows.
    shown: Option<Shown>,
    /// What the request asks for, to be remembered.
    parameters: &'a Parameters,
    /// Where wrong answers are counted, if whoever asks has no account that could be counted against.
    address: Option<IpAddr>,
}

impl<'a> Ask<'a> {
    /// Asks a user for their password before exactly this request is done.
    pub(crate) fn password<T: IncomingRequest + Send + 'static>(req: &'a Interactive<T>, user: &'a UserId) -> Self {
        Self {
            flows: vec![vec![Stage::Password]],
            binding: Binding::Request(req.fingerprint()),
            fingerprint: req.fingerprint(),
            user: Some(user),
            shown: Shown::of(req.auth.as_deref()),
            parameters: &req.parameters,
            address: None,
        }
    }

    /// Asks somebody without an account to go through one of the flows.
    pub(crate) fn stranger<T: IncomingRequest + Send + 'static>(
        req: &'a Interactive<T>,
        flows: Vec<Vec<Stage>>,
        address: IpAddr,
    ) -> Self {
        Self {
            flows,
            binding: Binding::Operation(req.fingerprint().operation),
            fingerprint: req.fingerprint(),
            user: None,
            shown: Shown::of(req.auth.as_deref()),
            parameters: &req.parameters,
            address: Some(address),
        }
    }

    /// Whether the request only asks how far its session is.
    pub(crate) fn is_question(&self) -> bool {
        self.shown.as_ref().is_some_and(|shown| shown.text("type").is_none())
    }
}

/// The fields of a request's body but `auth`.
type Parameters = BTreeMap<String, Box<RawValue>>;

/// What was shown.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    /// The registration token, where one was asked for and it is one that counts its uses.
    pub(crate) token: Option<Arc<Reservation>>,
}

struct Session {
    binding: Binding,
    user: Option<OwnedUserId>,
    completed: Vec<Stage>,
    token: Option<Arc<Reservation>>,
    /// What was asked for at first, as JSON: read, thousands of small fields would take a hundred bytes each.
    parameters: Box<str>,
    /// Held while the request is done, so that it is done once.
    outcome: Arc<Turn<Option<Outcome>>>,
    expires_ms: u64,
}

/// What a request came to: who didn't get the answer asks again.
struct Outcome {
    fingerprint: Fingerprint,
    answer: Bytes,
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
    config: Arc<Config>,
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
    pub(crate) config: Arc<Config>,
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
            config: parts.config,
            clock: parts.clock,
            random: parts.random,
        }
    }

    /// Puts into a request what was said at the beginning of its session and is left out now.
    pub(crate) fn recall<T: IncomingRequest + Send + 'static>(&self, user: Option<&UserId>, req: &mut Interactive<T>) {
        let shown = Shown::of(req.auth.as_deref());
        let Some(id) = shown.as_ref().and_then(|shown| shown.text("session")) else { return };
        let operation = req.fingerprint().operation;
        let now_ms = self.clock.now_ms();
        let sessions = self.sessions.lock();
        let Some(session) = sessions.by_id.get(id).filter(|session| session.expires_ms > now_ms) else { return };
        if session.binding.operation() != operation || session.user.as_deref() != user {
            return;
        }
        let Ok(parameters) = serde_json::from_str::<Parameters>(&session.parameters) else { return };
        for (name, value) in parameters {
            req.parameters.entry(name).or_insert(value);
        }
    }

    /// Does what a request asks for once it has gone through one of the flows. A request that was done is answered again for as
    /// long as its session is known.
    ///
    /// # Errors
    /// 401 with what is left to do; 403 if the session was begun for another request; those of `act`, after which the client may
    /// ask again, perhaps for something else, without going through the flow again.
    pub(crate) async fn confirm<T, F>(&self, ask: &Ask<'_>, act: impl FnOnce(Passed) -> F) -> Result<JsonBytes, Failure>
    where
        T: Serialize,
        F: Future<Output = Result<T, Failure>>,
    {
        let id = self.authorize(ask).await?;
        let Some(outcome) = self.outcome(&id) else { return Err(self.unknown_session(ask).into()) };
        let mut outcome = outcome.lock().await;
        if let Some(outcome) = &*outcome {
            return Ok(self.repeated(ask, outcome)?);
        }
        let token = self.sessions.lock().by_id.get(&id).and_then(|session| session.token.clone());
        let answer = Bytes::from(serde_json::to_vec(&act(Passed { token }).await?)?);
        *outcome = Some(Outcome { fingerprint: ask.fingerprint, answer: answer.clone() });
        if let Some(session) = self.sessions.lock().by_id.get_mut(&id) {
            session.token = None;
        }
        Ok(JsonBytes(answer))
    }

    /// The answer of a request that was done in its session already, for those that can't be checked again when they are done.
    ///
    /// # Errors
    /// 401 if the session was used up for something else; 403 if it was begun for another request.
    pub(crate) async fn answered(&self, ask: &Ask<'_>) -> Result<Option<JsonBytes>, Failure> {
        let Some(id) = ask.shown.as_ref().and_then(|shown| shown.text("session")) else { return Ok(None) };
        let Some(outcome) = self.outcome(id) else { return Ok(None) };
        self.completed(ask, id)?;
        let outcome = outcome.lock().await;
        Ok(outcome.as_ref().map(|outcome| self.repeated(ask, outcome)).transpose()?)
    }

    fn outcome(&self, id: &str) -> Option<Arc<Turn<Option<Outcome>>>> {
        Some(self.sessions.lock().by_id.get(id)?.outcome.clone())
    }

    fn repeated(&self, ask: &Ask<'_>, outcome: &Outcome) -> Result<JsonBytes, ApiError> {
        if outcome.fingerprint != ask.fingerprint {
            return Err(self.unknown_session(ask));
        }
        Ok(JsonBytes(outcome.answer.clone()))
    }

    /// Tells a request what is left to do, without a look at what it asks for.
    ///
    /// # Errors
    /// 401.
    pub(crate) async fn challenge(&self, ask: &Ask<'_>) -> Result<(), Failure> {
        self.authorize(ask).await.map(|_| ())
    }

    /// The session of a request that has gone through one of the flows.
    async fn authorize(&self, ask: &Ask<'_>) -> Result<String, Failure> {
        let Some(shown) = &ask.shown else {
            let id = self.begin(ask);
            return Err(challenge(ask, &id, &[]).into());
        };
        let id = match shown.text("session") {
            Some(id) => id.to_owned(),
            // A client that knows the flows may begin with the first step.
            None => self.begin(ask),
        };
        let completed = self.completed(ask, &id)?;
        let stage = shown.text("type").map(Stage::of);
        // Without a type it asks how far the session is; a step that was done isn't tried again.
        if let Some(stage) = stage
            && !stage.is_some_and(|stage| completed.contains(&stage))
        {
            match self.counted_step(ask, &completed, stage, shown).await {
                Ok((stage, token)) => self.complete(&id, stage, token),
                Err(StepError::Failed(error)) => return Err(error.into()),
                Err(StepError::Refused(message)) => {
                    let error = ApiError::new(StatusCode::UNAUTHORIZED, "M_FORBIDDEN", message);
                    return Err(error.with_all(challenge_fields(ask, &id, &completed)).into());
                }
            }
        }
        let completed = self.completed(ask, &id)?;
        if !ask.flows.contains(&completed) {
            return Err(challenge(ask, &id, &completed).into());
        }
        Ok(id)
    }

    /// Begins a session and gives its id.
    fn begin(&self, ask: &Ask<'_>) -> String {
        let id = self.random.alphanumeric(SESSION_ID_CHARS);
        let now_ms = self.clock.now_ms();
        let parameters = serde_json::to_string(ask.parameters).ok().filter(|json| json.len() <= PARAMETERS_BYTES_MAX);
        let session = Session {
            binding: ask.binding,
            user: ask.user.map(ToOwned::to_owned),
            completed: Vec::new(),
            token: None,
            parameters: parameters.unwrap_or_else(|| "{}".to_owned()).into_boxed_str(),
            outcome: Arc::default(),
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
            return Err(self.unknown_session(ask));
        };
        if session.binding != ask.binding || session.user.as_deref() != ask.user {
            return Err(ApiError::forbidden("The request changed during authentication"));
        }
        Ok(session.completed.clone())
    }

    fn unknown_session(&self, ask: &Ask<'_>) -> ApiError {
        let fresh = self.begin(ask);
        let error = ApiError::new(StatusCode::UNAUTHORIZED, "M_UNKNOWN", "Unknown or expired session");
        error.with_all(challenge_fields(ask, &fresh, &[]))
    }

    fn complete(&self, id: &str, stage: Stage, token: Option<Reservation>) {
        if let Some(session) = self.sessions.lock().by_id.get_mut(id)
            && !session.completed.contains(&stage)
        {
            session.completed.push(stage);
            session.token = session.token.take().or(token.map(Arc::new));
        }
    }

    /// Tries one step. Whoever has no account pays before, so that nobody goes on guessing; it is given back if nothing was wrong.
    async fn counted_step(
        &self,
        ask: &Ask<'_>,
        completed: &[Stage],
        stage: Option<Stage>,
        shown: &Shown,
    ) -> Result<(Stage, Option<Reservation>), StepError> {
        let limits = self.gate.limits();
        if let Some(address) = ask.address {
            limits.check_address(Class::Registration, address)?;
        }
        let tried = self.step(ask, completed, stage, shown).await;
        if let (Some(address), Ok(_) | Err(StepError::Failed(_))) = (ask.address, &tried) {
            limits.forgive_address(Class::Registration, address);
        }
        tried
    }

    /// Tries one step.
    async fn step(
        &self,
        ask: &Ask<'_>,
        completed: &[Stage],
        stage: Option<Stage>,
        shown: &Shown,
    ) -> Result<(Stage, Option<Reservation>), StepError> {
        let is_next = |stage: &Stage| {
            ask.flows.iter().any(|flow| flow.starts_with(completed) && flow.get(completed.len()) == Some(stage))
        };
        let Some(stage) = stage.filter(is_next) else { return Err(StepError::Refused("This step is not asked for")) };
        match stage {
            Stage::Dummy => Ok((stage, None)),
            Stage::Password => {
                let (Some(name), Some(password)) = (shown.user(), shown.text("password")) else {
                    return Err(StepError::Refused("A user's name and password are needed"));
                };
                self.check_password(ask, name, password).await?;
                Ok((stage, None))
            }
            Stage::RegistrationToken => {
                let Some(token) = shown.text("token") else { return Err(StepError::Refused("A token is needed")) };
                Ok((stage, self.check_token(token).await?))
            }
        }
    }

    async fn check_password(&self, ask: &Ask<'_>, name: &str, password: &str) -> Result<(), StepError> {
        let wrong = StepError::Refused("Invalid user name or password");
        let view = self.store.view().await.map_err(store_error)?;
        let user = match self.users.find_login_name(&view, name, &self.config.server_name).await {
            Ok(user) => user,
            Err(users::Error::InvalidUserName) => return Err(wrong),
            Err(error) => return Err(users_error(error).into()),
        };
        if ask.user.is_some_and(|expected| expected != user) {
            return Err(wrong);
        }
        // Only who is logged in to the account is asked for its password.
        self.gate.limits().check_guess(&user, Guesser::Session)?;
        let checked = self.users.check_password(&user, password).await;
        if !matches!(checked, Err(users::Error::WrongPassword)) {
            self.gate.limits().forgive_guess(&user, Guesser::Session);
        }
        match checked {
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
        let configured = self.config.registration_token.as_deref();
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
    fields.insert("completed".to_owned(), json!(names(completed)));
    fields
}
