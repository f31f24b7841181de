//! Seeded GLWE encryption with the mask-times-secret product by FFT.
//!
//! The product of a mask with a binary key is exact here (`fft.rs`), so the ciphertexts have the
//! distribution of tfhe's `encrypt_seeded_glwe_ciphertext`, which multiplies by Karatsuba.

use crate::client::RingKey;
use crate::rng::{MaskRng, Purpose, SecretRng, Seed};
use crate::torus::{Torus, fourier_zero};

/// Encrypts `count` polynomials under fresh masks from one fresh seed. `bodies` must hold the
/// plaintexts, count × N torus elements, and is turned into the ciphertexts' bodies.
pub fn encrypt<T: Torus>(key: &RingKey, bodies: &mut [T], rng: &mut SecretRng) -> Seed {
    let params = key.params();
    let seed = rng.seed();
    let mut masks = MaskRng::new(Purpose::Ciphertexts, &seed);
    let mut mask = vec![T::from_u64(0); params.size * params.dimension];
    let mut scratch = fourier_zero(params.size);
    for body in bodies.chunks_exact_mut(params.size) {
        masks.fill(&mut mask);
        key.add_mask_product(body, &mask, &mut scratch);
        rng.add_noise(body, params.noise_std);
    }
    seed
}
