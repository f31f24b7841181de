use super::*;
use crate::local::LocalModel;
use crate::network::activation::SOFTPLUS_POLYNOMIAL;
use crate::network::lifting::Lifted;
use crate::twin;
use chemxor_core::Monomials;
use rand::{RngExt, SeedableRng, rngs::ChaCha20Rng};

fn reals(count: usize, bound: f64, rng: &mut ChaCha20Rng) -> Vec<f64> {
    (0..count)
        .map(|_| rng.random_range(-bound..bound))
        .collect()
}

fn conv(channels: u32, side: u32, filters: u32, kernel: u32, stride: u32) -> Conv2d {
    Conv2d {
        channels,
        height: side,
        width: side,
        filters,
        kernel,
        stride,
        padding: 0,
    }
}

fn layer(
    map: FloatMap,
    outputs: usize,
    activation: Activation,
    rng: &mut ChaCha20Rng,
) -> FloatLayer {
    FloatLayer {
        map,
        biases: reals(outputs, 0.5, rng),
        activation,
    }
}

fn molecules(count: usize, features: usize, rng: &mut ChaCha20Rng) -> Vec<Vec<u16>> {
    let value = |rng: &mut ChaCha20Rng| {
        if rng.random_bool(0.2) {
            rng.random_range(0..8)
        } else {
            0
        }
    };
    (0..count)
        .map(|_| (0..features).map(|_| value(rng)).collect())
        .collect()
}

/// Convolution, convolution, two dense layers, each with another activation.
fn deep(rng: &mut ChaCha20Rng) -> FloatNet {
    let (first, second) = (conv(1, 12, 4, 3, 3), conv(4, 4, 3, 2, 1));
    FloatNet {
        expansion: Expansion::None,
        input_bits: 3,
        layers: vec![
            layer(
                FloatMap::Conv2d(first, reals(36, 0.5, rng)),
                4,
                Activation::Relu,
                rng,
            ),
            layer(
                FloatMap::Conv2d(second, reals(48, 0.5, rng)),
                3,
                Activation::Softplus,
                rng,
            ),
            layer(
                FloatMap::Dense(reals(27 * 10, 0.4, rng)),
                10,
                Activation::Tanh,
                rng,
            ),
            layer(
                FloatMap::Dense(reals(20, 1.0, rng)),
                2,
                Activation::Identity,
                rng,
            ),
        ],
    }
}

fn precision(bits: u8, hidden: usize) -> Precision {
    Precision {
        activation_bits: vec![bits; hidden],
        output_bits: 12,
        margin: 1.3,
        output_margin: 1.5,
    }
}

/// Mean distance of the integers (rounded to nearest) from the floats, over the float's spread.
fn error(net: &FloatNet, bits: u8, data: &[Vec<u16>]) -> f64 {
    let integers = net
        .quantise(data, &precision(bits, net.layers.len() - 1))
        .unwrap();
    let (mut distance, mut values) = (0.0, Vec::new());
    for x in data {
        let codes = twin::evaluate(
            integers.graph.steps(),
            &integers.weights,
            x,
            twin::nearest(),
        );
        let float = net.evaluate(x);
        for ((code, (scale, offset)), float) in codes.iter().zip(&integers.outputs).zip(&float) {
            let signed = ((code << 20) as i32) >> 20;
            distance += (f64::from(signed) * scale + offset - float).abs();
            values.push(*float);
        }
    }
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let spread = values.iter().map(|v| (v - mean).abs()).sum::<f64>();
    distance / spread
}

#[test]
fn more_bits_come_closer_to_the_float_network() {
    let rng = &mut ChaCha20Rng::seed_from_u64(41);
    let net = deep(rng);
    let data = molecules(60, 144, rng);
    let errors: Vec<f64> = (3..=8).map(|bits| error(&net, bits, &data)).collect();
    assert!(errors[0] > 4.0 * errors[5], "{errors:?}");
    assert!(errors[5] < 0.04, "{errors:?}");
}

#[test]
fn a_deep_convolutional_network_runs_encrypted() {
    let rng = &mut ChaCha20Rng::seed_from_u64(42);
    let net = deep(rng);
    let data = molecules(40, 144, rng);
    let integers = net.quantise(&data, &precision(6, 3)).unwrap();
    let model = LocalModel::new(integers.graph.clone(), integers.weights.clone()).unwrap();
    let (mut distance, mut spread) = (0.0, 0.0);
    for x in &data {
        let codes = model.evaluate(x).unwrap();
        let float = net.evaluate(x);
        for ((code, (scale, offset)), float) in codes.iter().zip(&integers.outputs).zip(float) {
            let signed = ((code << 20) as i32) >> 20;
            distance += (f64::from(signed) * scale + offset - float).abs();
            spread += (float - offset).abs();
        }
    }
    assert!(distance < 0.2 * spread, "{distance} {spread}");
}

/// OlindaNetZero's form in small: convolution, quadratic activation and dense layer as one step.
#[test]
fn lifting_changes_the_rounds_and_not_the_function() {
    let rng = &mut ChaCha20Rng::seed_from_u64(43);
    let first = conv(1, 9, 5, 3, 3);
    let filters: Vec<Vec<f64>> = (0..5).map(|_| reals(9, 0.4, rng)).collect();
    let biases = reals(5, 0.5, rng);
    let dense = reals(8 * 45, 0.4, rng);
    let last = layer(
        FloatMap::Dense(reals(8, 1.0, rng)),
        1,
        Activation::Identity,
        rng,
    );
    let hidden = layer(FloatMap::Dense(dense.clone()), 8, Activation::Relu, rng);
    let plain = FloatNet {
        expansion: Expansion::None,
        input_bits: 3,
        layers: vec![
            FloatLayer {
                map: FloatMap::Conv2d(first, filters.concat()),
                biases: biases.clone(),
                activation: Activation::SoftplusPolynomial,
            },
            hidden.clone(),
            last.clone(),
        ],
    };
    let shape = Monomials {
        height: 9,
        width: 9,
        kernel: 3,
    };
    let lifted = Lifted::new(&shape, &filters, &biases, SOFTPLUS_POLYNOMIAL);
    let (weights, added) = lifted.compose(&dense, 8);
    let short = FloatNet {
        expansion: Expansion::Monomials(shape),
        input_bits: 6,
        layers: vec![
            FloatLayer {
                map: FloatMap::Dense(weights),
                biases: hidden
                    .biases
                    .iter()
                    .zip(added)
                    .map(|(a, b)| a + b)
                    .collect(),
                activation: Activation::Relu,
            },
            last,
        ],
    };
    let data = molecules(30, 81, rng);
    for x in &data {
        let (a, b) = (plain.evaluate(x)[0], short.evaluate(x)[0]);
        assert!((a - b).abs() < 1e-9, "{a} {b}");
    }
    assert!(error(&plain, 7, &data) < 0.05);
    assert!(error(&short, 7, &data) < 0.05);
}

#[test]
fn average_pooling_folds_into_the_next_layer() {
    let rng = &mut ChaCha20Rng::seed_from_u64(44);
    let (channels, side, pool) = (2u32, 7u32, 2u32);
    let x = reals((channels * side * side) as usize, 1.0, rng);
    let pooled: Vec<f64> = (0..2 * 9)
        .map(|i| {
            let (c, y, px) = (i / 9, i / 3 % 3, i % 3);
            let at = |dy: usize, dx: usize| x[(c * 7 + 2 * y + dy) * 7 + 2 * px + dx];
            (at(0, 0) + at(0, 1) + at(1, 0) + at(1, 1)) / 4.0
        })
        .collect();
    let maps = [
        FloatMap::Dense(reals(4 * 18, 1.0, rng)),
        FloatMap::Conv2d(conv(2, 3, 3, 2, 1), reals(24, 1.0, rng)),
    ];
    for map in maps {
        let folded = fold_average_pool(&map, channels, side, side, pool);
        let bare = |map| FloatLayer {
            map,
            biases: vec![],
            activation: Activation::Identity,
        };
        let (before, after) = (bare(map).linear(&pooled), bare(folded).linear(&x));
        assert_eq!(before.len(), after.len());
        for (a, b) in before.iter().zip(after) {
            assert!((a - b).abs() < 1e-9);
        }
    }
}

#[test]
fn wrong_shapes_are_named() {
    let rng = &mut ChaCha20Rng::seed_from_u64(45);
    let net = deep(rng);
    let data = molecules(5, 144, rng);
    let mut wrong = net.clone();
    wrong.layers[2].biases.pop();
    let error = wrong.quantise(&data, &precision(4, 3)).unwrap_err();
    assert!(
        matches!(error, QuantiseError::Shape { layer: 2, .. }),
        "{error}"
    );
    assert!(net.quantise(&data, &precision(4, 2)).is_err());
    assert_eq!(
        net.quantise(&[], &precision(4, 3)).unwrap_err(),
        QuantiseError::NoCalibration
    );
}
