//! From a network in floating point to the integers that run encrypted: calibrate ranges, put
//! weights on integer grids, build tables, plan.
//!
//! Each pre-activation has its own grid: one turn of the torus is the calibrated range of the
//! neuron (of the filter, in a convolution, since its windows share weights). Biases and
//! activations live in the tables, average pooling in the weights of the layer after it.

use chemxor_core::{Conv2d, Expansion, StepGraph};

use super::activation::{Activation, Range};
use super::{StepWeights, Tables, WeightsError};
use crate::plan::{LayerDemand, PlanError, plan_step};

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
    /// A range is stretched by this.
    pub margin: f64,
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

/// Grid bits below a rounded pre-activation that are tried, finest first.
const GUARD_BITS: std::ops::RangeInclusive<u8> = 3..=6;
/// Largest entry of a table.
const TABLE_MAX: f64 = 255.0;

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
                let row = |row: &[f64]| row.iter().zip(x).map(|(w, x)| w * x).sum();
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

    /// Largest and smallest pre-activations of each range over the molecules, stretched.
    fn calibrate(&self, molecules: &[Vec<u16>], margin: f64) -> Vec<Vec<Range>> {
        let mut seen: Vec<Vec<(f64, f64)>> = Vec::new();
        for molecule in molecules {
            let mut x: Vec<f64> = self
                .expansion
                .expand(molecule)
                .iter()
                .map(|x| f64::from(*x))
                .collect();
            for (index, layer) in self.layers.iter().enumerate() {
                x = layer.linear(&x);
                if seen.len() == index {
                    seen.push(vec![(f64::INFINITY, f64::NEG_INFINITY); layer.biases.len()]);
                }
                for (output, z) in x.iter().enumerate() {
                    let ends = &mut seen[index][output / layer.sharing()];
                    *ends = (ends.0.min(*z), ends.1.max(*z));
                }
                layer.activate(&mut x);
            }
        }
        let stretch = |ends: &(f64, f64)| Range::of([ends.0, ends.1], margin);
        seen.iter()
            .map(|layer| layer.iter().map(stretch).collect())
            .collect()
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
        let mut ranges = self.calibrate(molecules, precision.margin);
        // released outputs are read as signed numbers around zero
        for range in &mut ranges[last] {
            range.half += range.centre.abs();
            range.centre = 0.0;
        }
        let (mut steps, mut demands, mut integers) = (Vec::new(), Vec::new(), Vec::new());
        let mut inputs = self.expansion.expand(first).len();
        let mut tables: Option<ScaledTables> = None;
        for (index, layer) in self.layers.iter().enumerate() {
            let bits = precision.activation_bits.get(index).copied();
            let bits = bits.unwrap_or(precision.output_bits);
            let (demand, spec, weights) =
                self.step(index, inputs, &ranges[index], bits, tables.as_ref())?;
            steps.push(spec);
            demands.push(demand);
            integers.push(weights);
            tables = Some(tables_after(layer, &ranges[index], bits));
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
        for guard in GUARD_BITS.rev() {
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
            let mut demand = LayerDemand::of(&weights, input_bits, l, bits);
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

/// Average pooling of `pool × pool` (stride `pool`) before a layer, folded into its weights: a dense
/// layer on `channels × height × width` pixels before pooling, or a convolution with a larger
/// kernel and stride. Rows and columns that fill no pool are left out, as PyTorch does.
pub fn fold_average_pool(
    map: &FloatMap,
    channels: u32,
    height: u32,
    width: u32,
    pool: u32,
) -> FloatMap {
    let share = 1.0 / f64::from(pool * pool);
    let [c, h, w, p] = [channels, height, width, pool].map(|n| n as usize);
    let (ph, pw) = (h / p, w / p);
    match map {
        FloatMap::Dense(weights) => {
            let row = |row: &[f64]| -> Vec<f64> {
                let pixel = |i: usize| {
                    let (channel, y, x) = (i / (h * w), i / w % h, i % w);
                    let inside = y / p < ph && x / p < pw;
                    if inside {
                        row[(channel * ph + y / p) * pw + x / p] * share
                    } else {
                        0.0
                    }
                };
                (0..c * h * w).map(pixel).collect()
            };
            FloatMap::Dense(weights.chunks_exact(c * ph * pw).flat_map(row).collect())
        }
        FloatMap::Conv2d(conv, weights) => {
            let kernel = (conv.kernel * pool) as usize;
            let folded = Conv2d {
                height,
                width,
                kernel: conv.kernel * pool,
                stride: conv.stride * pool,
                padding: conv.padding * pool,
                ..*conv
            };
            let old = conv.kernel as usize;
            let plane = |plane: &[f64]| -> Vec<f64> {
                let tap = |i: usize| plane[i / kernel / p * old + i % kernel / p] * share;
                (0..kernel * kernel).map(tap).collect()
            };
            FloatMap::Conv2d(
                folded,
                weights.chunks_exact(old * old).flat_map(plane).collect(),
            )
        }
    }
}

#[cfg(test)]
mod tests;
