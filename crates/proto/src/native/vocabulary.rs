//! The names of client messages and their fields, and which has which.

/// The types of client messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Connect,
    Subscribe,
    Unsubscribe,
    Send,
    Refresh,
    Ping,
    Ack,
    Nack,
}

/// The fields of client messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    Type,
    Id,
    Token,
    To,
    Data,
    ContentType,
    Headers,
    Ids,
    Ack,
    Prefetch,
}

impl Kind {
    pub(super) const ALL: [Self; 8] = [
        Self::Connect,
        Self::Subscribe,
        Self::Unsubscribe,
        Self::Send,
        Self::Refresh,
        Self::Ping,
        Self::Ack,
        Self::Nack,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Subscribe => "subscribe",
            Self::Unsubscribe => "unsubscribe",
            Self::Send => "send",
            Self::Refresh => "refresh",
            Self::Ping => "ping",
            Self::Ack => "ack",
            Self::Nack => "nack",
        }
    }

    /// The fields it may have.
    pub(super) fn fields(self) -> &'static [Field] {
        use Field::{Ack, ContentType, Data, Headers, Id, Ids, Prefetch, To, Token, Type};
        match self {
            Self::Connect => &[Type, Token],
            Self::Subscribe => &[Type, To, Id, Ack, Prefetch],
            Self::Unsubscribe => &[Type, To, Id],
            Self::Send => &[Type, To, Data, ContentType, Headers, Id],
            Self::Refresh => &[Type, Token, Id],
            Self::Ping => &[Type, Id],
            Self::Ack | Self::Nack => &[Type, Ids, Id],
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl Field {
    pub(super) const ALL: [Self; 10] = [
        Self::Type,
        Self::Id,
        Self::Token,
        Self::To,
        Self::Data,
        Self::ContentType,
        Self::Headers,
        Self::Ids,
        Self::Ack,
        Self::Prefetch,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Type => "type",
            Self::Id => "id",
            Self::Token => "token",
            Self::To => "to",
            Self::Data => "data",
            Self::ContentType => "content_type",
            Self::Headers => "headers",
            Self::Ids => "ids",
            Self::Ack => "ack",
            Self::Prefetch => "prefetch",
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|field| field.name() == name)
    }
}
