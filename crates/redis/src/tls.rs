//! TLS towards Redis: what is trusted, who we are, and why a handshake failed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::config::{ClientCertificate, TlsConfig};

/// Why there is no encrypted connection; each text ends with the remedy.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that can't be read.
    #[error("can't read {} ({error}); check the path and that it may be read", file.display())]
    Unreadable {
        /// Which.
        file: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file without what it is for.
    #[error("{} holds no {what}; it must be a PEM file", file.display())]
    NotPem {
        /// Which.
        file: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// An authority that can't be used.
    #[error("{} holds a certificate that is no authority's ({error}); replace it", file.display())]
    BadAuthority {
        /// Which file.
        file: PathBuf,
        /// Why.
        error: rustls::Error,
    },
    /// A certificate and a key that are no pair, for example.
    #[error("the client certificate can't be used ({0}); check that it and its key are a pair")]
    BadClientCertificate(rustls::Error),
    /// A host or server name that no certificate can be for.
    #[error("{name:?} is no name that a certificate can be for; check the configured host")]
    BadName {
        /// Which.
        name: String,
    },
    /// Signed by nobody that is trusted.
    #[error(
        "its certificate is from an authority that is not trusted here; \
         configure that authority's certificate as the CA file"
    )]
    UnknownAuthority,
    /// A certificate for somebody else.
    #[error(
        "its certificate is not for {name:?}; \
         connect by a name that it is for, or configure that as the server name"
    )]
    WrongName {
        /// What it should be for.
        name: String,
    },
    /// Too old, or too new.
    #[error("its certificate has expired or is not valid yet; renew it, or set the clocks")]
    Expired,
    /// Another fault of its certificate.
    #[error("its certificate is not acceptable ({0}); replace it")]
    BadCertificate(CertificateError),
    /// Plain Redis, probably.
    #[error(
        "it does not speak TLS; write redis in place of rediss in the configured URL, \
         or the port where it does"
    )]
    NotTls,
    /// It ended the handshake.
    #[error("it refused our TLS handshake ({0:?}); check whether it wants a client certificate")]
    Refused(AlertDescription),
    /// Anything else.
    #[error("TLS failed ({0}); check its TLS settings")]
    Other(rustls::Error),
}

impl TlsError {
    /// The TLS fault inside of an I/O error, if it is one.
    pub(crate) fn of(error: &io::Error) -> Option<Self> {
        let error: &rustls::Error = error.get_ref()?.downcast_ref()?;
        Some(match error {
            rustls::Error::InvalidCertificate(error) => Self::of_certificate(error),
            rustls::Error::InvalidMessage(_) => Self::NotTls,
            rustls::Error::AlertReceived(alert) => Self::Refused(*alert),
            error => Self::Other(error.clone()),
        })
    }

    fn of_certificate(error: &CertificateError) -> Self {
        match error {
            CertificateError::UnknownIssuer => Self::UnknownAuthority,
            CertificateError::NotValidForNameContext { expected, .. } => {
                Self::WrongName { name: expected.to_str().into_owned() }
            }
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => Self::Expired,
            error => Self::BadCertificate(error.clone()),
        }
    }
}

impl TlsConfig {
    /// Reads all files, to find faults before they are needed.
    pub fn check(&self) -> Result<(), TlsError> {
        self.load().map(drop)
    }

    fn load(&self) -> Result<ClientConfig, TlsError> {
        let roots = match &self.ca_file {
            Some(file) => authorities(file)?,
            None => RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() },
        };
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Other)?
            .with_root_certificates(roots);
        let Some(client) = &self.client else {
            return Ok(builder.with_no_client_auth());
        };
        let (chain, key) = client.load()?;
        builder.with_client_auth_cert(chain, key).map_err(TlsError::BadClientCertificate)
    }

    /// Shakes hands with `host` over an open connection.
    pub(crate) async fn connect(
        &self,
        host: &str,
        stream: TcpStream,
    ) -> Result<io::Result<TlsStream<TcpStream>>, TlsError> {
        let config = self.load()?;
        let name = self.server_name.as_deref().unwrap_or(host);
        let name = ServerName::try_from(name.to_owned())
            .map_err(|_| TlsError::BadName { name: name.to_owned() })?;
        Ok(TlsConnector::from(Arc::new(config)).connect(name, stream).await)
    }
}

impl ClientCertificate {
    fn load(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
        let chain = certificates(&self.certificate_file)?;
        let key = PrivateKeyDer::from_pem_file(&self.key_file)
            .map_err(|error| pem_error(&self.key_file, "private key", error))?;
        Ok((chain, key))
    }
}

fn authorities(file: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        let bad = |error| TlsError::BadAuthority { file: file.to_owned(), error };
        roots.add(certificate).map_err(bad)?;
    }
    Ok(roots)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |error| pem_error(file, "certificate", error);
    let found: Vec<_> =
        CertificateDer::pem_file_iter(file).and_then(Iterator::collect).map_err(failed)?;
    if found.is_empty() {
        return Err(failed(pem::Error::NoItemsFound));
    }
    Ok(found)
}

fn pem_error(file: &Path, what: &'static str, error: pem::Error) -> TlsError {
    match error {
        pem::Error::Io(error) => TlsError::Unreadable { file: file.to_owned(), error },
        _ => TlsError::NotPem { file: file.to_owned(), what },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_missing_or_something_else_is_named() {
        let missing = TlsConfig { ca_file: Some("/no/such/ca.pem".into()), ..TlsConfig::default() };
        let text = missing.check().unwrap_err().to_string();
        assert!(text.starts_with("can't read /no/such/ca.pem"), "{text}");
        let this_file = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
        let wrong = TlsConfig { ca_file: Some(this_file.clone()), ..TlsConfig::default() };
        let text = wrong.check().unwrap_err().to_string();
        assert!(text.ends_with("Cargo.toml holds no certificate; it must be a PEM file"), "{text}");
        assert!(TlsConfig::default().check().is_ok());
    }
}
