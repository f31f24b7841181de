//! LightGBM's text: `key=value` lines, a block for each tree.

use std::collections::BTreeMap;

use chemxor_core::Task;

use super::{Builder, ImportError, Imported, Levels, MOST_OUTPUTS, MOST_TREES, Node, at_most};

const FORMAT: &str = "LightGBM text";
/// Of `decision_type`: a categorical split.
const CATEGORICAL: u8 = 1;
/// Of `decision_type`: zeros count as missing.
const ZERO_MISSING: u8 = 4;
const MISSING_MASK: u8 = 12;

type Block<'a> = BTreeMap<&'a str, &'a str>;

fn format(reason: impl Into<String>) -> ImportError {
    ImportError::Format {
        format: FORMAT,
        reason: reason.into(),
        save: "save_model(\"model.txt\")",
    }
}

fn unsupported(what: impl Into<String>, instead: &'static str) -> ImportError {
    ImportError::Unsupported {
        format: FORMAT,
        what: what.into(),
        instead,
    }
}

fn field<'a>(block: &Block<'a>, key: &str) -> Result<&'a str, String> {
    block
        .get(key)
        .copied()
        .ok_or_else(|| format!("{key} is missing"))
}

fn one<T: std::str::FromStr>(block: &Block<'_>, key: &str) -> Result<T, String> {
    let text = field(block, key)?;
    text.parse().map_err(|_| format!("{key} is {text:?}"))
}

/// A list of exactly `count` entries.
fn list<T: std::str::FromStr>(
    block: &Block<'_>,
    key: &str,
    count: usize,
) -> Result<Vec<T>, String> {
    let parse = |text: &str| {
        text.parse()
            .map_err(|_| format!("{key} has the entry {text:?}"))
    };
    let entries: Vec<T> = field(block, key)?
        .split_ascii_whitespace()
        .map(parse)
        .collect::<Result<_, _>>()?;
    if entries.len() != count {
        return Err(format!("{key} has {} entries, not {count}", entries.len()));
    }
    Ok(entries)
}

pub(super) fn read(bytes: &[u8], levels: &Levels) -> Result<Imported, ImportError> {
    let text = std::str::from_utf8(bytes).map_err(|error| format(error.to_string()))?;
    let (mut header, mut trees, mut ended) = (Block::new(), Vec::<Block<'_>>::new(), false);
    let mut averaged = false;
    for line in text.lines().map(str::trim) {
        if line == "end of trees" {
            ended = true;
            break;
        }
        averaged |= line == "average_output";
        let Some((key, value)) = line.split_once('=') else {
            continue;
        };
        if key == "Tree" {
            at_most(trees.len() + 1, MOST_TREES, "trees")?;
            trees.push(Block::new());
        } else {
            trees.last_mut().unwrap_or(&mut header).insert(key, value);
        }
    }
    if !ended {
        return Err(format("the line \"end of trees\" is missing"));
    }
    let version = field(&header, "version").map_err(format)?;
    if !matches!(version, "v3" | "v4") {
        return Err(unsupported(format!("version {version}"), "LightGBM 3 or 4"));
    }
    let last: usize = one(&header, "max_feature_idx").map_err(format)?;
    levels.check(last.saturating_add(1))?;
    let outputs: usize = one(&header, "num_tree_per_iteration").map_err(format)?;
    at_most(outputs, MOST_OUTPUTS, "outputs")?;
    let (task, slope) = objective(field(&header, "objective").map_err(format)?)?;
    if outputs == 0 || trees.len() % outputs != 0 || (task != Task::Multiclass && outputs != 1) {
        return Err(format(format!(
            "{} trees for {outputs} trees in an iteration",
            trees.len()
        )));
    }
    let mut builder = Builder::new(levels, vec![0.0; outputs]);
    for (number, block) in trees.iter().enumerate() {
        tree(&mut builder, number, number % outputs, block)?;
    }
    let rounds = (trees.len() / outputs).max(1) as f64;
    Ok(Imported {
        model: builder.scale(if averaged { slope / rounds } else { slope }),
        task,
    })
}

/// Task, and the factor from scores to log-odds.
fn objective(text: &str) -> Result<(Task, f64), ImportError> {
    let mut words = text.split_ascii_whitespace();
    let refused = || {
        unsupported(
            format!("the objective {text:?}"),
            "regression, regression_l1, huber, fair, binary or multiclass",
        )
    };
    let name = words.next().ok_or_else(refused)?;
    let rest: Vec<&str> = words.collect();
    match name {
        "regression" | "regression_l1" | "huber" | "fair" if !rest.contains(&"sqrt") => {
            Ok((Task::Regression, 1.0))
        }
        "binary" => {
            let slope = rest.iter().find_map(|word| word.strip_prefix("sigmoid:"));
            let slope: f64 = slope.unwrap_or("1").parse().map_err(|_| refused())?;
            if slope.is_finite() && slope > 0.0 {
                Ok((Task::Binary, slope))
            } else {
                Err(refused())
            }
        }
        "multiclass" => Ok((Task::Multiclass, 1.0)),
        _ => Err(refused()),
    }
}

fn tree(
    builder: &mut Builder<'_>,
    number: usize,
    output: usize,
    block: &Block<'_>,
) -> Result<(), ImportError> {
    let reason = |reason: String| format(format!("tree {number}: {reason}"));
    let count: usize = one(block, "num_leaves").map_err(reason)?;
    let values: Vec<f64> = list(block, "leaf_value", count).map_err(reason)?;
    if count == 0 {
        return Err(reason("it has no leaf".to_owned()));
    }
    if block.get("is_linear").is_some_and(|value| *value != "0") {
        return Err(unsupported("linear leaves", "linear_tree=false"));
    }
    let splits = count - 1;
    // a tree of one leaf has no splits, and the keys may be absent
    let (mut features, mut thresholds, mut kinds) = (Vec::new(), Vec::new(), Vec::new());
    let (mut left, mut right) = (Vec::new(), Vec::new());
    if splits > 0 {
        features = list::<usize>(block, "split_feature", splits).map_err(reason)?;
        thresholds = list::<f64>(block, "threshold", splits).map_err(reason)?;
        kinds = list::<u8>(block, "decision_type", splits).map_err(reason)?;
        left = list::<i64>(block, "left_child", splits).map_err(reason)?;
        right = list::<i64>(block, "right_child", splits).map_err(reason)?;
    }
    if kinds.iter().any(|kind| kind & CATEGORICAL != 0) {
        return Err(unsupported(
            format!("a categorical split in tree {number}"),
            "numerical features",
        ));
    }
    if kinds.iter().any(|kind| kind & MISSING_MASK == ZERO_MISSING) {
        return Err(unsupported(
            format!("zeros as missing values in tree {number}"),
            "zero_as_missing=false",
        ));
    }
    // splits are numbered 0..splits, leaves after them; in the file a leaf is -1 - its number
    let child = |at: i64| match usize::try_from(at) {
        Ok(split) if split < splits => Ok(split),
        Err(_) if at >= -(count as i64) => Ok(splits + (-1 - at) as usize),
        _ => Err(format!("child {at} is no node")),
    };
    let node = |at: usize| {
        if at >= splits {
            return Ok(Node::Leaf(values[at - splits]));
        }
        Ok(Node::Split {
            feature: features[at],
            // x <= t goes left
            up_to: f64::floor(thresholds[at]),
            left: child(left[at])?,
            right: child(right[at])?,
        })
    };
    builder
        .tree(output, 0, splits + count, node)
        .map_err(reason)?
}
