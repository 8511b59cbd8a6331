//! Connecting to webhooks: names are resolved here, and only addresses that may be are connected to.

use std::future::ready;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_rustls::HttpsConnector;
use hyper_util::rt::TokioIo;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tower::Service;

use super::guard::{Guard, Refused};

/// Connects by TCP to the addresses of a URL's host that the guard admits.
#[derive(Debug, Clone)]
pub(super) struct Connector(Arc<Guard>);

/// Why no address of a host was even tried.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{host} is at {address}, {why}")]
pub(super) struct NotAllowed {
    host: String,
    /// The first of its addresses.
    address: IpAddr,
    why: Refused,
}

/// The same with TLS where the URL says so.
pub(super) fn connector(guard: Guard, roots: RootCertStore) -> HttpsConnector<Connector> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has the default versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .wrap_connector(Connector(Arc::new(guard)))
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, url: Uri) -> Self::Future {
        let guard = Arc::clone(&self.0);
        let Some(host) = url.host().map(|host| host.trim_matches(['[', ']']).to_owned()) else {
            return Box::pin(ready(Err(io::ErrorKind::InvalidInput.into())));
        };
        let usual = if url.scheme_str() == Some("https") { 443 } else { 80 };
        let port = url.port_u16().unwrap_or(usual);
        Box::pin(async move {
            let found = lookup_host((&*host, port)).await?;
            let addresses = admitted(&guard, &host, found)?;
            let socket = connect(&addresses).await?;
            let _ = socket.set_nodelay(true);
            Ok(TokioIo::new(socket))
        })
    }
}

/// Those that may be connected to. A host that has none of these is refused as a whole.
fn admitted(
    guard: &Guard,
    host: &str,
    found: impl Iterator<Item = SocketAddr>,
) -> io::Result<Vec<SocketAddr>> {
    let mut addresses = Vec::new();
    let mut refused = None;
    for address in found {
        // As what they are, or an IPv4 address would need IPv6.
        let ip = address.ip().to_canonical();
        match guard.check(ip) {
            Ok(()) => addresses.push(SocketAddr::new(ip, address.port())),
            Err(why) => refused = refused.or(Some((ip, why))),
        }
    }
    match refused {
        Some((address, why)) if addresses.is_empty() => {
            let refused = NotAllowed { host: host.to_owned(), address, why };
            Err(io::Error::new(io::ErrorKind::PermissionDenied, refused))
        }
        _ => Ok(addresses),
    }
}

/// The first that can be connected to.
async fn connect(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses.iter().take(ADDRESSES_MAX) {
        match timeout(ADDRESS_TIME, TcpStream::connect(address)).await {
            Ok(Ok(socket)) => return Ok(socket),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}

/// Of one name.
const ADDRESSES_MAX: usize = 4;
/// How long one address may take before the next one is tried.
const ADDRESS_TIME: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn however_an_address_is_written_it_is_the_address_itself_that_is_checked() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let guard =
            |allow_private| Guard { allow_private, allowed: Box::default(), is_encrypted: true };
        let written = ["127.0.0.1", "localhost", "0x7f.1", "2130706433", "017700000001", "127.1"];
        for host in written.iter().copied().chain(["[::ffff:127.0.0.1]"]) {
            let url: Uri = format!("http://{host}:{port}/").parse().unwrap();
            let refused = Connector(Arc::new(guard(false))).call(url.clone()).await.unwrap_err();
            let why = refused.get_ref().and_then(|why| why.downcast_ref::<NotAllowed>());
            assert!(why.is_some(), "{host}: {refused}");
            let connected = Connector(Arc::new(guard(true))).call(url).await;
            assert!(connected.is_ok(), "{host}: {:?}", connected.err());
        }
        for host in ["169.254.169.254", "0xa9fea9fe", "[fd20:ce::254]", "[64:ff9b::a9fe:a9fe]"] {
            let url: Uri = format!("http://{host}/latest/meta-data").parse().unwrap();
            let refused = Connector(Arc::new(guard(true))).call(url).await.unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied, "{host}: {refused}");
        }
    }
}
