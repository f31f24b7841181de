//! Convolution on clear weights: `X[c H W + y W + x]` for the padded image, the kernel of a filter
//! reversed below coefficient `O = f C H W + (C-1) H W + (K-1) W + (K-1)`, the window at `(y, x)`
//! read at `O + stride (y W + x)`.
//!
//! Why no other pair reaches an output: an input and a tap add up to less than `C H W`, so the
//! products of one filter end before the outputs of the next begin, and what wraps around the end
//! of the polynomial stays below the first output.

use chemxor_core::Conv2d;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Image {
    conv: Conv2d,
    /// Coefficients of one padded channel.
    plane: usize,
    /// Columns of the padded image.
    padded_width: usize,
    channels_per_input: usize,
    filters_per_output: usize,
}

impl Image {
    /// None when `per_input` is not a whole number of planes or does not fit.
    pub(super) fn new(conv: Conv2d, per_input: usize, size: usize) -> Option<Self> {
        let padded_width = (conv.width + 2 * conv.padding) as usize;
        let plane = padded_width * (conv.height + 2 * conv.padding) as usize;
        let fits = (plane..=size).contains(&per_input) && per_input.is_multiple_of(plane);
        fits.then(|| Self {
            conv,
            plane,
            padded_width,
            channels_per_input: per_input / plane,
            filters_per_output: size / per_input,
        })
    }

    fn windows(&self) -> usize {
        (self.conv.out_height() * self.conv.out_width()) as usize
    }

    pub(super) fn input_count(&self) -> usize {
        (self.conv.channels as usize).div_ceil(self.channels_per_input)
    }

    pub(super) fn output_count(&self) -> usize {
        (self.conv.filters as usize).div_ceil(self.filters_per_output)
    }

    pub(super) fn filters_sharing(&self) -> usize {
        self.filters_per_output.min(self.conv.filters as usize)
    }

    pub(super) fn input_place(&self, input: usize) -> (usize, usize) {
        let (height, width) = (self.conv.height as usize, self.conv.width as usize);
        let padding = self.conv.padding as usize;
        let (channel, y, x) = (
            input / (height * width),
            input / width % height,
            input % width,
        );
        let pixel = (y + padding) * self.padded_width + x + padding;
        let within = channel % self.channels_per_input;
        (
            channel / self.channels_per_input,
            within * self.plane + pixel,
        )
    }

    pub(super) fn group_len(&self, group: usize) -> usize {
        let first = group * self.filters_per_output;
        let filters = self
            .filters_per_output
            .min(self.conv.filters as usize - first);
        filters * self.windows()
    }

    pub(super) fn output_at(&self, group: usize, within: usize) -> (usize, usize) {
        let (filter, window) = (within / self.windows(), within % self.windows());
        let output = (group * self.filters_per_output + filter) * self.windows() + window;
        let columns = self.conv.out_width() as usize;
        let (y, x) = (window / columns, window % columns);
        let (kernel, stride) = (self.conv.kernel as usize, self.conv.stride as usize);
        let origin = (filter * self.channels_per_input + self.channels_per_input - 1) * self.plane
            + (kernel - 1) * (self.padded_width + 1);
        (output, origin + stride * (y * self.padded_width + x))
    }
}
