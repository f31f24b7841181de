//! What a step must remember of its blinds: the top b bits of each. Never sent to the client
//! before the last step, never printed, wiped when dropped.

use zeroize::{Zeroize, ZeroizeOnDrop};

/// Top `bits` bits of the blind of each output.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Blinds {
    bits: u8,
    values: Vec<u16>,
}

impl std::fmt::Debug for Blinds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Blinds({}, [redacted])", self.values.len())
    }
}

impl Blinds {
    pub(super) fn new(bits: u8, values: Vec<u16>) -> Self {
        Self { bits, values }
    }

    /// b.
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// One for each neuron, below `2^b`. For the next step of the evaluation and for tests that
    /// compute the carries of a run.
    pub fn values(&self) -> &[u16] {
        &self.values
    }

    pub(super) fn to_bytes(&self) -> zeroize::Zeroizing<Vec<u8>> {
        let mut out = zeroize::Zeroizing::new(Vec::with_capacity(1 + 2 * self.values.len()));
        out.push(self.bits);
        for value in &self.values {
            out.extend_from_slice(&value.to_le_bytes());
        }
        out
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (bits, rest) = bytes.split_first()?;
        if !(3..=8).contains(bits) || rest.len() % 2 != 0 {
            return None;
        }
        let values: Vec<u16> = rest
            .chunks_exact(2)
            .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
            .collect();
        values
            .iter()
            .all(|value| *value < 1 << bits)
            .then_some(Self {
                bits: *bits,
                values,
            })
    }
}
