//! A step ready for evaluation. Static weights live in the Fourier domain; lookup weights stay
//! integers, because their tables are rotated afresh for each query and written straight into the
//! input buffer of the FFT.

use chemxor_core::{StepKind, StepSpec};
use num_complex::Complex64;

use crate::fft::Negacyclic;
use crate::layout::Layout;
use crate::network::StepWeights;
use crate::server::{Blinds, StepError};
use crate::torus::fourier_zero;
use crate::wire::StepShape;

/// A step's shape and weights.
pub struct PreparedStep {
    pub(super) shape: StepShape,
    weights: StepWeights,
    /// Static steps: `[output group][input block]`, N/2 values each.
    fourier: Vec<Vec<Complex64>>,
}

impl std::fmt::Debug for PreparedStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PreparedStep({:?})", self.weights)
    }
}

impl Drop for PreparedStep {
    fn drop(&mut self) {
        for value in self.fourier.iter_mut().flatten() {
            *value = Complex64::default();
        }
        // the compiler may not drop the writes above
        std::hint::black_box(&self.fourier);
    }
}

/// Rotated tables of one query, in the order in which weight polynomials hold them.
pub(super) struct RotatedTables {
    /// For each input block, n_in entries, the last input first.
    entries: Vec<i32>,
}

impl PreparedStep {
    /// Prepares a step; `is_last` says whether its outputs are opened.
    pub fn new(spec: &StepSpec, is_last: bool, weights: StepWeights) -> Result<Self, StepError> {
        weights.matches(spec)?;
        let shape = StepShape::new(spec, is_last)?;
        let fourier = match spec.kind {
            StepKind::Static => static_fourier(&shape.layout, &weights),
            StepKind::Lookup => Vec::new(),
        };
        Ok(Self {
            shape,
            weights,
            fourier,
        })
    }

    /// The step's shape.
    pub fn shape(&self) -> &StepShape {
        &self.shape
    }

    /// Memory that the prepared weights take, in bytes.
    pub fn bytes(&self) -> usize {
        let weights = self.weights.inputs() * self.weights.outputs() * 2;
        weights + self.fourier.len() * self.shape.layout.size * 8
    }

    /// Table entries rotated by the blinds of the step before:
    /// position k of neuron i holds `f_i[(k - r_i) mod 2^b]`.
    pub(super) fn rotate_tables(&self, blinds: &Blinds) -> RotatedTables {
        let layout = &self.shape.layout;
        let size = 1usize << self.weights.table_bits();
        let per_block = layout.per_input / size;
        let mut entries = vec![0i32; layout.input_count() * layout.per_input];
        for (neuron, blind) in blinds.values().iter().enumerate() {
            let table = self.weights.table(neuron);
            let (block, within) = (neuron / per_block, neuron % per_block);
            // inputs stand in reverse order inside their block
            let end = (block + 1) * layout.per_input - within * size;
            let slot = &mut entries[end - size..end];
            for (k, entry) in slot.iter_mut().rev().enumerate() {
                *entry = table[(k + size - usize::from(*blind)) % size].into();
            }
        }
        RotatedTables { entries }
    }

    /// The weight polynomial of `group` and `block` in the Fourier domain: borrowed when static,
    /// built in `out` (with `buffer` as N doubles of scratch) when a lookup.
    pub(super) fn weight_polynomial<'a>(
        &'a self,
        group: usize,
        block: usize,
        tables: Option<&RotatedTables>,
        buffer: &mut [f64],
        out: &'a mut [Complex64],
    ) -> &'a [Complex64] {
        let layout = &self.shape.layout;
        let Some(tables) = tables else {
            return &self.fourier[group * layout.input_count() + block];
        };
        let size = 1usize << self.weights.table_bits();
        let per_block = layout.per_input / size;
        let shift = self.weights.shift();
        let round = if shift == 0 { 0 } else { 1i32 << (shift - 1) };
        let entries = &tables.entries[block * layout.per_input..][..layout.per_input];
        let first = block * per_block;
        buffer.fill(0.0);
        for (slot, output) in buffer
            .chunks_exact_mut(layout.per_input)
            .zip(layout.group(group))
        {
            let row = self.weights.row(output);
            let neurons = row.len().min(first + per_block) - first;
            let weights = &row[first..first + neurons];
            // the block's last neuron comes first
            let places = slot
                .chunks_exact_mut(size)
                .zip(entries.chunks_exact(size))
                .rev();
            for ((place, entries), weight) in places.zip(weights) {
                let weight = i32::from(*weight);
                for (value, entry) in place.iter_mut().zip(entries) {
                    *value = f64::from((weight * entry + round) >> shift);
                }
            }
        }
        Negacyclic::of(layout.size).forward_slice(out, buffer);
        out
    }
}

fn static_fourier(layout: &Layout, weights: &StepWeights) -> Vec<Vec<Complex64>> {
    let fft = Negacyclic::of(layout.size);
    let mut buffer = vec![0.0; layout.size];
    let mut all = Vec::with_capacity(layout.output_count() * layout.input_count());
    for group in 0..layout.output_count() {
        for block in 0..layout.input_count() {
            buffer.fill(0.0);
            for (within, output) in layout.group(group).enumerate() {
                let row = weights.row(output);
                for (j, input) in layout.block(block).enumerate() {
                    buffer[layout.weight_coefficient(within, j)] = row[input].into();
                }
            }
            let mut out = fourier_zero(layout.size);
            fft.forward_slice(&mut out, &buffer);
            all.push(out);
        }
    }
    all
}
