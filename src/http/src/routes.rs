//! From a handler function to routes.

use std::{future::Future, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{FromRequestParts, RawPathParams, Request},
    response::Response,
    routing::{MethodFilter, on},
};
use futures_util::{FutureExt, future::BoxFuture};
use ruma::exports::http::{self, request::Parts};
use tracing::{Instrument, debug, debug_span, error};

use crate::{
    ApiError, Caller, Class, Gate, Handler, Incoming, Reply, RequestId, StatusCode, Upload, UploadBody,
    admission::{Client, flow::Flow, shares::Share},
    body, incoming,
    requests::Noted,
};

/// Greatest size in bytes of a request's body from somebody without an account.
const ANONYMOUS_BYTES_MAX: usize = 64 * 1024;

/// Greatest length of an identifier with a sigil, in bytes (appendices, "Common Identifier Format").
const IDENTIFIER_BYTES_MAX: usize = 255;

/// One route, for the list of what the server offers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// The path with `{name}` for arguments.
    pub path: &'static str,
    /// The HTTP method.
    pub method: &'static str,
    /// The specification's operation id.
    pub operation: &'static str,
}

/// Collects the endpoints of an API whose handlers take parts of a state `S` ([`Handler`]).
pub struct Routes<S> {
    state: Arc<S>,
    gate: Arc<Gate>,
    router: Router,
    endpoints: Vec<Endpoint>,
}

impl<S: Send + Sync + 'static> Routes<S> {
    /// No routes yet.
    pub fn new(state: S, gate: Arc<Gate>) -> Self {
        Self { state: Arc::new(state), gate, router: Router::new(), endpoints: Vec::new() }
    }

    /// Adds an operation under every path of its request type.
    ///
    /// `operation` is the specification's operation id, `class` what the request counts as. A request that may write (anything but
    /// GET and what its class says only reads) runs to its end even if its client goes away.
    #[must_use]
    pub fn on<H, Args>(self, operation: &'static str, class: Class, handler: H) -> Self
    where
        H: Handler<S, Args>,
        H::Request: Incoming,
    {
        let paths = H::Request::paths();
        self.at(&paths, operation, class, handler)
    }

    /// Adds an operation under paths that its request type doesn't list.
    #[must_use]
    pub fn at<H, Args>(self, paths: &[&'static str], operation: &'static str, class: Class, handler: H) -> Self
    where
        H: Handler<S, Args>,
        H::Request: Incoming,
    {
        let call = move |state: Arc<S>, gate, request| {
            let handler = handler.clone();
            call(gate, class, request, move |caller, req| handler.call(&state, caller, req))
        };
        self.add(paths, &H::Request::METHOD, operation, class, call)
    }

    /// Adds an operation whose request carries a file, under every path of its request type. The handler reads the body.
    #[must_use]
    pub fn on_upload<H, Args, Req>(self, operation: &'static str, class: Class, handler: H) -> Self
    where
        H: Handler<S, Args, Request = Upload<Req>>,
        Req: Incoming,
    {
        let call = move |state: Arc<S>, gate, request| {
            let handler = handler.clone();
            call_upload(gate, class, request, move |caller, upload| handler.call(&state, caller, upload))
        };
        self.add(&Req::paths(), &Req::METHOD, operation, class, call)
    }

    fn add(
        mut self,
        paths: &[&'static str],
        method: &http::Method,
        operation: &'static str,
        class: Class,
        call: impl Fn(Arc<S>, Arc<Gate>, Request) -> BoxFuture<'static, Result<Response, ApiError>>
        + Clone
        + Send
        + Sync
        + 'static,
    ) -> Self {
        let (filter, method) = method_filter(method);
        for &path in paths {
            let (state, gate, call) = (self.state.clone(), self.gate.clone(), call.clone());
            let service = move |request: Request| {
                let gate = gate.clone();
                let id = request.extensions().get::<RequestId>().copied().unwrap_or_default();
                if let Some(noted) = request.extensions().get::<Arc<Noted>>() {
                    noted.set_route(path);
                }
                let span = debug_span!("request", id = id.0, operation);
                let answer = call(state.clone(), gate.clone(), request);
                async move {
                    let answer = tokio::time::timeout(gate.time_max(class), answer).await;
                    let answer = answer.unwrap_or_else(|_late| Err(too_late()));
                    answer.unwrap_or_else(|error| refuse(error.with_info(&gate.config.info_uri), id, operation))
                }
                .instrument(span)
            };
            self.router = self.router.route(path, on(filter, service));
            self.endpoints.push(Endpoint { path, method, operation });
        }
        self
    }

    /// The router, and the list of what it answers, sorted.
    pub fn finish(mut self) -> (Router, Vec<Endpoint>) {
        self.endpoints.sort();
        (self.router, self.endpoints)
    }
}

/// Runs one request: who calls, what they ask for, the handler, its answer.
///
/// Thousands of requests wait for news at any time, and what a future has passed by value it keeps as long as it waits. So each step
/// that is over before the handler begins has a box of its own, which it gives back.
fn call<C, Req, Res, E, Fut>(
    gate: Arc<Gate>,
    class: Class,
    request: Request,
    handler: impl FnOnce(C, Req) -> Fut + Send + 'static,
) -> BoxFuture<'static, Result<Response, ApiError>>
where
    C: Caller,
    Req: Incoming,
    Res: Reply,
    E: Into<ApiError> + Send + 'static,
    Fut: Future<Output = Result<Res, E>> + Send + 'static,
{
    let asked = Box::pin(read::<C, Req>(gate.clone(), class, request));
    Box::pin(async move {
        let Asked { caller, req, share, finish } = asked.await?;
        // What was read of the body lives as long as the handler, whatever became of the connection.
        let handled = Box::pin(handler(caller, req).map(move |answer| {
            drop(share);
            answer
        }));
        finish.with(&gate, &Req::METHOD, handled).await
    })
}

/// As [`call`], for a request whose body the handler reads.
fn call_upload<C, Req, Res, E, Fut>(
    gate: Arc<Gate>,
    class: Class,
    request: Request,
    handler: impl FnOnce(C, Upload<Req>) -> Fut + Send + 'static,
) -> BoxFuture<'static, Result<Response, ApiError>>
where
    C: Caller,
    Req: Incoming,
    Res: Reply,
    E: Into<ApiError> + Send + 'static,
    Fut: Future<Output = Result<Res, E>> + Send + 'static,
{
    Box::pin(async move {
        let Begun { caller, finish, params, parts, body } = begin::<C>(&gate, class, request).await?;
        let args = path_args(&params)?;
        let body = UploadBody::new(&parts.headers, body, gate.config.upload_bytes_max);
        let req = Req::read(http::Request::from_parts(parts, &[][..]), &args)?;
        finish.with(&gate, &Req::METHOD, Box::pin(handler(caller, Upload::new(req, body)))).await
    })
}

/// A request that was read.
struct Asked<C, Req> {
    caller: C,
    req: Req,
    /// What its body takes of the memory for bodies.
    share: Option<Share>,
    finish: Finish,
}

/// Reads a request with its body.
async fn read<C: Caller, Req: Incoming>(
    gate: Arc<Gate>,
    class: Class,
    request: Request,
) -> Result<Asked<C, Req>, ApiError> {
    let Begun { caller, finish, params, parts, body } = begin::<C>(&gate, class, request).await?;
    let args = path_args(&params)?;
    let bytes_max = gate.config.upload_bytes_max.min(gate.config.max_json_request_size);
    let bytes_max = if caller.account().is_some() { bytes_max } else { bytes_max.min(ANONYMOUS_BYTES_MAX) };
    let account = body::Account { bodies: &gate.admission.bodies, client: finish.client.key };
    let body::Read { bytes, share } = body::read(&parts.headers, body, bytes_max, account).await?;
    let req = incoming::read(parts, &bytes, &args)?;
    Ok(Asked { caller, req, share, finish })
}

/// A request whose caller is known.
struct Begun<C> {
    caller: C,
    finish: Finish,
    params: RawPathParams,
    parts: Parts,
    body: Body,
}

/// Tells who calls and takes the request apart.
async fn begin<C: Caller>(gate: &Gate, class: Class, request: Request) -> Result<Begun<C>, ApiError> {
    let (mut parts, body) = request.into_parts();
    let caller = C::identify(gate, &parts, class).await?;
    if let (Some(noted), Some(account)) = (parts.extensions.get::<Arc<Noted>>(), caller.account()) {
        noted.set_user(&account.user);
    }
    let client = gate.admission.client(caller.account(), &parts);
    let finish = Finish { class, client, flow: parts.extensions.get().cloned() };
    let params = RawPathParams::from_request_parts(&mut parts, &()).await;
    let params = params.map_err(|error| ApiError::invalid_param(error.to_string()))?;
    Ok(Begun { caller, finish, params, parts, body })
}

/// The arguments of the path.
fn path_args(params: &RawPathParams) -> Result<Vec<&str>, ApiError> {
    let args: Vec<&str> = params.iter().map(|(_, value)| value).collect();
    check_identifiers(&args)?;
    Ok(args)
}

/// What finishing a request needs to know of it.
struct Finish {
    class: Class,
    client: Client,
    flow: Option<Arc<Flow>>,
}

impl Finish {
    /// Awaits the handler and shapes its answer.
    async fn with<Res, E>(
        self,
        gate: &Gate,
        method: &http::Method,
        handled: impl Future<Output = Result<Res, E>> + Send + Unpin + 'static,
    ) -> Result<Response, ApiError>
    where
        Res: Reply,
        E: Into<ApiError> + Send + 'static,
    {
        let answers = &gate.admission.answers;
        let turn = match self.class {
            Class::Bulk => Some(Box::pin(answers.turn(self.client.key)).await?),
            _ => None,
        };
        let answer = if method == http::Method::GET || self.class.is_reading() {
            handled.await
        } else {
            // A write that is half done must not stop because its client hung up.
            gate.tasks.spawn(handled.in_current_span()).await.map_err(ApiError::internal)?
        };
        let Self { class, client, flow } = self;
        let response = answer.map_err(Into::into)?.into_reply()?;
        let response = gate.admission.meter(class, client, response);
        let (response, units) = answers.admit(response, client, flow.as_deref());
        drop(turn);
        gate.admission.charge(class, client, units);
        response
    }
}

/// Refuses identifiers of users, rooms, aliases and events that are longer than any may be.
fn check_identifiers(args: &[&str]) -> Result<(), ApiError> {
    for arg in args {
        if arg.len() > IDENTIFIER_BYTES_MAX && arg.starts_with(['@', '!', '#', '$']) {
            return Err(ApiError::invalid_param(format!("An identifier is longer than {IDENTIFIER_BYTES_MAX} bytes")));
        }
    }
    Ok(())
}

fn too_late() -> ApiError {
    ApiError::new(StatusCode::GATEWAY_TIMEOUT, "M_UNKNOWN", "The request took too long")
}

/// Shapes an error, and logs it where the server is at fault.
fn refuse(error: ApiError, id: RequestId, operation: &'static str) -> Response {
    match error.cause() {
        Some(cause) => error!(id = id.0, operation, cause = %chain(cause), "request failed"),
        None => debug!(%error, "request refused"),
    }
    error.into_response()
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

fn method_filter(method: &http::Method) -> (MethodFilter, &'static str) {
    match method.as_str() {
        "POST" => (MethodFilter::POST, "POST"),
        "PUT" => (MethodFilter::PUT, "PUT"),
        "DELETE" => (MethodFilter::DELETE, "DELETE"),
        "PATCH" => (MethodFilter::PATCH, "PATCH"),
        _ => (MethodFilter::GET, "GET"),
    }
}
