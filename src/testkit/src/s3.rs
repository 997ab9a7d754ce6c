//! Buckets for tests: in this process, or those of a server that the environment names.
//!
//! A test gets a prefix of its own, so that tests share a bucket, and talks through a [`Middleman`] that writes down
//! what is asked and fails by plan. Servers run on a thread of their own: a test may block while it starts the process
//! that uses them.

mod middleman;

use std::{net::Ipv4Addr, path::PathBuf, thread};

use http_body_util::{BodyExt, Empty, Full};
use hyper::{Method, Request, StatusCode, body::Bytes, header};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use object_store::{
    aws::{AwsAuthorizer, AwsCredential},
    client::HttpRequestBody,
};
use s3s::{
    S3Result,
    access::{S3Access, S3AccessContext},
    auth::SimpleAuth,
    path::S3Path,
    s3_error,
    service::S3ServiceBuilder,
};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
};

pub use middleman::{Asked, Fault};
use middleman::{Middleman, forward};

/// Names the endpoint of a server to test against, for example `http://127.0.0.1:3900`; its bucket, keys and region are
/// in `HAIMA_TEST_S3_BUCKET`, `_ACCESS_KEY`, `_SECRET_KEY` and `_REGION`.
pub const ENDPOINT_VARIABLE: &str = "HAIMA_TEST_S3_ENDPOINT";

/// How often a listing that fails is asked for again.
const LISTINGS_MAX: usize = 100;

/// A bucket, of which a test uses the objects with a prefix.
pub struct S3 {
    /// The base URL, of the middleman.
    pub endpoint: String,
    /// The name.
    pub bucket: String,
    /// The region.
    pub region: String,
    /// The id of a key that may read and write.
    pub access_key: String,
    /// The key.
    pub secret_key: String,
    /// What the names of this test's objects begin with.
    pub prefix: String,
    upstream: String,
    middleman: Middleman,
    /// Holds the objects, where this process serves them; and its name is the prefix.
    _root: TempDir,
    _stop: oneshot::Sender<()>,
}

impl S3 {
    /// A bucket without objects of this prefix, and a middleman who does his work.
    pub fn start() -> Self {
        let root = tempfile::tempdir().expect("a directory");
        let name = root.path().file_name().expect("a name").to_string_lossy().trim_start_matches('.').to_owned();
        let prefix = format!("haima/{name}/");
        let variable = |name: &str| std::env::var(format!("HAIMA_TEST_S3_{name}")).expect("a variable");
        let outside = std::env::var(ENDPOINT_VARIABLE).ok();
        let [bucket, region, access_key, secret_key] = match outside {
            Some(_) => ["BUCKET", "REGION", "ACCESS_KEY", "SECRET_KEY"].map(variable),
            None => ["files", "us-east-1", "key", "secret"].map(str::to_owned),
        };
        let middleman = Middleman::default();
        let (said, addresses) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let (path, passing, made) = (root.path().to_owned(), middleman.clone(), bucket.clone());
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let upstream = match outside {
                    Some(url) => url.trim_start_matches("http://").trim_end_matches('/').to_owned(),
                    None => serve_directory(path, &made).await,
                };
                let front = passing.serve(upstream.clone()).await;
                said.send((upstream, front)).expect("somebody waits");
                // An error: the test is over.
                drop(stopped.await);
            });
        });
        let (upstream, front) = addresses.recv().expect("a server");
        let endpoint = format!("http://{front}");
        Self { endpoint, bucket, region, access_key, secret_key, prefix, upstream, middleman, _root: root, _stop: stop }
    }

    /// What the middleman does from now on with requests whose method and path and query contain all of these words.
    pub fn fail(&self, words: &[&str], fault: Fault) {
        self.middleman.fail(words, fault);
    }

    /// From now on everything is passed on; what was held goes on.
    pub fn heal(&self) {
        self.middleman.heal();
    }

    /// Waits until a request is held by [`Fault::Hold`].
    pub async fn held(&self) {
        self.middleman.held().await;
    }

    /// What was asked so far, and forgets it.
    pub fn take_asked(&self) -> Vec<Asked> {
        self.middleman.take_asked()
    }

    /// The names of all objects with this test's prefix, without it.
    pub async fn objects(&self) -> Vec<String> {
        let query = format!("list-type=2&prefix={}", self.prefix.replace('/', "%2F"));
        let mut answer = self.ask(Method::GET, "", &query).await;
        for _ in 0..LISTINGS_MAX {
            // The server in this process fails where an object is removed while it lists.
            if !answer.0.is_server_error() {
                break;
            }
            answer = self.ask(Method::GET, "", &query).await;
        }
        let listed = successful(answer);
        let keys = listed.split("<Key>").skip(1).map(|rest| rest.split("</Key>").next().expect("an end"));
        keys.map(|key| key.strip_prefix(&self.prefix).expect("the prefix").to_owned()).collect()
    }

    /// Removes an object behind everybody's back.
    pub async fn remove(&self, name: &str) {
        successful(self.ask(Method::DELETE, &format!("/{}{name}", self.prefix), "").await);
    }

    /// A signed request, not through the middleman; the answer's status and body.
    async fn ask(&self, method: Method, path: &str, query: &str) -> (StatusCode, String) {
        let url = format!("http://{}/{}{path}?{query}", self.upstream, self.bucket);
        let mut signed = Request::builder().method(method.clone()).uri(&url).body(HttpRequestBody::empty());
        let signed = signed.as_mut().expect("a request");
        let credential =
            AwsCredential { key_id: self.access_key.clone(), secret_key: self.secret_key.clone(), token: None };
        AwsAuthorizer::new(&credential, "s3", &self.region).try_authorize(signed, None).expect("signed");
        let mut request = Request::builder().method(method).uri(format!("/{}{path}?{query}", self.bucket));
        request.headers_mut().expect("headers").clone_from(signed.headers());
        let request = request.header(header::HOST, &self.upstream).body(Empty::<Bytes>::new()).expect("a request");
        let stream = TcpStream::connect(&self.upstream).await.expect("connected");
        let answer = forward(stream, request).await.expect("an answer");
        let status = answer.status();
        let body = answer.into_body().collect().await.expect("a body").to_bytes();
        (status, String::from_utf8(body.to_vec()).expect("text"))
    }
}

fn successful((status, body): (StatusCode, String)) -> String {
    assert!(status.is_success(), "{status}: {body}");
    body
}

/// Refuses what names a bucket that isn't there, as servers do: this one would make it.
struct BucketsExist(PathBuf);

#[async_trait::async_trait]
impl S3Access for BucketsExist {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        if cx.credentials().is_none() {
            return Err(s3_error!(AccessDenied));
        }
        match cx.s3_path() {
            S3Path::Bucket { bucket } | S3Path::Object { bucket, .. } if !self.0.join(&**bucket).is_dir() => {
                Err(s3_error!(NoSuchBucket))
            }
            _ => Ok(()),
        }
    }
}

/// Serves a directory, whose directories are buckets, and gives the address.
async fn serve_directory(root: PathBuf, bucket: &str) -> String {
    std::fs::create_dir(root.join(bucket)).expect("a bucket");
    let mut service = S3ServiceBuilder::new(FileSystem::new(&root).expect("a directory"));
    service.set_auth(SimpleAuth::from_single("key", "secret"));
    service.set_access(BucketsExist(root));
    let service = service.build();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service.clone();
            tokio::spawn(async move {
                let builder = Builder::new(TokioExecutor::new());
                // A connection that ends badly shows in what is asked over it.
                drop(builder.serve_connection(TokioIo::new(stream), service).await);
            });
        }
    });
    address
}

/// A short answer.
fn text(status: u16, text: &'static str) -> hyper::Response<Full<Bytes>> {
    hyper::Response::builder().status(status).body(Full::from(text)).expect("an answer")
}
