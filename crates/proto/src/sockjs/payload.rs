//! What clients send: JSON strings, alone or in an array.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, SeqAccess, Visitor};

use crate::close::CloseReason;

/// How much one body or WebSocket message may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes as they were sent.
    pub bytes: usize,
    /// Messages.
    pub messages: usize,
}

/// Why nothing of a payload was accepted; the first two in the protocol's words. Answered with
/// [`Self::status`] and this text; a WebSocket is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// There is nothing, or JSON that is no array.
    #[error("Payload expected.")]
    Expected,
    /// It is no JSON, or has something other than strings.
    #[error("Broken JSON encoding.")]
    Broken,
    /// More bytes than allowed.
    #[error("payload exceeds {limit} bytes")]
    TooLarge {
        /// The most bytes of a payload.
        limit: usize,
    },
    /// More messages than allowed.
    #[error("payload has more than {limit} messages")]
    TooManyMessages {
        /// The most messages of a payload.
        limit: usize,
    },
}

impl PayloadError {
    /// The status of the answer to a request.
    pub fn status(self) -> u16 {
        match self {
            Self::Expected | Self::Broken => 500,
            Self::TooLarge { .. } | Self::TooManyMessages { .. } => 413,
        }
    }

    /// Why a WebSocket is closed.
    pub fn close_reason(self) -> CloseReason {
        match self {
            Self::Expected | Self::Broken => CloseReason::ProtocolError,
            Self::TooLarge { .. } => CloseReason::TooLarge,
            Self::TooManyMessages { .. } => CloseReason::LimitExceeded,
        }
    }
}

/// Reads a WebSocket message: a string, or an array of them. An empty one is no message.
///
/// Messages without escapes are borrowed. Half a surrogate pair, which a JSON string can hold and
/// UTF-8 can't, becomes U+FFFD as it does in a browser's own WebSocket.
pub fn read_message<'a>(text: &'a str, limits: &Limits) -> Result<Vec<Cow<'a, str>>, PayloadError> {
    check_size(text.as_bytes(), limits)?;
    if text.is_empty() { Ok(Vec::new()) } else { read(text, Expected::StringOrArray, limits) }
}

/// Reads the body of `xhr_send`: an array of strings, whatever its content type.
pub fn read_xhr_send<'a>(
    body: &'a [u8],
    limits: &Limits,
) -> Result<Vec<Cow<'a, str>>, PayloadError> {
    check_size(body, limits)?;
    read_array(simdutf8::basic::from_utf8(body).map_err(|_| PayloadError::Broken)?, limits)
}

/// Reads the body of `jsonp_send`: the field `d` of a form, if the content type says that it is one,
/// or else the body itself; either is an array of strings.
pub fn read_jsonp_send<'a>(
    body: &'a [u8],
    content_type: Option<&str>,
    limits: &Limits,
) -> Result<Vec<Cow<'a, str>>, PayloadError> {
    let essence = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return read_xhr_send(body, limits);
    }
    check_size(body, limits)?;
    let field = body.split(|byte| *byte == b'&').find_map(|pair| pair.strip_prefix(b"d="));
    match form_decode(field.ok_or(PayloadError::Expected)?) {
        Cow::Borrowed(value) => read_xhr_send(value, limits),
        Cow::Owned(value) => {
            let messages = read_xhr_send(&value, limits)?;
            Ok(messages.into_iter().map(|message| Cow::Owned(message.into_owned())).collect())
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Expected {
    Array,
    StringOrArray,
}

fn check_size(payload: &[u8], limits: &Limits) -> Result<(), PayloadError> {
    let limit = limits.bytes;
    if payload.len() > limit { Err(PayloadError::TooLarge { limit }) } else { Ok(()) }
}

fn read_array<'a>(text: &'a str, limits: &Limits) -> Result<Vec<Cow<'a, str>>, PayloadError> {
    if text.is_empty() {
        return Err(PayloadError::Expected);
    }
    let is_array = text.trim_start_matches(JSON_SPACE).starts_with('[');
    if !is_array && serde_json::from_str::<IgnoredAny>(text).is_ok() {
        return Err(PayloadError::Expected);
    }
    read(text, Expected::Array, limits)
}

fn read<'a>(
    text: &'a str,
    expected: Expected,
    limits: &Limits,
) -> Result<Vec<Cow<'a, str>>, PayloadError> {
    parse(text, expected, limits).or_else(|error| match without_lone_surrogates(text) {
        Some(text) if error == PayloadError::Broken => {
            let messages = parse(&text, expected, limits)?;
            Ok(messages.into_iter().map(|message| Cow::Owned(message.into_owned())).collect())
        }
        _ => Err(error),
    })
}

fn parse<'a>(
    text: &'a str,
    expected: Expected,
    limits: &Limits,
) -> Result<Vec<Cow<'a, str>>, PayloadError> {
    let mut is_over = false;
    let messages = Messages { expected, limit: limits.messages, is_over: &mut is_over };
    let mut json = serde_json::Deserializer::from_str(text);
    let read = messages.deserialize(&mut json).and_then(|read| json.end().map(|()| read));
    match read {
        Ok(read) => Ok(read),
        Err(_) if is_over => Err(PayloadError::TooManyMessages { limit: limits.messages }),
        Err(_) => Err(PayloadError::Broken),
    }
}

/// Reads messages, and no more than the limit.
struct Messages<'o> {
    expected: Expected,
    limit: usize,
    is_over: &'o mut bool,
}

impl<'de> DeserializeSeed<'de> for Messages<'_> {
    type Value = Vec<Cow<'de, str>>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        match self.expected {
            Expected::Array => json.deserialize_seq(self),
            Expected::StringOrArray => json.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Messages<'_> {
    type Value = Vec<Cow<'de, str>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("strings")
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(vec![Cow::Borrowed(text)])
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(vec![Cow::Owned(text.to_owned())])
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut messages = Vec::new();
        while let Some(Message(message)) = items.next_element()? {
            if messages.len() == self.limit {
                *self.is_over = true;
                return Err(de::Error::custom("too many"));
            }
            messages.push(message);
        }
        Ok(messages)
    }
}

struct Message<'de>(Cow<'de, str>);

impl<'de> de::Deserialize<'de> for Message<'de> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_str(MessageVisitor)
    }
}

struct MessageVisitor;

impl<'de> Visitor<'de> for MessageVisitor {
    type Value = Message<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Message(Cow::Borrowed(text)))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Message(Cow::Owned(text.to_owned())))
    }
}

/// The same JSON with halves of surrogate pairs replaced, if it has any.
fn without_lone_surrogates(json: &str) -> Option<String> {
    let mut repaired = String::new();
    let mut copied = 0;
    let mut at = 0;
    while let Some(found) = json[at..].find('\\') {
        at += found;
        match (surrogate(&json[at..]), json.get(at + 6..).and_then(surrogate)) {
            (Some(Half::High), Some(Half::Low)) => at += 12,
            (Some(_), _) => {
                repaired.push_str(&json[copied..at]);
                repaired.push_str("\\ufffd");
                at += 6;
                copied = at;
            }
            // A backslash escapes what follows it, which may be another backslash.
            (None, _) => at += 1 + json[at + 1..].chars().next().map_or(0, char::len_utf8),
        }
    }
    repaired.push_str(&json[copied..]);
    (copied > 0).then_some(repaired)
}

enum Half {
    High,
    Low,
}

/// The half of a pair whose escape the JSON begins with.
fn surrogate(json: &str) -> Option<Half> {
    let digits = json.strip_prefix("\\u")?.get(..4)?;
    // A sign instead of a digit leaves less than 0xD800.
    match u16::from_str_radix(digits, 16).ok()? {
        0xD800..=0xDBFF => Some(Half::High),
        0xDC00..=0xDFFF => Some(Half::Low),
        _ => None,
    }
}

/// Decodes the value of a form's field. A percent sign without two digits is itself.
fn form_decode(value: &[u8]) -> Cow<'_, [u8]> {
    if !value.iter().any(|byte| matches!(byte, b'%' | b'+')) {
        return Cow::Borrowed(value);
    }
    let hex = |digit: u8| char::from(digit).to_digit(16);
    let mut decoded = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        decoded.push(match (byte, after) {
            (b'+', _) => b' ',
            (b'%', [high, low, after @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => {
                    rest = after;
                    (high * 16 + low) as u8
                }
                _ => b'%',
            },
            _ => *byte,
        });
    }
    Cow::Owned(decoded)
}

const JSON_SPACE: [char; 4] = [' ', '\t', '\n', '\r'];

#[cfg(test)]
mod tests;
