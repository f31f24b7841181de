//! Trap 8: the client behaves the same whatever it decrypts.

use std::sync::Arc;

use chemxor_core::{RingName, StepGraph, StepKind, StepSpec};
use proptest::prelude::*;

use super::support::*;
use crate::client::{ClientKey, Progress, Query};
use crate::wire::{self, Reply, StepShape};

fn two_steps() -> StepGraph {
    let first = spec(64, 16, RingName::N1024Q32, 64, (4, 32, 30));
    let last = StepSpec {
        kind: StepKind::Lookup,
        inputs: 16,
        outputs: 1,
        input_bits: 4,
        output_bits: 8,
        inputs_per_polynomial: 256,
        ..first.clone()
    };
    StepGraph::new(vec![first, last]).unwrap()
}

/// A reply whose phase is `2^29 s_i` at output 0: the mask is chosen by a lying server.
fn probe(shape: &StepShape, bit: usize) -> Vec<u8> {
    let at = shape.layout.output_at(0, 0).1;
    let mut masks = vec![0u32; N];
    // coefficient `at` of X^(at - bit) s is s_bit; the phase is minus that, half a turn either way
    masks[(N + at - bit) % N] = 1 << 29;
    let reply = Reply {
        masks,
        bodies: vec![0; 16],
        opening: vec![],
    };
    wire::encode_reply(shape, 0..1, &reply)
}

#[test]
fn a_client_that_complains_about_values_would_give_its_key_away() {
    let graph = two_steps();
    let key = Arc::new(ClientKey::generate(&[RingName::N1024Q32]).unwrap());
    let shape = StepShape::new(&graph.steps()[0], false).unwrap();
    let bits = key.ring(RingName::N1024Q32).unwrap().secret_bits().to_vec();
    let at = shape.layout.output_at(0, 0).1;
    let probes: Vec<usize> = (0..=at).collect();

    // unprotected: "out of the calibrated range, please send again" when a phase is beyond a quarter
    let complains = |reply: &[u8]| {
        let reply = wire::decode_reply(&shape, reply).unwrap();
        let secret = key.ring(RingName::N1024Q32).unwrap();
        let mut product = vec![0u32; N];
        secret.add_mask_product(
            &mut product,
            &reply.masks,
            &mut crate::torus::fourier_zero(N),
        );
        let phase = reply.bodies[0].wrapping_sub(product[at]) & ((1 << 30) - 1);
        phase > 1 << 28
    };
    let stolen: Vec<u8> = probes
        .iter()
        .map(|bit| u8::from(complains(&probe(&shape, *bit))))
        .collect();
    assert_eq!(stolen, bits[..=at], "one bit of the key for each lie");

    // real: the same lies are answered alike, one message of one length
    let mut lengths = std::collections::BTreeSet::new();
    for bit in probes {
        let (mut query, _) = Query::start(&key, &graph, &[0; 64]).unwrap();
        let Progress::Next(message) = query.receive(&probe(&shape, bit)).unwrap() else {
            panic!()
        };
        lengths.insert((message.len(), message[..12].to_vec()));
    }
    assert_eq!(lengths.len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any reply of the right shape, at any step: never an error, and always the same lengths.
    #[test]
    fn the_client_answers_every_reply_alike(seed in any::<u64>()) {
        use rand::{RngExt, SeedableRng};
        let mut rng = rand::rngs::ChaCha20Rng::seed_from_u64(seed);
        let graph = two_steps();
        let key = Arc::new(ClientKey::generate(&[RingName::N1024Q32]).unwrap());
        let (mut query, _) = Query::start(&key, &graph, &[0; 64]).unwrap();
        for (index, step) in graph.steps().iter().enumerate() {
            let last = index == 1;
            let shape = StepShape::new(step, last).unwrap();
            let limit = 1u32 << 30;
            let outputs = shape.layout.outputs();
            let mut draw = |n: usize, limit: u32| (0..n).map(|_| rng.random_range(0..limit)).collect();
            let reply = Reply {
                masks: draw(N, limit),
                bodies: draw(outputs, limit),
                opening: if last { draw(outputs, 256) } else { vec![] },
            };
            match query.receive(&wire::encode_reply(&shape, 0..1, &reply)).unwrap() {
                Progress::Next(message) => {
                    let next = StepShape::new(&graph.steps()[1], true).unwrap();
                    prop_assert!(!last && message.len() == next.input_bytes());
                }
                Progress::Done(codes) => prop_assert!(last && codes.len() == 1 && codes[0] < 256),
            }
        }
    }
}
