//! The protocol of a session whose transport does not tell it.

use fanlight_proto::stomp::{Command, Version};

use super::Protocol;

/// What the first message shows its sender to speak.
pub(super) fn detect(message: &[u8]) -> Option<Protocol> {
    if matches!(message.trim_ascii_start().first(), Some(b'{' | b'[')) {
        return Some(Protocol::Native);
    }
    // Ends of line may come before a frame, and the frame may be cut within its first word.
    let line = message.split(|byte| matches!(byte, b'\n' | b'\r')).find(|line| !line.is_empty())?;
    let is_cut = message.ends_with(line);
    let is_stomp = Command::ALL.iter().any(|command| {
        let command = command.as_str().as_bytes();
        command == line || (is_cut && command.starts_with(line))
    });
    is_stomp.then_some(Protocol::Stomp(Version::V12))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_message_tells_the_protocol_even_when_it_is_cut() {
        let stomp = Some(Protocol::Stomp(Version::V12));
        for (message, protocol) in [
            ("CONNECT\n", stomp),
            ("\n\nSTOMP\r\naccept-version:1.2\n", stomp),
            ("CONN", stomp),
            ("CONN\n", None),
            (" [{", Some(Protocol::Native)),
            ("hello", None),
            ("\n", None),
        ] {
            assert_eq!(detect(message.as_bytes()), protocol, "{message:?}");
        }
    }
}
