//! GLWE parameters. Standard deviations come from tfhe's security formulas and nowhere else.

use chemxor_core::{RingName, RingStatement};
use tfhe::core_crypto::commons::noise_formulas::secure_noise::{
    minimal_glwe_variance_for_132_bits_security_gaussian as secure_variance,
    minimal_lwe_variance_for_132_bits_security_gaussian as secure_lwe_variance,
};
use tfhe::core_crypto::prelude::{GlweDimension, LweDimension, PolynomialSize};

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

/// Least security of a published model, in bits.
pub const LEAST_SECURITY_BITS: u32 = 128;

/// Security in bits of LWE with binary secrets of dimension `n`, modulus `2^torus_bits` and noise of
/// standard deviation `std` (fractions of the torus), from tfhe's formula for 132 bits. Noise that
/// the formula asks for gives 132, never more. Less noise is rated by the dimension `n'` for which it
/// would give 132: `132 n / n'`, since at a fixed noise rate the cost exponent of lattice reduction
/// grows linearly in the dimension (Albrecht, Player, Scott, 2015). An estimate, made to refuse.
pub fn security_bits(n: usize, torus_bits: u32, std: f64) -> u32 {
    let modulus = f64::from(torus_bits).exp2();
    let asked = |n: usize| secure_lwe_variance(LweDimension(n), modulus).0.sqrt();
    // the formula is compared with its own square root, hence the tiny slack
    let enough = |n: usize| std >= asked(n) * (1.0 - 1e-9);
    if !std.is_finite() || !(0.0..1.0).contains(&std) || n == 0 {
        return 0;
    }
    if enough(n) {
        return SECURITY_BITS;
    }
    // more noise is asked of smaller dimensions: the first that is content
    let (mut low, mut high) = (n, 1usize << 16);
    if !enough(high) {
        return 0;
    }
    while high - low > 1 {
        let middle = usize::midpoint(low, high);
        if enough(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    (u64::from(SECURITY_BITS) * n as u64 / high as u64) as u32
}

/// A bundle's parameters are weak or unknown to this build.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum WeakParameters {
    /// Below [`LEAST_SECURITY_BITS`].
    #[error(
        "ring {ring} of the bundle has {bits} bits of security, at least {LEAST_SECURITY_BITS} are \
         required: train it again with a current release"
    )]
    Weak {
        /// Which ring.
        ring: &'static str,
        /// Recomputed.
        bits: u32,
    },
    /// Not what this build computes with under that name.
    #[error("ring {ring} of the bundle is not the one of this release: upgrade the older side")]
    Unknown {
        /// Which ring.
        ring: &'static str,
    },
    /// A ring of the graph that is not stated.
    #[error("ring {ring} of the step graph is not among the bundle's parameters")]
    Missing {
        /// Which ring.
        ring: &'static str,
    },
}

/// What a bundle states about its rings.
pub fn statements(rings: &[RingName]) -> Vec<RingStatement> {
    rings
        .iter()
        .map(|ring| RingParams::of(*ring).statement())
        .collect()
}

/// Recomputes the security of every ring that a bundle states, and refuses a weak one. Rings of the
/// graph must be stated, and be those of this build.
pub fn check_statements(
    rings: &[RingName],
    statements: &[RingStatement],
) -> Result<(), WeakParameters> {
    for statement in statements {
        let ring = statement.ring.as_str();
        let std = statement.log2_noise_std.exp2();
        let n = statement.lwe_dimension as usize;
        let bits = security_bits(n, statement.torus_bits.into(), std);
        if bits < LEAST_SECURITY_BITS {
            return Err(WeakParameters::Weak { ring, bits });
        }
        let own = RingParams::of(statement.ring).statement();
        let close = (own.log2_noise_std - statement.log2_noise_std).abs() < 1e-6;
        if !close
            || (own.lwe_dimension, own.torus_bits)
                != (statement.lwe_dimension, statement.torus_bits)
        {
            return Err(WeakParameters::Unknown { ring });
        }
    }
    match rings
        .iter()
        .find(|ring| statements.iter().all(|statement| statement.ring != **ring))
    {
        Some(ring) => Err(WeakParameters::Missing {
            ring: ring.as_str(),
        }),
        None => Ok(()),
    }
}

impl RingParams {
    /// The parameters as a bundle states them.
    pub fn statement(&self) -> RingStatement {
        RingStatement {
            ring: self.name,
            // three rings exist, all small
            lwe_dimension: self.lwe_dimension() as u32,
            torus_bits: self.torus_bits as u8,
            log2_noise_std: self.noise_std.log2(),
        }
    }

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

    #[test]
    fn the_table_of_the_registry_is_that_of_the_formulas() {
        for ring in RingName::ALL {
            let own = RingParams::of(ring).statement();
            assert_eq!(
                chemxor_core::check_rings(&[ring], std::slice::from_ref(&own)),
                Ok(())
            );
            // a quarter of a bit of noise less is refused; what is not refused has 128 bits
            for less in [0.0, 0.05, 0.1, 0.15, 0.2, 0.25] {
                let statement = RingStatement {
                    log2_noise_std: own.log2_noise_std - less,
                    ..own.clone()
                };
                let n = own.lwe_dimension as usize;
                let std = statement.log2_noise_std.exp2();
                let bits = security_bits(n, own.torus_bits.into(), std);
                let passes = chemxor_core::check_rings(&[ring], &[statement]).is_ok();
                assert!(!passes || bits >= LEAST_SECURITY_BITS, "{ring:?} {less}");
                assert!(!passes || less < 0.25, "{ring:?} {less}");
            }
        }
    }

    #[test]
    fn less_noise_is_less_security() {
        for name in RingName::ALL {
            let ring = RingParams::of(name);
            let bits = |std| security_bits(ring.lwe_dimension(), ring.torus_bits, std);
            assert_eq!(bits(ring.noise_std), SECURITY_BITS);
            assert_eq!(bits(ring.noise_std * 2.0), SECURITY_BITS);
            assert!((100..132).contains(&bits(ring.noise_std / 16.0)));
            assert_eq!(bits(0.0), 0);
            assert_eq!(bits(f64::NAN), 0);
        }
    }

    #[test]
    fn weak_missing_and_foreign_rings_are_refused() {
        let own = RingParams::of(RingName::N1024Q32).statement();
        let rings = [RingName::N1024Q32];
        let check = |statement: RingStatement| check_statements(&rings, &[statement]);
        assert_eq!(check(own.clone()), Ok(()));
        let weak = RingStatement {
            log2_noise_std: own.log2_noise_std - 4.0,
            ..own.clone()
        };
        assert!(matches!(
            check(weak),
            Err(WeakParameters::Weak { bits: ..128, .. })
        ));
        let foreign = RingStatement {
            log2_noise_std: own.log2_noise_std + 1.0,
            ..own.clone()
        };
        assert!(matches!(
            check(foreign),
            Err(WeakParameters::Unknown { .. })
        ));
        let other = RingStatement {
            ring: RingName::N2048Q64,
            ..RingParams::of(RingName::N2048Q64).statement()
        };
        assert!(matches!(
            check(other),
            Err(WeakParameters::Missing { ring: "n1024-q32" })
        ));
    }
}
