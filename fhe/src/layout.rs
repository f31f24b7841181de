//! Coefficient encoding of a fully-connected step (docs/protocol.md, section 4).
//!
//! With `n_in` inputs in each polynomial and `n_out = N / n_in` outputs in each product: input
//! polynomial `X[j] = x_j`, weight polynomial `P[o*n_in + n_in-1-j] = W[o][j]`; coefficient
//! `o*n_in + n_in-1` of the product is `sum_j W[o][j] x_j` (Huang et al., Cheetah, USENIX Security
//! 2022, section 3). Products over the input blocks are summed in the Fourier domain.

/// Where inputs and outputs of a step sit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Encrypted coefficients.
    pub inputs: usize,
    /// Pre-activations.
    pub outputs: usize,
    /// n_in; a power of two, at most N.
    pub per_input: usize,
    /// N.
    pub size: usize,
}

impl Layout {
    /// Checks that `per_input` is a power of two, at most N.
    pub fn new(inputs: usize, outputs: usize, per_input: usize, size: usize) -> Option<Self> {
        let fits = per_input.is_power_of_two() && per_input <= size && inputs > 0 && outputs > 0;
        fits.then_some(Self {
            inputs,
            outputs,
            per_input,
            size,
        })
    }

    /// n_out: outputs in each product.
    pub fn per_output(&self) -> usize {
        self.size / self.per_input
    }

    /// Input ciphertexts.
    pub fn input_count(&self) -> usize {
        self.inputs.div_ceil(self.per_input)
    }

    /// Output ciphertexts.
    pub fn output_count(&self) -> usize {
        self.outputs.div_ceil(self.per_output())
    }

    /// Inputs of block `block`, as a range of input numbers.
    pub fn block(&self, block: usize) -> std::ops::Range<usize> {
        let start = block * self.per_input;
        start..self.inputs.min(start + self.per_input)
    }

    /// Outputs of output ciphertext `index`, as a range of output numbers.
    pub fn group(&self, index: usize) -> std::ops::Range<usize> {
        let start = index * self.per_output();
        start..self.outputs.min(start + self.per_output())
    }

    /// Coefficient that holds the output number `within` of its group.
    pub fn output_coefficient(&self, within: usize) -> usize {
        within * self.per_input + self.per_input - 1
    }

    /// Coefficient of the weight polynomial for input `j` of the block and output `within`.
    pub fn weight_coefficient(&self, within: usize, j: usize) -> usize {
        within * self.per_input + self.per_input - 1 - j
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The encoding computes `W x` with plain polynomial products.
        #[test]
        fn product_coefficients_are_inner_products(
            inputs in 1usize..200, outputs in 1usize..20, log in 0u32..6, seed in any::<u32>(),
        ) {
            let size = 64;
            let layout = Layout::new(inputs, outputs, 1 << log, size).unwrap();
            let value = |i: usize| i64::from((seed ^ (i as u32).wrapping_mul(2_654_435_761)) % 7) - 3;
            let weight = |o: usize, j: usize| value(1000 + o * inputs + j);
            for group in 0..layout.output_count() {
                let mut sum = vec![0i64; size];
                for block in 0..layout.input_count() {
                    for (within, o) in layout.group(group).enumerate() {
                        for (j, input) in layout.block(block).enumerate() {
                            let p = layout.weight_coefficient(within, j);
                            for (i, other) in layout.block(block).enumerate() {
                                let (k, sign) = ((p + i) % size, if p + i < size { 1 } else { -1 });
                                sum[k] += sign * weight(o, input) * value(other);
                            }
                        }
                    }
                }
                for (within, o) in layout.group(group).enumerate() {
                    let expected: i64 = (0..inputs).map(|j| weight(o, j) * value(j)).sum();
                    prop_assert_eq!(sum[layout.output_coefficient(within)], expected);
                }
            }
        }
    }
}
