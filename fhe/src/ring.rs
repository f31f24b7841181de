//! GLWE parameters. Standard deviations come from tfhe's security formulas and nowhere else.

use chemxor_core::RingName;
use tfhe::core_crypto::commons::noise_formulas::secure_noise::minimal_glwe_variance_for_132_bits_security_gaussian as secure_variance;
use tfhe::core_crypto::prelude::{GlweDimension, PolynomialSize};

/// Parameters of a ring: torus modulus `2^torus_bits`, polynomials modulo `X^size + 1`, GLWE
/// dimension k, binary secrets, Gaussian noise.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RingParams {
    /// Its name on the wire and in manifests.
    pub name: RingName,
    /// w: bits of a torus element.
    pub torus_bits: u32,
    /// N: coefficients of a polynomial.
    pub size: usize,
    /// k: mask polynomials of a ciphertext.
    pub dimension: usize,
    /// Standard deviation of fresh noise, in fractions of the torus.
    pub noise_std: f64,
}

/// Security of every ring against known attacks, in bits: what tfhe's formulas were fitted to.
pub const SECURITY_BITS: u32 = 132;

impl RingParams {
    /// The parameters of a ring.
    pub fn of(name: RingName) -> Self {
        let (torus_bits, size, dimension) = match name {
            RingName::N1024Q32 => (32, 1024, 1),
            RingName::N1536Q64 => (64, 512, 3),
            RingName::N2048Q64 => (64, 2048, 1),
        };
        let variance = secure_variance(
            GlweDimension(dimension),
            PolynomialSize(size),
            f64::from(torus_bits).exp2(),
        );
        Self {
            name,
            torus_bits,
            size,
            dimension,
            noise_std: variance.0.sqrt(),
        }
    }

    /// n = kN: dimension of the underlying LWE problem.
    pub fn lwe_dimension(&self) -> usize {
        self.size * self.dimension
    }

    /// Variance of the re-randomisation, in torus units squared: `u*e + e2 - e1*s` with binary `u`
    /// and `s`, so `sigma^2 (n/2 + 1 + n/2)`.
    pub fn rerandomisation_variance(&self) -> f64 {
        self.noise_std.powi(2) * (self.lwe_dimension() as f64 + 1.0)
    }

    /// Variance of switching mask and body to `2^bits`, in torus units squared.
    pub fn switch_variance(&self, bits: u8) -> f64 {
        (1.0 + self.lwe_dimension() as f64 / 2.0) / 12.0 * (-2.0 * f64::from(bits)).exp2()
    }

    /// Variance that dropping all but the top `bits` bits of a body coefficient adds (rounded to
    /// nearest; zero when nothing is dropped).
    pub fn body_rounding_variance(&self, bits: u8) -> f64 {
        if u32::from(bits) >= self.torus_bits {
            0.0
        } else {
            (-2.0 * f64::from(bits)).exp2() / 12.0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_what_the_protocol_note_states() {
        let log_std = |name| RingParams::of(name).noise_std.log2();
        assert!((log_std(RingName::N1024Q32) + 22.8).abs() < 0.1);
        assert!((log_std(RingName::N1536Q64) + 35.6).abs() < 0.1);
        assert!((log_std(RingName::N2048Q64) + 48.3).abs() < 0.1);
    }
}
