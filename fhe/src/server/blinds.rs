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

/// Marks an output that another worker's part holds; no blind has so many bits.
const ABSENT: u16 = u16::MAX;

impl Blinds {
    #[cfg(test)]
    pub(super) fn new(bits: u8, values: Vec<u16>) -> Self {
        Self { bits, values }
    }

    /// For so many outputs, none of them known yet.
    pub(super) fn empty(bits: u8, outputs: usize) -> Self {
        let values = vec![ABSENT; outputs];
        Self { bits, values }
    }

    pub(super) fn set(&mut self, output: usize, value: u16) {
        self.values[output] = value;
    }

    /// Whether every output is known.
    pub fn is_complete(&self) -> bool {
        !self.values.contains(&ABSENT)
    }

    /// Joins the parts of several workers; none if they overlap or do not belong together. A join
    /// may still lack outputs: see [`Blinds::is_complete`].
    pub fn join(parts: &[Self]) -> Option<Self> {
        let (first, rest) = parts.split_first()?;
        let mut joined = first.clone();
        for part in rest {
            if part.bits != joined.bits || part.values.len() != joined.values.len() {
                return None;
            }
            for (known, value) in joined.values.iter_mut().zip(&part.values) {
                match (*known, *value) {
                    (_, ABSENT) => {}
                    (ABSENT, value) => *known = value,
                    _ => return None,
                }
            }
        }
        Some(joined)
    }

    /// b.
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// One for each neuron, below `2^b` when complete. For the next step of the evaluation and for tests that
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
            .all(|value| *value < 1 << bits || *value == ABSENT)
            .then_some(Self {
                bits: *bits,
                values,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_join_once() {
        let part = |values: [u16; 3]| Blinds::new(3, values.to_vec());
        let (left, right) = (part([1, ABSENT, ABSENT]), part([ABSENT, 2, 3]));
        let joined = Blinds::join(&[left.clone(), right.clone()]).unwrap();
        assert_eq!(joined.values(), [1, 2, 3]);
        assert!(joined.is_complete() && !left.is_complete());
        assert!(Blinds::join(&[joined.clone(), right]).is_none(), "overlap");
        assert!(Blinds::join(&[left, Blinds::new(4, vec![ABSENT; 3])]).is_none());
        assert!(Blinds::join(&[]).is_none());
        assert_eq!(Blinds::from_bytes(&joined.to_bytes()), Some(joined));
    }
}
