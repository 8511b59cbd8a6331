//! A set of partitions.

use crate::names::Partition;

/// A set of partitions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PartitionSet([u64; Partition::COUNT / 64]);

impl PartitionSet {
    pub(crate) fn contains(&self, partition: Partition) -> bool {
        let (word, bit) = place(partition);
        self.0[word] & bit != 0
    }

    pub(crate) fn insert(&mut self, partition: Partition) {
        let (word, bit) = place(partition);
        self.0[word] |= bit;
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Partition> {
        Partition::all().filter(|partition| self.contains(*partition))
    }
}

impl FromIterator<Partition> for PartitionSet {
    fn from_iter<I: IntoIterator<Item = Partition>>(partitions: I) -> Self {
        let mut set = Self::default();
        for partition in partitions {
            set.insert(partition);
        }
        set
    }
}

fn place(partition: Partition) -> (usize, u64) {
    (usize::from(partition.0 / 64), 1 << (partition.0 % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_put_in_and_nothing_else() {
        let put = [Partition(0), Partition(63), Partition(64), Partition(255)];
        let set: PartitionSet = put.into_iter().collect();
        assert!(set.iter().eq(put));
        assert!(!set.contains(Partition(1)));
    }
}
