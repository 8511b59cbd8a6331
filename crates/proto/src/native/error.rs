//! What a client did wrong in the native protocol, and to which request it is to be told.

use std::fmt;

use crate::close::CloseReason;

use super::RequestId;
use super::client::{MAX_BATCH, MAX_HEADERS};
use super::vocabulary::Kind;

/// A message that can't be understood, and the id to answer it with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NativeError {
    problem: Problem,
    request_id: Option<RequestId>,
}

/// A rule that the client broke.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Not JSON.
    #[error("not JSON: {reason}")]
    NotJson {
        /// What the parser says, with line and column.
        reason: Box<str>,
    },
    /// JSON, but neither an object nor, at the top, an array.
    #[error("a message is a JSON object with a `type`, or an array of such objects")]
    NotAnObject,
    /// More objects in an array than [`MAX_BATCH`].
    #[error("more than {MAX_BATCH} messages in one array; send them in several")]
    BatchTooLarge,
    /// `id` is neither a number nor a string, or longer than [`RequestId::MAX_BYTES`].
    #[error("`id` must be a number or a string of at most {} bytes", RequestId::MAX_BYTES)]
    BadId,
    /// A `type` that is not known here; only its beginning is kept.
    #[error("unknown type {found:?}; known are {}", list(Kind::ALL.map(Kind::name)))]
    UnknownType {
        /// The type's beginning.
        found: Box<str>,
    },
    /// A `type` that is not for this place, where there is only one; only its beginning is kept.
    #[error("the type {found:?} is not for here; only {expected:?} is, and may be left out")]
    OtherType {
        /// The type that is for here.
        expected: &'static str,
        /// The type's beginning.
        found: Box<str>,
    },
    /// A field that messages of this type do not have; only its beginning is kept.
    #[error("unknown field {found:?} in {kind}; known are {}", known_fields(kind))]
    UnknownField {
        /// The message's type.
        kind: &'static str,
        /// The field's beginning.
        found: Box<str>,
    },
    /// A field, or a name in `headers`, that occurs twice.
    #[error("{field:?} occurs twice")]
    Repeated {
        /// Its name.
        field: Box<str>,
    },
    /// A required field is missing.
    #[error("missing field `{field}` in {kind}, which needs {}", needed_fields(kind))]
    MissingField {
        /// The message's type.
        kind: &'static str,
        /// Its name.
        field: &'static str,
    },
    /// `type` is missing.
    #[error("missing field `type`; known types are {}", list(Kind::ALL.map(Kind::name)))]
    MissingType,
    /// A field's value is of the wrong JSON type.
    #[error("`{field}` must be {expected}")]
    WrongType {
        /// Its name.
        field: &'static str,
        /// What it must be.
        expected: &'static str,
    },
    /// A `subscribe` that would begin at two places.
    #[error("`since` and `history` exclude each other; give one of them")]
    SinceAndHistory,
    /// `data` is not base64, though its encoding is, or its content type is not JSON.
    #[error(
        "`data` must be a base64 string (standard alphabet, padded), as `content_type` is not JSON; \
         for a text give `encoding`"
    )]
    NotBase64,
    /// `data` is no string, though it is to be a text.
    #[error("`data` must be a string, as `encoding` is text")]
    NotText,
    /// What is JSON by its content type travels as JSON.
    #[error("`encoding` must be json or left out, as `content_type` is JSON")]
    JsonInOtherEncoding,
    /// More headers than [`MAX_HEADERS`].
    #[error("more than {MAX_HEADERS} headers")]
    TooManyHeaders,
}

impl NativeError {
    pub(super) fn new(problem: Problem, request_id: Option<RequestId>) -> Self {
        Self { problem, request_id }
    }

    /// What is wrong.
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    /// The id of the request that is to be answered, where one could be read.
    pub fn request_id(&self) -> Option<&RequestId> {
        self.request_id.as_ref()
    }

    /// Why the session ends, should it end for this; its code is also the `error`'s.
    pub fn close_reason(&self) -> CloseReason {
        match self.problem {
            Problem::BatchTooLarge | Problem::TooManyHeaders => CloseReason::LimitExceeded,
            Problem::NotJson { .. }
            | Problem::NotAnObject
            | Problem::BadId
            | Problem::UnknownType { .. }
            | Problem::OtherType { .. }
            | Problem::UnknownField { .. }
            | Problem::Repeated { .. }
            | Problem::MissingField { .. }
            | Problem::MissingType
            | Problem::WrongType { .. }
            | Problem::SinceAndHistory
            | Problem::NotBase64
            | Problem::NotText
            | Problem::JsonInOtherEncoding => CloseReason::ProtocolError,
        }
    }
}

impl fmt::Display for NativeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.problem.fmt(f)
    }
}

impl std::error::Error for NativeError {}

fn known_fields(kind: &str) -> String {
    let fields = Kind::named(kind).map(Kind::fields).unwrap_or_default();
    list(fields.iter().map(|field| field.name()))
}

fn needed_fields(kind: &str) -> String {
    let fields = Kind::named(kind).map(Kind::needed_fields).unwrap_or_default();
    list(fields.iter().map(|field| field.name()))
}

fn list(names: impl IntoIterator<Item = &'static str>) -> String {
    names.into_iter().collect::<Vec<_>>().join(", ")
}
