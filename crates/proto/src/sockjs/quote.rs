//! A text as the JSON string that SockJS wants, with a fast path for text that needs no escape.

use crate::scan;

/// Appends a text as a JSON string.
pub fn quote(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    escape(text, out);
    out.push(b'"');
}

/// Appends what [`quote`] puts between the quotes. Texts may be escaped apart and joined.
///
/// Escaped are what JSON asks for, and the characters that browsers are known to mangle
/// ("JSON Unicode Encoding"): U+200C..F, U+2028..F, U+2060..F, U+FFF0..F.
pub fn escape(text: &str, out: &mut Vec<u8>) {
    scan::replace(text.as_bytes(), out, may_need_escape, escape_of);
}

/// The same for bytes that should be UTF-8; what is not is replaced, as in
/// [`String::from_utf8_lossy`].
pub fn escape_lossy(bytes: &[u8], out: &mut Vec<u8>) {
    if let Ok(text) = simdutf8::basic::from_utf8(bytes) {
        return escape(text, out);
    }
    for chunk in bytes.utf8_chunks() {
        escape(chunk.valid(), out);
        if !chunk.invalid().is_empty() {
            out.extend_from_slice(Escape::unicode(0xFFFD).as_ref());
        }
    }
}

/// `\n` or `\u200c`.
struct Escape {
    text: [u8; 6],
    len: usize,
}

impl Escape {
    fn short(letter: u8) -> Self {
        Self { text: [b'\\', letter, 0, 0, 0, 0], len: 2 }
    }

    fn unicode(code: u16) -> Self {
        let digit = |shift: u16| HEX[usize::from(code >> shift & 0xF)];
        Self { text: [b'\\', b'u', digit(12), digit(8), digit(4), digit(0)], len: 6 }
    }
}

impl AsRef<[u8]> for Escape {
    fn as_ref(&self) -> &[u8] {
        &self.text[..self.len]
    }
}

/// Whether a character that begins with this byte may be one to escape.
fn may_need_escape(byte: u8) -> u8 {
    u8::from(byte < 0x20)
        | u8::from(byte == b'"')
        | u8::from(byte == b'\\')
        | u8::from(byte == 0xE2)
        | u8::from(byte == 0xEF)
}

/// The escape of the character at the front, if it needs one, and its bytes in UTF-8.
fn escape_of(bytes: &[u8]) -> Option<(usize, Escape)> {
    match *bytes {
        [letter @ (b'"' | b'\\'), ..] => Some((1, Escape::short(letter))),
        [0x08, ..] => Some((1, Escape::short(b'b'))),
        [b'\t', ..] => Some((1, Escape::short(b't'))),
        [b'\n', ..] => Some((1, Escape::short(b'n'))),
        [0x0C, ..] => Some((1, Escape::short(b'f'))),
        [b'\r', ..] => Some((1, Escape::short(b'r'))),
        [control @ ..0x20, ..] => Some((1, Escape::unicode(control.into()))),
        [0xE2, 0x80, last @ (0x8C..=0x8F | 0xA8..=0xAF), ..] => {
            Some((3, Escape::unicode(0x2000 | u16::from(last & 0x3F))))
        }
        [0xE2, 0x81, last @ 0xA0..=0xAF, ..] => {
            Some((3, Escape::unicode(0x2040 | u16::from(last & 0x3F))))
        }
        [0xEF, 0xBF, last @ 0xB0..=0xBF, ..] => {
            Some((3, Escape::unicode(0xFFC0 | u16::from(last & 0x3F))))
        }
        _ => None,
    }
}

/// In lower case, as the protocol's test suite compares it.
const HEX: &[u8; 16] = b"0123456789abcdef";
