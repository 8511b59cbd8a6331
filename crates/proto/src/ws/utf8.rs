//! Text that arrives in pieces: checked as it comes, so that bad UTF-8 is refused at once and
//! good UTF-8 is never looked at twice (RFC 6455 §8.1).

use simdutf8::compat::from_utf8;

use super::WsError;

/// Text so far, and the first bytes of a character of which the rest has not come.
#[derive(Debug, Default)]
pub(super) struct TextBuffer {
    text: String,
    /// One to three bytes that begin a valid character, at the front of the array.
    cut: [u8; 4],
    cut_len: usize,
}

impl TextBuffer {
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), WsError> {
        let bytes = self.mend_cut(bytes)?;
        match from_utf8(bytes) {
            Ok(text) => self.text.push_str(text),
            Err(error) if error.error_len().is_some() => return Err(WsError::InvalidUtf8),
            Err(error) => {
                let (valid, cut) = bytes.split_at(error.valid_up_to());
                // Known to be valid, but only unchecked conversion could make use of that.
                self.text.push_str(from_utf8(valid).map_err(|_| WsError::InvalidUtf8)?);
                self.cut[..cut.len()].copy_from_slice(cut);
                self.cut_len = cut.len();
            }
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Result<String, WsError> {
        match self.cut_len {
            0 => Ok(self.text),
            _ => Err(WsError::InvalidUtf8),
        }
    }

    /// Bytes received, of a cut character too.
    pub(super) fn len(&self) -> usize {
        self.text.len() + self.cut_len
    }

    /// Moves bytes into the cut character until it is whole or there are no more; returns the rest.
    fn mend_cut<'b>(&mut self, mut bytes: &'b [u8]) -> Result<&'b [u8], WsError> {
        while self.cut_len > 0 {
            let Some((&byte, rest)) = bytes.split_first() else {
                break;
            };
            bytes = rest;
            self.cut[self.cut_len] = byte;
            self.cut_len += 1;
            match from_utf8(&self.cut[..self.cut_len]) {
                Ok(character) => {
                    self.text.push_str(character);
                    self.cut_len = 0;
                }
                Err(error) if error.error_len().is_some() => return Err(WsError::InvalidUtf8),
                Err(_) => {}
            }
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn collect<'b>(pieces: impl IntoIterator<Item = &'b [u8]>) -> Result<String, WsError> {
        let mut buffer = TextBuffer::default();
        for piece in pieces {
            buffer.push(piece)?;
        }
        buffer.finish()
    }

    #[test]
    fn bad_utf8_is_refused_at_the_byte_that_makes_it_bad() {
        for (valid_start, bad) in [
            (&b"a"[..], 0x80_u8),    // a continuation byte that continues nothing
            (b"", 0xC0),             // an overlong form of two bytes
            (b"\xE0", 0x80),         // an overlong form of three bytes
            (b"\xED", 0xA0),         // a surrogate
            (b"\xF0\x9F\x98", b'a'), // a character cut short
            (b"\xF4", 0x90),         // above U+10FFFF
            (b"", 0xFF),             // never in UTF-8
            ("κόσμε".as_bytes(), 0xFE),
        ] {
            let mut buffer = TextBuffer::default();
            for byte in valid_start {
                assert_eq!(buffer.push(&[*byte]), Ok(()), "{valid_start:x?}");
            }
            assert_eq!(buffer.push(&[bad]), Err(WsError::InvalidUtf8), "{bad:x}");
        }
    }

    #[test]
    fn text_must_not_end_inside_a_character() {
        assert_eq!(collect([&b"a\xC3"[..]]), Err(WsError::InvalidUtf8));
        assert_eq!(collect([&b"a\xF0\x9F"[..], b"\x98"]), Err(WsError::InvalidUtf8));
    }

    proptest! {
        #[test]
        fn pieces_are_judged_as_the_whole_is(
            bytes in prop_oneof![
                "\\PC{0,60}".prop_map(String::into_bytes),
                proptest::collection::vec(any::<u8>(), 0..8),
            ],
            piece_len in 1_usize..9,
        ) {
            let whole = String::from_utf8(bytes.clone()).map_err(|_| WsError::InvalidUtf8);
            prop_assert_eq!(collect(bytes.chunks(piece_len)), whole);
        }
    }
}
