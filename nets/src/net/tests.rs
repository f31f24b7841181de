use chemxor_core::Task;
use proptest::prelude::*;
use rand::{RngExt, SeedableRng, rngs::ChaCha20Rng};

use super::*;
use crate::config::Schedule;
use crate::matrix::Matrix;

fn settings() -> Settings {
    Settings {
        task: Task::Regression,
        epochs: 6,
        patience: 10,
        batch: 8,
        learning_rate: 1e-2,
        schedule: Schedule::Constant,
        weight_decay: 0.1,
        dropout: 0.1,
        activation_bits: 6,
        private: None,
    }
}

/// Molecules of `columns` features, and the sum of the first half as target.
fn data(rows: usize, columns: u32, seed: u64) -> (Matrix, Vec<f32>, Vec<f32>) {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let row = |_| -> Vec<(u32, f32)> {
        (0..columns)
            .filter(|_| rng.random_bool(0.3))
            .map(|c| (c, 1.0))
            .collect::<Vec<_>>()
    };
    let rows: Vec<Vec<(u32, f32)>> = (0..rows).map(row).collect();
    let sum = |row: &Vec<(u32, f32)>| row.iter().filter(|(c, _)| *c < columns / 2).count() as f32;
    let y: Vec<f32> = rows.iter().map(sum).collect();
    let w = vec![1.0; y.len()];
    let matrix = Matrix {
        rows,
        columns: columns as usize,
    };
    (matrix, y, w)
}

fn run(
    shape: &Architecture,
    settings: &Settings,
    folder: Option<&Folder>,
    columns: u32,
) -> Outcome {
    let (x, y, w) = data(60, columns, 1);
    let (cx, cy, cw) = data(20, columns, 2);
    let train = Part {
        x: &x,
        wanted: &y,
        weights: &w,
    };
    let check = Part {
        x: &cx,
        wanted: &cy,
        weights: &cw,
    };
    let mut rng = ChaCha20Rng::seed_from_u64(3);
    fit(shape, train, check, settings, &mut rng, folder, |_, _| {}).unwrap()
}

#[test]
fn a_training_that_was_interrupted_ends_the_same() {
    let shape = Architecture::mlp(12, &[6, 5], 1, Activation::Relu);
    let whole = run(&shape, &settings(), None, 12);
    let path = tempfile::tempdir().unwrap();
    let folder = Folder::new(path.path(), "a run".to_owned()).unwrap();
    let part = Settings {
        epochs: 3,
        ..settings()
    };
    assert_eq!(run(&shape, &part, Some(&folder), 12).epochs.len(), 3);
    let resumed = run(&shape, &settings(), Some(&folder), 12);
    assert_eq!(resumed.epochs, whole.epochs);
    assert_eq!((resumed.best, &resumed.fitted), (whole.best, &whole.fitted));
    for rank in 1..=3 {
        assert!(path.path().join(format!("best-{rank}")).exists());
    }
    // a finished one is not trained again
    assert_eq!(
        run(&shape, &settings(), Some(&folder), 12).fitted,
        whole.fitted
    );
}

#[test]
fn a_foreign_or_damaged_state_is_refused() {
    let shape = Architecture::mlp(12, &[6], 1, Activation::Relu);
    let path = tempfile::tempdir().unwrap();
    let folder = Folder::new(path.path(), "a run".to_owned()).unwrap();
    run(&shape, &settings(), Some(&folder), 12);
    let again = |name: &str| {
        let (x, y, w) = data(60, 12, 1);
        let part = Part {
            x: &x,
            wanted: &y,
            weights: &w,
        };
        let folder = Folder::new(path.path(), name.to_owned()).unwrap();
        let mut rng = ChaCha20Rng::seed_from_u64(3);
        fit(
            &shape,
            part,
            part,
            &settings(),
            &mut rng,
            Some(&folder),
            |_, _| {},
        )
        .unwrap_err()
        .to_string()
    };
    assert!(again("another").contains("other data or settings"));
    let state = path.path().join("state");
    let mut bytes = std::fs::read(&state).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&state, bytes).unwrap();
    assert!(again("a run").contains("digest does not fit"));
}

#[test]
fn every_task_is_learned() {
    for (task, outputs) in [
        (Task::Regression, 1),
        (Task::Binary, 1),
        (Task::Multiclass, 3),
    ] {
        let (x, y, _) = data(80, 12, 4);
        let wanted: Vec<f32> = y
            .iter()
            .flat_map(|y| match task {
                Task::Regression => vec![*y],
                Task::Binary => vec![f32::from(u8::from(*y > 2.0))],
                Task::Multiclass => (0..3)
                    .map(|c| f32::from(u8::from((*y as usize).min(2) == c)))
                    .collect(),
            })
            .collect();
        let weights = vec![1.0; wanted.len()];
        let part = Part {
            x: &x,
            wanted: &wanted,
            weights: &weights,
        };
        let shape = Architecture::mlp(12, &[16], outputs, Activation::Tanh);
        let long = Settings {
            task,
            epochs: 30,
            dropout: 0.0,
            ..settings()
        };
        let mut rng = ChaCha20Rng::seed_from_u64(5);
        let outcome = fit(&shape, part, part, &long, &mut rng, None, |_, _| {}).unwrap();
        let first = outcome.epochs[0].validation_loss;
        let best = outcome.epochs[outcome.best - 1].validation_loss;
        assert!(best < 0.4 * first, "{task:?}: {first} to {best}");
    }
}

#[test]
fn a_small_olinda_net_becomes_floats_that_agree_with_its_tensors() {
    // the same molecule through the trained tensors (as validation output) and the lifted floats
    let shape = Architecture::olinda(&[], &[8], 1);
    let long = Settings {
        epochs: 1,
        dropout: 0.0,
        ..settings()
    };
    let outcome = run(&shape, &long, None, 1024);
    let loss = outcome.epochs[0].validation_loss;
    let all = ActiveColumns::all(1024);
    let net = outcome.fitted.into_float(&shape, &all, &[(0.0, 1.0)], 7);
    assert_eq!(
        net.layers.len(),
        2,
        "the convolution is part of the first dense layer"
    );
    let (x, y, _) = data(20, 1024, 2);
    let squares: f64 = x
        .rows
        .iter()
        .zip(&y)
        .map(|(row, y)| {
            let mut features = vec![0u16; 1024];
            for (at, value) in row {
                features[*at as usize] = *value as u16;
            }
            (net.evaluate(&features)[0] - f64::from(*y)).powi(2)
        })
        .sum();
    assert!(
        (squares / 20.0 / loss - 1.0).abs() < 1e-3,
        "{} {loss}",
        squares / 20.0
    );
}

fn random_net(widths: &[usize], rng: &mut ChaCha20Rng) -> FloatNet {
    let layers = widths
        .windows(2)
        .enumerate()
        .map(|(index, pair)| FloatLayer {
            map: FloatMap::Dense(
                (0..pair[0] * pair[1])
                    .map(|_| rng.random_range(-1.0..1.0))
                    .collect(),
            ),
            biases: (0..pair[1]).map(|_| rng.random_range(-1.0..1.0)).collect(),
            activation: if index + 2 == widths.len() {
                Activation::Identity
            } else {
                Activation::Relu
            },
        })
        .collect();
    FloatNet {
        expansion: Expansion::None,
        input_bits: 3,
        layers,
    }
}

proptest! {
    #[test]
    fn members_side_by_side_give_their_mean(
        hidden in proptest::collection::vec(1usize..6, 0..3),
        outputs in 1usize..3,
        members in 1usize..4,
        seed in any::<u64>(),
    ) {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let widths: Vec<usize> = [7].into_iter().chain(hidden).chain([outputs]).collect();
        let nets: Vec<FloatNet> = (0..members).map(|_| random_net(&widths, &mut rng)).collect();
        let joined = side_by_side(&nets).unwrap();
        let x: Vec<u16> = (0..7).map(|_| rng.random_range(0..8)).collect();
        for (output, value) in joined.evaluate(&x).iter().enumerate() {
            let mean: f64 = nets.iter().map(|net| net.evaluate(&x)[output]).sum::<f64>() / members as f64;
            prop_assert!((value - mean).abs() < 1e-9, "{value} {mean}");
        }
    }
}
