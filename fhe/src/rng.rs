//! Random numbers, separated by purpose.
//!
//! Secret randomness (keys, noise, `u`, blinds) is ChaCha20 keyed with 32 fresh bytes of the
//! operating system each time a generator is made, so that a forked or restored process does not
//! replay it. Public randomness (masks) is ChaCha20 keyed with SHA-256 of a label and a 16-byte
//! seed; a label for each purpose keeps the streams of public keys and ciphertexts apart.
//! Nothing secret is ever derived from a public seed.

use rand::{Rng, SeedableRng, rngs::ChaCha20Rng};
use rand_distr::{Distribution, StandardNormal};
use sha2::{Digest, Sha256};
use zeroize::Zeroize;

use crate::torus::{Torus, noise};

/// A public 16-byte seed from which masks are expanded.
pub type Seed = [u8; 16];

/// The operating system gave no random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the operating system gave no random bytes")]
pub struct RandomnessError;

/// What a public seed is expanded for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Masks of a public key.
    PublicKey,
    /// Masks of the ciphertexts of one step.
    Ciphertexts,
}

/// A generator of secret randomness.
pub struct SecretRng(ChaCha20Rng);

impl SecretRng {
    /// Keyed afresh by the operating system.
    pub fn from_os() -> Result<Self, RandomnessError> {
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(|_| RandomnessError)?;
        let rng = Self(ChaCha20Rng::from_seed(key));
        key.zeroize();
        Ok(rng)
    }

    /// A fresh public seed.
    pub fn seed(&mut self) -> Seed {
        let mut seed = Seed::default();
        self.0.fill_bytes(&mut seed);
        seed
    }

    /// Uniform torus elements.
    pub fn fill_uniform<T: Torus>(&mut self, out: &mut [T]) {
        self.0.fill_bytes(bytemuck::cast_slice_mut(out));
    }

    /// Uniform bits, one in each byte of `out` (0 or 1).
    pub fn fill_binary(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(64) {
            let word = self.0.next_u64();
            for (i, bit) in chunk.iter_mut().enumerate() {
                *bit = (word >> i) as u8 & 1;
            }
        }
    }

    /// Adds Gaussian noise of standard deviation `std` (torus units) to each element.
    pub fn add_noise<T: Torus>(&mut self, out: &mut [T], std: f64) {
        for value in out {
            let sample: f64 = StandardNormal.sample(&mut self.0);
            *value = value.add(noise(std, sample));
        }
    }
}

/// The public mask generator of a seed and purpose.
pub struct MaskRng(ChaCha20Rng);

impl MaskRng {
    /// The stream that this seed stands for.
    pub fn new(purpose: Purpose, seed: &Seed) -> Self {
        let label: &[u8] = match purpose {
            Purpose::PublicKey => b"chemxor v1 public key mask\0",
            Purpose::Ciphertexts => b"chemxor v1 ciphertext mask\0",
        };
        let key = Sha256::new()
            .chain_update(label)
            .chain_update(seed)
            .finalize();
        Self(ChaCha20Rng::from_seed(key.into()))
    }

    /// The next mask polynomial.
    pub fn fill<T: Torus>(&mut self, out: &mut [T]) {
        self.0.fill_bytes(bytemuck::cast_slice_mut(out));
        // the stream is little endian on every machine
        if cfg!(target_endian = "big") {
            for value in out {
                let bytes = bytemuck::bytes_of_mut(value);
                bytes.reverse();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purposes_and_seeds_give_unrelated_masks() {
        let first = |purpose, seed| {
            let mut out = [0u64; 4];
            MaskRng::new(purpose, &seed).fill(&mut out);
            out
        };
        let a = first(Purpose::PublicKey, [1; 16]);
        assert_ne!(a, first(Purpose::Ciphertexts, [1; 16]));
        assert_ne!(a, first(Purpose::PublicKey, [2; 16]));
        assert_eq!(a, first(Purpose::PublicKey, [1; 16]));
    }

    #[test]
    fn two_generators_never_agree() {
        let draw = || SecretRng::from_os().unwrap().seed();
        assert_ne!(draw(), draw());
    }
}
