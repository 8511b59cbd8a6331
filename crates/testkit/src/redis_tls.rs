//! A certificate authority and a server certificate for the Redis of a test.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use tempfile::TempDir;

/// Where the PEM files are.
#[derive(Debug, Clone)]
pub(crate) struct TlsFiles {
    pub(crate) authority: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

/// One certificate for several servers; its files are removed with this value.
#[derive(Debug)]
pub(crate) struct SharedTls {
    pub(crate) files: TlsFiles,
    _directory: TempDir,
}

impl SharedTls {
    /// Makes one, of an authority of its own.
    pub(crate) fn generate() -> anyhow::Result<Self> {
        let directory = TempDir::new().context("making the directory of a certificate")?;
        Ok(Self { files: TlsFiles::generate(directory.path())?, _directory: directory })
    }
}

impl TlsFiles {
    /// Makes a new authority and, signed by it, a certificate for `localhost` and 127.0.0.1.
    pub(crate) fn generate(directory: &Path) -> anyhow::Result<Self> {
        let authority_key = KeyPair::generate()?;
        let mut authority = CertificateParams::default();
        authority.distinguished_name.push(DnType::CommonName, "Fanlight test authority");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let authority_pem = authority.self_signed(&authority_key)?.pem();
        let issuer = Issuer::new(authority, authority_key);

        let key = KeyPair::generate()?;
        let mut server =
            CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
        server.distinguished_name.push(DnType::CommonName, "localhost");
        // Nodes of a cluster show it to each other as clients too.
        server.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let server_pem = server.signed_by(&key, &issuer)?.pem();

        let write = |name: &str, pem: String| {
            let path = directory.join(name);
            fs::write(&path, pem).with_context(|| format!("writing {name}"))?;
            anyhow::Ok(path)
        };
        Ok(Self {
            authority: write("ca.pem", authority_pem)?,
            certificate: write("server.pem", server_pem)?,
            key: write("server.key", key.serialize_pem())?,
        })
    }

    /// Redis' options that listen by TLS on `port`, for clients without a certificate.
    pub(crate) fn options(&self, port: u16) -> Vec<String> {
        let path = |path: &Path| path.to_string_lossy().into_owned();
        [
            ("--tls-port", port.to_string()),
            ("--tls-ca-cert-file", path(&self.authority)),
            ("--tls-cert-file", path(&self.certificate)),
            ("--tls-key-file", path(&self.key)),
            ("--tls-auth-clients", "no".to_owned()),
        ]
        .into_iter()
        .flat_map(|(name, value)| [name.to_owned(), value])
        .collect()
    }
}
