//! What a run measured, put into the card of the version that was asked: `evaluate --update-card`.
//! Card, bundle and running version are compared before anything is asked.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use chemxor_core::{Bundle, EncryptedFigures, ModelCard, Task, VersionId};
use chemxor_fhe::network::StepWeights;
use chemxor_fhe::plan::report::PlanReport;
use time::macros::format_description;

use crate::commands::card;

/// What the queries showed.
pub(crate) struct Measured {
    pub(crate) rounds: u32,
    pub(crate) bytes_up: u64,
    pub(crate) bytes_down: u64,
    pub(crate) public_key_bytes: u64,
    pub(crate) p50_ms: f64,
    pub(crate) p95_ms: f64,
    pub(crate) molecules: u64,
    pub(crate) rmse_clear: f64,
    pub(crate) rmse_encrypted: f64,
    /// How to measure it again.
    pub(crate) command: String,
}

/// A card that waits for its figures.
pub(crate) struct CardFigures {
    path: PathBuf,
    card: ModelCard,
    security_bits: u32,
    log2_failure: f64,
}

impl CardFigures {
    /// Reads the card at `path`, and from the weights of `bundle` what its plan promises. Both must be
    /// of the version that is asked.
    pub(crate) fn open(path: &Path, bundle: &Bundle, asked: &VersionId) -> Result<Self> {
        let card = card::read(path)?;
        for (what, version) in [("card", card.version), ("bundle", bundle.version())] {
            if version != *asked {
                bail!(
                    "the {what} is of {version}, the platform serves {asked}; give those of one version"
                );
            }
        }
        if bundle.manifest().task != Task::Regression {
            bail!("the error of regressions is measured; write `encrypted` of this card by hand");
        }
        let weights = bundle
            .blobs()
            .iter()
            .map(|blob| StepWeights::from_blob(blob))
            .collect::<Result<Vec<_>, _>>()?;
        let plan = PlanReport::of_weights(&bundle.manifest().graph, &weights)?;
        let bits = plan.steps.iter().map(|step| step.security_bits).min();
        let failures = plan.steps.iter().map(|step| step.failure);
        Ok(Self {
            path: path.to_owned(),
            card,
            security_bits: bits.context("the model has no steps")?,
            log2_failure: failures.fold(f64::NEG_INFINITY, f64::max),
        })
    }

    /// Writes the card with its figures in place of the old one.
    pub(crate) fn write(mut self, measured: Measured) -> Result<()> {
        let today = time::OffsetDateTime::now_utc();
        self.card.encrypted = Some(EncryptedFigures {
            rounds: measured.rounds,
            bytes_up: measured.bytes_up,
            bytes_down: measured.bytes_down,
            public_key_bytes: measured.public_key_bytes,
            p50_ms: measured.p50_ms,
            p95_ms: measured.p95_ms,
            molecules: measured.molecules,
            security_bits: self.security_bits,
            log2_failure: self.log2_failure,
            metric: "rmse".to_owned(),
            metric_clear: measured.rmse_clear,
            metric_encrypted: measured.rmse_encrypted,
            measured_on: today.format(format_description!("[year]-[month]-[day]"))?,
            command: measured.command,
        });
        self.card.to_bytes()?;
        let text = serde_json::to_string_pretty(&self.card)? + "\n";
        Ok(chemxor_client::files::replace(&self.path, text.as_bytes())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle() -> Bundle {
        let golden = include_bytes!("../../../core/tests/golden/bundle-v1.cxbn");
        Bundle::from_bytes(golden).unwrap()
    }

    fn draft(folder: &Path, bundle: &Bundle) -> PathBuf {
        let path = folder.join("card.json");
        let card = ModelCard::draft(bundle.manifest(), bundle.version());
        std::fs::write(&path, serde_json::to_string(&card).unwrap()).unwrap();
        path
    }

    #[test]
    fn a_measurement_fills_the_figures_of_the_card() {
        let (folder, bundle) = (tempfile::tempdir().unwrap(), bundle());
        let path = draft(folder.path(), &bundle);
        let version = bundle.version();
        let measured = Measured {
            rounds: bundle.manifest().graph.steps().len() as u32,
            bytes_up: 1000,
            bytes_down: 900,
            public_key_bytes: 5000,
            p50_ms: 4.0,
            p95_ms: 9.0,
            molecules: 20,
            rmse_clear: 1.0,
            rmse_encrypted: 1.01,
            command: "chemxor evaluate esol".to_owned(),
        };
        let waiting = CardFigures {
            path: path.clone(),
            card: card::read(&path).unwrap(),
            security_bits: 132,
            log2_failure: -40.0,
        };
        waiting.write(measured).unwrap();
        let card = card::read(&path).unwrap();
        let findings = card.lint_for(bundle.manifest(), &version);
        let about = |field: &str| findings.iter().any(|found| found.field.starts_with(field));
        assert!(!about("encrypted"), "{findings:?}");
        let figures = card.encrypted.unwrap();
        assert_eq!((figures.molecules, figures.metric_encrypted), (20, 1.01));
    }

    #[test]
    fn a_card_or_bundle_of_another_version_is_refused() {
        let (folder, bundle) = (tempfile::tempdir().unwrap(), bundle());
        let path = draft(folder.path(), &bundle);
        let other = VersionId::of(b"another version");
        let Err(refused) = CardFigures::open(&path, &bundle, &other) else {
            panic!("the card of another version was taken");
        };
        assert!(refused.to_string().contains("one version"), "{refused}");
    }
}
