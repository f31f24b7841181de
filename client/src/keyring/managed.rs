//! A key in use: its queries are counted, and it is replaced when it has been used enough.

use std::sync::{Arc, Mutex, PoisonError};

use chemxor_fhe::client::ClientKey;

use super::{Keyring, Passphrase};
use crate::ClientError;

/// Queries that are counted in the file before they are asked, so that a crash never counts too few.
const BLOCK: u64 = 256;

/// Where a predictor takes its key from.
pub enum Keys {
    /// One key for ever.
    Fixed(Arc<ClientKey>),
    /// A stored key that is counted and replaced.
    Managed(ManagedKey),
}

impl From<Arc<ClientKey>> for Keys {
    fn from(key: Arc<ClientKey>) -> Self {
        Self::Fixed(key)
    }
}

impl From<ManagedKey> for Keys {
    fn from(key: ManagedKey) -> Self {
        Self::Managed(key)
    }
}

impl Keys {
    /// The key for one more query, and its number: a new number needs a new session.
    pub(crate) fn take(&self) -> Result<(Arc<ClientKey>, u64), ClientError> {
        match self {
            Self::Fixed(key) => Ok((key.clone(), 0)),
            Self::Managed(managed) => managed.take(),
        }
    }
}

/// A stored key in use.
#[derive(Debug)]
pub struct ManagedKey {
    ring: Keyring,
    name: String,
    passphrase: Option<Passphrase>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    key: Arc<ClientKey>,
    id: String,
    generation: u64,
    /// Counted in the file and not yet asked.
    reserved: u64,
    /// Queries that the key may still be used for, those reserved included; `None` without limit.
    left: Option<u64>,
}

impl ManagedKey {
    /// Opens a stored key; one that has been used enough is replaced first.
    pub fn open(
        ring: Keyring,
        name: &str,
        passphrase: Option<Passphrase>,
    ) -> Result<Self, ClientError> {
        let key = ring.query_key(name, passphrase.as_ref())?;
        let info = ring.info(name)?;
        let left = (info.rotate_after > 0).then(|| info.rotate_after.saturating_sub(info.queries));
        let state = State {
            key: Arc::new(key),
            id: info.id,
            generation: 0,
            reserved: 0,
            left,
        };
        Ok(Self {
            ring,
            name: name.to_owned(),
            passphrase,
            state: Mutex::new(state),
        })
    }

    fn take(&self) -> Result<(Arc<ClientKey>, u64), ClientError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.left == Some(0) {
            let (info, key) = self.ring.rotate(&self.name, self.passphrase.as_ref())?;
            tracing::info!(key = %self.name, id = %info.id, "the key was replaced");
            *state = State {
                key: Arc::new(key),
                id: info.id,
                generation: state.generation + 1,
                reserved: 0,
                left: Some(info.rotate_after),
            };
        }
        if state.reserved == 0 {
            let block = state.left.map_or(BLOCK, |left| left.min(BLOCK));
            self.ring.count(&self.name, &state.id, block as i64)?;
            state.reserved = block;
        }
        state.reserved -= 1;
        state.left = state.left.map(|left| left - 1);
        Ok((state.key.clone(), state.generation))
    }
}

impl Drop for ManagedKey {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if state.reserved > 0 {
            // counting too many is harmless
            let _ = self
                .ring
                .count(&self.name, &state.id, -(state.reserved as i64));
        }
    }
}
