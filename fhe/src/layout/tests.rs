use super::*;
use chemxor_core::{Conv2d, Expansion, RingName};
use proptest::prelude::*;

fn spec(kind: StepKind, geometry: Geometry, shape: (u32, u32), bits: u8, tile: u32) -> StepSpec {
    StepSpec {
        kind,
        geometry,
        expansion: Expansion::None,
        inputs: shape.0,
        outputs: shape.1,
        input_bits: bits,
        accumulator_bits: 16,
        output_bits: 8,
        ring: RingName::N1024Q32,
        inputs_per_polynomial: tile,
        body_bits: 32,
        switch_bits: 16,
    }
}

/// Plain polynomial products with the encoding give `W x` at every output coefficient, whatever
/// stands in the unused coefficients of nobody's input.
fn check(layout: &Layout, weight: impl Fn(usize, usize) -> Option<i64>, x: &[i64]) {
    let (size, hot) = (layout.size(), layout.hot());
    let mut inputs = vec![vec![0i64; size]; layout.input_count()];
    for (input, value) in x.iter().enumerate() {
        let Some((block, at)) = layout.input_place(input / hot) else {
            continue;
        };
        let slot = &mut inputs[block][at + input % hot];
        assert_eq!(*slot, 0, "two inputs in one place");
        *slot = *value;
    }
    let mut seen = vec![false; layout.outputs()];
    for group in 0..layout.output_count() {
        let mut polynomials = vec![vec![0i64; size]; layout.input_count()];
        for (output, at) in layout.group(group) {
            for input in 0..x.len() {
                if let Some(weight) = weight(output, input) {
                    let (block, from) = layout.input_place(input / hot).unwrap();
                    polynomials[block][at - from - input % hot] = weight;
                }
            }
        }
        let mut sum = vec![0i64; size];
        for (weights, input) in polynomials.iter().zip(&inputs) {
            for (p, w) in weights.iter().enumerate().filter(|(_, w)| **w != 0) {
                for (i, x) in input.iter().enumerate() {
                    let k = p + i;
                    sum[k % size] += if k < size { w * x } else { -w * x };
                }
            }
        }
        for (output, at) in layout.group(group) {
            let expected: i64 = x
                .iter()
                .enumerate()
                .filter_map(|(j, x)| Some(weight(output, j)? * x))
                .sum();
            assert_eq!(sum[at], expected, "output {output}");
            assert!(
                !std::mem::replace(&mut seen[output], true),
                "output {output} twice"
            );
        }
    }
    assert!(seen.into_iter().all(|seen| seen));
}

fn value(seed: u32, i: usize) -> i64 {
    i64::from((seed ^ (i as u32).wrapping_mul(2_654_435_761)) % 7) - 3
}

/// Weight of coefficient `j` of the expanded inputs (`hot` for each input of the convolution).
fn conv_weight(conv: &Conv2d, hot: usize, seed: u32, output: usize, j: usize) -> Option<i64> {
    let (_, tap) = conv.taps_of(output).find(|(input, _)| *input == j / hot)?;
    let (filter, _, _) = conv.output_position(output);
    // a shared kernel when static, a table for each pixel when looked up
    let own = if hot == 1 { 0 } else { j + 1 };
    Some(value(seed, 77 + filter * conv.taps() + tap + own))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn dense_products_are_inner_products(
        inputs in 1u32..60, outputs in 1u32..20, log in 0u32..6, bits in 0u8..3, seed in any::<u32>(),
    ) {
        let (kind, log) = if bits == 0 { (StepKind::Static, log) } else { (StepKind::Lookup, log.max(bits.into())) };
        let layout = Layout::new(&spec(kind, Geometry::Dense, (inputs, outputs), bits, 1 << log), 64).unwrap();
        let x: Vec<i64> = (0..inputs as usize * layout.hot()).map(|i| value(seed, i)).collect();
        check(&layout, |o, j| Some(value(seed, 1000 + o * x.len() + j)), &x);
    }

    #[test]
    fn convolutions_are_convolutions(
        channels in 1u32..5, height in 2u32..7, width in 2u32..7, filters in 1u32..6,
        kernel in 1u32..4, stride in 1u32..4, padding in 0u32..2, tile in 1u32..5, seed in any::<u32>(),
    ) {
        let conv = Conv2d { channels, height, width, filters, kernel, stride, padding };
        prop_assume!(conv.is_sound());
        let shape = (conv.inputs() as u32, conv.outputs() as u32);
        let geometry = Geometry::Conv2d(conv);
        for tile in Layout::conv_tilings(&conv, 256).into_iter().take(6) {
            let image = spec(StepKind::Static, geometry, shape, 1, tile as u32);
            let layout = Layout::new(&image, 256).unwrap();
            let x: Vec<i64> = (0..shape.0 as usize).map(|i| value(seed, i)).collect();
            check(&layout, |o, j| conv_weight(&conv, 1, seed, o, j), &x);
        }
        let windows = spec(StepKind::Lookup, geometry, shape, 1, 1 << (2 + tile));
        let layout = Layout::new(&windows, 128).unwrap();
        let x: Vec<i64> = (0..2 * shape.0 as usize).map(|i| value(seed, i)).collect();
        check(&layout, |o, j| conv_weight(&conv, 2, seed, o, j), &x);
    }
}
