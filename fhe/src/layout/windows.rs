//! Convolution after a lookup: inputs by pixel, then channel; outputs by window, then filter, so
//! that the filters of a window share its input ciphertexts.

use chemxor_core::Conv2d;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Windows {
    conv: Conv2d,
    /// Outputs in one ciphertext.
    per_output: usize,
}

impl Windows {
    pub(super) fn new(conv: Conv2d, per_output: usize) -> Self {
        Self { conv, per_output }
    }

    fn filters(&self) -> usize {
        self.conv.filters as usize
    }

    /// Output ciphertexts of one window.
    fn chunks(&self) -> usize {
        self.filters().div_ceil(self.per_output)
    }

    fn windows(&self) -> usize {
        (self.conv.out_height() * self.conv.out_width()) as usize
    }

    pub(super) fn output_count(&self) -> usize {
        self.windows() * self.chunks()
    }

    pub(super) fn filters_sharing(&self) -> usize {
        self.per_output.min(self.filters())
    }

    /// Inputs of a window in the middle of the image.
    pub(super) fn middle_inputs(&self) -> impl Iterator<Item = usize> + use<> {
        let (rows, columns) = (
            self.conv.out_height() as usize,
            self.conv.out_width() as usize,
        );
        let taps = self.conv.taps_of(rows / 2 * columns + columns / 2);
        taps.map(|(input, _)| input)
    }

    pub(super) fn input_rank(&self, input: usize) -> usize {
        let plane = (self.conv.height * self.conv.width) as usize;
        input % plane * self.conv.channels as usize + input / plane
    }

    pub(super) fn group_len(&self, group: usize) -> usize {
        let first = group % self.chunks() * self.per_output;
        self.per_output.min(self.filters() - first)
    }

    pub(super) fn output(&self, group: usize, within: usize) -> usize {
        let (window, chunk) = (group / self.chunks(), group % self.chunks());
        (chunk * self.per_output + within) * self.windows() + window
    }
}
