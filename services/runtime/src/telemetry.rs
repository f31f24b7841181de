//! Structured logs on standard error. Filter: `CHEMXOR_LOG`, by default `info`.

use tracing_subscriber::EnvFilter;

/// Starts logging; `json` writes one object a line. Calling it again does nothing.
pub fn init(json: bool, default_filter: &str) {
    let filter =
        EnvFilter::try_from_env("CHEMXOR_LOG").unwrap_or_else(|_| EnvFilter::new(default_filter));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // an error says that logging runs already
    let _ = if json {
        builder.json().try_init()
    } else {
        builder.with_ansi(false).try_init()
    };
}
