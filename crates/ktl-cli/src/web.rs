//! How ktl itself speaks HTTP, outside of any jail.

use std::sync::Arc;

use ureq::tls::{Certificate, TlsConfig};

/// TLS with the roots that the system trusts. Files that cannot be read are left out: with no root left, no server is trusted.
pub fn system_tls() -> TlsConfig {
    let found = rustls_native_certs::load_native_certs();
    tls(found.certs.iter().map(|der| Certificate::from_der(der.as_ref()).to_owned()).collect())
}

pub fn tls(roots: Vec<Certificate<'static>>) -> TlsConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    TlsConfig::builder().root_certs(roots.into()).unversioned_rustls_crypto_provider(provider).build()
}
