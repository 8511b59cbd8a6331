//! Bytes in, whole messages out (RFC 6455 §5, §6.2).
#![expect(clippy::mut_mut, reason = "input is a cursor: a call moves its front past what it took")]

#[cfg(test)]
mod tests;

use std::borrow::Cow;

use simdutf8::basic::from_utf8;

use super::deflate::{self, Inflater};
use super::frame::{Header, Opcode};
use super::partial::{Assembly, HeaderBytes, OpenFrame, Partial, inflated_message};
use super::{CloseFrame, Message, Role, WsError, mask};

/// The reading half of one connection.
///
/// It allocates only for what a read leaves unfinished, and frees that with the message's end.
/// After an error or a close frame it gives nothing more and drops what it is given.
#[derive(Debug)]
pub struct Decoder {
    partial: Option<Box<Partial>>,
    role: Role,
    compression: bool,
    finished: bool,
}

impl Decoder {
    /// `compression` tells whether permessage-deflate was negotiated (RFC 7692).
    pub fn new(role: Role, compression: bool) -> Self {
        Self { partial: None, role, compression, finished: false }
    }

    /// Takes the next whole message off the front of `input`, which is unmasked in place.
    ///
    /// A message that is whole, in one frame and not compressed borrows from `input`. `None`: all of
    /// `input` was consumed, and what is incomplete is kept. `max_message_bytes` bounds the length
    /// of data messages, of compressed ones after inflating.
    pub fn next<'i>(
        &mut self,
        input: &mut &'i mut [u8],
        max_message_bytes: usize,
        inflater: &mut Inflater,
    ) -> Result<Option<Message<'i>>, WsError> {
        if self.finished {
            *input = &mut [];
            return Ok(None);
        }
        let mut next = self.next_held(max_message_bytes, inflater);
        if let Ok(None) = next {
            next = self.read(input, max_message_bytes, inflater);
        }
        if let Err(_) | Ok(Some(Message::Close(_))) = next {
            self.finished = true;
            self.partial = None;
            *input = &mut [];
        } else if self.is_spent() {
            self.partial = None;
        }
        next
    }

    /// Keeps `rest` unread for later: the following calls of [`next`](Self::next) begin with it.
    ///
    /// While something is held already, `rest` is kept behind it.
    pub fn hold(&mut self, rest: &[u8]) {
        if !self.finished && !rest.is_empty() {
            self.partial.get_or_insert_default().held.push(rest);
        }
    }

    /// Whether nothing is kept: no unread input, no started message.
    pub fn is_idle(&self) -> bool {
        self.partial.is_none()
    }

    /// Whether whole messages may be waiting in what was [held](Self::hold).
    pub fn has_held(&self) -> bool {
        self.partial.as_ref().is_some_and(|partial| !partial.held.is_empty())
    }

    fn is_spent(&self) -> bool {
        self.partial.as_ref().is_some_and(|partial| partial.is_empty())
    }

    /// The next message of what was held; `None` once nothing is.
    fn next_held<'i>(
        &mut self,
        max_message_bytes: usize,
        inflater: &mut Inflater,
    ) -> Result<Option<Message<'i>>, WsError> {
        if !self.has_held() {
            return Ok(None);
        }
        let Some(partial) = &mut self.partial else {
            return Ok(None);
        };
        let mut held = std::mem::take(&mut partial.held);
        let mut unread = held.unread();
        let message = self.read(&mut unread, max_message_bytes, inflater)?.map(Message::into_owned);
        let unread_len = unread.len();
        if unread_len > 0 {
            held.keep_last(unread_len);
            self.partial.get_or_insert_default().held = held;
        }
        Ok(message)
    }

    /// Frame after frame, until one ends a message or `source` ends.
    fn read<'s>(
        &mut self,
        source: &mut &'s mut [u8],
        max_message_bytes: usize,
        inflater: &mut Inflater,
    ) -> Result<Option<Message<'s>>, WsError> {
        loop {
            let unfinished = self.partial.as_mut().and_then(|p| p.frame.take());
            let frame = match unfinished {
                Some(frame) => frame,
                None => match self.read_header(source)? {
                    Some(header) => self.admit(&header, max_message_bytes)?,
                    None => return Ok(None),
                },
            };
            let available = frame.remaining.min(source.len());
            let payload = source.split_off_mut(..available).unwrap_or_default();
            mask::apply(payload, frame.key);
            if available < frame.remaining {
                self.keep_part(frame, payload)?;
                return Ok(None);
            }
            if let Some(message) = self.end_frame(frame, payload, max_message_bytes, inflater)? {
                return Ok(Some(message));
            }
        }
    }

    /// Takes a header off the front of `source`, or keeps what there is of it.
    fn read_header(&mut self, source: &mut &mut [u8]) -> Result<Option<Header>, WsError> {
        let stashed = match &mut self.partial {
            Some(partial) => std::mem::take(&mut partial.header),
            None => HeaderBytes::default(),
        };
        let parsed = if stashed.is_empty() {
            Header::parse(source, self.role)?
        } else {
            let mut bytes = stashed;
            bytes.fill(source);
            Header::parse(bytes.as_slice(), self.role)?
        };
        if let Some((header, header_len)) = parsed {
            let _ = source.split_off_mut(..header_len - stashed.as_slice().len());
            return Ok(Some(header));
        }
        let mut bytes = stashed;
        bytes.fill(source);
        *source = &mut [];
        if !bytes.is_empty() {
            self.partial.get_or_insert_default().header = bytes;
        }
        Ok(None)
    }

    /// Checks a header against what came before it (RFC 6455 §5.4, RFC 7692 §6) and the limit.
    fn admit(&self, header: &Header, max_message_bytes: usize) -> Result<OpenFrame, WsError> {
        let message = self.partial.as_ref().and_then(|p| p.message.as_ref());
        let (compressed, len_so_far) = match (header.opcode, message) {
            (opcode, _) if opcode.is_control() => {
                if header.rsv1 {
                    return Err(WsError::ReservedBit);
                }
                return Ok(OpenFrame::new(header, header.payload_len as usize));
            }
            (Opcode::Continuation, _) if header.rsv1 => return Err(WsError::ReservedBit),
            (Opcode::Continuation, None) => return Err(WsError::NothingToContinue),
            (Opcode::Continuation, Some(message)) => (message.is_compressed(), message.len()),
            _ if header.rsv1 && !self.compression => return Err(WsError::ReservedBit),
            (_, Some(_)) => return Err(WsError::Interleaved),
            (_, None) => (header.rsv1, 0),
        };
        let max_payload_bytes = if compressed {
            deflate::max_compressed_bytes(max_message_bytes)
        } else {
            max_message_bytes
        };
        usize::try_from(header.payload_len)
            .ok()
            .filter(|len| *len <= max_payload_bytes.saturating_sub(len_so_far))
            .map(|len| OpenFrame::new(header, len))
            .ok_or(WsError::TooLarge { limit: max_message_bytes })
    }

    /// Keeps an unmasked part of a frame's payload, and the frame to go on with.
    fn keep_part(&mut self, mut frame: OpenFrame, part: &[u8]) -> Result<(), WsError> {
        let partial = self.partial.get_or_insert_default();
        if frame.opcode.is_control() {
            partial.control.extend_from_slice(part);
        } else {
            let assembly = Assembly::new(frame.opcode, frame.compressed);
            partial.message.get_or_insert(assembly).push(part)?;
            frame.opcode = Opcode::Continuation;
        }
        frame.key = mask::advance(frame.key, part.len());
        frame.remaining -= part.len();
        partial.frame = Some(frame);
        Ok(())
    }

    /// Ends a frame with the last, or only, part of its payload.
    fn end_frame<'s>(
        &mut self,
        frame: OpenFrame,
        payload: &'s [u8],
        max_message_bytes: usize,
        inflater: &mut Inflater,
    ) -> Result<Option<Message<'s>>, WsError> {
        if frame.opcode.is_control() {
            let payload = self.whole_control_payload(payload);
            return control_message(frame.opcode, payload).map(Some);
        }
        if frame.fin && frame.opcode != Opcode::Continuation {
            return whole_message(frame, payload, max_message_bytes, inflater).map(Some);
        }
        let message = &mut self.partial.get_or_insert_default().message;
        let assembly = message.get_or_insert_with(|| Assembly::new(frame.opcode, frame.compressed));
        assembly.push(payload)?;
        if !frame.fin {
            return Ok(None);
        }
        message.take().map(|assembly| assembly.finish(max_message_bytes, inflater)).transpose()
    }

    fn whole_control_payload<'s>(&mut self, last_part: &'s [u8]) -> Cow<'s, [u8]> {
        match &mut self.partial {
            Some(partial) if !partial.control.is_empty() => {
                let mut payload = std::mem::take(&mut partial.control);
                payload.extend_from_slice(last_part);
                Cow::Owned(payload)
            }
            _ => Cow::Borrowed(last_part),
        }
    }
}

/// A data message that is whole and in one frame.
fn whole_message<'s>(
    frame: OpenFrame,
    payload: &'s [u8],
    max_message_bytes: usize,
    inflater: &mut Inflater,
) -> Result<Message<'s>, WsError> {
    let text = frame.opcode == Opcode::Text;
    if frame.compressed {
        inflated_message(text, inflater.inflate(payload, max_message_bytes)?)
    } else if text {
        let text = from_utf8(payload).map_err(|_| WsError::InvalidUtf8)?;
        Ok(Message::Text(Cow::Borrowed(text)))
    } else {
        Ok(Message::Binary(Cow::Borrowed(payload)))
    }
}

fn control_message(opcode: Opcode, payload: Cow<'_, [u8]>) -> Result<Message<'_>, WsError> {
    Ok(match opcode {
        Opcode::Ping => Message::Ping(payload),
        Opcode::Pong => Message::Pong(payload),
        _ => Message::Close(parse_close(&payload)?),
    })
}

/// A code and a reason, or nothing (RFC 6455 §5.5.1).
fn parse_close(payload: &[u8]) -> Result<Option<CloseFrame>, WsError> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return if payload.is_empty() { Ok(None) } else { Err(WsError::ClosePayload) };
    };
    let code = u16::from_be_bytes(*code);
    // RFC 6455 §7.4: 1004 to 1006 and 1015 are never sent, the rest up to 2999 is undefined.
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(WsError::CloseCode { code });
    }
    let reason = from_utf8(reason).map_err(|_| WsError::InvalidUtf8)?;
    Ok(Some(CloseFrame { code, reason: reason.to_owned() }))
}
