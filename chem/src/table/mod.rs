//! Tables of molecules, read as streams: memory does not grow with the number of rows.
//!
//! | module | what it holds |
//! |---|---|
//! | `read` | CSV, TSV and SMILES files, plain or gzip, with or without a header |
//! | `write` | a table with a status and the features of each molecule |

mod read;
mod write;

pub use read::{Column, Shape, Table, TableRow};
pub use write::{FeatureKind, FeatureReport, write_features};

/// Why a table cannot be read or written at all. A bad row is no such error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// The file is missing or unreadable, or the output cannot be written.
    #[error("{name}: {reason}")]
    File {
        /// The file.
        name: String,
        /// What the system or the format says.
        reason: String,
    },
    /// No row at all.
    #[error("{name} holds no molecule; it must have at least one row")]
    Empty {
        /// The file.
        name: String,
    },
    /// The wanted column is not there.
    #[error(
        "{name} has no column {wanted:?}; it has: {columns}; name the SMILES column by its option, or give its position from 1"
    )]
    MissingColumn {
        /// The file.
        name: String,
        /// What was asked for.
        wanted: String,
        /// What there is.
        columns: String,
    },
}
