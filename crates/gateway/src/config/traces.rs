//! The options of traces, and what they come to.

use std::path::PathBuf;

use http::{HeaderName, HeaderValue, Uri};
use percent_encoding::percent_decode_str;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problem::Problem;
use super::values::{Secret, Span};
use crate::traces::{Settings, Target};

/// Traces, told by OTLP to a collector of OpenTelemetry.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct Traces {
    /// Where spans are sent, by OTLP over HTTP, as in `"http://127.0.0.1:4318"`; without a path of
    /// its own to `/v1/traces` there. Empty: there are no traces.
    pub endpoint: String,
    /// Headers that are sent along, such as a key: `name=value,name=value`, with what is special in
    /// a value percent-encoded, as `OTEL_EXPORTER_OTLP_HEADERS` has them.
    #[serde(skip_serializing_if = "Secret::is_empty")]
    pub headers: Secret,
    /// A file that holds the headers, instead of `headers`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers_file: Option<PathBuf>,
    /// The only authorities to trust, a PEM file, for an `https` endpoint. Absent: those that
    /// browsers trust.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Of publications that come without a `traceparent`, the part that is traced: 0 is none, 1 is
    /// all. One that comes with it is traced if it says so.
    pub publication_ratio: f64,
    /// At most so many publications are traced a second, whoever asked for it. 0: no limit.
    pub publications_per_second: u32,
    /// The part of connections that is traced, from 0 to 1.
    pub connection_ratio: f64,
    /// Spans that wait to be sent. What comes when so many wait is dropped and counted.
    pub queue_spans: u32,
    /// How long spans are gathered before they are sent together.
    pub interval: Span,
    /// How long sending may take, with its repetitions. Spans that could not be sent are dropped.
    pub timeout: Span,
    /// How long the end of the process, after the drain, waits for the last spans.
    pub flush_timeout: Span,
}

impl Default for Traces {
    fn default() -> Self {
        Self {
            endpoint: String::new(),
            headers: Secret::default(),
            headers_file: None,
            ca_file: None,
            publication_ratio: 0.01,
            publications_per_second: 100,
            connection_ratio: 0.01,
            queue_spans: 2048,
            interval: Span::seconds(1),
            timeout: Span::seconds(10),
            flush_timeout: Span::seconds(2),
        }
    }
}

impl Traces {
    /// What is to be traced and where it goes; `None` where there are no traces.
    pub fn settings(&self) -> Result<Option<Settings>, Problem> {
        for (key, ratio) in [
            ("telemetry.traces.publication_ratio", self.publication_ratio),
            ("telemetry.traces.connection_ratio", self.connection_ratio),
        ] {
            if !(0.0..=1.0).contains(&ratio) {
                return Err(Problem::new(key, "not from 0 to 1", "write a part of 1, as in 0.01"));
            }
        }
        for (key, value) in [
            ("telemetry.traces.queue_spans", self.queue_spans.into()),
            ("telemetry.traces.interval", self.interval.as_ms()),
            ("telemetry.traces.timeout", self.timeout.as_ms()),
        ] {
            if value == 0 {
                return Err(Problem::new(key, "zero", "set it above zero, or remove it"));
            }
        }
        if self.endpoint.is_empty() {
            return Ok(None);
        }
        let endpoint = endpoint(&self.endpoint)?;
        if self.ca_file.is_some() && endpoint.scheme_str() != Some("https") {
            let fault = "set, but telemetry.traces.endpoint is not encrypted";
            let remedy = "remove it, or begin the endpoint with https";
            return Err(Problem::new("telemetry.traces.ca_file", fault, remedy));
        }
        Ok(Some(Settings {
            target: Target {
                endpoint,
                headers: self.resolved_headers()?,
                ca_file: self.ca_file.clone(),
                timeout: self.timeout.0,
            },
            publication_ratio: self.publication_ratio,
            publications_per_second: self.publications_per_second,
            connection_ratio: self.connection_ratio,
            queue_spans: self.queue_spans as usize,
            interval: self.interval.0,
            flush_timeout: self.flush_timeout.0,
        }))
    }

    /// The headers, from wherever they are configured.
    fn resolved_headers(&self) -> Result<Vec<(HeaderName, HeaderValue)>, Problem> {
        let (own, file) = (&self.headers, self.headers_file.as_deref());
        if own.is_empty() && file.is_none() {
            return Ok(Vec::new());
        }
        let text = super::secret::read("telemetry.traces", "headers", own, file)?;
        let option = if file.is_some() { "headers_file" } else { "headers" };
        headers(&format!("telemetry.traces.{option}"), text.reveal())
    }
}

/// A URL to POST to.
fn endpoint(text: &str) -> Result<Uri, Problem> {
    let problem = |fault: &str| {
        let remedy = "write it as in \"http://127.0.0.1:4318\"";
        Problem::new("telemetry.traces.endpoint", fault, remedy)
    };
    let uri: Uri = text.parse().map_err(|_| problem("not a URL"))?;
    let authority = uri.authority().ok_or_else(|| problem("not a whole URL"))?;
    if authority.as_str().contains('@') {
        return Err(Problem::new(
            "telemetry.traces.endpoint",
            "holds a user or password",
            "put them into telemetry.traces.headers, as in authorization=Basic%20...",
        ));
    }
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(problem("neither http nor https"));
    }
    if uri.path() != "/" || uri.query().is_some() {
        return Ok(uri);
    }
    let mut parts = uri.into_parts();
    parts.path_and_query = Some(http::uri::PathAndQuery::from_static(USUAL_PATH));
    Uri::from_parts(parts).map_err(|_| problem("not a URL"))
}

/// Headers as `OTEL_EXPORTER_OTLP_HEADERS` has them; nothing of them is shown.
fn headers(key: &str, text: &str) -> Result<Vec<(HeaderName, HeaderValue)>, Problem> {
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    let headers = pairs.map(|pair| {
        let (name, value) = pair.split_once('=')?;
        let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
        Some((name.trim().parse().ok()?, value.parse().ok()?))
    });
    headers.collect::<Option<_>>().ok_or_else(|| {
        let remedy = "write name=value, with commas between, and percent-encode what is special";
        Problem::new(key, "not headers", remedy)
    })
}

/// Where collectors take traces (OTLP/HTTP).
const USUAL_PATH: &str = "/v1/traces";

#[cfg(test)]
mod tests {
    use super::*;

    fn with(endpoint: &str, headers: &str) -> Traces {
        Traces { endpoint: endpoint.into(), headers: Secret::new(headers), ..Traces::default() }
    }

    fn problem(traces: &Traces) -> String {
        traces.settings().err().map(|problem| problem.to_string()).unwrap_or_default()
    }

    #[test]
    fn an_endpoint_without_a_path_is_the_usual_one() {
        for (written, meant) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("https://collector.example/", "https://collector.example/v1/traces"),
            ("http://h/otlp/v1/traces", "http://h/otlp/v1/traces"),
            ("http://h/?key=1", "http://h/?key=1"),
        ] {
            let settings = with(written, "").settings().unwrap().unwrap();
            assert_eq!(settings.target.endpoint.to_string(), meant);
        }
        assert_eq!(with("", "").settings(), Ok(None));
    }

    #[test]
    fn what_is_no_endpoint_says_why() {
        for (written, fault) in [
            ("collector", "neither http nor https"),
            ("/v1/traces", "not a whole URL"),
            ("grpc://h:4317", "neither http nor https"),
            ("http://a b", "not a URL"),
            ("http://user:word@h", "a user or password"),
        ] {
            let told = problem(&with(written, ""));
            assert!(told.contains(fault), "{written}: {told}");
            assert!(!told.contains("word@"), "{told}");
        }
        let ca_file = Some("ca.pem".into());
        let told = problem(&Traces { ca_file, ..with("http://h", "") });
        assert!(told.contains("not encrypted"), "{told}");
    }

    #[test]
    fn headers_are_percent_encoded_pairs_and_never_shown() {
        let traces = with("http://h", "authorization=Basic%20YQ==, x-team = blue,");
        let headers = traces.settings().unwrap().unwrap().target.headers;
        let shown: Vec<_> = headers.iter().map(|(n, v)| (n.as_str(), v.as_bytes())).collect();
        assert_eq!(shown, [("authorization", &b"Basic YQ=="[..]), ("x-team", b"blue")]);
        for bad in ["hunter2", "a b=hunter2", "a=hunter2%0d%0ab"] {
            let told = problem(&with("http://h", bad));
            assert!(told.contains("not headers") && !told.contains("hunter2"), "{told}");
        }
    }

    #[test]
    fn a_ratio_is_a_part_of_one() {
        for bad in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            let told = problem(&Traces { publication_ratio: bad, ..Traces::default() });
            assert!(told.contains("publication_ratio: not from 0 to 1"), "{told}");
        }
    }
}
