//! What clients send: JSON text → [`ClientMessage`]s.

use std::borrow::Cow;
use std::fmt;
use std::vec;

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::position::Position;

use super::error::{NativeError, Problem};
use super::vocabulary::{Field, Kind};
use super::{RequestId, body};

/// One request of a client. Texts are borrowed from the input where they have no escapes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientMessage<'a> {
    /// Opens the session.
    Connect {
        /// The token, unless the handshake carried it.
        token: Option<Cow<'a, str>>,
    },
    /// Asks for a destination's messages.
    Subscribe {
        /// The destination or pattern.
        to: Cow<'a, str>,
        /// First what came after this position.
        since: Option<Position>,
        /// First the newest ones, at most so many: 1 to [`MAX_HISTORY`].
        history: Option<u32>,
        /// Whether to be told who comes and goes.
        presence: bool,
        /// How messages of a queue are acknowledged.
        ack: Option<Cow<'a, str>>,
        /// The most messages of a queue to hold without having acknowledged them.
        prefetch: Option<u16>,
        /// A capability token that allows it.
        token: Option<Cow<'a, str>>,
        /// The request.
        id: Option<RequestId>,
    },
    /// Ends a subscription.
    Unsubscribe {
        /// The destination or pattern, as it was subscribed.
        to: Cow<'a, str>,
        /// The request.
        id: Option<RequestId>,
    },
    /// Publishes.
    Send {
        /// The destination.
        to: Cow<'a, str>,
        /// The body: JSON text as it was sent, a text, or what the base64 stood for.
        body: Bytes,
        /// What the body is; absent means JSON.
        content_type: Option<Cow<'a, str>>,
        /// At most [`MAX_HEADERS`], in the order sent, no name twice.
        headers: HeaderPairs<'a>,
        /// Names the publication: within a while, only the first with it is published.
        key: Option<Cow<'a, str>>,
        /// Of a user's sessions, the only one to get it.
        session: Option<Cow<'a, str>>,
        /// Whether the session that sends it does not get it.
        exclude_self: bool,
        /// A capability token that allows it.
        token: Option<Cow<'a, str>>,
        /// The request.
        id: Option<RequestId>,
    },
    /// Asks for what was published before.
    History {
        /// The destination.
        to: Cow<'a, str>,
        /// The oldest after this position; absent: the newest.
        since: Option<Position>,
        /// At most so many: 1 to [`MAX_HISTORY`].
        limit: u32,
        /// The request.
        id: RequestId,
    },
    /// Asks who is at a destination.
    Presence {
        /// The destination.
        to: Cow<'a, str>,
        /// Where the page before ended.
        cursor: Option<Cow<'a, str>>,
        /// About how many members, up to [`MAX_MEMBERS`]; 0 asks for their count only.
        limit: Option<u32>,
        /// The request, which the answer names.
        id: RequestId,
    },
    /// Replaces the session's token before it expires.
    Refresh {
        /// The new token.
        token: Cow<'a, str>,
        /// The request.
        id: Option<RequestId>,
    },
    /// Asks for a `pong`.
    Ping {
        /// The request.
        id: Option<RequestId>,
    },
    /// Acknowledges messages of queues.
    Ack {
        /// Their ids, at most [`MAX_ACK_IDS`].
        ids: Vec<Cow<'a, str>>,
        /// The request.
        id: Option<RequestId>,
    },
    /// Gives messages of queues back.
    Nack {
        /// Their ids, at most [`MAX_ACK_IDS`].
        ids: Vec<Cow<'a, str>>,
        /// The request.
        id: Option<RequestId>,
    },
}

/// Names and values of a `send`'s headers.
pub type HeaderPairs<'a> = Vec<(Cow<'a, str>, Cow<'a, str>)>;

/// Parses one text message: an object, or an array of at most [`MAX_BATCH`] objects.
///
/// Each object is parsed by itself when it is taken, so that a bad one doesn't lose the others.
/// Text that can't be taken apart, or an array that is too long, gives one error and nothing else.
pub fn parse(text: &str) -> Messages<'_> {
    Messages(match text.trim_start_matches(WHITESPACE).as_bytes().first() {
        Some(b'[') => match serde_json::from_str::<Batch<'_>>(text) {
            Ok(Batch(elements)) if elements.len() > MAX_BATCH => {
                Source::Failed(Some(Problem::BatchTooLarge))
            }
            Ok(Batch(elements)) => Source::Many(elements.into_iter()),
            Err(error) => Source::Failed(Some(not_json(&error))),
        },
        _ => Source::One(Some(text)),
    })
}

/// The messages of one text message; see [`parse`].
#[derive(Debug)]
pub struct Messages<'a>(Source<'a>);

/// The most messages in one array.
pub const MAX_BATCH: usize = 64;

/// The most messages in an `ack` or `nack`.
pub const MAX_ACK_IDS: usize = 256;

/// The most headers in a `send`.
pub const MAX_HEADERS: usize = 64;

/// The most publications that a request can ask for.
pub const MAX_HISTORY: u32 = 128;

/// About the most members that a request can ask for.
pub const MAX_MEMBERS: u32 = 1000;

#[derive(Debug)]
enum Source<'a> {
    One(Option<&'a str>),
    Many(vec::IntoIter<&'a RawValue>),
    Failed(Option<Problem>),
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<ClientMessage<'a>, NativeError>;

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            Source::One(text) => text.take().map(parse_object),
            Source::Many(elements) => elements.next().map(|element| parse_object(element.get())),
            Source::Failed(problem) => problem.take().map(|p| Err(NativeError::new(p, None))),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = match &self.0 {
            Source::One(text) => usize::from(text.is_some()),
            Source::Many(elements) => elements.len(),
            Source::Failed(problem) => usize::from(problem.is_some()),
        };
        (left, Some(left))
    }
}

impl ExactSizeIterator for Messages<'_> {}

/// Parses a `send` that comes alone, so that its `type` need not be said.
pub fn parse_send(text: &str) -> Result<ClientMessage<'_>, NativeError> {
    parse_object_as(text, &[Kind::Send])
}

fn parse_object(text: &str) -> Result<ClientMessage<'_>, NativeError> {
    parse_object_as(text, &Kind::ALL)
}

/// Of these kinds; the only one need not be named.
fn parse_object_as<'a>(text: &'a str, kinds: &[Kind]) -> Result<ClientMessage<'a>, NativeError> {
    if !text.trim_start_matches(WHITESPACE).starts_with('{') {
        return Err(NativeError::new(Problem::NotAnObject, None));
    }
    let fields: Fields<'_> =
        serde_json::from_str(text).map_err(|error| NativeError::new(not_json(&error), None))?;
    let id = match fields.value(Field::Id).map(RequestId::from_raw) {
        None => None,
        Some(Ok(id)) => Some(id),
        Some(Err(problem)) => return Err(NativeError::new(problem, None)),
    };
    fields.into_message(kinds, id.clone()).map_err(|problem| NativeError::new(problem, id))
}

/// An object taken apart, but not yet understood: so an error knows its request's id wherever in
/// the object that stands.
#[derive(Default)]
struct Fields<'a> {
    values: [Option<&'a RawValue>; Field::ALL.len()],
    unknown: Option<Box<str>>,
    repeated: Option<Field>,
}

/// A field that messages of a type must have.
#[derive(Clone, Copy)]
struct Needed {
    kind: Kind,
    field: Field,
}

impl From<Needed> for Problem {
    fn from(Needed { kind, field }: Needed) -> Self {
        Self::MissingField { kind: kind.name(), field: field.name() }
    }
}

impl<'a> Fields<'a> {
    fn into_message(
        self,
        kinds: &[Kind],
        id: Option<RequestId>,
    ) -> Result<ClientMessage<'a>, Problem> {
        let kind = self.kind(kinds)?;
        self.check_names(kind)?;
        let needed = |field| Needed { kind, field };
        Ok(match kind {
            Kind::Connect => ClientMessage::Connect { token: self.text(Field::Token)? },
            Kind::Subscribe => {
                let to = self.required(needed(Field::To))?;
                let (since, history) = (self.since()?, self.count(Field::History)?);
                if since.is_some() && history.is_some() {
                    return Err(Problem::SinceAndHistory);
                }
                let presence = self.plain(Field::Presence, "true or false")?.unwrap_or(false);
                let (ack, prefetch) = (self.text(Field::Ack)?, self.number(Field::Prefetch)?);
                let token = self.text(Field::Token)?;
                ClientMessage::Subscribe { to, since, history, presence, ack, prefetch, token, id }
            }
            Kind::Unsubscribe => {
                ClientMessage::Unsubscribe { to: self.required(needed(Field::To))?, id }
            }
            Kind::Send => return self.send(id),
            Kind::History => {
                let to = self.required(needed(Field::To))?;
                let limit = self.count(Field::Limit)?.ok_or(needed(Field::Limit))?;
                let id = id.ok_or(needed(Field::Id))?;
                ClientMessage::History { to, since: self.since()?, limit, id }
            }
            Kind::Presence => ClientMessage::Presence {
                to: self.required(needed(Field::To))?,
                cursor: self.text(Field::Cursor)?,
                limit: self.members()?,
                id: id.ok_or(needed(Field::Id))?,
            },
            Kind::Refresh => {
                ClientMessage::Refresh { token: self.required(needed(Field::Token))?, id }
            }
            Kind::Ping => ClientMessage::Ping { id },
            Kind::Ack => ClientMessage::Ack { ids: self.ids(needed(Field::Ids))?, id },
            Kind::Nack => ClientMessage::Nack { ids: self.ids(needed(Field::Ids))?, id },
        })
    }

    fn send(self, id: Option<RequestId>) -> Result<ClientMessage<'a>, Problem> {
        let needed = |field| Needed { kind: Kind::Send, field };
        let to = self.required(needed(Field::To))?;
        let content_type = self.text(Field::ContentType)?;
        let data = self.values[Field::Data as usize].ok_or(needed(Field::Data))?;
        let encoding = self.text(Field::Encoding)?;
        let (body, content_type) = body::decode(data, content_type, encoding.as_deref())?;
        Ok(ClientMessage::Send {
            to,
            body,
            headers: self.headers()?,
            key: self.text(Field::Key)?,
            session: self.text(Field::Session)?,
            exclude_self: self.plain(Field::ExcludeSelf, "true or false")?.unwrap_or(false),
            token: self.text(Field::Token)?,
            content_type,
            id,
        })
    }

    fn kind(&self, kinds: &[Kind]) -> Result<Kind, Problem> {
        if let ([only], None) = (kinds, self.value(Field::Type)) {
            return Ok(*only);
        }
        let name = self.text(Field::Type)?.ok_or(Problem::MissingType)?;
        let kind = Kind::named(&name).filter(|kind| kinds.contains(kind));
        kind.ok_or_else(|| match kinds {
            [only] => Problem::OtherType { expected: only.name(), found: beginning(&name) },
            _ => Problem::UnknownType { found: beginning(&name) },
        })
    }

    /// Refuses what messages of this type do not have, or have once only.
    fn check_names(&self, kind: Kind) -> Result<(), Problem> {
        let misplaced = Field::ALL
            .into_iter()
            .find(|field| self.values[*field as usize].is_some() && !kind.fields().contains(field));
        let unknown = self.unknown.as_deref().or(misplaced.map(Field::name));
        if let Some(found) = unknown {
            return Err(Problem::UnknownField { kind: kind.name(), found: found.into() });
        }
        match self.repeated {
            Some(field) => Err(Problem::Repeated { field: field.name().into() }),
            None => Ok(()),
        }
    }

    /// The value, unless it is absent or `null`.
    fn value(&self, field: Field) -> Option<&'a RawValue> {
        self.values[field as usize].filter(|value| value.get() != "null")
    }

    fn text(&self, field: Field) -> Result<Option<Cow<'a, str>>, Problem> {
        let Some(value) = self.value(field) else {
            return Ok(None);
        };
        match serde_json::from_str(value.get()) {
            Ok(Text(text)) => Ok(Some(text)),
            Err(_) => Err(Problem::WrongType { field: field.name(), expected: "a string" }),
        }
    }

    /// A number or a truth value.
    fn plain<T: Deserialize<'a>>(
        &self,
        field: Field,
        expected: &'static str,
    ) -> Result<Option<T>, Problem> {
        let parse = |value: &'a RawValue| serde_json::from_str(value.get());
        let wrong = |_| Problem::WrongType { field: field.name(), expected };
        self.value(field).map(parse).transpose().map_err(wrong)
    }

    fn required(&self, needed: Needed) -> Result<Cow<'a, str>, Problem> {
        self.text(needed.field)?.ok_or_else(|| needed.into())
    }

    /// The position in `since`.
    fn since(&self) -> Result<Option<Position>, Problem> {
        let Some(value) = self.value(Field::Since) else {
            return Ok(None);
        };
        let expected = "an object of `epoch`, a string, and `offset`, a whole number";
        let wrong = Problem::WrongType { field: Field::Since.name(), expected };
        match serde_json::from_str::<Since<'_>>(value.get()) {
            Ok(Since { epoch, offset }) => {
                Position::from_parts(&epoch, offset).map(Some).map_err(|_| wrong)
            }
            Err(_) => Err(wrong),
        }
    }

    /// A number of publications.
    fn count(&self, field: Field) -> Result<Option<u32>, Problem> {
        let Some(value) = self.value(field) else {
            return Ok(None);
        };
        let count = serde_json::from_str::<u32>(value.get()).ok();
        const { assert!(MAX_HISTORY == 128) };
        let expected = "a whole number from 1 to 128";
        let wrong = Problem::WrongType { field: field.name(), expected };
        count.filter(|count| (1..=MAX_HISTORY).contains(count)).ok_or(wrong).map(Some)
    }

    /// A number of members.
    fn members(&self) -> Result<Option<u32>, Problem> {
        const { assert!(MAX_MEMBERS == 1000) };
        let expected = "a whole number from 0 to 1000";
        let limit: Option<u32> = self.plain(Field::Limit, expected)?;
        match limit {
            Some(limit) if limit > MAX_MEMBERS => {
                Err(Problem::WrongType { field: Field::Limit.name(), expected })
            }
            limit => Ok(limit),
        }
    }

    fn number(&self, field: Field) -> Result<Option<u16>, Problem> {
        let Some(value) = self.value(field) else {
            return Ok(None);
        };
        let expected = "a whole number from 1 to 65535";
        match serde_json::from_str(value.get()) {
            Ok(number) if number > 0 => Ok(Some(number)),
            _ => Err(Problem::WrongType { field: field.name(), expected }),
        }
    }

    fn ids(&self, needed: Needed) -> Result<Vec<Cow<'a, str>>, Problem> {
        let field = needed.field.name();
        let value = self.value(needed.field).ok_or(needed)?;
        let expected = "an array of at most 256 strings";
        let texts: Result<Vec<Text<'_>>, _> = serde_json::from_str(value.get());
        match texts {
            Ok(texts) if texts.len() <= MAX_ACK_IDS => {
                Ok(texts.into_iter().map(|Text(text)| text).collect())
            }
            _ => Err(Problem::WrongType { field, expected }),
        }
    }

    fn headers(&self) -> Result<HeaderPairs<'a>, Problem> {
        let Some(value) = self.value(Field::Headers) else {
            return Ok(Vec::new());
        };
        let Headers(headers) = serde_json::from_str(value.get()).map_err(|_| {
            Problem::WrongType { field: Field::Headers.name(), expected: "an object of strings" }
        })?;
        if headers.len() > MAX_HEADERS {
            return Err(Problem::TooManyHeaders);
        }
        for (at, (name, _)) in headers.iter().enumerate() {
            if headers[..at].iter().any(|(earlier, _)| earlier == name) {
                return Err(Problem::Repeated { field: beginning(name) });
            }
        }
        Ok(headers)
    }
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Fields::default();
                while let Some(Text(name)) = map.next_key()? {
                    let value = map.next_value()?;
                    match Field::named(&name) {
                        None => fields.unknown = fields.unknown.or_else(|| Some(beginning(&name))),
                        Some(field) => {
                            if fields.values[field as usize].replace(value).is_some() {
                                fields.repeated = Some(field);
                            }
                        }
                    }
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// A string, borrowed where it has no escapes. (Serde does not borrow in an `Option<Cow<str>>`.)
#[derive(serde::Deserialize)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

/// A position, as a client gives it back.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Since<'a> {
    #[serde(borrow)]
    epoch: Cow<'a, str>,
    offset: u64,
}

/// The elements of an array, at most one more than allowed.
struct Batch<'a>(Vec<&'a RawValue>);

impl<'de> Deserialize<'de> for Batch<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Array;
        impl<'de> Visitor<'de> for Array {
            type Value = Batch<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Batch<'de>, A::Error> {
                let mut elements = Vec::new();
                while elements.len() <= MAX_BATCH
                    && let Some(element) = seq.next_element()?
                {
                    elements.push(element);
                }
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Batch(elements))
            }
        }
        deserializer.deserialize_seq(Array)
    }
}

/// The members of an object of strings, at most one more than allowed.
struct Headers<'a>(HeaderPairs<'a>);

impl<'de> Deserialize<'de> for Headers<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Headers<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Headers<'de>, A::Error> {
                let mut headers = Vec::new();
                while headers.len() <= MAX_HEADERS
                    && let Some((Text(name), Text(value))) = map.next_entry()?
                {
                    headers.push((name, value));
                }
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Headers(headers))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

fn not_json(error: &serde_json::Error) -> Problem {
    Problem::NotJson { reason: error.to_string().into() }
}

/// Enough of a client's text to recognise it in an error.
fn beginning(text: &str) -> Box<str> {
    text.chars().take(32).collect::<String>().into()
}

/// JSON's (RFC 8259 §2).
const WHITESPACE: [char; 4] = [' ', '\t', '\n', '\r'];
