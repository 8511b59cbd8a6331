//! Which publications have been seen of late.

use std::collections::{HashSet, VecDeque};

/// The ids of the last publications that concern several subscriptions.
///
/// The server sends a publication once for each subscription that matches it, without saying
/// which; the first is given to all of them, and the others are known by their id.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    ids: HashSet<Box<str>>,
    oldest_first: VecDeque<Box<str>>,
}

impl Recent {
    /// Notes `id`; whether it is new.
    pub(crate) fn is_new(&mut self, id: &str) -> bool {
        if self.ids.contains(id) {
            return false;
        }
        if self.oldest_first.len() == KEPT
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.ids.remove(&oldest);
        }
        self.ids.insert(id.into());
        self.oldest_first.push_back(id.into());
        true
    }
}

/// Above the number of publications that a server sends to one subscription in a row.
const KEPT: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_new_once_and_forgotten_when_many_others_came() {
        let mut recent = Recent::default();
        assert!(recent.is_new("a"));
        assert!(!recent.is_new("a"));
        for id in 0..KEPT {
            assert!(recent.is_new(&id.to_string()));
        }
        assert!(recent.is_new("a"));
        assert_eq!(recent.ids.len(), KEPT);
    }
}
