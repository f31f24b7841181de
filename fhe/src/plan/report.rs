//! A plan for people and for programs: what travels, what is computed, and how the noise budget is
//! spent in each step.

use chemxor_core::{Expansion, StepGraph, StepSpec};
use serde::Serialize;

use super::budget::{TOLERANCE, allowed_error, errors, tail_log2};
use super::cost::cost;
use super::{LayerDemand, PlanError};
use crate::network::StepWeights;
use crate::ring::security_bits;
use crate::wire::{StepShape, public_keys_bytes};

/// The plan of a model.
#[derive(Debug, Clone, Serialize)]
pub struct PlanReport {
    /// One for each step, that is for each round trip.
    pub steps: Vec<StepReport>,
    /// Bytes from client to server in one query.
    pub bytes_up: usize,
    /// Bytes back.
    pub bytes_down: usize,
    /// Bytes of the public keys, once for each session.
    pub public_key_bytes: usize,
    /// Bits that one query releases about the weights, at most.
    pub leakage_bits_per_query: u64,
    /// Time of client and server on one thread, and of the bytes at 400 Mbit/s, by the planner's
    /// model: a guide for comparisons, not a measurement. In ms.
    pub estimated_ms: f64,
}

/// The plan of one step. Errors are log2 of standard deviations in fractions of the torus.
#[derive(Debug, Clone, Serialize)]
pub struct StepReport {
    /// Number of the step.
    pub step: usize,
    /// `static` or `lookup`.
    pub kind: String,
    /// Inputs and outputs.
    pub shape: [u32; 2],
    /// Input bits, accumulator bits, output bits.
    pub bits: [u8; 3],
    /// Name of the ring.
    pub ring: &'static str,
    /// k N.
    pub lwe_dimension: usize,
    /// From tfhe's formulas.
    pub security_bits: u32,
    /// n_in.
    pub inputs_per_polynomial: u32,
    /// Ciphertexts up and down.
    pub ciphertexts: [usize; 2],
    /// Bytes up and down.
    pub bytes: [usize; 2],
    /// Bits of a body that travel, and of a reply.
    pub modulus_bits: [u8; 2],
    /// Products of polynomials.
    pub products: usize,
    /// Of the weight polynomials.
    pub norm: f64,
    /// Noise of inputs and re-randomisation.
    pub noise: f64,
    /// Of the switch to the reply's modulus.
    pub switch: f64,
    /// What the step may have.
    pub allowed: f64,
    /// log2 of the probability that an output is wrong beyond the carry.
    pub failure: f64,
    /// Time by the planner's model, in ms.
    pub estimated_ms: f64,
}

impl PlanReport {
    /// Describes the plan of a model from its weights, as after loading a bundle. Steps on
    /// thermometers are counters and must be exact.
    pub fn of_weights(graph: &StepGraph, weights: &[StepWeights]) -> Result<Self, PlanError> {
        let demand = |(spec, weights): (&StepSpec, &StepWeights)| {
            let bits = (spec.input_bits, spec.accumulator_bits, spec.output_bits);
            let demand = LayerDemand::of(weights, bits.0, bits.1, bits.2);
            match spec.expansion {
                Expansion::Thermometer { .. } => demand.exact(),
                Expansion::None | Expansion::Monomials(_) => demand,
            }
        };
        let demands: Vec<_> = graph.steps().iter().zip(weights).map(demand).collect();
        Self::new(graph, &demands)
    }

    /// Whether every step keeps its noise budget.
    pub fn keeps_budget(&self) -> bool {
        let keeps = |step: &StepReport| {
            step.noise.exp2() + step.switch.exp2() <= step.allowed.exp2() * (1.0 + 1e-9)
        };
        self.steps.iter().all(keeps)
    }

    /// Describes a plan; `layers` are the demands that it was made for.
    pub fn new(graph: &StepGraph, layers: &[LayerDemand]) -> Result<Self, PlanError> {
        let last = graph.steps().len() - 1;
        let steps = graph
            .steps()
            .iter()
            .zip(layers)
            .enumerate()
            .map(|(step, (spec, layer))| {
                let shape = StepShape::new(spec, step == last)
                    .map_err(|error| PlanError::Layout(step, error.to_string()))?;
                Ok(StepReport::new(step, &shape, layer))
            })
            .collect::<Result<Vec<_>, PlanError>>()?;
        Ok(Self {
            bytes_up: steps.iter().map(|step| step.bytes[0]).sum(),
            bytes_down: steps.iter().map(|step| step.bytes[1]).sum(),
            public_key_bytes: public_keys_bytes(&graph.rings()),
            leakage_bits_per_query: graph.leakage_bits_per_query(),
            estimated_ms: steps.iter().map(|step| step.estimated_ms).sum(),
            steps,
        })
    }
}

impl StepReport {
    fn new(step: usize, shape: &StepShape, layer: &LayerDemand) -> Self {
        let (spec, ring, layout) = (&shape.spec, &shape.ring, &shape.layout);
        let norm_squared = layer.row_norm_squared * layout.rows_sharing() as f64;
        let (noise, switch) = errors(ring, norm_squared, spec.body_bits, spec.switch_bits);
        // an exact step fails at half a bucket, any other one at a whole
        let margin = if layer.tolerance < TOLERANCE {
            0.5
        } else {
            1.0
        };
        let bucket = (-f64::from(spec.output_bits)).exp2();
        Self {
            step,
            kind: format!("{:?}", spec.kind).to_lowercase(),
            shape: [spec.inputs, spec.outputs],
            bits: [spec.input_bits, spec.accumulator_bits, spec.output_bits],
            ring: ring.name.as_str(),
            lwe_dimension: ring.lwe_dimension(),
            security_bits: security_bits(ring.lwe_dimension(), ring.torus_bits, ring.noise_std),
            inputs_per_polynomial: spec.inputs_per_polynomial,
            ciphertexts: [layout.input_count(), layout.output_count()],
            bytes: [shape.input_bytes(), shape.reply_bytes()],
            modulus_bits: [spec.body_bits, spec.switch_bits],
            products: layout.product_count(),
            norm: norm_squared.sqrt(),
            noise: noise.log2(),
            switch: switch.log2(),
            allowed: allowed_error(spec.output_bits, layer.tolerance).log2(),
            failure: tail_log2(noise.hypot(switch), bucket * margin),
            estimated_ms: cost(ring, spec, layout, layer.entries) / 1e3,
        }
    }
}

impl std::fmt::Display for PlanReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{:>4} {:7} {:>13} {:>9} {:11} {:>4} {:>5} {:>9} {:>17} {:>8} {:>21} {:>7}",
            "step",
            "kind",
            "shape",
            "bits",
            "ring",
            "sec",
            "tile",
            "cts",
            "bytes",
            "products",
            "error (of allowed)",
            "failure"
        )?;
        for step in &self.steps {
            let [inputs, outputs] = step.shape;
            let [input_bits, l, output_bits] = step.bits;
            let error = step.noise.exp2() + step.switch.exp2();
            let spent = 100.0 * error / step.allowed.exp2();
            writeln!(
                f,
                "{:>4} {:7} {:>13} {:>9} {:11} {:>4} {:>5} {:>9} {:>17} {:>8} {:>21} {:>7}",
                step.step,
                step.kind,
                format!("{inputs} -> {outputs}"),
                format!("{input_bits}/{l}/{output_bits}"),
                step.ring,
                step.security_bits,
                step.inputs_per_polynomial,
                format!("{}+{}", step.ciphertexts[0], step.ciphertexts[1]),
                format!("{}+{}", step.bytes[0], step.bytes[1]),
                step.products,
                format!("2^{:.1} ({spent:.0} %)", error.log2()),
                format!("2^{:.0}", step.failure),
            )?;
        }
        write!(
            f,
            "one query: {} rounds, {} bytes up, {} down, at most {} bits about the weights; \
             public keys {} bytes a session",
            self.steps.len(),
            self.bytes_up,
            self.bytes_down,
            self.leakage_bits_per_query,
            self.public_key_bytes
        )
    }
}
