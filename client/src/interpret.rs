//! What released integers mean: a value with unit and interval, or a class with its probability; and
//! whether the molecule lies within the ranges of the training molecules.

use chemxor_chem::{DESCRIPTOR_NAMES, descriptors};
use chemxor_core::{ApplicabilityDomain, Manifest, Task};
use serde::Serialize;

use crate::ClientError;
use crate::session::Prediction;

/// One answer of a model for one molecule.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Output {
    /// A number.
    Value {
        /// Of the output, where the model has several; else empty.
        name: String,
        /// In the endpoint's unit.
        value: f64,
        /// The unit; empty when the endpoint has none.
        unit: String,
        /// Interval that held 90 % of the molecules kept aside in training, when the model has one.
        interval90: Option<[f64; 2]>,
    },
    /// Class 0 or 1.
    Class {
        /// Of the output, where the model has several; else empty.
        name: String,
        /// Of class 1.
        probability: f64,
        /// 1 when the probability is at least one half.
        class: u8,
    },
    /// One of several classes.
    Choice {
        /// The most probable one.
        class: String,
        /// Its probability.
        probability: f64,
        /// Every class with its probability, in the order of the model's outputs.
        classes: Vec<(String, f64)>,
    },
}

/// The answers of a prediction.
pub fn interpret(manifest: &Manifest, prediction: &Prediction) -> Vec<Output> {
    let values = prediction.values.iter().zip(&manifest.outputs);
    match manifest.task {
        Task::Regression => values
            .map(|(value, output)| Output::Value {
                name: output.name.clone(),
                value: *value,
                unit: manifest.unit.clone(),
                interval90: output.interval90.map(|half| [value - half, value + half]),
            })
            .collect(),
        Task::Binary => values
            .map(|(value, output)| {
                let probability = 1.0 / (1.0 + (-value).exp());
                Output::Class {
                    name: output.name.clone(),
                    probability,
                    class: u8::from(probability >= 0.5),
                }
            })
            .collect(),
        Task::Multiclass => {
            let largest = prediction.values.iter().copied().fold(f64::MIN, f64::max);
            let weights: Vec<f64> = prediction
                .values
                .iter()
                .map(|v| (v - largest).exp())
                .collect();
            let sum: f64 = weights.iter().sum();
            let classes: Vec<(String, f64)> = (0..weights.len())
                .map(|at| (label(manifest, at), weights[at] / sum))
                .collect();
            let best = classes.iter().max_by(|a, b| a.1.total_cmp(&b.1)).cloned();
            let (class, probability) = best.unwrap_or_default();
            vec![Output::Choice {
                class,
                probability,
                classes,
            }]
        }
    }
}

/// Name of an output; its number from 1 where it has none.
fn label(manifest: &Manifest, at: usize) -> String {
    match manifest.outputs[at].name.as_str() {
        "" => (at + 1).to_string(),
        name => name.to_owned(),
    }
}

/// Names of the columns that a table gets for [`fields`].
pub(crate) fn columns(manifest: &Manifest) -> Vec<String> {
    let outputs = manifest.outputs.len();
    if manifest.task == Task::Multiclass {
        let each = (0..outputs).map(|at| format!("probability_{}", label(manifest, at)));
        return [String::from("class"), String::from("probability")]
            .into_iter()
            .chain(each)
            .collect();
    }
    let mut columns = Vec::new();
    for (at, output) in manifest.outputs.iter().enumerate() {
        let names: &[&str] = match (manifest.task, output.interval90) {
            (Task::Regression, None) => &["prediction", "unit"],
            (Task::Regression, Some(_)) => &["prediction", "unit", "low90", "high90"],
            _ => &["probability", "class"],
        };
        columns.extend(names.iter().map(|name| match outputs {
            1 => (*name).to_owned(),
            _ => format!("{name}_{}", label(manifest, at)),
        }));
    }
    columns
}

/// The answers as text, in the order of [`columns`].
pub(crate) fn fields(outputs: &[Output]) -> Vec<String> {
    let number = |value: &f64| format!("{value:.6}");
    let of = |output: &Output| match output {
        Output::Value {
            value,
            unit,
            interval90,
            ..
        } => {
            let mut fields = vec![number(value), unit.clone()];
            fields.extend(interval90.iter().flatten().map(number));
            fields
        }
        Output::Class {
            probability, class, ..
        } => vec![number(probability), class.to_string()],
        Output::Choice {
            class,
            probability,
            classes,
        } => {
            let mut fields = vec![class.clone(), number(probability)];
            fields.extend(classes.iter().map(|(_, probability)| number(probability)));
            fields
        }
    };
    outputs.iter().flat_map(of).collect()
}

/// A descriptor of a molecule that lies outside the range of the training molecules.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outside {
    /// Which descriptor.
    pub descriptor: &'static str,
    /// Of the molecule.
    pub value: f64,
    /// 1 % and 99 % quantiles over the training molecules.
    pub range: [f64; 2],
}

/// The descriptors of a molecule that lie outside the model's applicability domain; none when it is
/// within the ranges of the training molecules, which does not say that it is similar to any.
pub fn outside(domain: &ApplicabilityDomain, smiles: &str) -> Result<Vec<Outside>, ClientError> {
    let values = descriptors(smiles)?.values();
    Ok(DESCRIPTOR_NAMES
        .iter()
        .zip(values)
        .zip(&domain.descriptors)
        .filter(|((_, value), [low, high])| {
            let thousandths = value * 1000.0;
            // half a thousandth for the rounding of the ends
            thousandths < *low as f64 - 0.5 || thousandths > *high as f64 + 0.5
        })
        .map(|((descriptor, value), range)| Outside {
            descriptor,
            value,
            range: range.map(|end| end as f64 / 1000.0),
        })
        .collect())
}

/// The same in one field of a table: `within`, or `outside` and the descriptors.
pub(crate) fn domain_field(outside: &[Outside]) -> String {
    if outside.is_empty() {
        return "within".to_owned();
    }
    let names: Vec<&str> = outside
        .iter()
        .map(|descriptor| descriptor.descriptor)
        .collect();
    format!("outside {}", names.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(task: Task, outputs: &[(&str, Option<f64>)]) -> Manifest {
        let bytes = include_bytes!("../tests/data/manifest.json");
        let (mut manifest, _) = Manifest::from_bytes(bytes).unwrap();
        manifest.task = task;
        manifest.outputs = outputs
            .iter()
            .map(|(name, interval90)| chemxor_core::OutputScaling {
                name: (*name).to_owned(),
                interval90: *interval90,
                ..chemxor_core::OutputScaling::new(1.0, 0.0)
            })
            .collect();
        manifest
    }

    fn prediction(values: &[f64]) -> Prediction {
        Prediction {
            values: values.to_vec(),
            codes: vec![0; values.len()],
            bytes_up: 0,
            bytes_down: 0,
            rounds: 1,
            elapsed: std::time::Duration::ZERO,
        }
    }

    fn table(manifest: &Manifest, values: &[f64]) -> Vec<(String, String)> {
        let fields = fields(&interpret(manifest, &prediction(values)));
        let columns = columns(manifest);
        assert_eq!(columns.len(), fields.len());
        columns.into_iter().zip(fields).collect()
    }

    #[test]
    fn every_task_has_its_columns() {
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        let plain = table(&manifest(Task::Regression, &[("", None)]), &[1.5]);
        assert_eq!(
            plain,
            [pair("prediction", "1.500000"), pair("unit", "log10 mol/L")]
        );
        let two = manifest(Task::Regression, &[("fast", Some(0.5)), ("", None)]);
        let expected = [
            pair("prediction_fast", "1.000000"),
            pair("unit_fast", "log10 mol/L"),
            pair("low90_fast", "0.500000"),
            pair("high90_fast", "1.500000"),
            pair("prediction_2", "2.000000"),
            pair("unit_2", "log10 mol/L"),
        ];
        assert_eq!(table(&two, &[1.0, 2.0]), expected);
        let binary = table(&manifest(Task::Binary, &[("", None)]), &[0.0]);
        assert_eq!(
            binary,
            [pair("probability", "0.500000"), pair("class", "1")]
        );
        let classes = manifest(Task::Multiclass, &[("low", None), ("high", None)]);
        let expected = [
            pair("class", "high"),
            pair("probability", "0.731059"),
            pair("probability_low", "0.268941"),
            pair("probability_high", "0.731059"),
        ];
        assert_eq!(table(&classes, &[1.0, 2.0]), expected);
    }

    #[test]
    fn a_molecule_outside_the_training_ranges_is_flagged_with_the_descriptors() {
        let ends = descriptors("CCO")
            .unwrap()
            .values()
            .map(|value| (value * 1000.0).round() as i64);
        let domain = ApplicabilityDomain {
            descriptors: ends.map(|end| [end, end]).to_vec(),
            nearest_neighbour: vec![0; 5],
        };
        assert_eq!(domain_field(&outside(&domain, "OCC").unwrap()), "within");
        let found = outside(&domain, "CCCO").unwrap();
        let names: Vec<&str> = found
            .iter()
            .map(|descriptor| descriptor.descriptor)
            .collect();
        assert!(
            names.contains(&"mol_wt") && !names.contains(&"hbd"),
            "{names:?}"
        );
        assert!(domain_field(&found).starts_with("outside mol_wt"));
        assert!(outside(&domain, "C1CC").is_err());
    }
}
