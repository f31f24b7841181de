//! Counts of what is open, by name, each with a bound.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// How many are open of each name that has any.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counts(Arc<Mutex<HashMap<String, usize>>>);

/// Counts as open until dropped.
#[derive(Debug)]
pub(crate) struct Counted {
    counts: Counts,
    name: String,
}

impl Counts {
    /// One more of this name; gives how many there are when there may be no more.
    pub(crate) fn admit(&self, name: &str, limit: usize) -> Result<Counted, usize> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.get(name).copied().unwrap_or_default();
        if count >= limit {
            return Err(count);
        }
        open.insert(name.to_owned(), count + 1);
        Ok(Counted {
            counts: self.clone(),
            name: name.to_owned(),
        })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let open = self.counts.0.lock();
        let mut open = open.unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_one_by_one_and_forgotten_when_nothing_is_open() {
        let counts = Counts::default();
        let one = counts.admit("lab", 2).unwrap();
        let _two = counts.admit("lab", 2).unwrap();
        assert_eq!(counts.admit("lab", 2).unwrap_err(), 2);
        let other = counts.admit("other", 2);
        assert!(other.is_ok());
        drop((one, other));
        assert!(counts.admit("lab", 2).is_ok());
        assert_eq!(counts.0.lock().unwrap().len(), 1);
    }
}
