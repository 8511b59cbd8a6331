//! Where the gateway listens: the options, whose doc comments are the reference.

use std::net::SocketAddr;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::values::Network;

/// Where the gateway listens.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct Listen {
    /// Address and port for clients.
    #[schemars(with = "String")]
    pub public: SocketAddr,
    /// Address and port for metrics, health and drain. Not for the public: it asks for no token.
    #[schemars(with = "String")]
    pub admin: SocketAddr,
    /// Address and port for backends: the server API. Used where `api.keys` has a key.
    #[schemars(with = "String")]
    pub api: SocketAddr,
    /// TLS for clients: HTTP/2 or HTTP/1.1, as they agree on.
    pub tls: ServerTls,
    /// The load balancers and proxies in front, by range. A connection from one of them counts for
    /// the address that its `X-Forwarded-For` names, the last one that is not itself a proxy.
    pub trusted_proxies: Vec<Network>,
    /// Address and port for STOMP over TCP, as Spring's broker relay speaks it; the usual port is
    /// 61613. Absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub stomp: Option<SocketAddr>,
    /// TLS for STOMP over TCP.
    pub stomp_tls: ServerTls,
}

/// TLS of a listener. The files are PEM, and read at the start.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct ServerTls {
    /// The certificate, with those between it and its authority. Empty: no TLS.
    pub certificate_file: PathBuf,
    /// The private key of the certificate.
    pub private_key_file: PathBuf,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            public: SocketAddr::from(([0, 0, 0, 0], 8080)),
            admin: SocketAddr::from(([127, 0, 0, 1], 9090)),
            api: SocketAddr::from(([127, 0, 0, 1], 8081)),
            tls: ServerTls::default(),
            trusted_proxies: Vec::new(),
            stomp: None,
            stomp_tls: ServerTls::default(),
        }
    }
}
