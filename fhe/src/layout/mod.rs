//! Coefficient encoding of a step: where inputs and outputs sit in polynomials
//! (docs/protocol.md, section 4).
//!
//! One rule serves all forms. If input `j` sits at coefficient `c_in(j)` of its polynomial and
//! output `o` is read at coefficient `c_out(o)`, the weight goes to coefficient
//! `c_out(o) - c_in(j)` of the weight polynomial: their product then has `W[o][j] x_j` at
//! `c_out(o)`. A form is sound when no other pair reaches an output coefficient; products over the
//! input blocks are summed in the Fourier domain.
//!
//! * **Dense**: `n_in` inputs in a polynomial, `n_out = N / n_in` outputs in a product (Huang et
//!   al., Cheetah, USENIX Security 2022, section 3).
//! * **Image**: a convolution on clear weights. Whole planes of the padded image, several channels
//!   in a polynomial; every window of a filter in one product, several filters when they fit
//!   (ibid.).
//! * **Patches**: the same when windows do not overlap: a matrix product with the patches.
//! * **Windows**: a convolution after a lookup. Every pixel has its own table, so weights are not
//!   shared and the product is that of a block-sparse matrix: inputs are ordered by pixel, outputs
//!   by window, and a window meets only the blocks of its pixels.

mod image;
mod patches;
mod windows;

use chemxor_core::{Conv2d, Geometry, StepKind, StepSpec};

use image::Image;
use patches::Patches;
use windows::Windows;

/// Where inputs and outputs of a step sit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    inputs: usize,
    outputs: usize,
    /// D: coefficients of one input (1 when static).
    hot: usize,
    /// N.
    size: usize,
    /// n_in: coefficients in use in an input polynomial.
    per_input: usize,
    form: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Dense,
    Image(Image),
    Patches(Patches),
    Windows(Windows),
}

impl Layout {
    /// The layout of a step in polynomials of `size` coefficients; none when it does not fit.
    pub fn new(spec: &StepSpec, size: usize) -> Option<Self> {
        let per_input = spec.inputs_per_polynomial as usize;
        let hot = match spec.kind {
            StepKind::Static => 1,
            StepKind::Lookup => 1usize << spec.input_bits,
        };
        let form = match (spec.geometry, spec.kind) {
            (Geometry::Dense, _) => Form::Dense,
            (Geometry::Conv2d(conv), StepKind::Static) if Patches::suits(&conv) => {
                Form::Patches(Patches::new(conv, per_input, size)?)
            }
            (Geometry::Conv2d(conv), StepKind::Static) => {
                Form::Image(Image::new(conv, per_input, size)?)
            }
            (Geometry::Conv2d(conv), StepKind::Lookup) => {
                Form::Windows(Windows::new(conv, size / per_input.max(1)))
            }
        };
        let tiled =
            matches!(form, Form::Image(_) | Form::Patches(_)) || per_input.is_power_of_two();
        let fits = tiled && (hot..=size).contains(&per_input);
        let filled = spec.inputs > 0 && spec.outputs > 0;
        (fits && filled).then_some(Self {
            inputs: spec.inputs as usize,
            outputs: spec.outputs as usize,
            hot,
            size,
            per_input,
            form,
        })
    }

    /// Features or neurons.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Pre-activations.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// N.
    pub fn size(&self) -> usize {
        self.size
    }

    /// n_in: coefficients in use in an input polynomial.
    pub fn per_input(&self) -> usize {
        self.per_input
    }

    /// D: coefficients of one input, 1 when static.
    pub fn hot(&self) -> usize {
        self.hot
    }

    /// Slots in a lookup's weight polynomial, n_in coefficients each, one for each output.
    pub fn per_output(&self) -> usize {
        self.size / self.per_input
    }

    /// Input ciphertexts.
    pub fn input_count(&self) -> usize {
        match &self.form {
            Form::Image(image) => image.input_count(),
            Form::Patches(patches) => patches.input_count(),
            Form::Dense | Form::Windows(_) => self.inputs.div_ceil(self.per_input / self.hot),
        }
    }

    /// Output ciphertexts.
    pub fn output_count(&self) -> usize {
        match &self.form {
            Form::Dense => self.outputs.div_ceil(self.per_output()),
            Form::Image(image) => image.output_count(),
            Form::Patches(patches) => patches.output_count(),
            Form::Windows(windows) => windows.output_count(),
        }
    }

    /// Tilings of a convolution on clear weights: numbers of coefficients in use to try.
    pub fn conv_tilings(conv: &Conv2d, size: usize) -> Vec<usize> {
        let (unit, most) = if Patches::suits(conv) {
            (conv.taps(), (conv.out_height() * conv.out_width()) as usize)
        } else {
            let plane = (conv.height + 2 * conv.padding) * (conv.width + 2 * conv.padding);
            (plane as usize, conv.channels as usize)
        };
        (1..=most.min(size / unit.max(1)))
            .map(|count| count * unit)
            .collect()
    }

    /// Products of a weight polynomial with an input ciphertext: each group with each of its blocks.
    pub fn product_count(&self) -> usize {
        let blocks = match &self.form {
            Form::Dense | Form::Image(_) => self.input_count(),
            Form::Patches(_) => 1,
            Form::Windows(windows) => {
                // a window in the middle has no tap on the padding
                let blocks = windows
                    .middle_inputs()
                    .filter_map(|input| Some(self.input_place(input)?.0));
                blocks.collect::<std::collections::BTreeSet<_>>().len()
            }
        };
        blocks * self.output_count()
    }

    /// Block and first coefficient of an input; a one-hot input takes D coefficients from there.
    /// None for a pixel that no window of a convolution covers: it is not sent.
    pub fn input_place(&self, input: usize) -> Option<(usize, usize)> {
        let rank = match &self.form {
            Form::Image(image) => return Some(image.input_place(input)),
            Form::Patches(patches) => return patches.input_place(input),
            Form::Dense => input,
            Form::Windows(windows) => windows.input_rank(input),
        };
        let per_block = self.per_input / self.hot;
        Some((rank / per_block, rank % per_block * self.hot))
    }

    /// Outputs in output ciphertext `group`.
    pub fn group_len(&self, group: usize) -> usize {
        match &self.form {
            Form::Dense => self
                .per_output()
                .min(self.outputs - group * self.per_output()),
            Form::Image(image) => image.group_len(group),
            Form::Patches(patches) => patches.group_len(group),
            Form::Windows(windows) => windows.group_len(group),
        }
    }

    /// Output number and coefficient of the `within`-th output of a group.
    pub fn output_at(&self, group: usize, within: usize) -> (usize, usize) {
        let slot = within * self.per_input + self.per_input - 1;
        match &self.form {
            Form::Dense => (group * self.per_output() + within, slot),
            Form::Image(image) => image.output_at(group, within),
            Form::Patches(patches) => patches.output_at(group, within),
            Form::Windows(windows) => (windows.output(group, within), slot),
        }
    }

    /// The outputs of a group, with their coefficients.
    pub fn group(&self, group: usize) -> impl Iterator<Item = (usize, usize)> + '_ {
        (0..self.group_len(group)).map(move |within| self.output_at(group, within))
    }

    /// Rows of the weight matrix that share one weight polynomial, at most: the noise of an output
    /// grows with all of them (docs/decisions/0010).
    pub fn rows_sharing(&self) -> usize {
        match &self.form {
            Form::Dense => self.per_output().min(self.outputs),
            Form::Image(image) => image.filters_sharing(),
            Form::Patches(patches) => patches.filters_sharing(),
            Form::Windows(windows) => windows.filters_sharing(),
        }
    }
}

#[cfg(test)]
mod tests;
