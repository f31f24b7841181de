//! Secret keys: one binary GLWE key for each ring.

use chemxor_core::RingName;
use num_complex::Complex64;
use zeroize::Zeroize;

use crate::fft::{Negacyclic, add_binary_product};
use crate::ring::RingParams;
use crate::rng::{MaskRng, Purpose, RandomnessError, SecretRng};
use crate::torus::{Torus, fourier_zero};
use crate::wire;

/// Why a key was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Not the bytes of a key.
    #[error("this is not a ChemXor client key of version 1")]
    Format,
    /// The model needs a ring for which this key has no part.
    #[error("the key has no part for ring {}; make a new one with `chemxor keys new`", .0.as_str())]
    MissingRing(RingName),
    /// No randomness.
    #[error(transparent)]
    Randomness(#[from] RandomnessError),
}

/// Secret key of one ring. Wiped when dropped, never printed.
pub struct RingKey {
    params: RingParams,
    /// k·N bits, one in each byte.
    bits: Vec<u8>,
    /// The k polynomials in the Fourier domain.
    fourier: Vec<Vec<Complex64>>,
}

impl Drop for RingKey {
    fn drop(&mut self) {
        self.bits.zeroize();
        for polynomial in &mut self.fourier {
            for value in polynomial {
                value.re.zeroize();
                value.im.zeroize();
            }
        }
    }
}

impl std::fmt::Debug for RingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RingKey({}, [redacted])", self.params.name.as_str())
    }
}

impl RingKey {
    fn generate(ring: RingName, rng: &mut SecretRng) -> Self {
        let params = RingParams::of(ring);
        let mut bits = vec![0; params.lwe_dimension()];
        rng.fill_binary(&mut bits);
        Self::from_bits(params, bits)
    }

    fn from_bits(params: RingParams, bits: Vec<u8>) -> Self {
        let fft = Negacyclic::of(params.size);
        let fourier = bits
            .chunks_exact(params.size)
            .map(|polynomial| {
                let mut out = fourier_zero(params.size);
                fft.forward(&mut out, |i| f64::from(polynomial[i]));
                out
            })
            .collect();
        Self {
            params,
            bits,
            fourier,
        }
    }

    /// Parameters of the key's ring.
    pub fn params(&self) -> &RingParams {
        &self.params
    }

    /// The secret bits, k·N of them; for tests that compare with other implementations.
    pub fn secret_bits(&self) -> &[u8] {
        &self.bits
    }

    /// `sink += sum_j mask_j * s_j`, exactly.
    pub(crate) fn add_mask_product<T: Torus>(
        &self,
        sink: &mut [T],
        masks: &[T],
        scratch: &mut [Complex64],
    ) {
        for (mask, secret) in masks.chunks_exact(self.params.size).zip(&self.fourier) {
            add_binary_product(sink, mask, secret, scratch);
        }
    }

    /// k encryptions of zero: seed and bodies.
    fn public_key<T: Torus>(&self, rng: &mut SecretRng) -> (crate::rng::Seed, Vec<u8>) {
        let (size, k) = (self.params.size, self.params.dimension);
        let seed = rng.seed();
        let mut masks = MaskRng::new(Purpose::PublicKey, &seed);
        let mut mask = vec![T::from_u64(0); k * size];
        let mut scratch = fourier_zero(size);
        let mut bodies = vec![T::from_u64(0); k * size];
        for row in bodies.chunks_exact_mut(size) {
            masks.fill(&mut mask);
            self.add_mask_product(row, &mask, &mut scratch);
            rng.add_noise(row, self.params.noise_std);
        }
        let bytes = bodies
            .iter()
            .flat_map(|body| {
                body.to_u64()
                    .to_le_bytes()
                    .into_iter()
                    .take(T::BITS as usize / 8)
            })
            .collect();
        (seed, bytes)
    }
}

/// A client's secret keys.
#[derive(Debug)]
pub struct ClientKey {
    rings: Vec<RingKey>,
}

impl ClientKey {
    /// A fresh key for each of the rings (sorted, each once).
    pub fn generate(rings: &[RingName]) -> Result<Self, KeyError> {
        let mut rng = SecretRng::from_os()?;
        let mut rings = rings.to_vec();
        rings.sort_unstable();
        rings.dedup();
        Ok(Self {
            rings: rings
                .into_iter()
                .map(|ring| RingKey::generate(ring, &mut rng))
                .collect(),
        })
    }

    /// The part for one ring.
    pub fn ring(&self, ring: RingName) -> Result<&RingKey, KeyError> {
        self.rings
            .iter()
            .find(|key| key.params.name == ring)
            .ok_or(KeyError::MissingRing(ring))
    }

    /// Fresh public keys for these rings (sorted), in wire format. Call once for each session.
    pub fn public_keys(&self, rings: &[RingName]) -> Result<Vec<u8>, KeyError> {
        let mut rng = SecretRng::from_os()?;
        let mut keys = Vec::with_capacity(rings.len());
        for ring in rings {
            let key = self.ring(*ring)?;
            let (seed, bodies) = if key.params.torus_bits == 32 {
                key.public_key::<u32>(&mut rng)
            } else {
                key.public_key::<u64>(&mut rng)
            };
            keys.push((*ring, seed, bodies));
        }
        Ok(wire::encode_public_keys(&keys))
    }

    /// The secret in bytes: `CXSK`, version u8, rings u8, then for each ring its index in
    /// [`RingName::ALL`] and k·N bits, eight in a byte. Encrypt before storing.
    pub fn to_bytes(&self) -> zeroize::Zeroizing<Vec<u8>> {
        let mut out = zeroize::Zeroizing::new(Vec::new());
        out.extend_from_slice(b"CXSK");
        out.extend_from_slice(&[1, self.rings.len() as u8]);
        for key in &self.rings {
            let index = RingName::ALL
                .iter()
                .position(|ring| *ring == key.params.name);
            out.push(index.unwrap_or_default() as u8);
            for chunk in key.bits.chunks_exact(8) {
                out.push(
                    chunk
                        .iter()
                        .enumerate()
                        .fold(0, |byte, (i, bit)| byte | bit << i),
                );
            }
        }
        out
    }

    /// Reads [`ClientKey::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        let (head, mut rest) = bytes.split_at_checked(6).ok_or(KeyError::Format)?;
        if &head[..5] != b"CXSK\x01" || usize::from(head[5]) > RingName::ALL.len() {
            return Err(KeyError::Format);
        }
        let mut rings: Vec<RingKey> = Vec::new();
        for _ in 0..head[5] {
            let (index, after) = rest.split_first().ok_or(KeyError::Format)?;
            let name = *RingName::ALL
                .get(usize::from(*index))
                .ok_or(KeyError::Format)?;
            if rings.last().is_some_and(|last| last.params.name >= name) {
                return Err(KeyError::Format);
            }
            let params = RingParams::of(name);
            let (packed, after) = after
                .split_at_checked(params.lwe_dimension() / 8)
                .ok_or(KeyError::Format)?;
            let bits = packed
                .iter()
                .flat_map(|byte| (0..8).map(move |i| byte >> i & 1))
                .collect();
            rings.push(RingKey::from_bits(params, bits));
            rest = after;
        }
        if rest.is_empty() {
            Ok(Self { rings })
        } else {
            Err(KeyError::Format)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_round_trip_and_show_nothing() {
        let key = ClientKey::generate(&RingName::ALL).unwrap();
        let bytes = key.to_bytes();
        let back = ClientKey::from_bytes(&bytes).unwrap();
        for ring in RingName::ALL {
            assert_eq!(key.ring(ring).unwrap().bits, back.ring(ring).unwrap().bits);
        }
        assert!(!format!("{key:?}").contains('1') || format!("{key:?}").contains("redacted"));
        for end in 0..bytes.len() {
            assert_eq!(
                ClientKey::from_bytes(&bytes[..end]).unwrap_err(),
                KeyError::Format
            );
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        assert_eq!(
            ClientKey::from_bytes(&longer).unwrap_err(),
            KeyError::Format
        );
    }

    #[test]
    fn a_missing_ring_is_named() {
        let key = ClientKey::generate(&[RingName::N1024Q32]).unwrap();
        let error = key.public_keys(&[RingName::N2048Q64]).unwrap_err();
        assert_eq!(error, KeyError::MissingRing(RingName::N2048Q64));
    }
}
