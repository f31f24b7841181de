//! What released integers mean: a value in the endpoint's unit, or a probability and a class.

use chemxor_core::{Manifest, Task};
use serde::Serialize;

use crate::session::Prediction;

/// One output of a model for one molecule.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Output {
    /// A number.
    Value {
        /// In the endpoint's unit.
        value: f64,
        /// The unit; empty when the endpoint has none.
        unit: String,
    },
    /// Class 0 or 1.
    Class {
        /// Of class 1.
        probability: f64,
        /// 1 when the probability is at least one half.
        class: u8,
    },
}

/// The outputs of a prediction.
pub fn interpret(manifest: &Manifest, prediction: &Prediction) -> Vec<Output> {
    let output = |value: &f64| match manifest.task {
        Task::Regression => Output::Value {
            value: *value,
            unit: manifest.unit.clone(),
        },
        Task::Binary => {
            let probability = 1.0 / (1.0 + (-value).exp());
            Output::Class {
                probability,
                class: u8::from(probability >= 0.5),
            }
        }
    };
    prediction.values.iter().map(output).collect()
}

/// Names of the columns that a table gets.
pub(crate) fn columns(manifest: &Manifest) -> Vec<String> {
    let names = match manifest.task {
        Task::Regression => ["prediction", "unit"],
        Task::Binary => ["probability", "class"],
    };
    let outputs = manifest.outputs.len();
    (1..=outputs)
        .flat_map(|number| {
            names.map(|name| {
                if outputs == 1 {
                    name.to_owned()
                } else {
                    format!("{name}_{number}")
                }
            })
        })
        .collect()
}

/// The same as text, two fields for each output.
pub(crate) fn fields(outputs: &[Output]) -> Vec<String> {
    let pair = |output: &Output| match output {
        Output::Value { value, unit } => [format!("{value:.6}"), unit.clone()],
        Output::Class { probability, class } => [format!("{probability:.6}"), class.to_string()],
    };
    outputs.iter().flat_map(pair).collect()
}
