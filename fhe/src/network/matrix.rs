//! Integer weight matrices: dense, shared by the windows of a convolution, or sparse.

use chemxor_core::{Conv2d, Geometry};
use zeroize::Zeroize;

use super::WeightsError;

/// Most weights or entries that a matrix may have.
pub(super) const MAX_ENTRIES: usize = 1 << 27;

/// `W[outputs][inputs]`, stored in one of three ways.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Matrix {
    /// Row major.
    Dense(Vec<i16>),
    /// `[filters][channels][kernel][kernel]`.
    Filters(Conv2d, Vec<i16>),
    /// Compressed rows: row `o` holds entries `starts[o]..starts[o + 1]`, inputs increasing.
    Sparse {
        starts: Vec<u32>,
        inputs: Vec<u32>,
        weights: Vec<i16>,
    },
}

impl Matrix {
    /// Compressed rows; inputs of a row in any order, each at most once.
    pub(super) fn sparse(rows: Vec<Vec<(u32, i16)>>) -> Self {
        let (mut starts, mut inputs, mut weights) = (vec![0], Vec::new(), Vec::new());
        for mut row in rows {
            row.sort_unstable_by_key(|(input, _)| *input);
            inputs.extend(row.iter().map(|(input, _)| *input));
            weights.extend(row.iter().map(|(_, weight)| *weight));
            // at most 2^27 entries, see `check`
            starts.push(inputs.len() as u32);
        }
        Self::Sparse {
            starts,
            inputs,
            weights,
        }
    }

    /// Whether the matrix is `outputs × inputs`.
    pub(super) fn check(&self, inputs: usize, outputs: usize) -> Result<(), WeightsError> {
        let holds = match self {
            Self::Dense(weights) => inputs.checked_mul(outputs) == Some(weights.len()),
            Self::Filters(conv, weights) => {
                conv.is_sound()
                    && conv.inputs() == inputs as u64
                    && conv.outputs() == outputs as u64
                    && weights.len() == conv.taps() * conv.filters as usize
            }
            Self::Sparse {
                starts,
                inputs: places,
                weights,
            } => {
                let rows_fit = starts.len() == outputs + 1
                    && starts[0] == 0
                    && starts.is_sorted()
                    && starts[outputs] as usize == places.len()
                    && places.len() == weights.len();
                rows_fit
                    && starts.windows(2).all(|pair| {
                        let row = &places[pair[0] as usize..pair[1] as usize];
                        row.is_sorted_by(|a, b| a < b)
                            && row.last().is_none_or(|last| (*last as usize) < inputs)
                    })
            }
        };
        if holds && self.weights().len() <= MAX_ENTRIES {
            Ok(())
        } else {
            Err(WeightsError::Range("weight count"))
        }
    }

    pub(super) fn weights(&self) -> &[i16] {
        match self {
            Self::Dense(weights) | Self::Filters(_, weights) | Self::Sparse { weights, .. } => {
                weights
            }
        }
    }

    pub(super) fn geometry(&self) -> Geometry {
        match self {
            Self::Filters(conv, _) => Geometry::Conv2d(*conv),
            Self::Dense(_) | Self::Sparse { .. } => Geometry::Dense,
        }
    }

    /// Calls `visit(input, weight)` for the entries of a row; inputs that it leaves out have weight 0.
    #[inline]
    pub(super) fn visit_row(
        &self,
        inputs: usize,
        output: usize,
        mut visit: impl FnMut(usize, i16),
    ) {
        match self {
            Self::Dense(weights) => {
                for (input, weight) in weights[output * inputs..][..inputs].iter().enumerate() {
                    visit(input, *weight);
                }
            }
            Self::Filters(conv, weights) => {
                let (filter, _, _) = conv.output_position(output);
                let filter = &weights[filter * conv.taps()..][..conv.taps()];
                for (input, tap) in conv.taps_of(output) {
                    visit(input, filter[tap]);
                }
            }
            Self::Sparse {
                starts,
                inputs,
                weights,
            } => {
                let row = starts[output] as usize..starts[output + 1] as usize;
                for (input, weight) in inputs[row.clone()].iter().zip(&weights[row]) {
                    visit(*input as usize, *weight);
                }
            }
        }
    }
}

impl Zeroize for Matrix {
    fn zeroize(&mut self) {
        match self {
            Self::Dense(weights) | Self::Filters(_, weights) => weights.zeroize(),
            Self::Sparse {
                inputs, weights, ..
            } => {
                inputs.zeroize();
                weights.zeroize();
            }
        }
    }
}
