//! What channels are called in Redis. Names are length-prefixed on the wire, so any text is safe.

use std::sync::Arc;

use fanlight_engine::broker::Channel;

/// Makes and reads the names of this cluster's channels.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    /// `fl:c:`; no other name begins with it.
    channels: Arc<str>,
    /// `fl:canary:`
    canaries: Arc<str>,
}

impl Names {
    pub(crate) fn new(prefix: &str) -> Self {
        Self { channels: format!("{prefix}c:").into(), canaries: format!("{prefix}canary:").into() }
    }

    /// A channel's name, in two parts that follow each other.
    pub(crate) fn of<'n>(&'n self, channel: &'n Channel) -> [&'n [u8]; 2] {
        [self.channels.as_bytes(), channel.as_str().as_bytes()]
    }

    /// The channel that a name on the wire means, if it is one of ours.
    pub(crate) fn channel<'w>(&self, wire: &'w [u8]) -> Option<&'w str> {
        let text = wire.strip_prefix(self.channels.as_bytes())?;
        std::str::from_utf8(text).ok()
    }

    /// The canary channel of one connection, which is named by this process' own id.
    pub(crate) fn canary(&self, connection: &str) -> String {
        format!("{}{connection}", self.canaries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_back_to_its_channel_and_to_no_other_kind() {
        let names = Names::new("fl:");
        let channel = Channel::of_destination("/topic/ä:*\\x".into());
        let wire = names.of(&channel).concat();
        assert_eq!(wire, "fl:c:/topic/ä:*\\x".as_bytes());
        assert_eq!(names.channel(&wire), Some(channel.as_str()));
        assert_eq!(names.channel(names.canary("1").as_bytes()), None);
        assert_eq!(names.channel(b"fl:c:\xff"), None);
        assert_eq!(names.channel(b"other:c:/topic/a"), None);
    }
}
