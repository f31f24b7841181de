//! `publish` and `inspect`.

use std::path::Path;

use anyhow::{Context, Result, bail};
use chemxor_client::{keyring, publish};
use chemxor_core::Bundle;
use serde_json::json;

use crate::args::{Format, InspectArgs, PublishArgs};
use crate::home::Home;
use crate::output;

fn read_bundle(path: &Path) -> Result<Bundle> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Bundle::from_bytes(&bytes).with_context(|| path.display().to_string())
}

pub(crate) async fn run(home: &Home, format: Format, args: &PublishArgs) -> Result<()> {
    let bundle = read_bundle(&args.bundle)?;
    let key = home.key(&args.key)?;
    if !key.exists() {
        bail!(
            "no signing key {}; make one with `chemxor keys new --publisher`",
            key.display()
        );
    }
    let signer = keyring::load_signing_key(&key)?;
    let access = home.registry("publisher")?;
    let mut workers = publish::workers(&access).await?;
    if !args.workers.is_empty() {
        let mut chosen = Vec::new();
        for name in &args.workers {
            let found = workers.iter().find(|worker| worker.name == *name);
            let Some(worker) = found else {
                bail!("worker {name:?} is not registered; list them with `chemxor workers`");
            };
            chosen.push(worker.clone());
        }
        workers = chosen;
    }
    let done = publish::publish(&access, &bundle, &signer, &workers).await?;
    let placements: Vec<_> = done
        .placements
        .iter()
        .map(|(worker, first, end)| json!({ "worker": worker, "first_step": first, "end_step": end }))
        .collect();
    let name = &bundle.manifest().name;
    let value = json!({
        "name": name, "version": done.version, "state": done.state,
        "placements": placements, "uploaded_bytes": done.uploaded,
    });
    output::print(format, &value, || {
        println!("{name}@{} is {}", done.version, done.state);
        for (worker, first, end) in &done.placements {
            println!("steps {first} to {} run on {worker}", end - 1);
        }
        println!("{} bytes of encrypted weights uploaded", done.uploaded);
    })
}

pub(crate) fn inspect(format: Format, args: &InspectArgs) -> Result<()> {
    let bundle = read_bundle(&args.bundle)?;
    let manifest = bundle.manifest();
    let value = json!({ "version": bundle.version(), "manifest": manifest });
    output::print(format, &value, || {
        println!("{}@{}", manifest.name, bundle.version());
        println!("{} [{}]", manifest.endpoint, manifest.unit);
        let metrics = &manifest.metrics;
        println!(
            "held-out {} {:.4} (float), {:.4} (integers)",
            metrics.metric, metrics.float, metrics.twin
        );
        let rows: Vec<Vec<String>> = manifest
            .graph
            .steps()
            .iter()
            .enumerate()
            .map(|(i, step)| {
                vec![
                    i.to_string(),
                    format!("{:?}", step.kind).to_lowercase(),
                    format!("{} -> {}", step.inputs, step.outputs),
                    step.ring.as_str().to_owned(),
                    step.output_bits.to_string(),
                    step.inputs_per_polynomial.to_string(),
                    step.body_bits.to_string(),
                    step.switch_bits.to_string(),
                ]
            })
            .collect();
        output::table(
            &[
                "step",
                "kind",
                "shape",
                "ring",
                "b/B",
                "n_in",
                "body bits",
                "m",
            ],
            &rows,
        );
        println!(
            "a query releases at most {} bits about the weights",
            manifest.leakage_bits_per_query
        );
    })
}
