//! How spans reach the collector: HTTP, with TLS or without; and what it said.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message as _;
use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs;

use crate::causes::causes;
use crate::config::ConfigError;
use crate::tls;

/// Sends requests, and remembers what came of the last one.
#[derive(Debug)]
pub(super) struct Client {
    http: HyperClient<HttpsConnector<HttpConnector>>,
    said: Arc<Mutex<Said>>,
}

/// What came of a request.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// Why it failed.
    pub(super) failure: Option<String>,
    /// Spans that the collector would not have, though it took the others.
    pub(super) rejected: u64,
}

impl Client {
    /// One that trusts the authorities of this file, or those that browsers trust, and waits for an
    /// answer for so long.
    pub(super) fn new(
        ca_file: Option<&Path>,
        timeout: Duration,
    ) -> anyhow::Result<(Self, Arc<Mutex<Said>>)> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let roots = tls::roots("telemetry.traces.ca_file", ca_file).map_err(ConfigError::from)?;
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .build();
        let said = Arc::default();
        let http = HyperClient::new(connector, timeout, None);
        Ok((Self { http, said: Arc::clone(&said) }, said))
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let result = self.http.send_bytes(request).await;
        let said = Said::of(&result);
        *self.said.lock().unwrap_or_else(PoisonError::into_inner) = said;
        result
    }
}

impl Said {
    fn of(result: &Result<Response<Bytes>, HttpError>) -> Self {
        let failure = match result {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(format!("it answered {}", response.status())),
            Err(error) => Some(causes(&**error)),
        };
        let told = result.as_ref().ok().filter(|_| failure.is_none());
        let partial = told
            .and_then(|response| ExportTraceServiceResponse::decode(response.body().clone()).ok())
            .and_then(|response| response.partial_success);
        let rejected = partial.map_or(0, |partial| partial.rejected_spans.try_into().unwrap_or(0));
        Self { failure, rejected }
    }
}
