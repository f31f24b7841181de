//! Predictions of the integers in clear, in the endpoint's unit.

use chemxor_core::Manifest;
use chemxor_fhe::network::StepWeights;
use chemxor_fhe::twin::{Rounding, evaluate};

/// One value for each output. `carry` decides each rounding: `twin::stochastic` draws as the
/// protocol does, `twin::nearest` gives the most likely run, and the carries of an encrypted run
/// give its very result. `features` are `manifest.featuriser`'s.
pub fn predict_twin(
    manifest: &Manifest,
    weights: &[StepWeights],
    features: &[u16],
    carry: impl FnMut(Rounding) -> i64,
) -> Vec<f64> {
    let bits = manifest.graph.last().output_bits;
    evaluate(manifest.graph.steps(), weights, features, carry)
        .iter()
        .zip(&manifest.outputs)
        .map(|(code, scaling)| scaling.apply(*code, bits))
        .collect()
}
