//! The encrypted run equals the clear twin fed with the carries of the run, bit for bit, over
//! random networks: shapes, precisions, tilings and rings as the planner picks them.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "protocol/decoders.rs"]
mod decoders;
#[path = "protocol/forms.rs"]
mod forms;
#[path = "protocol/golden.rs"]
mod golden;
#[path = "../../bench/src/nets.rs"]
mod nets;
mod support;

use std::sync::Arc;

use chemxor_core::{RingName, StepGraph, StepKind, StepSpec};
use chemxor_fhe::client::{ClientKey, Progress, Query};
use chemxor_fhe::network::StepWeights;
use chemxor_fhe::plan::{LayerDemand, plan_graph};
use chemxor_fhe::server::{PublicKeys, SeedLog};
use proptest::prelude::*;
use rand::{Rng, RngExt, SeedableRng, rngs::ChaCha20Rng};
use support::{Network, compare, network, run};

fn demand(weights: &StepWeights, bits: (u8, u8, u8)) -> LayerDemand {
    LayerDemand::of(weights, bits.0, bits.1, bits.2)
}

/// A random network of these widths; `b` bits between steps, `released` at the end.
fn random_network(widths: &[usize], b: u8, released: u8, rng: &mut ChaCha20Rng) -> Network {
    let mut weights = Vec::new();
    let mut demands = Vec::new();
    for (index, pair) in widths.windows(2).enumerate() {
        let (inputs, outputs) = (pair[0], pair[1]);
        let values = (0..inputs * outputs)
            .map(|_| rng.random_range(-40i16..=40))
            .collect();
        let last = index + 2 == widths.len();
        let out_bits = if last { released } else { b };
        let layer = if index == 0 {
            StepWeights::new_static(inputs, outputs, values).unwrap()
        } else {
            let tables = (0..inputs << b)
                .map(|_| rng.random_range(-30i16..=30))
                .collect();
            StepWeights::new_lookup(inputs, outputs, b, 4, values, tables).unwrap()
        };
        let input_bits = if index == 0 { 3 } else { b };
        demands.push(demand(&layer, (input_bits, out_bits.max(13), out_bits)));
        weights.push(layer);
    }
    network(plan_graph(&demands).unwrap(), weights)
}

fn random_features(count: usize, rng: &mut ChaCha20Rng) -> Vec<u16> {
    (0..count)
        .map(|_| {
            if rng.random_bool(0.1) {
                rng.random_range(0..8)
            } else {
                0
            }
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn encrypted_equals_twin_over_random_networks(
        inputs in 1usize..400,
        hidden in proptest::collection::vec(1usize..40, 0..3),
        outputs in 1usize..4,
        b in 3u8..=8,
        released in 8u8..=16,
        seed in any::<u64>(),
    ) {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let widths: Vec<usize> =
            std::iter::once(inputs).chain(hidden).chain(std::iter::once(outputs)).collect();
        let network = random_network(&widths, b, released, &mut rng);
        let key = Arc::new(ClientKey::generate(&network.graph.rings()).unwrap());
        let features = random_features(inputs, &mut rng);
        let (codes, rounded) = run(&network, &key, &features);
        compare(&network, &features, &codes, &rounded);
    }

    /// Every ring, whatever the planner would choose.
    #[test]
    fn every_ring_and_tiling_agrees(ring in 0usize..3, log in 5u32..10, seed in any::<u64>()) {
        let ring = RingName::ALL[ring];
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let spec = |kind, inputs, outputs, input_bits, output_bits| StepSpec {
            geometry: Default::default(),
            expansion: Default::default(),
            kind,
            inputs,
            outputs,
            input_bits,
            accumulator_bits: 13,
            output_bits,
            ring,
            inputs_per_polynomial: 1 << log,
            body_bits: 30,
            switch_bits: 13,
        };
        let graph = StepGraph::new(vec![
            spec(StepKind::Static, 150, 9, 3, 5),
            spec(StepKind::Lookup, 9, 2, 5, 8),
        ]).unwrap();
        let mut values = |n: usize| (0..n).map(|_| rng.random_range(-15i16..=15)).collect::<Vec<_>>();
        let weights = vec![
            StepWeights::new_static(150, 9, values(150 * 9)).unwrap(),
            StepWeights::new_lookup(9, 2, 5, 3, values(18), values(9 * 32)).unwrap(),
        ];
        let network = network(graph, weights);
        let key = Arc::new(ClientKey::generate(&[ring]).unwrap());
        let features = random_features(150, &mut rng);
        let (codes, rounded) = run(&network, &key, &features);
        compare(&network, &features, &codes, &rounded);
    }
}

/// Carries follow the fraction: over many runs of one neuron the mean of `t` is the exact
/// pre-activation. Mean of 4,000 rounded values with variance at most 1/4 + noise; a deviation of
/// 8.3 standard errors has probability below 2^-53 (normal tail).
#[test]
fn rounding_is_unbiased() {
    let mut rng = ChaCha20Rng::seed_from_u64(5);
    let outputs = 200;
    let weights = (0..outputs as i16).map(|j| 100 + 3 * j).collect();
    let weights = vec![StepWeights::new_static(1, outputs, weights).unwrap()];
    let graph = plan_graph(&[demand(&weights[0], (3, 16, 8))]).unwrap();
    let network = network(graph, weights);
    let key = Arc::new(ClientKey::generate(&network.graph.rings()).unwrap());
    let (mut sum, mut count) = (0.0, 0.0);
    for _ in 0..20 {
        let x = rng.random_range(1u16..8);
        let (codes, _) = run(&network, &key, &[x]);
        for (j, code) in codes.iter().enumerate() {
            let exact = f64::from(x) * (100.0 + 3.0 * j as f64) / 256.0;
            // codes are cyclic: noise may carry a small one below zero
            sum += (f64::from(*code) - exact + 128.0).rem_euclid(256.0) - 128.0;
            count += 1.0;
        }
    }
    let error = sum / count;
    let standard_error = (0.27f64 / count).sqrt();
    assert!(
        error.abs() < 8.3 * standard_error,
        "bias {error}, standard error {standard_error}"
    );
}

#[test]
fn a_step_refuses_what_is_not_its_own() {
    use chemxor_fhe::server::{SeedReused, StepError};
    let mut rng = ChaCha20Rng::seed_from_u64(9);
    let network = random_network(&[50, 8, 1], 4, 8, &mut rng);
    let rings = network.graph.rings();
    let key = Arc::new(ClientKey::generate(&rings).unwrap());
    let seeds = SeedLog::default();
    let public_bytes = key.public_keys(&rings).unwrap();
    let public = PublicKeys::from_bytes(&public_bytes, &rings, &seeds).unwrap();
    let again = PublicKeys::from_bytes(&public_bytes, &rings, &seeds);
    assert!(again.is_err(), "a public key's seed counts as used");
    let (mut query, message) =
        Query::start(&key, &network.graph, &random_features(50, &mut rng)).unwrap();
    let first = network.prepared[0]
        .evaluate(&public, None, &message, &seeds)
        .unwrap();
    let replay = network.prepared[0].evaluate(&public, None, &message, &seeds);
    assert_eq!(replay.unwrap_err(), StepError::Seed(SeedReused));
    let Progress::Next(next) = query.receive(&first.reply).unwrap() else {
        panic!()
    };
    let without_state = network.prepared[1].evaluate(&public, None, &next, &seeds);
    assert_eq!(without_state.unwrap_err(), StepError::State);
    let mut garbage = next.clone();
    rng.fill_bytes(&mut garbage[28..]);
    let accepted = network.prepared[1].evaluate(&public, first.blinds.as_ref(), &garbage, &seeds);
    assert!(
        accepted.is_ok(),
        "any plaintext inside is harmless, so garbage is evaluated"
    );
    for end in [0, 4, 27, 28, next.len() - 1] {
        let cut =
            network.prepared[1].evaluate(&public, first.blinds.as_ref(), &next[..end], &seeds);
        assert!(matches!(cut, Err(StepError::Wire(_))));
    }
}
