//! A small incremental RESP3 reader: bytes in, pub/sub messages and replies out.
//!
//! A message (`>3 message channel payload`, or `smessage`) takes a path of its own without any allocation: its
//! parts are slices of the read buffer. Everything else is measured first, without allocating,
//! and built only once all of it is there, so no announced length allocates ahead of its data.

use bytes::{Buf, Bytes, BytesMut};

/// What was read.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A publication on a channel we subscribed to.
    Message {
        /// The channel's name on the wire.
        channel: Bytes,
        /// What was published.
        payload: Bytes,
    },
    /// A reply, or another push.
    Value(Value),
}

/// A RESP3 value; attributes are skipped.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Null, in any of its three spellings.
    Null,
    /// `#t` or `#f`
    Boolean(bool),
    /// `:1`
    Integer(i64),
    /// `,1.5`
    Double(f64),
    /// `(1234567890...`, as digits.
    BigNumber(Bytes),
    /// `+OK`
    Simple(Bytes),
    /// `-ERR ...` or a bulk error.
    Error(Bytes),
    /// A bulk or verbatim string; the latter without its `txt:`.
    Bulk(Bytes),
    /// An array.
    Array(Vec<Value>),
    /// A set.
    Set(Vec<Value>),
    /// A map's keys and values.
    Map(Vec<(Value, Value)>),
    /// Out-of-band data.
    Push(Vec<Value>),
}

/// Why bytes are not RESP3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RespError {
    /// No type begins with this byte.
    #[error("no RESP3 type begins with byte {byte:#04x}")]
    UnknownType {
        /// That byte.
        byte: u8,
    },
    /// A line that is not what its type asks for.
    #[error("malformed RESP3 {what}")]
    Malformed {
        /// The type.
        what: &'static str,
    },
    /// A line without an end.
    #[error("a RESP3 line exceeds {max} bytes", max = MAX_LINE_BYTES)]
    LineTooLong,
    /// A value larger than Redis itself allows.
    #[error("a RESP3 value exceeds {max} bytes", max = MAX_VALUE_BYTES)]
    TooLarge,
    /// More elements, all in all, than an answer to anything that is asked here has.
    #[error("a RESP3 value has more than {max} elements")]
    TooManyElements {
        /// The most that are read.
        max: usize,
    },
    /// Arrays in arrays in arrays.
    #[error("RESP3 values are nested deeper than {max}", max = MAX_DEPTH)]
    TooDeep,
}

impl Value {
    /// The text of a simple or bulk string, if it is one and UTF-8.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Simple(bytes) | Self::Bulk(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }
}

/// Reads values off a byte stream that may be cut anywhere.
#[derive(Debug)]
pub struct Reader {
    buffer: BytesMut,
    /// Nothing can be complete before the buffer holds this many bytes.
    needed: usize,
    elements_max: usize,
}

impl Default for Reader {
    fn default() -> Self {
        Self::new()
    }
}

impl Reader {
    /// A reader with nothing read.
    pub fn new() -> Self {
        Self { buffer: BytesMut::new(), needed: 0, elements_max: MAX_ELEMENTS }
    }

    /// One that also reads what has very many elements: each of a cluster's 16,384 slots may be a
    /// range of its own, with all its nodes.
    pub(crate) fn of_slots() -> Self {
        Self { elements_max: MAX_ELEMENTS_OF_SLOTS, ..Self::new() }
    }

    /// Where to append what the socket gives; has room for at least 16 KiB.
    pub fn space(&mut self) -> &mut BytesMut {
        if self.buffer.capacity() - self.buffer.len() < READ_MIN_BYTES {
            self.buffer.reserve(READ_BYTES);
        }
        &mut self.buffer
    }

    /// Takes the next complete value; `None` when more bytes are needed.
    ///
    /// After an error the stream can't be followed any more: the connection must end.
    pub fn pop(&mut self) -> Result<Option<Event>, RespError> {
        if self.buffer.len() < self.needed.max(1) {
            return Ok(None);
        }
        match self.take() {
            Ok(event) => {
                self.needed = 0;
                Ok(Some(event))
            }
            Err(Stop::Needs(bytes)) => {
                self.needed = bytes;
                Ok(None)
            }
            Err(Stop::Error(error)) => Err(error),
        }
    }

    fn take(&mut self) -> Result<Event, Stop> {
        let mut cursor = Cursor::new(&self.buffer, self.elements_max);
        let is_message = |start: &&[u8]| cursor.input.starts_with(start);
        if let Some(start) = [MESSAGE, SHARD_MESSAGE].into_iter().find(is_message) {
            cursor.at = start.len();
            let (channel_at, channel_bytes) = cursor.bulk()?;
            cursor.expect_bulk()?;
            let (payload_at, payload_bytes) = cursor.bulk()?;
            self.buffer.advance(channel_at);
            let channel = self.buffer.split_to(channel_bytes).freeze();
            self.buffer.advance(payload_at - channel_at - channel_bytes);
            let payload = self.buffer.split_to(payload_bytes).freeze();
            self.buffer.advance(2);
            return Ok(Event::Message { channel, payload });
        }
        cursor.skip(0)?;
        let bytes = cursor.at;
        let frame = self.buffer.split_to(bytes).freeze();
        let mut cursor = Cursor::new(&frame, self.elements_max);
        Ok(Event::Value(build(&mut cursor, &frame)?))
    }
}

/// Why a value was not read.
enum Stop {
    /// The buffer must hold this many bytes before trying again.
    Needs(usize),
    Error(RespError),
}

impl From<RespError> for Stop {
    fn from(error: RespError) -> Self {
        Self::Error(error)
    }
}

struct Cursor<'i> {
    input: &'i [u8],
    at: usize,
    /// Values skipped so far.
    skipped: usize,
    elements_max: usize,
}

impl<'i> Cursor<'i> {
    fn new(input: &'i [u8], elements_max: usize) -> Self {
        Self { input, at: 0, skipped: 0, elements_max }
    }

    /// The rest of the line, without its end.
    fn line(&mut self) -> Result<&'i [u8], Stop> {
        let rest = &self.input[self.at..];
        let Some(end) = rest.iter().take(MAX_LINE_BYTES).position(|b| *b == b'\r') else {
            if rest.len() >= MAX_LINE_BYTES {
                return Err(RespError::LineTooLong.into());
            }
            return Err(Stop::Needs(self.input.len() + 2));
        };
        match rest.get(end + 1) {
            Some(b'\n') => {
                self.at += end + 2;
                Ok(&rest[..end])
            }
            Some(_) => Err(RespError::Malformed { what: "line" }.into()),
            None => Err(Stop::Needs(self.input.len() + 1)),
        }
    }

    /// A count or length; `None` for RESP2's null, -1.
    fn length(&mut self) -> Result<Option<usize>, Stop> {
        let line = self.line()?;
        if line == b"-1" {
            return Ok(None);
        }
        let malformed = RespError::Malformed { what: "length" };
        if line.is_empty() || line.len() > 10 {
            return Err(malformed.into());
        }
        let mut length = 0_usize;
        for byte in line {
            if !byte.is_ascii_digit() {
                return Err(malformed.into());
            }
            length = length * 10 + usize::from(byte - b'0');
        }
        if length > MAX_VALUE_BYTES {
            return Err(RespError::TooLarge.into());
        }
        Ok(Some(length))
    }

    /// Past a bulk string's `$`: where its bytes are, and how many.
    fn bulk(&mut self) -> Result<(usize, usize), Stop> {
        let malformed = RespError::Malformed { what: "bulk" };
        let length = self.length()?.ok_or(malformed)?;
        self.bulk_of(length).map(|at| (at, length))
    }

    fn bulk_of(&mut self, length: usize) -> Result<usize, Stop> {
        let at = self.at;
        let end = at + length;
        match self.input.get(end..end + 2) {
            Some(b"\r\n") => {
                self.at = end + 2;
                Ok(at)
            }
            Some(_) => Err(RespError::Malformed { what: "bulk" }.into()),
            None => Err(Stop::Needs(end + 2)),
        }
    }

    fn byte(&mut self) -> Result<u8, Stop> {
        let byte = *self.input.get(self.at).ok_or(Stop::Needs(self.input.len() + 1))?;
        self.at += 1;
        Ok(byte)
    }

    fn expect_bulk(&mut self) -> Result<(), Stop> {
        match self.byte()? {
            b'$' => Ok(()),
            _ => Err(RespError::Malformed { what: "message" }.into()),
        }
    }

    /// Walks over one value, checking its shape and its size.
    fn skip(&mut self, depth: usize) -> Result<(), Stop> {
        if depth > MAX_DEPTH {
            return Err(RespError::TooDeep.into());
        }
        if self.at > MAX_VALUE_BYTES {
            return Err(RespError::TooLarge.into());
        }
        self.skipped += 1;
        if self.skipped > self.elements_max {
            return Err(RespError::TooManyElements { max: self.elements_max }.into());
        }
        match self.byte()? {
            b'+' | b'-' | b'(' | b',' | b':' | b'#' | b'_' => self.line().map(drop),
            b'$' | b'!' | b'=' => match self.length()? {
                Some(length) => self.bulk_of(length).map(drop),
                None => Ok(()),
            },
            b'*' | b'~' | b'>' => self.skip_many(1, depth),
            b'%' => self.skip_many(2, depth),
            // An attribute is followed by the value that it describes.
            b'|' => {
                self.skip_many(2, depth)?;
                self.skip(depth + 1)
            }
            byte => Err(RespError::UnknownType { byte }.into()),
        }
    }

    fn skip_many(&mut self, each: usize, depth: usize) -> Result<(), Stop> {
        let count = self.length()?.unwrap_or(0) * each;
        for _ in 0..count {
            self.skip(depth + 1)?;
        }
        Ok(())
    }
}

/// Builds the value that `skip` found complete.
fn build(cursor: &mut Cursor<'_>, frame: &Bytes) -> Result<Value, Stop> {
    let what = cursor.byte()?;
    let value = match what {
        b'+' => Value::Simple(line_of(cursor, frame)?),
        b'-' => Value::Error(line_of(cursor, frame)?),
        b'(' => Value::BigNumber(line_of(cursor, frame)?),
        b',' => Value::Double(number(cursor, "double")?),
        b':' => Value::Integer(number(cursor, "integer")?),
        b'#' => match cursor.line()? {
            b"t" => Value::Boolean(true),
            b"f" => Value::Boolean(false),
            _ => return Err(RespError::Malformed { what: "boolean" }.into()),
        },
        b'_' => match cursor.line()? {
            b"" => Value::Null,
            _ => return Err(RespError::Malformed { what: "null" }.into()),
        },
        b'$' | b'!' | b'=' => match cursor.length()? {
            None => Value::Null,
            Some(length) => {
                let at = cursor.bulk_of(length)?;
                string(what, frame.slice(at..at + length))?
            }
        },
        b'|' => {
            many(cursor, frame, 2)?;
            build(cursor, frame)?
        }
        _ => aggregate(what, cursor, frame)?,
    };
    Ok(value)
}

fn aggregate(what: u8, cursor: &mut Cursor<'_>, frame: &Bytes) -> Result<Value, Stop> {
    let each = if what == b'%' { 2 } else { 1 };
    let Some(values) = many(cursor, frame, each)? else {
        return Ok(Value::Null);
    };
    Ok(match what {
        b'~' => Value::Set(values),
        b'>' => Value::Push(values),
        b'%' => {
            let mut values = values.into_iter();
            let pairs = std::iter::from_fn(|| values.next().zip(values.next()));
            Value::Map(pairs.collect())
        }
        _ => Value::Array(values),
    })
}

/// The elements of an aggregate; `None` for RESP2's null array.
fn many(cursor: &mut Cursor<'_>, frame: &Bytes, each: usize) -> Result<Option<Vec<Value>>, Stop> {
    let Some(count) = cursor.length()? else {
        return Ok(None);
    };
    (0..count * each).map(|_| build(cursor, frame)).collect::<Result<_, _>>().map(Some)
}

fn line_of(cursor: &mut Cursor<'_>, frame: &Bytes) -> Result<Bytes, Stop> {
    Ok(frame.slice_ref(cursor.line()?))
}

fn number<T: std::str::FromStr>(cursor: &mut Cursor<'_>, what: &'static str) -> Result<T, Stop> {
    std::str::from_utf8(cursor.line()?)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or(RespError::Malformed { what }.into())
}

fn string(what: u8, bytes: Bytes) -> Result<Value, Stop> {
    match what {
        b'!' => Ok(Value::Error(bytes)),
        b'=' if bytes.get(3) == Some(&b':') => Ok(Value::Bulk(bytes.slice(4..))),
        b'=' => Err(RespError::Malformed { what: "verbatim" }.into()),
        _ => Ok(Value::Bulk(bytes)),
    }
}

/// How every message begins.
const MESSAGE: &[u8] = b">3\r\n$7\r\nmessage\r\n$";
/// The same of sharded pub/sub.
const SHARD_MESSAGE: &[u8] = b">3\r\n$8\r\nsmessage\r\n$";
/// Redis' own default bound of a value, `proto-max-bulk-len`: what it accepts, we can read.
const MAX_VALUE_BYTES: usize = 512 << 20;
const MAX_LINE_BYTES: usize = 64 << 10;
/// A value takes ten times the bytes of the shortest elements, and what is not whole yet is walked
/// over again at each read.
const MAX_ELEMENTS: usize = 16 << 10;
const MAX_ELEMENTS_OF_SLOTS: usize = 1 << 20;
const MAX_DEPTH: usize = 16;
const READ_BYTES: usize = 64 << 10;
const READ_MIN_BYTES: usize = 16 << 10;

#[cfg(test)]
#[path = "resp3_tests.rs"]
mod tests;
