//! The kinds of value that options hold: durations, sizes, secrets and origins.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

/// A length of time, written for people: `"25s"`, `"1m 30s"`, `"250ms"`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl Span {
    /// So many seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// So many milliseconds.
    pub const fn milliseconds(milliseconds: u64) -> Self {
        Self(Duration::from_millis(milliseconds))
    }

    /// In milliseconds, at most `u64::MAX`.
    pub fn as_ms(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

/// Why a text is not a [`Span`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a duration; write a number with its unit, as in \"25s\", \"1m 30s\" or \"250ms\"")]
pub struct BadSpan;

impl FromStr for Span {
    type Err = BadSpan;

    fn from_str(text: &str) -> Result<Self, BadSpan> {
        humantime::parse_duration(text).map(Self).map_err(|_| BadSpan)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

/// A number of bytes, written for people: `"64KiB"`, `"1MB"`, `"512"`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl Size {
    /// So many times 1,024 bytes.
    pub const fn kib(kib: u64) -> Self {
        Self(kib * 1024)
    }

    /// In bytes, as lengths are counted.
    pub fn as_bytes(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// Why a text is not a [`Size`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a size; write a number of bytes with or without a unit, as in \"64KiB\" or \"1MiB\"")]
pub struct BadSize;

impl FromStr for Size {
    type Err = BadSize;

    fn from_str(text: &str) -> Result<Self, BadSize> {
        text.parse::<bytesize::ByteSize>().map(|size| Self(size.as_u64())).map_err(|_| BadSize)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        match units.into_iter().find(|(bytes, _)| self.0 != 0 && self.0.is_multiple_of(*bytes)) {
            Some((bytes, unit)) => write!(f, "{}{unit}", self.0 / bytes),
            None => write!(f, "{}B", self.0),
        }
    }
}

/// A text that is never shown: `Debug`, `Serialize` and errors say only that there is one.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    /// What stands where a secret would.
    pub const HIDDEN: &'static str = "(hidden)";

    /// Keeps `text` from being shown.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether nothing was given.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() { "" } else { Self::HIDDEN })
    }
}

impl FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self::new(text))
    }
}

/// An origin that browsers may connect from.
#[derive(Clone, PartialEq, Eq)]
pub enum OriginRule {
    /// `*`: any origin.
    Any,
    /// `https://app.example.com`: exactly this one.
    Exact(String),
    /// `https://*.example.com`: any subdomain, at any depth, but not the domain itself.
    Subdomains {
        /// With the separator: `https://`.
        scheme: String,
        /// With the leading dot and the port, if any: `.example.com`.
        suffix: String,
    },
}

/// A range of addresses: `10.0.0.0/8`, `2001:db8::/32`, or one address.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Network(pub IpNet);

/// Why a text is not a [`Network`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a range of addresses; write it as in \"10.0.0.0/8\" or \"2001:db8::/32\"")]
pub struct BadNetwork;

impl FromStr for Network {
    type Err = BadNetwork;

    fn from_str(text: &str) -> Result<Self, BadNetwork> {
        let one = || text.parse::<IpAddr>().map(IpNet::from);
        text.parse().or_else(|_| one()).map(Self).map_err(|_| BadNetwork)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a text is not an [`OriginRule`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "not an origin; write scheme and host without a path, as in \"https://app.example.com\", \
     \"https://*.example.com\" or \"http://localhost:3000\", or \"*\" for any"
)]
pub struct BadOrigin;

impl OriginRule {
    /// Whether this rule admits `origin`, the header's value.
    pub fn admits(&self, origin: &str) -> bool {
        let origin = origin.to_ascii_lowercase();
        match self {
            Self::Any => true,
            Self::Exact(exact) => *exact == origin,
            Self::Subdomains { scheme, suffix } => origin
                .strip_prefix(scheme.as_str())
                .and_then(|host| host.strip_suffix(suffix.as_str()))
                .is_some_and(|name| !name.is_empty() && name.split('.').all(is_label)),
        }
    }
}

impl FromStr for OriginRule {
    type Err = BadOrigin;

    fn from_str(text: &str) -> Result<Self, BadOrigin> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let text = text.to_ascii_lowercase();
        let (scheme, authority) = text.split_once("://").ok_or(BadOrigin)?;
        if !matches!(scheme, "http" | "https") {
            return Err(BadOrigin);
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !authority.ends_with(']') => (host, Some(port)),
            _ => (authority, None),
        };
        if port.is_some_and(|port| port.parse::<u16>().is_err()) {
            return Err(BadOrigin);
        }
        if let Some(domain) = host.strip_prefix("*.") {
            let known = domain.split('.').all(is_label);
            let suffix = authority.strip_prefix('*').unwrap_or_default().to_owned();
            return if known {
                Ok(Self::Subdomains { scheme: format!("{scheme}://"), suffix })
            } else {
                Err(BadOrigin)
            };
        }
        let address = host.starts_with('[') && host.ends_with(']');
        if address || host.split('.').all(is_label) {
            Ok(Self::Exact(text))
        } else {
            Err(BadOrigin)
        }
    }
}

impl fmt::Display for OriginRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(exact) => f.write_str(exact),
            Self::Subdomains { scheme, suffix } => write!(f, "{scheme}*{suffix}"),
        }
    }
}

fn is_label(label: &str) -> bool {
    !label.is_empty()
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

/// Serde and schema by way of `FromStr` and `Display`, so that a value reads the same in a file,
/// an environment variable and a flag.
macro_rules! as_text {
    ($type:ty, $name:expr, $schema:tt) => {
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl schemars::JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!($schema)
            }
        }
    };
}
pub(crate) use as_text;

as_text!(Span, "Duration", { "type": "string", "title": "duration" });
as_text!(Size, "Size", { "type": ["string", "integer"], "title": "size" });
as_text!(Secret, "Secret", { "type": "string", "title": "secret", "writeOnly": true });
as_text!(OriginRule, "Origin", { "type": "string", "title": "origin" });
as_text!(Network, "Network", { "type": "string", "title": "network" });

macro_rules! debug_as_display {
    ($($type:ty),+) => {
        $(impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        })+
    };
}
debug_as_display!(Span, Size, Secret, OriginRule, Network);

/// An enum of words: one spelling in files, variables, flags and messages, and an error that
/// lists them all.
macro_rules! words {
    (
        $(#[$meta:meta])*
        $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal),+ $(,)? }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$doc])* $variant),+ }

        impl $name {
            /// Every value.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word for it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                Self::ALL.iter().copied().find(|word| word.as_str() == text).ok_or_else(|| {
                    let words = [$(concat!("\"", $word, "\"")),+];
                    format!("not one of {}", words.join(", "))
                })
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        $crate::config::values::as_text!(
            $name, stringify!($name), { "type": "string", "enum": [$($word),+] }
        );
    };
}
pub(crate) use words;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_read_as_people_write_them() {
        for (text, bytes) in [("64KiB", 65_536), ("1 MiB", 1 << 20), ("512", 512), ("1kB", 1000)] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for (text, ms) in [("25s", 25_000), ("1m 30s", 90_000), ("250ms", 250), ("0s", 0)] {
            assert_eq!(text.parse::<Span>().map(Span::as_ms), Ok(ms), "{text}");
        }
        assert_eq!("25".parse::<Span>(), Err(BadSpan), "a duration needs its unit");
        assert_eq!("many".parse::<Size>(), Err(BadSize));
    }

    #[test]
    fn what_is_shown_reads_back_the_same() {
        for size in [Size(0), Size(1), Size(1000), Size::kib(64), Size(3 << 20), Size(1 << 30)] {
            assert_eq!(size.to_string().parse(), Ok(size));
        }
        for span in [Span::seconds(0), Span::seconds(240), Span(Duration::from_millis(1500))] {
            assert_eq!(span.to_string().parse(), Ok(span));
        }
        for text in ["*", "https://a.example.com", "https://*.example.com:8443", "http://[::1]:80"]
        {
            assert_eq!(text.parse::<OriginRule>().map(|rule| rule.to_string()), Ok(text.into()));
        }
    }

    #[test]
    fn an_origin_rule_admits_only_what_it_says() {
        for (rule, origin, admitted) in [
            ("https://app.example.com", "https://app.example.com", true),
            ("https://app.example.com", "https://APP.example.com", true),
            ("https://app.example.com", "http://app.example.com", false),
            ("https://app.example.com", "https://app.example.com:444", false),
            ("https://*.example.com", "https://a.b.example.com", true),
            ("https://*.example.com", "https://example.com", false),
            ("https://*.example.com", "https://evilexample.com", false),
            ("https://*.example.com", "https://evil.com/.example.com", false),
            ("https://*.example.com", "https://evil.com#.example.com", false),
            ("https://*.example.com", "http://a.example.com", false),
            ("https://*.example.com:8443", "https://a.example.com:8443", true),
            ("*", "https://anything.test", true),
        ] {
            let parsed: OriginRule = rule.parse().unwrap();
            assert_eq!(parsed.admits(origin), admitted, "{rule} on {origin}");
        }
        for text in
            ["example.com", "https://", "ftp://a", "https://a/b", "https://*", "https://a:x"]
        {
            assert_eq!(text.parse::<OriginRule>(), Err(BadOrigin), "{text}");
        }
    }

    #[test]
    fn a_secret_never_shows() {
        let secret = Secret::new("hunter2");
        let shown = format!("{secret} {secret:?} {}", serde_json::to_string(&secret).unwrap());
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
