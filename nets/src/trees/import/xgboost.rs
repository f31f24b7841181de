//! XGBoost's JSON (the schema in its documentation, "Introduction to Model IO").

use chemxor_core::Task;
use serde::Deserialize;

use super::{Builder, ImportError, Imported, Levels, MOST_OUTPUTS, MOST_TREES, Node, at_most};

const FORMAT: &str = "XGBoost JSON";

#[derive(Deserialize)]
struct File {
    learner: Learner,
}

#[derive(Deserialize)]
struct Learner {
    gradient_booster: Booster,
    learner_model_param: Parameters,
    objective: Objective,
}

#[derive(Deserialize)]
struct Booster {
    name: String,
    model: Option<Model>,
}

#[derive(Deserialize)]
struct Model {
    trees: Vec<JsonTree>,
    tree_info: Vec<usize>,
}

#[derive(Deserialize)]
struct Parameters {
    base_score: String,
    num_class: String,
    num_feature: String,
    #[serde(default)]
    num_target: Option<String>,
}

#[derive(Deserialize)]
struct Objective {
    name: String,
}

#[derive(Deserialize)]
struct JsonTree {
    left_children: Vec<i64>,
    right_children: Vec<i64>,
    split_conditions: Vec<f64>,
    split_indices: Vec<usize>,
    #[serde(default)]
    split_type: Vec<u8>,
    tree_param: TreeParameters,
}

#[derive(Deserialize)]
struct TreeParameters {
    #[serde(default)]
    size_leaf_vector: Option<String>,
}

fn format(reason: impl Into<String>) -> ImportError {
    ImportError::Format {
        format: FORMAT,
        reason: reason.into(),
        save: "save_model(\"model.json\")",
    }
}

fn unsupported(what: impl Into<String>, instead: &'static str) -> ImportError {
    ImportError::Unsupported {
        format: FORMAT,
        what: what.into(),
        instead,
    }
}

fn whole(text: &str, what: &str) -> Result<usize, ImportError> {
    text.parse()
        .map_err(|_| format(format!("{what} is {text:?}, not a whole number")))
}

pub(super) fn read(bytes: &[u8], levels: &Levels) -> Result<Imported, ImportError> {
    let file: File = serde_json::from_slice(bytes).map_err(|error| format(error.to_string()))?;
    let Learner {
        gradient_booster: booster,
        learner_model_param: parameters,
        objective,
    } = file.learner;
    if booster.name != "gbtree" {
        return Err(unsupported(
            format!("the booster {:?}", booster.name),
            "booster=\"gbtree\"",
        ));
    }
    let task = match objective.name.as_str() {
        "reg:squarederror" | "reg:absoluteerror" | "reg:pseudohubererror" => Task::Regression,
        "binary:logistic" => Task::Binary,
        "multi:softprob" | "multi:softmax" => Task::Multiclass,
        other => {
            return Err(unsupported(
                format!("the objective {other:?}"),
                "reg:squarederror, reg:absoluteerror, reg:pseudohubererror, binary:logistic, multi:softprob or multi:softmax",
            ));
        }
    };
    levels.check(whole(&parameters.num_feature, "num_feature")?)?;
    let classes = whole(&parameters.num_class, "num_class")?;
    let targets = parameters.num_target.as_deref().unwrap_or("1");
    let outputs = classes.max(whole(targets, "num_target")?).max(1);
    at_most(outputs, MOST_OUTPUTS, "outputs")?;
    let base = base(&parameters.base_score, outputs, task)?;
    let model = booster.model.ok_or_else(|| format("there is no model"))?;
    at_most(model.trees.len(), MOST_TREES, "trees")?;
    if model.tree_info.len() != model.trees.len() {
        return Err(format("tree_info has another length than trees"));
    }
    let mut builder = Builder::new(levels, base);
    for (number, (tree, output)) in model.trees.iter().zip(&model.tree_info).enumerate() {
        let reason = |reason: String| format(format!("tree {number}: {reason}"));
        if *output >= outputs {
            return Err(reason(format!(
                "it belongs to output {output} of {outputs}"
            )));
        }
        if tree.split_type.iter().any(|kind| *kind != 0) {
            return Err(unsupported(
                format!("a categorical split in tree {number}"),
                "numerical features",
            ));
        }
        let vector = tree.tree_param.size_leaf_vector.as_deref();
        if vector.is_some_and(|size| !matches!(size, "0" | "1")) {
            return Err(unsupported(
                "leaves of several values",
                "multi_strategy=\"one_output_per_tree\"",
            ));
        }
        let node = |at: usize| {
            let missing = || format!("node {at} is missing");
            let left = *tree.left_children.get(at).ok_or_else(missing)?;
            let right = *tree.right_children.get(at).ok_or_else(missing)?;
            let number = *tree.split_conditions.get(at).ok_or_else(missing)?;
            if left == -1 {
                return Ok(Node::Leaf(number));
            }
            let child = |at: i64| usize::try_from(at).map_err(|_| format!("child {at} is no node"));
            Ok(Node::Split {
                feature: *tree.split_indices.get(at).ok_or_else(missing)?,
                // x < t goes left; for whole x that is x <= ceil(t) - 1
                up_to: number.ceil() - 1.0,
                left: child(left)?,
                right: child(right)?,
            })
        };
        builder
            .tree(*output, 0, tree.left_children.len(), node)
            .map_err(reason)??;
    }
    Ok(Imported {
        model: builder.scale(1.0),
        task,
    })
}

/// One value, or (since version 3.1) a list in brackets, in the unit of the prediction.
fn base(text: &str, outputs: usize, task: Task) -> Result<Vec<f64>, ImportError> {
    let bad = || format(format!("base_score is {text:?}"));
    let list = text.trim().trim_start_matches('[').trim_end_matches(']');
    let values: Vec<f64> = list
        .split(',')
        .take(MOST_OUTPUTS + 1)
        .map(|value| value.trim().parse().map_err(|_| bad()))
        .collect::<Result<_, _>>()?;
    let values = match values.as_slice() {
        [one] => vec![*one; outputs],
        _ if values.len() == outputs => values,
        _ => return Err(bad()),
    };
    let value = |value: f64| match task {
        Task::Binary => (value / (1.0 - value)).ln(),
        Task::Regression | Task::Multiclass => value,
    };
    let values: Vec<f64> = values.into_iter().map(value).collect();
    if values.iter().any(|value| !value.is_finite()) {
        return Err(bad());
    }
    Ok(values)
}
