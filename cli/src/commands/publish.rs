//! `publish` and `inspect`.

use std::path::Path;

use anyhow::{Context, Result, bail};
use chemxor_client::publish;
use chemxor_core::Bundle;
use chemxor_fhe::network::StepWeights;
use chemxor_fhe::plan::report::PlanReport;
use ed25519_dalek::SigningKey;
use serde_json::json;

use crate::args::{Format, InspectArgs, PublishArgs};
use crate::commands::keys::passphrase_of;
use crate::home::Home;
use crate::output;

pub(crate) fn read_bundle(path: &Path) -> Result<Bundle> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Bundle::from_bytes(&bytes).with_context(|| path.display().to_string())
}

/// The publisher's signing key.
pub(crate) fn signer(home: &Home, name: &str) -> Result<SigningKey> {
    let ring = home.keyring()?;
    let path = ring.path(name)?;
    if !path.exists() {
        bail!(
            "no signing key {}; make one with `chemxor keys new --publisher`",
            path.display()
        );
    }
    let passphrase = passphrase_of(&ring, name)?;
    Ok(ring.signing_key(name, passphrase.as_ref())?)
}

pub(crate) async fn run(home: &Home, format: Format, args: &PublishArgs) -> Result<()> {
    let bundle = read_bundle(&args.bundle)?;
    let signer = signer(home, &args.key)?;
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
    let done = publish::publish(&access, &bundle, &signer, &workers, args.spread.into()).await?;
    let placements: Vec<_> = done
        .placements
        .iter()
        .map(|place| {
            json!({
                "worker": place.worker, "first_step": place.first_step, "end_step": place.end_step,
                "first_group": place.first_group, "end_group": place.end_group,
            })
        })
        .collect();
    let name = &bundle.manifest().name;
    let value = json!({
        "name": name, "version": done.version, "state": done.state,
        "placements": placements, "uploaded_bytes": done.uploaded,
    });
    output::print(format, &value, || {
        println!("{name}@{} is {}", done.version, done.state);
        for place in &done.placements {
            let (first, last, worker) = (place.first_step, place.end_step - 1, &place.worker);
            match (place.first_group, place.end_group) {
                (0, 0) => println!("steps {first} to {last} run on {worker}"),
                (from, end) => {
                    println!(
                        "output ciphertexts {from} to {} of step {first} run on {worker}",
                        end - 1
                    );
                }
            }
        }
        println!("{} bytes of encrypted weights uploaded", done.uploaded);
    })
}

pub(crate) fn inspect(format: Format, args: &InspectArgs) -> Result<()> {
    let bundle = read_bundle(&args.bundle)?;
    let manifest = bundle.manifest();
    let weights = bundle
        .blobs()
        .iter()
        .map(|blob| StepWeights::from_blob(blob))
        .collect::<Result<Vec<_>, _>>()
        .with_context(|| args.bundle.display().to_string())?;
    let plan = PlanReport::of_weights(&manifest.graph, &weights)?;
    chemxor_fhe::ring::check_statements(&manifest.graph.rings(), &manifest.rings)?;
    let value = json!({ "version": bundle.version(), "manifest": manifest, "plan": plan });
    output::print(format, &value, || {
        println!("{}@{}", manifest.name, bundle.version());
        match manifest.unit.as_str() {
            "" => println!("{}", manifest.endpoint),
            unit => println!("{} [{unit}]", manifest.endpoint),
        }
        let metrics = &manifest.metrics;
        println!(
            "held-out {} {:.4} (float), {:.4} (integers)",
            metrics.metric, metrics.float, metrics.twin
        );
        println!("{plan}");
    })
}
