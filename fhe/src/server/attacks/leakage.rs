//! The leakage bound: whatever a client sends, a query tells it the B released bits of each output
//! and otherwise uniform numbers (docs/protocol.md, leakage bound).

use chemxor_core::{RingName, StepGraph, StepKind, StepSpec};
use proptest::prelude::*;
use rand::{Rng, RngExt, SeedableRng, rngs::ChaCha20Rng};

use super::support::*;
use crate::client::encrypt;
use crate::rng::SecretRng;
use crate::server::SeedLog;
use crate::wire;

/// Messages that no honest client sends, and one that it does.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Honest,
    Garbage,
    NotOneHot,
    Zero,
}

fn message(bench: &Bench, kind: Kind, rng: &mut ChaCha20Rng) -> Vec<u8> {
    let mut message = bench.message(&[1; 64]);
    match kind {
        Kind::Honest => {}
        Kind::Garbage => rng.fill_bytes(&mut message[28..]),
        Kind::Zero => message[28..].fill(0),
        Kind::NotOneHot => {
            let mut bodies = vec![0u32; N];
            for body in &mut bodies {
                *body = rng.random();
            }
            let key = bench.key.ring(RingName::N1024Q32).unwrap();
            let seed = encrypt(key, &mut bodies, &mut SecretRng::from_os().unwrap());
            message = wire::encode_input(&bench.step.shape, &seed, &bodies);
        }
    }
    message
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// A reply has the length of the manifest's step and carries outputs × B opened bits, nothing
    /// else that depends on the weights: masks and bodies are uniform, also those for malicious messages (`view`).
    #[test]
    fn replies_carry_the_released_bits_and_no_more(
        kind in prop_oneof![Just(Kind::Honest), Just(Kind::Garbage), Just(Kind::NotOneHot), Just(Kind::Zero)],
        outputs in 1u32..16, released in 8u8..=16, seed in any::<u64>(),
    ) {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let step_spec = spec(64, outputs, RingName::N1024Q32, 64, (released, 32, 30));
        let bench = Bench::new(&step_spec, weights(64 * outputs as usize, seed));
        let seeds = SeedLog::default();
        let sent = message(&bench, kind, &mut rng);
        let done = bench.step.evaluate(&bench.public, None, &sent, &seeds).unwrap();
        prop_assert_eq!(done.reply.len(), bench.step.shape.reply_bytes());
        prop_assert!(done.blinds.is_none());
        let reply = wire::decode_reply(&bench.step.shape, &done.reply).unwrap();
        let opened = reply.opening.len() as u64 * u64::from(released);
        prop_assert!(reply.opening.iter().all(|r| *r < 1 << released));
        prop_assert_eq!(opened, bench.graph.leakage_bits_per_query());
        prop_assert_eq!(bench.graph.leakage_bits_per_query(), u64::from(outputs) * u64::from(released));
        // a repeat is another query: the same bytes are not answered again
        prop_assert!(bench.step.evaluate(&bench.public, None, &sent, &seeds).is_err());
    }
}

/// No step but the last opens anything.
#[test]
fn intermediate_replies_open_nothing() {
    let first = spec(64, 16, RingName::N1024Q32, 64, (4, 32, 30));
    let last = StepSpec {
        kind: StepKind::Lookup,
        inputs: 16,
        outputs: 2,
        input_bits: 4,
        output_bits: 9,
        inputs_per_polynomial: 256,
        ..first.clone()
    };
    let graph = StepGraph::new(vec![first, last]).unwrap();
    assert_eq!(graph.leakage_bits_per_query(), 18);
    let shape = |step: usize| wire::StepShape::new(&graph.steps()[step], step == 1).unwrap();
    let [first, last] = [shape(0), shape(1)];
    assert_eq!(first.reply_bytes(), 16 + N * 30 / 8 + 16 * 30 / 8);
    assert_eq!(
        last.reply_bytes(),
        16 + N * 30 / 8 + (2 * 30usize).div_ceil(8) + (2 * 9usize).div_ceil(8)
    );
}
