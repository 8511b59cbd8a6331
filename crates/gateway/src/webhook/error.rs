//! Why a backend's answer is not there.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;

use super::connect::NotAllowed;
use crate::causes::causes;

/// Why there is no answer. The texts are for the log; clients are told the [`WebhookError::code`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WebhookError {
    /// It failed too often; nothing is sent until then.
    #[error("it has failed too often; the next try is in {}", humantime::format_duration(*.0))]
    BreakerOpen(Duration),
    /// Too many wait already, or this one has waited too long.
    #[error("too many requests wait for it; it is slow, or `concurrency` too small")]
    Overloaded,
    /// It did not answer in time. It may have done what it was asked for.
    #[error("no answer within {}", humantime::format_duration(*.0))]
    Timeout(Duration),
    /// Its address is not allowed; what would be set to allow it is told.
    #[error("{0}")]
    Forbidden(String),
    /// It can't be connected to.
    #[error("can't connect: {0}")]
    Connect(String),
    /// The connection broke, or it does not speak HTTP. It may have done what it was asked for.
    #[error("no answer in HTTP: {0}")]
    Broken(String),
    /// Its answer is larger than `max_answer`.
    #[error("the answer is larger than max_answer")]
    TooLarge,
    /// It sends elsewhere, and is not followed.
    #[error("it answered {0}, a redirect, which is not followed; set the url that it leads to")]
    Redirect(u16),
    /// It answered with a status that is neither a success nor a word about the request.
    #[error("it answered {0}")]
    Status(u16),
    /// It answered with a 4xx that is such a word: no other than 401, 408, 425 and 429 is none.
    #[error("it answered {status}")]
    Refused {
        /// The status.
        status: u16,
        /// The body; nothing where it is larger than a refusal may be, or broke off.
        body: Bytes,
    },
    /// Its answer is not what was asked for.
    #[error("its answer can't be read: {0}")]
    Malformed(String),
    /// What is to be sent can't be written as JSON.
    #[error("what is to be sent is not JSON: {0}")]
    Unwritable(String),
    /// The node ends.
    #[error("this node ends")]
    Ended,
}

impl WebhookError {
    /// For metrics: the value of the label `result`.
    pub fn result(&self) -> &'static str {
        match self {
            Self::BreakerOpen(_) => "breaker_open",
            Self::Overloaded => "overloaded",
            Self::Timeout(_) => "timeout",
            Self::Forbidden(_) => "forbidden_address",
            Self::Connect(_) => "connect",
            Self::Broken(_) => "broken",
            Self::TooLarge => "too_large",
            Self::Redirect(_) => "redirect",
            Self::Status(400..=499) | Self::Refused { .. } => "client_error",
            Self::Status(_) => "server_error",
            Self::Malformed(_) | Self::Unwritable(_) => "malformed",
            Self::Ended => "cancelled",
        }
    }

    /// For clients: `timeout`, or else `unavailable`.
    pub fn code(&self) -> &'static str {
        if matches!(self, Self::Timeout(_)) { "timeout" } else { "unavailable" }
    }

    /// When to try again, where that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::BreakerOpen(after) => Some(*after),
            _ => None,
        }
    }

    /// Whether it says that the backend is not well, rather than that it did not like the request.
    pub(super) fn is_failure(&self) -> bool {
        match self {
            Self::Status(status) => matches!(*status, 408 | 429 | 500..),
            Self::Timeout(_)
            | Self::Forbidden(_)
            | Self::Connect(_)
            | Self::Broken(_)
            | Self::TooLarge
            | Self::Redirect(_) => true,
            Self::BreakerOpen(_)
            | Self::Overloaded
            | Self::Refused { .. }
            | Self::Malformed(_)
            | Self::Unwritable(_)
            | Self::Ended => false,
        }
    }

    /// Whether an answer with this status is a word about the request.
    pub(super) fn is_refusal(status: u16) -> bool {
        (400..500).contains(&status) && !matches!(status, 401 | 408 | 425 | 429)
    }

    /// Whether it is the backend's answer to a question of this kind, and nothing to complain of.
    /// 404 and 405 most often say that the `url` is wrong.
    pub(super) fn is_answer(&self, kind: &str) -> bool {
        match (self, kind) {
            (Self::Refused { status, .. }, "message" | "request") => !matches!(status, 404 | 405),
            (
                Self::Refused { status: 403, .. },
                "connect" | "refresh" | "subscribe" | "publish",
            ) => true,
            _ => false,
        }
    }

    /// The status, of an answer that is no success.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Status(status) | Self::Redirect(status) | Self::Refused { status, .. } => {
                Some(*status)
            }
            _ => None,
        }
    }

    /// Whether the same request may come to something else at once.
    pub(super) fn is_passing(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::Broken(_) | Self::Status(500 | 502 | 503 | 504))
    }
}

impl From<hyper_util::client::legacy::Error> for WebhookError {
    fn from(error: hyper_util::client::legacy::Error) -> Self {
        let mut cause: Option<&(dyn Error + 'static)> = Some(&error);
        while let Some(error) = cause {
            let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
            if let Some(refused) = inner.and_then(|inner| inner.downcast_ref::<NotAllowed>()) {
                return Self::Forbidden(refused.to_string());
            }
            cause = error.source();
        }
        let text = causes(&error);
        if error.is_connect() { Self::Connect(text) } else { Self::Broken(text) }
    }
}
