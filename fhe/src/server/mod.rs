//! The worker's half: evaluation of one step on ciphertexts.
//!
//! For each returned ciphertext: products and sums, then a fresh encryption of zero under the
//! client's public key (traps 1 and 2), a blind uniform over the whole torus on each body
//! coefficient in use (traps 3 and 5), then the switch to `2^m`. The blinds' top bits leave as
//! [`Blinds`]; a caller seals them ([`seal`]) and uses them once (trap 4).

#[cfg(test)]
mod attacks;
mod blinds;
mod evaluate;
mod prepared;
mod public_key;
mod seal;

pub use blinds::Blinds;
pub use evaluate::{Evaluation, StepError};
pub use prepared::PreparedStep;
pub use public_key::{PublicKeys, SeedLog, SeedReused};
pub use seal::{SealError, StateContext, StateKey};
