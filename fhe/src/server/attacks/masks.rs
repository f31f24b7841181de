//! Trap 1: fresh `u`, `e1`, `e2` for every returned ciphertext. Trap 2: the client chooses no mask.

use std::sync::Arc;

use chemxor_core::{RingName, StepGraph};
use rand::{RngExt, SeedableRng, rngs::ChaCha20Rng};

use super::support::*;
use crate::client::ClientKey;
use crate::network::StepWeights;
use crate::ring::RingParams;
use crate::rng::{Purpose, SecretRng};
use crate::server::{PreparedStep, PublicKeys, SeedLog};
use crate::wire;

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

/// With masks of its own choice a client sends the constant `2^20` as mask of its ciphertext and 0 as
/// mask of its public key: then the reply's mask is `2^20 W` plus a little noise.
#[test]
fn a_client_that_chose_its_masks_would_read_the_weights() {
    let row = weights(N, 6);
    let exact: Vec<i64> = row.iter().map(|w| i64::from(*w)).collect();
    let read = |masks: &[u32]| -> Vec<i64> {
        let rounded = |x: &u32| i64::from((*x as i32 + (1 << 19)) >> 20);
        masks.iter().rev().map(rounded).collect()
    };

    // unprotected: u times a zero mask vanishes, e1 alone hides nothing
    let mut constant = vec![0u32; N];
    constant[0] = 1 << 20;
    let mut reply = unprotected_mask(&row, &constant);
    let mut rng = SecretRng::from_os().unwrap();
    rng.add_noise(&mut reply, RingParams::of(RingName::N1024Q32).noise_std);
    assert_eq!(read(&reply), exact);

    // real: messages carry seeds; no seed gives a mask of the client's choice, and with seeds the
    // same reading gives nothing
    let step_spec = spec(N as u32, 1, RingName::N1024Q32, N as u32, (8, 32, 30));
    let bench = Bench::new(&step_spec, row);
    assert_eq!(
        bench.key.public_keys(&[RingName::N1024Q32]).unwrap().len(),
        8 + 20 + 4 * N,
        "one seed and one body: no room for a mask"
    );
    assert_eq!(bench.message(&vec![0; N]).len(), 28 + 4 * N);
    for seed in 0..=255u8 {
        let small = expand(Purpose::PublicKey, &[seed; 16])
            .iter()
            .filter(|x| **x < 1 << 12)
            .count();
        // expected 2^-20 of 1,024; ten have probability below 2^-100
        assert!(small < 10);
    }
    let groups = bench.groups(&bench.message(&vec![0; N]));
    let masks: Vec<u32> = groups[0].masks.iter().map(|x| x << 2).collect();
    let hits = read(&masks)
        .iter()
        .zip(&exact)
        .filter(|(g, e)| g == e)
        .count();
    // 4,096 values are possible: 1,024 guesses hit 0.25 times, 12 with probability below 2^-48
    assert!(hits < 12, "{hits} weights were guessed");
}
