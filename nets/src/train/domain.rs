//! What the training molecules were like (docs/decisions/0016).

use chemxor_chem::{descriptors, featurise, named};
use chemxor_core::ApplicabilityDomain;
use rayon::prelude::*;

use crate::dataset::Dataset;

/// Most molecules whose nearest neighbour is looked for; the first ones of the file.
const MOST_ROWS: usize = 2000;
/// Quantiles of the similarity.
pub(crate) const QUANTILES: [f64; 5] = [0.05, 0.25, 0.5, 0.75, 0.95];

/// None where a molecule has no descriptors, which its featuriser may not need.
pub(super) fn of(dataset: &Dataset, learn: &[usize]) -> Option<ApplicabilityDomain> {
    let rows = dataset.rows();
    let values: Vec<[f64; 10]> = learn
        .par_iter()
        .map(|index| descriptors(&rows[*index].smiles).ok().map(|d| d.values()))
        .collect::<Option<_>>()?;
    let column = |at: usize| {
        let mut column: Vec<f64> = values.iter().map(|row| row[at]).collect();
        column.sort_by(f64::total_cmp);
        // outwards to thousandths, so that a value at the end lies within
        [
            (quantile(&column, 0.01) * 1000.0).floor() as i64,
            (quantile(&column, 0.99) * 1000.0).ceil() as i64,
        ]
    };
    let bits = named("ecfp4-bits")?;
    let sets: Vec<Vec<u32>> = learn
        .par_iter()
        .take(MOST_ROWS)
        .map(|index| {
            let bits = featurise(&bits, &rows[*index].smiles).ok()?;
            Some(
                (0u32..)
                    .zip(bits)
                    .filter(|(_, on)| *on > 0)
                    .map(|(at, _)| at)
                    .collect(),
            )
        })
        .collect::<Option<_>>()?;
    let mut nearest: Vec<f64> = (0..sets.len())
        .into_par_iter()
        .map(|own| {
            let others = sets.iter().enumerate().filter(|(other, _)| *other != own);
            others
                .map(|(_, other)| tanimoto(&sets[own], other))
                .fold(0.0, f64::max)
        })
        .collect();
    nearest.sort_by(f64::total_cmp);
    let quantiles = QUANTILES.map(|q| (quantile(&nearest, q) * 1000.0).round() as u16);
    Some(ApplicabilityDomain {
        descriptors: (0..10).map(column).collect(),
        nearest_neighbour: quantiles.to_vec(),
    })
}

/// Of sorted values, the nearest rank.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = (q * (sorted.len().max(1) - 1) as f64).round() as usize;
    sorted.get(at).copied().unwrap_or(0.0)
}

/// Of two sorted sets.
fn tanimoto(a: &[u32], b: &[u32]) -> f64 {
    let (mut i, mut j, mut common) = (0, 0, 0usize);
    while i < a.len() && j < b.len() {
        match a[i].cmp(&b[j]) {
            std::cmp::Ordering::Less => i += 1,
            std::cmp::Ordering::Greater => j += 1,
            std::cmp::Ordering::Equal => (i, j, common) = (i + 1, j + 1, common + 1),
        }
    }
    let all = a.len() + b.len() - common;
    if all == 0 {
        1.0
    } else {
        common as f64 / all as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn similarity_and_quantiles() {
        assert_eq!(tanimoto(&[1, 2, 3], &[2, 3, 4]), 0.5);
        assert_eq!(tanimoto(&[], &[]), 1.0);
        assert_eq!(quantile(&[1.0, 2.0, 3.0], 0.5), 2.0);
        assert_eq!(quantile(&[], 0.5), 0.0);
    }
}
