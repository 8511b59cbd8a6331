//! A text as the JSON string that SockJS wants, with a fast path for text that needs no escape.

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
    let mut rest = text.as_bytes();
    out.reserve(rest.len());
    while let Some((at, escape)) = next_escape(rest) {
        out.extend_from_slice(&rest[..at]);
        rest = &rest[at + escape.bytes..];
        match escape.write {
            Write::Short(letter) => out.extend_from_slice(&[b'\\', letter]),
            Write::Unicode(code) => write_unicode(code, out),
        }
    }
    out.extend_from_slice(rest);
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
            write_unicode(0xFFFD, out);
        }
    }
}

/// A character to escape: its bytes in UTF-8, and how it is written.
struct Escape {
    bytes: usize,
    write: Write,
}

enum Write {
    Short(u8),
    Unicode(u16),
}

fn next_escape(bytes: &[u8]) -> Option<(usize, Escape)> {
    let mut at = 0;
    while at < bytes.len() {
        at += clean_blocks(&bytes[at..]);
        let block = &bytes[at..bytes.len().min(at + BLOCK)];
        for within in block.iter().enumerate().filter(|(_, byte)| is_suspect(**byte)) {
            let found = at + within.0;
            if let Some(escape) = escape_of(&bytes[found..]) {
                return Some((found, escape));
            }
        }
        at += block.len();
    }
    None
}

/// How many bytes at the front are in blocks that need no second look. There is no branch within a
/// block, so that the compiler looks at all its bytes at once.
fn clean_blocks(bytes: &[u8]) -> usize {
    let is_clean =
        |block: &&[u8]| !block.iter().fold(false, |suspect, byte| suspect | is_suspect(*byte));
    bytes.chunks_exact(BLOCK).take_while(is_clean).count() * BLOCK
}

/// Whether a character that begins with this byte may need an escape.
fn is_suspect(byte: u8) -> bool {
    (byte < 0x20) || (byte == b'"') || (byte == b'\\') || (byte == 0xE2) || (byte == 0xEF)
}

fn escape_of(bytes: &[u8]) -> Option<Escape> {
    let (len, write) = match *bytes {
        [letter @ (b'"' | b'\\'), ..] => (1, Write::Short(letter)),
        [0x08, ..] => (1, Write::Short(b'b')),
        [b'\t', ..] => (1, Write::Short(b't')),
        [b'\n', ..] => (1, Write::Short(b'n')),
        [0x0C, ..] => (1, Write::Short(b'f')),
        [b'\r', ..] => (1, Write::Short(b'r')),
        [control @ ..0x20, ..] => (1, Write::Unicode(control.into())),
        [0xE2, 0x80, last @ (0x8C..=0x8F | 0xA8..=0xAF), ..] => {
            (3, Write::Unicode(0x2000 | u16::from(last & 0x3F)))
        }
        [0xE2, 0x81, last @ 0xA0..=0xAF, ..] => {
            (3, Write::Unicode(0x2040 | u16::from(last & 0x3F)))
        }
        [0xEF, 0xBF, last @ 0xB0..=0xBF, ..] => {
            (3, Write::Unicode(0xFFC0 | u16::from(last & 0x3F)))
        }
        _ => return None,
    };
    Some(Escape { bytes: len, write })
}

fn write_unicode(code: u16, out: &mut Vec<u8>) {
    let digit = |shift: u16| HEX[usize::from(code >> shift & 0xF)];
    out.extend_from_slice(&[b'\\', b'u', digit(12), digit(8), digit(4), digit(0)]);
}

const BLOCK: usize = 32;
/// In lower case, as the protocol's test suite compares it.
const HEX: &[u8; 16] = b"0123456789abcdef";
