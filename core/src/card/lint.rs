//! What a card must say. Errors keep a card from being published; warnings do not.

use serde::Serialize;

use super::{CARD_FORMAT, ModelCard, TODO};
use crate::{Manifest, Task, VersionId, is_visible};

/// Longest text of one field, in bytes.
const MAX_TEXT: usize = 4000;
/// Most entries of one list.
const MAX_ENTRIES: usize = 100;
/// Weaker parameters are refused.
const SECURITY_BITS: u32 = 128;

/// Whether a card may be published with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// No.
    Error,
    /// Yes.
    Warning,
}

/// Something to mend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Whether it must be mended.
    pub severity: Severity,
    /// Where, e.g. `training_data.sources[0]`.
    pub field: String,
    /// What is wrong and what to write.
    pub problem: String,
}

struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, severity: Severity, field: &str, problem: impl Into<String>) {
        self.0.push(Finding {
            severity,
            field: field.to_owned(),
            problem: problem.into(),
        });
    }

    fn require(&mut self, holds: bool, field: &str, problem: impl FnOnce() -> String) {
        if !holds {
            self.add(Severity::Error, field, problem());
        }
    }

    fn text(&mut self, field: &str, text: &str) {
        let trimmed = text.trim();
        if trimmed.is_empty() {
            self.add(Severity::Error, field, "is empty; write it");
        } else if trimmed.starts_with(TODO) {
            self.add(Severity::Error, field, "still says TODO; write it");
        }
        self.length(field, text);
    }

    fn length(&mut self, field: &str, text: &str) {
        let visible = text.chars().all(|c| is_visible(c) || c == '\n');
        if text.len() > MAX_TEXT || !visible {
            let problem =
                format!("has at most {MAX_TEXT} bytes and no control or invisible characters");
            self.add(Severity::Error, field, problem);
        }
    }

    fn list(&mut self, field: &str, entries: &[String], needed: bool) {
        if needed && entries.is_empty() {
            self.add(Severity::Error, field, "is empty; write one entry or more");
        }
        if entries.len() > MAX_ENTRIES {
            let problem = format!("has at most {MAX_ENTRIES} entries");
            self.add(Severity::Error, field, problem);
        }
        for (index, entry) in entries.iter().take(MAX_ENTRIES).enumerate() {
            self.text(&format!("{field}[{index}]"), entry);
        }
    }
}

fn is_date(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let digits = |part: &&str, length| {
        part.len() == length && part.bytes().all(|byte| byte.is_ascii_digit())
    };
    matches!(parts.as_slice(), [year, month, day]
        if digits(year, 4) && digits(month, 2) && digits(day, 2)
            && (1..=12).contains(&month.parse().unwrap_or(0))
            && (1..=31).contains(&day.parse().unwrap_or(0)))
}

impl ModelCard {
    /// What is missing or wrong in the card alone, errors first.
    pub fn lint(&self) -> Vec<Finding> {
        let mut found = Findings(Vec::new());
        found.require(self.format == CARD_FORMAT, "format", || {
            format!("is {}, this release writes {CARD_FORMAT}", self.format)
        });
        found.text("endpoint", &self.endpoint);
        match self.task {
            Task::Regression => found.text("unit", &self.unit),
            Task::Binary | Task::Multiclass => found.length("unit", &self.unit),
        }
        found.text("contact", &self.contact);
        found.text("assay.description", &self.assay.description);
        found.text("assay.species", &self.assay.species);
        found.text("assay.target", &self.assay.target);
        let data = &self.training_data;
        found.list("training_data.sources", &data.sources, true);
        found.text("training_data.licence", &data.licence);
        found.text("training_data.preparation", &data.preparation);
        found.text("training_data.split", &data.split);
        found.require(data.molecules > 0, "training_data.molecules", || {
            "is 0; write how many molecules were trained on".to_owned()
        });
        found.text("applicability.description", &self.applicability.description);
        let exclusions = &self.applicability.exclusions;
        found.list("applicability.exclusions", exclusions, false);
        found.text("intended_use.purpose", &self.intended_use.purpose);
        let out_of_scope = &self.intended_use.out_of_scope;
        found.list("intended_use.out_of_scope", out_of_scope, true);
        self.lint_metrics(&mut found);
        self.lint_encrypted(&mut found);
        self.lint_audit(&mut found);
        found.0.sort_by_key(|finding| finding.severity);
        found.0
    }

    fn lint_metrics(&self, found: &mut Findings) {
        let count = self.metrics.len();
        found.require((1..=MAX_ENTRIES).contains(&count), "metrics", || {
            format!("has {count} entries; write 1 to {MAX_ENTRIES}")
        });
        for (index, metric) in self.metrics.iter().take(MAX_ENTRIES).enumerate() {
            let field = format!("metrics[{index}]");
            found.text(&format!("{field}.name"), &metric.name);
            let figures = [metric.value, metric.low, metric.high];
            let ordered = metric.low <= metric.value && metric.value <= metric.high;
            let finite = figures.iter().all(|figure| figure.is_finite());
            found.require(finite && ordered, &field, || {
                format!(
                    "needs low <= value <= high, it says {} <= {} <= {}",
                    metric.low, metric.value, metric.high
                )
            });
            found.require(metric.low < metric.high, &field, || {
                "has no confidence interval: low and high are equal; take them from the report of `chemxor train`".to_owned()
            });
            let confidence = metric.confidence;
            found.require((0.5..1.0).contains(&confidence), &field, || {
                format!("confidence is {confidence}; write a share such as 0.95")
            });
            found.require(metric.molecules > 0, &field, || {
                "molecules is 0; write how many it was measured on".to_owned()
            });
        }
    }

    fn lint_encrypted(&self, found: &mut Findings) {
        let Some(figures) = &self.encrypted else {
            let problem = "is missing: measure the published model with `chemxor evaluate`";
            found.add(Severity::Warning, "encrypted", problem);
            return;
        };
        let counts = figures.rounds > 0 && figures.bytes_up > 0 && figures.bytes_down > 0;
        found.require(counts && figures.molecules > 0, "encrypted", || {
            "rounds, bytes and molecules are counts of a measurement, none is 0".to_owned()
        });
        let times = figures.p50_ms > 0.0 && figures.p50_ms <= figures.p95_ms;
        found.require(times && figures.p95_ms.is_finite(), "encrypted", || {
            "needs 0 < p50_ms <= p95_ms".to_owned()
        });
        let bits = figures.security_bits;
        found.require(bits >= SECURITY_BITS, "encrypted.security_bits", || {
            format!("is {bits}; below {SECURITY_BITS} no model is published")
        });
        let failure = figures.log2_failure;
        found.require(failure < 0.0, "encrypted.log2_failure", || {
            format!("is {failure}; the logarithm of a probability is negative")
        });
        found.text("encrypted.metric", &figures.metric);
        found.text("encrypted.command", &figures.command);
        let finite = figures.metric_clear.is_finite() && figures.metric_encrypted.is_finite();
        found.require(finite, "encrypted", || {
            "metric_clear and metric_encrypted are numbers".to_owned()
        });
        found.require(
            is_date(&figures.measured_on),
            "encrypted.measured_on",
            || "is no day; write YYYY-MM-DD".to_owned(),
        );
    }

    fn lint_audit(&self, found: &mut Findings) {
        let Some(audit) = &self.privacy_audit else {
            let problem = "is missing: say what membership inference finds in this model";
            found.add(Severity::Warning, "privacy_audit", problem);
            return;
        };
        found.text("privacy_audit.attack", &audit.attack);
        let share = |value: f64| (0.0..=1.0).contains(&value);
        let shares = [
            audit.auc,
            audit.auc_low,
            audit.auc_high,
            audit.tpr_at_1_percent_fpr,
        ];
        let ordered = audit.auc_low <= audit.auc && audit.auc <= audit.auc_high;
        found.require(
            shares.into_iter().all(share) && ordered,
            "privacy_audit",
            || "auc_low <= auc <= auc_high and the rate lie between 0 and 1".to_owned(),
        );
        let counts = audit.members > 0 && audit.non_members > 0;
        found.require(counts, "privacy_audit", || {
            "members and non_members are counts of attacked molecules, none is 0".to_owned()
        });
    }

    /// [`Self::lint`], and what contradicts the version that the card is about.
    pub fn lint_for(&self, manifest: &Manifest, version: &VersionId) -> Vec<Finding> {
        let mut found = Findings(self.lint());
        found.require(self.version == *version, "version", || {
            format!("is {}, the bundle or model is {version}", self.version)
        });
        let mut same = |field: &str, card: String, stated: String| {
            found.require(card == stated, field, || {
                format!("is {card:?}, the manifest says {stated:?}")
            });
        };
        same("model", self.model.to_string(), manifest.name.to_string());
        same(
            "task",
            format!("{:?}", self.task),
            format!("{:?}", manifest.task),
        );
        same("endpoint", self.endpoint.clone(), manifest.endpoint.clone());
        same("unit", self.unit.clone(), manifest.unit.clone());
        let (molecules, rows) = (self.training_data.molecules, manifest.data.train_rows);
        same(
            "training_data.molecules",
            molecules.to_string(),
            rows.to_string(),
        );
        let (bits, stated) = (self.leakage.bits_per_query, manifest.leakage_bits_per_query);
        same(
            "leakage.bits_per_query",
            bits.to_string(),
            stated.to_string(),
        );
        if let Some(figures) = &self.encrypted {
            let steps = manifest.graph.steps().len();
            same(
                "encrypted.rounds",
                figures.rounds.to_string(),
                steps.to_string(),
            );
        }
        let stated = &manifest.metrics;
        let named = self
            .metrics
            .iter()
            .find(|metric| metric.name == stated.metric);
        match named {
            None => {
                let problem = format!("lacks {:?}, the manifest's figure", stated.metric);
                found.add(Severity::Error, "metrics", problem);
            }
            Some(metric) => found.require(
                (metric.low..=metric.high).contains(&stated.twin),
                "metrics",
                || {
                    format!(
                        "{} is {} to {}, the manifest says {}",
                        metric.name, metric.low, metric.high, stated.twin
                    )
                },
            ),
        }
        found.0.sort_by_key(|finding| finding.severity);
        found.0
    }
}
