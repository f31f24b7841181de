//! Models of the same recipe on random halves of the data.

use chemxor_fhe::twin::{evaluate, stochastic};
use rand::RngExt;
use rayon::prelude::*;

use super::attack::Observed;
use super::{QUERIES, confidences};
use crate::config::TrainConfig;
use crate::dataset::Dataset;
use crate::error::NetsError;
use crate::split::{generator, split};

/// Stream of the seed for the halves.
const HALVES: u64 = 6;

/// Trains shadow `number`, quantises it at these bits and asks it about every molecule. Numbers 2k
/// and 2k + 1 learn complementary halves.
pub(super) fn observe(
    dataset: &Dataset,
    config: &TrainConfig,
    bits: &[u8],
    number: usize,
) -> Result<Observed, NetsError> {
    let rows = dataset.rows();
    let all: Vec<usize> = (0..rows.len()).collect();
    let pair = (number / 2) as u64;
    let mut rng = generator(config.seed ^ (HALVES << 32), pair);
    let halves = split(rows, &all, dataset.task(), 0.5, &mut rng);
    let learn = if number.is_multiple_of(2) {
        halves.rest
    } else {
        halves.aside
    };
    let config = TrainConfig {
        // its own initialisation and order, never those of the attacked model
        seed: config.seed.wrapping_add(1 + number as u64),
        fold: None,
        ..config.clone()
    };
    let model = crate::train::integers(dataset, &config, &learn, bits)?;
    let released = config.output_bits;
    let predictions: Vec<Vec<f64>> = rows
        .par_iter()
        .enumerate()
        .map(|(at, row)| {
            let mut rng = generator(config.seed ^ (QUERIES << 32), at as u64);
            let carry = stochastic(|| rng.random::<f64>());
            evaluate(
                model.graph.steps(),
                &model.weights,
                &dataset.dense(row),
                carry,
            )
            .iter()
            .zip(&model.outputs)
            .map(|(code, scaling)| scaling.apply(*code, released))
            .collect()
        })
        .collect();
    let mut learned = vec![false; rows.len()];
    for row in learn {
        learned[row] = true;
    }
    Ok(Observed {
        learned,
        confidence: confidences(dataset, &predictions),
    })
}
