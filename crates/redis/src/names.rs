//! What channels and keys are called in Redis, and in which of 256 partitions each belongs.
//!
//! Every name is `{prefix}:{tag}:{kind}:{text}`, the tag in braces. The tag is that of the partition:
//! Redis Cluster hashes only what stands in braces, so all names of a partition share a slot, and
//! one script can use several. Names are length-prefixed on the wire and the text comes last, so any
//! text is safe.

use std::sync::{Arc, LazyLock};

use fanlight_engine::broker::Channel;

/// One of 256 parts of the channels and keys; what shares one can be used in one script.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Partition(pub(crate) u8);

/// What a key holds; its code stands in the key's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind(pub(crate) &'static str);

/// Makes and reads the names of this cluster's channels and keys.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    /// `fl:`
    prefix: Arc<str>,
    /// `fl:{tag}:c:` of each partition; no other name begins with it.
    channels: Arc<[Box<str>]>,
}

impl Partition {
    /// How many there are.
    pub(crate) const COUNT: usize = 256;

    /// All of them, in order.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..=u8::MAX).map(Self)
    }

    /// The one of a channel or a key's text; all nodes and versions must agree on it.
    pub(crate) fn of(text: &str) -> Self {
        Self((slot_of(text.as_bytes()) / SLOTS_EACH) as u8)
    }

    /// What stands in the braces of its names.
    pub(crate) fn tag(self) -> &'static str {
        &TAGS[usize::from(self.0)]
    }

    /// Its slot in Redis Cluster.
    pub(crate) fn slot(self) -> u16 {
        slot_of(self.tag().as_bytes())
    }
}

impl Names {
    pub(crate) fn new(prefix: &str) -> Self {
        let channels = Partition::all().map(|partition| {
            format!("{prefix}{{{}}}:{}:", partition.tag(), CHANNEL.0).into_boxed_str()
        });
        Self { prefix: prefix.into(), channels: channels.collect() }
    }

    /// A channel's name, in two parts that follow each other.
    pub(crate) fn of<'n>(&'n self, channel: &'n Channel) -> [&'n [u8]; 2] {
        self.within(Partition::of(channel.as_str()), channel)
    }

    /// The same where the channel's partition is known.
    pub(crate) fn within<'n>(
        &'n self,
        partition: Partition,
        channel: &'n Channel,
    ) -> [&'n [u8]; 2] {
        let start = &self.channels[usize::from(partition.0)];
        [start.as_bytes(), channel.as_str().as_bytes()]
    }

    /// The channel that a name on the wire means, if it is one of ours.
    pub(crate) fn channel<'w>(&self, wire: &'w [u8]) -> Option<&'w str> {
        let rest = wire.strip_prefix(self.prefix.as_bytes())?.strip_prefix(b"{")?;
        let end = rest.iter().position(|byte| *byte == b'}')?;
        let text = rest[end + 1..].strip_prefix(b":")?.strip_prefix(CHANNEL.0.as_bytes())?;
        std::str::from_utf8(text.strip_prefix(b":")?).ok()
    }

    /// The name of a key.
    pub(crate) fn key(&self, partition: Partition, kind: Kind, text: &str) -> Vec<u8> {
        format!("{}{{{}}}:{}:{text}", self.prefix, partition.tag(), kind.0).into_bytes()
    }

    /// A glob that matches every key of a kind, in any partition.
    pub(crate) fn any_key(&self, kind: Kind) -> Vec<u8> {
        let mut glob = Vec::new();
        for byte in self.prefix.bytes() {
            if b"*?[]^-\\".contains(&byte) {
                glob.push(b'\\');
            }
            glob.push(byte);
        }
        glob.extend_from_slice(format!("{{*}}:{}:*", kind.0).as_bytes());
        glob
    }

    /// The tag and the text of a key, if it is one of ours and of this kind.
    pub(crate) fn parts<'k>(&self, key: &'k [u8], kind: Kind) -> Option<(&'k str, &'k str)> {
        let key = std::str::from_utf8(key).ok()?;
        let (tag, rest) = key.strip_prefix(&*self.prefix)?.strip_prefix('{')?.split_once('}')?;
        let text = rest.strip_prefix(':')?.strip_prefix(kind.0)?.strip_prefix(':')?;
        Some((tag, text))
    }

    /// The canary channel of one connection, which is named by this process' own id.
    pub(crate) fn canary(&self, partition: Partition, connection: &str) -> String {
        format!("{}{{{}}}:{}:{connection}", self.prefix, partition.tag(), CANARY.0)
    }
}

/// Redis Cluster's hash: CRC16 (XMODEM) over 16,384 slots. Text with braces of its own is hashed
/// whole, as it never is a whole name.
pub(crate) fn slot_of(text: &[u8]) -> u16 {
    let crc = text.iter().fold(0_u16, |crc, byte| {
        let mut crc = crc ^ (u16::from(*byte) << 8);
        for _ in 0..8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 };
        }
        crc
    });
    crc % SLOTS
}

/// For each partition the smallest number whose slot is among the partition's own 64, so that the
/// partitions are spread evenly over the slots, however these are divided.
static TAGS: LazyLock<Box<[Box<str>]>> = LazyLock::new(|| {
    let mut tags: Vec<Option<Box<str>>> = vec![None; Partition::COUNT];
    let mut missing = Partition::COUNT;
    for number in 0_u32.. {
        let text = number.to_string();
        let tag = &mut tags[usize::from(slot_of(text.as_bytes()) / SLOTS_EACH)];
        if tag.is_none() {
            *tag = Some(text.into());
            missing -= 1;
            if missing == 0 {
                break;
            }
        }
    }
    tags.into_iter().flatten().collect()
});

const CHANNEL: Kind = Kind("c");
const CANARY: Kind = Kind("canary");
const SLOTS: u16 = 16_384;
const SLOTS_EACH: u16 = SLOTS / Partition::COUNT as u16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_back_to_its_channel_and_to_no_other_kind() {
        let names = Names::new("fl:");
        let channel = Channel::of_destination("/topic/ä:*\\}x".into());
        let wire = names.of(&channel).concat();
        assert_eq!(names.channel(&wire), Some(channel.as_str()));
        let partition = Partition::of(channel.as_str());
        let start = format!("fl:{{{}}}:c:", partition.tag());
        assert_eq!(wire, [start.as_bytes(), channel.as_str().as_bytes()].concat());
        assert_eq!(names.channel(names.canary(partition, "1").as_bytes()), None);
        assert_eq!(names.channel(&names.key(partition, Kind("h"), "/topic/a")), None);
        assert_eq!(names.channel(b"fl:{1}:c:\xff"), None);
        assert_eq!(names.channel(b"other:{1}:c:/topic/a"), None);
    }

    #[test]
    fn a_key_leads_back_to_its_tag_and_text_and_is_found_by_the_glob_of_its_kind() {
        let names = Names::new("a*b:");
        let key = names.key(Partition(3), Kind("hl"), "/topic/a:b");
        assert_eq!(names.parts(&key, Kind("hl")), Some((Partition(3).tag(), "/topic/a:b")));
        assert_eq!(names.parts(&key, Kind("hm")), None);
        assert_eq!(names.parts(b"a*b:{1", Kind("hl")), None);
        assert_eq!(names.any_key(Kind("hl")), b"a\\*b:{*}:hl:*");
    }

    #[test]
    fn the_guides_name_keys_as_they_are() {
        let names = Names::new("fl:");
        for (guide, partition, kind, text) in [
            ("app", Partition::of("orders"), Kind("app"), "orders"),
            ("cluster", Partition(0), crate::lease::LEASES, ""),
        ] {
            let path = format!("{}/../../docs/{guide}.md", env!("CARGO_MANIFEST_DIR"));
            let guide = std::fs::read_to_string(&path).unwrap();
            let key = String::from_utf8(names.key(partition, kind, text)).unwrap();
            let told: Vec<_> = guide.match_indices("fl:{").map(|(at, _)| &guide[at..]).collect();
            assert!(!told.is_empty() && told.iter().all(|own| own.starts_with(&key)), "{key}");
        }
    }

    #[test]
    fn the_slots_are_those_of_redis_cluster() {
        // From the cluster specification, and CLUSTER KEYSLOT.
        assert_eq!(slot_of(b"123456789"), 0x31c3);
        assert_eq!(slot_of(b"foo"), 12182);
    }

    #[test]
    fn each_partition_has_64_slots_of_its_own_and_its_names_lie_there() {
        for (at, partition) in Partition::all().enumerate() {
            assert_eq!(usize::from(partition.slot()) / 64, at);
        }
    }
}
