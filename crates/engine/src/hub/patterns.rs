//! The patterns of one channel, found by what every match begins and ends with, so that a
//! publication is compared with few of them however many there are.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;

use fanlight_proto::DestinationPattern;

use super::GroupKey;

/// The subscribed patterns of one channel.
///
/// Those whose literal ends are as long share a shape, and within it those with the same ends a
/// bucket. A destination has one bucket in each shape. Patterns that differ only in their middle
/// are compared one by one.
#[derive(Debug, Default)]
pub(super) struct Patterns {
    shapes: HashMap<Shape, Buckets, foldhash::quality::RandomState>,
    /// Where each stands in its bucket.
    places: HashMap<Arc<DestinationPattern>, usize, foldhash::quality::RandomState>,
    hasher: foldhash::quality::RandomState,
}

/// By the hash of both ends. Who shares a hash by accident is compared in vain.
type Buckets = HashMap<u64, Vec<Entry>, foldhash::quality::RandomState>;

/// How many bytes every match begins and ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Shape {
    prefix: u16,
    suffix: u16,
}

#[derive(Debug)]
struct Entry {
    pattern: Arc<DestinationPattern>,
    group: GroupKey,
}

impl Patterns {
    /// The group of `pattern`, if it is subscribed.
    pub(super) fn group(&self, pattern: &DestinationPattern) -> Option<GroupKey> {
        let &at = self.places.get(pattern)?;
        let (shape, hash) = self.bucket_of(pattern);
        Some(self.shapes.get(&shape)?.get(&hash)?.get(at)?.group)
    }

    /// Adds a pattern that is not there.
    pub(super) fn insert(&mut self, pattern: Arc<DestinationPattern>, group: GroupKey) {
        let (shape, hash) = self.bucket_of(&pattern);
        let bucket = self.shapes.entry(shape).or_default().entry(hash).or_default();
        self.places.insert(Arc::clone(&pattern), bucket.len());
        bucket.push(Entry { pattern, group });
    }

    /// Removes a pattern.
    pub(super) fn remove(&mut self, pattern: &DestinationPattern) {
        let Some(at) = self.places.remove(pattern) else { return };
        let (shape, hash) = self.bucket_of(pattern);
        let Some(buckets) = self.shapes.get_mut(&shape) else { return };
        let Some(bucket) = buckets.get_mut(&hash) else { return };
        bucket.swap_remove(at);
        if let Some(moved) = bucket.get(at) {
            self.places.insert(Arc::clone(&moved.pattern), at);
        }
        if bucket.is_empty() {
            buckets.remove(&hash);
        }
        if buckets.is_empty() {
            self.shapes.remove(&shape);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The groups of the patterns that `destination` matches.
    pub(super) fn matching<'p>(
        &'p self,
        destination: &'p str,
    ) -> impl Iterator<Item = GroupKey> + use<'p> {
        let bucket = |(shape, buckets): (&Shape, &'p Buckets)| {
            let (prefix, suffix) = shape.ends_of(destination)?;
            buckets.get(&self.hasher.hash_one((prefix, suffix)))
        };
        let entries = self.shapes.iter().filter_map(bucket).flatten();
        entries.filter(|entry| entry.pattern.matches(destination)).map(|entry| entry.group)
    }

    fn bucket_of(&self, pattern: &DestinationPattern) -> (Shape, u64) {
        let (prefix, suffix) = pattern.literal_ends();
        // Destinations are shorter than that, and patterns as well.
        let shape = Shape { prefix: prefix.len() as u16, suffix: suffix.len() as u16 };
        (shape, self.hasher.hash_one((prefix, suffix)))
    }
}

impl Shape {
    /// What `destination` begins and ends with, unless it is too short to match.
    fn ends_of(self, destination: &str) -> Option<(&str, &str)> {
        let (prefix, suffix) = (usize::from(self.prefix), usize::from(self.suffix));
        let suffix_at = destination.len().checked_sub(suffix).filter(|&at| prefix <= at)?;
        // Within a character there is no end of any pattern.
        Some((destination.get(..prefix)?, destination.get(suffix_at..)?))
    }
}
