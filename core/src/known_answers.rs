//! Known answers: molecules with what the clear twin of a model answers for them. They stand in the
//! signed manifest, so whoever may query a version can ask the same molecules encrypted and compare
//! (docs/decisions/0022-known-answers.md). A server cannot tell such a query from another by its
//! content.

use serde::{Deserialize, Serialize};

/// Most known answers of a manifest.
pub const MAX_KNOWN_ANSWERS: usize = 64;
/// Longest SMILES of one, in bytes.
const MAX_SMILES: usize = 500;
/// An answer may be off by at most one part in this many of the circle of codes, so that a model that
/// answers anything else fails: a random code passes with a probability of about 1/8 for each output and
/// molecule, with the least number of molecules below one in ten million.
const WIDEST: u32 = 16;

/// How far an output of so many bits may at most be from what is expected, in codes.
pub const fn widest(bits: u8) -> u32 {
    (1 << bits) / WIDEST
}

/// What an output should be, as a released code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpectedCode {
    /// Mean of the twin's runs, to the next code.
    pub code: u32,
    /// How far the encrypted run may be from it, in codes: what stochastic rounding explains.
    pub within: u32,
}

/// A molecule and the codes of all outputs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownAnswer {
    /// The molecule.
    pub smiles: String,
    /// One for each output of the model.
    pub outputs: Vec<ExpectedCode>,
}

impl KnownAnswer {
    /// Whether it can be one of a model with so many outputs of so many bits.
    pub(crate) fn is_sound(&self, outputs: usize, bits: u8) -> bool {
        let modulus = 1u64 << bits;
        let printable = self.smiles.chars().all(|c| c.is_ascii_graphic());
        let fits = |expected: &ExpectedCode| {
            u64::from(expected.code) < modulus && (1..=widest(bits)).contains(&expected.within)
        };
        (1..=MAX_SMILES).contains(&self.smiles.len())
            && printable
            && self.outputs.len() == outputs
            && self.outputs.iter().all(fits)
    }

    /// The largest distance of an output to what is expected, as a share of what is allowed. Codes
    /// of B bits wrap. Infinite when there are not as many codes as outputs.
    pub fn deviation(&self, codes: &[u32], bits: u8) -> f64 {
        if codes.len() != self.outputs.len() {
            return f64::INFINITY;
        }
        let share = |(expected, code): (&ExpectedCode, &u32)| {
            code_offset(*code, expected.code, bits).unsigned_abs() as f64
                / f64::from(expected.within)
        };
        self.outputs
            .iter()
            .zip(codes)
            .map(share)
            .fold(0.0, f64::max)
    }
}

/// The shortest way from `from` to `code` on the circle of `bits` bits.
pub fn code_offset(code: u32, from: u32, bits: u8) -> i64 {
    let modulus = 1i64 << bits;
    let offset = (i64::from(code) - i64::from(from)).rem_euclid(modulus);
    if offset >= modulus / 2 {
        offset - modulus
    } else {
        offset
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::LEAST_VECTORS;

    fn answer(code: u32, within: u32) -> KnownAnswer {
        KnownAnswer {
            smiles: "CCO".to_owned(),
            outputs: vec![ExpectedCode { code, within }],
        }
    }

    #[test]
    fn what_is_within_passes_and_another_model_does_not() {
        assert!(answer(10, 4).deviation(&[14], 8) <= 1.0);
        assert!(answer(10, 4).deviation(&[15], 8) > 1.0);
        // codes wrap: 254 is two away from 0
        assert_eq!(answer(0, 2).deviation(&[254], 8), 1.0);
        assert_eq!(code_offset(1, 255, 8), 2);
        assert_eq!(code_offset(255, 1, 8), -2);
        assert!(answer(0, 2).deviation(&[], 8).is_infinite());
    }

    /// A model that answers something else does not pass the least number of vectors, however wide its
    /// publisher makes them.
    #[test]
    fn a_model_that_answers_anything_fails_within_the_widest_bounds() {
        let bits = 8;
        let vector = answer(100, widest(bits));
        let passing = (0..1u32 << bits).filter(|code| vector.deviation(&[*code], bits) <= 1.0);
        let chance = passing.count() as f64 / f64::from(1u32 << bits);
        assert!(chance.powi(LEAST_VECTORS as i32) < 1e-6, "{chance}");
        // half of the circle, which was allowed once, lets a wrong model through every time or so
        let vector = answer(100, 127);
        let passing = (0..1u32 << bits).filter(|code| vector.deviation(&[*code], bits) <= 1.0);
        let chance = passing.count() as f64 / f64::from(1u32 << bits);
        assert!(chance.powi(LEAST_VECTORS as i32) > 0.9, "{chance}");
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert!(answer(255, 16).is_sound(1, 8));
        assert!(answer(255, 256).is_sound(1, 12));
        assert!(!answer(256, 1).is_sound(1, 8));
        assert!(!answer(0, 0).is_sound(1, 8), "nothing would pass");
        assert!(!answer(0, 17).is_sound(1, 8), "much would pass");
        assert!(
            !answer(0, 127).is_sound(1, 8),
            "nearly everything would pass"
        );
        assert!(!answer(0, 1).is_sound(2, 8));
        let mut odd = answer(0, 1);
        odd.smiles = "C C".to_owned();
        assert!(!odd.is_sound(1, 8));
        odd.smiles.clear();
        assert!(!odd.is_sound(1, 8));
    }
}
