//! The public step graph of a model: shapes, precisions and ring of each step; no weight.
//!
//! A step is one linear map plus what follows it (blind, send). Step 0 is static: it acts on the
//! client's features. Every later step is a lookup: it acts on the one-hot encodings of the blinded
//! pre-activations of the step before (docs/protocol.md, section 2).

mod expansion;
mod geometry;

use serde::{Deserialize, Serialize};

pub use expansion::{Expansion, Grid, Monomials};
pub use geometry::{Conv2d, Geometry};

/// A ring that the protocol knows; its parameters live in `chemxor-fhe`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RingName {
    /// N = 1024, k = 1, 32-bit torus.
    #[serde(rename = "n1024-q32")]
    N1024Q32,
    /// N = 512, k = 3 (n = 1536), 64-bit torus.
    #[serde(rename = "n1536-q64")]
    N1536Q64,
    /// N = 2048, k = 1, 64-bit torus.
    #[serde(rename = "n2048-q64")]
    N2048Q64,
}

impl RingName {
    /// Every ring, cheapest first.
    pub const ALL: [Self; 3] = [Self::N1024Q32, Self::N1536Q64, Self::N2048Q64];

    /// The stored name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::N1024Q32 => "n1024-q32",
            Self::N1536Q64 => "n1536-q64",
            Self::N2048Q64 => "n2048-q64",
        }
    }
}

/// Parameters of a ring as a bundle states them, so that their security can be computed again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RingStatement {
    /// Its name.
    pub ring: RingName,
    /// n = kN.
    pub lwe_dimension: u32,
    /// w: the modulus is 2^w.
    pub torus_bits: u8,
    /// log2 of the standard deviation of fresh noise, in fractions of the torus.
    pub log2_noise_std: f64,
}

/// What a step multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StepKind {
    /// Fixed integer weights on integer features.
    Static,
    /// Weights on tables, rotated afresh for each query.
    Lookup,
}

/// Shape, precision and plan of one step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepSpec {
    /// Static for step 0, lookup for the others.
    pub kind: StepKind,
    /// Which inputs meet which outputs.
    #[serde(default, skip_serializing_if = "Geometry::is_dense")]
    pub geometry: Geometry,
    /// What the client makes of its features before step 0; none in later steps.
    #[serde(default, skip_serializing_if = "Expansion::is_none")]
    pub expansion: Expansion,
    /// Expanded features (static) or neurons of the step before (lookup).
    pub inputs: u32,
    /// Pre-activations that the step computes.
    pub outputs: u32,
    /// Bits of one input: of a feature (static), or b of the step before (lookup, tables of 2^b).
    pub input_bits: u8,
    /// l: pre-activations are integers modulo 2^l; one turn of the torus is 2^l.
    pub accumulator_bits: u8,
    /// Bits of the rounded pre-activation: b before a lookup, B for the released output.
    pub output_bits: u8,
    /// Ring of the ciphertexts that travel in this step.
    pub ring: RingName,
    /// n_in: encrypted coefficients used in each input polynomial.
    pub inputs_per_polynomial: u32,
    /// Top bits of each uploaded body coefficient that travel.
    pub body_bits: u8,
    /// m: replies are switched down to the modulus 2^m.
    pub switch_bits: u8,
}

/// Why a graph was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GraphError {
    /// No step, or more than 64.
    #[error("the graph has {0} steps; 1 to 64 are possible")]
    StepCount(usize),
    /// A number outside its range.
    #[error("step {step}: {field} is {value}, allowed is {low} to {high}")]
    Range {
        /// Which step.
        step: usize,
        /// Which field.
        field: &'static str,
        /// What it says.
        value: u64,
        /// Smallest.
        low: u64,
        /// Largest.
        high: u64,
    },
    /// A step does not take what the one before gives.
    #[error("step {step}: {field} is {value}, but the step before gives {expected}")]
    Chain {
        /// Which step.
        step: usize,
        /// Which field.
        field: &'static str,
        /// What it says.
        value: u64,
        /// What it should be.
        expected: u64,
    },
    /// A geometry or expansion that is unsound or does not have the step's inputs and outputs.
    #[error("step {step}: the {what} does not have the step's shape")]
    Shape {
        /// Which step.
        step: usize,
        /// Geometry or expansion.
        what: &'static str,
    },
    /// Static in the middle, or lookup first.
    #[error("step {step} has the wrong kind: step 0 is static, the others are lookups")]
    Kind {
        /// Which step.
        step: usize,
    },
}

impl StepSpec {
    /// Encrypted coefficients that the step takes: features, or 2^b for each neuron.
    pub fn coefficients(&self) -> usize {
        match self.kind {
            StepKind::Static => self.inputs as usize,
            StepKind::Lookup => (self.inputs as usize) << self.input_bits,
        }
    }

    /// Multiply-accumulates of the step on plain numbers of this size: a public measure of how
    /// heavy it is beside other steps.
    pub fn work(&self) -> u64 {
        let products = match &self.geometry {
            Geometry::Dense => u64::from(self.inputs) * u64::from(self.outputs),
            Geometry::Conv2d(conv) => conv.taps() as u64 * u64::from(self.outputs),
        };
        match self.kind {
            StepKind::Static => products,
            StepKind::Lookup => products << self.input_bits.min(16),
        }
    }

    /// Permits that an evaluation of the step takes: one for each begun 2^18 of
    /// [`StepSpec::work`], about a millisecond of one core.
    pub fn permits(&self) -> u32 {
        u32::try_from(self.work() >> 18).unwrap_or(u32::MAX - 1) + 1
    }

    /// Features that the client puts in: `inputs` unless there is an expansion.
    pub fn features(&self) -> usize {
        // a checked graph has an expansion that fits
        self.expansion.features(self.inputs.into()).unwrap_or(0) as usize
    }

    /// Values of feature `index` are below this.
    pub fn feature_limit(&self, index: usize) -> u32 {
        self.expansion.feature_limit(index, self.input_bits)
    }

    fn has_shape(&self, step: usize) -> Result<(), GraphError> {
        let conv_fits = |conv: &Conv2d| {
            conv.is_sound()
                && conv.inputs() == u64::from(self.inputs)
                && conv.outputs() == u64::from(self.outputs)
        };
        match &self.geometry {
            Geometry::Conv2d(conv) if !conv_fits(conv) => {
                return Err(GraphError::Shape {
                    step,
                    what: "geometry",
                });
            }
            Geometry::Dense | Geometry::Conv2d(_) => {}
        }
        let expansion_fits = self.expansion.is_sound()
            && (self.expansion.is_none() || self.kind == StepKind::Static)
            && self.expansion.features(self.inputs.into()).is_some();
        if expansion_fits {
            Ok(())
        } else {
            Err(GraphError::Shape {
                step,
                what: "expansion",
            })
        }
    }
}

/// The steps of a model. Checked on construction and on deserialisation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<StepSpec>", into = "Vec<StepSpec>")]
pub struct StepGraph(Vec<StepSpec>);

impl StepGraph {
    /// Checks ranges and that each step takes what the one before gives.
    pub fn new(steps: Vec<StepSpec>) -> Result<Self, GraphError> {
        if steps.is_empty() || steps.len() > 64 {
            return Err(GraphError::StepCount(steps.len()));
        }
        for (index, step) in steps.iter().enumerate() {
            check_ranges(index, step, index + 1 == steps.len())?;
            let expected = if index == 0 {
                StepKind::Static
            } else {
                StepKind::Lookup
            };
            if step.kind != expected {
                return Err(GraphError::Kind { step: index });
            }
            step.has_shape(index)?;
        }
        for (index, pair) in steps.windows(2).enumerate() {
            let (before, step) = (&pair[0], &pair[1]);
            let chain = |field, value: u64, expected: u64| {
                if value == expected {
                    Ok(())
                } else {
                    Err(GraphError::Chain {
                        step: index + 1,
                        field,
                        value,
                        expected,
                    })
                }
            };
            chain("inputs", step.inputs.into(), before.outputs.into())?;
            chain(
                "input_bits",
                step.input_bits.into(),
                before.output_bits.into(),
            )?;
        }
        Ok(Self(steps))
    }

    /// The steps, in order; never empty.
    pub fn steps(&self) -> &[StepSpec] {
        &self.0
    }

    /// The last step.
    pub fn last(&self) -> &StepSpec {
        // `new` refuses an empty list
        &self.0[self.0.len() - 1]
    }

    /// The rings in use, sorted, each once.
    pub fn rings(&self) -> Vec<RingName> {
        let mut rings: Vec<RingName> = self.0.iter().map(|step| step.ring).collect();
        rings.sort_unstable();
        rings.dedup();
        rings
    }

    /// Bits that one query tells a client about the weights, at most: B for each output
    /// (docs/protocol.md, leakage bound).
    pub fn leakage_bits_per_query(&self) -> u64 {
        u64::from(self.last().outputs) * u64::from(self.last().output_bits)
    }
}

impl TryFrom<Vec<StepSpec>> for StepGraph {
    type Error = GraphError;
    fn try_from(steps: Vec<StepSpec>) -> Result<Self, GraphError> {
        Self::new(steps)
    }
}

impl From<StepGraph> for Vec<StepSpec> {
    fn from(graph: StepGraph) -> Self {
        graph.0
    }
}

fn check_ranges(index: usize, step: &StepSpec, last: bool) -> Result<(), GraphError> {
    let range = |field, value: u64, low: u64, high: u64| {
        if (low..=high).contains(&value) {
            Ok(())
        } else {
            Err(GraphError::Range {
                step: index,
                field,
                value,
                low,
                high,
            })
        }
    };
    range("inputs", step.inputs.into(), 1, 1 << 16)?;
    range("outputs", step.outputs.into(), 1, 1 << 14)?;
    let input_bits = if step.kind == StepKind::Static {
        (1, 12)
    } else {
        (3, 8)
    };
    range(
        "input_bits",
        step.input_bits.into(),
        input_bits.0,
        input_bits.1,
    )?;
    let output_bits = if last { (8, 16) } else { (3, 8) };
    range(
        "output_bits",
        step.output_bits.into(),
        output_bits.0,
        output_bits.1,
    )?;
    range(
        "accumulator_bits",
        step.accumulator_bits.into(),
        step.output_bits.into(),
        30,
    )?;
    range(
        "switch_bits",
        step.switch_bits.into(),
        u64::from(step.output_bits) + 3,
        30,
    )?;
    range(
        "body_bits",
        step.body_bits.into(),
        step.switch_bits.into(),
        64,
    )?;
    range(
        "inputs_per_polynomial",
        step.inputs_per_polynomial.into(),
        1,
        2048,
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(kind: StepKind, inputs: u32, outputs: u32, bits: (u8, u8)) -> StepSpec {
        StepSpec {
            kind,
            geometry: Geometry::Dense,
            expansion: Expansion::None,
            inputs,
            outputs,
            input_bits: bits.0,
            accumulator_bits: 16,
            output_bits: bits.1,
            ring: RingName::N1024Q32,
            inputs_per_polynomial: 128,
            body_bits: 32,
            switch_bits: 19,
        }
    }

    #[test]
    fn steps_must_chain() {
        let first = step(StepKind::Static, 2048, 64, (3, 6));
        let last = step(StepKind::Lookup, 64, 1, (6, 12));
        assert!(StepGraph::new(vec![first.clone(), last.clone()]).is_ok());
        let wrong = StepSpec {
            inputs: 63,
            ..last.clone()
        };
        assert_eq!(
            StepGraph::new(vec![first.clone(), wrong]),
            Err(GraphError::Chain {
                step: 1,
                field: "inputs",
                value: 63,
                expected: 64
            })
        );
        let wrong = StepSpec {
            input_bits: 5,
            ..last.clone()
        };
        assert!(matches!(
            StepGraph::new(vec![first.clone(), wrong]),
            Err(GraphError::Chain { .. })
        ));
        assert_eq!(
            StepGraph::new(vec![last.clone()]),
            Err(GraphError::Kind { step: 0 })
        );
        assert_eq!(StepGraph::new(vec![]), Err(GraphError::StepCount(0)));
        let wrong = StepSpec {
            output_bits: 17,
            ..last
        };
        assert!(matches!(
            StepGraph::new(vec![first, wrong]),
            Err(GraphError::Range { .. })
        ));
    }
}
