//! `serve`: one trained model on this machine, with a platform of its own.

use std::path::Path;

use anyhow::{Context, Result, bail};
use chemxor_client::catalog;
use chemxor_client::placement::Spread;
use chemxor_core::{Bundle, ModelRef, Selector, StepGraph};
use chemxor_runtime::shutdown;
use serde_json::json;

use crate::args::{Format, ServeArgs};
use crate::commands::publish::{SealTo, read_bundle, submit};
use crate::commands::up::{Options, Platform};
use crate::home::Home;

/// The profile of served models.
const PROFILE: &str = "serve";
/// The signing key of served models.
const SIGNER: &str = "serve";

/// Dense layers that end each network, without its outputs, and its rounds in all.
const NETWORKS: [(&str, &[u32], usize); 3] = [
    ("olinda_zero", &[512, 256], 3),
    ("olinda", &[1024, 512, 256], 5),
    ("olinda_one", &[1024, 512, 256], 7),
];

/// Whether a graph has the shape of the network that was named.
fn has_shape(graph: &StepGraph, dense: &[u32], rounds: usize) -> bool {
    let outputs: Vec<u32> = graph.steps().iter().map(|step| step.outputs).collect();
    let hidden = &outputs[..outputs.len() - 1];
    outputs.len() == rounds && hidden.ends_with(dense)
}

fn checkpoint(args: &ServeArgs) -> Result<Bundle> {
    let Some(path) = &args.checkpoint else {
        bail!(
            "{} needs trained weights: make them with `chemxor train`, then pass --checkpoint FILE.cxb",
            args.network
        );
    };
    let ending = path
        .extension()
        .and_then(|ending| ending.to_str())
        .unwrap_or_default();
    if ["ckpt", "pt", "pth"].contains(&ending) {
        bail!(
            "{} is a PyTorch checkpoint; this release serves bundles: docs/migration.md says how to make one",
            path.display()
        );
    }
    let bundle = read_bundle(path)?;
    check_network(&args.network, &bundle, path)?;
    Ok(bundle)
}

fn check_network(network: &str, bundle: &Bundle, path: &Path) -> Result<()> {
    let manifest = bundle.manifest();
    let name = network.replace('-', "_");
    let Some((_, dense, rounds)) = NETWORKS.iter().find(|(known, ..)| *known == name) else {
        if network != manifest.name.as_str() {
            bail!(
                "{} holds the model {}, not {network}",
                path.display(),
                manifest.name
            );
        }
        return Ok(());
    };
    if !has_shape(&manifest.graph, dense, *rounds) {
        let outputs: Vec<u32> = manifest
            .graph
            .steps()
            .iter()
            .map(|step| step.outputs)
            .collect();
        bail!(
            "{} is not {name}: its steps have {outputs:?} outputs; serve it by its own name, {}",
            path.display(),
            manifest.name
        );
    }
    Ok(())
}

pub(crate) async fn run(home: &Home, format: Format, args: &ServeArgs) -> Result<()> {
    let bundle = checkpoint(args)?;
    let home = home.with_profile(PROFILE);
    let stop = shutdown::signalled();
    let options = Options {
        workers: args.workers,
        database_url: None,
        gateway_port: args.port,
    };
    let platform = Platform::start(&home, &options, stop.clone()).await?;
    let model = offer(&home, &bundle)
        .await
        .context("the model cannot be served")?;
    platform.write_profile(&home, Some(model.to_string()))?;
    platform.ready()?;
    let url = format!("https://{}", platform.gateway_address());
    let value = json!({ "ready": true, "url": url, "model": model.to_string() });
    match format {
        Format::Json => say!("{value}"),
        Format::Table => {
            say!("serving {} at {url}", model.name);
            say!("ask it from another terminal: chemxor query {url} 'CCO'");
        }
    }
    stop.cancelled().await;
    platform.wait().await
}

/// Publishes and approves the bundle, unless that was done before.
async fn offer(home: &Home, bundle: &Bundle) -> Result<ModelRef> {
    let model = ModelRef {
        name: bundle.manifest().name.clone(),
        selector: Selector::Version(bundle.version()),
    };
    let known = catalog::get(&home.registry("publisher")?, &model).await;
    let state = known.map(|entry| entry.state).unwrap_or_default();
    if state == "approved" {
        return Ok(model);
    }
    let ring = home.keyring()?;
    if !ring.path(SIGNER)?.exists() {
        ring.create_signing_key(SIGNER, None)?;
    }
    submit(
        home,
        bundle,
        SIGNER,
        SealTo::default(),
        Spread::default(),
        true,
    )
    .await?;
    catalog::approve(
        &home.registry("reviewer")?,
        &model,
        "served by `chemxor serve`",
    )
    .await?;
    Ok(model)
}
