//! Trap 6: seeds never coincide, and noise is never derived from a public seed. Trap 7: foreign
//! ciphertexts are checked for dimension, count and seed.

use std::collections::HashSet;

use chemxor_core::RingName;
use rand::{RngExt, SeedableRng, rngs::ChaCha20Rng};

use super::support::*;
use crate::client::encrypt;
use crate::ring::RingParams;
use crate::rng::{Purpose, SecretRng};
use crate::server::{PublicKeys, SeedLog, SeedReused, StepError};
use crate::torus::{fourier_zero, noise};
use crate::wire::{self, WireError};

#[test]
fn two_ciphertexts_under_one_mask_show_the_server_their_difference() {
    let step_spec = spec(64, 16, RingName::N1024Q32, 64, (8, 32, 30));
    let bench = Bench::new(&step_spec, weights(1024, 14));
    let key = bench.key.ring(RingName::N1024Q32).unwrap();
    let mut rng = SecretRng::from_os().unwrap();
    let hot = |at: usize| {
        let mut plain = vec![0u32; N];
        plain[at] = 1 << 28;
        plain
    };
    let show = |a: &[u32], b: &[u32]| -> Vec<usize> {
        let large =
            |(_, (a, b)): &(usize, (&u32, &u32))| (a.wrapping_sub(**b) as i32).abs() > 1 << 26;
        a.iter()
            .zip(b)
            .enumerate()
            .filter(large)
            .map(|(i, _)| i)
            .collect()
    };

    // unprotected: both bodies under the mask of one seed
    let mask = expand(Purpose::Ciphertexts, &[9; 16]);
    let mut under_one_mask = |mut body: Vec<u32>| {
        key.add_mask_product(&mut body, &mask, &mut fourier_zero(N));
        rng.add_noise(&mut body, key.params().noise_std);
        body
    };
    let (a, b) = (under_one_mask(hot(17)), under_one_mask(hot(400)));
    assert_eq!(show(&a, &b), [17, 400], "the server sees both molecules");

    // real: every encryption draws its seed, and the difference is uniform
    let (mut a, mut b) = (hot(17), hot(400));
    let seeds = [
        encrypt(key, &mut a, &mut rng),
        encrypt(key, &mut b, &mut rng),
    ];
    assert_ne!(seeds[0], seeds[1]);
    assert!(show(&a, &b).len() > N / 2);
    let many: HashSet<_> = (0..10_000).map(|_| rng.seed()).collect();
    assert_eq!(many.len(), 10_000);

    // and a server takes a seed once, in whatever message it stands
    let log = SeedLog::default();
    let message = bench.message(&[0; 64]);
    bench
        .step
        .evaluate(&bench.public, None, &message, &log)
        .unwrap();
    let public = bench.key.public_keys(&[RingName::N1024Q32]).unwrap();
    let mut clash = public.clone();
    clash[12..28].copy_from_slice(&seed_of(&message));
    assert!(PublicKeys::from_bytes(&clash, &[RingName::N1024Q32], &log).is_err());
    PublicKeys::from_bytes(&public, &[RingName::N1024Q32], &log).unwrap();
    let mut clash = bench.message(&[0; 64]);
    clash[12..28].copy_from_slice(&public[12..28]);
    let refused = bench.step.evaluate(&bench.public, None, &clash, &log);
    assert_eq!(refused.unwrap_err(), StepError::Seed(SeedReused));
}

/// `b = A s + e` with `e` known is a linear equation: `s = (b - e) / A`.
#[test]
fn noise_derived_from_the_public_seed_would_give_the_secret_key() {
    let params = RingParams::of(RingName::N1024Q32);
    let key = crate::client::ClientKey::generate(&[RingName::N1024Q32]).unwrap();
    let secret = key.ring(RingName::N1024Q32).unwrap();
    let bits: Vec<u32> = secret
        .secret_bits()
        .iter()
        .map(|bit| u32::from(*bit))
        .collect();
    let normals = |seed: [u8; 16]| -> Vec<u32> {
        let mut wide = [0; 32];
        wide[..16].copy_from_slice(&seed);
        let mut rng = ChaCha20Rng::from_seed(wide);
        let normal = |_| {
            // twelve uniforms: close enough to a normal for an unprotected variant
            let sum: f64 = (0..12).map(|_| rng.random_range(0.0..1.0)).sum();
            noise::<u32>(params.noise_std, sum - 6.0)
        };
        (0..N).map(normal).collect()
    };
    let divisible = |purpose| {
        (0..=255u8).find_map(|i| {
            let mask = expand(purpose, &[i; 16]);
            Some(([i; 16], invert(&mask)?, mask))
        })
    };
    let (seed, inverse, mask) = divisible(Purpose::PublicKey).unwrap();
    let mut body = vec![0u32; N];
    secret.add_mask_product(&mut body, &mask, &mut fourier_zero(N));

    // unprotected: the server makes the same noise from the seed that it was sent
    let e = normals(seed);
    let sent: Vec<u32> = body
        .iter()
        .zip(&e)
        .map(|(b, e)| b.wrapping_add(*e))
        .collect();
    let known: Vec<u32> = sent
        .iter()
        .zip(normals(seed))
        .map(|(b, e)| b.wrapping_sub(e))
        .collect();
    assert_eq!(multiply(&known, &inverse), bits);

    // real: keys of the system's generator; the same division gives no binary polynomial
    loop {
        let public = key.public_keys(&[RingName::N1024Q32]).unwrap();
        let parsed = wire::decode_public_keys(&public, &[RingName::N1024Q32]).unwrap();
        let Some(inverse) = invert(&expand(Purpose::PublicKey, &parsed[0].seed)) else {
            continue;
        };
        let words = parsed[0].bodies.chunks_exact(4);
        let body: Vec<u32> = words
            .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect();
        let e = normals(parsed[0].seed);
        let known: Vec<u32> = body.iter().zip(e).map(|(b, e)| b.wrapping_sub(e)).collect();
        let binary = multiply(&known, &inverse)
            .iter()
            .filter(|x| **x < 2)
            .count();
        // two of 2^32 values: five of 1,024 have probability below 2^-100
        assert!(binary < 5, "{binary} coefficients look like bits");
        return;
    }
}

/// Without purposes, a ciphertext with the public key's seed would have its mask: the bodies'
/// difference is the plaintext.
#[test]
fn purposes_keep_masks_of_keys_and_ciphertexts_apart() {
    for seed in 0..64u8 {
        let a = expand(Purpose::PublicKey, &[seed; 16]);
        let b = expand(Purpose::Ciphertexts, &[seed; 16]);
        assert!(a.iter().zip(&b).filter(|(a, b)| a == b).count() < 5);
    }
}

/// Every header field, length and seed is checked before a ciphertext is used; what is inside may
/// be anything (see `leakage`).
#[test]
fn foreign_ciphertexts_are_refused() {
    let step_spec = spec(64, 16, RingName::N1024Q32, 64, (8, 32, 30));
    let bench = Bench::new(&step_spec, weights(1024, 15));
    let good = bench.message(&[0; 64]);
    let evaluate = |message: &[u8]| {
        bench
            .step
            .evaluate(&bench.public, None, message, &SeedLog::default())
    };
    assert!(evaluate(&good).is_ok());
    for at in 0..12 {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert!(
            matches!(evaluate(&bad), Err(StepError::Wire(_))),
            "byte {at}"
        );
    }
    for length in [0, 27, 28, good.len() - 1] {
        assert!(matches!(evaluate(&good[..length]), Err(StepError::Wire(_))));
    }
    let longer = [good.as_slice(), &[0]].concat();
    assert!(matches!(
        evaluate(&longer),
        Err(StepError::Wire(WireError::Length { .. }))
    ));
    // two ciphertexts where the step takes one
    let other = spec(128, 8, RingName::N1024Q32, 64, (8, 32, 30));
    let foreign = Bench::new(&other, weights(1024, 16)).message(&[0; 128]);
    let refused = WireError::Field {
        what: "step input",
        field: "ciphertext count",
    };
    assert_eq!(evaluate(&foreign).unwrap_err(), StepError::Wire(refused));
}
