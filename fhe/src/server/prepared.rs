//! A step ready for evaluation, or some of its output ciphertexts when several workers share it.
//!
//! Static weights live in the Fourier domain, or as single shifts when they are few. Lookup
//! weights stay integers, cut into tiles, because their tables are rotated afresh for each query
//! and written straight into the input buffer of the FFT.
//!
//! Invariant: memory that held weights, tables or what follows from them is zero when it is freed;
//! so such memory is allocated once at its final size, because growing leaves copies behind.

use std::ops::Range;

use chemxor_core::{StepKind, StepSpec};
use num_complex::Complex64;
use zeroize::{Zeroize, Zeroizing};

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
        self.wipe();
    }
}

impl PreparedStep {
    /// Overwrites everything that follows from the weights.
    fn wipe(&mut self) {
        match &mut self.form {
            Prepared::Fourier(groups) => {
                for (block, polynomial) in groups.iter_mut().flatten() {
                    *block = 0;
                    polynomial.fill(Complex64::default());
                }
            }
            Prepared::Shifts(groups) => groups.iter_mut().for_each(|group| wipe_shifts(group)),
            Prepared::Tiles(tiles) => {
                tiles.weights.as_mut_slice().zeroize();
                tiles.blocks.as_mut_slice().zeroize();
            }
        }
        self.biases.as_mut_slice().zeroize();
        self.weights.zeroize();
        // the compiler may not drop the writes above
        std::hint::black_box(&self.form);
    }
}

fn wipe_shifts(shifts: &mut [Shift]) {
    shifts.fill(Shift {
        block: 0,
        at: 0,
        weight: 0,
    });
    std::hint::black_box(shifts);
}

/// Rotated tables of one query, in the order in which weight polynomials hold them.
pub(super) struct RotatedTables {
    /// For each input block, n_in entries, the last input first.
    entries: Vec<i32>,
}

impl Drop for RotatedTables {
    fn drop(&mut self) {
        self.entries.zeroize();
    }
}

/// A row with at most this many coefficients in a block is cheaper as shifts than as a product.
const SHIFTS_PER_PRODUCT: usize = 4;

/// Coefficients of a group's weight polynomials, by block and place.
struct Sketch(Vec<Shift>);

impl Drop for Sketch {
    fn drop(&mut self) {
        wipe_shifts(&mut self.0);
    }
}

impl Sketch {
    fn new(layout: &Layout, weights: &StepWeights, group: usize) -> Self {
        let mut count = 0;
        for (output, _) in layout.group(group) {
            weights.visit_row(output, |_, _| count += 1);
        }
        let mut shifts = Vec::with_capacity(count);
        for (output, at) in layout.group(group) {
            weights.visit_row(output, |input, weight| {
                if let Some((block, from)) = layout.input_place(input) {
                    shifts.push(Shift {
                        // both below 2^17 in any graph
                        block: block as u32,
                        at: (at - from) as u32,
                        weight,
                    });
                }
            });
        }
        // in place, unlike a stable sort
        shifts.sort_unstable_by_key(|shift| (shift.block, shift.at));
        // windows of an image share the coefficients of their filter
        let places = shifts.chunk_by(|a, b| (a.block, a.at) == (b.block, b.at));
        let mut exact = Vec::with_capacity(places.clone().count());
        exact.extend(places.map(|same| same[0]));
        wipe_shifts(&mut shifts);
        Self(exact)
    }

    /// The coefficients of each block.
    fn blocks(&self) -> impl Iterator<Item = &[Shift]> {
        self.0.chunk_by(|a, b| a.block == b.block)
    }
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
    let mut sketches: Vec<Sketch> = groups
        .map(|group| Sketch::new(layout, weights, group))
        .collect();
    let products: usize = sketches.iter().map(|sketch| sketch.blocks().count()).sum();
    let coefficients: usize = sketches.iter().map(|sketch| sketch.0.len()).sum();
    if coefficients <= SHIFTS_PER_PRODUCT * products {
        let shifts = |sketch: &mut Sketch| std::mem::take(&mut sketch.0);
        return Prepared::Shifts(sketches.iter_mut().map(shifts).collect());
    }
    let fft = Negacyclic::of(layout.size());
    let mut buffer = Zeroizing::new(vec![0.0; layout.size()]);
    let mut transform = |shifts: &[Shift]| {
        buffer.fill(0.0);
        for shift in shifts {
            buffer[shift.at as usize] = shift.weight.into();
        }
        let mut out = fourier_zero(layout.size());
        fft.forward_slice(&mut out, &buffer);
        (shifts[0].block as usize, out)
    };
    let groups = sketches
        .iter()
        .map(|sketch| sketch.blocks().map(&mut transform).collect())
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
        // blocks in the order of first use; then the weights, whose number is known by then
        for group in groups.clone() {
            let first = tiles.blocks.len();
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
            for block in &tiles.blocks[first..] {
                place[*block as usize] = usize::MAX;
            }
            tiles.starts.push(tiles.blocks.len());
        }
        tiles.weights = vec![0; tiles.blocks.len() * slots * neurons];
        for (index, group) in groups.enumerate() {
            for (tile, block) in tiles.blocks(index) {
                place[block] = tile;
            }
            for (slot, (output, _)) in layout.group(group).enumerate() {
                weights.visit_row(output, |input, weight| {
                    if let Some((block, at)) = layout.input_place(input) {
                        let tile = place[block] * slots * neurons;
                        tiles.weights[tile + slot * neurons + at / layout.hot()] = weight;
                    }
                });
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Tables;
    use crate::plan::{LayerDemand, plan_graph};

    fn value(index: usize) -> i16 {
        (index % 37) as i16 + 1
    }

    fn prepared(static_step: StepWeights) -> [PreparedStep; 2] {
        let tables = Tables {
            bits: 4,
            shift: 2,
            entries: (0..24 << 4).map(value).collect(),
        };
        let rows = (0..3).map(|row| (0..24).map(|input| (input, value(row + 1))).collect());
        let lookup = StepWeights::new_sparse(24, rows.collect(), Some(tables)).unwrap();
        let layers = [
            LayerDemand::of(&static_step, 3, 13, 4),
            LayerDemand::of(&lookup, 4, 13, 8),
        ];
        let graph = plan_graph(&layers).unwrap();
        let prepare = |step: usize, weights| {
            PreparedStep::new(&graph.steps()[step], step == 1, weights).unwrap()
        };
        [prepare(0, static_step), prepare(1, lookup)]
    }

    /// Whether nothing but zeros is in any buffer; the buffers themselves are still there.
    fn is_zero(step: &PreparedStep) -> bool {
        let form = match &step.form {
            Prepared::Fourier(groups) => groups.iter().flatten().all(|(block, polynomial)| {
                let zero = |value: &Complex64| value.re == 0.0 && value.im == 0.0;
                *block == 0 && !polynomial.is_empty() && polynomial.iter().all(zero)
            }),
            Prepared::Shifts(groups) => groups
                .iter()
                .flatten()
                .all(|shift| (shift.block, shift.at, shift.weight) == (0, 0, 0)),
            Prepared::Tiles(tiles) => {
                !tiles.weights.is_empty()
                    && tiles.weights.iter().all(|weight| *weight == 0)
                    && tiles.blocks.iter().all(|block| *block == 0)
            }
        };
        let tables = step.weights.as_ref().is_none_or(|kept| kept.inputs() == 0);
        form && tables && step.biases.iter().all(|bias| *bias == 0)
    }

    #[test]
    fn every_form_of_weights_is_zero_once_wiped() {
        let dense = StepWeights::new_static(64, 24, (0..64 * 24).map(value).collect()).unwrap();
        // rows far from each other, so that few share a block
        let sparse = (0..24u32).map(|row| vec![(row * 1365, value(row as usize))]);
        let sparse = StepWeights::new_sparse(1 << 15, sparse.collect(), None).unwrap();
        let with_biases = |weights: StepWeights| weights.with_biases(vec![5; 24]).unwrap();
        let [fourier, tiles] = prepared(with_biases(dense));
        let [shifts, _] = prepared(with_biases(sparse));
        assert!(matches!(fourier.form, Prepared::Fourier(_)));
        assert!(matches!(shifts.form, Prepared::Shifts(_)));
        assert!(matches!(tiles.form, Prepared::Tiles(_)));
        for mut step in [fourier, shifts, tiles] {
            assert!(!is_zero(&step), "there is something to wipe");
            step.wipe();
            assert!(is_zero(&step));
        }
    }

    #[test]
    fn coefficients_on_their_way_to_a_form_are_wiped() {
        let mut shifts = [Shift {
            block: 1,
            at: 2,
            weight: 3,
        }; 5];
        wipe_shifts(&mut shifts);
        assert!(
            shifts
                .iter()
                .all(|s| (s.block, s.at, s.weight) == (0, 0, 0))
        );
    }
}
