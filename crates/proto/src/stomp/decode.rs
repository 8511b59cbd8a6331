//! Bytes → frames, however the bytes are cut.

use std::borrow::Cow;
use std::ffi::CStr;

use bytes::Bytes;

use super::error::StompError;
use super::{Command, Frame, Headers, Incoming, Version, is_digits};

/// Takes frames off a stream of bytes, for either role.
///
/// A frame that lies whole in the input is parsed where it lies; only its headers and its body are
/// allocated. What is cut off is kept in a box that exists only then, grown as data arrives and
/// never ahead of it. Limits are enforced on the way, so a frame that is too large is refused as
/// soon as that is known. After an error the stream has no further frames.
#[derive(Debug)]
pub struct Decoder {
    partial: Option<Box<Partial>>,
    version: Version,
}

/// What a peer may send ("Size Limits").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// A whole frame, from its command to its NUL.
    pub frame_bytes: usize,
    /// Header lines in a frame, repeated ones included.
    pub headers: usize,
    /// One header line, without its end.
    pub header_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { frame_bytes: 64 * 1024, headers: 64, header_bytes: 8 * 1024 }
    }
}

impl Decoder {
    /// A decoder at the start of a session, where only frames without escapes are expected; until
    /// [`Decoder::set_version`] it decodes as 1.0.
    pub fn new() -> Self {
        Self { partial: None, version: Version::V10 }
    }

    /// Decodes what follows as `version`. To be called when CONNECT or CONNECTED has settled it,
    /// before the next call of [`Decoder::next`].
    pub fn set_version(&mut self, version: Version) {
        self.version = version;
    }

    /// The version that it decodes.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Takes the next frame or heartbeat off the front of `input`. `None`: all of `input` was
    /// consumed, and an incomplete rest is kept inside.
    pub fn next(
        &mut self,
        input: &mut &[u8],
        limits: &Limits,
    ) -> Result<Option<Incoming>, StompError> {
        if input.is_empty() {
            return Ok(None);
        }
        let mut kept = self.partial.take();
        let mut fresh = Partial::default();
        let partial = kept.as_deref_mut().unwrap_or(&mut fresh);
        let incoming = partial.advance(input, limits, self.version)?;
        if incoming.is_none() {
            self.partial = Some(kept.unwrap_or_else(|| Box::new(fresh)));
        }
        Ok(incoming)
    }

    /// Whether nothing is kept inside.
    pub fn is_idle(&self) -> bool {
        self.partial.is_none()
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

/// A frame of which some bytes have come.
#[derive(Debug, Default)]
struct Partial {
    lines: Lines,
    stage: Stage,
}

#[derive(Debug, Default)]
enum Stage {
    /// Before the first line, or within it.
    #[default]
    Command,
    /// Before or within a header line, or the blank line after them.
    Headers(Head),
    /// After the blank line.
    Body(Body),
}

#[derive(Debug)]
struct Head {
    command: Command,
    headers: Headers,
    /// Header lines so far, repeated ones included.
    lines: usize,
}

#[derive(Debug)]
struct Body {
    head: Head,
    /// How many bytes; `None` when NUL ends it.
    length: Option<usize>,
    kept: Vec<u8>,
}

impl Partial {
    fn advance(
        &mut self,
        input: &mut &[u8],
        limits: &Limits,
        version: Version,
    ) -> Result<Option<Incoming>, StompError> {
        loop {
            match &mut self.stage {
                Stage::Command => {
                    let Some(line) = self.lines.next_command(input, limits)? else {
                        return Ok(None);
                    };
                    if line.is_empty() {
                        return Ok(Some(Incoming::Heartbeat));
                    }
                    let command =
                        Command::from_bytes(&line).ok_or_else(|| unknown_command(&line, &[]))?;
                    self.stage =
                        Stage::Headers(Head { command, headers: Headers::new(), lines: 0 });
                }
                Stage::Headers(head) => {
                    let Some(line) = self.lines.next_header(input, head.lines + 1, limits)? else {
                        return Ok(None);
                    };
                    if line.is_empty() {
                        let head = head.take();
                        let room = limits.frame_bytes.saturating_sub(self.lines.frame_bytes);
                        self.stage = Stage::Body(Body::after(head, room, limits)?);
                    } else {
                        head.push(&line, limits, version)?;
                    }
                }
                Stage::Body(body) => {
                    let frame = body.advance(input, &mut self.lines.frame_bytes, limits)?;
                    return Ok(frame.map(Incoming::Frame));
                }
            }
        }
    }
}

/// Takes whole lines off the input, keeping what is cut off.
#[derive(Debug, Default)]
struct Lines {
    /// Bytes of the frame so far.
    frame_bytes: usize,
    kept: Vec<u8>,
}

impl Lines {
    fn next_command<'i>(
        &mut self,
        input: &mut &'i [u8],
        limits: &Limits,
    ) -> Result<Option<Cow<'i, [u8]>>, StompError> {
        self.next(input, limits, LONGEST_COMMAND_BYTES, unknown_command)
    }

    fn next_header<'i>(
        &mut self,
        input: &mut &'i [u8],
        line: usize,
        limits: &Limits,
    ) -> Result<Option<Cow<'i, [u8]>>, StompError> {
        let limit = limits.header_bytes;
        self.next(input, limits, limit, |_, _| StompError::HeaderTooLong { line, limit })
    }

    /// The next line without its end, or `None` when it has not ended. Borrowed where it lies whole
    /// in the input.
    fn next<'i>(
        &mut self,
        input: &mut &'i [u8],
        limits: &Limits,
        line_bytes: usize,
        too_long: impl FnOnce(&[u8], &[u8]) -> StompError,
    ) -> Result<Option<Cow<'i, [u8]>>, StompError> {
        let end = input.iter().position(|byte| *byte == b'\n');
        let piece = &input[..end.unwrap_or(input.len())];
        let has_cr = piece.last().or(self.kept.last()) == Some(&b'\r');
        if self.kept.len() + piece.len() - usize::from(has_cr) > line_bytes {
            return Err(too_long(&self.kept, piece));
        }
        let consumed = piece.len() + usize::from(end.is_some());
        count(&mut self.frame_bytes, consumed, limits)?;
        // A NUL here would otherwise wait for a line that never ends.
        if piece.contains(&0) {
            return Err(StompError::NulInHead);
        }
        *input = &input[consumed..];
        if end.is_none() {
            self.kept.extend_from_slice(piece);
            return Ok(None);
        }
        if self.kept.is_empty() {
            return Ok(Some(Cow::Borrowed(piece.strip_suffix(b"\r").unwrap_or(piece))));
        }
        let mut line = std::mem::take(&mut self.kept);
        line.extend_from_slice(piece);
        line.pop_if(|byte| *byte == b'\r');
        Ok(Some(Cow::Owned(line)))
    }
}

impl Head {
    fn take(&mut self) -> Self {
        Self { headers: std::mem::take(&mut self.headers), ..*self }
    }

    fn push(&mut self, line: &[u8], limits: &Limits, version: Version) -> Result<(), StompError> {
        if self.lines == limits.headers {
            return Err(StompError::TooManyHeaders { limit: limits.headers });
        }
        self.lines += 1;
        let at = self.lines;
        let text = std::str::from_utf8(line).map_err(|_| StompError::HeaderNotUtf8 { line: at })?;
        let (name, value) = text.split_once(':').ok_or(StompError::MissingColon { line: at })?;
        if name.is_empty() {
            return Err(StompError::EmptyHeaderName { line: at });
        }
        self.headers
            .push_escaped(name, value, version.escapes_of(self.command))
            .map_err(|_| StompError::UndefinedEscape { line: at })
    }

    fn content_length(&self) -> Result<Option<usize>, StompError> {
        let Some(value) = self.headers.get("content-length") else {
            return Ok(None);
        };
        let digits = value.trim();
        if !is_digits(digits) {
            return Err(StompError::MalformedContentLength);
        }
        Ok(Some(digits.parse().unwrap_or(usize::MAX)))
    }
}

impl Body {
    /// The body that `head` announces, where `room` bytes are left of the frame's limit.
    fn after(head: Head, room: usize, limits: &Limits) -> Result<Self, StompError> {
        let length = match head.content_length()? {
            Some(1..) if !head.command.allows_body() => {
                return Err(StompError::BodyNotAllowed { command: head.command });
            }
            // `>=`, as a NUL follows.
            Some(length) if length >= room => {
                return Err(StompError::FrameTooLarge { limit: limits.frame_bytes });
            }
            None if !head.command.allows_body() => Some(0),
            length => length,
        };
        Ok(Self { head, length, kept: Vec::new() })
    }

    fn advance(
        &mut self,
        input: &mut &[u8],
        frame_bytes: &mut usize,
        limits: &Limits,
    ) -> Result<Option<Frame>, StompError> {
        let until = match self.length {
            Some(length) => length - self.kept.len(),
            None => find_nul(input).unwrap_or(input.len()),
        };
        let (piece, rest) = input.split_at(until.min(input.len()));
        let Some((end, rest)) = rest.split_first() else {
            count(frame_bytes, piece.len(), limits)?;
            self.kept.extend_from_slice(piece);
            *input = rest;
            return Ok(None);
        };
        count(frame_bytes, piece.len() + 1, limits)?;
        if *end != 0 {
            return Err(self.unended());
        }
        *input = rest;
        let body = if self.kept.is_empty() {
            Bytes::copy_from_slice(piece)
        } else {
            let mut body = std::mem::take(&mut self.kept);
            body.extend_from_slice(piece);
            body.into_boxed_slice().into()
        };
        let Head { command, headers, .. } = self.head.take();
        Ok(Some(Frame { command, headers, body }))
    }

    fn unended(&self) -> StompError {
        let command = self.head.command;
        match self.length {
            Some(content_length) if command.allows_body() => {
                StompError::MissingNul { content_length }
            }
            _ => StompError::BodyNotAllowed { command },
        }
    }
}

/// Adds to the frame's bytes, up to their limit.
fn count(frame_bytes: &mut usize, more: usize, limits: &Limits) -> Result<(), StompError> {
    *frame_bytes += more;
    if *frame_bytes > limits.frame_bytes {
        return Err(StompError::FrameTooLarge { limit: limits.frame_bytes });
    }
    Ok(())
}

/// Where the first NUL is. `CStr` searches a word at a time, an iterator a byte at a time.
fn find_nul(bytes: &[u8]) -> Option<usize> {
    CStr::from_bytes_until_nul(bytes).ok().map(CStr::count_bytes)
}

fn unknown_command(kept: &[u8], piece: &[u8]) -> StompError {
    let shown: Vec<u8> = kept.iter().chain(piece).copied().take(LONGEST_COMMAND_BYTES).collect();
    StompError::UnknownCommand { found: String::from_utf8_lossy(&shown).into() }
}

/// `UNSUBSCRIBE`
const LONGEST_COMMAND_BYTES: usize = 11;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_decoder_is_two_words() {
        assert!(size_of::<Decoder>() <= 16);
    }

    #[test]
    fn memory_grows_with_the_data_and_not_with_what_is_announced() {
        let limits = Limits::default();
        let mut decoder = Decoder::new();
        let mut fed = 0;
        let head = b"SEND\ncontent-length:60000\n\n".as_slice();
        for piece in head.chunks(head.len()).chain([[b'x'; 7].as_slice()].repeat(1000)) {
            assert_eq!(decoder.next(&mut &*piece, &limits), Ok(None));
            fed += piece.len();
            let Some(Stage::Body(body)) = decoder.partial.as_deref().map(|kept| &kept.stage) else {
                panic!("not in a body")
            };
            assert!(body.kept.capacity() <= 2 * fed, "{} for {fed}", body.kept.capacity());
        }
    }
}
