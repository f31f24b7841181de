//! What the attacks share: arithmetic modulo `X^N + 1`, steps with known weights, and a bench that
//! holds what nobody holds in production: full blinds and the secret key together.

use std::sync::Arc;

use chemxor_core::{RingName, StepGraph, StepKind, StepSpec};
use num_complex::Complex64;
use rand::{RngExt, SeedableRng, rngs::ChaCha20Rng};

use crate::client::{ClientKey, Query};
use crate::fft::{Negacyclic, multiply_add};
use crate::network::StepWeights;
use crate::rng::{MaskRng, Purpose, Seed};
use crate::server::evaluate::Group;
use crate::server::{PreparedStep, PublicKeys, SeedLog};
use crate::torus::{Torus, fourier_zero};
use crate::wire;

pub(super) const N: usize = 1024;

/// `a * b` modulo `X^N + 1` and `2^32`.
pub(super) fn multiply(a: &[u32], b: &[u32]) -> Vec<u32> {
    let mut out = vec![0u32; N];
    for (i, a) in a.iter().enumerate().filter(|(_, a)| **a != 0) {
        for (j, b) in b.iter().enumerate() {
            let product = a.wrapping_mul(*b);
            let k = i + j;
            out[k % N] = if k < N {
                out[k].wrapping_add(product)
            } else {
                out[k - N].wrapping_sub(product)
            };
        }
    }
    out
}

/// The inverse of `a` modulo `X^N + 1` and `2^32`, when its coefficients have an odd sum:
/// `a^N = a(1) = 1` modulo 2, so `a^(N-1)` is the inverse modulo 2; Newton's iteration lifts it.
pub(super) fn invert(a: &[u32]) -> Option<Vec<u32>> {
    if a.iter().fold(0u32, |sum, x| sum ^ x) & 1 == 0 {
        return None;
    }
    let mut square: Vec<u32> = a.iter().map(|x| x & 1).collect();
    let mut inverse = vec![0u32; N];
    inverse[0] = 1;
    for _ in 0..N.trailing_zeros() {
        inverse = multiply(&inverse, &square).iter().map(|x| x & 1).collect();
        square = multiply(&square, &square).iter().map(|x| x & 1).collect();
    }
    for _ in 0..5 {
        let mut correction: Vec<u32> = multiply(a, &inverse)
            .iter()
            .map(|x| 0u32.wrapping_sub(*x))
            .collect();
        correction[0] = correction[0].wrapping_add(2);
        inverse = multiply(&inverse, &correction);
    }
    Some(inverse)
}

pub(super) fn spec(
    inputs: u32,
    outputs: u32,
    ring: RingName,
    per_input: u32,
    bits: (u8, u8, u8),
) -> StepSpec {
    StepSpec {
        geometry: Default::default(),
        expansion: Default::default(),
        kind: StepKind::Static,
        inputs,
        outputs,
        input_bits: 3,
        accumulator_bits: 16,
        output_bits: bits.0,
        ring,
        inputs_per_polynomial: per_input,
        body_bits: bits.1,
        switch_bits: bits.2,
    }
}

pub(super) fn weights(count: usize, seed: u64) -> Vec<i16> {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    (0..count)
        .map(|_| rng.random_range(-100i16..=100))
        .collect()
}

/// A message of a client whose mask can be divided by, and that mask.
pub(super) fn divisible_message(
    key: &Arc<ClientKey>,
    graph: &StepGraph,
) -> (Vec<u8>, Vec<u32>, Vec<u32>) {
    loop {
        let (_, message) = Query::start(key, graph, &vec![0; N]).unwrap();
        let mask = expand(Purpose::Ciphertexts, &seed_of(&message));
        if let Some(inverse) = invert(&mask) {
            return (message, mask, inverse);
        }
    }
}

/// What a server without re-randomisation would send: `P * A`, P the weight polynomial.
pub(super) fn unprotected_mask(row: &[i16], mask: &[u32]) -> Vec<u32> {
    fast_multiply(mask, |i| f64::from(row[N - 1 - i]))
}

/// Weights read from a quotient: coefficient i of the weight polynomial is `W[N-1-i]`.
pub(super) fn read_weights(quotient: &[u32]) -> Vec<i64> {
    quotient
        .iter()
        .rev()
        .map(|x| i64::from(*x as i32))
        .collect()
}

/// One static step in the small ring with a client's keys.
pub(super) struct Bench {
    pub(super) step: PreparedStep,
    pub(super) graph: StepGraph,
    pub(super) key: Arc<ClientKey>,
    pub(super) public: PublicKeys,
}

impl Bench {
    pub(super) fn new(step_spec: &StepSpec, weights: Vec<i16>) -> Self {
        let (inputs, outputs) = (step_spec.inputs as usize, step_spec.outputs as usize);
        let weights = StepWeights::new_static(inputs, outputs, weights).unwrap();
        let rings = [RingName::N1024Q32];
        let key = Arc::new(ClientKey::generate(&rings).unwrap());
        let public = key.public_keys(&rings).unwrap();
        Self {
            step: PreparedStep::new(step_spec, true, weights).unwrap(),
            graph: StepGraph::new(vec![step_spec.clone()]).unwrap(),
            public: PublicKeys::from_bytes(&public, &rings, &SeedLog::default()).unwrap(),
            key,
        }
    }

    /// An honest client's message.
    pub(super) fn message(&self, features: &[u16]) -> Vec<u8> {
        Query::start(&self.key, &self.graph, features).unwrap().1
    }

    /// The real path up to the wire, with the blinds that only the server knows.
    pub(super) fn groups(&self, message: &[u8]) -> Vec<Group<u32>> {
        let (seed, bodies) = wire::decode_input::<u32>(&self.step.shape, message).unwrap();
        let inputs = self.step.transform_inputs(&seed, &bodies);
        let mut scratch = self.step.scratch();
        (0..self.step.shape.layout.output_count())
            .map(|group| {
                self.step
                    .output_group(group, &self.public, &inputs, None, &mut scratch)
                    .unwrap()
            })
            .collect()
    }

    /// What the client decrypts from the outputs of a group: phases modulo 2^m.
    pub(super) fn phases(&self, group: usize, result: &Group<u32>) -> Vec<u32> {
        let product = self.mask_times_secret(&result.masks);
        let modulus_mask = (1u32 << self.step.shape.spec.switch_bits) - 1;
        let outputs = self.step.shape.layout.group(group).zip(&result.bodies);
        outputs
            .map(|((_, at), body)| body.wrapping_sub(product[at]) & modulus_mask)
            .collect()
    }

    pub(super) fn mask_times_secret(&self, masks: &[u32]) -> Vec<u32> {
        let secret = self.key.ring(RingName::N1024Q32).unwrap();
        let mut product = vec![0u32; N];
        secret.add_mask_product(&mut product, masks, &mut fourier_zero(N));
        product
    }
}

/// Mask of a seed, as the server expands it.
pub(super) fn expand(purpose: Purpose, seed: &Seed) -> Vec<u32> {
    let mut mask = vec![0u32; N];
    MaskRng::new(purpose, seed).fill(&mut mask);
    mask
}

/// The seed in a message.
pub(super) fn seed_of(message: &[u8]) -> Seed {
    let mut seed = Seed::default();
    seed.copy_from_slice(&message[12..28]);
    seed
}

/// `a * b` in double precision, exact for small `b`.
pub(super) fn fast_multiply(a: &[u32], b: impl Fn(usize) -> f64) -> Vec<u32> {
    let fft = Negacyclic::of(N);
    let (mut fourier_a, mut fourier_b) = (fourier_zero(N), fourier_zero(N));
    fft.forward_torus(&mut fourier_a, a);
    fft.forward(&mut fourier_b, b);
    let mut acc = vec![Complex64::default(); N / 2];
    multiply_add(&mut acc, &fourier_a, &fourier_b);
    let mut out = vec![0u32; N];
    fft.backward(&mut acc, &mut out, |_, value| u32::from_f64(value));
    out
}
