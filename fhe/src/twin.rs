//! The clear twin: the same integers as the encrypted run, without encryption.
//!
//! Between steps the protocol rounds the pre-activation `y` (an integer modulo `2^l`) to its top
//! `b` bits: `t = floor(y / 2^(l-b)) + carry (mod 2^b)`, where the carry is 1 with probability
//! equal to the fraction, because the mask is uniform (docs/protocol.md, "why this is exact
//! enough"). The caller supplies the carries: simulated ones for training and evaluation, those
//! of a real run to compare bit for bit.

use crate::network::{StepWeights, round_shift};
use chemxor_core::{StepKind, StepSpec};

/// One pre-activation that is about to be rounded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rounding {
    /// Step of the graph.
    pub step: usize,
    /// Output of that step.
    pub output: usize,
    /// `floor(y / 2^(l-b))`, in `0..2^b`.
    pub floor: u32,
    /// Fraction that the floor cut off, in `0.0..1.0`.
    pub fraction: f64,
    /// b, or B for the last step.
    pub bits: u8,
}

/// Integer pre-activations `y` modulo `2^l` of a static step on its inputs `x`.
pub fn static_step(weights: &StepWeights, l: u8, x: &[u16]) -> Vec<u32> {
    rows(weights, l, |input, weight| {
        i64::from(weight) * i64::from(x[input])
    })
}

/// Integer pre-activations `y` modulo `2^l` of a lookup step on rounded pre-activations `t`.
pub fn lookup_step(weights: &StepWeights, l: u8, t: &[u32]) -> Vec<u32> {
    let activations: Vec<i32> = t
        .iter()
        .enumerate()
        .map(|(i, t)| i32::from(weights.table(i)[*t as usize]))
        .collect();
    rows(weights, l, |input, weight| {
        let product = i32::from(weight) * activations[input];
        i64::from(round_shift(product, weights.shift()))
    })
}

fn rows(weights: &StepWeights, l: u8, term: impl Fn(usize, i16) -> i64) -> Vec<u32> {
    (0..weights.outputs())
        .map(|output| {
            let mut sum = i64::from(weights.bias(output));
            weights.visit_row(output, |input, weight| sum += term(input, weight));
            (sum & mask(l)) as u32
        })
        .collect()
}

/// Evaluates the whole network; gives the B-bit output codes. `carry` decides each rounding:
/// the carry itself is returned (0 or 1; −1 only where noise can reach below the floor).
pub fn evaluate(
    specs: &[StepSpec],
    weights: &[StepWeights],
    features: &[u16],
    mut carry: impl FnMut(Rounding) -> i64,
) -> Vec<u32> {
    let features = specs
        .first()
        .map_or(features.into(), |first| first.expansion.expand(features));
    let mut values: Vec<u32> = Vec::new();
    for (step, (spec, weights)) in specs.iter().zip(weights).enumerate() {
        let l = spec.accumulator_bits;
        let y = match spec.kind {
            StepKind::Static => static_step(weights, l, &features),
            StepKind::Lookup => lookup_step(weights, l, &values),
        };
        values = y
            .iter()
            .enumerate()
            .map(|(output, y)| {
                let rounding = split(step, output, *y, l, spec.output_bits);
                let t = i64::from(rounding.floor) + carry(rounding);
                t.rem_euclid(1 << spec.output_bits) as u32
            })
            .collect();
    }
    values
}

/// Carries drawn as the protocol draws them, from uniform numbers in `0.0..1.0`.
pub fn stochastic(mut uniform: impl FnMut() -> f64) -> impl FnMut(Rounding) -> i64 {
    move |rounding| i64::from(uniform() < rounding.fraction)
}

/// Carries that round to nearest: the most likely run.
pub fn nearest() -> impl FnMut(Rounding) -> i64 {
    |rounding| i64::from(rounding.fraction >= 0.5)
}

/// Splits `y` modulo `2^l` into its top `bits` bits and the fraction below.
pub fn split(step: usize, output: usize, y: u32, l: u8, bits: u8) -> Rounding {
    let low = u32::from(l - bits);
    let floor = y >> low;
    let fraction = f64::from(y & ((1 << low) - 1)) / f64::from(1u32 << low);
    Rounding {
        step,
        output,
        floor,
        fraction,
        bits,
    }
}

fn mask(l: u8) -> i64 {
    (1 << l) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wraps_and_splits() {
        let weights = StepWeights::new_static(2, 2, vec![1, 2, -1, -2]).unwrap();
        assert_eq!(static_step(&weights, 8, &[3, 4]), [11, 245]);
        let rounding = split(0, 0, 245, 8, 4);
        assert_eq!((rounding.floor, rounding.fraction), (15, 5.0 / 16.0));
    }

    #[test]
    fn stochastic_rounding_is_unbiased_at_the_ends() {
        let mut always = stochastic(|| 0.0);
        assert_eq!(always(split(0, 0, 16, 8, 4)), 0, "no fraction, no carry");
        assert_eq!(always(split(0, 0, 17, 8, 4)), 1);
    }
}
