//! Arguments of the platform on this machine.

use std::path::PathBuf;

use clap::Args as ClapArgs;

#[derive(Debug, ClapArgs)]
pub(crate) struct UpArgs {
    /// Partition workers to run.
    #[arg(long, default_value_t = 2)]
    pub(crate) workers: usize,
    /// PostgreSQL to use instead of a private one.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub(crate) database_url: Option<String>,
    /// Stay in the foreground until Ctrl-C, and log to standard error.
    #[arg(long)]
    pub(crate) foreground: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct LogsArgs {
    /// Lines from the end.
    #[arg(long, short = 'n', default_value_t = 50)]
    pub(crate) lines: usize,
    /// Go on printing what is added, until Ctrl-C.
    #[arg(long, short)]
    pub(crate) follow: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ResetArgs {
    /// Do it without being asked.
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ServeArgs {
    /// olinda_zero, olinda, olinda_one, or the name of the model in the bundle.
    pub(crate) network: String,
    /// Trained weights: the bundle that `chemxor train` wrote.
    #[arg(
        long,
        alias = "checkpoint-path",
        visible_short_alias = 'c',
        value_name = "BUNDLE"
    )]
    pub(crate) checkpoint: Option<PathBuf>,
    /// Port on loopback; 0 takes any free one.
    #[arg(long, short, default_value_t = 8000)]
    pub(crate) port: u16,
    /// Partition workers to run.
    #[arg(long, default_value_t = 2)]
    pub(crate) workers: usize,
}
