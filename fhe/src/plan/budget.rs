//! The noise budget (docs/protocol.md, section 7), in fractions of the torus.

use crate::ring::RingParams;

/// Largest allowed standard deviation of the error of a rounded pre-activation, in units of its
/// last bit: an eighth, so that the error only blurs the carry.
pub const TOLERANCE: f64 = 0.125;

/// The same where integers are spaced two buckets apart and must come out exactly: half a bucket to
/// each side is then more than eight standard deviations.
pub const EXACT_TOLERANCE: f64 = 0.0625;

/// Standard deviation of the error of a phase before the switch, and of the switch itself.
/// `norm_squared` is that of the weight polynomials: the sum over all rows that share one.
pub fn errors(ring: &RingParams, norm_squared: f64, body_bits: u8, switch_bits: u8) -> (f64, f64) {
    let fresh = ring.noise_std.powi(2) + ring.body_rounding_variance(body_bits);
    let before = (fresh * norm_squared + ring.rerandomisation_variance()).sqrt();
    (before, ring.switch_variance(switch_bits).sqrt())
}

/// Largest allowed error, in fractions of the torus: `tolerance` of the last output bit.
pub fn allowed_error(output_bits: u8, tolerance: f64) -> f64 {
    (-f64::from(output_bits)).exp2() * tolerance
}

/// log2 of a bound on the probability that a Gaussian error of standard deviation `std` exceeds
/// `margin` to either side: `P <= sqrt(2/pi) / x exp(-x^2/2)` with `x = margin / std`.
pub fn tail_log2(std: f64, margin: f64) -> f64 {
    let x = margin / std;
    let bound = -x * x / 2.0 * std::f64::consts::LOG2_E - x.log2()
        + (2.0 / std::f64::consts::PI).sqrt().log2();
    bound.min(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tolerances_keep_wrong_buckets_below_two_to_the_minus_forty() {
        // off by more than the carry and its blur: an error of a whole bucket
        assert!(tail_log2(TOLERANCE, 1.0) < -48.0);
        assert!(tail_log2(EXACT_TOLERANCE, 0.5) < -48.0);
        assert!(
            (tail_log2(1.0, 1.96) - 0.05f64.log2()).abs() < 0.3,
            "close to the exact tail"
        );
    }
}
