//! Leaves as the two exact steps of chemxor-fhe. The counts of step 1 are exact, so the only rounding
//! is that of the leaf values and of the released sum.

use chemxor_core::{Featuriser, Grid, OutputScaling, StepGraph};
use chemxor_fhe::network::StepWeights;
use chemxor_fhe::network::trees::{Leaf, TreeEnsemble};
use chemxor_fhe::plan::{PlanError, plan_graph};

use super::TreeModel;
use crate::error::NetsError;

/// Most bits below the released ones.
const MOST_GUARD: u8 = 6;

/// Levels of each feature, in runs.
pub(super) fn grids(featuriser: &Featuriser) -> Vec<Grid> {
    let run = |features: usize, max: u16| Grid {
        features: features as u32,
        levels: max + 1,
    };
    match featuriser {
        Featuriser::EcfpDescriptors {
            size,
            max_count,
            scaling,
            ..
        } => vec![
            run(*size as usize, *max_count),
            run(scaling.len(), scaling.max_value),
        ],
        other => vec![run(other.len(), other.max_value())],
    }
}

/// Graph, weights and scalings of an ensemble. No molecule can make the sum wrap: one turn covers
/// the largest and smallest leaf of every tree together.
pub(crate) fn quantise(
    model: &TreeModel,
    featuriser: &Featuriser,
    output_bits: u8,
) -> Result<(StepGraph, Vec<StepWeights>, Vec<OutputScaling>), NetsError> {
    let outputs = model.base.len();
    // leaf values are centred in their tree; the centres go to the offsets, so that a sum has room
    // to both sides
    let mut offsets = model.base.clone();
    let mut halves = vec![0.0f64; outputs];
    let mut leaves: Vec<(usize, Vec<_>, f64)> = Vec::new();
    for tree in &model.trees {
        let values = || tree.leaves.iter().map(|leaf| leaf.value);
        let (low, high) = (
            values().fold(f64::INFINITY, f64::min),
            values().fold(f64::NEG_INFINITY, f64::max),
        );
        if !(low.is_finite() && high.is_finite()) {
            continue;
        }
        let centre = (low + high) / 2.0;
        offsets[tree.output] += centre;
        halves[tree.output] += (high - low) / 2.0;
        for leaf in &tree.leaves {
            leaves.push((tree.output, leaf.conditions.clone(), leaf.value - centre));
        }
    }
    if leaves.is_empty() {
        return Err(NetsError::NoTree);
    }
    let mut refusal = None;
    for guard in (0..=MOST_GUARD).rev() {
        let l = output_bits + guard;
        // a little more room, for the rounding of the leaves
        let steps: Vec<f64> = halves
            .iter()
            .map(|half| (half * 1.01).max(1e-9) * 2.0 / f64::from(1u32 << l))
            .collect();
        let integer = |output: usize, value: f64| (value / steps[output]).round();
        if leaves
            .iter()
            .any(|(output, _, value)| integer(*output, *value).abs() > f64::from(i16::MAX))
        {
            continue;
        }
        let list: Vec<Leaf> = leaves
            .iter()
            .map(|(output, conditions, value)| {
                let mut values = vec![0; outputs];
                values[*output] = integer(*output, *value) as i16;
                Leaf {
                    conditions: conditions.clone(),
                    values,
                }
            })
            .collect();
        let ensemble = TreeEnsemble::new(grids(featuriser), &list)?;
        match plan_graph(&ensemble.demands(l, output_bits)) {
            Ok(graph) => {
                let unit = f64::from(1u32 << guard);
                let scalings = steps.iter().zip(&offsets);
                let scalings =
                    scalings.map(|(step, offset)| OutputScaling::new(step * unit, *offset));
                let scalings = scalings.collect();
                return Ok((graph, vec![ensemble.counters, ensemble.leaves], scalings));
            }
            Err(error) => refusal = Some(error),
        }
    }
    Err(
        refusal.map_or(NetsError::Unquantisable, |error: PlanError| {
            NetsError::Plan(error)
        }),
    )
}
