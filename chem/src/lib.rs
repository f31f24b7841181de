//! From SMILES to the integer features of a model.
//!
//! | module | what it holds |
//! |---|---|
//! | `error` | why a SMILES or featuriser was refused, with position |
//! | `position` | where in the text an atom stands |
//! | `grammar` | mistakes that the crate's parser reads over |
//! | `chemistry` | the trait that hides the chemistry crate, and its one implementation |
//! | `fcfp` | Morgan fingerprints on RDKit's feature classes, which the crate lacks |
//! | `descriptors` | ten descriptors and their scaling to integers |
//! | `standard` | largest fragment, charges, canonical SMILES, scaffolds |
//! | `features` | featurisers on top of it |
//! | `image32` | where a feature stands on the image of the Olinda nets |
//! | `table` | files of molecules, streamed; features written beside them |
//!
//! Invariant: the same text gives the same features as RDKit, or an error; never a panic, never
//! unbounded time. No clock, no randomness, no async runtime; only `table` touches files. It knows
//! nothing of models and encryption. RDKit's licence stands in `NOTICE-RDKit.txt`.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

mod chemistry;
mod descriptors;
mod error;
mod fcfp;
mod features;
mod grammar;
mod image32;
mod position;
mod standard;
pub mod table;

pub use chemistry::{MAX_ATOMS, MAX_BYTES};
pub use descriptors::{DESCRIPTOR_NAMES, Descriptors, descriptors};
pub use error::ChemError;
pub use features::{FEATURISER_NAMES, check_featuriser, featurise, named};
pub use standard::{Standardised, canonical, scaffold, standardise};
