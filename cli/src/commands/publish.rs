//! `publish` and `inspect`.

use std::path::Path;

use anyhow::{Context, Result, bail};
use chemxor_client::known_workers::{KnownWorkers, NamedWorker, grouped};
use chemxor_client::placement::Spread;
use chemxor_client::publish::Worker;
use chemxor_client::publish::{self, Published};
use chemxor_client::{catalog, conformance};
use chemxor_core::{Bundle, Conformance, ModelRef, Selector};
use chemxor_fhe::network::StepWeights;
use chemxor_fhe::plan::report::PlanReport;
use chemxor_runtime::pki::sealing_fingerprint;
use ed25519_dalek::SigningKey;
use serde_json::json;

use crate::args::{Format, InspectArgs, PublishArgs};
use crate::commands::keys::passphrase_of;
use crate::commands::{conform, workers};
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

/// Whom to seal to: NAME or NAME=FINGERPRINT, in their order; none for every registered worker.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SealTo<'a> {
    pub(crate) names: &'a [String],
    pub(crate) accept_new_key: bool,
}

impl SealTo<'_> {
    /// The workers, once their keys are those that were pinned and known.
    pub(crate) async fn workers(&self, home: &Home) -> Result<Vec<Worker>> {
        let named: Vec<NamedWorker> = self
            .names
            .iter()
            .map(|text| NamedWorker::read(text))
            .collect::<Result<_, _>>()?;
        let listed = publish::workers(&home.registry("publisher")?).await?;
        let mut chosen = Vec::new();
        for NamedWorker { name, .. } in &named {
            let found = listed.iter().find(|worker| worker.name == *name);
            let Some(worker) = found else {
                bail!("worker {name:?} is not registered; list them with `chemxor workers`");
            };
            chosen.push(worker.clone());
        }
        let chosen = if named.is_empty() { listed } else { chosen };
        let mut known = KnownWorkers::load(&home.profile_folder().join("known_workers"))?;
        let first = known.check(&chosen, &named, self.accept_new_key)?;
        for worker in chosen.iter().filter(|worker| first.contains(&worker.name)) {
            let fingerprint = grouped(&sealing_fingerprint(&worker.sealing_key));
            eprintln!("first use of {}={fingerprint}", worker.name);
        }
        Ok(chosen)
    }
}

/// Uploads and submits a bundle unless it waits for approval already, then shows that it conforms.
pub(crate) async fn submit(
    home: &Home,
    bundle: &Bundle,
    key: &str,
    to: SealTo<'_>,
    spread: Spread,
    quiet: bool,
) -> Result<(Option<Published>, Conformance)> {
    let signer = signer(home, key)?;
    let registry = home.registry("publisher")?;
    let model = ModelRef {
        name: bundle.manifest().name.clone(),
        selector: Selector::Version(bundle.version()),
    };
    let known = catalog::get(&registry, &model).await;
    let done = match known {
        Ok(entry) if entry.state == "submitted" => None,
        _ => {
            let workers = to.workers(home).await?;
            Some(publish::publish(&registry, bundle, &signer, &workers, spread).await?)
        }
    };
    let shown = conform(home, bundle, &signer, quiet).await.with_context(|| {
        format!("{model} is submitted but not shown to conform; publish it again when this is mended")
    })?;
    Ok((done, shown))
}

async fn conform(
    home: &Home,
    bundle: &Bundle,
    signer: &SigningKey,
    quiet: bool,
) -> Result<Conformance> {
    let gateway = home.gateway_as("publisher")?;
    let run = conform::ask(&gateway, bundle.version(), bundle.manifest(), quiet).await?;
    conformance::record(&home.registry("publisher")?, signer, &run).await?;
    Ok(run)
}

pub(crate) async fn run(home: &Home, format: Format, args: &PublishArgs) -> Result<()> {
    let bundle = read_bundle(&args.bundle)?;
    let (spread, quiet) = (args.spread.into(), format == Format::Json);
    let to = SealTo {
        names: &args.workers,
        accept_new_key: args.accept_new_key,
    };
    let (done, shown) = submit(home, &bundle, &args.key, to, spread, quiet).await?;
    let placements = done.as_ref().map_or(&[][..], |done| &done.placements);
    let uploaded = done.as_ref().map_or(0, |done| done.uploaded);
    let listed = workers::listed(placements);
    let name = &bundle.manifest().name;
    let value = json!({
        "name": name, "version": bundle.version(), "state": "submitted",
        "placements": listed, "uploaded_bytes": uploaded, "conformance": shown,
    });
    output::print(format, &value, || {
        say!("{name}@{} is submitted", bundle.version());
        workers::lines(placements);
        say!("{uploaded} bytes of encrypted weights uploaded");
        conform::say(&shown);
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
        say!("{}@{}", manifest.name, bundle.version());
        match manifest.unit.as_str() {
            "" => say!("{}", manifest.endpoint),
            unit => say!("{} [{unit}]", manifest.endpoint),
        }
        let metrics = &manifest.metrics;
        say!(
            "held-out {} {:.4} (float), {:.4} (integers)",
            metrics.metric,
            metrics.float,
            metrics.twin
        );
        say!("{plan}");
    })
}
