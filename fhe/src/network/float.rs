//! From a network in floating point to the integers that run encrypted: calibrate ranges, put
//! weights on integer grids, build tables, plan.
//!
//! Each pre-activation has its own grid: one turn of the torus is the calibrated range of the
//! neuron (of the filter, in a convolution, since its windows share weights). Biases and
//! activations live in the tables, average pooling in the weights of the layer after it.

mod pooling;

use chemxor_core::{Conv2d, Expansion, RingName, StepGraph};
use rayon::prelude::*;

use super::activation::{Activation, Range};
use super::{StepWeights, Tables, WeightsError};
use crate::plan::{LayerDemand, PlanError, plan_step};
pub use pooling::fold_average_pool;

/// The linear map of a layer.
#[derive(Debug, Clone, PartialEq)]
pub enum FloatMap {
    /// `[outputs][inputs]`.
    Dense(Vec<f64>),
    /// `[filters][channels][kernel][kernel]`.
    Conv2d(Conv2d, Vec<f64>),
}

/// A linear map, a bias for each output (each filter of a convolution) and an activation.
#[derive(Debug, Clone, PartialEq)]
pub struct FloatLayer {
    /// Weights.
    pub map: FloatMap,
    /// Biases.
    pub biases: Vec<f64>,
    /// Applied to every output; the identity in the last layer.
    pub activation: Activation,
}

/// A network; `expansion` is what the client does to its features, `input_bits` those of an
/// expanded feature.
#[derive(Debug, Clone, PartialEq)]
pub struct FloatNet {
    /// Public.
    pub expansion: Expansion,
    /// Of an expanded feature.
    pub input_bits: u8,
    /// In order.
    pub layers: Vec<FloatLayer>,
}

/// Precisions and margins.
#[derive(Debug, Clone, PartialEq)]
pub struct Precision {
    /// b of each layer but the last, 3 to 8.
    pub activation_bits: Vec<u8>,
    /// B, 8 to 16.
    pub output_bits: u8,
    /// A range is stretched by this: new molecules reach further than old ones, and what leaves the
    /// range wraps around.
    pub margin: f64,
    /// The same for the released outputs, where a value that wraps is wrong by the whole range.
    pub output_margin: f64,
}

impl Precision {
    /// The same number of bits for every hidden layer, with margins that serve trained networks.
    pub fn uniform(bits: u8, hidden_layers: usize, output_bits: u8) -> Self {
        Self {
            activation_bits: vec![bits; hidden_layers],
            output_bits,
            margin: 1.5,
            output_margin: 2.0,
        }
    }
}

/// Integers and plan.
#[derive(Debug, Clone)]
pub struct IntegerNet {
    /// The plan.
    pub graph: StepGraph,
    /// One for each step.
    pub weights: Vec<StepWeights>,
    /// What the planner was asked.
    pub demands: Vec<LayerDemand>,
    /// Of each output, `value = scale * signed code + offset`.
    pub outputs: Vec<(f64, f64)>,
    /// For each layer and row (or filter) the pre-activations, without bias, that do not wrap.
    pub ranges: Vec<Vec<Range>>,
}

/// Why a network was not quantised.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum QuantiseError {
    /// Numbers of weights, biases or precisions that do not fit together.
    #[error("layer {layer}: {what} does not have the layer's shape")]
    Shape {
        /// Which layer.
        layer: usize,
        /// What.
        what: &'static str,
    },
    /// No molecule to calibrate on.
    #[error("ranges need at least one molecule to be calibrated on")]
    NoCalibration,
    /// Integers.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// Noise.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

/// Most grid bits below a rounded pre-activation.
const MOST_GUARD: u8 = 6;
/// Fewest of them that the cheapest ring is chosen for: rounded weights of a hundred features
/// together then still move a pre-activation by less than the rounding does.
const LEAST_CHEAP_GUARD: u8 = 4;
/// Largest entry of a table; products with weights of 16 bits fit 32.
const TABLE_MAX: f64 = 4095.0;
/// A range is at least this many times the largest single contribution to each side: a new molecule
/// may have one more of that feature. It also makes every weight fit 16 bits.
const LEAST_HALF: f64 = 1.01;

impl FloatLayer {
    fn outputs(&self, inputs: usize) -> usize {
        match &self.map {
            FloatMap::Dense(weights) => weights.len() / inputs.max(1),
            FloatMap::Conv2d(conv, _) => conv.outputs() as usize,
        }
    }

    /// Outputs that share a range and a bias: one, or the windows of a filter.
    fn sharing(&self) -> usize {
        match &self.map {
            FloatMap::Dense(_) => 1,
            FloatMap::Conv2d(conv, _) => (conv.out_height() * conv.out_width()) as usize,
        }
    }

    fn check(&self, layer: usize, inputs: usize) -> Result<(), QuantiseError> {
        let shape = |what| QuantiseError::Shape { layer, what };
        let fits = match &self.map {
            FloatMap::Dense(weights) => {
                inputs > 0 && !weights.is_empty() && weights.len() % inputs == 0
            }
            FloatMap::Conv2d(conv, weights) => {
                conv.is_sound()
                    && conv.inputs() == inputs as u64
                    && weights.len() == conv.taps() * conv.filters as usize
            }
        };
        if !fits {
            return Err(shape("the weight matrix"));
        }
        if self.biases.len() * self.sharing() != self.outputs(inputs) {
            return Err(shape("the bias vector"));
        }
        Ok(())
    }

    /// Pre-activations without biases.
    fn linear(&self, x: &[f64]) -> Vec<f64> {
        match &self.map {
            FloatMap::Dense(weights) => {
                // most features of a molecule are 0
                let (at, values): (Vec<usize>, Vec<f64>) = x
                    .iter()
                    .copied()
                    .enumerate()
                    .filter(|(_, x)| *x != 0.0)
                    .unzip();
                let row = |row: &[f64]| at.iter().zip(&values).map(|(i, x)| row[*i] * x).sum();
                weights.chunks_exact(x.len()).map(row).collect()
            }
            FloatMap::Conv2d(conv, weights) => (0..conv.outputs() as usize)
                .map(|output| {
                    let filter = &weights[conv.output_position(output).0 * conv.taps()..];
                    conv.taps_of(output)
                        .map(|(input, tap)| filter[tap] * x[input])
                        .sum()
                })
                .collect(),
        }
    }

    fn activate(&self, z: &mut [f64]) {
        let sharing = self.sharing();
        for (output, z) in z.iter_mut().enumerate() {
            *z = self.activation.at(*z + self.biases[output / sharing]);
        }
    }

    /// Largest contribution of one input to each row or filter, `reach` being the largest value of
    /// each input.
    fn largest_terms(&self, inputs: usize, reach: &[f64]) -> Vec<f64> {
        let (weights, per_row) = match &self.map {
            FloatMap::Dense(weights) => (weights, inputs),
            FloatMap::Conv2d(conv, weights) => (weights, conv.taps()),
        };
        let reach_of = |at: usize| match &self.map {
            FloatMap::Dense(_) => reach[at],
            FloatMap::Conv2d(conv, _) => {
                reach[at / (conv.kernel * conv.kernel) as usize
                    * (conv.height * conv.width) as usize]
            }
        };
        let largest = |row: &[f64]| {
            row.iter()
                .enumerate()
                .map(|(at, weight)| weight.abs() * reach_of(at))
                .fold(0.0, f64::max)
        };
        weights.chunks_exact(per_row).map(largest).collect()
    }

    /// The map with row or filter `r` times `rows[r]` and input `i` times `columns[i]`, rounded;
    /// none when a weight does not fit 16 bits.
    fn grid(&self, inputs: usize, rows: &[f64], columns: &[f64]) -> Option<Vec<i16>> {
        let (weights, per_row) = match &self.map {
            FloatMap::Dense(weights) => (weights, inputs),
            FloatMap::Conv2d(conv, weights) => (weights, conv.taps()),
        };
        let column = |at: usize| match &self.map {
            FloatMap::Dense(_) => columns[at],
            // channels have one scale each
            FloatMap::Conv2d(conv, _) => {
                let plane = (conv.height * conv.width) as usize;
                columns[at / (conv.kernel * conv.kernel) as usize * plane]
            }
        };
        let entry = |(at, weight): (usize, &f64)| {
            let value = (weight * rows[at / per_row] * column(at % per_row)).round();
            (value.abs() <= f64::from(i16::MAX)).then_some(value as i16)
        };
        weights.iter().enumerate().map(entry).collect()
    }

    fn weights(
        &self,
        inputs: usize,
        grid: Vec<i16>,
        tables: Option<Tables>,
    ) -> Result<StepWeights, WeightsError> {
        match (&self.map, tables) {
            (FloatMap::Conv2d(conv, _), tables) => StepWeights::new_conv2d(*conv, grid, tables),
            (FloatMap::Dense(_), None) => {
                StepWeights::new_static(inputs, grid.len() / inputs, grid)
            }
            (FloatMap::Dense(_), Some(mut tables)) => {
                let entries = std::mem::take(&mut tables.entries);
                let outputs = grid.len() / inputs;
                StepWeights::new_lookup(inputs, outputs, tables.bits, tables.shift, grid, entries)
            }
        }
    }
}

/// Tables of the neurons before a layer, with the real value of a table's unit for each neuron.
struct ScaledTables {
    bits: u8,
    entries: Vec<i16>,
    units: Vec<f64>,
}

impl FloatNet {
    /// Outputs for a molecule, in floating point.
    pub fn evaluate(&self, features: &[u16]) -> Vec<f64> {
        let mut x: Vec<f64> = self
            .expansion
            .expand(features)
            .iter()
            .map(|x| f64::from(*x))
            .collect();
        for layer in &self.layers {
            x = layer.linear(&x);
            layer.activate(&mut x);
        }
        x
    }

    /// Pre-activations without biases of every layer.
    pub fn pre_activations(&self, features: &[u16]) -> Vec<Vec<f64>> {
        let mut x: Vec<f64> = self
            .expansion
            .expand(features)
            .iter()
            .map(|x| f64::from(*x))
            .collect();
        self.layers
            .iter()
            .map(|layer| {
                let z = layer.linear(&x);
                x.clone_from(&z);
                layer.activate(&mut x);
                z
            })
            .collect()
    }

    /// Smallest and largest pre-activations of each range over the molecules.
    fn extremes(&self, molecules: &[Vec<u16>]) -> Vec<Vec<(f64, f64)>> {
        let nothing = || -> Vec<Vec<(f64, f64)>> {
            let ends = (f64::INFINITY, f64::NEG_INFINITY);
            let rows = |layer: &FloatLayer| vec![ends; layer.biases.len()];
            self.layers.iter().map(rows).collect()
        };
        let add = |mut seen: Vec<Vec<(f64, f64)>>, molecule: &Vec<u16>| {
            for ((ends, z), layer) in seen
                .iter_mut()
                .zip(self.pre_activations(molecule))
                .zip(&self.layers)
            {
                for (row, z) in z.chunks(layer.sharing()).enumerate() {
                    for z in z {
                        ends[row] = (ends[row].0.min(*z), ends[row].1.max(*z));
                    }
                }
            }
            seen
        };
        let join = |mut all: Vec<Vec<(f64, f64)>>, other: Vec<Vec<(f64, f64)>>| {
            for (all, other) in all.iter_mut().flatten().zip(other.iter().flatten()) {
                *all = (all.0.min(other.0), all.1.max(other.1));
            }
            all
        };
        molecules
            .par_iter()
            .fold(nothing, add)
            .reduce(nothing, join)
    }

    /// Quantises and plans, with ranges calibrated on these molecules.
    pub fn quantise(
        &self,
        molecules: &[Vec<u16>],
        precision: &Precision,
    ) -> Result<IntegerNet, QuantiseError> {
        let last = self
            .layers
            .len()
            .checked_sub(1)
            .ok_or(QuantiseError::Shape {
                layer: 0,
                what: "the network",
            })?;
        if precision.activation_bits.len() != last {
            return Err(QuantiseError::Shape {
                layer: last,
                what: "the list of precisions",
            });
        }
        let first = molecules.first().ok_or(QuantiseError::NoCalibration)?;
        let mut inputs = self.expansion.expand(first).len();
        for (index, layer) in self.layers.iter().enumerate() {
            layer.check(index, inputs)?;
            inputs = layer.outputs(inputs);
        }
        let extremes = self.extremes(molecules);
        let (mut steps, mut demands, mut integers) = (Vec::new(), Vec::new(), Vec::new());
        let mut ranges = Vec::new();
        let mut inputs = self.expansion.expand(first).len();
        let mut tables: Option<ScaledTables> = None;
        for (index, layer) in self.layers.iter().enumerate() {
            let bits = precision.activation_bits.get(index).copied();
            let bits = bits.unwrap_or(precision.output_bits);
            let reach = tables.as_ref().map_or_else(
                || vec![1.0; inputs],
                |tables| tables.units.iter().map(|unit| unit * TABLE_MAX).collect(),
            );
            let largest = layer.largest_terms(inputs, &reach);
            let of_row = |((low, high), least): (&(f64, f64), f64)| {
                let mut range = if index == last {
                    // released outputs are read as signed numbers around zero
                    let far = low.abs().max(high.abs());
                    Range::of([-far, far], precision.output_margin)
                } else {
                    Range::of([*low, *high], precision.margin)
                };
                range.half = range.half.max(least * LEAST_HALF);
                range
            };
            let ranges_of_layer: Vec<Range> =
                extremes[index].iter().zip(largest).map(of_row).collect();
            let (demand, spec, weights) =
                self.step(index, inputs, &ranges_of_layer, bits, tables.as_ref())?;
            steps.push(spec);
            demands.push(demand);
            integers.push(weights);
            tables = Some(tables_after(layer, &ranges_of_layer, bits));
            ranges.push(ranges_of_layer);
            inputs = layer.outputs(inputs);
        }
        let codes = f64::from(1u32 << precision.output_bits);
        let last_layer = &self.layers[last];
        let outputs = (0..inputs)
            .map(|output| output / last_layer.sharing())
            .map(|row| (2.0 * ranges[last][row].half / codes, last_layer.biases[row]))
            .collect();
        Ok(IntegerNet {
            graph: StepGraph::new(steps).map_err(PlanError::from)?,
            weights: integers,
            demands,
            outputs,
            ranges,
        })
    }

    /// The finest grid of one layer that the planner accepts.
    fn step(
        &self,
        index: usize,
        inputs: usize,
        ranges: &[Range],
        bits: u8,
        tables: Option<&ScaledTables>,
    ) -> Result<(LayerDemand, chemxor_core::StepSpec, StepWeights), QuantiseError> {
        let layer = &self.layers[index];
        let mut refusal = QuantiseError::Weights(WeightsError::Range("weights on their grid"));
        // the released sum is small, and its precision is what users see
        let cheap = (index + 1 < self.layers.len()).then_some(RingName::ALL[0]);
        let cheap = (LEAST_CHEAP_GUARD..=MOST_GUARD)
            .rev()
            .filter_map(|guard| cheap.map(|ring| (guard, Some(ring))));
        for (guard, ring) in cheap.chain((0..=MOST_GUARD).rev().map(|guard| (guard, None))) {
            let l = bits + guard;
            let turns = f64::from(1u32 << l);
            let rows: Vec<f64> = ranges
                .iter()
                .map(|range| turns / (2.0 * range.half))
                .collect();
            let found = match tables {
                None => layer
                    .grid(inputs, &rows, &vec![1.0; inputs])
                    .map(|grid| (grid, None)),
                Some(scaled) => (0..=15u8).rev().find_map(|shift| {
                    let factor = f64::from(1u32 << shift);
                    let columns: Vec<f64> = scaled.units.iter().map(|unit| unit * factor).collect();
                    let grid = layer.grid(inputs, &rows, &columns)?;
                    let tables = Tables {
                        bits: scaled.bits,
                        shift,
                        entries: scaled.entries.clone(),
                    };
                    Some((grid, Some(tables)))
                }),
            };
            let Some((grid, tables_of_step)) = found else {
                continue;
            };
            let weights = layer.weights(inputs, grid, tables_of_step)?;
            let input_bits = tables.map_or(self.input_bits, |tables| tables.bits);
            let mut demand = LayerDemand {
                ring,
                ..LayerDemand::of(&weights, input_bits, l, bits)
            };
            if index == 0 {
                demand = demand.expanding(self.expansion.clone());
            }
            match plan_step(index, &demand) {
                Ok(spec) => return Ok((demand, spec, weights)),
                Err(error) => refusal = error.into(),
            }
        }
        Err(refusal)
    }
}

/// What a layer's rounded pre-activations stand for, as tables of the next layer. The windows of a
/// filter share a unit, because the next convolution shares its weights over them.
fn tables_after(layer: &FloatLayer, ranges: &[Range], bits: u8) -> ScaledTables {
    let mut tables = ScaledTables {
        bits,
        entries: Vec::new(),
        units: Vec::new(),
    };
    for (range, bias) in ranges.iter().zip(&layer.biases) {
        let values: Vec<f64> = (0..1usize << bits)
            .map(|t| layer.activation.at(range.representative(t, bits) + bias))
            .collect();
        let largest = values
            .iter()
            .fold(0.0f64, |largest, value| largest.max(value.abs()));
        // a neuron that is never active has zeros, and no division by zero
        let unit = (largest / TABLE_MAX).max(f64::MIN_POSITIVE);
        let entries: Vec<i16> = values
            .iter()
            .map(|value| (value / unit).round() as i16)
            .collect();
        for _ in 0..layer.sharing() {
            tables.entries.extend(&entries);
            tables.units.push(unit);
        }
    }
    tables
}

#[cfg(test)]
mod tests;
