//! The lab's half: keys, encryption of features and one-hot vectors, decryption of blinded phases.
//!
//! Invariant: nothing that was decrypted influences what is sent in clear, nor whether, when or
//! how long something is sent (trap 8). What the client decrypts before the last step is uniform.

mod encrypt;
#[cfg(test)]
mod equal_tests;
mod key;
mod query;

pub use encrypt::encrypt;
pub use key::{ClientKey, KeyError, RingKey};
pub use query::{Progress, Query, QueryError};
