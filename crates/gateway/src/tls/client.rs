//! TLS towards others: whom to trust, and a client for HTTP over it.

use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs;

use super::roots;
use crate::config::Problem;

/// A client of HTTP with TLS or without, which trusts the authorities of this file, the option
/// `key`, or those that browsers trust. It keeps no connection that is not used.
pub fn https_client(
    key: &str,
    ca_file: Option<&Path>,
) -> Result<Client<HttpsConnector<HttpConnector>, Body>, Problem> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Problem::new(key, error.to_string(), "report this: it is a defect"))?
        .with_root_certificates(roots(key, ca_file)?)
        .with_no_client_auth();
    let connector =
        HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
    Ok(Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector))
}
