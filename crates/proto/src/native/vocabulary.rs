//! The names of client messages and their fields, and which has which.

/// The types of client messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Connect,
    Subscribe,
    Unsubscribe,
    Send,
    History,
    Presence,
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
    Encoding,
    Headers,
    Since,
    History,
    Limit,
    Key,
    Presence,
    Cursor,
    Ids,
    Ack,
    Prefetch,
    Session,
    ExcludeSelf,
}

impl Kind {
    pub(super) const ALL: [Self; 10] = [
        Self::Connect,
        Self::Subscribe,
        Self::Unsubscribe,
        Self::Send,
        Self::History,
        Self::Presence,
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
            Self::History => "history",
            Self::Presence => "presence",
            Self::Refresh => "refresh",
            Self::Ping => "ping",
            Self::Ack => "ack",
            Self::Nack => "nack",
        }
    }

    /// The fields it may have.
    pub(super) fn fields(self) -> &'static [Field] {
        use Field::{
            Ack, ContentType, Cursor, Data, Encoding, ExcludeSelf, Headers, History, Id, Ids, Key,
            Limit, Prefetch, Presence, Session, Since, To, Token, Type,
        };
        match self {
            Self::Connect => &[Type, Token],
            Self::Subscribe => &[Type, To, Since, History, Presence, Ack, Prefetch, Token, Id],
            Self::Unsubscribe => &[Type, To, Id],
            Self::Send => &[
                Type,
                To,
                Data,
                ContentType,
                Encoding,
                Headers,
                Key,
                Session,
                ExcludeSelf,
                Token,
                Id,
            ],
            Self::History => &[Type, To, Since, Limit, Id],
            Self::Presence => &[Type, To, Cursor, Limit, Id],
            Self::Refresh => &[Type, Token, Id],
            Self::Ping => &[Type, Id],
            Self::Ack | Self::Nack => &[Type, Ids, Id],
        }
    }

    /// Those of them that it must have.
    pub(super) fn needed_fields(self) -> &'static [Field] {
        use Field::{Data, Id, Ids, Limit, To, Token};
        match self {
            Self::Connect | Self::Ping => &[],
            Self::Subscribe | Self::Unsubscribe => &[To],
            Self::Send => &[To, Data],
            Self::History => &[To, Limit, Id],
            Self::Presence => &[To, Id],
            Self::Refresh => &[Token],
            Self::Ack | Self::Nack => &[Ids],
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl Field {
    pub(super) const ALL: [Self; 19] = [
        Self::Type,
        Self::Id,
        Self::Token,
        Self::To,
        Self::Data,
        Self::ContentType,
        Self::Encoding,
        Self::Headers,
        Self::Since,
        Self::History,
        Self::Limit,
        Self::Key,
        Self::Presence,
        Self::Cursor,
        Self::Ids,
        Self::Ack,
        Self::Prefetch,
        Self::Session,
        Self::ExcludeSelf,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Type => "type",
            Self::Id => "id",
            Self::Token => "token",
            Self::To => "to",
            Self::Data => "data",
            Self::ContentType => "content_type",
            Self::Encoding => "encoding",
            Self::Headers => "headers",
            Self::Since => "since",
            Self::History => "history",
            Self::Limit => "limit",
            Self::Key => "key",
            Self::Presence => "presence",
            Self::Cursor => "cursor",
            Self::Ids => "ids",
            Self::Ack => "ack",
            Self::Prefetch => "prefetch",
            Self::Session => "session",
            Self::ExcludeSelf => "exclude_self",
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|field| field.name() == name)
    }
}
