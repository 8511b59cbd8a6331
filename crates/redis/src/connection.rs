//! One connection to a Redis process: opened, encrypted, logged in; and why it ended.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::command;
use crate::config::{Endpoint, RedisConfig, Servers};
use crate::resp3::{Event, Reader, RespError, Value};
use crate::stream::Stream;
use crate::tls::TlsError;

/// An open connection that speaks RESP3.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The other end.
    pub(crate) endpoint: Endpoint,
    pub(crate) stream: Stream,
    pub(crate) reader: Reader,
}

/// Who the other end must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    Master,
    /// Any node of a cluster.
    Node,
    Sentinel,
}

/// Why there is no connection, or none any more. The texts go to logs and to the health report.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectionError {
    #[error("its name can't be resolved ({0}); check the host in the configured URL")]
    Unresolved(io::Error),
    #[error("connection refused; check that it is running and that the configured URL is right")]
    ConnectionRefused,
    #[error("can't connect ({0}); check the network and the configured URL")]
    Unconnected(io::Error),
    #[error("no answer within {after:?} {during}; check that it is not overloaded or stopped")]
    TimedOut { during: &'static str, after: Duration },
    #[error("it refused {command}: {answer}; {remedy}")]
    Refused { command: &'static str, answer: String, remedy: &'static str },
    #[error("it is a {role}, not a {wanted}; check what the configured URL points at")]
    WrongRole { role: String, wanted: &'static str },
    #[error("it is not the master any more; wait for the new one")]
    Demoted,
    #[error("no sentinel says where it is: {0}")]
    NoSentinel(Box<ConnectionError>),
    #[error("the sentinel knows no master {master:?}; check the name in the configured URL")]
    UnknownMaster { master: String },
    #[error("it says that the cluster is down; check CLUSTER INFO")]
    ClusterDown,
    #[error("it has not heard of the cluster's last changes; check the network between its nodes")]
    Outdated,
    #[error("no master has it; check CLUSTER INFO")]
    NoMaster,
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(
        "no answer to our TLS handshake within {after:?}; check that it is not stopped, and \
         if it does not speak TLS, write redis in place of rediss in the configured URL"
    )]
    NoTlsAnswer { after: Duration },
    #[error(
        "it closed the connection without an answer; check its log, and if it wants TLS, write \
         rediss in place of redis in the configured URL"
    )]
    ClosedUnanswered,
    #[error("it wants TLS; write rediss in place of redis in the configured URL")]
    WantsTls,
    #[error("it closed the connection; check its log and its client-output-buffer-limit")]
    Closed,
    #[error("the connection broke ({0}); check the network")]
    Broken(io::Error),
    #[error(
        "it sent something unexpected ({0}); check that a Redis of version 6 or later is there"
    )]
    NotRedis(#[from] RespError),
    #[error("it answered what was not asked; check that nothing modifies the connection")]
    Unasked,
    #[error("what is published does not come back; check that it is the master")]
    NotDelivering,
}

impl ConnectionError {
    /// It said that it has another role.
    pub(crate) fn not_master(role: &str) -> Self {
        Self::wrong_role(role, "master")
    }

    fn wrong_role(role: &str, wanted: &'static str) -> Self {
        Self::WrongRole { role: role.escape_debug().take(40).collect(), wanted }
    }

    /// From an error reply; its text is Redis' own, cut and without control characters.
    pub(crate) fn refused(command: &'static str, answer: &[u8]) -> Self {
        let answer = without_arguments(answer);
        let answer = String::from_utf8_lossy(&answer[..answer.len().min(200)]);
        let answer = answer.escape_debug().to_string();
        let remedy = match answer.split(' ').next() {
            Some("WRONGPASS" | "NOAUTH") => "check the user and password in the configured URL",
            Some("NOPERM") => "allow this user the commands and channels of the configured prefix",
            Some("NOPROTO") => "Redis 6 or later is needed",
            Some("ERR") if answer.contains("unknown command") => "Redis 6 or later is needed",
            Some("LOADING") => "it is loading its data; wait",
            _ => "check its log",
        };
        Self::Refused { command, answer, remedy }
    }
}

impl From<io::Error> for ConnectionError {
    fn from(error: io::Error) -> Self {
        if let Some(error) = TlsError::of(&error) {
            return error.into();
        }
        match error.kind() {
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof => Self::Closed,
            _ => Self::Broken(error),
        }
    }
}

impl Connection {
    /// Connects to `endpoint` and logs in as `client_name`, within the connect timeout.
    pub(crate) async fn open(
        endpoint: Endpoint,
        peer: Peer,
        config: &RedisConfig,
        client_name: &str,
    ) -> Result<Self, ConnectionError> {
        let after = config.connect_timeout;
        let shaking_hands = AtomicBool::new(false);
        let opened = timeout(after, async {
            let stream = connect(&endpoint, config, &shaking_hands).await?;
            let reader = if peer == Peer::Node { Reader::of_slots() } else { Reader::new() };
            let mut connection = Self { endpoint, stream, reader };
            connection.log_in(peer, config, client_name).await?;
            Ok(connection)
        });
        let during = "while connecting";
        opened.await.unwrap_or_else(|_| {
            Err(if shaking_hands.load(Ordering::Relaxed) {
                ConnectionError::NoTlsAnswer { after }
            } else {
                ConnectionError::TimedOut { during, after }
            })
        })
    }

    async fn log_in(
        &mut self,
        peer: Peer,
        config: &RedisConfig,
        client_name: &str,
    ) -> Result<(), ConnectionError> {
        let mut hello: Vec<&[u8]> = vec![b"HELLO", b"3"];
        let login = match peer {
            Peer::Master | Peer::Node => &config.credentials,
            Peer::Sentinel => &config.sentinel_credentials,
        };
        if let Some(login) = login {
            hello.extend([&b"AUTH"[..], login.user.as_bytes(), login.password.as_bytes()]);
        }
        hello.extend([&b"SETNAME"[..], client_name.as_bytes()]);
        let fields = match self.ask("HELLO", &hello).await {
            Ok(Value::Map(fields)) => fields,
            Ok(_) => return Err(ConnectionError::Unasked),
            Err(ConnectionError::NotRedis(RespError::UnknownType { byte: TLS_ALERT })) => {
                return Err(ConnectionError::WantsTls);
            }
            Err(ConnectionError::Closed) if config.tls.is_none() => {
                return Err(ConnectionError::ClosedUnanswered);
            }
            Err(error) => return Err(error),
        };
        check_role(peer, &fields)?;
        if peer == Peer::Master && matches!(config.servers, Servers::Cluster { .. }) {
            check_mode(&fields)?;
        }
        if config.database != 0 && peer != Peer::Sentinel {
            let database = config.database.to_string();
            self.ask("SELECT", &[b"SELECT", database.as_bytes()]).await?;
        }
        Ok(())
    }

    /// Runs one command and waits for its answer, which must not be an error.
    pub(crate) async fn ask(
        &mut self,
        name: &'static str,
        words: &[&[u8]],
    ) -> Result<Value, ConnectionError> {
        let mut command = Vec::new();
        command::words(words, &mut command);
        self.stream.write_all(&command).await?;
        loop {
            match self.reader.pop()? {
                Some(Event::Value(Value::Error(answer))) => {
                    return Err(ConnectionError::refused(name, &answer));
                }
                Some(Event::Value(value)) => return Ok(value),
                Some(Event::Message { .. }) => return Err(ConnectionError::Unasked),
                None => {}
            }
            if self.stream.read_buf(self.reader.space()).await? == 0 {
                return Err(ConnectionError::Closed);
            }
        }
    }
}

impl Connection {
    /// The payload of the next message on a subscribed channel.
    pub(crate) async fn next_message(&mut self) -> Result<bytes::Bytes, ConnectionError> {
        loop {
            match self.reader.pop()? {
                Some(Event::Message { payload, .. }) => return Ok(payload),
                Some(Event::Value(_)) => continue,
                None => {}
            }
            if self.stream.read_buf(self.reader.space()).await? == 0 {
                return Err(ConnectionError::Closed);
            }
        }
    }
}

async fn connect(
    endpoint: &Endpoint,
    config: &RedisConfig,
    shaking_hands: &AtomicBool,
) -> Result<Stream, ConnectionError> {
    let found = tokio::net::lookup_host((endpoint.host.as_str(), endpoint.port));
    let addresses: Vec<_> = found.await.map_err(ConnectionError::Unresolved)?.collect();
    let stream = match TcpStream::connect(addresses.as_slice()).await {
        Ok(stream) => stream,
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            return Err(ConnectionError::ConnectionRefused);
        }
        Err(error) => return Err(ConnectionError::Unconnected(error)),
    };
    stream.set_nodelay(true)?;
    let Some(tls) = &config.tls else {
        return Ok(Stream::Plain(stream));
    };
    shaking_hands.store(true, Ordering::Relaxed);
    let stream = tls.connect(&endpoint.host, stream).await??;
    shaking_hands.store(false, Ordering::Relaxed);
    Ok(Stream::encrypted(stream))
}

/// A replica takes PUBLISH without an error, but only its own subscribers would hear of it.
fn check_role(peer: Peer, fields: &[(Value, Value)]) -> Result<(), ConnectionError> {
    match (peer, field(fields, "role")) {
        (Peer::Master, None | Some("master"))
        | (Peer::Sentinel, None | Some("sentinel"))
        | (Peer::Node, _) => Ok(()),
        (Peer::Master, Some(role)) => Err(ConnectionError::not_master(role)),
        (Peer::Sentinel, Some(role)) => Err(ConnectionError::wrong_role(role, "sentinel")),
    }
}

/// A server without the cluster mode knows no slots.
fn check_mode(fields: &[(Value, Value)]) -> Result<(), ConnectionError> {
    match field(fields, "mode") {
        None | Some("cluster") => Ok(()),
        Some(mode) => Err(ConnectionError::wrong_role(mode, "cluster")),
    }
}

fn field<'v>(fields: &'v [(Value, Value)], name: &str) -> Option<&'v str> {
    fields
        .iter()
        .find(|(key, _)| key.as_text() == Some(name))
        .and_then(|(_, value)| value.as_text())
}

/// An error reply up to where it repeats what it was sent: that may be a password or a message.
fn without_arguments(answer: &[u8]) -> &[u8] {
    let end = answer.windows(ARGUMENTS.len()).position(|window| window == ARGUMENTS);
    &answer[..end.unwrap_or(answer.len())]
}

/// What servers say before they repeat arguments.
const ARGUMENTS: &[u8] = b", with args";
/// What a TLS server's answer to plain bytes begins with.
const TLS_ALERT: u8 = 0x15;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_to_do_and_shows_no_control_characters() {
        for (answer, remedy) in [
            ("WRONGPASS invalid username-password pair", "password"),
            ("NOAUTH HELLO must be called", "password"),
            ("NOPERM no permissions to access a channel", "allow this user"),
            ("ERR unknown command `HELLO`", "Redis 6"),
            ("LOADING Redis is loading", "wait"),
            ("ODD\r\n\x1b[31m", "check its log"),
        ] {
            let text = ConnectionError::refused("HELLO", answer.as_bytes()).to_string();
            assert!(text.contains(remedy), "{text}");
            assert!(!text.contains(char::is_control), "{text}");
        }
    }

    #[test]
    fn a_refusal_shows_no_argument_of_the_command() {
        for quote in ["'", "`"] {
            let answer = format!(
                "ERR unknown command {quote}HELLO{quote}, with args beginning with: \
                 {quote}3{quote} {quote}AUTH{quote} {quote}default{quote} {quote}s3cret{quote} "
            );
            let text = ConnectionError::refused("HELLO", answer.as_bytes()).to_string();
            let expected = format!("it refused HELLO: ERR unknown command {quote}HELLO{quote}; ");
            assert!(text.replace("\\'", "'").starts_with(&expected), "{text}");
        }
    }

    #[test]
    fn only_a_master_will_do() {
        let role = |role: &'static str| {
            let bulk = |text: &'static str| Value::Bulk(text.as_bytes().into());
            check_role(Peer::Master, &[(bulk("role"), bulk(role))])
        };
        assert!(role("master").is_ok());
        let error = role("replica").unwrap_err();
        assert!(error.to_string().starts_with("it is a replica, not a master"));
    }
}
