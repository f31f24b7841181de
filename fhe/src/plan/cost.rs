//! Cost model of a step, in microseconds of one thread; only its ratios matter. The kernel
//! constants are those of `./bench/run kernels` on the machine in bench/results, rounded.

use chemxor_core::{StepKind, StepSpec};

use crate::layout::Layout;
use crate::ring::RingParams;

/// A byte on the wire, at 400 Mbit/s.
const BYTE: f64 = 0.02;
/// For N = 1024 and w = 32: encryption of a polynomial by the client and its transform by the
/// server; re-randomisation, blinding and decryption of an output ciphertext.
const INPUT: f64 = 25.0;
const OUTPUT: f64 = 40.0;
/// Product with static weights, with fresh tables, and one shift.
const STATIC_PRODUCT: f64 = 0.6;
const FRESH_PRODUCT: f64 = 2.2;
const SHIFT: f64 = 0.15;

/// Cost of a step. `entries` is the number of weights when they are few ([`StepSpec`] does not say).
pub(super) fn cost(
    ring: &RingParams,
    spec: &StepSpec,
    layout: &Layout,
    entries: Option<usize>,
) -> f64 {
    let (inputs, outputs) = (layout.input_count() as f64, layout.output_count() as f64);
    let bits = ring.size as f64 / 8.0;
    let up = inputs * bits * f64::from(spec.body_bits);
    let down = outputs * bits * ring.dimension as f64 * f64::from(spec.switch_bits);
    let polynomials = (ring.dimension + 1) as f64;
    let scale = ring.size as f64 * polynomials / 2048.0;
    // products with a 64-bit public key take two limbs
    let limbs = f64::from(ring.torus_bits / 32);
    let products = layout.product_count() as f64;
    let product = match spec.kind {
        StepKind::Static => products * STATIC_PRODUCT,
        StepKind::Lookup => products * FRESH_PRODUCT,
    };
    let work = match (spec.kind, entries) {
        (StepKind::Static, Some(entries)) => product.min(entries as f64 * SHIFT),
        _ => product,
    };
    BYTE * (up + down) + scale * (INPUT * inputs * limbs + OUTPUT * outputs * limbs + work)
}
