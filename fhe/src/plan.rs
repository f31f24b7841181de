//! The planner: from shapes, norms and precisions to ring, tiling and moduli of each step.
//!
//! Budget of a step with `b` output bits (docs/protocol.md, noise budget), in fractions of the torus:
//! `sqrt(noise + rounding + rerandomisation) + sqrt(switch) <= 2^-b / 8`. What fits in no ring is
//! refused with the numbers. Among what fits, the cheapest by [`COST`] wins.
//!
//! An output coefficient collects the noise of *every* coefficient of the input times the whole
//! weight polynomial, also the rows of the other outputs in the same polynomial. So with `n_out`
//! outputs in a polynomial the noise grows by `n_out` row norms, and tiling and precision are
//! chosen together (docs/decisions/0010).

use chemxor_core::{GraphError, RingName, StepGraph, StepKind, StepSpec};

use crate::layout::Layout;
use crate::ring::RingParams;

/// What the planner must realise.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerDemand {
    /// Static or lookup.
    pub kind: StepKind,
    /// Features or neurons.
    pub inputs: u32,
    /// Pre-activations.
    pub outputs: u32,
    /// Bits of one input (static), or b of the step before (lookup).
    pub input_bits: u8,
    /// l.
    pub accumulator_bits: u8,
    /// b, or B for the last step.
    pub output_bits: u8,
    /// Largest squared 2-norm of a row of the integer matrix on encrypted coefficients
    /// ([`crate::network::StepWeights::max_row_norm_squared`]).
    pub row_norm_squared: f64,
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// No ring has noise small enough.
    #[error(
        "step {step} does not fit: {output_bits} bits allow an error of 2^{allowed:.1} of the torus, \
         the best ring gives 2^{best:.1} with row norm 2^{norm:.1}; \
         use fewer output bits or smaller weights"
    )]
    NoRing {
        /// Which step.
        step: usize,
        /// b or B.
        output_bits: u8,
        /// log2 of the allowed standard deviation.
        allowed: f64,
        /// log2 of the best that any ring reaches.
        best: f64,
        /// log2 of the row norm.
        norm: f64,
    },
    /// The steps do not form a graph.
    #[error(transparent)]
    Graph(#[from] GraphError),
}

/// Cost model, microseconds: one byte on the wire at 400 Mbit/s, one FFT, one product.
pub const COST: (f64, f64, f64) = (0.02, 1.5, 0.6);

/// Plans every step and checks the result as a graph.
pub fn plan_graph(layers: &[LayerDemand]) -> Result<StepGraph, PlanError> {
    let steps = layers
        .iter()
        .enumerate()
        .map(|(index, layer)| plan_step(index, layer))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(StepGraph::new(steps)?)
}

/// The cheapest plan of one step.
pub fn plan_step(index: usize, layer: &LayerDemand) -> Result<StepSpec, PlanError> {
    let mut best: Option<(f64, StepSpec)> = None;
    for ring in RingName::ALL.map(RingParams::of) {
        for per_input in tilings(&ring, layer) {
            for (switch_bits, body_bits) in precisions(&ring, layer, per_input) {
                let spec = StepSpec {
                    geometry: Default::default(),
                    expansion: Default::default(),
                    kind: layer.kind,
                    inputs: layer.inputs,
                    outputs: layer.outputs,
                    input_bits: layer.input_bits,
                    accumulator_bits: layer.accumulator_bits,
                    output_bits: layer.output_bits,
                    ring: ring.name,
                    inputs_per_polynomial: per_input as u32,
                    body_bits,
                    switch_bits,
                };
                let cost = cost(&ring, &spec);
                if best.as_ref().is_none_or(|(least, _)| cost < *least) {
                    best = Some((cost, spec));
                }
            }
        }
    }
    best.map(|(_, spec)| spec)
        .ok_or_else(|| refusal(index, layer))
}

/// Standard deviation of the error of a phase before the switch, and of the switch itself.
/// `norm_squared` is that of the weight polynomials: [`polynomial_norm_squared`].
pub fn errors(ring: &RingParams, norm_squared: f64, body_bits: u8, switch_bits: u8) -> (f64, f64) {
    let fresh = ring.noise_std.powi(2) + ring.body_rounding_variance(body_bits);
    let before = (fresh * norm_squared + ring.rerandomisation_variance()).sqrt();
    (before, ring.switch_variance(switch_bits).sqrt())
}

/// Squared norm of the weight polynomials of one output ciphertext, at most: that of all rows which
/// share it.
pub fn polynomial_norm_squared(ring: &RingParams, layer: &LayerDemand, per_input: usize) -> f64 {
    let sharing = (ring.size / per_input).min(layer.outputs as usize);
    layer.row_norm_squared * sharing as f64
}

/// Largest allowed error, in fractions of the torus: an eighth of the last output bit.
pub fn allowed_error(output_bits: u8) -> f64 {
    (-f64::from(output_bits) - 3.0).exp2()
}

/// For each switch modulus that fits, the fewest body bits that fit.
fn precisions(ring: &RingParams, layer: &LayerDemand, per_input: usize) -> Vec<(u8, u8)> {
    let allowed = allowed_error(layer.output_bits);
    let norm = polynomial_norm_squared(ring, layer, per_input);
    let fits = |switch_bits, body_bits| {
        let (before, switch) = errors(ring, norm, body_bits, switch_bits);
        before + switch <= allowed
    };
    let top = ring.torus_bits.min(30) as u8;
    (layer.output_bits + 3..=top)
        .filter_map(|switch_bits| {
            (switch_bits..=ring.torus_bits as u8)
                .find(|body_bits| fits(switch_bits, *body_bits))
                .map(|body_bits| (switch_bits, body_bits))
        })
        .take(6)
        .collect()
}

fn tilings(ring: &RingParams, layer: &LayerDemand) -> impl Iterator<Item = usize> + use<> {
    let smallest = match layer.kind {
        StepKind::Static => 1,
        StepKind::Lookup => 1usize << layer.input_bits,
    };
    let size = ring.size;
    (0..=11)
        .map(|log| 1usize << log)
        .filter(move |n_in| (smallest..=size).contains(n_in))
}

fn cost(ring: &RingParams, spec: &StepSpec) -> f64 {
    let layout = Layout {
        inputs: spec.coefficients(),
        outputs: spec.outputs as usize,
        per_input: spec.inputs_per_polynomial as usize,
        size: ring.size,
    };
    let (byte, fft, product) = COST;
    let up = layout.input_count() * ring.size * usize::from(spec.body_bits) / 8;
    let down =
        layout.output_count() * ring.size * ring.dimension * usize::from(spec.switch_bits) / 8;
    let polynomials = ring.dimension + 1;
    let scale = ring.size as f64 / 1024.0;
    let products = layout.input_count() * layout.output_count();
    let fresh_tables = if spec.kind == StepKind::Lookup {
        products
    } else {
        0
    };
    let ffts = (layout.input_count() + layout.output_count() * 2) * polynomials * 2 + fresh_tables;
    byte * (up + down) as f64
        + scale * (fft * ffts as f64 + product * (products * polynomials) as f64)
        // noise of every mask coefficient, both sides
        + 0.01 * ((layout.input_count() + layout.output_count() * ring.dimension) * ring.size) as f64
}

fn refusal(step: usize, layer: &LayerDemand) -> PlanError {
    let best = RingName::ALL
        .map(RingParams::of)
        .map(|ring| {
            let (before, switch) = errors(
                &ring,
                layer.row_norm_squared,
                ring.torus_bits as u8,
                ring.torus_bits.min(30) as u8,
            );
            before + switch
        })
        .into_iter()
        .fold(f64::INFINITY, f64::min);
    PlanError::NoRing {
        step,
        output_bits: layer.output_bits,
        allowed: allowed_error(layer.output_bits).log2(),
        best: best.log2(),
        norm: layer.row_norm_squared.log2() / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mlp(norms: [f64; 2]) -> Vec<LayerDemand> {
        let layer = |kind, inputs, outputs, bits: (u8, u8, u8), norm: f64| LayerDemand {
            kind,
            inputs,
            outputs,
            input_bits: bits.0,
            accumulator_bits: bits.1,
            output_bits: bits.2,
            row_norm_squared: norm * norm,
        };
        vec![
            layer(StepKind::Static, 2048, 64, (3, 12, 6), norms[0]),
            layer(StepKind::Lookup, 64, 1, (6, 16, 12), norms[1]),
        ]
    }

    #[test]
    fn the_small_ring_serves_the_fingerprint_layer() {
        let graph = plan_graph(&mlp([2048.0, 16384.0])).unwrap();
        let [first, last] = graph.steps() else {
            panic!()
        };
        assert_eq!(first.ring, RingName::N1024Q32);
        assert!(first.switch_bits <= 13, "{first:?}");
        assert_ne!(last.ring, RingName::N1024Q32, "12 bits need less noise");
        assert!(last.body_bits < 48, "low bits need not travel: {last:?}");
    }

    #[test]
    fn every_plan_keeps_the_budget() {
        for exponent in 0..24 {
            let norm = f64::from(exponent).exp2();
            let Ok(graph) = plan_graph(&mlp([norm, norm])) else {
                continue;
            };
            for (step, layer) in graph.steps().iter().zip(mlp([norm, norm])) {
                let ring = RingParams::of(step.ring);
                let shared =
                    polynomial_norm_squared(&ring, &layer, step.inputs_per_polynomial as usize);
                let (before, switch) = errors(&ring, shared, step.body_bits, step.switch_bits);
                assert!(before + switch <= allowed_error(step.output_bits));
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_numbers() {
        let error = plan_graph(&mlp([1e15, 10.0])).unwrap_err();
        let PlanError::NoRing {
            step: 0,
            output_bits: 6,
            best,
            allowed,
            ..
        } = error
        else {
            panic!()
        };
        assert!(best > allowed);
    }
}
