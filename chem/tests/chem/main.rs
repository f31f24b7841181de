//! What the crate promises, through its public interface.
#![allow(clippy::unwrap_used, clippy::panic)]

mod molecules;
mod rdkit;
mod robustness;
mod standard;
mod table;
