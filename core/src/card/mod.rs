//! The model card: what a user has to know about a version before trusting its numbers. A document
//! of its own, bound to the version by its digest and signed with the key that signed the version: it
//! holds figures that are measured after the version was fixed, and the manifest stays as it was.
//!
//! [`ModelCard::lint`] is the one list of what a card must say; publisher and registry both ask it.

mod lint;
mod markdown;

use serde::{Deserialize, Serialize};

use crate::{Manifest, MembershipInference, ModelName, Task, VersionId};

pub use lint::{Finding, Severity};

/// Format number that this build writes and reads.
pub const CARD_FORMAT: u32 = 1;
/// Largest card, in bytes.
pub const MAX_CARD_BYTES: usize = 256 << 10;
/// What a draft says where its author has to write.
pub const TODO: &str = "TODO";

/// Everything that a card says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelCard {
    /// [`CARD_FORMAT`].
    pub format: u32,
    /// Name in the registry.
    pub model: ModelName,
    /// The version that the card is about.
    pub version: VersionId,
    /// Regression or classification.
    pub task: Task,
    /// What is predicted, e.g. "aqueous solubility".
    pub endpoint: String,
    /// Its unit, e.g. "log10 mol/L"; empty for classes.
    #[serde(default)]
    pub unit: String,
    /// Whom to ask.
    pub contact: String,
    /// What was measured in the laboratory.
    pub assay: Assay,
    /// Where the training data comes from.
    pub training_data: TrainingData,
    /// For which molecules the predictions are meant.
    pub applicability: Applicability,
    /// What the model is for.
    pub intended_use: IntendedUse,
    /// Quality on molecules that were held out.
    pub metrics: Vec<CardMetric>,
    /// What queries may learn about the weights.
    pub leakage: LeakageBudget,
    /// Measured on the published model, by `chemxor evaluate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encrypted: Option<EncryptedFigures>,
    /// What an attacker may learn about the training data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privacy_audit: Option<PrivacyAudit>,
}

/// What was measured in the laboratory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assay {
    /// The measurement, e.g. "shake flask, 25 °C, pH 7.4".
    pub description: String,
    /// Biological species, or "none".
    pub species: String,
    /// Protein, cell line or organ, or "none".
    pub target: String,
}

/// Where the training data comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingData {
    /// Origin: publication, database with its release, or laboratory.
    pub sources: Vec<String>,
    /// Licence or terms.
    pub licence: String,
    /// What was done to the data: units, duplicates, outliers.
    pub preparation: String,
    /// How training and test molecules were separated, e.g. "scaffold".
    pub split: String,
    /// Molecules trained on.
    pub molecules: u64,
}

/// For which molecules the predictions are meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Applicability {
    /// In words; the manifest holds the figures that clients check.
    pub description: String,
    /// Known not to work.
    #[serde(default)]
    pub exclusions: Vec<String>,
}

/// What the model is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IntendedUse {
    /// The decision that it helps with.
    pub purpose: String,
    /// What it must not be used for.
    pub out_of_scope: Vec<String>,
}

/// One figure with its confidence interval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CardMetric {
    /// E.g. `rmse` or `roc-auc`.
    pub name: String,
    /// Of the integers that run encrypted.
    pub value: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Confidence of the interval, e.g. 0.95.
    pub confidence: f64,
    /// Molecules that it was measured on.
    pub molecules: u64,
}

/// What queries may learn about the weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeakageBudget {
    /// At most, as the manifest says.
    pub bits_per_query: u64,
    /// Queries that one organisation may ever ask; none means no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime_queries: Option<u64>,
}

/// Measured on the published model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncryptedFigures {
    /// Round trips of a query.
    pub rounds: u32,
    /// Bytes of a query from client to gateway.
    pub bytes_up: u64,
    /// Bytes back.
    pub bytes_down: u64,
    /// Bytes of the public keys, once for each session.
    pub public_key_bytes: u64,
    /// Median time of a query, in ms.
    pub p50_ms: f64,
    /// 95 % of the queries were faster, in ms.
    pub p95_ms: f64,
    /// Queries measured.
    pub molecules: u64,
    /// Security of the weakest ring, in bits.
    pub security_bits: u32,
    /// log2 of the probability that an output is wrong beyond the carry, worst step.
    pub log2_failure: f64,
    /// Name of the figure below.
    pub metric: String,
    /// Of the float model, on the molecules measured.
    pub metric_clear: f64,
    /// Of the encrypted answers for the same molecules.
    pub metric_encrypted: f64,
    /// UTC day, e.g. "2026-11-20".
    pub measured_on: String,
    /// The command that measured it.
    pub command: String,
}

/// Membership inference against the model (Shokri et al. 2017).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrivacyAudit {
    /// The attack, e.g. "likelihood ratio with 16 shadow models".
    pub attack: String,
    /// Area under the attack's ROC curve; 0.5 is a guess.
    pub auc: f64,
    /// Lower end of its 95 % interval.
    pub auc_low: f64,
    /// Upper end.
    pub auc_high: f64,
    /// True-positive rate at a false-positive rate of 1 %.
    pub tpr_at_1_percent_fpr: f64,
    /// Training molecules attacked.
    pub members: u64,
    /// Other molecules.
    pub non_members: u64,
}

impl PrivacyAudit {
    /// As the manifest states it.
    fn of(found: &MembershipInference) -> Self {
        let [auc, low, high] = found.auc;
        Self {
            attack: format!("likelihood ratio with {} shadow models", found.shadows),
            auc,
            auc_low: low.min(auc),
            auc_high: high.max(auc),
            tpr_at_1_percent_fpr: found.found_at_001,
            members: found.members,
            non_members: found.others,
        }
    }
}

/// Why a card cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CardError {
    /// Too long.
    #[error("the card has {0} bytes, allowed are {MAX_CARD_BYTES}")]
    Length(usize),
    /// Not a card.
    #[error("the card cannot be read: {0}")]
    Unreadable(String),
}

impl ModelCard {
    /// A draft about a version: what the manifest knows is filled in, the rest says [`TODO`].
    pub fn draft(manifest: &Manifest, version: VersionId) -> Self {
        let todo = || TODO.to_owned();
        let metrics = CardMetric {
            name: manifest.metrics.metric.clone(),
            value: manifest.metrics.twin,
            low: manifest.metrics.twin,
            high: manifest.metrics.twin,
            confidence: 0.95,
            molecules: manifest.data.test_rows,
        };
        Self {
            format: CARD_FORMAT,
            model: manifest.name.clone(),
            version,
            task: manifest.task,
            endpoint: manifest.endpoint.clone(),
            unit: manifest.unit.clone(),
            contact: todo(),
            assay: Assay {
                description: todo(),
                species: todo(),
                target: todo(),
            },
            training_data: TrainingData {
                sources: vec![todo()],
                licence: todo(),
                preparation: todo(),
                split: todo(),
                molecules: manifest.data.train_rows,
            },
            applicability: Applicability {
                description: todo(),
                exclusions: Vec::new(),
            },
            intended_use: IntendedUse {
                purpose: todo(),
                out_of_scope: vec![todo()],
            },
            metrics: vec![metrics],
            leakage: LeakageBudget {
                bits_per_query: manifest.leakage_bits_per_query,
                lifetime_queries: None,
            },
            encrypted: None,
            privacy_audit: manifest
                .privacy
                .as_ref()
                .and_then(|privacy| privacy.membership.as_ref())
                .map(PrivacyAudit::of),
        }
    }

    /// The bytes that are signed.
    pub fn to_bytes(&self) -> Result<Vec<u8>, CardError> {
        let bytes =
            serde_json::to_vec(self).map_err(|error| CardError::Unreadable(error.to_string()))?;
        match bytes.len() {
            length if length > MAX_CARD_BYTES => Err(CardError::Length(length)),
            _ => Ok(bytes),
        }
    }

    /// Reads a card; what it says is for [`Self::lint`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CardError> {
        if bytes.len() > MAX_CARD_BYTES {
            return Err(CardError::Length(bytes.len()));
        }
        serde_json::from_slice(bytes).map_err(|error| CardError::Unreadable(error.to_string()))
    }
}

#[cfg(test)]
mod tests;
