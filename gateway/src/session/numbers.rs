//! The query numbers of a session that are used up, as ranges.
//!
//! Invariant: a number that went in is never forgotten. A client that counts upwards costs one
//! range, however many queries it asks; one that scatters its numbers meets the bound on ranges.

use std::collections::BTreeMap;

/// What became of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Insertion {
    /// It was not there; now it is.
    New,
    /// It was there before.
    Known,
    /// It was not there and the set takes no further range.
    Full,
}

/// A set of numbers, held as ranges that neither touch nor overlap.
#[derive(Debug)]
pub(crate) struct NumberSet {
    /// First number of a range to its last.
    ranges: BTreeMap<u64, u64>,
    max_ranges: usize,
    count: u64,
}

impl NumberSet {
    /// An empty set of at most `max_ranges` ranges.
    pub(crate) fn new(max_ranges: usize) -> Self {
        Self {
            ranges: BTreeMap::new(),
            max_ranges,
            count: 0,
        }
    }

    /// How many numbers are in the set.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Whether the number is in the set.
    pub(crate) fn contains(&self, number: u64) -> bool {
        self.before(number).is_some_and(|(_, last)| last >= number)
    }

    /// The range that begins at or before the number.
    fn before(&self, number: u64) -> Option<(u64, u64)> {
        let (first, last) = self.ranges.range(..=number).next_back()?;
        Some((*first, *last))
    }

    /// Puts a number in.
    pub(crate) fn insert(&mut self, number: u64) -> Insertion {
        let left = self.before(number);
        if left.is_some_and(|(_, last)| last >= number) {
            return Insertion::Known;
        }
        let left = left.filter(|(_, last)| last.checked_add(1) == Some(number));
        let right = number
            .checked_add(1)
            .and_then(|next| Some((next, *self.ranges.get(&next)?)));
        match (left, right) {
            (None, None) if self.ranges.len() >= self.max_ranges => return Insertion::Full,
            (None, None) => self.ranges.insert(number, number),
            (Some((first, _)), None) => self.ranges.insert(first, number),
            (left, Some((next, last))) => {
                self.ranges.remove(&next);
                let first = left.map_or(number, |(first, _)| first);
                self.ranges.insert(first, last)
            }
        };
        self.count += 1;
        Insertion::New
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![
            0u64..40,
            (0u64..10).prop_map(|n| u64::MAX - n),
            any::<u64>()
        ]
    }

    proptest! {
        #[test]
        fn it_is_a_set(numbers in proptest::collection::vec(number(), 0..200)) {
            let mut set = NumberSet::new(usize::MAX);
            let mut model = HashSet::new();
            for number in numbers {
                prop_assert_eq!(set.contains(number), model.contains(&number));
                let expected = if model.insert(number) { Insertion::New } else { Insertion::Known };
                prop_assert_eq!(set.insert(number), expected);
                prop_assert!(set.contains(number));
            }
            prop_assert_eq!(set.count(), model.len() as u64);
            let covered: u64 = set.ranges.iter().map(|(first, last)| last - first + 1).sum();
            prop_assert_eq!(covered, set.count());
        }
    }

    #[test]
    fn counting_upwards_costs_one_range_and_scattering_is_bounded() {
        let mut set = NumberSet::new(2);
        for number in 1..=1000 {
            assert_eq!(set.insert(number), Insertion::New);
        }
        assert_eq!(set.ranges.len(), 1);
        assert_eq!(set.insert(2000), Insertion::New);
        assert_eq!(set.insert(3000), Insertion::Full);
        assert!(!set.contains(3000));
        assert_eq!(set.insert(1001), Insertion::New);
        assert_eq!(set.insert(500), Insertion::Known);
    }
}
