//! Measured noise of replies against the planner's formulas.

use std::sync::Arc;

use chemxor_core::{RingName, StepGraph, StepSpec};

use super::support::*;
use crate::client::{ClientKey, Query};
use crate::network::StepWeights;
use crate::plan::errors;
use crate::ring::RingParams;
use crate::server::{PreparedStep, PublicKeys, SeedLog};
use crate::torus::{Torus, fourier_zero};
use crate::wire;

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
    for _ in 0..runs {
        // the noise of one public key stays fixed, so take a new key each time
        let key = &Arc::new(ClientKey::generate(&[step_spec.ring]).unwrap());
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
    assert!(count >= 40_000, "{count} samples");
    let ring = RingParams::of(step_spec.ring);
    let (before, switch) = errors(&ring, norm, step_spec.body_bits, step_spec.switch_bits);
    let expected = before * before + switch * switch;
    // the standard error of a variance from 40,000 normal samples is 0.7 %; samples of one reply
    // share u and a public key, which widens it a little: 5 % is beyond five standard errors
    let ratio = measured / expected;
    assert!(
        (0.95..1.05).contains(&ratio),
        "{step_spec:?}: measured / expected = {ratio}"
    );
}

#[test]
fn noise_is_what_the_planner_computes() {
    // dominated by the weights, by the re-randomisation, and by the switch
    check_formula::<u32>(&spec(512, 64, RingName::N1024Q32, 64, (8, 32, 30)), 640);
    check_formula::<u32>(&spec(2, 64, RingName::N1024Q32, 2, (8, 32, 30)), 640);
    check_formula::<u32>(&spec(64, 64, RingName::N1024Q32, 64, (8, 32, 13)), 640);
    // rounded bodies, and the two 64-bit rings
    check_formula::<u32>(&spec(512, 64, RingName::N1024Q32, 64, (8, 22, 22)), 640);
    check_formula::<u64>(&spec(256, 64, RingName::N1536Q64, 64, (12, 34, 21)), 640);
    check_formula::<u64>(&spec(256, 64, RingName::N2048Q64, 64, (12, 34, 21)), 640);
}
