//! Convolution whose windows do not overlap (stride = kernel, no padding), on clear weights: a
//! matrix product with the patches of the image. `P` patches in a polynomial, `S = N / P`
//! coefficients apart; patch `p` stands at `p S`, filter `f` of a product is read at
//! `p S + f taps + taps - 1`. Pixels in no window are not sent, and images of any size fit.
//!
//! Why no other pair reaches an output: a patch and the filters of a product end before
//! `p S + (F + 1) taps - 1`, and `F taps <= S`, so before the first output of the next patch.

use chemxor_core::Conv2d;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Patches {
    conv: Conv2d,
    patches_per_input: usize,
    /// S.
    spacing: usize,
    filters_per_output: usize,
}

impl Patches {
    /// Whether a convolution has this form.
    pub(super) fn suits(conv: &Conv2d) -> bool {
        conv.stride == conv.kernel && conv.padding == 0
    }

    /// None when `per_input` is not a whole number of patches or does not fit.
    pub(super) fn new(conv: Conv2d, per_input: usize, size: usize) -> Option<Self> {
        let taps = conv.taps();
        let fits = (taps..=size).contains(&per_input) && per_input.is_multiple_of(taps);
        fits.then(|| {
            let patches = per_input / taps;
            let spacing = size / patches;
            Self {
                conv,
                patches_per_input: patches,
                spacing,
                filters_per_output: spacing / taps,
            }
        })
    }

    fn windows(&self) -> usize {
        (self.conv.out_height() * self.conv.out_width()) as usize
    }

    fn chunks(&self) -> usize {
        (self.conv.filters as usize).div_ceil(self.filters_per_output)
    }

    pub(super) fn input_count(&self) -> usize {
        self.windows().div_ceil(self.patches_per_input)
    }

    /// Groups run over the input polynomials, then over the filters.
    pub(super) fn output_count(&self) -> usize {
        self.input_count() * self.chunks()
    }

    pub(super) fn filters_sharing(&self) -> usize {
        self.filters_per_output.min(self.conv.filters as usize)
    }

    /// None for a pixel in no window.
    pub(super) fn input_place(&self, input: usize) -> Option<(usize, usize)> {
        let (height, width) = (self.conv.height as usize, self.conv.width as usize);
        let kernel = self.conv.kernel as usize;
        let (channel, y, x) = (
            input / (height * width),
            input / width % height,
            input % width,
        );
        let (row, column) = (y / kernel, x / kernel);
        let columns = self.conv.out_width() as usize;
        if row >= self.conv.out_height() as usize || column >= columns {
            return None;
        }
        let patch = row * columns + column;
        let tap = (channel * kernel + y % kernel) * kernel + x % kernel;
        let within = patch % self.patches_per_input;
        Some((patch / self.patches_per_input, within * self.spacing + tap))
    }

    /// Patches and filters of a group.
    fn spans(&self, group: usize) -> (usize, usize, usize, usize) {
        let patch = group / self.chunks() * self.patches_per_input;
        let patches = self.patches_per_input.min(self.windows() - patch);
        let filter = group % self.chunks() * self.filters_per_output;
        let filters = self
            .filters_per_output
            .min(self.conv.filters as usize - filter);
        (patch, patches, filter, filters)
    }

    pub(super) fn group_len(&self, group: usize) -> usize {
        let (_, patches, _, filters) = self.spans(group);
        patches * filters
    }

    pub(super) fn output_at(&self, group: usize, within: usize) -> (usize, usize) {
        let (patch, patches, filter, _) = self.spans(group);
        let (f, p) = (within / patches, within % patches);
        let output = (filter + f) * self.windows() + patch + p;
        let taps = self.conv.taps();
        (output, p * self.spacing + f * taps + taps - 1)
    }
}
