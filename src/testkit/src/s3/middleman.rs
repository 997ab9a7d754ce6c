//! Stands between a client of S3 and the server: passes requests on, writes them down, and fails by plan.

use std::{convert::Infallible, io, net::Ipv4Addr, net::SocketAddr, sync::Arc, sync::Mutex};

use futures_util::{StreamExt, TryStreamExt};
use http_body_util::{BodyExt, BodyStream, StreamBody, combinators::BoxBody};
use hyper::{
    Request, Response,
    body::{Body, Bytes, Incoming},
    client::conn::http1 as client,
    server::conn::http1 as server,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::text;

type Answer = Response<BoxBody<Bytes, io::Error>>;

/// A request that was made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Asked {
    /// The method, then the path and query.
    pub line: String,
    /// The status of the answer; 0 if there was none.
    pub status: u16,
}

/// What happens to a request instead of an answer.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The connection ends.
    HangUp,
    /// The server says that it can't.
    Refuse(u16),
    /// The server does it, and the connection ends.
    Lose,
    /// The server does it, and the connection ends after some bytes of the body of its answer, the first time.
    Cut,
    /// Nothing, until all faults are healed.
    Hold,
}

#[derive(Default)]
struct Plan {
    fault: Option<(Vec<String>, Fault)>,
    asked: Vec<Asked>,
}

/// The state that all connections share.
#[derive(Clone, Default)]
pub(super) struct Middleman {
    plan: Arc<Mutex<Plan>>,
    /// Requests that are held.
    held: watch::Sender<u64>,
}

impl Middleman {
    pub(super) fn fail(&self, words: &[&str], fault: Fault) {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        self.plan.lock().expect("a plan").fault = Some((words, fault));
    }

    pub(super) fn heal(&self) {
        let mut plan = self.plan.lock().expect("a plan");
        plan.fault = None;
        self.held.send_replace(0);
    }

    pub(super) async fn held(&self) {
        self.held.subscribe().wait_for(|held| *held > 0).await.expect("the sender is ours");
    }

    pub(super) fn take_asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.plan.lock().expect("a plan").asked)
    }

    /// Passes on to `upstream`, and gives the address.
    pub(super) async fn serve(self, upstream: String) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (all, upstream) = (self.clone(), upstream.clone());
                tokio::spawn(async move {
                    let service = service_fn(|request| all.pass(request, &upstream));
                    // That a connection ends is what some tests want.
                    drop(server::Builder::new().serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        address
    }

    async fn pass(&self, request: Request<Incoming>, upstream: &str) -> io::Result<Answer> {
        let line = format!("{} {}", request.method(), request.uri());
        let answer = self.answer(&line, request, upstream).await;
        let status = answer.as_ref().map_or(0, |answer| answer.status().as_u16());
        self.plan.lock().expect("a plan").asked.push(Asked { line, status });
        answer
    }

    async fn answer(&self, line: &str, request: Request<Incoming>, upstream: &str) -> io::Result<Answer> {
        let fault = self.fault_of(line);
        match fault {
            Some(Fault::HangUp) => return Err(io::Error::other("by plan")),
            Some(Fault::Refuse(status)) => {
                // Otherwise the client sees a connection that ends while it sends.
                drop(request.into_body().collect().await);
                let answer = text(status, "<Error><Code>InternalError</Code></Error>");
                return Ok(answer.map(|body| body.map_err(|never: Infallible| match never {}).boxed()));
            }
            Some(Fault::Hold) => {
                self.held.subscribe().wait_for(|held| *held == 0).await.map_err(io::Error::other)?;
            }
            Some(Fault::Lose) | Some(Fault::Cut) | None => {}
        }
        let stream = TcpStream::connect(upstream).await?;
        let answer = forward(stream, request).await.map_err(io::Error::other)?;
        if fault == Some(Fault::Lose) {
            drop(answer.into_body().collect().await);
            return Err(io::Error::other("by plan"));
        }
        if fault == Some(Fault::Cut) {
            self.heal();
            return Ok(answer.map(cut));
        }
        Ok(answer.map(|body| body.map_err(io::Error::other).boxed()))
    }

    fn fault_of(&self, line: &str) -> Option<Fault> {
        let plan = self.plan.lock().expect("a plan");
        let (words, fault) = plan.fault.as_ref()?;
        let hit = words.iter().all(|word| line.contains(word.as_str()));
        if hit && *fault == Fault::Hold {
            // While the plan is locked, so that healing it misses none.
            self.held.send_modify(|held| *held += 1);
        }
        hit.then_some(*fault)
    }
}

/// The first piece of a body, then an error.
fn cut(body: Incoming) -> BoxBody<Bytes, io::Error> {
    let pieces = TryStreamExt::map_err(BodyStream::new(body), io::Error::other).take(1);
    let broken = futures_util::stream::once(async { Err(io::Error::other("by plan")) });
    BodyExt::boxed(StreamBody::new(pieces.chain(broken)))
}

/// Makes one request over a connection.
pub(super) async fn forward<B>(stream: TcpStream, request: Request<B>) -> hyper::Result<Response<Incoming>>
where
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    let (mut sender, connection) = client::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    sender.send_request(request).await
}
