//! The key exchange of the opening handshake (RFC 6455 §4.2).

use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use sha1::{Digest as _, Sha1};

/// The value of `Sec-WebSocket-Accept` that answers `Sec-WebSocket-Key` (RFC 6455 §4.2.2).
pub fn accept_key(key: &str) -> String {
    let digest = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    STANDARD.encode(digest)
}

/// Whether a `Sec-WebSocket-Key` is 16 bytes in base64 (RFC 6455 §4.2.1).
pub fn is_valid_key(key: &str) -> bool {
    let mut nonce = [0; 18];
    key.len() == KEY_LEN && KEY_BASE64.decode_slice(key, &mut nonce) == Ok(16)
}

const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const KEY_LEN: usize = 24;
/// Hand-written clients draw 22 random letters, the last of which has bits that stand for nothing.
const KEY_BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_6455_section_1_3_comes_out() {
        assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_key_is_sixteen_bytes_of_base64() {
        for (key, valid) in [
            ("dGhlIHNhbXBsZSBub25jZQ==", true),
            ("AAAAAAAAAAAAAAAAAAAAAB==", true),
            ("", false),
            ("dGhlIHNhbXBsZSBub25jZQ", false),
            ("dGhlIHNhbXBsZSBub25jZQ=a", false),
            ("dGhlIHNhbXBsZSBub25jZWE=", false),
            ("dGhlIHNhbXBsZSBub25jZSEh", false),
            ("dGhlIHNhbXBsZSBub25j-_==", false),
        ] {
            assert_eq!(is_valid_key(key), valid, "{key}");
        }
    }
}
