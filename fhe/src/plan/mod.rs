//! The planner: from shapes, norms and precisions to ring, tiling and moduli of each step.
//!
//! Budget of a step with `b` output bits (docs/protocol.md, noise budget), in fractions of the torus:
//! `sqrt(noise + rounding + rerandomisation) + sqrt(switch) <= 2^-b / 8` ([`budget`]). What fits in no ring is
//! refused with the numbers. Among what fits, the cheapest by the model in `cost` wins.
//!
//! An output coefficient collects the noise of *every* coefficient of the input times the whole
//! weight polynomial, also the rows of the other outputs in the same polynomial. So with `n_out`
//! outputs in a polynomial the noise grows by `n_out` row norms, and tiling and precision are
//! chosen together (docs/decisions/0010).

pub mod budget;
mod cost;
pub mod report;

use chemxor_core::{Expansion, Geometry, GraphError, RingName, StepGraph, StepKind, StepSpec};

use crate::layout::Layout;
use crate::network::StepWeights;
use crate::ring::RingParams;

pub use budget::errors;
use budget::{EXACT_TOLERANCE, TOLERANCE, allowed_error};

/// What the planner must realise.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerDemand {
    /// Static or lookup.
    pub kind: StepKind,
    /// Dense or a convolution.
    pub geometry: Geometry,
    /// What the client does to its features; step 0 only.
    pub expansion: Expansion,
    /// Expanded features or neurons.
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
    /// ([`StepWeights::max_row_norm_squared`]).
    pub row_norm_squared: f64,
    /// Allowed standard deviation of the error in units of the last output bit.
    pub tolerance: f64,
    /// Number of weights when the matrix is sparse.
    pub entries: Option<usize>,
    /// The only ring to consider, if any.
    pub ring: Option<RingName>,
}

impl LayerDemand {
    /// What these weights ask for, with the given input, accumulator and output bits.
    pub fn of(
        weights: &StepWeights,
        input_bits: u8,
        accumulator_bits: u8,
        output_bits: u8,
    ) -> Self {
        let dense = weights.inputs() * weights.outputs();
        let sparse = weights.geometry().is_dense() && weights.stored() < dense;
        Self {
            kind: weights.kind(),
            geometry: weights.geometry(),
            expansion: Expansion::None,
            // a graph refuses more than 2^16
            inputs: weights.inputs() as u32,
            outputs: weights.outputs() as u32,
            input_bits,
            accumulator_bits,
            output_bits,
            row_norm_squared: weights.max_row_norm_squared(),
            tolerance: TOLERANCE,
            entries: sparse.then(|| weights.stored()),
            ring: None,
        }
    }

    /// For one ring only, even where another is cheaper.
    pub fn in_ring(self, ring: RingName) -> Self {
        Self {
            ring: Some(ring),
            ..self
        }
    }

    /// For pre-activations that sit in the middle of two buckets each: the rounded value is then
    /// one of the two with a probability of failure below 2^-48.
    pub fn exact(self) -> Self {
        Self {
            tolerance: EXACT_TOLERANCE,
            ..self
        }
    }

    /// With what the client does to its features before step 0.
    pub fn expanding(self, expansion: Expansion) -> Self {
        Self { expansion, ..self }
    }

    fn spec(&self, ring: RingName, per_input: usize) -> StepSpec {
        StepSpec {
            kind: self.kind,
            geometry: self.geometry,
            expansion: self.expansion.clone(),
            inputs: self.inputs,
            outputs: self.outputs,
            input_bits: self.input_bits,
            accumulator_bits: self.accumulator_bits,
            output_bits: self.output_bits,
            ring,
            // at most N
            inputs_per_polynomial: per_input as u32,
            body_bits: 0,
            switch_bits: 0,
        }
    }
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
    /// No ring is large enough for one image of a convolution.
    #[error("step {0} does not fit: {1}")]
    Layout(usize, String),
    /// The steps do not form a graph.
    #[error(transparent)]
    Graph(#[from] GraphError),
}

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
    let mut laid_out = false;
    let wanted = |ring: &RingName| layer.ring.is_none_or(|only| only == *ring);
    for ring in RingName::ALL.into_iter().filter(wanted).map(RingParams::of) {
        for per_input in tilings(&ring, layer) {
            let mut spec = layer.spec(ring.name, per_input);
            let Some(layout) = Layout::new(&spec, ring.size) else {
                continue;
            };
            laid_out = true;
            for (switch_bits, body_bits) in precisions(&ring, layer, &layout) {
                (spec.switch_bits, spec.body_bits) = (switch_bits, body_bits);
                let cost = cost::cost(&ring, &spec, &layout, layer.entries);
                if best.as_ref().is_none_or(|(least, _)| cost < *least) {
                    best = Some((cost, spec.clone()));
                }
            }
        }
    }
    match best {
        Some((_, spec)) => Ok(spec),
        None if laid_out => Err(refusal(index, layer)),
        None => Err(PlanError::Layout(
            index,
            "one padded channel of the image has more than 2048 pixels; use patches or a smaller image"
                .to_owned(),
        )),
    }
}

/// For each switch modulus that fits, the fewest body bits that fit.
fn precisions(ring: &RingParams, layer: &LayerDemand, layout: &Layout) -> Vec<(u8, u8)> {
    let allowed = allowed_error(layer.output_bits, layer.tolerance);
    let norm = layer.row_norm_squared * layout.rows_sharing() as f64;
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

/// Numbers of coefficients in use to try: powers of two, or whole planes of an image.
fn tilings(ring: &RingParams, layer: &LayerDemand) -> Vec<usize> {
    let size = ring.size;
    match (layer.kind, layer.geometry) {
        (StepKind::Static, Geometry::Conv2d(conv)) => Layout::conv_tilings(&conv, size),
        _ => (0..=11)
            .map(|log| 1usize << log)
            .filter(|n_in| *n_in <= size)
            .collect(),
    }
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
        allowed: allowed_error(layer.output_bits, layer.tolerance).log2(),
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
            geometry: Geometry::Dense,
            expansion: Expansion::None,
            inputs,
            outputs,
            input_bits: bits.0,
            accumulator_bits: bits.1,
            output_bits: bits.2,
            row_norm_squared: norm * norm,
            tolerance: TOLERANCE,
            entries: None,
            ring: None,
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
                let layout = Layout::new(step, ring.size).unwrap();
                let shared = layer.row_norm_squared * layout.rows_sharing() as f64;
                let (before, switch) = errors(&ring, shared, step.body_bits, step.switch_bits);
                assert!(before + switch <= allowed_error(step.output_bits, TOLERANCE));
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
