//! One TCP connection to a shard's master: found, opened, logged in; and why it ended.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::command;
use crate::config::RedisConfig;
use crate::resp3::{Event, Reader, RespError, Value};
use crate::topology::{ShardId, Topology};

/// An open connection that speaks RESP3 to a master.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    pub(crate) reader: Reader,
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
    #[error("it is a {role}, not a master; point the configured URL at the master")]
    NotMaster { role: String },
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
        Self::NotMaster { role: role.escape_debug().take(40).collect() }
    }

    /// From an error reply; its text is Redis' own, cut and without control characters.
    pub(crate) fn refused(command: &'static str, answer: &[u8]) -> Self {
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
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Broken(error),
        }
    }
}

impl Connection {
    /// Connects and logs in as `client_name`, within the connect timeout.
    pub(crate) async fn open(
        topology: &Topology,
        shard: ShardId,
        config: &RedisConfig,
        client_name: &str,
    ) -> Result<Self, ConnectionError> {
        let after = config.connect_timeout;
        let opened = timeout(after, async {
            let stream = connect(topology, shard).await?;
            let mut connection = Self { stream, reader: Reader::new() };
            connection.log_in(config, client_name).await?;
            Ok(connection)
        });
        let during = "while connecting";
        opened.await.unwrap_or(Err(ConnectionError::TimedOut { during, after }))
    }

    async fn log_in(
        &mut self,
        config: &RedisConfig,
        client_name: &str,
    ) -> Result<(), ConnectionError> {
        let mut hello: Vec<&[u8]> = vec![b"HELLO", b"3"];
        if let Some(login) = &config.credentials {
            hello.extend([&b"AUTH"[..], login.user.as_bytes(), login.password.as_bytes()]);
        }
        hello.extend([&b"SETNAME"[..], client_name.as_bytes()]);
        match self.ask("HELLO", &hello).await? {
            Value::Map(fields) => check_role(&fields)?,
            _ => return Err(ConnectionError::Unasked),
        }
        if config.database != 0 {
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

async fn connect(topology: &Topology, shard: ShardId) -> Result<TcpStream, ConnectionError> {
    let addresses = topology.locate(shard).await.map_err(ConnectionError::Unresolved)?;
    match TcpStream::connect(addresses.as_slice()).await {
        Ok(stream) => {
            stream.set_nodelay(true)?;
            Ok(stream)
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            Err(ConnectionError::ConnectionRefused)
        }
        Err(error) => Err(ConnectionError::Unconnected(error)),
    }
}

/// A replica takes PUBLISH without an error, but only its own subscribers would hear of it.
fn check_role(fields: &[(Value, Value)]) -> Result<(), ConnectionError> {
    let role = fields
        .iter()
        .find(|(key, _)| key.as_text() == Some("role"))
        .and_then(|(_, value)| value.as_text());
    match role {
        None | Some("master") => Ok(()),
        Some(role) => Err(ConnectionError::not_master(role)),
    }
}

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
    fn only_a_master_will_do() {
        let role = |role: &'static str| {
            let bulk = |text: &'static str| Value::Bulk(text.as_bytes().into());
            check_role(&[(bulk("role"), bulk(role))])
        };
        assert!(role("master").is_ok());
        let error = role("replica").unwrap_err();
        assert!(error.to_string().starts_with("it is a replica, not a master"));
    }
}
