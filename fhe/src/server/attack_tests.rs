//! Traps 1 and its variant, shown on unprotected replies built here and tried on the real path;
//! and the noise of replies against the formulas of the planner. These tests see what nobody sees
//! in production: full blinds and the secret key together.

use std::sync::Arc;

use chemxor_core::{RingName, StepGraph, StepKind, StepSpec};
use num_complex::Complex64;
use rand::{RngExt, SeedableRng, rngs::ChaCha20Rng};

use crate::client::{ClientKey, Query};
use crate::fft::{Negacyclic, multiply_add};
use crate::network::StepWeights;
use crate::plan::errors;
use crate::ring::RingParams;
use crate::rng::{MaskRng, Purpose};
use crate::server::{PreparedStep, PublicKeys, SeedLog};
use crate::torus::{Torus, fourier_zero};
use crate::wire;

const N: usize = 1024;

/// `a * b` modulo `X^N + 1` and `2^32`.
fn multiply(a: &[u32], b: &[u32]) -> Vec<u32> {
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
fn invert(a: &[u32]) -> Option<Vec<u32>> {
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

fn spec(inputs: u32, outputs: u32, ring: RingName, per_input: u32, bits: (u8, u8, u8)) -> StepSpec {
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

fn weights(count: usize, seed: u64) -> Vec<i16> {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    (0..count)
        .map(|_| rng.random_range(-100i16..=100))
        .collect()
}

/// A message of a client whose mask can be divided by, and that mask.
fn divisible_message(key: &Arc<ClientKey>, graph: &StepGraph) -> (Vec<u8>, Vec<u32>, Vec<u32>) {
    loop {
        let (_, message) = Query::start(key, graph, &vec![0; N]).unwrap();
        let mut seed = [0; 16];
        seed.copy_from_slice(&message[12..28]);
        let mut mask = vec![0u32; N];
        MaskRng::new(Purpose::Ciphertexts, &seed).fill(&mut mask);
        if let Some(inverse) = invert(&mask) {
            return (message, mask, inverse);
        }
    }
}

/// What a server without re-randomisation would send: `P * A`, P the weight polynomial.
fn unprotected_mask(row: &[i16], mask: &[u32]) -> Vec<u32> {
    let fft = Negacyclic::of(N);
    let (mut a, mut p) = (fourier_zero(N), fourier_zero(N));
    fft.forward_torus(&mut a, mask);
    fft.forward(&mut p, |i| f64::from(row[N - 1 - i]));
    let mut acc = vec![Complex64::default(); N / 2];
    multiply_add(&mut acc, &a, &p);
    let mut out = vec![0u32; N];
    fft.backward(&mut acc, &mut out, |_, value| u32::from_f64(value));
    out
}

/// Weights read from a quotient: coefficient i of the weight polynomial is `W[N-1-i]`.
fn read_weights(quotient: &[u32]) -> Vec<i64> {
    quotient
        .iter()
        .rev()
        .map(|x| i64::from(*x as i32))
        .collect()
}

#[test]
fn without_rerandomisation_one_reply_gives_the_weights_and_with_it_nothing() {
    let row = weights(N, 1);
    let step_spec = spec(N as u32, 1, RingName::N1024Q32, N as u32, (8, 32, 30));
    let graph = StepGraph::new(vec![step_spec.clone()]).unwrap();
    let key = Arc::new(ClientKey::generate(&[RingName::N1024Q32]).unwrap());
    let (message, mask, inverse) = divisible_message(&key, &graph);
    let exact: Vec<i64> = row.iter().map(|w| i64::from(*w)).collect();

    // the attack works on the unprotected path
    let stolen = read_weights(&multiply(&unprotected_mask(&row, &mask), &inverse));
    assert_eq!(stolen, exact);

    // and gives nothing on the real path, even from masks before the modulus switch
    let network = StepWeights::new_static(N, 1, row).unwrap();
    let step = PreparedStep::new(&step_spec, true, network).unwrap();
    let seeds = SeedLog::default();
    let rings = [RingName::N1024Q32];
    let public = key.public_keys(&rings).unwrap();
    let public = PublicKeys::from_bytes(&public, &rings, &seeds).unwrap();
    let done = step.evaluate(&public, None, &message, &seeds).unwrap();
    let reply = wire::decode_reply(step.shape(), &done.reply).unwrap();
    let masks: Vec<u32> = reply.masks.iter().map(|x| x << 2).collect();
    let guess = read_weights(&multiply(&masks, &inverse));
    let hits = guess.iter().zip(&exact).filter(|(g, e)| g == e).count();
    // a uniform guess hits one of 1,024 with probability 2^-22; five hits have probability below 2^-60
    assert!(hits < 5, "{hits} weights were guessed");
    let in_range = guess.iter().filter(|g| g.abs() <= 100).count();
    assert!(in_range < 5, "{in_range} values look like weights");
}

#[test]
fn one_encryption_of_zero_for_two_replies_gives_the_difference_of_their_weights() {
    let rows = [weights(N, 2), weights(N, 3)];
    let step_spec = spec(N as u32, 2, RingName::N1024Q32, N as u32, (8, 32, 30));
    let graph = StepGraph::new(vec![step_spec.clone()]).unwrap();
    let key = Arc::new(ClientKey::generate(&[RingName::N1024Q32]).unwrap());
    let (message, mask, inverse) = divisible_message(&key, &graph);
    let subtract = |a: &[u32], b: &[u32]| -> Vec<u32> {
        a.iter().zip(b).map(|(a, b)| a.wrapping_sub(*b)).collect()
    };
    let exact: Vec<i64> = rows[0]
        .iter()
        .zip(&rows[1])
        .map(|(a, b)| i64::from(*a) - i64::from(*b))
        .collect();

    // unprotected: the same uniform mask of "zero" on both replies cancels
    let mut rng = ChaCha20Rng::seed_from_u64(4);
    let zero: Vec<u32> = (0..N).map(|_| rng.random()).collect();
    let add = |a: Vec<u32>| -> Vec<u32> {
        a.iter()
            .zip(&zero)
            .map(|(a, z)| a.wrapping_add(*z))
            .collect()
    };
    let replies = rows.each_ref().map(|row| add(unprotected_mask(row, &mask)));
    let stolen = read_weights(&multiply(&subtract(&replies[0], &replies[1]), &inverse));
    assert_eq!(stolen, exact);

    // real: two output ciphertexts of one evaluation have independent encryptions of zero
    let both = rows.concat();
    let step = PreparedStep::new(
        &step_spec,
        true,
        StepWeights::new_static(N, 2, both).unwrap(),
    )
    .unwrap();
    let seeds = SeedLog::default();
    let rings = [RingName::N1024Q32];
    let public = key.public_keys(&rings).unwrap();
    let public = PublicKeys::from_bytes(&public, &rings, &seeds).unwrap();
    let done = step.evaluate(&public, None, &message, &seeds).unwrap();
    let reply = wire::decode_reply(step.shape(), &done.reply).unwrap();
    let masks: Vec<u32> = reply.masks.iter().map(|x| x << 2).collect();
    let difference = subtract(&masks[..N], &masks[N..]);
    let guess = read_weights(&multiply(&difference, &inverse));
    let hits = guess.iter().zip(&exact).filter(|(g, e)| g == e).count();
    assert!(hits < 5, "{hits} differences were guessed");
}

/// Variance of `phase - y - r` of replies, in torus units squared, over `runs` evaluations.
fn measured_variance<T: Torus>(step_spec: &StepSpec, runs: usize) -> (f64, usize, f64) {
    let (inputs, outputs) = (step_spec.inputs as usize, step_spec.outputs as usize);
    let network = StepWeights::new_static(inputs, outputs, weights(inputs * outputs, 5)).unwrap();
    let norms: Vec<f64> = (0..outputs)
        .map(|output| {
            let mut sum = 0.0;
            network.visit_row(output, |_, weight| sum += f64::from(weight).powi(2));
            sum
        })
        .collect();
    let mean_norm = norms.iter().sum::<f64>() / outputs as f64;
    let step = PreparedStep::new(step_spec, true, network).unwrap();
    let graph = StepGraph::new(vec![step_spec.clone()]).unwrap();
    let (ring, layout) = (step.shape.ring, step.shape.layout);
    let m = u32::from(step_spec.switch_bits);
    let (mut sum, mut count) = (0.0, 0);
    let mut key = None;
    for run in 0..runs {
        // the noise of one public key stays fixed, so take many keys
        if run % 2 == 0 {
            key = None;
        }
        let key =
            key.get_or_insert_with(|| Arc::new(ClientKey::generate(&[step_spec.ring]).unwrap()));
        let seeds = SeedLog::default();
        let public = key.public_keys(&[step_spec.ring]).unwrap();
        let public = PublicKeys::from_bytes(&public, &[step_spec.ring], &seeds).unwrap();
        // features are zero, so y is zero and the phase is error plus blind
        let (_, message) = Query::start(key, &graph, &vec![0; inputs]).unwrap();
        let (seed, bodies) = wire::decode_input::<T>(&step.shape, &message).unwrap();
        let transformed = step.transform_inputs(&seed, &bodies);
        let secret = key.ring(step_spec.ring).unwrap();
        let mut scratch = fourier_zero(ring.size);
        for group in 0..layout.output_count() {
            let result = step
                .output_group::<T>(group, &public, &transformed, None, &mut step.scratch())
                .unwrap();
            let mut product = vec![0u32; ring.size];
            secret.add_mask_product(&mut product, &result.masks, &mut scratch);
            for (within, (body, blind)) in result.bodies.iter().zip(&result.blinds).enumerate() {
                let phase = body.wrapping_sub(product[layout.output_at(group, within).1]);
                // subtract the blind at full precision: both in units of 2^-64
                let phase = u64::from(phase) << (64 - m);
                let blind = blind.to_u64() << (64 - T::BITS);
                let error = phase.wrapping_sub(blind) as i64 as f64 / 64f64.exp2();
                sum += error * error;
                count += 1;
            }
        }
    }
    // every row of the polynomial adds to the noise of each output
    (
        sum / count as f64,
        count,
        mean_norm * layout.per_output().min(outputs) as f64,
    )
}

fn check_formula<T: Torus>(step_spec: &StepSpec, runs: usize) {
    let (measured, count, norm) = measured_variance::<T>(step_spec, runs);
    assert!(count >= 10_000, "{count} samples");
    let ring = RingParams::of(step_spec.ring);
    let (before, switch) = errors(&ring, norm, step_spec.body_bits, step_spec.switch_bits);
    let expected = before * before + switch * switch;
    // standard error of a variance from 10,000 normal samples is 1.4 %; samples under one key share
    // its noise, which widens it; 10 % is beyond five standard errors of what was seen
    let ratio = measured / expected;
    assert!(
        (0.90..1.10).contains(&ratio),
        "{step_spec:?}: measured / expected = {ratio}"
    );
}

#[test]
fn noise_is_what_the_planner_computes() {
    // dominated by the weights, by the re-randomisation, and by the switch
    check_formula::<u32>(&spec(512, 64, RingName::N1024Q32, 64, (8, 32, 30)), 160);
    check_formula::<u32>(&spec(2, 64, RingName::N1024Q32, 2, (8, 32, 30)), 160);
    check_formula::<u32>(&spec(64, 64, RingName::N1024Q32, 64, (8, 32, 13)), 160);
    // rounded bodies, and the two 64-bit rings
    check_formula::<u32>(&spec(512, 64, RingName::N1024Q32, 64, (8, 22, 22)), 160);
    check_formula::<u64>(&spec(256, 64, RingName::N1536Q64, 64, (12, 34, 21)), 160);
    check_formula::<u64>(&spec(256, 64, RingName::N2048Q64, 64, (12, 34, 21)), 160);
}
