//! Header escapes ("Value Encoding"), with a fast path for text that needs none.

use super::Version;

/// An escape that the version does not define, or a backslash at the end.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UndefinedEscape;

/// Appends a header's value, escaped for `version`, so that it can end neither its line nor its
/// frame. What the version has no escape for becomes a space: NUL in all, CR in 1.1, and both line
/// ends in 1.0.
pub fn escape(value: &str, version: Version, out: &mut Vec<u8>) {
    let special: fn(u8) -> bool = match version {
        Version::V10 => |byte| matches!(byte, b'\n' | b'\r' | 0),
        Version::V11 | Version::V12 => |byte| matches!(byte, b'\n' | b'\r' | 0 | b':' | b'\\'),
    };
    escape_bytes(value, version, special, out);
}

/// The same for a header's name, in which 1.0 cannot express a colon either.
pub(super) fn escape_name(name: &str, version: Version, out: &mut Vec<u8>) {
    let special: fn(u8) -> bool = match version {
        Version::V10 => |byte| matches!(byte, b'\n' | b'\r' | 0 | b':'),
        Version::V11 | Version::V12 => |byte| matches!(byte, b'\n' | b'\r' | 0 | b':' | b'\\'),
    };
    escape_bytes(name, version, special, out);
}

/// Appends `text` with its escapes resolved.
pub(super) fn unescape(
    text: &str,
    version: Version,
    out: &mut String,
) -> Result<(), UndefinedEscape> {
    let mut rest = text;
    while version != Version::V10
        && let Some((plain, escaped)) = rest.split_once('\\')
    {
        out.push_str(plain);
        let mut after = escaped.chars();
        out.push(match (after.next(), version) {
            (Some('n'), _) => '\n',
            (Some('c'), _) => ':',
            (Some('\\'), _) => '\\',
            (Some('r'), Version::V12) => '\r',
            _ => return Err(UndefinedEscape),
        });
        rest = after.as_str();
    }
    out.push_str(rest);
    Ok(())
}

fn escape_bytes(text: &str, version: Version, special: fn(u8) -> bool, out: &mut Vec<u8>) {
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|byte| special(*byte)) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(match (rest[at], version) {
            (b':', Version::V11 | Version::V12) => br"\c",
            (b'\\', _) => br"\\",
            (b'\n', Version::V11 | Version::V12) => br"\n",
            (b'\r', Version::V12) => br"\r",
            _ => b" ",
        });
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(value: &str, version: Version) -> String {
        let mut out = Vec::new();
        escape(value, version, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn unescaped(text: &str, version: Version) -> Option<String> {
        let mut out = String::new();
        unescape(text, version, &mut out).ok().map(|()| out)
    }

    #[test]
    fn each_version_escapes_what_it_can_and_replaces_the_rest_by_spaces() {
        let value = "é:\\\n\r\0!";
        for (version, expected) in [
            (Version::V10, "é:\\   !"),
            (Version::V11, r"é\c\\\n  !"),
            (Version::V12, r"é\c\\\n\r !"),
        ] {
            assert_eq!(escaped(value, version), expected, "{version}");
        }
    }

    #[test]
    fn a_colon_in_a_name_is_escaped_or_replaced() {
        for (version, expected) in
            [(Version::V10, "a b"), (Version::V11, r"a\cb"), (Version::V12, r"a\cb")]
        {
            let mut out = Vec::new();
            escape_name("a:b", version, &mut out);
            assert_eq!(out, expected.as_bytes(), "{version}");
        }
    }

    #[test]
    fn each_version_resolves_its_own_escapes_only() {
        use Version::{V10, V11, V12};
        for (text, version, expected) in [
            (r"a\nb\c\\", V10, Some(r"a\nb\c\\")),
            (r"a\nb\c\\", V11, Some("a\nb:\\")),
            (r"a\nb\c\\\r", V12, Some("a\nb:\\\r")),
            (r"\\n", V12, Some(r"\n")),
            (r"a\rb", V11, None),
            (r"a\tb", V11, None),
            (r"a\tb", V12, None),
            (r"a\C", V12, None),
            (r"a\é", V12, None),
            (r"a\", V12, None),
        ] {
            assert_eq!(unescaped(text, version).as_deref(), expected, "{text} in {version}");
        }
    }
}
