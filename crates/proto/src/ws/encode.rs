//! Frames out: headers, whole frames, and the close frame (RFC 6455 §5.2).

use std::ops::Deref;

use super::frame::{FIN, LEN_16, LEN_64, MASK, MAX_CONTROL_LEN, Opcode, RSV1};
use super::mask;

/// The header of an unmasked frame: 2, 4 or 10 bytes.
#[derive(Debug, Clone, Copy)]
pub struct FrameHeader {
    bytes: [u8; 10],
    len: u8,
}

impl Deref for FrameHeader {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// The header of an unmasked frame with FIN, for a payload that is sent beside it.
///
/// `compressed` sets RSV1 (RFC 7692 §6): for data frames only, and only where it was negotiated.
pub fn frame_header(opcode: Opcode, compressed: bool, payload_len: usize) -> FrameHeader {
    debug_assert!(!opcode.is_control() || (!compressed && payload_len <= MAX_CONTROL_LEN));
    let mut bytes = [0; 10];
    bytes[0] = FIN | if compressed { RSV1 } else { 0 } | opcode as u8;
    let len = match payload_len {
        0..=125 => {
            bytes[1] = payload_len as u8;
            2
        }
        126..=0xFFFF => {
            bytes[1] = LEN_16;
            bytes[2..4].copy_from_slice(&(payload_len as u16).to_be_bytes());
            4
        }
        _ => {
            bytes[1] = LEN_64;
            bytes[2..].copy_from_slice(&(payload_len as u64).to_be_bytes());
            10
        }
    };
    FrameHeader { bytes, len }
}

/// Appends a whole server frame: FIN, unmasked.
pub fn frame(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) {
    out.extend_from_slice(&frame_header(opcode, false, payload.len()));
    out.extend_from_slice(payload);
}

/// Appends a whole client frame: FIN, masked by `key`, which must be unpredictable (RFC 6455 §5.3).
pub fn frame_masked(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8], key: [u8; 4]) {
    let mut header = frame_header(opcode, false, payload.len());
    header.bytes[1] |= MASK;
    out.extend_from_slice(&header);
    out.extend_from_slice(&key);
    let payload_at = out.len();
    out.extend_from_slice(payload);
    mask::apply(&mut out[payload_at..], key);
}

/// Appends a server's close frame (RFC 6455 §5.5.1), the reason cut to what fits in it.
pub fn close_frame(out: &mut Vec<u8>, code: u16, reason: &str) {
    let mut end = reason.len().min(MAX_CONTROL_LEN - 2);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let reason = &reason[..end];
    out.extend_from_slice(&frame_header(Opcode::Close, false, 2 + reason.len()));
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(reason.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_takes_the_fewest_bytes_that_hold_it() {
        for (payload_len, expected) in [
            (0, &[0x82, 0][..]),
            (125, &[0x82, 125]),
            (126, &[0x82, 126, 0, 126]),
            (0xFFFF, &[0x82, 126, 0xFF, 0xFF]),
            (0x1_0000, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            assert_eq!(&*frame_header(Opcode::Binary, false, payload_len), expected);
        }
    }

    #[test]
    fn the_examples_of_rfc_6455_section_5_7_come_out() {
        let mut out = Vec::new();
        frame(&mut out, Opcode::Text, b"Hello");
        assert_eq!(out, b"\x81\x05Hello");
        out.clear();
        frame_masked(&mut out, Opcode::Text, b"Hello", [0x37, 0xfa, 0x21, 0x3d]);
        assert_eq!(out, b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58");
    }

    #[test]
    fn a_compressed_frame_has_rsv1() {
        assert_eq!(&*frame_header(Opcode::Text, true, 7), [0xC1, 7]);
    }

    #[test]
    fn a_close_reason_is_cut_at_a_character_that_fits() {
        let mut out = Vec::new();
        close_frame(&mut out, 1000, &"é".repeat(100));
        assert_eq!(out[..4], [0x88, 2 + 122, 0x03, 0xE8]);
        assert_eq!(std::str::from_utf8(&out[4..]), Ok(&*"é".repeat(61)));
        out.clear();
        close_frame(&mut out, 4408, "");
        assert_eq!(out, [0x88, 2, 0x11, 0x38]);
    }
}
