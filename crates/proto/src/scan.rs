//! Replaces a few bytes of a text, at the speed of a copy where there is nothing to replace.

/// Appends `bytes` with replacements. `is_special` says which bytes are worth a look; `replacement`
/// gets what follows from such a byte on, and says how many bytes to replace by what, if any.
///
/// Write `is_special` with `u8::from(..) | u8::from(..)`: without branches, the compiler looks at
/// all bytes of a block at once.
pub(crate) fn replace<T: AsRef<[u8]>>(
    bytes: &[u8],
    out: &mut Vec<u8>,
    is_special: impl Fn(u8) -> u8,
    replacement: impl Fn(&[u8]) -> Option<(usize, T)>,
) {
    out.reserve(bytes.len());
    let (mut copied, mut at) = (0, 0);
    while at < bytes.len() {
        let block = &bytes[at..bytes.len().min(at + BLOCK)];
        if let Ok(block) = <&[u8; BLOCK]>::try_from(block)
            && block.iter().fold(0, |any, byte| any | is_special(*byte)) == 0
        {
            at += BLOCK;
            continue;
        }
        let end = at + block.len();
        while at < end {
            if is_special(bytes[at]) != 0
                && let Some((replaced, text)) = replacement(&bytes[at..])
            {
                out.extend_from_slice(&bytes[copied..at]);
                out.extend_from_slice(text.as_ref());
                at += replaced;
                copied = at;
            } else {
                at += 1;
            }
        }
    }
    out.extend_from_slice(&bytes[copied..]);
}

const BLOCK: usize = 32;
