//! Tree ensembles as two exact steps (docs/protocol.md, trees).
//!
//! The client sends every comparison `x > t` of the public grid as one input (a thermometer). Step
//! 1 counts for each leaf the conditions of its path that hold; step 2 looks the count up: the
//! leaf's values when all hold, else zero, summed over leaves. Thresholds, structure and values
//! stay with the publisher.
//!
//! The counts come out exactly: they are spaced two buckets apart and sit in the middle of two, so
//! the carry chooses between two buckets that mean the same, and a wrong one takes an error of half
//! a bucket, which the planner keeps beyond eight standard deviations ([`LayerDemand::exact`]).

use std::collections::BTreeMap;

use chemxor_core::{Expansion, Grid};

use super::{StepWeights, Tables, WeightsError};
use crate::plan::LayerDemand;

/// One comparison on the path to a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    /// Number of the feature.
    pub feature: u32,
    /// Compared with this level.
    pub threshold: u16,
    /// `x > threshold`, else `x <= threshold`.
    pub greater: bool,
}

/// A leaf: it contributes its values when all conditions hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// The path.
    pub conditions: Vec<Condition>,
    /// One for each output of the model.
    pub values: Vec<i16>,
}

/// Why an ensemble cannot be evaluated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// No leaf that can be reached.
    #[error("the ensemble has no leaf that any molecule can reach")]
    Empty,
    /// A condition on a feature or level that the grid does not have.
    #[error(
        "leaf {leaf} compares feature {feature} with level {threshold}, which its grid does not have"
    )]
    Grid {
        /// Which leaf.
        leaf: usize,
        /// Which feature.
        feature: u32,
        /// Which level.
        threshold: u16,
    },
    /// Leaves with different numbers of values.
    #[error("leaf {0} has another number of values than the first")]
    Values(usize),
    /// More conditions on a path than a table of 256 entries tells apart.
    #[error("leaf {0} has more than 127 conditions after merging")]
    Depth(usize),
    /// The grids or the matrices are too large.
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

/// The two steps, and what the planner must know about them.
#[derive(Debug, Clone)]
pub struct TreeEnsemble {
    /// What the client does to its features.
    pub expansion: Expansion,
    /// Counts of conditions for each leaf.
    pub counters: StepWeights,
    /// Sum of the leaves' values.
    pub leaves: StepWeights,
    /// b of the counters.
    pub bits: u8,
}

impl TreeEnsemble {
    /// Builds the steps. Leaves that contradict themselves are left out; conditions on the same
    /// feature are merged.
    pub fn new(grids: Vec<Grid>, leaves: &[Leaf]) -> Result<Self, TreeError> {
        let outputs = leaves.first().ok_or(TreeError::Empty)?.values.len();
        let expansion = Expansion::Thermometer { grids };
        if !expansion.is_sound() {
            return Err(WeightsError::Range("grids").into());
        }
        let offsets = expansion.thermometer_offsets();
        let (mut rows, mut depths, mut values) = (Vec::new(), Vec::new(), Vec::new());
        for (number, leaf) in leaves.iter().enumerate() {
            if leaf.values.len() != outputs {
                return Err(TreeError::Values(number));
            }
            let Some(path) = merge(&leaf.conditions) else {
                continue;
            };
            let mut row = Vec::with_capacity(path.len());
            for condition in &path {
                let levels = expansion.feature_limit(condition.feature as usize, 0);
                if u32::from(condition.threshold) + 1 >= levels {
                    return Err(TreeError::Grid {
                        leaf: number,
                        feature: condition.feature,
                        threshold: condition.threshold,
                    });
                }
                let input = offsets[condition.feature as usize] + u32::from(condition.threshold);
                row.push((input, if condition.greater { UNIT } else { -UNIT }));
            }
            if path.len() > 127 {
                return Err(TreeError::Depth(number));
            }
            let negative = path.iter().filter(|condition| !condition.greater).count();
            rows.push(row);
            depths.push((path.len(), negative));
            values.push(&leaf.values);
        }
        let deepest = depths
            .iter()
            .map(|(depth, _)| *depth)
            .max()
            .ok_or(TreeError::Empty)?;
        let bits = (2 * (deepest + 1))
            .next_power_of_two()
            .trailing_zeros()
            .max(3) as u8;
        let biases = depths
            .iter()
            .map(|(_, negative)| i32::from(UNIT) * *negative as i32 + 1);
        let biases = biases.collect();
        let inputs = offsets.len().checked_sub(1).map_or(0, |last| {
            offsets[last] as usize + expansion.feature_limit(last, 0) as usize - 1
        });
        let counters = StepWeights::new_sparse(inputs, rows, None)?.with_biases(biases)?;
        let entries = depths
            .iter()
            .flat_map(|(depth, _)| (0..1usize << bits).map(move |t| i16::from(t / 2 == *depth)))
            .collect();
        let tables = Tables {
            bits,
            shift: 0,
            entries,
        };
        let row = |output: usize| {
            let entry = |(leaf, values): (usize, &&Vec<i16>)| (leaf as u32, values[output]);
            values
                .iter()
                .enumerate()
                .map(entry)
                .filter(|(_, value)| *value != 0)
                .collect()
        };
        let rows: Vec<Vec<(u32, i16)>> = (0..outputs).map(row).collect();
        Ok(Self {
            expansion,
            counters,
            leaves: StepWeights::new_sparse(depths.len(), rows, Some(tables))?,
            bits,
        })
    }

    /// Demands for the planner; `l` and `released` are accumulator and output bits of the sum of
    /// the leaves' values.
    pub fn demands(&self, l: u8, released: u8) -> [LayerDemand; 2] {
        let counters = LayerDemand::of(&self.counters, 1, self.bits + 1, self.bits);
        [
            counters.exact().expanding(self.expansion.clone()),
            LayerDemand::of(&self.leaves, self.bits, l, released),
        ]
    }
}

/// Two buckets: a bucket is two units, because counts sit in the middle of two buckets.
const UNIT: i16 = 4;

/// At most one lower and one upper bound for each feature; none when they contradict each other.
fn merge(conditions: &[Condition]) -> Option<Vec<Condition>> {
    let mut bounds: BTreeMap<u32, (Option<u16>, Option<u16>)> = BTreeMap::new();
    for condition in conditions {
        let (above, up_to) = bounds.entry(condition.feature).or_default();
        let threshold = condition.threshold;
        if condition.greater {
            *above = Some(above.map_or(threshold, |old| old.max(threshold)));
        } else {
            *up_to = Some(up_to.map_or(threshold, |old| old.min(threshold)));
        }
    }
    let mut merged = Vec::new();
    for (feature, (above, up_to)) in bounds {
        if let (Some(above), Some(up_to)) = (above, up_to)
            && above >= up_to
        {
            return None;
        }
        let sides = [(above, true), (up_to, false)];
        merged.extend(sides.into_iter().filter_map(|(threshold, greater)| {
            threshold.map(|threshold| Condition {
                feature,
                threshold,
                greater,
            })
        }));
    }
    Some(merged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::plan_graph;
    use crate::twin;
    use proptest::prelude::*;

    fn condition(feature: u32, threshold: u16, greater: bool) -> Condition {
        Condition {
            feature,
            threshold,
            greater,
        }
    }

    #[test]
    fn paths_merge() {
        let path = [
            condition(1, 2, true),
            condition(0, 3, false),
            condition(1, 4, true),
        ];
        let merged = [condition(0, 3, false), condition(1, 4, true)];
        assert_eq!(merge(&path), Some(merged.to_vec()));
        assert_eq!(
            merge(&[condition(1, 2, true), condition(1, 2, false)]),
            None
        );
    }

    #[test]
    fn what_the_grid_lacks_is_named() {
        let grids = vec![Grid {
            features: 2,
            levels: 4,
        }];
        let leaf = |feature, threshold| Leaf {
            conditions: vec![condition(feature, threshold, true)],
            values: vec![1],
        };
        assert!(TreeEnsemble::new(grids.clone(), &[leaf(1, 2)]).is_ok());
        for (feature, threshold) in [(1, 3), (2, 0)] {
            let error = TreeEnsemble::new(grids.clone(), &[leaf(0, 0), leaf(feature, threshold)]);
            let expected = TreeError::Grid {
                leaf: 1,
                feature,
                threshold,
            };
            assert_eq!(error.unwrap_err(), expected);
        }
        assert_eq!(TreeEnsemble::new(grids, &[]).unwrap_err(), TreeError::Empty);
    }

    proptest! {
        /// Whatever the carries, the twin gives the sum of the values of the leaves that hold.
        #[test]
        fn counters_are_exact_under_every_carry(
            paths in proptest::collection::vec(
                proptest::collection::vec((0u32..6, 0u16..3, any::<bool>()), 0..7), 1..20),
            x in proptest::collection::vec(0u16..4, 6),
            carries in any::<u64>(),
        ) {
            let leaves: Vec<Leaf> = paths
                .iter()
                .enumerate()
                .map(|(i, path)| Leaf {
                    conditions: path.iter().map(|(f, t, g)| condition(*f, *t, *g)).collect(),
                    values: vec![i as i16 + 1, -(i as i16)],
                })
                .collect();
            let grids = vec![Grid { features: 6, levels: 4 }];
            let Ok(ensemble) = TreeEnsemble::new(grids, &leaves) else {
                return Ok(());
            };
            let graph = plan_graph(&ensemble.demands(12, 12)).unwrap();
            let weights = [ensemble.counters.clone(), ensemble.leaves.clone()];
            let codes = twin::evaluate(graph.steps(), &weights, &x, |rounding| {
                // fraction 1/2: the protocol gives either
                i64::from(rounding.step == 0 && carries >> (rounding.output % 64) & 1 == 1)
            });
            let expected = |output: usize| -> i32 {
                let holds = |leaf: &&Leaf| leaf.conditions.iter().all(|c| {
                    (x[c.feature as usize] > c.threshold) == c.greater
                });
                leaves.iter().filter(holds).map(|leaf| i32::from(leaf.values[output])).sum()
            };
            prop_assert_eq!(codes, [expected(0), expected(1)].map(|y| (y & 0xfff) as u32));
        }
    }
}
