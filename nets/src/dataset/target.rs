//! From the text of a field to a number that a model learns.

use std::collections::BTreeSet;

use chemxor_core::Task;

use super::ReadOptions;
use crate::error::NetsError;

/// Most classes of a model.
const MOST_CLASSES: usize = 64;

/// How the fields of the target columns are read.
pub(super) struct Targets {
    task: Task,
    thresholds: Vec<f64>,
    /// Labels of the classes, sorted; empty unless there are several classes without thresholds.
    labels: Vec<String>,
    /// Whether a field may be empty.
    optional: bool,
}

impl Targets {
    /// `labels` are the fields of the first target column.
    pub(super) fn new<'a>(
        options: &ReadOptions,
        labels: impl Iterator<Item = &'a str>,
    ) -> Result<Self, NetsError> {
        let refuse = |value: String, allowed| NetsError::Config {
            what: "the list of thresholds",
            value,
            allowed,
        };
        let shown = || format!("{:?}", options.thresholds);
        let ascending = options.thresholds.windows(2).all(|pair| pair[0] < pair[1])
            && options.thresholds.iter().all(|t| t.is_finite());
        if !ascending {
            return Err(refuse(shown(), "finite numbers, ascending"));
        }
        let allowed = match options.task {
            Task::Regression => options.thresholds.is_empty(),
            Task::Binary => options.thresholds.len() <= 1,
            Task::Multiclass => {
                options.thresholds.len() != 1 && options.thresholds.len() < MOST_CLASSES
            }
        };
        if !allowed {
            return Err(refuse(
                shown(),
                "none for a regression, one for two classes, two to 63 for several classes",
            ));
        }
        let columns = options.target_columns.len();
        if columns == 0 || (options.task == Task::Multiclass && columns != 1) {
            return Err(NetsError::Config {
                what: "the number of target columns",
                value: columns.to_string(),
                allowed: "at least one, and exactly one for several classes",
            });
        }
        let mut names = BTreeSet::new();
        if options.task == Task::Multiclass && options.thresholds.is_empty() {
            for label in labels.map(str::trim).filter(|label| !label.is_empty()) {
                names.insert(label.to_owned());
                if names.len() > MOST_CLASSES {
                    return Err(NetsError::Config {
                        what: "the number of classes",
                        value: format!("more than {MOST_CLASSES}"),
                        allowed: "2 to 64; give --threshold to cut a measured value into classes",
                    });
                }
            }
        }
        Ok(Self {
            task: options.task,
            thresholds: options.thresholds.clone(),
            labels: names.into_iter().collect(),
            optional: columns > 1,
        })
    }

    /// What the outputs of a model are called.
    pub(super) fn outputs(&self, columns: &[String]) -> Vec<String> {
        match (self.task, self.thresholds.as_slice()) {
            (Task::Regression | Task::Binary, _) => columns.to_vec(),
            (Task::Multiclass, []) => self.labels.clone(),
            (Task::Multiclass, cuts) => {
                let between = cuts
                    .windows(2)
                    .map(|pair| format!("above {} to {}", pair[0], pair[1]));
                let first = format!("up to {}", cuts[0]);
                let last = format!("above {}", cuts[cuts.len() - 1]);
                std::iter::once(first)
                    .chain(between)
                    .chain([last])
                    .collect()
            }
        }
    }

    /// The number, NaN for a missing one that may be missing, or why there is none.
    pub(super) fn read(&self, text: &str) -> Result<f64, String> {
        let shown: String = text.chars().take(40).collect();
        if text.is_empty() {
            return if self.optional {
                Ok(f64::NAN)
            } else {
                Err("the target is empty".to_owned())
            };
        }
        if self.task == Task::Multiclass && self.thresholds.is_empty() {
            let at = self.labels.iter().position(|label| label == text);
            return at
                .map(|at| at as f64)
                .ok_or_else(|| format!("the target {shown:?} is no class"));
        }
        let value: f64 = text
            .parse()
            .map_err(|_| format!("the target {shown:?} is not a number"))?;
        // f32 arithmetic follows; values beyond it would turn into infinity there
        if !(value.is_finite() && value.abs() < 1e30) {
            return Err(format!(
                "the target {shown:?} is not a finite number below 1e30"
            ));
        }
        if !self.thresholds.is_empty() {
            return Ok(self.thresholds.iter().filter(|cut| value > **cut).count() as f64);
        }
        match self.task {
            Task::Binary if value != 0.0 && value != 1.0 => Err(format!(
                "the target {shown:?} is not a class; it must be 0 or 1, or give --threshold"
            )),
            Task::Regression | Task::Binary | Task::Multiclass => Ok(value),
        }
    }
}
