//! The blinded-lookup protocol (docs/protocol.md): a client and a publisher's workers evaluate a
//! network together, the workers see only ciphertexts, the client only uniform numbers.
//!
//! | module | what it holds | who uses it |
//! |---|---|---|
//! | [`ring`], [`plan`] | parameters from security formulas, noise budget, tiling | everybody |
//! | [`network`], [`twin`] | the integer network and its evaluation in clear | publisher, worker |
//! | [`sealing`] | weights at rest, keys sealed to workers | publisher, worker |
//! | [`client`] | secret keys, encryption, decryption of blinded phases | the lab |
//! | [`server`] | evaluation, re-randomisation, blinding, sealed state | the worker |
//! | [`local`] | both halves in one process | publisher, tests |
//! | [`wire`] | bytes between both halves, every length bounded | both |
//!
//! Invariant: `client` and `server` do not name each other's types; they share bytes only. No I/O
//! and no async runtime; randomness comes from the operating system through [`rng`].

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

pub mod client;
pub mod fft;
pub mod layout;
pub mod local;
pub mod network;
pub mod plan;
pub mod ring;
pub mod rng;
pub mod sealing;
pub mod server;
pub mod torus;
pub mod twin;
pub mod wire;
