//! Certificates of listeners, read anew when their files change.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        server::{ClientHello, ResolvesServerCert},
        sign::CertifiedKey,
    },
};
use tracing::{error, info};

use crate::{ServeError, Tls};

/// How often the files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// Which of the files were read.
type Digests = [[u8; 32]; 2];

/// A certificate and its key, as the files were when they could last be used.
pub(crate) struct Certificate {
    files: Tls,
    current: ArcSwap<CertifiedKey>,
    /// The files that were tried last, so that a fault is told once.
    tried: Mutex<Digests>,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("files", &self.files).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

impl Certificate {
    /// Reads the files.
    pub(crate) fn read(files: &Tls) -> Result<Arc<Self>, ServeError> {
        let bytes = Files::read(files)?;
        let current = ArcSwap::from_pointee(bytes.certified(files)?);
        Ok(Arc::new(Self { files: files.clone(), current, tried: Mutex::new(bytes.digests()) }))
    }

    /// An acceptor with this certificate, whatever it becomes, for HTTP/2 and HTTP/1.1.
    pub(crate) fn acceptor(self: &Arc<Self>) -> Result<TlsAcceptor, ServeError> {
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| bad_file(&self.files.certs, &error))?;
        let mut config = builder.with_no_client_auth().with_cert_resolver(self.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// Reads the files again. Those that can't be used change nothing and are told in the log.
    fn look(&self) {
        match self.reread() {
            Ok(true) => info!(certificate = ?self.files.certs, "the certificate was read anew"),
            Ok(false) => {}
            Err(error) => error!(%error, "the certificate can't be read anew, the one from before stays"),
        }
    }

    /// Takes the files over if they have changed; tells whether they have.
    fn reread(&self) -> Result<bool, ServeError> {
        let bytes = Files::read(&self.files)?;
        let digests = bytes.digests();
        if std::mem::replace(&mut *self.tried.lock(), digests) == digests {
            return Ok(false);
        }
        self.current.store(Arc::new(bytes.certified(&self.files)?));
        Ok(true)
    }
}

/// The certificate of all listeners with those of its issuers, if they have one.
#[derive(Clone)]
pub struct Certificates(Option<Arc<Certificate>>);

impl Certificates {
    /// What is in these files.
    pub(crate) fn read(files: Option<&Tls>) -> Result<Self, ServeError> {
        files.map(Certificate::read).transpose().map(Self)
    }

    /// An acceptor with it, whatever it becomes.
    pub(crate) fn acceptor(&self) -> Result<Option<TlsAcceptor>, ServeError> {
        self.0.as_ref().map(Certificate::acceptor).transpose()
    }

    /// Reads the files anew if they have changed. Files that can't be used are told in the log, and what was read before stays.
    pub async fn reread(&self) {
        let Some(certificate) = self.0.clone() else { return };
        if let Err(error) = tokio::task::spawn_blocking(move || certificate.look()).await {
            error!(%error, "a certificate can't be read anew");
        }
    }

    /// Does so again and again.
    pub(crate) async fn follow(self) {
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            self.reread().await;
        }
    }
}

/// The bytes of both files.
struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Files {
    fn read(files: &Tls) -> Result<Self, ServeError> {
        let read = |path: &PathBuf| fs::read(path).map_err(|error| bad_file(path, &error));
        Ok(Self { certificate: read(&files.certs)?, key: read(&files.key)? })
    }

    fn digests(&self) -> Digests {
        [&self.certificate, &self.key].map(|bytes| Sha256::digest(bytes).into())
    }

    fn certified(&self, files: &Tls) -> Result<CertifiedKey, ServeError> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.certificate).collect();
        let chain = chain.map_err(|error| bad_file(&files.certs, &error))?;
        if chain.is_empty() {
            return Err(bad_file(&files.certs, &"it has no certificate"));
        }
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| bad_file(&files.key, &error))?;
        CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|error| bad_file(&files.certs, &error))
    }
}

fn bad_file(path: &Path, error: &dyn fmt::Display) -> ServeError {
    ServeError::Certificate { path: path.to_owned(), reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes a new pair and gives the certificate.
    fn write(files: &Tls) -> CertificateDer<'static> {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        fs::write(&files.certs, made.cert.pem()).expect("written");
        fs::write(&files.key, made.signing_key.serialize_pem()).expect("written");
        CertificateDer::from(made.cert.der().to_vec())
    }

    #[tokio::test(start_paused = true)]
    async fn changed_files_are_read_anew_and_broken_ones_change_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let files = Tls { certs: directory.path().join("cert"), key: directory.path().join("key") };
        let first = write(&files);
        let all = Certificates::read(Some(&files)).expect("read");
        let certificate = all.0.clone().expect("a certificate");
        let current = || certificate.current.load().cert[0].clone();
        let following = tokio::spawn(all.follow());
        let look = async || tokio::time::sleep(LOOK_INTERVAL * 2).await;
        look().await;
        assert_eq!(current(), first);
        let second = write(&files);
        assert_eq!(current(), first);
        look().await;
        assert_eq!(current(), second);
        // The key of another certificate, as while an admin replaces one file after the other; no key at all; no file.
        let key = fs::read(&files.key).expect("read");
        let third = write(&files);
        let right_key = fs::read(&files.key).expect("read");
        for broken in [Some(key), Some(b"nonsense".to_vec()), None] {
            match broken {
                Some(bytes) => fs::write(&files.key, bytes).expect("written"),
                None => fs::remove_file(&files.key).expect("removed"),
            }
            look().await;
            assert_eq!(current(), second);
        }
        fs::write(&files.key, right_key).expect("written");
        look().await;
        assert_eq!(current(), third);
        following.abort();
    }
}
