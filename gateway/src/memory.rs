//! Memory that the messages of all sessions together may take, in both directions.
//!
//! * All that a step needs, its message and its reply, is reserved before its first byte is kept,
//!   so a step that has begun never waits for memory and those that wait hold none of theirs.
//! * One organisation has at most half of it, however many sessions it opens.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of one permit: a semaphore counts in 32 bits.
const UNIT: usize = 1 << 10;

/// The memory of the process.
pub(crate) struct Memory {
    all: Arc<Semaphore>,
    /// Permits that one organisation may hold.
    most: u32,
    organisations: Mutex<HashMap<String, Weak<Semaphore>>>,
}

/// What the sessions of one organisation may take of it.
#[derive(Clone)]
pub(crate) struct Share {
    all: Arc<Semaphore>,
    own: Arc<Semaphore>,
    most: u32,
}

/// Memory of one step, given back when dropped.
#[derive(Debug)]
pub(crate) struct Reserved {
    _all: OwnedSemaphorePermit,
    _own: OwnedSemaphorePermit,
}

impl Memory {
    pub(crate) fn new(mib: usize) -> Self {
        let permits = mib * ((1 << 20) / UNIT);
        Self {
            all: Arc::new(Semaphore::new(permits)),
            most: u32::try_from(permits / 2).unwrap_or(u32::MAX),
            organisations: Mutex::default(),
        }
    }

    /// The share of an organisation.
    pub(crate) fn share(&self, organisation: &str) -> Share {
        let organisations = self.organisations.lock();
        let mut organisations = organisations.unwrap_or_else(PoisonError::into_inner);
        organisations.retain(|_, own| own.strong_count() > 0);
        let known = organisations.get(organisation).and_then(Weak::upgrade);
        let own = known.unwrap_or_else(|| {
            let own = Arc::new(Semaphore::new(self.most as usize));
            organisations.insert(organisation.to_owned(), Arc::downgrade(&own));
            own
        });
        Share {
            all: self.all.clone(),
            own,
            most: self.most,
        }
    }
}

impl Share {
    /// Waits for as much memory; none when the gateway has gone.
    pub(crate) async fn reserve(&self, bytes: usize) -> Option<Reserved> {
        let permits = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX);
        let permits = permits.clamp(1, self.most);
        // first its own, so that an organisation that waits for itself keeps nothing from others
        let own = self.own.clone().acquire_many_owned(permits).await.ok()?;
        let all = self.all.clone().acquire_many_owned(permits).await.ok()?;
        Some(Reserved {
            _all: all,
            _own: own,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn an_organisation_has_at_most_half_and_the_process_all() {
        let memory = Memory::new(4);
        let mib = |count: usize| count << 20;
        let (lab, other) = (memory.share("lab"), memory.share("other"));
        let held = lab.reserve(mib(1)).now_or_never().unwrap();
        // another session of the same organisation
        let more = memory.share("lab").reserve(mib(1)).now_or_never().unwrap();
        assert!(lab.reserve(1).now_or_never().is_none());
        let whole = other.reserve(mib(9)).now_or_never().unwrap();
        assert!(
            whole.is_some(),
            "what is too long for a share takes all of it"
        );
        let third = memory.share("third");
        assert!(third.reserve(1).now_or_never().is_none());
        drop((held, more));
        assert!(third.reserve(1).now_or_never().is_some());
    }
}
