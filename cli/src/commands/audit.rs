//! `audit`: the log shown, exported, and verified without the registry.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use chemxor_core::{AuditLine, AuditRow, ChainVerifier, ErrorId};
use serde_json::{Value, json};

use crate::args::{AuditCommand, AuditExportArgs, AuditListArgs, AuditVerifyArgs, Format};
use crate::commands::govern::{registry, rows};
use crate::commands::verify::public_key;
use crate::home::Home;
use crate::output;

/// Who reads the log, in the order in which the profile's tokens are tried.
const READERS: [&str; 2] = ["auditor", "admin"];
/// Longest line of an export, in bytes.
const MAX_LINE: u64 = 64 << 10;

pub(crate) async fn run(home: &Home, format: Format, command: &AuditCommand) -> Result<()> {
    match command {
        AuditCommand::List(args) => list(home, format, args).await,
        AuditCommand::Export(args) => export(home, format, args).await,
        AuditCommand::Verify(args) => verify(format, args),
    }
}

fn event(row: &AuditRow) -> Value {
    let at = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(row.at_micros) * 1000)
        .ok()
        .and_then(|at| {
            at.format(&time::format_description::well_known::Rfc3339)
                .ok()
        });
    json!({
        "number": row.number, "at": at, "actor": row.actor, "action": row.action,
        "object": row.object, "detail": row.detail,
    })
}

async fn list(home: &Home, format: Format, args: &AuditListArgs) -> Result<()> {
    let registry = registry(home, &READERS).await?;
    let wanted = |row: &AuditRow| {
        args.action
            .as_ref()
            .is_none_or(|action| *action == row.action)
            && args.actor.as_ref().is_none_or(|actor| *actor == row.actor)
    };
    let mut last: VecDeque<Value> = VecDeque::new();
    let outcome = registry
        .export_audit(|lines| {
            for line in lines.lines() {
                let line = serde_json::from_str(line).map_err(std::io::Error::other)?;
                if let AuditLine::Row(row) = line
                    && wanted(&row)
                {
                    last.push_back(event(&row));
                    if last.len() > args.last {
                        last.pop_front();
                    }
                }
            }
            Ok(())
        })
        .await;
    outcome?;
    let values: Vec<Value> = last.into();
    output::print(format, &values, || {
        let columns = [
            ("number", "number"),
            ("at", "at"),
            ("actor", "actor"),
            ("action", "action"),
            ("object", "object"),
            ("detail", "detail"),
        ];
        rows(&columns, &values);
    })
}

async fn export(home: &Home, format: Format, args: &AuditExportArgs) -> Result<()> {
    let path = &args.output;
    let place = || path.display().to_string();
    if path.exists() {
        bail!("{} exists; choose another file", place());
    }
    let partial = path.with_added_extension("partial");
    let mut file = BufWriter::new(File::create(&partial).with_context(place)?);
    let registry = registry(home, &READERS).await?;
    let (mut lines, mut bytes) = (0u64, 0u64);
    let outcome = registry
        .export_audit(|part| {
            lines += part.lines().count() as u64;
            bytes += part.len() as u64;
            file.write_all(part.as_bytes())
        })
        .await;
    if let Err(error) = outcome {
        // what came so far would look like a log with its end cut off
        let _ = std::fs::remove_file(&partial);
        return Err(error.into());
    }
    let file = file
        .into_inner()
        .map_err(|error| anyhow!("{}: {error}", place()))?;
    file.sync_all().with_context(place)?;
    std::fs::rename(&partial, path).with_context(place)?;
    let value = json!({ "output": path, "lines": lines, "bytes": bytes });
    output::print(format, &value, || {
        say!("{lines} lines written to {}", path.display());
        say!(
            "verify it with `chemxor audit verify {} --registry-key KEY`",
            path.display()
        );
    })
}

/// The log is not what the registry signed.
fn broken(reason: impl std::fmt::Display) -> anyhow::Error {
    let id = ErrorId::AuditBroken;
    anyhow!("{reason} [{id}; next: {}]", id.next_step())
}

/// Takes every line of an export.
fn walk<'a>(path: &Path, mut verifier: ChainVerifier<'a>) -> Result<ChainVerifier<'a>> {
    let place = || path.display().to_string();
    let mut reader = BufReader::new(File::open(path).with_context(place)?);
    let mut line = Vec::new();
    for number in 1u64.. {
        line.clear();
        let length = (&mut reader)
            .take(MAX_LINE + 1)
            .read_until(b'\n', &mut line)
            .with_context(place)?;
        if length == 0 {
            break;
        }
        let said = || {
            format!(
                "{}: line {number} is not a line of an audit export",
                place()
            )
        };
        if length as u64 > MAX_LINE {
            return Err(broken(format!("{}: longer than {MAX_LINE} bytes", said())));
        }
        let parsed: AuditLine = serde_json::from_slice(&line)
            .map_err(|error| broken(format!("{}: {error}", said())))?;
        verifier
            .take(&parsed)
            .map_err(|error| broken(format!("{}: {error}", place())))?;
    }
    Ok(verifier)
}

fn verify(format: Format, args: &AuditVerifyArgs) -> Result<()> {
    let key = public_key(&args.registry_key)?;
    let finish = |path: &Path, verifier: ChainVerifier<'_>| {
        let outcome = walk(path, verifier)?.finish();
        outcome.map_err(|error| broken(format!("{}: {error}", path.display())))
    };
    let mut verifier = ChainVerifier::new(&key);
    let mut earlier_rows = None;
    if let Some(path) = &args.since {
        let earlier = finish(path, ChainVerifier::new(&key))?;
        earlier_rows = Some(earlier.rows);
        verifier = verifier.since(earlier);
    }
    let summary = finish(&args.file, verifier)?;
    let value = json!({
        "verified": true, "rows": summary.rows, "checkpoints": summary.checkpoints,
        "earlier_rows": earlier_rows,
    });
    output::print(format, &value, || {
        say!(
            "verified: {} rows without a gap, {} checkpoints signed by the registry",
            summary.rows,
            summary.checkpoints
        );
        if let Some(rows) = earlier_rows {
            say!("the first {rows} rows are those of the earlier export");
        }
    })
}
