//! `conform`: a model's known answers, asked encrypted. A reviewer asks before approving; a lab or an
//! auditor asks whether what serves now is what was signed.

use anyhow::{Result, bail};
use chemxor_client::catalog::{self, Entry};
use chemxor_client::{Access, conformance};
use chemxor_core::{Conformance, Manifest, ModelRef, Selector, VersionId, check_known_answers};
use serde_json::json;

use crate::args::{ConformArgs, Format};
use crate::home::Home;
use crate::output::{self, Bar};

/// Asks every known answer of a version, with a bar.
pub(crate) async fn ask(
    gateway: &Access,
    version: VersionId,
    manifest: &Manifest,
    quiet: bool,
) -> Result<Conformance> {
    check_known_answers(manifest)?;
    let predictor = conformance::predictor(gateway, version, manifest)?;
    let total = manifest.known_answers.len() as u64;
    let mut bar = Bar::new("conformance", Some(total), quiet);
    let heard = |done: usize| bar.set(done as u64, String::new());
    let run = conformance::run(&predictor, version, heard).await?;
    bar.finish();
    Ok(run)
}

/// Says what a run showed.
pub(crate) fn say(shown: &Conformance) {
    say!(
        "{} known answers, asked encrypted: at most {:.0} % of what rounding explains",
        shown.vectors,
        f64::from(shown.worst_permille) / 10.0
    );
}

pub(crate) async fn run(home: &Home, format: Format, args: &ConformArgs) -> Result<()> {
    let model: ModelRef = args.model.parse()?;
    let (role, entry) = if args.waiting {
        let entry = waiting(&home.registry("reviewer")?, &model).await?;
        ("reviewer", entry)
    } else {
        let entry = catalog::get(&home.registry("querier")?, &model).await?;
        ("querier", entry)
    };
    let gateway = home.gateway_as(role)?;
    let quiet = format == Format::Json;
    let shown = ask(&gateway, entry.version, &entry.manifest, quiet).await?;
    let name = &entry.manifest.name;
    let conforms = shown.check(&entry.version, shown.vectors);
    let value = json!({
        "name": name, "version": entry.version, "conforms": conforms.is_ok(), "run": shown,
    });
    output::print(format, &value, || {
        say!("{name}@{}", entry.version);
        say(&shown);
    })?;
    if let Err(reason) = conforms {
        bail!("{reason}; do not use its predictions, and tell the platform's administrator");
    }
    Ok(())
}

/// The version of a model that waits for approval.
async fn waiting(reviewer: &Access, model: &ModelRef) -> Result<Entry> {
    if model.selector != Selector::Latest {
        return Ok(catalog::get(reviewer, model).await?);
    }
    let known = catalog::list(reviewer).await?.into_iter();
    let mut waiting =
        known.filter(|entry| entry.manifest.name == model.name && entry.state == "submitted");
    match (waiting.next(), waiting.next()) {
        (Some(entry), None) => Ok(entry),
        (None, _) => bail!("no version of {model} waits for approval; see `chemxor catalog`"),
        _ => bail!("several versions of {model} wait for approval; name one by its digest"),
    }
}
