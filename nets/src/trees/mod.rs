//! Tree ensembles on the public grid of the features (docs/decisions/0014).
//!
//! | module | what it holds |
//! |---|---|
//! | `grow` | one tree, from histograms over the levels of each feature |
//! | `boosting` | gradient boosting with early stopping |
//! | `forest` | bagged trees |
//! | `quantise` | leaves as the two exact steps of chemxor-fhe |
//!
//! Invariant: a model is a list of leaves, each with its path; a molecule reaches exactly one leaf of
//! each tree, and the prediction is the base and the sum of their values.

mod boosting;
mod forest;
mod grow;
mod import;
mod quantise;

pub use import::{ImportError, Imported};

use chemxor_fhe::network::trees::Condition;
use serde::{Deserialize, Serialize};

pub(crate) use boosting::{Boosting, Sample};
pub(crate) use forest::forest;
pub(crate) use grow::Columns;
pub(crate) use quantise::quantise;

/// How trees are grown. Keys of the table `[trees]` in a TOML file.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct TreeSettings {
    /// Most trees for each output; early stopping may end boosting before.
    pub trees: usize,
    /// Most conditions on a path.
    pub depth: usize,
    /// What a tree of a boosted ensemble counts.
    pub rate: f64,
    /// Part of the molecules that a tree sees.
    pub rows: f64,
    /// Part of the features that a tree (boosting) or a split (forest) may use.
    pub columns: f64,
    /// Fewest molecules of a leaf.
    pub least_leaf: usize,
    /// Penalty on the squared leaf values.
    pub penalty: f64,
    /// Trees without a better validation loss that end boosting.
    pub patience: usize,
}

impl TreeSettings {
    /// For gradient boosting.
    pub fn boosted() -> Self {
        Self {
            trees: 300,
            depth: 5,
            rate: 0.08,
            rows: 0.7,
            columns: 0.3,
            least_leaf: 3,
            penalty: 1.0,
            patience: 40,
        }
    }

    /// For a random forest.
    pub fn forest() -> Self {
        Self {
            trees: 100,
            depth: 7,
            rate: 1.0,
            rows: 1.0,
            columns: 0.33,
            least_leaf: 2,
            penalty: 0.0,
            patience: 1,
        }
    }
}

impl Default for TreeSettings {
    fn default() -> Self {
        Self::boosted()
    }
}

/// A leaf: it contributes its value to one output when all conditions hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Leaf {
    /// The path.
    pub conditions: Vec<Condition>,
    /// In the units of the output.
    pub value: f64,
}

/// A tree of one output.
#[derive(Debug, Clone, PartialEq)]
pub struct Tree {
    /// Which output it adds to.
    pub output: usize,
    /// Exactly one of them holds for every molecule.
    pub leaves: Vec<Leaf>,
}

/// An ensemble.
#[derive(Debug, Clone, PartialEq)]
pub struct TreeModel {
    /// In any order.
    pub trees: Vec<Tree>,
    /// For each output what is added to the sum of the leaves.
    pub base: Vec<f64>,
}

impl Leaf {
    fn holds(&self, features: &[u16]) -> bool {
        self.conditions.iter().all(|condition| {
            let value = features.get(condition.feature as usize).copied();
            (value.unwrap_or(0) > condition.threshold) == condition.greater
        })
    }
}

impl TreeModel {
    /// Values, log-odds or scores of the classes.
    pub fn predict(&self, features: &[u16]) -> Vec<f64> {
        let mut sums = self.base.clone();
        for tree in &self.trees {
            if let Some(leaf) = tree.leaves.iter().find(|leaf| leaf.holds(features)) {
                sums[tree.output] += leaf.value;
            }
        }
        sums
    }

    /// Number of leaves: what the encrypted run costs.
    pub fn leaves(&self) -> usize {
        self.trees.iter().map(|tree| tree.leaves.len()).sum()
    }
}

#[cfg(test)]
mod tests;
