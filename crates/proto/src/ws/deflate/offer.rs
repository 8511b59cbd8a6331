//! What of permessage-deflate is offered, and whether it can be had (RFC 7692 §5, §7.1).

use std::borrow::Cow;

/// An accepted offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    names_server_window: bool,
}

impl Accepted {
    /// The value of `Sec-WebSocket-Extensions` in the answer.
    pub fn header_value(self) -> &'static str {
        if self.names_server_window {
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; \
             server_max_window_bits=15"
        } else {
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
        }
    }
}

/// Picks the first acceptable offer from the values of the `Sec-WebSocket-Extensions` headers.
///
/// The answer always forbids context takeover both ways (RFC 7692 §7.1.1), for which no client
/// needs to have asked. What is compressed once for all clients has the full window, so an offer
/// that wants a smaller one is declined. So is an offer with any parameter that is unknown,
/// repeated or has a value that it shouldn't have (§7.1).
pub fn negotiate(offers: &[&str]) -> Option<Accepted> {
    offers.iter().flat_map(|header| split_unquoted(header, ',')).find_map(accept)
}

fn accept(offer: &str) -> Option<Accepted> {
    let mut parts = split_unquoted(offer, ';');
    if parts.next()?.trim_matches(WHITESPACE) != "permessage-deflate" {
        return None;
    }
    let mut seen = Vec::new();
    for part in parts {
        let parameter = Parameter::parse(part)?;
        // A client's own window is never wider than what the inflater has.
        if seen.contains(&parameter.name)
            || (parameter.name == Name::ServerMaxWindowBits && parameter.window_bits != Some(15))
        {
            return None;
        }
        seen.push(parameter.name);
    }
    Some(Accepted {
        // RFC 7692 §7.1.2.1: to accept the parameter is to answer with it.
        names_server_window: seen.contains(&Name::ServerMaxWindowBits),
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    ServerNoContextTakeover,
    ClientNoContextTakeover,
    ServerMaxWindowBits,
    ClientMaxWindowBits,
}

struct Parameter {
    name: Name,
    window_bits: Option<u8>,
}

impl Parameter {
    fn parse(text: &str) -> Option<Self> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(unquote(value.trim_matches(WHITESPACE))?)),
            None => (text, None),
        };
        let (name, value_allowed, value_required) = match name.trim_matches(WHITESPACE) {
            "server_no_context_takeover" => (Name::ServerNoContextTakeover, false, false),
            "client_no_context_takeover" => (Name::ClientNoContextTakeover, false, false),
            "server_max_window_bits" => (Name::ServerMaxWindowBits, true, true),
            "client_max_window_bits" => (Name::ClientMaxWindowBits, true, false),
            _ => return None,
        };
        let window_bits = match value {
            None if value_required => return None,
            Some(_) if !value_allowed => return None,
            None => None,
            Some(value) => Some(parse_window_bits(&value)?),
        };
        Some(Self { name, window_bits })
    }
}

/// 8 to 15, without a leading zero (RFC 7692 §7.1.2).
fn parse_window_bits(value: &str) -> Option<u8> {
    match value {
        "8" => Some(8),
        "9" => Some(9),
        "10" => Some(10),
        "11" => Some(11),
        "12" => Some(12),
        "13" => Some(13),
        "14" => Some(14),
        "15" => Some(15),
        _ => None,
    }
}

/// The content of a quoted string (RFC 9110 §5.6.4), or the text itself if it isn't one.
fn unquote(value: &str) -> Option<Cow<'_, str>> {
    let Some(quoted) = value.strip_prefix('"') else {
        return Some(Cow::Borrowed(value));
    };
    let mut content = String::new();
    let mut rest = quoted.chars();
    loop {
        match rest.next()? {
            '"' => break,
            '\\' => content.push(rest.next()?),
            character => content.push(character),
        }
    }
    rest.as_str().is_empty().then_some(Cow::Owned(content))
}

/// `text` between `separator`s, save those within quoted strings.
fn split_unquoted(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let mut escaped = false;
    text.split(move |character| {
        let splits = character == separator && !quoted;
        match character {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => {}
        }
        splits
    })
}

const WHITESPACE: [char; 2] = [' ', '\t'];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLAIN: Option<&str> =
        Some("permessage-deflate; server_no_context_takeover; client_no_context_takeover");
    const WITH_WINDOW: Option<&str> = Some(
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover; \
         server_max_window_bits=15",
    );

    fn answer(offers: &[&str]) -> Option<&'static str> {
        negotiate(offers).map(Accepted::header_value)
    }

    #[test]
    fn an_offer_is_accepted_if_every_parameter_of_it_can_be() {
        for (offer, expected) in [
            ("permessage-deflate", PLAIN),
            ("permessage-deflate; client_max_window_bits", PLAIN),
            ("permessage-deflate;client_max_window_bits=8", PLAIN),
            ("permessage-deflate; client_max_window_bits=\"1\\0\"", PLAIN),
            (
                "\tpermessage-deflate ;server_no_context_takeover ; client_no_context_takeover",
                PLAIN,
            ),
            ("permessage-deflate; server_max_window_bits=15", WITH_WINDOW),
            ("permessage-deflate; server_max_window_bits=\"15\"", WITH_WINDOW),
            ("permessage-deflate; server_max_window_bits=14", None),
            ("permessage-deflate; server_max_window_bits", None),
            ("permessage-deflate; server_max_window_bits=", None),
            ("permessage-deflate; client_max_window_bits=7", None),
            ("permessage-deflate; client_max_window_bits=16", None),
            ("permessage-deflate; client_max_window_bits=015", None),
            ("permessage-deflate; client_max_window_bits=\"15", None),
            ("permessage-deflate; client_max_window_bits=\"15\"5", None),
            ("permessage-deflate; client_max_window_bits; client_max_window_bits", None),
            ("permessage-deflate; server_no_context_takeover=1", None),
            ("permessage-deflate; client_no_context_takeover=", None),
            ("permessage-deflate; server_no_context_takeover; server_no_context_takeover", None),
            ("permessage-deflate; unknown", None),
            ("permessage-deflate;", None),
            ("x-webkit-deflate-frame", None),
            ("permessage-deflate-x", None),
            ("", None),
        ] {
            assert_eq!(answer(&[offer]), expected, "{offer}");
        }
    }

    #[test]
    fn the_first_acceptable_offer_is_taken_wherever_it_stands() {
        for (offers, expected) in [
            (&[][..], None),
            (&["permessage-bzip2, permessage-deflate"][..], PLAIN),
            (&["permessage-bzip2", "permessage-deflate"], PLAIN),
            (&["permessage-deflate; server_max_window_bits=10, permessage-deflate"], PLAIN),
            (&["permessage-deflate; server_max_window_bits=15, permessage-deflate"], WITH_WINDOW),
            (&["other; a=\"x, permessage-deflate\", permessage-deflate; unknown"], None),
            (&["other; a=\"\\\", permessage-deflate"], None),
        ] {
            assert_eq!(answer(offers), expected, "{offers:?}");
        }
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(header in "(permessage-deflate|[;,=\"\\\\ a-z0-9]|\\PC){0,20}") {
            let _ = negotiate(&[&header]);
        }
    }
}
