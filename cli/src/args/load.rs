//! Arguments of `load`.

use std::path::PathBuf;

use clap::Args as ClapArgs;

#[derive(Debug, ClapArgs)]
pub(crate) struct LoadArgs {
    /// NAME or NAME@sha256:…
    pub(crate) model: String,
    /// CSV with a column of SMILES; asked in turns.
    #[arg(long, value_name = "CSV")]
    pub(crate) input: PathBuf,
    /// Column with the SMILES.
    #[arg(long, default_value = "smiles", value_name = "COLUMN")]
    pub(crate) smiles_column: String,
    /// Queries at the same time: N, LOW..HIGH (doubling) or LOW..HIGH..STEP [default: 8].
    #[arg(long, value_name = "LEVELS", conflicts_with = "rate")]
    pub(crate) concurrency: Option<String>,
    /// Queries a second, each begun when it is due: N, LOW..HIGH or LOW..HIGH..STEP. Latency counts
    /// from when a query was due, not from when it could be sent.
    #[arg(long, value_name = "LEVELS")]
    pub(crate) rate: Option<String>,
    /// Sessions that the queries are spread over.
    #[arg(long, default_value_t = 1)]
    pub(crate) sessions: usize,
    /// With a rate: queries that may run at the same time; more wait, and their wait is counted. One that
    /// cannot be sent within a minute counts as failed.
    #[arg(long, default_value_t = 1024)]
    pub(crate) max_in_flight: usize,
    /// Seconds of a window; a level ends when the throughput of three windows agrees, and these are
    /// reported. Throughput is the answers that came in the three, over their time. Latency, failures
    /// and wrong answers are of the queries that were due or sent in them, also where the answer came
    /// later: it is waited for. In the latencies a query that failed counts with its time until then, and
    /// at least as much as the slowest answer.
    #[arg(long, default_value_t = 2.0)]
    pub(crate) window: f64,
    /// How far the throughput of a window may be from the mean of the three, as a share of it. With a
    /// rate also how far this mean may be from the rate: a service that does not keep up is not steady.
    #[arg(long, default_value_t = 0.1)]
    pub(crate) stable: f64,
    /// Windows after which a level ends in any case.
    #[arg(long, default_value_t = 15)]
    pub(crate) max_windows: usize,
    /// Column with the expected prediction; given again, of the next output. A wrong one fails the
    /// command.
    #[arg(long = "expect-column", value_name = "COLUMN")]
    pub(crate) expect_columns: Vec<String>,
    /// How far a prediction may be from the expected one.
    #[arg(long, default_value_t = 0.1)]
    pub(crate) tolerance: f64,
    /// Share of a level's queries that may fail; more fail the command.
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub(crate) max_failed: f64,
    /// CSV to write, one row a level.
    #[arg(long, value_name = "CSV")]
    pub(crate) output: Option<PathBuf>,
    /// Name of the lab's key.
    #[arg(long, default_value = "default", value_name = "NAME")]
    pub(crate) key: String,
    /// Do not show progress.
    #[arg(long)]
    pub(crate) quiet: bool,
}
