//! Certificates of listeners.

use std::sync::Arc;

use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

use crate::{ServeError, Tls};

/// An acceptor with the configured certificate, for HTTP/2 and HTTP/1.1.
pub(crate) fn acceptor(tls: &Tls) -> Result<TlsAcceptor, ServeError> {
    let bad_file = |path: &std::path::Path, error: &dyn std::fmt::Display| ServeError::Certificate {
        path: path.to_owned(),
        reason: error.to_string(),
    };
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(&tls.certificate).and_then(|certificates| certificates.collect());
    let chain = chain.map_err(|error| bad_file(&tls.certificate, &error))?;
    if chain.is_empty() {
        return Err(bad_file(&tls.certificate, &"it has no certificate"));
    }
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|error| bad_file(&tls.key, &error))?;
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| bad_file(&tls.certificate, &error))?;
    let mut config = builder
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| bad_file(&tls.certificate, &error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
