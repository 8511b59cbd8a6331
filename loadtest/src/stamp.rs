//! What every body begins with: which message it is, and when it was to be sent.

/// The place and the intended time of one publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The destination, by number.
    pub destination: u32,
    /// Its place among the destination's publications, counted from 0.
    pub sequence: u64,
    /// When the schedule wanted it sent, by [`crate::clock::now_ns`].
    pub intended_ns: u64,
    /// The length of the body, this stamp included.
    pub body_bytes: u32,
}

impl Stamp {
    /// The body: the stamp, filled up to its length.
    pub fn body(&self) -> String {
        let Self { destination, sequence, intended_ns, body_bytes } = self;
        let mut body =
            format!("~{destination:06x}{sequence:010x}{intended_ns:016x}{body_bytes:07x}~");
        body.extend(std::iter::repeat_n('x', (*body_bytes as usize).saturating_sub(body.len())));
        body
    }

    /// The stamp in a message that carries a whole body, whatever is around it.
    pub fn find(message: &str) -> Option<Self> {
        let message = message.as_bytes();
        let at = message.iter().position(|&byte| byte == b'~')?;
        let (stamp, _) = message[at..].split_first_chunk::<STAMP_BYTES>()?;
        if stamp[STAMP_BYTES - 1] != b'~' {
            return None;
        }
        let stamp = Self {
            destination: hexadecimal(&stamp[1..7])? as u32,
            sequence: hexadecimal(&stamp[7..17])?,
            intended_ns: hexadecimal(&stamp[17..33])?,
            body_bytes: hexadecimal(&stamp[33..40])? as u32,
        };
        (message.len() - at >= stamp.body_bytes as usize).then_some(stamp)
    }
}

fn hexadecimal(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |number, &digit| {
        let value = char::from(digit).to_digit(16)?;
        Some(number << 4 | u64::from(value))
    })
}

/// The shortest body there is.
pub const STAMP_BYTES: usize = 41;

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp =
        Stamp { destination: 7, sequence: 0xa1, intended_ns: 1 << 60, body_bytes: 64 };

    #[test]
    fn a_stamp_is_found_in_whatever_carries_the_body() {
        let body = STAMP.body();
        assert_eq!(body.len(), 64);
        for message in [body.clone(), format!(r#"42["message","{body}"]"#)] {
            assert_eq!(Stamp::find(&message), Some(STAMP));
        }
    }

    #[test]
    fn a_body_that_was_cut_short_has_no_stamp() {
        let body = STAMP.body();
        for message in ["", "no stamp", "~", &body[..40], &body[..63]] {
            assert_eq!(Stamp::find(message), None, "{message:?}");
        }
    }
}
