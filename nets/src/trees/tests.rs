use chemxor_core::{Featuriser, Task};
use chemxor_fhe::local::LocalModel;
use chemxor_fhe::twin;
use proptest::prelude::*;
use rand::{RngExt, SeedableRng, rngs::ChaCha20Rng};

use super::*;

const SIZE: usize = 24;

fn featuriser() -> Featuriser {
    Featuriser::EcfpCounts {
        version: 1,
        radius: 2,
        size: SIZE as u32,
        max_count: 7,
    }
}

fn molecules(count: usize, seed: u64) -> Vec<Vec<u16>> {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let value = |rng: &mut ChaCha20Rng| {
        if rng.random_bool(0.4) {
            rng.random_range(0..8)
        } else {
            0
        }
    };
    (0..count)
        .map(|_| (0..SIZE).map(|_| value(&mut rng)).collect())
        .collect()
}

fn sample(molecules: &[Vec<u16>], wanted: impl Fn(&[u16]) -> Vec<f64>) -> Sample {
    let sparse: Vec<Vec<(u32, u16)>> = molecules
        .iter()
        .map(|x| {
            (0u32..)
                .zip(x.iter().copied())
                .filter(|(_, v)| *v > 0)
                .collect()
        })
        .collect();
    let wanted: Vec<f64> = molecules.iter().flat_map(|x| wanted(x)).collect();
    Sample {
        columns: Columns::new(sparse.iter().map(Vec::as_slice), SIZE, 8),
        weights: wanted
            .iter()
            .map(|y| f64::from(u8::from(!y.is_nan())))
            .collect(),
        wanted: wanted
            .iter()
            .map(|y| if y.is_nan() { 0.0 } else { *y })
            .collect(),
    }
}

fn boost(
    task: Task,
    outputs: usize,
    sample: &Sample,
    trees: usize,
) -> (TreeModel, Vec<(f64, f64)>) {
    let settings = TreeSettings {
        trees,
        rate: 0.3,
        depth: 3,
        columns: 1.0,
        ..TreeSettings::boosted()
    };
    let boosting = Boosting {
        task,
        outputs,
        settings: &settings,
    };
    let rows = sample.wanted.len() / outputs;
    let all: Vec<u32> = (0..rows as u32).collect();
    let (learn, check) = all.split_at(rows * 4 / 5);
    let mut rng = ChaCha20Rng::seed_from_u64(9);
    boosting.fit(sample, learn, check, &mut rng, |_, _, _| {})
}

fn step_function(x: &[u16]) -> f64 {
    3.0 * f64::from(u8::from(x[2] > 3)) - 2.0 * f64::from(u8::from(x[5] > 0 && x[7] <= 2))
}

#[test]
fn boosting_finds_a_step_function() {
    let molecules = molecules(400, 1);
    let sample = sample(&molecules, |x| vec![step_function(x)]);
    let (model, losses) = boost(Task::Regression, 1, &sample, 60);
    assert!(losses.last().unwrap().1 < 0.01 * losses[0].1, "{losses:?}");
    for x in &molecules {
        assert!((model.predict(x)[0] - step_function(x)).abs() < 1.0);
    }
}

#[test]
fn every_molecule_reaches_one_leaf_of_each_tree() {
    let molecules = molecules(200, 2);
    let sample = sample(&molecules, |x| vec![step_function(x)]);
    let (model, _) = boost(Task::Regression, 1, &sample, 10);
    for x in self::molecules(100, 3) {
        for tree in &model.trees {
            assert_eq!(tree.leaves.iter().filter(|leaf| leaf.holds(&x)).count(), 1);
        }
    }
}

#[test]
fn classes_and_missing_targets_are_learned() {
    let molecules = molecules(500, 4);
    let binary = |x: &[u16]| f64::from(u8::from(x[1] > 2));
    let two = sample(&molecules, |x| {
        // every third value of the second endpoint is missing
        let second = if x[0] % 3 == 1 {
            f64::NAN
        } else {
            1.0 - binary(x)
        };
        vec![binary(x), second]
    });
    let (model, _) = boost(Task::Binary, 2, &two, 40);
    for x in &molecules {
        let scores = model.predict(x);
        assert_eq!(scores[0] > 0.0, binary(x) > 0.5);
        assert_eq!(scores[1] < 0.0, binary(x) > 0.5);
    }
    let class = |x: &[u16]| if x[1] > 2 { 2 } else { usize::from(x[3] > 0) };
    let three = sample(&molecules, |x| {
        (0..3).map(|c| f64::from(u8::from(c == class(x)))).collect()
    });
    let (model, _) = boost(Task::Multiclass, 3, &three, 40);
    for x in &molecules {
        let scores = model.predict(x);
        let best = (0..3)
            .max_by(|a, b| scores[*a].total_cmp(&scores[*b]))
            .unwrap();
        assert_eq!(best, class(x));
    }
}

#[test]
fn a_forest_is_calibrated_out_of_bag() {
    let molecules = molecules(600, 5);
    // a coin that falls on 1 nine times of ten where the feature is there, one of ten elsewhere
    let mut rng = ChaCha20Rng::seed_from_u64(6);
    let coins: Vec<f64> = molecules
        .iter()
        .map(|x| f64::from(u8::from(rng.random_bool(if x[1] > 2 { 0.9 } else { 0.1 }))))
        .collect();
    let mut next = 0;
    let coin = std::cell::RefCell::new(|| {
        next += 1;
        coins[next - 1]
    });
    let sample = sample(&molecules, |_| vec![(coin.borrow_mut())()]);
    let settings = TreeSettings {
        trees: 60,
        depth: 4,
        least_leaf: 10,
        ..TreeSettings::forest()
    };
    let all: Vec<u32> = (0..600).collect();
    let grow = |seed| forest(Task::Binary, 1, &settings, &sample, &all, seed, || {});
    let model = grow(1);
    assert_eq!(
        model,
        grow(1),
        "a seed gives the same trees on any number of threads"
    );
    for x in self::molecules(100, 7) {
        let p = 1.0 / (1.0 + (-model.predict(&x)[0]).exp());
        let wanted = if x[1] > 2 { 0.9 } else { 0.1 };
        assert!((p - wanted).abs() < 0.2, "{p} {wanted}");
    }
}

#[test]
fn an_ensemble_runs_encrypted() {
    let molecules = molecules(200, 8);
    let sample = sample(&molecules, |x| vec![step_function(x)]);
    let (model, _) = boost(Task::Regression, 1, &sample, 12);
    let (graph, weights, outputs) = quantise(&model, &featuriser(), 12).unwrap();
    let local = LocalModel::new(graph, weights).unwrap();
    for x in &molecules[..20] {
        let value = outputs[0].apply(local.evaluate(x).unwrap()[0], 12);
        let float = model.predict(x)[0];
        assert!(
            (value - float).abs() <= 1.5 * outputs[0].scale,
            "{value} {float}"
        );
    }
}

#[test]
fn nothing_to_split_is_named() {
    let model = TreeModel {
        trees: Vec::new(),
        base: vec![1.0],
    };
    let error = quantise(&model, &featuriser(), 12).unwrap_err();
    assert!(matches!(error, crate::NetsError::NoTree));
}

proptest! {
    /// Integers follow the floats within a code, and no sum wraps, whatever the leaves.
    #[test]
    fn integers_follow_the_floats(
        trees in proptest::collection::vec((0u32..SIZE as u32, 0u16..7, -5.0..5.0f64, -5.0..5.0f64), 1..30),
        base in -100.0..100.0f64,
        seed in any::<u64>(),
    ) {
        let tree = |(feature, threshold, above, below): &(u32, u16, f64, f64)| {
            let leaf = |greater, value| Leaf {
                conditions: vec![Condition { feature: *feature, threshold: *threshold, greater }],
                value,
            };
            Tree { output: 0, leaves: vec![leaf(true, *above), leaf(false, *below)] }
        };
        let model = TreeModel { trees: trees.iter().map(tree).collect(), base: vec![base] };
        let (graph, weights, outputs) = quantise(&model, &featuriser(), 12).unwrap();
        for x in molecules(20, seed) {
            let codes = twin::evaluate(graph.steps(), &weights, &x, twin::nearest());
            let value = outputs[0].apply(codes[0], 12);
            let float = model.predict(&x)[0];
            let grid = f64::from(1u32 << (graph.last().accumulator_bits - 12));
            let bound = outputs[0].scale * (0.51 + trees.len() as f64 * 0.5 / grid);
            prop_assert!((value - float).abs() <= bound, "{} {} {}", value, float, bound);
        }
    }
}
