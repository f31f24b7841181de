//! `catalog`, `workers`, `approve`, `revoke`.

use std::io::{BufRead, IsTerminal};

use anyhow::{Result, bail};
use chemxor_client::catalog::{self, Entry};
use serde_json::{Value, json};

use crate::args::{ApproveArgs, Format, RevokeArgs};
use crate::home::Home;
use crate::output;

fn entry_json(entry: &Entry) -> Value {
    json!({
        "name": entry.manifest.name, "version": entry.version, "state": entry.state,
        "publisher": entry.publisher, "manifest": *entry.manifest,
    })
}

pub(crate) async fn list(home: &Home, format: Format) -> Result<()> {
    let entries = catalog::list(&home.registry("querier")?).await?;
    let value: Vec<Value> = entries.iter().map(entry_json).collect();
    output::print(format, &value, || {
        let rows: Vec<Vec<String>> = entries
            .iter()
            .map(|entry| {
                let manifest = &entry.manifest;
                vec![
                    manifest.name.to_string(),
                    entry.state.clone(),
                    manifest.endpoint.clone(),
                    manifest.unit.clone(),
                    format!("{} {:.3}", manifest.metrics.metric, manifest.metrics.twin),
                    format!("{} bits", manifest.leakage_bits_per_query),
                    entry.publisher.clone(),
                    entry.version.to_string(),
                ]
            })
            .collect();
        let header = [
            "name",
            "state",
            "endpoint",
            "unit",
            "held out",
            "leakage/query",
            "publisher",
            "version",
        ];
        output::table(&header, &rows);
    })
}

pub(crate) async fn approve(home: &Home, format: Format, args: &ApproveArgs) -> Result<()> {
    let model = args.model.parse()?;
    let entry = catalog::approve(
        &home.registry_as(&["reviewer", "admin"])?,
        &model,
        &args.note,
    )
    .await?;
    output::print(format, &entry_json(&entry), || {
        say!(
            "{}@{} is {}",
            entry.manifest.name,
            entry.version,
            entry.state
        );
    })
}

pub(crate) async fn revoke(home: &Home, format: Format, args: &RevokeArgs) -> Result<()> {
    if !args.yes {
        if !std::io::stdin().is_terminal() {
            bail!("revoking cannot be undone; pass --yes to do it without a question");
        }
        eprint!("revoke {} for ever? type `revoke`: ", args.model);
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer)?;
        if answer.trim() != "revoke" {
            bail!("nothing was revoked");
        }
    }
    let model = args.model.parse()?;
    let entry = catalog::revoke(
        &home.registry_as(&["admin", "org-admin"])?,
        &model,
        &args.reason,
    )
    .await?;
    output::print(format, &entry_json(&entry), || {
        say!(
            "{}@{} is {}",
            entry.manifest.name,
            entry.version,
            entry.state
        );
    })
}
