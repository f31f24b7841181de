//! Trap 3: only body coefficients in use are returned. Trap 4: a blind is used once. Trap 5: blinds
//! cover the whole torus.

use chemxor_core::{RingName, StepSpec};

use super::support::*;
use crate::rng::Purpose;
use crate::server::evaluate::Group;
use crate::server::{SeedLog, StepError};
use crate::wire;

/// A client that encrypts a single 1 finds the whole weight polynomial in the product's body.
#[test]
fn coefficients_not_in_use_would_be_the_weights() {
    let (inputs, outputs) = (64, 16);
    let rows = weights(inputs * outputs, 11);
    let shape = (inputs as u32, outputs as u32);
    let step_spec = StepSpec {
        accumulator_bits: 8,
        ..spec(shape.0, shape.1, RingName::N1024Q32, 64, (8, 32, 30))
    };
    let bench = Bench::new(&step_spec, rows.clone());
    let mut features = vec![0; inputs];
    features[0] = 1;
    let message = bench.message(&features);
    let scale = 32 - u32::from(step_spec.accumulator_bits);

    // unprotected: body minus mask times secret at every coefficient of the product
    let (seed, body) = wire::decode_input::<u32>(&bench.step.shape, &message).unwrap();
    let weight = |p: usize| f64::from(rows[p / inputs * inputs + inputs - 1 - p % inputs]);
    let mask = fast_multiply(&expand(Purpose::Ciphertexts, &seed), weight);
    let body = fast_multiply(&body, weight);
    let product = bench.mask_times_secret(&mask);
    let stolen = (0..N).map(|p| {
        let phase = body[p].wrapping_sub(product[p]);
        i64::from((phase.wrapping_add(1 << (scale - 1)) as i32) >> scale)
    });
    let exact: Vec<i64> = (0..N).map(|p| weight(p) as i64).collect();
    assert_eq!(
        stolen.collect::<Vec<_>>(),
        exact,
        "every weight of every output"
    );

    // real: one body coefficient an output, each under its own blind
    let groups = bench.groups(&message);
    assert_eq!(
        groups.iter().map(|group| group.bodies.len()).sum::<usize>(),
        outputs
    );
    let reply = bench
        .step
        .evaluate(&bench.public, None, &message, &SeedLog::default())
        .unwrap()
        .reply;
    let bits = N * 30 + outputs * 30 + outputs * 8;
    assert_eq!(
        reply.len(),
        16 + bits / 8,
        "there is no room for other coefficients"
    );
}

/// The reply with another blind: what a server that used `blind` would have sent.
fn with_blind(group: &Group<u32>, m: u32, blind: &[u32]) -> Group<u32> {
    let swap = |((body, own), blind): ((&u32, &u32), &u32)| {
        let full = (body << (32 - m)).wrapping_sub(*own).wrapping_add(*blind);
        full >> (32 - m)
    };
    Group {
        masks: group.masks.clone(),
        bodies: group
            .bodies
            .iter()
            .zip(&group.blinds)
            .zip(blind)
            .map(swap)
            .collect(),
        blinds: blind.to_vec(),
    }
}

/// Four outputs with weights of ±10, whose noise is far below one unit of an `l`-bit accumulator.
fn quiet_bench(l: u8, seed: u64) -> (Bench, Vec<i16>) {
    let rows: Vec<i16> = weights(64 * OUTPUTS, seed).iter().map(|w| w / 10).collect();
    let step_spec = StepSpec {
        accumulator_bits: l,
        ..spec(64, OUTPUTS as u32, RingName::N1024Q32, 64, (8, 32, 30))
    };
    (Bench::new(&step_spec, rows.clone()), rows)
}

const OUTPUTS: usize = 4;

fn unit_vector(at: usize) -> Vec<u16> {
    (0..64).map(|i| u16::from(i == at)).collect()
}

#[test]
fn a_blind_used_twice_gives_differences_of_pre_activations() {
    let (bench, rows) = quiet_bench(11, 12);
    let scale = 30 - 11;
    let difference = |a: &Group<u32>, b: &Group<u32>| -> Vec<i64> {
        let subtract = |(a, b): (u32, u32)| {
            let difference = (b.wrapping_sub(a) << 2) as i32 >> 2;
            i64::from((difference + (1 << (scale - 1))) >> scale)
        };
        bench
            .phases(0, a)
            .into_iter()
            .zip(bench.phases(0, b))
            .map(subtract)
            .collect()
    };
    let zero = bench.message(&[0; 64]);
    let a = bench.groups(&zero).remove(0);
    let mut hits = 0;
    for column in 0..16 {
        let b = bench.groups(&bench.message(&unit_vector(column))).remove(0);
        let exact: Vec<i64> = (0..OUTPUTS)
            .map(|o| i64::from(rows[o * 64 + column]))
            .collect();
        // unprotected: the second answer under the blinds of the first
        assert_eq!(difference(&a, &with_blind(&b, 30, &a.blinds)), exact);
        // real: blinds are fresh
        hits += difference(&a, &b)
            .iter()
            .zip(&exact)
            .filter(|(g, e)| g == e)
            .count();
    }
    // differences are uniform over 2^11 values: six of 64 have probability below 2^-39
    assert!(hits < 6, "{hits} weights were guessed");

    // and the same message is not answered twice
    let seeds = SeedLog::default();
    bench
        .step
        .evaluate(&bench.public, None, &zero, &seeds)
        .unwrap();
    let replay = bench.step.evaluate(&bench.public, None, &zero, &seeds);
    assert!(matches!(replay, Err(StepError::Seed(_))));
}

#[test]
fn blinds_over_the_message_space_would_show_the_low_bits() {
    // 8 of 13 bits are rounded away: the client must not see them
    let (bench, rows) = quiet_bench(13, 13);
    let (scale, low) = (30 - 13, 13 - 8);
    let read = |group: &Group<u32>| -> Vec<i64> {
        let value =
            |phase: u32| i64::from((phase + (1 << (scale - 1))) >> scale).rem_euclid(1 << low);
        bench.phases(0, group).into_iter().map(value).collect()
    };
    let mut hits = 0;
    for column in 0..16 {
        let group = bench.groups(&bench.message(&unit_vector(column))).remove(0);
        let exact = (0..OUTPUTS).map(|o| i64::from(rows[o * 64 + column]).rem_euclid(1 << low));
        let exact: Vec<i64> = exact.collect();
        // unprotected: blinds uniform over the 8 released bits, zero below
        let coarse: Vec<u32> = group.blinds.iter().map(|r| r >> 24 << 24).collect();
        assert_eq!(read(&with_blind(&group, 30, &coarse)), exact);
        // real: the low bits are blinded too
        hits += read(&group)
            .iter()
            .zip(&exact)
            .filter(|(g, e)| g == e)
            .count();
    }
    // uniform over 32 values: 20 of 64 have probability below 2^-42
    assert!(hits < 20, "{hits} low parts were guessed");
}
