//! Sealed state: what a worker remembers between steps leaves it encrypted and authenticated
//! (XChaCha20-Poly1305) under a key that only the workers of this model version hold, bound to
//! session, query, step and version. The gateway keeps it and cannot read it.

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use chemxor_core::VersionId;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::server::Blinds;

/// Why a state was not sealed or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// Forged, damaged, or of another session, query, step or version.
    #[error("the sealed state does not belong to this session, query and step")]
    Refused,
    /// No randomness.
    #[error(transparent)]
    Randomness(#[from] crate::rng::RandomnessError),
}

/// What a state is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateContext {
    /// The model version.
    pub version: VersionId,
    /// The client's session.
    pub session: [u8; 16],
    /// The query within the session.
    pub query: u64,
    /// The step that left the state.
    pub step: u32,
}

impl StateContext {
    fn associated_data(&self) -> Vec<u8> {
        let mut data = b"chemxor v1 sealed state\0".to_vec();
        data.extend_from_slice(self.version.as_bytes());
        data.extend_from_slice(&self.session);
        data.extend_from_slice(&self.query.to_le_bytes());
        data.extend_from_slice(&self.step.to_le_bytes());
        data
    }
}

/// Key shared by the workers of one model version.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct StateKey([u8; 32]);

impl std::fmt::Debug for StateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StateKey([redacted])")
    }
}

const NONCE: usize = 24;

impl StateKey {
    /// Wraps the 32 bytes that the publisher sealed to this worker.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new((&self.0).into())
    }

    /// Seals blinds; a fresh random nonce goes in front.
    pub fn seal(&self, blinds: &Blinds, context: &StateContext) -> Result<Vec<u8>, SealError> {
        let mut nonce = [0u8; NONCE];
        getrandom::fill(&mut nonce).map_err(|_| crate::rng::RandomnessError)?;
        let plain = blinds.to_bytes();
        let payload = Payload {
            msg: &plain,
            aad: &context.associated_data(),
        };
        let sealed = self
            .cipher()
            .encrypt(&XNonce::from(nonce), payload)
            .map_err(|_| SealError::Refused)?;
        Ok([nonce.as_slice(), &sealed].concat())
    }

    /// Opens what [`StateKey::seal`] made for the same context.
    pub fn open(&self, sealed: &[u8], context: &StateContext) -> Result<Blinds, SealError> {
        let (nonce, sealed) = sealed
            .split_first_chunk::<NONCE>()
            .ok_or(SealError::Refused)?;
        let payload = Payload {
            msg: sealed,
            aad: &context.associated_data(),
        };
        let plain = self
            .cipher()
            .decrypt(&XNonce::from(*nonce), payload)
            .map_err(|_| SealError::Refused)?;
        let plain = zeroize::Zeroizing::new(plain);
        Blinds::from_bytes(&plain).ok_or(SealError::Refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> StateContext {
        StateContext {
            version: VersionId::of(b"v"),
            session: [1; 16],
            query: 7,
            step: 0,
        }
    }

    #[test]
    fn state_opens_only_in_its_own_context() {
        let key = StateKey::new([3; 32]);
        let blinds = Blinds::new(6, vec![0, 63, 17]);
        let sealed = key.seal(&blinds, &context()).unwrap();
        assert_eq!(key.open(&sealed, &context()).unwrap(), blinds);
        for other in [
            StateContext {
                version: VersionId::of(b"w"),
                ..context()
            },
            StateContext {
                session: [2; 16],
                ..context()
            },
            StateContext {
                query: 8,
                ..context()
            },
            StateContext {
                step: 1,
                ..context()
            },
        ] {
            assert_eq!(key.open(&sealed, &other).unwrap_err(), SealError::Refused);
        }
        let other_key = StateKey::new([4; 32]);
        assert_eq!(
            other_key.open(&sealed, &context()).unwrap_err(),
            SealError::Refused
        );
    }

    #[test]
    fn every_damaged_byte_is_found() {
        let key = StateKey::new([3; 32]);
        let sealed = key.seal(&Blinds::new(4, vec![15; 4]), &context()).unwrap();
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            assert_eq!(
                key.open(&damaged, &context()).unwrap_err(),
                SealError::Refused
            );
            assert_eq!(
                key.open(&sealed[..at], &context()).unwrap_err(),
                SealError::Refused
            );
        }
    }
}
