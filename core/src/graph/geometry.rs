//! Which inputs of a step meet which outputs: everything, or the windows of a convolution.

use serde::{Deserialize, Serialize};

/// How a step's outputs depend on its inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(tag = "form", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Geometry {
    /// Every output may depend on every input.
    #[default]
    Dense,
    /// A two-dimensional convolution (cross-correlation, as in every deep-learning library).
    Conv2d(Conv2d),
}

impl Geometry {
    /// Whether this is the default.
    pub fn is_dense(&self) -> bool {
        *self == Self::Dense
    }
}

/// Shape of a convolution. Inputs are numbered `(channel, y, x)`, outputs `(filter, y, x)`, both
/// row major as in PyTorch, so that "flatten" needs no work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conv2d {
    /// Input channels.
    pub channels: u32,
    /// Input rows.
    pub height: u32,
    /// Input columns.
    pub width: u32,
    /// Output channels.
    pub filters: u32,
    /// Side of the square kernel.
    pub kernel: u32,
    /// Step between windows, in both directions.
    pub stride: u32,
    /// Rows and columns of zeros on each side.
    pub padding: u32,
}

impl Conv2d {
    /// Whether every number is in range and at least one window fits.
    pub fn is_sound(&self) -> bool {
        let side = |n: u32| (1..=1 << 10).contains(&n);
        let counts = [self.channels, self.filters]
            .iter()
            .all(|n| (1..=1 << 14).contains(n));
        counts
            && side(self.height)
            && side(self.width)
            && side(self.kernel)
            && side(self.stride)
            && self.padding < self.kernel
            && self.kernel <= self.height + 2 * self.padding
            && self.kernel <= self.width + 2 * self.padding
    }

    /// Rows of the output.
    pub fn out_height(&self) -> u32 {
        (self.height + 2 * self.padding - self.kernel) / self.stride + 1
    }

    /// Columns of the output.
    pub fn out_width(&self) -> u32 {
        (self.width + 2 * self.padding - self.kernel) / self.stride + 1
    }

    /// channels × height × width.
    pub fn inputs(&self) -> u64 {
        u64::from(self.channels) * u64::from(self.height) * u64::from(self.width)
    }

    /// filters × output rows × output columns.
    pub fn outputs(&self) -> u64 {
        u64::from(self.filters) * u64::from(self.out_height()) * u64::from(self.out_width())
    }

    /// Weights of one filter: channels × kernel × kernel.
    pub fn taps(&self) -> usize {
        self.channels as usize * (self.kernel * self.kernel) as usize
    }

    /// Filter, row and column of an output.
    pub fn output_position(&self, output: usize) -> (usize, usize, usize) {
        let (height, width) = (self.out_height() as usize, self.out_width() as usize);
        (
            output / (height * width),
            output / width % height,
            output % width,
        )
    }

    /// The taps of an output: `(input, tap)` with the tap's number in the filter, row major
    /// `(channel, dy, dx)`. Taps on the padding are left out.
    pub fn taps_of(&self, output: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let shape = *self;
        let (_, out_y, out_x) = self.output_position(output);
        let kernel = self.kernel as usize;
        (0..self.taps()).filter_map(move |tap| {
            let (channel, dy, dx) = (tap / (kernel * kernel), tap / kernel % kernel, tap % kernel);
            let y = (out_y * shape.stride as usize + dy).checked_sub(shape.padding as usize)?;
            let x = (out_x * shape.stride as usize + dx).checked_sub(shape.padding as usize)?;
            let (height, width) = (shape.height as usize, shape.width as usize);
            (y < height && x < width).then_some(((channel * height + y) * width + x, tap))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_those_of_the_olinda_nets() {
        let first = Conv2d {
            channels: 1,
            height: 32,
            width: 32,
            filters: 32,
            kernel: 3,
            stride: 3,
            padding: 0,
        };
        assert_eq!((first.out_height(), first.outputs()), (10, 3200));
        let second = Conv2d {
            channels: 32,
            height: 10,
            width: 10,
            stride: 1,
            ..first
        };
        assert_eq!((second.out_width(), second.outputs()), (8, 2048));
        assert!(
            first.is_sound()
                && !Conv2d {
                    kernel: 33,
                    ..first
                }
                .is_sound()
        );
    }

    #[test]
    fn padding_has_no_taps() {
        let shape = Conv2d {
            channels: 1,
            height: 2,
            width: 2,
            filters: 1,
            kernel: 3,
            stride: 1,
            padding: 1,
        };
        assert_eq!(shape.outputs(), 4);
        assert_eq!(
            shape.taps_of(0).collect::<Vec<_>>(),
            [(0, 4), (1, 5), (2, 7), (3, 8)]
        );
        assert_eq!(
            shape.taps_of(3).collect::<Vec<_>>(),
            [(0, 0), (1, 1), (2, 3), (3, 4)]
        );
    }
}
