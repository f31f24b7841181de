//! The client's public keys, prepared for re-randomisation, and the log of seeds of a session.
//!
//! Masks are expanded from the seed; a client cannot choose them (trap 2).

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use chemxor_core::RingName;
use num_complex::Complex64;

use crate::fft::{Negacyclic, multiply_add};
use crate::ring::RingParams;
use crate::rng::{MaskRng, Purpose, SecretRng, Seed};
use crate::torus::{Torus, fourier_zero};
use crate::wire::{self, WireError};

/// A seed was used before in this session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a seed was sent twice")]
pub struct SeedReused;

/// Seeds that a session has used: those of two ciphertexts never coincide (trap 6).
#[derive(Debug, Default)]
pub struct SeedLog(Mutex<HashSet<Seed>>);

impl SeedLog {
    /// Records a seed, or refuses one that was here before.
    pub fn record(&self, seed: Seed) -> Result<(), SeedReused> {
        // inserting leaves the set whole even if another thread panicked meanwhile
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.insert(seed) {
            Ok(())
        } else {
            Err(SeedReused)
        }
    }
}

/// Rows of one ring's public key in the Fourier domain, cut into limbs so that products with a
/// binary polynomial are exact.
struct RingPublicKey {
    params: RingParams,
    /// `[row][limb][mask 0 .. mask k-1, body]`, N/2 values each.
    rows: Vec<Vec<Vec<Complex64>>>,
}

/// A client's public keys, one for each ring of the model.
pub struct PublicKeys {
    rings: Vec<RingPublicKey>,
}

impl std::fmt::Debug for PublicKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.rings.iter().map(|key| key.params.name))
            .finish()
    }
}

impl PublicKeys {
    /// Reads and prepares the keys for exactly these rings (sorted); records their seeds.
    pub fn from_bytes(
        bytes: &[u8],
        rings: &[RingName],
        seeds: &SeedLog,
    ) -> Result<Self, WireError> {
        let keys = wire::decode_public_keys(bytes, rings)?;
        let mut prepared = Vec::with_capacity(keys.len());
        for key in keys {
            let reused = WireError::Field {
                what: "public key set",
                field: "seed",
            };
            seeds.record(key.seed).map_err(|_| reused)?;
            let params = RingParams::of(key.ring);
            let rows = if params.torus_bits == 32 {
                prepare::<u32>(&params, &key.seed, key.bodies)
            } else {
                prepare::<u64>(&params, &key.seed, key.bodies)
            };
            prepared.push(RingPublicKey { params, rows });
        }
        Ok(Self { rings: prepared })
    }

    /// Adds a fresh encryption of zero, without its noise `e1`, `e2`, to a ciphertext of k mask
    /// polynomials and a body: `sum_i u_i * row_i` for fresh binary `u_i`, exactly.
    pub(super) fn add_zero<T: Torus>(
        &self,
        ring: RingName,
        ciphertext: &mut [T],
        rng: &mut SecretRng,
    ) -> Result<(), WireError> {
        let key = self.ring(ring)?;
        let (size, k) = (key.params.size, key.params.dimension);
        let fft = Negacyclic::of(size);
        let us = key.draw_us(rng);
        let mut acc = fourier_zero(size);
        for (column, sink) in ciphertext.chunks_exact_mut(size).enumerate() {
            for limb in 0..T::LIMBS {
                acc.fill(Complex64::default());
                for (row, u) in key.rows.iter().zip(&us) {
                    multiply_add(&mut acc, u, &row[limb * (k + 1) + column]);
                }
                fft.backward(&mut acc, sink, |old, value| {
                    old.add(T::from_limb(value, limb))
                });
            }
        }
        Ok(())
    }
}

impl PublicKeys {
    /// The same in the Fourier domain, added to sums of products before their inverse transform;
    /// for w = 32, where the rounding of double precision is far below `e1` and `e2`.
    pub(super) fn add_zero_fourier(
        &self,
        ring: RingName,
        acc: &mut [Complex64],
        rng: &mut SecretRng,
    ) -> Result<(), WireError> {
        let key = self.ring(ring)?;
        debug_assert_eq!(key.params.torus_bits, 32);
        for (row, u) in key.rows.iter().zip(key.draw_us(rng)) {
            for (acc, column) in acc.chunks_exact_mut(key.params.size / 2).zip(row) {
                multiply_add(acc, &u, column);
            }
        }
        Ok(())
    }

    fn ring(&self, ring: RingName) -> Result<&RingPublicKey, WireError> {
        let mut keys = self.rings.iter();
        keys.find(|key| key.params.name == ring)
            .ok_or(WireError::Rings)
    }
}

impl RingPublicKey {
    /// Fresh binary `u_1 .. u_k`, in the Fourier domain.
    fn draw_us(&self, rng: &mut SecretRng) -> Vec<Vec<Complex64>> {
        let (size, k) = (self.params.size, self.params.dimension);
        let fft = Negacyclic::of(size);
        let mut bits = vec![0u8; size];
        let us = (0..k)
            .map(|_| {
                rng.fill_binary(&mut bits);
                let mut u = fourier_zero(size);
                fft.forward(&mut u, |i| f64::from(bits[i]));
                u
            })
            .collect();
        zeroize::Zeroize::zeroize(&mut bits);
        us
    }
}

fn prepare<T: Torus>(params: &RingParams, seed: &Seed, bodies: &[u8]) -> Vec<Vec<Vec<Complex64>>> {
    let (size, k) = (params.size, params.dimension);
    let fft = Negacyclic::of(size);
    let mut masks = MaskRng::new(Purpose::PublicKey, seed);
    let width = T::BITS as usize / 8;
    let mut row = vec![T::from_u64(0); (k + 1) * size];
    bodies
        .chunks_exact(size * width)
        .map(|body| {
            masks.fill(&mut row[..k * size]);
            for (value, bytes) in row[k * size..].iter_mut().zip(body.chunks_exact(width)) {
                let mut wide = [0; 8];
                wide[..width].copy_from_slice(bytes);
                *value = T::from_u64(u64::from_le_bytes(wide));
            }
            let transform = |limb: usize, polynomial: &[T]| {
                let mut out = fourier_zero(size);
                fft.forward_limb(&mut out, polynomial, limb);
                out
            };
            (0..T::LIMBS)
                .flat_map(|limb| row.chunks_exact(size).map(move |p| (limb, p)))
                .map(|(limb, polynomial)| transform(limb, polynomial))
                .collect()
        })
        .collect()
}
