//! A frame's header, as RFC 6455 §5.2 lays it out.

use super::{Role, WsError};

/// What a frame is (RFC 6455 §5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// More of a fragmented message.
    Continuation = 0x0,
    /// Text, or the first fragment of one.
    Text = 0x1,
    /// Binary data, or the first fragment of it.
    Binary = 0x2,
    /// The end of the connection.
    Close = 0x8,
    /// Asks for a pong.
    Ping = 0x9,
    /// Answers a ping.
    Pong = 0xA,
}

impl Opcode {
    pub(super) fn is_control(self) -> bool {
        self as u8 >= 0x8
    }

    fn parse(nibble: u8) -> Result<Self, WsError> {
        Ok(match nibble {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xA => Self::Pong,
            opcode => return Err(WsError::UnknownOpcode { opcode }),
        })
    }
}

/// A parsed header. What only the frame's neighbours can make wrong is not checked yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) fin: bool,
    pub(super) rsv1: bool,
    pub(super) opcode: Opcode,
    /// Zero where the frame isn't masked: to unmask with it changes nothing.
    pub(super) key: [u8; 4],
    pub(super) payload_len: u64,
}

pub(super) const FIN: u8 = 0x80;
pub(super) const RSV1: u8 = 0x40;
pub(super) const MASK: u8 = 0x80;
/// The 7-bit lengths that announce a 16-bit and a 64-bit one.
pub(super) const LEN_16: u8 = 126;
pub(super) const LEN_64: u8 = 127;
/// Two bytes, eight of length, four of mask.
pub(super) const MAX_HEADER_LEN: usize = 14;
/// RFC 6455 §5.5.
pub(super) const MAX_CONTROL_LEN: usize = 125;

const RSV2_RSV3: u8 = 0x30;

impl Header {
    /// The header at the front of `bytes` and its length; `None` while it isn't whole.
    ///
    /// Checks byte after byte, so that the verdict doesn't depend on how the bytes are split, and
    /// is given as soon as it is known.
    pub(super) fn parse(bytes: &[u8], role: Role) -> Result<Option<(Self, usize)>, WsError> {
        let Some((&first, rest)) = bytes.split_first() else {
            return Ok(None);
        };
        if first & RSV2_RSV3 != 0 {
            return Err(WsError::ReservedBit);
        }
        let opcode = Opcode::parse(first & 0x0F)?;
        let fin = first & FIN != 0;
        if opcode.is_control() && !fin {
            return Err(WsError::ControlFragmented);
        }

        let Some((&second, rest)) = rest.split_first() else {
            return Ok(None);
        };
        let masked = second & MASK != 0;
        match role {
            Role::Server if !masked => return Err(WsError::NotMasked),
            Role::Client if masked => return Err(WsError::Masked),
            Role::Server | Role::Client => {}
        }
        let short_len = second & !MASK;
        if opcode.is_control() && usize::from(short_len) > MAX_CONTROL_LEN {
            return Err(WsError::ControlTooLong);
        }

        let Some((payload_len, rest)) = parse_len(short_len, rest)? else {
            return Ok(None);
        };
        let (key, rest) = match rest.split_first_chunk() {
            _ if !masked => ([0; 4], rest),
            Some((key, rest)) => (*key, rest),
            None => return Ok(None),
        };
        let header = Self { fin, rsv1: first & RSV1 != 0, opcode, key, payload_len };
        Ok(Some((header, bytes.len() - rest.len())))
    }
}

/// The length and what follows it; `None` while it isn't whole.
fn parse_len(short_len: u8, rest: &[u8]) -> Result<Option<(u64, &[u8])>, WsError> {
    let (len, minimum, rest) = match short_len {
        LEN_16 => match rest.split_first_chunk() {
            Some((len, rest)) => (u64::from(u16::from_be_bytes(*len)), u64::from(LEN_16), rest),
            None => return Ok(None),
        },
        LEN_64 => match rest.split_first_chunk() {
            Some((len, rest)) => (u64::from_be_bytes(*len), 1 << 16, rest),
            None => return Ok(None),
        },
        short => (u64::from(short), 0, rest),
    };
    if len < minimum || len >> 63 != 0 {
        return Err(WsError::BadLength);
    }
    Ok(Some((len, rest)))
}
