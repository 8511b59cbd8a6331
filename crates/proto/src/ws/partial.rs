//! What a decoder keeps between reads, which is nothing as long as reads end with messages.

use std::borrow::Cow;

use super::deflate::Inflater;
use super::frame::{Header, MAX_HEADER_LEN, Opcode};
use super::utf8::TextBuffer;
use super::{Message, WsError};

/// The unfinished part of the input.
#[derive(Debug, Default)]
pub(super) struct Partial {
    /// Comes before any new input.
    pub(super) held: Held,
    pub(super) header: HeaderBytes,
    /// The frame of which not all the payload has come.
    pub(super) frame: Option<OpenFrame>,
    /// The payload so far, if that is a control frame.
    pub(super) control: Vec<u8>,
    /// The data message of which not all the frames have come.
    pub(super) message: Option<Assembly>,
}

impl Partial {
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
            && self.header.is_empty()
            && self.frame.is_none()
            && self.message.is_none()
    }
}

/// Input that was not wanted yet.
#[derive(Debug, Default)]
pub(super) struct Held {
    bytes: Vec<u8>,
    read: usize,
}

impl Held {
    pub(super) fn is_empty(&self) -> bool {
        self.read == self.bytes.len()
    }

    pub(super) fn push(&mut self, more: &[u8]) {
        // To move the unread bytes only when they are the smaller part keeps the cost linear.
        if self.read > self.bytes.len() / 2 {
            self.bytes.drain(..self.read);
            self.read = 0;
        }
        self.bytes.extend_from_slice(more);
    }

    pub(super) fn unread(&mut self) -> &mut [u8] {
        &mut self.bytes[self.read..]
    }

    pub(super) fn keep_last(&mut self, unread: usize) {
        self.read = self.bytes.len() - unread;
    }
}

/// The start of a header that is not whole yet.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct HeaderBytes {
    bytes: [u8; MAX_HEADER_LEN],
    len: u8,
}

impl HeaderBytes {
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// Takes what it has room for, which is enough to end any header.
    pub(super) fn fill(&mut self, from: &[u8]) {
        let len = usize::from(self.len);
        let added = from.len().min(MAX_HEADER_LEN - len);
        self.bytes[len..len + added].copy_from_slice(&from[..added]);
        self.len += added as u8;
    }
}

/// A frame that was allowed, and how much of its payload is still to come.
#[derive(Debug, Clone, Copy)]
pub(super) struct OpenFrame {
    /// [`Opcode::Continuation`] also for the rest of a frame whose start is in an [`Assembly`].
    pub(super) opcode: Opcode,
    pub(super) fin: bool,
    pub(super) compressed: bool,
    pub(super) key: [u8; 4],
    pub(super) remaining: usize,
}

impl OpenFrame {
    pub(super) fn new(header: &Header, remaining: usize) -> Self {
        Self {
            opcode: header.opcode,
            fin: header.fin,
            compressed: header.rsv1,
            key: header.key,
            remaining,
        }
    }
}

/// A data message so far.
#[derive(Debug)]
pub(super) enum Assembly {
    Text(TextBuffer),
    Binary(Vec<u8>),
    Compressed { text: bool, data: Vec<u8> },
}

impl Assembly {
    pub(super) fn new(opcode: Opcode, compressed: bool) -> Self {
        let text = opcode == Opcode::Text;
        if compressed {
            Self::Compressed { text, data: Vec::new() }
        } else if text {
            Self::Text(TextBuffer::default())
        } else {
            Self::Binary(Vec::new())
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(data) | Self::Compressed { data, .. } => data.len(),
        }
    }

    pub(super) fn is_compressed(&self) -> bool {
        matches!(self, Self::Compressed { .. })
    }

    pub(super) fn push(&mut self, payload: &[u8]) -> Result<(), WsError> {
        match self {
            Self::Text(text) => text.push(payload)?,
            Self::Binary(data) | Self::Compressed { data, .. } => data.extend_from_slice(payload),
        }
        Ok(())
    }

    pub(super) fn finish(
        self,
        max_message_bytes: usize,
        inflater: &mut Inflater,
    ) -> Result<Message<'static>, WsError> {
        match self {
            Self::Text(text) => Ok(Message::Text(Cow::Owned(text.finish()?))),
            Self::Binary(data) => Ok(Message::Binary(Cow::Owned(data))),
            Self::Compressed { text, data } => {
                inflated_message(text, inflater.inflate(&data, max_message_bytes)?)
            }
        }
    }
}

/// A message that was compressed.
pub(super) fn inflated_message(text: bool, inflated: Vec<u8>) -> Result<Message<'static>, WsError> {
    Ok(if text {
        let text = String::from_utf8(inflated).map_err(|_| WsError::InvalidUtf8)?;
        Message::Text(Cow::Owned(text))
    } else {
        Message::Binary(Cow::Owned(inflated))
    })
}
