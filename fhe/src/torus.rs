//! Torus elements: unsigned integers of w bits, read modulo `2^w`.

use bytemuck::Pod;
use num_complex::Complex64;

/// A torus element: `u32` or `u64`.
pub trait Torus:
    Pod + Copy + Send + Sync + Eq + std::fmt::Debug + zeroize::DefaultIsZeroes
{
    /// w.
    const BITS: u32;
    /// Pieces into which an element is cut so that a product with a binary polynomial is exact in
    /// double precision: pieces of at most 32 bits.
    const LIMBS: usize;

    /// `self + other` modulo `2^w`.
    fn add(self, other: Self) -> Self;
    /// `self - other` modulo `2^w`.
    fn sub(self, other: Self) -> Self;
    /// `self * factor` modulo `2^w`.
    fn scale(self, factor: i64) -> Self;
    /// The low w bits of `value`.
    fn from_u64(value: u64) -> Self;
    /// The value, in `0..2^w`.
    fn to_u64(self) -> u64;
    /// The value as a signed integer in double precision, rounded when w = 64.
    fn to_f64(self) -> f64;
    /// The integer nearest to `value`, modulo `2^w`. Exact for `|value| < 2^51`; above that only
    /// w = 64 accepts it, at the precision of a double.
    fn from_f64(value: f64) -> Self;
    /// Limb `index` as a signed integer, exact.
    fn limb(self, index: usize) -> f64;
    /// The integer nearest to `value` (`|value| < 2^51`), times `2^(32 index)`, modulo `2^w`.
    fn from_limb(value: f64, index: usize) -> Self;
}

/// Adding this rounds to an integer and leaves it in the low bits: exact for `|x| < 2^51`.
const ROUND: f64 = 6_755_399_441_055_744.0; // 1.5 * 2^52

#[inline(always)]
fn low_bits(value: f64) -> u64 {
    (value + ROUND).to_bits().wrapping_sub(ROUND.to_bits())
}

impl Torus for u32 {
    const BITS: u32 = 32;
    const LIMBS: usize = 1;

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.wrapping_add(other)
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.wrapping_sub(other)
    }
    #[inline(always)]
    fn scale(self, factor: i64) -> Self {
        self.wrapping_mul(factor as u32)
    }
    #[inline(always)]
    fn from_u64(value: u64) -> Self {
        value as u32
    }
    #[inline(always)]
    fn to_u64(self) -> u64 {
        self.into()
    }
    #[inline(always)]
    fn to_f64(self) -> f64 {
        f64::from(self as i32)
    }
    #[inline(always)]
    fn from_f64(value: f64) -> Self {
        low_bits(value) as u32
    }
    #[inline(always)]
    fn limb(self, _: usize) -> f64 {
        self.to_f64()
    }
    #[inline(always)]
    fn from_limb(value: f64, _: usize) -> Self {
        low_bits(value) as u32
    }
}

impl Torus for u64 {
    const BITS: u32 = 64;
    const LIMBS: usize = 2;

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.wrapping_add(other)
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.wrapping_sub(other)
    }
    #[inline(always)]
    fn scale(self, factor: i64) -> Self {
        self.wrapping_mul(factor as u64)
    }
    #[inline(always)]
    fn from_u64(value: u64) -> Self {
        value
    }
    #[inline(always)]
    fn to_u64(self) -> u64 {
        self
    }
    #[inline(always)]
    fn to_f64(self) -> f64 {
        self as i64 as f64
    }
    #[inline(always)]
    fn from_f64(value: f64) -> Self {
        const TURN: f64 = 18_446_744_073_709_551_616.0; // 2^64
        let turns = value * (1.0 / TURN);
        let fraction = turns - turns.round_ties_even();
        (fraction * TURN) as i64 as u64
    }
    #[inline(always)]
    fn limb(self, index: usize) -> f64 {
        let low = self as u32 as i32;
        if index == 0 {
            f64::from(low)
        } else {
            // what is left after the signed low limb
            f64::from((self.wrapping_sub(i64::from(low) as u64) >> 32) as u32 as i32)
        }
    }
    #[inline(always)]
    fn from_limb(value: f64, index: usize) -> Self {
        low_bits(value) << (32 * index)
    }
}

/// Rounds a torus element to its top `bits` bits: `round(value / 2^(w - bits))` modulo `2^bits`.
#[inline(always)]
pub fn switch_down<T: Torus>(value: T, bits: u32) -> u64 {
    if bits >= T::BITS {
        return value.to_u64();
    }
    let shift = T::BITS - bits;
    let rounded = value.add(T::from_u64(1 << (shift - 1)));
    rounded.to_u64() >> shift
}

/// Gaussian noise of standard deviation `std` (torus units) from a standard normal sample.
#[inline(always)]
pub fn noise<T: Torus>(std: f64, standard_normal: f64) -> T {
    // |std * normal| stays far below 2^51 for every ring: std is at most 2^29 units
    T::from_limb(standard_normal * std * f64::from(T::BITS).exp2(), 0)
}

/// An empty Fourier polynomial for polynomials of `size` coefficients.
pub fn fourier_zero(size: usize) -> Vec<Complex64> {
    vec![Complex64::default(); size / 2]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn limbs_add_up(value in any::<u64>()) {
            let sum = (0..2).fold(0u64, |sum, i| sum.add(u64::from_limb(value.limb(i), i)));
            prop_assert_eq!(sum, value);
        }

        #[test]
        fn integers_survive_double_precision(value in -(1i64 << 50)..(1i64 << 50)) {
            prop_assert_eq!(u32::from_f64(value as f64), value as u32);
            prop_assert_eq!(u64::from_limb(value as f64, 0), value as u64);
            prop_assert_eq!(u64::from_f64(value as f64), value as u64);
        }

        #[test]
        fn switching_rounds_to_nearest(value in any::<u32>(), bits in 1u32..32) {
            let exact = f64::from(value) / 2f64.powi(32 - bits as i32);
            let switched = switch_down(value, bits) as f64;
            let turn = 2f64.powi(bits as i32);
            let error = (switched - exact).abs();
            prop_assert!(error <= 0.5 || (turn - error) <= 0.5);
        }
    }
}
