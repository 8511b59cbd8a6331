//! One request over plain HTTP, bounded in time and size: to a node's admin listener, and to what ECS
//! has beside a task. Neither is a stranger, and neither speaks TLS.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Uri, header};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Where paths begin: `http://HOST:PORT`, perhaps with a path of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseUrl {
    authority: String,
    host: String,
    port: u16,
    /// Without a slash at its end.
    path: String,
    /// Sent with each request, and never shown.
    authorization: Option<HeaderValue>,
}

/// Why a text is not a [`BaseUrl`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a plain URL; write it as http://HOST:PORT")]
pub struct BadUrl;

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status, as in 200.
    pub status: u16,
    /// The body.
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens there, or not for us.
    #[error("can't connect: {0}")]
    Connect(std::io::Error),
    /// It took too long.
    #[error("no answer within {}", humantime::format_duration(*.0))]
    Silence(Duration),
    /// It broke off, or something else than HTTP came.
    #[error("no answer in HTTP: {0}")]
    Broken(hyper::Error),
    /// It broke off, or was longer than [`ANSWER_BYTES`].
    #[error("the answer is too long, or broken off")]
    Body,
}

impl BaseUrl {
    /// A listener of this machine or another.
    pub fn of(address: std::net::SocketAddr) -> Self {
        let host = match address {
            std::net::SocketAddr::V4(v4) => v4.ip().to_string(),
            std::net::SocketAddr::V6(v6) => v6.ip().to_string(),
        };
        let (authority, port) = (address.to_string(), address.port());
        Self { authority, host, port, path: String::new(), authorization: None }
    }

    /// The same, asked with a bearer token; `None` where that can't be a header.
    pub fn with_bearer(mut self, token: &str) -> Option<Self> {
        let mut value = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
        value.set_sensitive(true);
        self.authorization = Some(value);
        Some(self)
    }

    /// Whether it has no path of its own.
    pub fn is_root(&self) -> bool {
        self.path.is_empty()
    }

    /// Sends one request for what is behind `path`, which begins with a slash or is empty, with JSON
    /// or with nothing.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        json: Option<Vec<u8>>,
        patience: Duration,
    ) -> Result<Answer, AskError> {
        let asked = self.exchange(method, path, json);
        timeout(patience, asked).await.map_err(|_| AskError::Silence(patience))?
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        json: Option<Vec<u8>>,
    ) -> Result<Answer, AskError> {
        let connected = TcpStream::connect((&*self.host, self.port)).await;
        let socket = TokioIo::new(connected.map_err(AskError::Connect)?);
        let path = format!("{}{path}", self.path);
        let mut request = Request::builder()
            .method(method)
            .uri(if path.is_empty() { "/" } else { &path })
            .header(header::HOST, &self.authority)
            .header(header::CONNECTION, "close");
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        if json.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let body = json.map_or_else(Body::empty, Body::from);
        let request = request.body(body).expect("all parts were parsed before");
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD_BYTES)
            .handshake(socket)
            .await
            .map_err(AskError::Broken)?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(AskError::Broken)?;
            let status = response.status().as_u16();
            let body = axum::body::to_bytes(Body::new(response.into_body()), ANSWER_BYTES);
            Ok(Answer { status, body: body.await.map_err(|_| AskError::Body)? })
        };
        tokio::pin!(answer);
        tokio::select! {
            answer = &mut answer => answer,
            // The other side closes behind its answer, which is here then.
            _ = connection => answer.await,
        }
    }
}

impl FromStr for BaseUrl {
    type Err = BadUrl;

    fn from_str(text: &str) -> Result<Self, BadUrl> {
        let uri: Uri = text.parse().map_err(|_| BadUrl)?;
        let authority = uri.authority().ok_or(BadUrl)?;
        let is_plain = uri.scheme_str() == Some("http")
            && uri.query().is_none()
            && !text.contains('#')
            && !authority.as_str().contains('@')
            && !authority.host().is_empty();
        let after_host = authority.as_str().strip_prefix(authority.host()).ok_or(BadUrl)?;
        let port = match after_host.strip_prefix(':') {
            None => 80,
            Some(port) => port.parse().map_err(|_| BadUrl)?,
        };
        if !is_plain {
            return Err(BadUrl);
        }
        Ok(Self {
            authority: authority.to_string(),
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port,
            path: uri.path().trim_end_matches('/').to_owned(),
            authorization: None,
        })
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority, self.path)
    }
}

/// Far more than a node says of itself and a hundred others, or an agent of a task.
pub const ANSWER_BYTES: usize = 1 << 20;
const HEAD_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_is_a_plain_url_with_or_without_a_path() {
        for (text, shown, is_root) in [
            ("http://127.0.0.1:9090", "http://127.0.0.1:9090", true),
            ("http://node-a:9090/", "http://node-a:9090", true),
            ("http://[::1]:9090", "http://[::1]:9090", true),
            ("http://169.254.170.2/v4/abc-1", "http://169.254.170.2/v4/abc-1", false),
        ] {
            let base: BaseUrl = text.parse().expect(text);
            assert_eq!((base.to_string().as_str(), base.is_root()), (shown, is_root));
        }
    }

    #[test]
    fn what_is_not_plain_http_is_refused() {
        for text in [
            "https://127.0.0.1:9090",
            "127.0.0.1:9090",
            "/v4",
            "http://",
            "http://user:secret@a",
            "http://a/?b",
            "http://a b",
            "http://a:9O90",
            "http://a:99090",
            "http://a:",
            "http://a/#b",
            "",
        ] {
            assert_eq!(text.parse::<BaseUrl>(), Err(BadUrl), "{text}");
        }
    }

    #[test]
    fn an_address_is_asked_as_it_is() {
        let base = BaseUrl::of("[::1]:9090".parse().expect("an address"));
        assert_eq!((base.host.as_str(), base.to_string().as_str()), ("::1", "http://[::1]:9090"));
    }
}
