//! Every form of a step against the twin: convolutions on clear weights and after lookups, sparse
//! rows, biases, tree ensembles, lifted first layers, and steps shared by several workers.

use std::sync::Arc;

use chemxor_core::{Conv2d, Expansion, Grid, Monomials, ReplyShape, StepGraph, join_replies};
use chemxor_fhe::client::{ClientKey, Progress, Query};
use chemxor_fhe::local::LocalModel;
use chemxor_fhe::network::trees::{Condition, Leaf, TreeEnsemble};
use chemxor_fhe::network::{StepWeights, Tables};
use chemxor_fhe::plan::report::PlanReport;
use chemxor_fhe::plan::{LayerDemand, plan_graph};
use chemxor_fhe::server::{Blinds, PreparedStep, PublicKeys, SeedLog};
use chemxor_fhe::twin;
use proptest::prelude::*;
use rand::{RngExt, SeedableRng, rngs::ChaCha20Rng};

use crate::nets::{NETS, Net, net};
use crate::support::{compare, network, run};

fn values(count: usize, bound: i16, rng: &mut ChaCha20Rng) -> Vec<i16> {
    (0..count)
        .map(|_| rng.random_range(-bound..=bound))
        .collect()
}

fn tables(neurons: usize, bits: u8, rng: &mut ChaCha20Rng) -> Tables {
    Tables {
        bits,
        shift: 3,
        entries: values(neurons << bits, 30, rng),
    }
}

/// A convolution, another one behind it, and a dense layer; everything with biases.
fn convolutional(
    first: Conv2d,
    second: Conv2d,
    b: u8,
    expansion: Expansion,
    rng: &mut ChaCha20Rng,
) -> (StepGraph, Vec<StepWeights>) {
    let conv = |conv: Conv2d, tables: Option<Tables>, rng: &mut ChaCha20Rng| {
        let count = conv.taps() * conv.filters as usize;
        let biases = (0..conv.outputs())
            .map(|_| rng.random_range(-900..=900))
            .collect();
        let weights = StepWeights::new_conv2d(conv, values(count, 40, rng), tables).unwrap();
        weights.with_biases(biases).unwrap()
    };
    let hidden = (first.outputs() as usize, second.outputs() as usize);
    let second_tables = tables(hidden.0, b, rng);
    let last_tables = tables(hidden.1, b, rng);
    let weights = vec![
        conv(first, None, rng),
        conv(second, Some(second_tables), rng),
        StepWeights::new_lookup(
            hidden.1,
            2,
            b,
            4,
            values(2 * hidden.1, 40, rng),
            last_tables.entries.clone(),
        )
        .unwrap(),
    ];
    let demands = [
        LayerDemand::of(&weights[0], 6, 14, b).expanding(expansion),
        LayerDemand::of(&weights[1], b, 14, b),
        LayerDemand::of(&weights[2], b, 16, 10),
    ];
    (plan_graph(&demands).unwrap(), weights)
}

fn check(graph: StepGraph, weights: Vec<StepWeights>, features: &[u16]) {
    let key = Arc::new(ClientKey::generate(&graph.rings()).unwrap());
    let network = network(graph, weights);
    let (codes, rounded) = run(&network, &key, features);
    compare(&network, features, &codes, &rounded);
}

fn random_features(graph: &StepGraph, rng: &mut ChaCha20Rng) -> Vec<u16> {
    let first = &graph.steps()[0];
    let limit = |i| first.feature_limit(i) as u16;
    (0..first.features())
        .map(|i| rng.random_range(0..limit(i)))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn convolutions_agree_with_the_twin(
        channels in 1u32..4, height in 5u32..10, width in 5u32..10, filters in 1u32..6,
        kernel in 1u32..4, stride in 1u32..3, padding in 0u32..2, b in 3u8..=5, seed in any::<u64>(),
    ) {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let first = Conv2d { channels, height, width, filters, kernel, stride, padding };
        prop_assume!(first.is_sound());
        let second = Conv2d {
            channels: filters,
            height: first.out_height(),
            width: first.out_width(),
            filters: 3,
            kernel: 2,
            stride: 1,
            padding: 1,
        };
        let (graph, weights) = convolutional(first, second, b, Expansion::None, &mut rng);
        let features = random_features(&graph, &mut rng);
        check(graph, weights, &features);
    }
}

#[test]
fn lifted_layers_agree_with_the_twin() {
    let mut rng = ChaCha20Rng::seed_from_u64(21);
    let shape = Monomials {
        height: 17,
        width: 18,
        kernel: 3,
    };
    let first = Conv2d {
        channels: shape.channels() as u32,
        height: 5,
        width: 6,
        filters: 4,
        kernel: 3,
        stride: 1,
        padding: 0,
    };
    let second = Conv2d {
        channels: 4,
        height: 3,
        width: 4,
        filters: 3,
        kernel: 2,
        ..first
    };
    let expansion = Expansion::Monomials(shape);
    let (graph, weights) = convolutional(first, second, 4, expansion, &mut rng);
    let features = random_features(&graph, &mut rng);
    assert_eq!(features.len(), 17 * 18);
    check(graph, weights, &features);
}

/// Sparse rows evaluated as shifts in the first step, as tiles with holes in the second.
#[test]
fn sparse_rows_agree_with_the_twin() {
    let mut rng = ChaCha20Rng::seed_from_u64(22);
    let mut rows = |inputs: u32, outputs: usize| -> Vec<Vec<(u32, i16)>> {
        (0..outputs)
            .map(|_| {
                let places = rand::seq::index::sample(&mut rng, inputs as usize, 3);
                let weight = |place: usize| (place as u32, rng.random_range(-40..=40i16));
                places.into_iter().map(weight).collect()
            })
            .collect()
    };
    let (first, second) = (rows(3000, 150), rows(150, 20));
    let tables = tables(150, 4, &mut rng);
    let weights = vec![
        StepWeights::new_sparse(3000, first, None).unwrap(),
        StepWeights::new_sparse(150, second, Some(tables)).unwrap(),
    ];
    let demands = [
        LayerDemand::of(&weights[0], 3, 12, 4),
        LayerDemand::of(&weights[1], 4, 14, 9),
    ];
    let graph = plan_graph(&demands).unwrap();
    let features = random_features(&graph, &mut rng);
    check(graph, weights, &features);
}

/// A random ensemble on the public grid: encrypted codes equal the sum of the leaves in clear, to
/// the last bit, up to the rounding of the released sum (it is released whole here).
#[test]
fn encrypted_tree_ensembles_are_exact() {
    let mut rng = ChaCha20Rng::seed_from_u64(23);
    let grids = vec![
        Grid {
            features: 200,
            levels: 8,
        },
        Grid {
            features: 10,
            levels: 32,
        },
    ];
    let mut leaves = Vec::new();
    for _ in 0..20 {
        let split = |rng: &mut ChaCha20Rng| {
            let feature = rng.random_range(0..210u32);
            let levels = if feature < 200 { 8 } else { 32 };
            (feature, rng.random_range(0..levels - 1))
        };
        let splits: Vec<(u32, u16)> = (0..7).map(|_| split(&mut rng)).collect();
        // a full tree of depth 3: node n has children 2n + 1 and 2n + 2
        for leaf in 0..8usize {
            let mut node = 0;
            let mut conditions = Vec::new();
            for bit in 0..3 {
                let greater = leaf >> bit & 1 == 1;
                let (feature, threshold) = splits[node];
                conditions.push(Condition {
                    feature,
                    threshold,
                    greater,
                });
                node = 2 * node + 1 + usize::from(greater);
            }
            let values = vec![rng.random_range(-300..=300)];
            leaves.push(Leaf { conditions, values });
        }
    }
    let ensemble = TreeEnsemble::new(grids, &leaves).unwrap();
    let graph = plan_graph(&ensemble.demands(16, 16)).unwrap();
    let weights = vec![ensemble.counters.clone(), ensemble.leaves.clone()];
    let model = LocalModel::new(graph.clone(), weights).unwrap();
    for _ in 0..20 {
        let x = random_features(&graph, &mut rng);
        let holds = |leaf: &&Leaf| {
            let mut conditions = leaf.conditions.iter();
            conditions.all(|c| (x[c.feature as usize] > c.threshold) == c.greater)
        };
        let exact: i32 = leaves
            .iter()
            .filter(holds)
            .map(|leaf| i32::from(leaf.values[0]))
            .sum();
        let code = i32::from(model.evaluate(&x).unwrap()[0] as u16 as i16);
        // all 16 bits are released: noise of an eighth of the last bit can still carry by one
        assert!((code - exact).abs() <= 1, "{code} {exact}");
    }
}

/// Output ciphertexts of each step on three workers: parts join to a reply of the same length, and
/// the run equals the twin.
#[test]
fn steps_shared_by_workers_give_what_one_worker_gives() {
    let mut rng = ChaCha20Rng::seed_from_u64(24);
    let first = Conv2d {
        channels: 1,
        height: 16,
        width: 16,
        filters: 8,
        kernel: 3,
        stride: 3,
        padding: 0,
    };
    let second = Conv2d {
        channels: 8,
        height: 5,
        width: 5,
        filters: 6,
        stride: 1,
        ..first
    };
    let (graph, weights) = convolutional(first, second, 4, Expansion::None, &mut rng);
    let network = network(graph.clone(), weights.clone());
    let features = random_features(&graph, &mut rng);
    let rings = graph.rings();
    let key = Arc::new(ClientKey::generate(&rings).unwrap());
    let public = key.public_keys(&rings).unwrap();
    let (mut query, mut message) = Query::start(&key, &graph, &features).unwrap();
    let mut blinds: Option<Blinds> = None;
    let mut rounded = Vec::new();
    let shapes = ReplyShape::all(&graph);
    for (index, (spec, step)) in graph.steps().iter().zip(&network.prepared).enumerate() {
        let count = step.shape().layout.output_count();
        let cuts = [0, count / 3, count / 2, count];
        let (mut replies, mut parts) = (Vec::new(), Vec::new());
        for groups in cuts
            .windows(2)
            .map(|pair| pair[0]..pair[1])
            .filter(|g| !g.is_empty())
        {
            let is_last = index == 2;
            let bytes = step.shape().part_bytes(groups.clone());
            let share = groups.start as u32..groups.end as u32;
            let worker =
                PreparedStep::for_groups(spec, is_last, weights[index].clone(), groups).unwrap();
            // every worker has its own session state
            let seeds = SeedLog::default();
            let public = PublicKeys::from_bytes(&public, &rings, &seeds).unwrap();
            let done = worker
                .evaluate(&public, blinds.as_ref(), &message, &seeds)
                .unwrap();
            assert_eq!(done.reply.len(), bytes);
            assert_eq!(shapes[index].check(&done.reply, Some(&share)), Ok(()));
            replies.push(done.reply);
            parts.extend(done.blinds);
        }
        let reply = join_replies(&replies).unwrap();
        let joined = Blinds::join(&parts);
        assert!(joined.as_ref().is_none_or(Blinds::is_complete));
        match query.receive(&reply).unwrap() {
            Progress::Next(next) => {
                rounded.push(crate::support::unblind(
                    step,
                    &key,
                    &reply,
                    joined.as_ref().unwrap(),
                ));
                message = next;
            }
            Progress::Done(codes) => {
                rounded.push(codes.clone());
                compare(&network, &features, &codes, &rounded);
            }
        }
        blinds = joined;
    }
    assert_eq!(rounded.len(), 3);
}

#[test]
fn a_part_of_the_state_is_refused() {
    let mut rng = ChaCha20Rng::seed_from_u64(25);
    let conv = Conv2d {
        channels: 1,
        height: 8,
        width: 8,
        filters: 4,
        kernel: 3,
        stride: 1,
        padding: 0,
    };
    let second = Conv2d {
        channels: 4,
        height: 6,
        width: 6,
        ..conv
    };
    let (graph, weights) = convolutional(conv, second, 4, Expansion::None, &mut rng);
    let key = Arc::new(ClientKey::generate(&graph.rings()).unwrap());
    let seeds = SeedLog::default();
    let public = key.public_keys(&graph.rings()).unwrap();
    let public = PublicKeys::from_bytes(&public, &graph.rings(), &seeds).unwrap();
    let step = |index: usize, groups: std::ops::Range<usize>| {
        PreparedStep::for_groups(&graph.steps()[index], false, weights[index].clone(), groups)
    };
    let whole = step(0, 0..1).unwrap().shape().layout.output_count();
    assert!(step(0, 0..whole + 1).is_err() && step(0, 1..1).is_err());
    let (mut query, message) =
        Query::start(&key, &graph, &random_features(&graph, &mut rng)).unwrap();
    let part = step(0, 0..1)
        .unwrap()
        .evaluate(&public, None, &message, &seeds)
        .unwrap();
    let complete = part.blinds.as_ref().unwrap().is_complete();
    assert_eq!(complete, whole == 1);
    if !complete {
        assert!(query.receive(&part.reply).is_err(), "a part is not a reply");
        let next = step(1, 0..1)
            .unwrap()
            .evaluate(&public, part.blinds.as_ref(), &message, &seeds);
        assert!(next.is_err());
    }
}

/// One call, step by step, and the encrypted data set give the same model.
#[test]
fn a_local_model_is_evaluated_in_one_call_or_step_by_step() {
    let mut rng = ChaCha20Rng::seed_from_u64(26);
    let weights = vec![
        StepWeights::new_static(40, 5, values(200, 40, &mut rng)).unwrap(),
        StepWeights::new_lookup(
            5,
            2,
            4,
            3,
            values(10, 40, &mut rng),
            tables(5, 4, &mut rng).entries.clone(),
        )
        .unwrap(),
    ];
    let demands = [
        LayerDemand::of(&weights[0], 3, 13, 4),
        LayerDemand::of(&weights[1], 4, 12, 8),
    ];
    let graph = plan_graph(&demands).unwrap();
    let model = LocalModel::new(graph.clone(), weights.clone()).unwrap();
    let data: Vec<Vec<u16>> = (0..5).map(|_| random_features(&graph, &mut rng)).collect();
    for message in model.encrypt(&data) {
        assert_eq!(
            message.unwrap().len(),
            model.steps()[0].shape().input_bytes()
        );
    }
    for x in &data {
        let near = twin::evaluate(graph.steps(), &weights, x, twin::nearest());
        let one_call = model.evaluate(x).unwrap();
        let mut query = model.query(x).unwrap();
        let first = query.advance().unwrap();
        assert!((first.step, first.codes.is_none()) == (0, true) && first.blinds.is_some());
        let codes = query.advance().unwrap().codes.unwrap();
        assert!(query.advance().is_err(), "the query is over");
        for run in [one_call, codes] {
            for (code, near) in run.iter().zip(&near) {
                // five neurons may each be one bucket off
                let difference = (*code as i8).wrapping_sub(*near as i8);
                assert!(difference.unsigned_abs() < 60, "{code} {near}");
            }
        }
    }
    assert!(
        model.encrypt([vec![9u16; 40]]).next().unwrap().is_err(),
        "out of range"
    );
    assert!(LocalModel::new(graph, weights[..1].to_vec()).is_err());
}

/// The nets at their published shapes, as the planner lays them out: encrypted equals twin.
#[test]
fn olinda_nets_and_the_large_ensemble_agree_with_the_twin() {
    let mut rng = ChaCha20Rng::seed_from_u64(27);
    for name in NETS {
        let Net {
            graph,
            weights,
            demands,
        } = net(name).unwrap();
        let report = PlanReport::new(&graph, &demands).unwrap();
        for step in &report.steps {
            // beyond the carry; over all outputs of a query still far below 2^-40
            assert!(
                step.failure + f64::from(step.shape[1]).log2() < -40.0,
                "{name}: {step:?}"
            );
            assert!(step.security_bits >= 128);
        }
        let features = random_features(&graph, &mut rng);
        check(graph, weights, &features);
    }
}
