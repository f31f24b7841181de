//! From a float model to integers and a planned step graph.
//!
//! A pre-activation lives on the torus: one turn is `2^l` grid steps and covers exactly the
//! calibrated range of its neuron, stretched by a margin. The range need not be centred on 0 and
//! the bias need not be added: the table index is cyclic, so entry `t` simply holds the activation
//! at that representative of `t` which lies in the neuron's range, bias included.
//!
//! Bits are chosen by asking the planner: from many downwards, the first that it accepts in the
//! cheapest ring wins, since a coarser grid shortens the rows and with them the noise.

use chemxor_core::{Featuriser, OutputScaling, RingName, StepGraph};
use chemxor_fhe::network::StepWeights;
use chemxor_fhe::plan::{LayerDemand, PlanError, plan_graph};

use crate::dataset::Row;
use crate::error::NetsError;
use crate::mlp::RANGE_MARGIN;
use crate::model::{FloatModel, Mlp};

/// The released integer covers this many times the largest training output: one that wraps would
/// be wrong by the whole range, and range is cheap at 12 bits.
const OUTPUT_MARGIN: f64 = 2.0;
/// Bits below the released ones: rounding of weights and products stays far below one code.
const OUTPUT_GUARD_BITS: u8 = 6;
/// Most bits of a hidden accumulator.
const HIDDEN_BITS: u8 = 16;
/// A range is at least this many times the largest single weight to each side: a new molecule may
/// have one more of that feature. It also makes every weight fit 16 bits, cancelling ones included.
const LEAST_HALF: f64 = 1.01;
/// Largest table entry; 12 bits, where the lookup's own rounding has at most 8.
const TABLE_MAX: f64 = 4095.0;

/// Integers, plan and scaling.
#[derive(Debug)]
pub(crate) struct Quantised {
    pub(crate) weights: Vec<StepWeights>,
    pub(crate) graph: StepGraph,
    pub(crate) output: OutputScaling,
    /// Of the hidden neurons; empty for a linear model.
    pub(crate) ranges: Vec<Range>,
    /// Largest absolute output without bias that does not wrap.
    pub(crate) output_half: f64,
}

/// The interval of real pre-activations (without bias) that one turn of the torus covers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Range {
    pub(crate) centre: f64,
    pub(crate) half: f64,
}

impl Range {
    /// Around all of `values`, stretched by `margin`.
    fn of(values: impl Iterator<Item = f64>, margin: f64) -> Self {
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            (low.min(value), high.max(value))
        });
        let centre = (low + high) / 2.0;
        if !centre.is_finite() {
            return Self {
                centre: 0.0,
                half: 1.0,
            };
        }
        // a neuron that never moves still needs a width to divide by
        Self {
            centre,
            half: ((high - low) / 2.0 * margin).max(1e-6),
        }
    }

    /// Whether the value is represented without wrapping.
    pub(crate) fn contains(&self, value: f64) -> bool {
        (value - self.centre).abs() < self.half
    }

    /// The value that table index `t` of `2^bits` stands for.
    fn representative(&self, t: usize, bits: u8) -> f64 {
        let turn = 2.0 * self.half;
        let value = t as f64 * turn / f64::from(1u32 << bits);
        value + turn * ((self.centre - value) / turn).round()
    }
}

/// Precisions asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Precision {
    pub(crate) activation_bits: u8,
    pub(crate) output_bits: u8,
}

/// Quantises; ranges are calibrated on `calibration`.
pub(crate) fn quantise(
    model: &FloatModel,
    featuriser: &Featuriser,
    calibration: &[&Row],
    precision: Precision,
) -> Result<Quantised, NetsError> {
    let largest = calibration
        .iter()
        .map(|row| model.unbiased(row).abs())
        .fold(0.0, f64::max);
    let output_half = |single: f64| (largest * OUTPUT_MARGIN).max(single * LEAST_HALF).max(1e-6);
    let bits = precision.output_bits;
    let input = Input {
        // fewest bits that hold the largest feature
        bits: (u16::BITS - featuriser.max_value().leading_zeros()).max(1) as u8,
    };
    let (weights, graph, ranges, output_half) = match model {
        FloatModel::Linear { weights, .. } => {
            let output_half = output_half(largest_of(weights));
            let (step, graph) = first_plan((bits..=bits + OUTPUT_GUARD_BITS).rev(), |l| {
                let step = linear_step(weights, output_half, l)?;
                let graph = plan_graph(&[input.demand(&step, l, bits)])?;
                Ok((step, graph))
            })?;
            (vec![step], graph, Vec::new(), output_half)
        }
        FloatModel::Mlp(mlp) => {
            let sums: Vec<Vec<f64>> = calibration.iter().map(|row| mlp.sums(row)).collect();
            let ranges: Vec<Range> = (0..mlp.b1.len())
                .map(|j| {
                    let range = Range::of(sums.iter().map(|z| z[j]), RANGE_MARGIN);
                    let least = largest_of(&mlp.w1[j]) * LEAST_HALF;
                    Range {
                        half: range.half.max(least),
                        ..range
                    }
                })
                .collect();
            let tables = Tables::new(mlp, &ranges, precision.activation_bits);
            let output_half = output_half(tables.largest_product(&mlp.w2));
            let half = output_half;
            let (steps, graph) = mlp_steps(mlp, &ranges, &tables, half, &input, precision)?;
            (steps, graph, ranges, output_half)
        }
    };
    let l = graph.last().accumulator_bits;
    // code = top bits of y, and y = unbiased / step, step = 2 half / 2^l
    let scale = 2.0 * output_half / f64::from(1u32 << l) * f64::from(1u32 << (l - bits));
    let output = OutputScaling::new(scale, model.bias());
    Ok(Quantised {
        weights,
        graph,
        output,
        ranges,
        output_half,
    })
}

fn largest_of(weights: &[f64]) -> f64 {
    weights
        .iter()
        .map(|weight| weight.abs())
        .fold(0.0, f64::max)
}

struct Input {
    bits: u8,
}

impl Input {
    fn demand(&self, step: &StepWeights, l: u8, output_bits: u8) -> LayerDemand {
        LayerDemand::of(step, self.bits, l, output_bits)
    }
}

/// Why a number of bits is not possible.
#[derive(Debug)]
enum Refused {
    /// Try fewer bits.
    TooFine(Option<PlanError>),
    /// Nothing helps.
    Final(NetsError),
}

impl From<PlanError> for Refused {
    fn from(error: PlanError) -> Self {
        Self::TooFine(Some(error))
    }
}

/// The first of `bits` that works.
fn first_plan<T>(
    bits: impl Iterator<Item = u8>,
    mut attempt: impl FnMut(u8) -> Result<T, Refused>,
) -> Result<T, NetsError> {
    let mut last = None;
    for l in bits {
        match attempt(l) {
            Ok(found) => return Ok(found),
            Err(Refused::TooFine(error)) => last = error.or(last),
            Err(Refused::Final(error)) => return Err(error),
        }
    }
    Err(last.map_or(NetsError::Unquantisable, NetsError::Plan))
}

/// `values / step`, rounded, if all fit i16.
fn on_grid(values: &[f64], step: f64) -> Option<Vec<i16>> {
    let entry = |value: &f64| {
        let rounded = (value / step).round();
        (rounded.abs() <= f64::from(i16::MAX)).then_some(rounded as i16)
    };
    values.iter().map(entry).collect()
}

fn linear_step(weights: &[f64], half: f64, l: u8) -> Result<StepWeights, Refused> {
    let step = 2.0 * half / f64::from(1u32 << l);
    let grid = on_grid(weights, step).ok_or(Refused::TooFine(None))?;
    StepWeights::new_static(weights.len(), 1, grid).map_err(|error| Refused::Final(error.into()))
}

fn mlp_steps(
    mlp: &Mlp,
    ranges: &[Range],
    tables: &Tables,
    output_half: f64,
    input: &Input,
    precision: Precision,
) -> Result<(Vec<StepWeights>, StepGraph), NetsError> {
    let Precision {
        activation_bits: b,
        output_bits,
    } = precision;
    let attempt = |l: u8, output_l: u8, ring: Option<RingName>| {
        let hidden = hidden_step(mlp, ranges, l)?;
        let output = tables.output_step(mlp, output_half, output_l, b)?;
        let demand = input.demand(&hidden, l, b);
        let demands = [
            LayerDemand { ring, ..demand },
            LayerDemand::of(&output, b, output_l, output_bits),
        ];
        let graph = plan_graph(&demands)?;
        Ok((vec![hidden, output], graph))
    };
    let hidden_bits = || (b..=HIDDEN_BITS).rev();
    let output_bits = || (output_bits..=output_bits + OUTPUT_GUARD_BITS).rev();
    // once only with the cheapest ring in the wide first step, then with any
    let cheap = first_plan(output_bits(), |output_l| {
        let cheap = |l| attempt(l, output_l, Some(RingName::ALL[0]));
        // 5 or 6 bits below the rounded ones: rounded weights of a hundred features together then
        // still move a pre-activation by less than the rounding does, and short rows let many
        // outputs share a ciphertext
        first_plan((b + 5..=b + 6).rev(), cheap).map_err(|_| Refused::TooFine(None))
    });
    cheap.or_else(|_| {
        first_plan(output_bits(), |output_l| {
            first_plan(hidden_bits(), |l| attempt(l, output_l, None)).map_err(|error| match error {
                NetsError::Plan(error) => Refused::TooFine(Some(error)),
                other => Refused::Final(other),
            })
        })
    })
}

fn hidden_step(mlp: &Mlp, ranges: &[Range], l: u8) -> Result<StepWeights, Refused> {
    let features = mlp.w1.first().map_or(0, Vec::len);
    let mut weights = Vec::with_capacity(features * ranges.len());
    for (row, range) in mlp.w1.iter().zip(ranges) {
        let step = 2.0 * range.half / f64::from(1u32 << l);
        weights.extend(on_grid(row, step).ok_or(Refused::TooFine(None))?);
    }
    StepWeights::new_static(features, ranges.len(), weights)
        .map_err(|error| Refused::Final(error.into()))
}

/// Activations of each neuron over the cyclic index, as integers with a scale for each neuron.
struct Tables {
    entries: Vec<i16>,
    scales: Vec<f64>,
}

impl Tables {
    fn new(mlp: &Mlp, ranges: &[Range], bits: u8) -> Self {
        let mut tables = Self {
            entries: Vec::new(),
            scales: Vec::new(),
        };
        for (range, bias) in ranges.iter().zip(&mlp.b1) {
            let activation = |t: usize| -> f64 { (range.representative(t, bits) + bias).max(0.0) };
            let largest = (0..1 << bits).map(activation).fold(0.0, f64::max);
            // a neuron that is never active has zeros, and no division by zero
            let scale = (largest / TABLE_MAX).max(f64::MIN_POSITIVE);
            let entry = |t| (activation(t) / scale).round() as i16;
            tables.entries.extend((0..1 << bits).map(entry));
            tables.scales.push(scale);
        }
        tables
    }

    /// Largest contribution of one neuron to the output.
    fn largest_product(&self, w2: &[f64]) -> f64 {
        let product = |(w, scale): (&f64, &f64)| w.abs() * scale * TABLE_MAX;
        w2.iter().zip(&self.scales).map(product).fold(0.0, f64::max)
    }

    fn output_step(&self, mlp: &Mlp, half: f64, l: u8, bits: u8) -> Result<StepWeights, Refused> {
        let step = 2.0 * half / f64::from(1u32 << l);
        let exact: Vec<f64> = mlp
            .w2
            .iter()
            .zip(&self.scales)
            .map(|(w, s)| w * s / step)
            .collect();
        // the largest shift that fits i16 keeps most of each weight
        let (shift, weights) = (0..=15u8)
            .rev()
            .find_map(|shift| {
                on_grid(&exact, f64::from(1u32 << shift).recip()).map(|grid| (shift, grid))
            })
            .ok_or(Refused::TooFine(None))?;
        StepWeights::new_lookup(mlp.b1.len(), 1, bits, shift, weights, self.entries.clone())
            .map_err(|error| Refused::Final(error.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn featuriser() -> Featuriser {
        Featuriser::EcfpCounts {
            version: 1,
            radius: 2,
            size: 128,
            max_count: 7,
        }
    }

    fn row(features: &[u16]) -> Row {
        let features = (0u32..)
            .zip(features.iter().copied())
            .filter(|(_, x)| *x > 0)
            .collect();
        Row {
            line: 1,
            smiles: String::new(),
            target: 0.0,
            features,
        }
    }

    #[test]
    fn every_index_stands_for_a_value_in_the_range() {
        for centre in [-50.0, -0.3, 0.0, 7.7] {
            let range = Range { centre, half: 3.0 };
            let mut seen: Vec<f64> = (0..64).map(|t| range.representative(t, 6)).collect();
            for (t, value) in seen.iter().enumerate() {
                assert!((value - centre).abs() <= 3.0 + 1e-9);
                let turns = (value - t as f64 * 6.0 / 64.0) / 6.0;
                assert!(
                    (turns - turns.round()).abs() < 1e-9,
                    "a whole number of turns apart"
                );
            }
            seen.sort_by(f64::total_cmp);
            assert!(
                seen.windows(2)
                    .all(|pair| (pair[1] - pair[0] - 6.0 / 64.0).abs() < 1e-9)
            );
        }
    }

    #[test]
    fn weights_that_cancel_on_every_training_molecule_still_fit() {
        // the two features always occur together and cancel: the range is a point
        let mut weights = vec![0.0; 128];
        (weights[0], weights[1]) = (1000.0, -1000.0);
        let model = FloatModel::Linear {
            weights,
            intercept: 0.0,
        };
        let rows = [row(&[1, 1]), row(&[2, 2])];
        let precision = Precision {
            activation_bits: 6,
            output_bits: 16,
        };
        let all: Vec<&Row> = rows.iter().collect();
        let quantised = quantise(&model, &featuriser(), &all, precision).unwrap();
        assert_eq!(quantised.graph.last().output_bits, 16);
    }

    proptest! {
        /// Integers and floats agree within the rounding, wherever no pre-activation wraps.
        #[test]
        fn integers_follow_the_float_model(
            w1 in proptest::collection::vec(proptest::collection::vec(-1.0..1.0f64, 128), 3),
            b1 in proptest::collection::vec(-2.0..2.0f64, 3),
            w2 in proptest::collection::vec(-3.0..3.0f64, 3),
            b2 in -100.0..100.0f64,
            counts in proptest::collection::vec(proptest::collection::vec(0u16..8, 20), 2..6),
        ) {
            let model = FloatModel::Mlp(Mlp { w1, b1, w2: w2.clone(), b2 });
            let rows: Vec<Row> = counts.iter().map(|counts| row(counts)).collect();
            let all: Vec<&Row> = rows.iter().collect();
            let precision = Precision { activation_bits: 8, output_bits: 12 };
            let quantised = quantise(&model, &featuriser(), &all, precision).unwrap();
            // half a bucket of each neuron, and a little for tables and grid
            let bound: f64 = quantised
                .ranges
                .iter()
                .zip(&w2)
                .map(|(range, w)| w.abs() * range.half / 256.0 * 1.3)
                .sum::<f64>()
                + 2.0 * quantised.output.scale;
            for (row, counts) in rows.iter().zip(&counts) {
                let mut features = counts.clone();
                features.resize(128, 0);
                let codes = chemxor_fhe::twin::evaluate(
                    quantised.graph.steps(),
                    &quantised.weights,
                    &features,
                    chemxor_fhe::twin::nearest(),
                );
                let value = quantised.output.apply(codes[0], 12);
                let expected = model.predict(row);
                prop_assert!((value - expected).abs() <= bound, "{value} {expected} {bound}");
            }
        }
    }
}
