//! Ensembles trained elsewhere: XGBoost's JSON and LightGBM's text.
//!
//! Features are integers of the public grid, so every float threshold has one level that splits the
//! same molecules. Features are never missing; directions for missing values mean nothing here.

mod lightgbm;
mod xgboost;

use chemxor_core::{Featuriser, Task};
use chemxor_fhe::network::trees::Condition;

use super::quantise::grids;
use super::{Leaf, Tree, TreeModel};

/// Largest file, in bytes.
const MOST_BYTES: usize = 64 << 20;
/// Most trees.
const MOST_TREES: usize = 10_000;
/// Most leaves of all trees.
const MOST_LEAVES: usize = 100_000;
/// Most conditions on a path.
const MOST_DEPTH: usize = 127;
/// Most classes.
const MOST_OUTPUTS: usize = 256;

/// Why a model file was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// Not the format, or cut off.
    #[error("this is not a complete {format} model: {reason}; save the model again with {save}")]
    Format {
        /// Which format was expected.
        format: &'static str,
        /// What is wrong, and where.
        reason: String,
        /// The call that writes it.
        save: &'static str,
    },
    /// Something that the encrypted evaluation cannot do.
    #[error("the {format} model has {what}, which is not supported; train it with {instead}")]
    Unsupported {
        /// Which format.
        format: &'static str,
        /// What is not supported.
        what: String,
        /// What is.
        instead: &'static str,
    },
    /// Other features than the featuriser's.
    #[error(
        "the model was trained on {got} features, the featuriser gives {expected}; choose the featuriser that the model was trained on (chemxor features writes the table)"
    )]
    Features {
        /// Of the model.
        got: usize,
        /// Of the featuriser.
        expected: usize,
    },
    /// More than a query can be charged with.
    #[error("the model has more than {most} {what}; train fewer or smaller trees")]
    TooLarge {
        /// What there are too many of.
        what: &'static str,
        /// The limit.
        most: usize,
    },
}

/// A model from another program.
#[derive(Debug, Clone, PartialEq)]
pub struct Imported {
    /// Gives values, log-odds or scores of classes.
    pub model: TreeModel,
    /// From the objective.
    pub task: Task,
}

impl TreeModel {
    /// Reads an XGBoost model of version 1.6 or later, as `save_model("model.json")` writes it.
    pub fn from_xgboost_json(
        bytes: &[u8],
        featuriser: &Featuriser,
    ) -> Result<Imported, ImportError> {
        check_size(bytes)?;
        xgboost::read(bytes, &Levels::of(featuriser))
    }

    /// Reads a LightGBM model of text version 3 or 4, as `save_model("model.txt")` writes it.
    pub fn from_lightgbm_text(
        bytes: &[u8],
        featuriser: &Featuriser,
    ) -> Result<Imported, ImportError> {
        check_size(bytes)?;
        lightgbm::read(bytes, &Levels::of(featuriser))
    }
}

fn check_size(bytes: &[u8]) -> Result<(), ImportError> {
    at_most(bytes.len(), MOST_BYTES, "bytes")
}

fn at_most(count: usize, most: usize, what: &'static str) -> Result<(), ImportError> {
    if count > most {
        return Err(ImportError::TooLarge { what, most });
    }
    Ok(())
}

/// Number of levels of each feature.
struct Levels(Vec<u16>);

impl Levels {
    fn of(featuriser: &Featuriser) -> Self {
        let run =
            |grid: chemxor_core::Grid| std::iter::repeat_n(grid.levels, grid.features as usize);
        Self(grids(featuriser).into_iter().flat_map(run).collect())
    }

    fn check(&self, features: usize) -> Result<(), ImportError> {
        if features != self.0.len() {
            return Err(ImportError::Features {
                got: features,
                expected: self.0.len(),
            });
        }
        Ok(())
    }
}

/// What a node of a tree does.
enum Node {
    Leaf(f64),
    /// Molecules with `x <= up_to` go left. The threshold is whole, perhaps outside the grid.
    Split {
        feature: usize,
        up_to: f64,
        left: usize,
        right: usize,
    },
}

/// Collects trees within the limits.
struct Builder<'a> {
    levels: &'a Levels,
    model: TreeModel,
    leaves: usize,
}

impl<'a> Builder<'a> {
    fn new(levels: &'a Levels, base: Vec<f64>) -> Self {
        let trees = Vec::new();
        Self {
            levels,
            model: TreeModel { trees, base },
            leaves: 0,
        }
    }

    /// Adds the tree below `root`; the error is the reason alone. Branches that no level reaches are
    /// left out; a tree of one leaf goes to the base.
    fn tree(
        &mut self,
        output: usize,
        root: usize,
        nodes: usize,
        node: impl Fn(usize) -> Result<Node, String>,
    ) -> Result<Result<(), ImportError>, String> {
        let mut leaves: Vec<Leaf> = Vec::new();
        let mut waiting: Vec<(usize, Vec<Condition>)> = vec![(root, Vec::new())];
        let mut visited = 0;
        while let Some((at, path)) = waiting.pop() {
            visited += 1;
            if visited > nodes {
                return Err("a node has two parents".to_owned());
            }
            match node(at)? {
                Node::Leaf(value) if !value.is_finite() => {
                    return Err(format!("the value of node {at} is not finite"));
                }
                Node::Leaf(value) => {
                    self.leaves += 1;
                    if let Err(error) = at_most(self.leaves, MOST_LEAVES, "leaves") {
                        return Ok(Err(error));
                    }
                    leaves.push(Leaf {
                        conditions: path,
                        value,
                    });
                }
                Node::Split {
                    feature,
                    up_to,
                    left,
                    right,
                } => {
                    let Some(levels) = self.levels.0.get(feature) else {
                        return Err(format!(
                            "node {at} splits feature {feature}, there are {}",
                            self.levels.0.len()
                        ));
                    };
                    if up_to.is_nan() {
                        return Err(format!("the threshold of node {at} is not a number"));
                    }
                    let (mut low, mut high) = (0.0, f64::from(*levels) - 1.0);
                    for condition in path.iter().filter(|c| c.feature as usize == feature) {
                        let threshold = f64::from(condition.threshold);
                        if condition.greater {
                            low = f64::max(low, threshold + 1.0);
                        } else {
                            high = f64::min(high, threshold);
                        }
                    }
                    if up_to >= high {
                        waiting.push((left, path));
                        continue;
                    }
                    if up_to < low {
                        waiting.push((right, path));
                        continue;
                    }
                    if let Err(error) = at_most(path.len() + 1, MOST_DEPTH, "levels in a tree") {
                        return Ok(Err(error));
                    }
                    for (child, greater) in [(right, true), (left, false)] {
                        let mut path = path.clone();
                        path.push(Condition {
                            feature: feature as u32,
                            threshold: up_to as u16,
                            greater,
                        });
                        waiting.push((child, path));
                    }
                }
            }
        }
        match leaves.as_slice() {
            [only] => self.model.base[output] += only.value,
            _ => self.model.trees.push(Tree { output, leaves }),
        }
        Ok(Ok(()))
    }

    fn scale(mut self, factor: f64) -> TreeModel {
        for tree in &mut self.model.trees {
            for leaf in &mut tree.leaves {
                leaf.value *= factor;
            }
        }
        for base in &mut self.model.base {
            *base *= factor;
        }
        self.model
    }
}

#[cfg(test)]
mod tests;
