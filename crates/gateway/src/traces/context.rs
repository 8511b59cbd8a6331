//! `traceparent`: which trace something belongs to, as W3C Trace Context writes it.

use fanlight_engine::publication::Publication;
use opentelemetry::trace::{SpanId, TraceId};

/// The header that carries it.
pub const TRACEPARENT: &str = "traceparent";

/// What it is carried among.
pub type Headers = Box<[(Box<str>, Box<str>)]>;

/// A span that others may be children of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    /// Its trace.
    pub trace: TraceId,
    /// The span itself.
    pub span: SpanId,
    /// Whether the trace is recorded.
    pub is_sampled: bool,
}

impl Context {
    /// Reads a `traceparent` without an allocation; `None` if it is not one (§3.2).
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let (head, rest) = bytes.split_at_checked(LENGTH)?;
        let [b'-', b'-', b'-'] = [head[2], head[35], head[52]] else { return None };
        let version = hex(&head[..2])?;
        // A later version may say more behind it, and must mean the same so far (§4.3).
        let goes_on = version > 0 && rest.first() == Some(&b'-');
        if version == 0xff || !(rest.is_empty() || goes_on) {
            return None;
        }
        let trace = TraceId::from(hex(&head[3..35])?);
        let span = SpanId::from(hex(&head[36..52])? as u64);
        let is_sampled = hex(&head[53..])? & 1 == 1;
        let is_valid = trace != TraceId::INVALID && span != SpanId::INVALID;
        is_valid.then_some(Self { trace, span, is_sampled })
    }

    /// What a publication came with.
    pub fn of(publication: &Publication) -> Option<Self> {
        Self::within(&publication.headers)
    }

    /// What is among headers.
    pub fn within(headers: &[(Box<str>, Box<str>)]) -> Option<Self> {
        let carried = headers.iter().find(|(name, _)| &**name == TRACEPARENT);
        carried.and_then(|(_, value)| Self::parse(value))
    }

    /// Makes headers carry it, in place of what they came with.
    pub fn put_within(&self, headers: &mut Headers) {
        let value = self.to_string().into();
        let mut all = std::mem::take(headers).into_vec();
        match all.iter_mut().find(|(name, _)| &**name == TRACEPARENT) {
            Some((_, carried)) => *carried = value,
            None => all.push((TRACEPARENT.into(), value)),
        }
        *headers = all.into();
    }
}

impl std::fmt::Display for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "00-{}-{}-{:02x}", self.trace, self.span, u8::from(self.is_sampled))
    }
}

/// A number in lower-case hexadecimal digits, the only ones allowed.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number: u128, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

/// Of version 00: version, trace, span and flags, with dashes between.
const LENGTH: usize = 55;

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn what_is_read_is_written_the_same() {
        for text in [GIVEN, &GIVEN.replace("-01", "-00")] {
            let context = Context::parse(text).unwrap();
            assert_eq!(context.to_string(), text);
            assert_eq!(context.is_sampled, text.ends_with('1'));
        }
    }

    #[test]
    fn a_later_version_may_say_more_and_the_first_may_not() {
        let read = |text: &str| Context::parse(text).map(|context| context.to_string());
        assert_eq!(read(&GIVEN.replace("00-4", "cc-4")), Some(GIVEN.into()));
        assert_eq!(read(&format!("{}-more", GIVEN.replace("00-4", "cc-4"))), Some(GIVEN.into()));
        assert_eq!(
            read(&GIVEN.replace("-01", "-fb")),
            Some(GIVEN.into()),
            "other flags are not ours"
        );
        for bad in [
            format!("{GIVEN}-more"),
            format!("{}.more", GIVEN.replace("00-4", "cc-4")),
            GIVEN.replace("00-4", "ff-4"),
        ] {
            assert_eq!(read(&bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_not_a_traceparent_is_none() {
        for bad in [
            "",
            "00",
            "hello",
            &GIVEN[1..],
            &GIVEN.to_uppercase(),
            &GIVEN.replace('-', "_"),
            &GIVEN.replace("4bf9", "+bf9"),
            &GIVEN.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &GIVEN.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &"é".repeat(40),
        ] {
            assert_eq!(Context::parse(bad), None, "{bad}");
        }
    }
}
