//! Printing: tables for people, JSON for programs, errors with their next step.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use chemxor_client::ClientError;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use serde_json::json;

use crate::args::Format;

/// Ends the process with this code; everything has been said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended(pub(crate) u8);

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ended with code {}", self.0)
    }
}

impl std::error::Error for Ended {}

/// Day of a time in seconds since 1970, UTC.
pub(crate) fn date(unix_s: u64) -> String {
    let time = i64::try_from(unix_s)
        .ok()
        .and_then(|s| time::OffsetDateTime::from_unix_timestamp(s).ok());
    time.map_or_else(String::new, |time| time.date().to_string())
}

/// Prints a line of the result. A reader that has gone (`| head`) is no reason to stop, nor to panic
/// as `println!` does.
macro_rules! say {
    () => {
        $crate::output::line("")
    };
    ($($text:tt)*) => {
        $crate::output::line(format_args!($($text)*))
    };
}

/// See `say!`.
pub(crate) fn line(text: impl std::fmt::Display) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Prints `value` as JSON, or calls `table`.
pub(crate) fn print(
    format: Format,
    value: &impl Serialize,
    table: impl FnOnce(),
) -> anyhow::Result<()> {
    match format {
        Format::Json => say!("{}", serde_json::to_string(value)?),
        Format::Table => table(),
    }
    Ok(())
}

/// Prints rows under a header, columns as wide as their widest cell.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) {
    let width = |column: usize| {
        let cells = rows
            .iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count());
        cells
            .chain([header[column].chars().count()])
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        say!("{}", padded.join("  ").trim_end());
    };
    line(&mut header.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
}

/// An error and its causes, on standard error: a line for people, one JSON object for programs.
pub(crate) fn error(error: &anyhow::Error, format: Format) {
    let text = message(error);
    if format == Format::Table {
        eprintln!("error: {text}");
        return;
    }
    let told = match error.downcast_ref() {
        Some(ClientError::Service { id, retryable, .. }) => {
            let next = id.next_step();
            let told_apart = format!(" [{id}; next: {next}]");
            let text = text.strip_suffix(&told_apart).unwrap_or(&text);
            json!({ "message": text, "id": id.to_string(), "next": next, "retryable": retryable })
        }
        _ => json!({ "message": text }),
    };
    eprintln!("{}", json!({ "error": told }));
}

fn message(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        // transparent errors repeat themselves
        if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// A bar with rate and remaining time on a terminal, a plain line now and then otherwise.
pub(crate) struct Bar {
    bar: ProgressBar,
    plain: bool,
    label: &'static str,
    total: Option<u64>,
    /// Since when, and from which position.
    started: Option<(Instant, u64)>,
    last: Instant,
}

/// How often a plain line is printed.
const PLAIN_EVERY: Duration = Duration::from_secs(5);

impl Bar {
    pub(crate) fn new(label: &'static str, total: Option<u64>, quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let target = if quiet || !terminal {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let bar = ProgressBar::with_draw_target(total, target);
        let template = if total.is_some() {
            "{prefix} {wide_bar} {pos}/{len} {per_sec} ETA {eta} {msg}"
        } else {
            "{prefix} {spinner} {pos} {per_sec} {msg}"
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_prefix(label);
        Self {
            bar,
            plain: !quiet && !terminal,
            label,
            total,
            started: None,
            last: Instant::now(),
        }
    }

    pub(crate) fn set(&mut self, position: u64, message: String) {
        self.set_from(0, position, || message);
    }

    /// The same for work of which `from` was done before: it does not count for the rate.
    pub(crate) fn set_from(&mut self, from: u64, position: u64, message: impl FnOnce() -> String) {
        let (since, first) = *self.started.get_or_insert_with(|| {
            self.bar.set_position(from);
            self.bar.reset_eta();
            (Instant::now(), from)
        });
        if self.plain && self.last.elapsed() > PLAIN_EVERY {
            let rate = (position - first) as f64 / since.elapsed().as_secs_f64();
            let rest = self.total.map(|total| {
                let left = total.saturating_sub(position) as f64 / rate.max(1e-9);
                format!(" of {total}, {left:.0} s left")
            });
            let rest = rest.unwrap_or_default();
            eprintln!(
                "{}: {position}{rest}, {rate:.1} a second {}",
                self.label,
                message()
            );
            self.last = Instant::now();
        } else if !self.bar.is_hidden() {
            self.bar.set_message(message());
        }
        self.bar.set_position(position);
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
