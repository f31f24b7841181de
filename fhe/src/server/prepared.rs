//! A step ready for evaluation, or some of its output ciphertexts when several workers share it.
//!
//! Static weights live in the Fourier domain, or as single shifts when they are few. Lookup
//! weights stay integers, cut into tiles, because their tables are rotated afresh for each query
//! and written straight into the input buffer of the FFT.

use std::collections::BTreeMap;
use std::ops::Range;

use chemxor_core::{StepKind, StepSpec};
use num_complex::Complex64;
use zeroize::Zeroize;

use crate::fft::Negacyclic;
use crate::layout::Layout;
use crate::network::StepWeights;
use crate::server::{Blinds, StepError};
use crate::torus::fourier_zero;
use crate::wire::StepShape;

/// A step's shape and weights.
pub struct PreparedStep {
    pub(super) shape: StepShape,
    /// Output ciphertexts that this worker computes.
    pub(super) groups: Range<usize>,
    pub(super) form: Prepared,
    weights: Option<StepWeights>,
    biases: Vec<i32>,
}

/// Weights of each group in `groups`, in the form in which they are multiplied.
pub(super) enum Prepared {
    /// Input block and weight polynomial.
    Fourier(Vec<Vec<(usize, Vec<Complex64>)>>),
    /// Single coefficients of weight polynomials.
    Shifts(Vec<Vec<Shift>>),
    /// Integers that meet rotated tables.
    Tiles(Tiles),
}

/// One coefficient of a weight polynomial: `weight X^at` times input `block`.
#[derive(Clone, Copy)]
pub(super) struct Shift {
    pub(super) block: u32,
    pub(super) at: u32,
    pub(super) weight: i16,
}

/// Lookup weights: for each group its input blocks, for each of these `slots × neurons` weights.
pub(super) struct Tiles {
    /// Blocks of group i of the range: `blocks[starts[i]..starts[i + 1]]`.
    starts: Vec<usize>,
    blocks: Vec<u32>,
    weights: Vec<i16>,
    slots: usize,
    neurons: usize,
    shift: u8,
}

impl std::fmt::Debug for PreparedStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let spec = &self.shape.spec;
        write!(
            f,
            "PreparedStep({} -> {}, [redacted])",
            spec.inputs, spec.outputs
        )
    }
}

impl Drop for PreparedStep {
    fn drop(&mut self) {
        match &mut self.form {
            Prepared::Fourier(groups) => {
                for (_, polynomial) in groups.iter_mut().flatten() {
                    polynomial.fill(Complex64::default());
                }
            }
            Prepared::Shifts(groups) => {
                for group in groups {
                    group.fill(Shift {
                        block: 0,
                        at: 0,
                        weight: 0,
                    });
                }
            }
            Prepared::Tiles(tiles) => tiles.weights.zeroize(),
        }
        self.biases.zeroize();
        // the compiler may not drop the writes above
        std::hint::black_box(&self.form);
    }
}

/// Rotated tables of one query, in the order in which weight polynomials hold them.
pub(super) struct RotatedTables {
    /// For each input block, n_in entries, the last input first.
    entries: Vec<i32>,
}

/// A row with at most this many coefficients in a block is cheaper as shifts than as a product.
const SHIFTS_PER_PRODUCT: usize = 4;

/// Coefficients of a group's weight polynomials: `block -> coefficient -> weight`.
type Sketch = BTreeMap<usize, BTreeMap<usize, i16>>;

fn sketch(layout: &Layout, weights: &StepWeights, group: usize) -> Sketch {
    let mut sketch = Sketch::new();
    for (output, at) in layout.group(group) {
        weights.visit_row(output, |input, weight| {
            if let Some((block, from)) = layout.input_place(input) {
                sketch.entry(block).or_default().insert(at - from, weight);
            }
        });
    }
    sketch
}

impl PreparedStep {
    /// Prepares a whole step; `is_last` says whether its outputs are opened.
    pub fn new(spec: &StepSpec, is_last: bool, weights: StepWeights) -> Result<Self, StepError> {
        let shape = StepShape::new(spec, is_last)?;
        let groups = 0..shape.layout.output_count();
        Self::for_groups(spec, is_last, weights, groups)
    }

    /// Prepares the output ciphertexts `groups` of a step that several workers share. Their parts
    /// of the reply and of the blinds are joined ([`chemxor_core::join_replies`], [`Blinds::join`]).
    pub fn for_groups(
        spec: &StepSpec,
        is_last: bool,
        weights: StepWeights,
        groups: Range<usize>,
    ) -> Result<Self, StepError> {
        weights.matches(spec)?;
        let shape = StepShape::new(spec, is_last)?;
        if groups.is_empty() || groups.end > shape.layout.output_count() {
            return Err(StepError::Groups);
        }
        let form = match spec.kind {
            StepKind::Static => prepare_static(&shape.layout, &weights, groups.clone()),
            StepKind::Lookup => {
                Prepared::Tiles(Tiles::new(&shape.layout, &weights, groups.clone()))
            }
        };
        let biases = (0..weights.outputs())
            .map(|output| weights.bias(output))
            .collect();
        Ok(Self {
            shape,
            groups,
            form,
            biases,
            weights: (spec.kind == StepKind::Lookup).then(|| weights.tables_only()),
        })
    }

    /// The step's shape.
    pub fn shape(&self) -> &StepShape {
        &self.shape
    }

    /// Output ciphertexts that this worker computes.
    pub fn groups(&self) -> Range<usize> {
        self.groups.clone()
    }

    /// Constant added to an output.
    pub(super) fn bias(&self, output: usize) -> i32 {
        self.biases[output]
    }

    /// Memory that the prepared weights take, in bytes.
    pub fn bytes(&self) -> usize {
        let polynomial = self.shape.layout.size() * 8;
        let form = match &self.form {
            Prepared::Fourier(groups) => groups.iter().map(Vec::len).sum::<usize>() * polynomial,
            Prepared::Shifts(groups) => {
                groups.iter().map(Vec::len).sum::<usize>() * size_of::<Shift>()
            }
            Prepared::Tiles(tiles) => 2 * tiles.weights.len() + 4 * tiles.blocks.len(),
        };
        let tables = match self.weights {
            Some(_) => 2 * self.shape.spec.coefficients(),
            None => 0,
        };
        form + tables + 4 * self.biases.len()
    }

    /// Table entries rotated by the blinds of the step before:
    /// position k of neuron i holds `f_i[(k - r_i) mod 2^b]`. None for a static step.
    pub(super) fn rotate_tables(&self, blinds: &Blinds) -> Option<RotatedTables> {
        let weights = self.weights.as_ref()?;
        let layout = &self.shape.layout;
        let (size, per_input) = (layout.hot(), layout.per_input());
        let mut entries = vec![0i32; layout.input_count() * per_input];
        for (neuron, blind) in blinds.values().iter().enumerate() {
            let table = weights.table(neuron);
            let Some((block, at)) = layout.input_place(neuron) else {
                continue;
            };
            // inputs stand in reverse order inside their block
            let end = (block + 1) * per_input - at;
            let slot = entries[end - size..end].iter_mut().rev();
            let (before, after) = table.split_at(size - usize::from(*blind) % size);
            for (entry, value) in slot.zip(after.iter().chain(before)) {
                *entry = (*value).into();
            }
        }
        Some(RotatedTables { entries })
    }
}

fn prepare_static(layout: &Layout, weights: &StepWeights, groups: Range<usize>) -> Prepared {
    let sketches: Vec<Sketch> = groups.map(|group| sketch(layout, weights, group)).collect();
    let products: usize = sketches.iter().map(Sketch::len).sum();
    let coefficients: usize = sketches
        .iter()
        .flatten()
        .map(|(_, block)| block.len())
        .sum();
    if coefficients <= SHIFTS_PER_PRODUCT * products {
        let shifts = |sketch: Sketch| {
            let block = |(block, coefficients): (usize, BTreeMap<usize, i16>)| {
                coefficients.into_iter().map(move |(at, weight)| Shift {
                    // both below 2^17 in any graph
                    block: block as u32,
                    at: at as u32,
                    weight,
                })
            };
            sketch.into_iter().flat_map(block).collect()
        };
        return Prepared::Shifts(sketches.into_iter().map(shifts).collect());
    }
    let fft = Negacyclic::of(layout.size());
    let mut buffer = vec![0.0; layout.size()];
    let mut transform = |(block, coefficients): (usize, BTreeMap<usize, i16>)| {
        buffer.fill(0.0);
        for (at, weight) in coefficients {
            buffer[at] = weight.into();
        }
        let mut out = fourier_zero(layout.size());
        fft.forward_slice(&mut out, &buffer);
        (block, out)
    };
    let groups = sketches
        .into_iter()
        .map(|sketch| sketch.into_iter().map(&mut transform).collect())
        .collect();
    Prepared::Fourier(groups)
}

impl Tiles {
    fn new(layout: &Layout, weights: &StepWeights, groups: Range<usize>) -> Self {
        let (slots, neurons) = (layout.per_output(), layout.per_input() / layout.hot());
        let mut tiles = Self {
            starts: vec![0],
            blocks: Vec::new(),
            weights: Vec::new(),
            slots,
            neurons,
            shift: weights.shift(),
        };
        let mut place = vec![usize::MAX; layout.input_count()];
        for group in groups {
            let first = tiles.blocks.len();
            // blocks in the order of first use; then the weights
            for (output, _) in layout.group(group) {
                weights.visit_row(output, |input, _| {
                    if let Some((block, _)) = layout.input_place(input)
                        && place[block] == usize::MAX
                    {
                        place[block] = tiles.blocks.len();
                        tiles.blocks.push(block as u32);
                    }
                });
            }
            tiles
                .weights
                .resize(tiles.blocks.len() * slots * neurons, 0);
            for (slot, (output, _)) in layout.group(group).enumerate() {
                weights.visit_row(output, |input, weight| {
                    if let Some((block, at)) = layout.input_place(input) {
                        let tile = place[block] * slots * neurons;
                        tiles.weights[tile + slot * neurons + at / layout.hot()] = weight;
                    }
                });
            }
            for block in &tiles.blocks[first..] {
                place[*block as usize] = usize::MAX;
            }
            tiles.starts.push(tiles.blocks.len());
        }
        tiles
    }

    /// Input blocks of the i-th group of the range, each with the number of its tile.
    pub(super) fn blocks(&self, index: usize) -> impl Iterator<Item = (usize, usize)> + '_ {
        let tiles = self.starts[index]..self.starts[index + 1];
        tiles.map(|tile| (tile, self.blocks[tile] as usize))
    }

    /// The weight polynomial of a tile into `buffer` (N doubles), then its transform into `out`.
    pub(super) fn polynomial(
        &self,
        layout: &Layout,
        (tile, block): (usize, usize),
        tables: &RotatedTables,
        buffer: &mut [f64],
        out: &mut [Complex64],
    ) {
        let length = self.slots * self.neurons;
        let weights = &self.weights[tile * length..][..length];
        let entries = &tables.entries[block * layout.per_input()..][..layout.per_input()];
        match layout.hot() {
            8 => fill::<8>(buffer, weights, entries, self.shift),
            16 => fill::<16>(buffer, weights, entries, self.shift),
            32 => fill::<32>(buffer, weights, entries, self.shift),
            64 => fill::<64>(buffer, weights, entries, self.shift),
            128 => fill::<128>(buffer, weights, entries, self.shift),
            _ => fill::<256>(buffer, weights, entries, self.shift),
        }
        Negacyclic::of(layout.size()).forward_slice(out, buffer);
    }
}

/// `buffer[slot][q][k] = round_shift(weights[slot][q] * entries[q][k])`, neurons in reverse order.
fn fill<const D: usize>(buffer: &mut [f64], weights: &[i16], entries: &[i32], shift: u8) {
    let round = if shift == 0 { 0 } else { 1i32 << (shift - 1) };
    let shift = u32::from(shift);
    let neurons = entries.len() / D;
    pulp::Arch::new().dispatch(
        #[inline(always)]
        || {
            let slots = buffer.chunks_exact_mut(entries.len());
            for (slot, weights) in slots.zip(weights.chunks_exact(neurons)) {
                let places = slot.as_chunks_mut::<D>().0.iter_mut();
                let tables = entries.as_chunks::<D>().0.iter();
                for ((place, table), weight) in places.zip(tables).zip(weights.iter().rev()) {
                    let weight = i32::from(*weight);
                    for (value, entry) in place.iter_mut().zip(table) {
                        *value = f64::from((weight * entry + round) >> shift);
                    }
                }
            }
        },
    );
}
