//! What the client computes from its features, in clear, before it encrypts them. All of it is
//! public; it turns comparisons and squares into linear maps, which cost the server no round.

use serde::{Deserialize, Serialize};

/// From features to the inputs of step 0.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(tag = "form", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Expansion {
    /// The features themselves.
    #[default]
    None,
    /// For a feature of L levels the L − 1 comparisons `x > 0, …, x > L − 2`: each condition of a
    /// decision tree on the public grid is then one input.
    Thermometer {
        /// Consecutive features and their levels.
        grids: Vec<Grid>,
    },
    /// All monomials of degree 1 and 2 of each non-overlapping square patch of an image: a
    /// convolution followed by a quadratic activation is then linear (docs/protocol.md, lifting).
    Monomials(Monomials),
}

/// A run of features on one public grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grid {
    /// How many features.
    pub features: u32,
    /// Their values are `0..levels`.
    pub levels: u16,
}

/// An image of `height × width` features, cut into patches of `kernel × kernel`; rows and columns
/// that fill no patch are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Monomials {
    /// Rows.
    pub height: u32,
    /// Columns.
    pub width: u32,
    /// Side of a patch.
    pub kernel: u32,
}

impl Monomials {
    /// Monomials of one patch: `p` linear ones, then `p (p + 1) / 2` products `x_i x_j`, `i <= j`,
    /// for the `p = kernel²` features of a patch in row-major order.
    pub fn channels(&self) -> usize {
        let p = (self.kernel * self.kernel) as usize;
        p + p * (p + 1) / 2
    }

    /// Rows and columns of patches.
    pub fn patches(&self) -> (usize, usize) {
        (
            (self.height / self.kernel) as usize,
            (self.width / self.kernel) as usize,
        )
    }

    /// Number of the monomial `x_i x_j` of a patch, in either order.
    pub fn product(&self, i: usize, j: usize) -> usize {
        let p = (self.kernel * self.kernel) as usize;
        let (i, j) = (i.min(j), i.max(j));
        // row i of the upper triangle begins after the longer rows above it
        p + i * p - i * i.saturating_sub(1) / 2 + (j - i)
    }

    fn expand(&self, features: &[u16]) -> Vec<u16> {
        let (rows, columns) = self.patches();
        let (kernel, width) = (self.kernel as usize, self.width as usize);
        let mut out = vec![0; self.channels() * rows * columns];
        let mut patch = vec![0u16; kernel * kernel];
        for place in 0..rows * columns {
            let (top, left) = (place / columns * kernel, place % columns * kernel);
            for (i, value) in patch.iter_mut().enumerate() {
                *value = features[(top + i / kernel) * width + left + i % kernel];
            }
            let products = (0..patch.len())
                .flat_map(|i| (i..patch.len()).map(move |j| (i, j)))
                .map(|(i, j)| patch[i] * patch[j]);
            for (channel, value) in patch.iter().copied().chain(products).enumerate() {
                out[channel * rows * columns + place] = value;
            }
        }
        out
    }
}

impl Expansion {
    /// Whether this is the default.
    pub fn is_none(&self) -> bool {
        *self == Self::None
    }

    /// Whether every number is in range.
    pub fn is_sound(&self) -> bool {
        match self {
            Self::None => true,
            Self::Thermometer { grids } => {
                let sound = |grid: &Grid| {
                    (1..=1 << 16).contains(&grid.features) && (2..=256).contains(&grid.levels)
                };
                (1..=64).contains(&grids.len()) && grids.iter().all(sound)
            }
            Self::Monomials(shape) => {
                let side = |n: u32| (1..=256).contains(&n);
                side(shape.height)
                    && side(shape.width)
                    && (1..=8).contains(&shape.kernel)
                    && shape.kernel <= shape.height.min(shape.width)
            }
        }
    }

    /// Features that give `inputs` inputs; none when no number of features does.
    pub fn features(&self, inputs: u64) -> Option<u64> {
        match self {
            Self::None => Some(inputs),
            Self::Thermometer { grids } => {
                let given: u64 = grids
                    .iter()
                    .map(|g| u64::from(g.features) * (u64::from(g.levels) - 1))
                    .sum();
                (given == inputs).then(|| grids.iter().map(|g| u64::from(g.features)).sum())
            }
            Self::Monomials(shape) => {
                let (rows, columns) = shape.patches();
                let given = (shape.channels() * rows * columns) as u64;
                (given == inputs).then(|| u64::from(shape.height) * u64::from(shape.width))
            }
        }
    }

    /// Values of feature `index` are below this; `input_bits` are those of step 0.
    pub fn feature_limit(&self, index: usize, input_bits: u8) -> u32 {
        match self {
            Self::None => 1 << input_bits,
            Self::Thermometer { grids } => {
                let mut end = 0;
                let grid = grids.iter().find(|grid| {
                    end += grid.features as usize;
                    index < end
                });
                grid.map_or(0, |grid| grid.levels.into())
            }
            // a product of two takes twice the bits
            Self::Monomials(_) => 1 << (input_bits / 2),
        }
    }

    /// The inputs of step 0. Features must be within their limits.
    pub fn expand<'a>(&self, features: &'a [u16]) -> std::borrow::Cow<'a, [u16]> {
        match self {
            Self::None => features.into(),
            Self::Thermometer { grids } => {
                let levels = grids
                    .iter()
                    .flat_map(|grid| std::iter::repeat_n(grid.levels, grid.features as usize));
                let inputs = features
                    .iter()
                    .zip(levels)
                    .flat_map(|(x, levels)| (0..levels - 1).map(move |t| u16::from(*x > t)));
                inputs.collect::<Vec<_>>().into()
            }
            Self::Monomials(shape) => shape.expand(features).into(),
        }
    }

    /// First input of each feature's comparisons: input `offset + t` is `x > t`. Empty for other
    /// expansions.
    pub fn thermometer_offsets(&self) -> Vec<u32> {
        let Self::Thermometer { grids } = self else {
            return Vec::new();
        };
        let mut offset = 0;
        let mut offsets = Vec::new();
        for grid in grids {
            for _ in 0..grid.features {
                offsets.push(offset);
                offset += u32::from(grid.levels) - 1;
            }
        }
        offsets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thermometers_compare() {
        let grids = vec![
            Grid {
                features: 2,
                levels: 4,
            },
            Grid {
                features: 1,
                levels: 2,
            },
        ];
        let expansion = Expansion::Thermometer { grids };
        assert_eq!(expansion.features(7), Some(3));
        assert_eq!(expansion.features(8), None);
        assert_eq!(expansion.expand(&[2, 0, 1]).as_ref(), [1, 1, 0, 0, 0, 0, 1]);
        assert_eq!(expansion.thermometer_offsets(), [0, 3, 6]);
        assert_eq!(
            [0, 1, 2, 3].map(|i| expansion.feature_limit(i, 1)),
            [4, 4, 2, 0]
        );
    }

    #[test]
    fn monomials_are_channels_over_patches() {
        let shape = Monomials {
            height: 5,
            width: 4,
            kernel: 2,
        };
        let expansion = Expansion::Monomials(shape);
        assert_eq!((shape.channels(), shape.patches()), (14, (2, 2)));
        assert_eq!(expansion.features(56), Some(20));
        let features: Vec<u16> = (0..20).map(|i| i % 7).collect();
        let inputs = expansion.expand(&features);
        // patch (1, 0) holds features 8, 9, 12, 13
        let patch = [8, 9, 12, 13].map(|i: usize| features[i]);
        for (i, x) in patch.iter().enumerate() {
            assert_eq!(inputs[i * 4 + 2], *x);
            for (j, y) in patch.iter().enumerate() {
                assert_eq!(inputs[shape.product(i, j) * 4 + 2], x * y);
            }
        }
    }
}
