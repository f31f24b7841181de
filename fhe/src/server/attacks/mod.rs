//! The traps of the protocol (docs/protocol.md), each with an attack that breaks an unprotected
//! variant built here, and the same attack tried on the real path.
//!
//! | trap | file |
//! |---|---|
//! | 1 fresh re-randomisation, 2 masks from seeds | `masks` |
//! | 3 only the coefficients in use, 4 a blind is used once, 5 blinds cover the whole torus | `blinds` |
//! | 6 seeds never coincide, noise is not derived from them, 7 foreign ciphertexts are checked | `seeds` |
//! | 8 the client behaves the same whatever it decrypts | `oracle` |
//!
//! `view` tests that what a client sees is uniform, `leakage` that a query releases B bits an
//! output, whatever is sent, and `noise` measures the error of replies.

mod blinds;
mod leakage;
mod masks;
mod noise;
mod oracle;
mod seeds;
mod support;
mod view;
