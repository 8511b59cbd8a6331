//! Commands to a Redis server over RESP2: arguments of any bytes, typed replies.

use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail, ensure};

/// Runs one command on a TCP connection of its own.
///
/// An error reply is an `Ok(Reply::Error)`; [`Reply::ok`] turns it into an `Err`.
pub fn redis_command<A: AsRef<[u8]>>(address: SocketAddr, words: &[A]) -> anyhow::Result<Reply> {
    RedisConnection::open(address)?.call(words)
}

/// What Redis answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// `+OK`
    Simple(String),
    /// `-ERR ...`
    Error(String),
    /// `:1`
    Integer(i64),
    /// `$3 abc`
    Bulk(Vec<u8>),
    /// `*2 ...`
    Array(Vec<Reply>),
    /// `$-1` or `*-1`
    Nil,
}

impl Reply {
    /// The reply, or an `Err` with Redis' words if it is an error.
    pub fn ok(self) -> anyhow::Result<Self> {
        match self {
            Self::Error(message) => bail!("Redis answered: {message}"),
            reply => Ok(reply),
        }
    }

    /// A simple or bulk string, or an integer in words.
    pub fn text(self) -> anyhow::Result<String> {
        match self.ok()? {
            Self::Simple(text) => Ok(text),
            Self::Bulk(bytes) => Ok(String::from_utf8(bytes)?),
            Self::Integer(number) => Ok(number.to_string()),
            other => bail!("not a text: {other:?}"),
        }
    }

    /// An integer, also one that comes as a string.
    pub fn integer(self) -> anyhow::Result<i64> {
        match self {
            Self::Integer(number) => Ok(number),
            other => Ok(other.text()?.parse()?),
        }
    }

    /// The items of an array.
    pub fn array(self) -> anyhow::Result<Vec<Self>> {
        match self.ok()? {
            Self::Array(items) => Ok(items),
            other => bail!("not an array: {other:?}"),
        }
    }
}

/// A blocking connection to a Redis server.
pub struct RedisConnection {
    stream: BufReader<Box<dyn Stream>>,
}

impl RedisConnection {
    /// Connects by plain TCP.
    pub fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, ANSWER_MAX)
            .with_context(|| format!("connecting to Redis on {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        stream.set_write_timeout(Some(ANSWER_MAX))?;
        Ok(Self { stream: BufReader::new(Box::new(stream)) })
    }

    /// Connects to a Unix socket.
    pub(crate) fn open_unix(path: &Path) -> anyhow::Result<Self> {
        let stream = UnixStream::connect(path).context("connecting to Redis' own socket")?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        stream.set_write_timeout(Some(ANSWER_MAX))?;
        Ok(Self { stream: BufReader::new(Box::new(stream)) })
    }

    /// Sends a command and reads its reply.
    pub fn call<A: AsRef<[u8]>>(&mut self, words: &[A]) -> anyhow::Result<Reply> {
        let mut request = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            let word = word.as_ref();
            request.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            request.extend_from_slice(word);
            request.extend_from_slice(b"\r\n");
        }
        self.stream.get_mut().write_all(&request)?;
        self.read()
    }

    /// Reads the next reply, such as a message to a subscriber.
    pub fn read(&mut self) -> anyhow::Result<Reply> {
        self.read_nested(0)
    }

    /// Sends bytes as they are and reads until the server closes.
    pub(crate) fn exchange(mut self, request: &[u8]) -> anyhow::Result<Vec<u8>> {
        self.stream.get_mut().write_all(request)?;
        let mut answer = Vec::new();
        self.stream.take(BULK_BYTES_MAX as u64).read_to_end(&mut answer)?;
        Ok(answer)
    }

    fn read_nested(&mut self, depth: usize) -> anyhow::Result<Reply> {
        ensure!(depth <= DEPTH_MAX, "a reply nested deeper than {DEPTH_MAX}");
        let line = self.read_line()?;
        let (kind, rest) = line.split_at_checked(1).context("an empty reply")?;
        Ok(match kind {
            "+" => Reply::Simple(rest.to_owned()),
            "-" => Reply::Error(rest.to_owned()),
            ":" => Reply::Integer(rest.parse()?),
            "$" | "*" if rest == "-1" => Reply::Nil,
            "$" => Reply::Bulk(self.read_bulk(rest.parse()?)?),
            "*" => {
                let items = rest.parse::<usize>()?;
                Reply::Array(
                    (0..items).map(|_| self.read_nested(depth + 1)).collect::<Result<_, _>>()?,
                )
            }
            _ => bail!("not RESP2: {line:?}"),
        })
    }

    fn read_line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        self.stream.by_ref().take(LINE_BYTES_MAX).read_line(&mut line)?;
        let line = line.strip_suffix("\r\n").context("Redis closed the connection")?;
        Ok(line.to_owned())
    }

    fn read_bulk(&mut self, length: usize) -> anyhow::Result<Vec<u8>> {
        ensure!(length <= BULK_BYTES_MAX, "a reply of {length} bytes");
        let mut bytes = vec![0; length + 2];
        self.stream.read_exact(&mut bytes)?;
        bytes.truncate(length);
        Ok(bytes)
    }
}

impl fmt::Debug for RedisConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConnection").finish_non_exhaustive()
    }
}

trait Stream: Read + Write + Send {}

impl<S: Read + Write + Send> Stream for S {}

const ANSWER_MAX: Duration = Duration::from_secs(10);
const BULK_BYTES_MAX: usize = 64 << 20;
const LINE_BYTES_MAX: u64 = 64 << 10;
const DEPTH_MAX: usize = 16;
