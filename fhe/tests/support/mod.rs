//! Runs the protocol in one process, where client key and blinds are both known, and compares
//! the run with the clear twin. For tests only: in production nobody holds both.

use std::sync::Arc;

use chemxor_core::{ReplyShape, StepGraph};
use chemxor_fhe::client::{ClientKey, Progress, Query};
use chemxor_fhe::network::StepWeights;
use chemxor_fhe::server::{Blinds, PreparedStep, PublicKeys, SeedLog};
use chemxor_fhe::twin;
use chemxor_fhe::wire::decode_reply;

/// A network with its plan, prepared for evaluation.
pub(crate) struct Network {
    pub(crate) graph: StepGraph,
    pub(crate) weights: Vec<StepWeights>,
    pub(crate) prepared: Vec<PreparedStep>,
}

pub(crate) fn network(graph: StepGraph, weights: Vec<StepWeights>) -> Network {
    let last = weights.len() - 1;
    let prepared = graph
        .steps()
        .iter()
        .zip(&weights)
        .enumerate()
        .map(|(i, (spec, weights))| PreparedStep::new(spec, i == last, weights.clone()).unwrap())
        .collect();
    Network {
        graph,
        weights,
        prepared,
    }
}

/// Runs one query in this process; gives the released codes and, for each step, the rounded
/// pre-activations `t` that client and server reconstruct between them.
pub(crate) fn run(
    network: &Network,
    key: &Arc<ClientKey>,
    features: &[u16],
) -> (Vec<u32>, Vec<Vec<u32>>) {
    let rings = network.graph.rings();
    let seeds = SeedLog::default();
    let public = key.public_keys(&rings).unwrap();
    let public = PublicKeys::from_bytes(&public, &rings, &seeds).unwrap();
    let (mut query, mut message) = Query::start(key, &network.graph, features).unwrap();
    let mut blinds: Option<Blinds> = None;
    let mut rounded = Vec::new();
    // as the gateway expects them, which knows the graph only
    let shapes = ReplyShape::all(&network.graph);
    for (step, shape) in network.prepared.iter().zip(shapes) {
        let done = step
            .evaluate(&public, blinds.as_ref(), &message, &seeds)
            .unwrap();
        assert_eq!(done.reply.len(), step.shape().reply_bytes());
        assert_eq!(shape.bytes(), done.reply.len());
        assert_eq!(shape.check(&done.reply, None), Ok(()));
        match query.receive(&done.reply).unwrap() {
            Progress::Next(next) => {
                let r = done.blinds.as_ref().unwrap();
                rounded.push(unblind(step, key, &done.reply, r));
                message = next;
            }
            Progress::Done(codes) => {
                assert!(
                    done.blinds.is_none(),
                    "the last blinds are opened, not kept"
                );
                rounded.push(codes.clone());
                return (codes, rounded);
            }
        }
        blinds = done.blinds;
    }
    unreachable!("the last reply ends the query")
}

/// What nobody sees in production: `t = c'' - r''`, by decrypting with the secret key and knowing
/// the blinds.
pub(crate) fn unblind(
    step: &PreparedStep,
    key: &ClientKey,
    reply: &[u8],
    blinds: &Blinds,
) -> Vec<u32> {
    let shape = step.shape();
    let reply = decode_reply(shape, reply).unwrap();
    let bits = key.ring(shape.ring.name).unwrap().secret_bits();
    let (size, m, b) = (
        shape.ring.size,
        shape.spec.switch_bits,
        shape.spec.output_bits,
    );
    let k = shape.ring.dimension;
    let mut out = vec![0; shape.layout.outputs()];
    let mut bodies = reply.bodies.iter();
    for group in 0..shape.layout.output_count() {
        let masks = &reply.masks[group * k * size..][..k * size];
        for ((output, at), body) in shape.layout.group(group).zip(&mut bodies) {
            let mut phase = *body;
            // coefficient `at` of mask * secret modulo X^N + 1, schoolbook
            for (i, mask) in masks.iter().enumerate() {
                let (polynomial, i) = (i / size, i % size);
                let (j, negative) = if i <= at {
                    (at - i, false)
                } else {
                    (size + at - i, true)
                };
                if bits[polynomial * size + j] == 1 {
                    phase = if negative {
                        phase.wrapping_add(*mask)
                    } else {
                        phase.wrapping_sub(*mask)
                    };
                }
            }
            let top = (phase & ((1 << m) - 1)) >> (m - b);
            out[output] = top.wrapping_sub(blinds.values()[output].into()) & ((1 << b) - 1);
        }
    }
    out
}

/// Evaluates the twin with the carries of the run and checks that each carry is one the protocol
/// can produce: 0 or 1, or -1 and 2 only where the error of an eighth of a bit (8 sigma) reaches.
pub(crate) fn compare(network: &Network, features: &[u16], codes: &[u32], rounded: &[Vec<u32>]) {
    let twin = twin::evaluate(
        network.graph.steps(),
        &network.weights,
        features,
        |rounding| {
            let turn = 1i64 << rounding.bits;
            let t = i64::from(rounded[rounding.step][rounding.output]);
            let carry = (t - i64::from(rounding.floor) + turn / 2).rem_euclid(turn) - turn / 2;
            let from_exact = carry as f64 - rounding.fraction;
            assert!(
                from_exact > -2.0 && from_exact < 2.0,
                "step {} output {}: off by {from_exact}",
                rounding.step,
                rounding.output
            );
            carry
        },
    );
    assert_eq!(twin, codes);
}
