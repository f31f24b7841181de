//! The integer network that the protocol evaluates, and the byte format of its weight blobs.
//!
//! * A static step has integer weights `W[outputs][inputs]`: `y = W x`.
//! * A lookup step has integer weights `W[outputs][neurons]` and, for each neuron, a table
//!   `f[neuron][2^b]`. With `t` the rounded pre-activation of a neuron modulo `2^b`, its
//!   contribution to output `j` is `round_shift(W[j][i] * f_i[t])`, [`round_shift`] by the step's
//!   `shift`. Biases, activation and requantisation are folded into the tables.
//!
//! Pre-activations are integers modulo `2^l` (`accumulator_bits`).
//!
//! Blob, version 1, little endian: magic `CXWB`, version u16 = 1, kind u8 (0 static, 1 lookup),
//! shift u8, inputs u32, outputs u32, table bits u8, three zero bytes, 32 random bytes, weights
//! i16 × outputs × inputs (row major), then for a lookup tables i16 × inputs × 2^bits. Nothing
//! may follow. The random bytes make the blob's digest a hiding commitment.

use chemxor_core::{StepKind, StepSpec};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Most table or weight entries that a blob may announce.
const MAX_ENTRIES: usize = 1 << 27;
const HEAD: usize = 20 + 32;

/// Weights of one step. Never printed; wiped when dropped.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct StepWeights {
    #[zeroize(skip)]
    kind: StepKind,
    inputs: usize,
    outputs: usize,
    table_bits: u8,
    shift: u8,
    weights: Vec<i16>,
    tables: Vec<i16>,
}

impl std::fmt::Debug for StepWeights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "StepWeights({:?}, {} -> {}, [redacted])",
            self.kind, self.inputs, self.outputs
        )
    }
}

/// Why weights were refused. Names no weight.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// Not a blob, or of another version.
    #[error("the weight blob is not of format CXWB version 1")]
    Format,
    /// Shorter or longer than its header says.
    #[error("the weight blob has {got} bytes, its header asks for {expected}")]
    Length {
        /// Length found.
        got: usize,
        /// Length expected.
        expected: usize,
    },
    /// A number in the header is out of range.
    #[error("the weight blob's {0} is out of range")]
    Range(&'static str),
    /// Not the step that the manifest describes.
    #[error("the weight blob's {0} differs from the manifest's step")]
    Mismatch(&'static str),
}

/// `value / 2^shift`, rounded to nearest, halves upwards. The one rounding of lookup products.
#[inline]
pub fn round_shift(value: i32, shift: u8) -> i32 {
    if shift == 0 {
        value
    } else {
        (value + (1 << (shift - 1))) >> shift
    }
}

impl StepWeights {
    /// A static step; `weights` is `[outputs][inputs]`.
    pub fn new_static(
        inputs: usize,
        outputs: usize,
        weights: Vec<i16>,
    ) -> Result<Self, WeightsError> {
        Self::new(StepKind::Static, inputs, outputs, 0, 0, weights, Vec::new())
    }

    /// A lookup step; `weights` is `[outputs][neurons]`, `tables` is `[neurons][2^table_bits]`.
    pub fn new_lookup(
        neurons: usize,
        outputs: usize,
        table_bits: u8,
        shift: u8,
        weights: Vec<i16>,
        tables: Vec<i16>,
    ) -> Result<Self, WeightsError> {
        Self::new(
            StepKind::Lookup,
            neurons,
            outputs,
            table_bits,
            shift,
            weights,
            tables,
        )
    }

    fn new(
        kind: StepKind,
        inputs: usize,
        outputs: usize,
        table_bits: u8,
        shift: u8,
        weights: Vec<i16>,
        tables: Vec<i16>,
    ) -> Result<Self, WeightsError> {
        if inputs == 0 || outputs == 0 || weights.len() != inputs * outputs {
            return Err(WeightsError::Range("weight count"));
        }
        let wanted = match kind {
            StepKind::Static => 0,
            StepKind::Lookup if (3..=8).contains(&table_bits) => inputs << table_bits,
            StepKind::Lookup => return Err(WeightsError::Range("table bits")),
        };
        if tables.len() != wanted {
            return Err(WeightsError::Range("table count"));
        }
        if shift > 15 {
            return Err(WeightsError::Range("shift"));
        }
        Ok(Self {
            kind,
            inputs,
            outputs,
            table_bits,
            shift,
            weights,
            tables,
        })
    }

    /// Static or lookup.
    pub fn kind(&self) -> StepKind {
        self.kind
    }

    /// Features or neurons.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Pre-activations.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// b of the tables; 0 for a static step.
    pub fn table_bits(&self) -> u8 {
        self.table_bits
    }

    /// Right shift of lookup products.
    pub fn shift(&self) -> u8 {
        self.shift
    }

    /// Row `output` of the weights.
    pub fn row(&self, output: usize) -> &[i16] {
        &self.weights[output * self.inputs..][..self.inputs]
    }

    /// Table of `neuron`.
    pub fn table(&self, neuron: usize) -> &[i16] {
        let size = 1 << self.table_bits;
        &self.tables[neuron * size..][..size]
    }

    /// Largest `||row||_2^2` over the outputs of the matrix that multiplies encrypted coefficients:
    /// what the noise grows by (docs/protocol.md, section 7).
    pub fn max_row_norm_squared(&self) -> f64 {
        let row_norm = |output: usize| -> f64 {
            let row = self.row(output);
            match self.kind {
                StepKind::Static => row.iter().map(|w| f64::from(*w).powi(2)).sum(),
                StepKind::Lookup => row
                    .iter()
                    .enumerate()
                    .map(|(i, w)| -> f64 {
                        let entry = |f: &i16| {
                            f64::from(round_shift(i32::from(*w) * i32::from(*f), self.shift))
                        };
                        self.table(i).iter().map(|f| entry(f).powi(2)).sum()
                    })
                    .sum(),
            }
        };
        (0..self.outputs).map(row_norm).fold(0.0, f64::max)
    }

    /// Whether these are weights for that step of the graph.
    pub fn matches(&self, spec: &StepSpec) -> Result<(), WeightsError> {
        let require = |holds: bool, what| {
            if holds {
                Ok(())
            } else {
                Err(WeightsError::Mismatch(what))
            }
        };
        require(self.kind == spec.kind, "kind")?;
        require(self.inputs == spec.inputs as usize, "inputs")?;
        require(self.outputs == spec.outputs as usize, "outputs")?;
        let bits_agree = self.kind == StepKind::Static || self.table_bits == spec.input_bits;
        require(bits_agree, "table bits")
    }

    /// The blob, with 32 fresh random bytes as its salt.
    pub fn to_blob(&self, salt: &[u8; 32]) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD + 2 * (self.weights.len() + self.tables.len()));
        out.extend_from_slice(b"CXWB");
        out.extend_from_slice(&1u16.to_le_bytes());
        out.push(u8::from(self.kind == StepKind::Lookup));
        out.push(self.shift);
        // both are at most 2^16 in any graph, see chemxor_core::StepGraph
        out.extend_from_slice(&(self.inputs as u32).to_le_bytes());
        out.extend_from_slice(&(self.outputs as u32).to_le_bytes());
        out.extend_from_slice(&[self.table_bits, 0, 0, 0]);
        out.extend_from_slice(salt);
        for value in self.weights.iter().chain(&self.tables) {
            out.extend_from_slice(&value.to_le_bytes());
        }
        out
    }

    /// Reads a blob. Sizes are checked against the blob's length before anything is allocated.
    pub fn from_blob(blob: &[u8]) -> Result<Self, WeightsError> {
        if blob.len() < HEAD || &blob[..4] != b"CXWB" || blob[4..6] != [1, 0] {
            return Err(WeightsError::Format);
        }
        let kind = match blob[6] {
            0 => StepKind::Static,
            1 => StepKind::Lookup,
            _ => return Err(WeightsError::Range("kind")),
        };
        let u32_at = |at: usize| {
            u32::from_le_bytes([blob[at], blob[at + 1], blob[at + 2], blob[at + 3]]) as usize
        };
        let (shift, inputs, outputs, bits) = (blob[7], u32_at(8), u32_at(12), blob[16]);
        if blob[17..20] != [0, 0, 0] || bits > 8 {
            return Err(WeightsError::Range("table bits"));
        }
        let weights = inputs
            .checked_mul(outputs)
            .ok_or(WeightsError::Range("weight count"))?;
        let tables = if kind == StepKind::Lookup {
            inputs << bits
        } else {
            0
        };
        if weights > MAX_ENTRIES || tables > MAX_ENTRIES {
            return Err(WeightsError::Range("weight count"));
        }
        let expected = HEAD + 2 * (weights + tables);
        if blob.len() != expected {
            return Err(WeightsError::Length {
                got: blob.len(),
                expected,
            });
        }
        let read = |bytes: &[u8]| -> Vec<i16> {
            bytes
                .chunks_exact(2)
                .map(|pair| i16::from_le_bytes([pair[0], pair[1]]))
                .collect()
        };
        let (weight_bytes, table_bytes) = blob[HEAD..].split_at(2 * weights);
        Self::new(
            kind,
            inputs,
            outputs,
            bits,
            shift,
            read(weight_bytes),
            read(table_bytes),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lookup() -> StepWeights {
        StepWeights::new_lookup(2, 3, 3, 4, vec![1, -2, 3, -4, 5, -6], (0..16).collect()).unwrap()
    }

    #[test]
    fn blobs_round_trip_and_refuse_every_other_length() {
        let blob = lookup().to_blob(&[7; 32]);
        assert_eq!(StepWeights::from_blob(&blob).unwrap(), lookup());
        for end in 0..blob.len() {
            assert!(StepWeights::from_blob(&blob[..end]).is_err());
        }
        let longer = [blob.as_slice(), &[0]].concat();
        assert!(matches!(
            StepWeights::from_blob(&longer),
            Err(WeightsError::Length { .. })
        ));
    }

    #[test]
    fn debug_shows_no_weight() {
        assert_eq!(
            format!("{:?}", lookup()),
            "StepWeights(Lookup, 2 -> 3, [redacted])"
        );
    }

    #[test]
    fn rounding_is_to_nearest() {
        assert_eq!(
            [-3, -2, -1, 0, 1, 2, 3].map(|v| round_shift(v, 1)),
            [-1, -1, 0, 0, 1, 1, 2]
        );
        assert_eq!(round_shift(-5, 0), -5);
    }

    proptest! {
        #[test]
        fn garbage_is_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), head in any::<bool>()) {
            if head && bytes.len() > 8 {
                bytes[..7].copy_from_slice(b"CXWB\x01\0\x01");
            }
            // must not panic or allocate beyond the input; almost all garbage is refused
            let _ = StepWeights::from_blob(&bytes);
        }
    }
}
