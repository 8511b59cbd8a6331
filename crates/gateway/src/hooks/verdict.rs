//! What backends answer to hooks: in JSON, or by 403 alone.

use fanlight_engine::auth::Claims;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::webhook::{Answer, WebhookError};

/// Whether a client may begin a session, or go on with it, as a backend sees it.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Connected {
    pub(super) allow: bool,
    pub(super) reason: Option<String>,
    pub(super) user: Option<String>,
    pub(super) roles: Option<Vec<Box<str>>>,
    pub(super) claims: Option<Claims>,
    pub(super) expires_at: Option<u64>,
}

/// Whether something may be done.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Decided {
    pub(super) allow: bool,
    pub(super) reason: Option<String>,
    /// What is to be published in place of what was to be.
    pub(super) data: Option<Box<RawValue>>,
}

/// An answer that may be no.
pub(super) trait Verdict: DeserializeOwned {
    /// That answer, perhaps with what the client is told.
    fn refusal(reason: Option<String>) -> Self;
}

impl Verdict for Connected {
    fn refusal(reason: Option<String>) -> Self {
        Self { reason, ..Self::default() }
    }
}

impl Verdict for Decided {
    fn refusal(reason: Option<String>) -> Self {
        Self { reason, ..Self::default() }
    }
}

/// Reads an answer. A 403 is one too: it refuses, as `"allow": false` does.
pub(super) fn read<T: Verdict>(
    answer: Result<Answer, WebhookError>,
    kind: &'static str,
) -> Result<T, WebhookError> {
    #[derive(Deserialize)]
    struct Refused {
        reason: Option<String>,
    }
    if let Err(WebhookError::Refused { status: 403, body }) = &answer {
        let refused = serde_json::from_slice::<Refused>(body).ok();
        return Ok(T::refusal(refused.and_then(|refused| refused.reason)));
    }
    answer?.json().inspect_err(|error| {
        tracing::warn!(kind, %error, "what a webhook has answered can't be used");
    })
}

/// A text of a backend for its client: one line of bounded length.
pub(super) fn shown(reason: Option<String>) -> Option<Box<str>> {
    let reason = reason?;
    let line = reason.chars().map(|c| if c.is_control() { ' ' } else { c });
    let line: String = line.take(REASON_MAX_CHARS).collect();
    let line = line.trim();
    (!line.is_empty()).then(|| line.into())
}

const REASON_MAX_CHARS: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_one_line_of_bounded_length() {
        let shown = |text: &str| shown(Some(text.to_owned())).map(String::from);
        assert_eq!(shown("no\r\nlock:\0"), Some("no  lock:".into()));
        assert_eq!(shown(&"x".repeat(1000)).unwrap().len(), 200);
        assert_eq!(shown(" \n"), None);
    }

    #[test]
    fn a_403_refuses_with_the_reason_that_its_body_has_and_no_other_status_does() {
        let refused = |status, body: &'static str| {
            let answer = Err(WebhookError::Refused { status, body: body.into() });
            read::<Decided>(answer, "publish").map(|decided| (decided.allow, decided.reason))
        };
        for (body, reason) in [
            (r#"{"reason":"not yours","more":1}"#, Some("not yours")),
            (r#"{"allow":true,"reason":"no"}"#, Some("no")),
            (r#"{"error":"Forbidden"}"#, None),
            ("<html>Forbidden</html>", None),
            ("", None),
        ] {
            assert_eq!(refused(403, body), Ok((false, reason.map(Into::into))), "{body}");
        }
        assert!(refused(404, r#"{"reason":"not yours"}"#).is_err());
        assert!(read::<Connected>(Err(WebhookError::Status(401)), "connect").is_err());
    }
}
