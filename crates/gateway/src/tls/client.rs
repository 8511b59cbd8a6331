//! TLS towards others: whom to trust, and a client for HTTP over it.

use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::config::Problem;

/// A client of HTTP with TLS or without, which trusts the authorities of this file, the option
/// `key`, or those that browsers trust. It keeps no connection that is not used.
pub fn https_client(
    key: &str,
    ca_file: Option<&Path>,
) -> Result<Client<HttpsConnector<HttpConnector>, Body>, Problem> {
    let unusable =
        |fault| Problem::new(key, fault, "give a PEM file with an authority's certificate");
    let provider = Arc::new(aws_lc_rs::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(error.to_string()))?
        .with_root_certificates(roots(ca_file).map_err(unusable)?)
        .with_no_client_auth();
    let connector =
        HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
    Ok(Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector))
}

/// The authorities of a PEM file, or those that browsers trust; else what is wrong with the file.
pub fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, String> {
    let Some(file) = ca_file else {
        return Ok(webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect());
    };
    let shown = file.display();
    let authorities = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| format!("can't read {shown}: {error}"))?;
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority).map_err(|error| format!("{shown} holds no authority's: {error}"))?;
    }
    if roots.is_empty() {
        return Err(format!("{shown} holds no certificate; it must be a PEM file"));
    }
    Ok(roots)
}
