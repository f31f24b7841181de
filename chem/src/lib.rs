//! From SMILES to the integer features of a model.
//!
//! | module | what it holds |
//! |---|---|
//! | `error` | why a SMILES or featuriser was refused, with position |
//! | `position` | where in the text an atom stands |
//! | `chemistry` | the trait that hides the chemistry crate, and its one implementation |
//! | `features` | featurisers on top of it |
//!
//! Invariant: the same text gives the same features as RDKit, or an error; never a panic, never
//! unbounded time. Pure: no I/O, no clock, no randomness, no async runtime. It knows nothing of
//! models and encryption. RDKit's licence stands in `NOTICE-RDKit.txt`.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

mod chemistry;
mod error;
mod features;
mod position;

pub use chemistry::{MAX_ATOMS, MAX_BYTES};
pub use error::ChemError;
pub use features::{check_featuriser, featurise};
