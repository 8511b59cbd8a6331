//! As much of HTTP/1.1 as a stream of events and an answer need.

use anyhow::{Context, Result, ensure};

use super::Piece;

/// Where the head ends, its empty line included.
pub fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

/// A body in chunks (RFC 9112 §7.1).
#[derive(Debug, Default)]
pub struct Chunks {
    /// What is left of the chunk, its end of line included.
    left: usize,
    /// The line that says the next chunk's size, so far.
    size_line: Vec<u8>,
}

impl Chunks {
    /// Appends to `out` what `input` has of the body.
    pub fn decode(&mut self, mut input: &[u8], out: &mut Vec<u8>) -> Result<()> {
        while !input.is_empty() {
            if self.left == 0 {
                let (&byte, rest) = input.split_first().context("there is input")?;
                input = rest;
                self.size_line.push(byte);
                if byte == b'\n' {
                    let line = String::from_utf8_lossy(&self.size_line);
                    let size = usize::from_str_radix(line.trim(), 16)
                        .with_context(|| format!("a chunk of {line:?} bytes"))?;
                    ensure!(size > 0, "the server ended the stream");
                    self.left = size + END_OF_LINE;
                    self.size_line.clear();
                }
                continue;
            }
            let (piece, rest) = input.split_at(self.left.min(input.len()));
            let body = self.left.saturating_sub(END_OF_LINE).min(piece.len());
            out.extend_from_slice(&piece[..body]);
            self.left -= piece.len();
            input = rest;
        }
        Ok(())
    }
}

/// Answers with a length, one after the other.
#[derive(Debug, Default)]
pub struct Answers(Vec<u8>);

impl Answers {
    /// Tells each that is whole, head and body.
    pub fn read(
        &mut self,
        input: &[u8],
        tell: &mut dyn FnMut(Piece<'_>) -> Result<()>,
    ) -> Result<()> {
        self.0.extend_from_slice(input);
        while let Some(head) = end_of_head(&self.0) {
            let length = content_length(&String::from_utf8_lossy(&self.0[..head]))?;
            if self.0.len() < head + length {
                break;
            }
            tell(Piece::Text(std::str::from_utf8(&self.0[..head + length])?))?;
            self.0.drain(..head + length);
        }
        Ok(())
    }
}

fn content_length(head: &str) -> Result<usize> {
    let value = header(head, "content-length");
    Ok(value.context("an answer without Content-Length")?.parse()?)
}

/// The value of a header, whose name is in lower case here.
pub fn header<'h>(head: &'h str, wanted: &str) -> Option<&'h str> {
    head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case(wanted).then_some(value.trim())
    })
}

const END_OF_LINE: usize = 2;
