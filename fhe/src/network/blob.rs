//! Byte format of weight blobs, version 2, little endian:
//!
//! | bytes | what |
//! |---|---|
//! | 4 | `CXWB` |
//! | 2 | version = 2 |
//! | 1 | kind: 0 static, 1 lookup |
//! | 1 | shift |
//! | 4, 4 | inputs, outputs |
//! | 1 | table bits, 0 when static |
//! | 1 | form: 0 dense, 1 filters, 2 sparse |
//! | 1 | biases: 0 none, 1 one for each output |
//! | 1 | 0 |
//! | 32 | random: makes the blob's digest a hiding commitment |
//! | | biases, i32 × outputs |
//! | | dense: weights i16 × outputs × inputs, row major |
//! | | filters: channels, height, width, filters, kernel, stride, padding u32; weights i16 × filters × channels × kernel² |
//! | | sparse: entries u32 of each row; their inputs u32, increasing in a row; their weights i16 |
//! | | lookup: tables i16 × inputs × 2^bits |
//!
//! Nothing may follow.

use chemxor_core::{Conv2d, StepKind};

use super::matrix::{MAX_ENTRIES, Matrix};
use super::{StepWeights, WeightsError};

const HEAD: usize = 20 + 32;
const VERSION: u16 = 2;

/// Reads numbers off the front; the length is checked before anything is allocated.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize, width: usize) -> Result<&'a [u8], WeightsError> {
        if count > MAX_ENTRIES {
            return Err(WeightsError::Range("weight count"));
        }
        let expected = count * width;
        let (bytes, rest) = self
            .rest
            .split_at_checked(expected)
            .ok_or(WeightsError::Length {
                got: self.rest.len(),
                expected,
            })?;
        self.rest = rest;
        Ok(bytes)
    }

    fn i16s(&mut self, count: usize) -> Result<Vec<i16>, WeightsError> {
        let bytes = self.bytes(count, 2)?;
        Ok(bytes
            .chunks_exact(2)
            .map(|b| i16::from_le_bytes([b[0], b[1]]))
            .collect())
    }

    fn u32s(&mut self, count: usize) -> Result<Vec<u32>, WeightsError> {
        let bytes = self.bytes(count, 4)?;
        Ok(bytes
            .chunks_exact(4)
            .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect())
    }

    fn u32(&mut self) -> Result<u32, WeightsError> {
        Ok(self.u32s(1)?[0])
    }

    fn matrix(&mut self, form: u8, inputs: usize, outputs: usize) -> Result<Matrix, WeightsError> {
        let too_many = WeightsError::Range("weight count");
        match form {
            0 => Ok(Matrix::Dense(
                self.i16s(inputs.checked_mul(outputs).ok_or(too_many)?)?,
            )),
            1 => {
                let conv = Conv2d {
                    channels: self.u32()?,
                    height: self.u32()?,
                    width: self.u32()?,
                    filters: self.u32()?,
                    kernel: self.u32()?,
                    stride: self.u32()?,
                    padding: self.u32()?,
                };
                if !conv.is_sound() {
                    return Err(WeightsError::Range("convolution"));
                }
                let count = conv
                    .taps()
                    .checked_mul(conv.filters as usize)
                    .ok_or(too_many)?;
                Ok(Matrix::Filters(conv, self.i16s(count)?))
            }
            2 => {
                let counts = self.u32s(outputs)?;
                let mut starts = Vec::with_capacity(outputs + 1);
                let mut total = 0u32;
                starts.push(0);
                for count in counts {
                    total = total.checked_add(count).ok_or_else(|| too_many.clone())?;
                    starts.push(total);
                }
                Ok(Matrix::Sparse {
                    starts,
                    inputs: self.u32s(total as usize)?,
                    weights: self.i16s(total as usize)?,
                })
            }
            _ => Err(WeightsError::Range("form")),
        }
    }
}

impl StepWeights {
    /// The blob, with 32 fresh random bytes as its salt.
    pub fn to_blob(&self, salt: &[u8; 32]) -> Vec<u8> {
        let mut out =
            Vec::with_capacity(HEAD + 2 * (self.matrix.weights().len() + self.tables.len()));
        out.extend_from_slice(b"CXWB");
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.push(u8::from(self.kind == StepKind::Lookup));
        out.push(self.shift);
        let u32s = |out: &mut Vec<u8>, values: &[u32]| {
            out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        };
        // both are at most 2^16 in any graph, see chemxor_core::StepGraph
        u32s(&mut out, &[self.inputs as u32, self.outputs as u32]);
        let form = match &self.matrix {
            Matrix::Dense(_) => 0,
            Matrix::Filters(..) => 1,
            Matrix::Sparse { .. } => 2,
        };
        out.extend_from_slice(&[self.table_bits, form, u8::from(!self.biases.is_empty()), 0]);
        out.extend_from_slice(salt);
        out.extend(self.biases.iter().flat_map(|bias| bias.to_le_bytes()));
        match &self.matrix {
            Matrix::Dense(_) => {}
            Matrix::Filters(conv, _) => u32s(
                &mut out,
                &[
                    conv.channels,
                    conv.height,
                    conv.width,
                    conv.filters,
                    conv.kernel,
                    conv.stride,
                    conv.padding,
                ],
            ),
            Matrix::Sparse { starts, inputs, .. } => {
                let counts: Vec<u32> = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
                u32s(&mut out, &counts);
                u32s(&mut out, inputs);
            }
        }
        for value in self.matrix.weights().iter().chain(&self.tables) {
            out.extend_from_slice(&value.to_le_bytes());
        }
        out
    }

    /// Reads a blob. Sizes are checked against the blob's length before anything is allocated.
    pub fn from_blob(blob: &[u8]) -> Result<Self, WeightsError> {
        if blob.len() < HEAD || &blob[..4] != b"CXWB" || blob[4..6] != VERSION.to_le_bytes() {
            return Err(WeightsError::Format);
        }
        let kind = match blob[6] {
            0 => StepKind::Static,
            1 => StepKind::Lookup,
            _ => return Err(WeightsError::Range("kind")),
        };
        let (shift, bits, form, with_biases) = (blob[7], blob[16], blob[17], blob[18]);
        if bits > 8 || with_biases > 1 || blob[19] != 0 {
            return Err(WeightsError::Range("header"));
        }
        let mut reader = Reader { rest: &blob[8..16] };
        let (inputs, outputs) = (reader.u32()? as usize, reader.u32()? as usize);
        reader.rest = &blob[HEAD..];
        let count = if with_biases == 1 { outputs } else { 0 };
        let biases = reader
            .u32s(count)?
            .into_iter()
            .map(|bias| bias as i32)
            .collect();
        let matrix = reader.matrix(form, inputs, outputs)?;
        let tables = if kind == StepKind::Lookup {
            inputs << bits
        } else {
            0
        };
        let tables = reader.i16s(tables)?;
        if !reader.rest.is_empty() {
            return Err(WeightsError::Length {
                got: blob.len(),
                expected: blob.len() - reader.rest.len(),
            });
        }
        Self {
            kind,
            inputs,
            outputs,
            table_bits: bits,
            shift,
            biases,
            matrix,
            tables,
        }
        .checked()
    }
}
