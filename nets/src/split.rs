//! Seeded random splits. Rows with the same SMILES stay together, so that no molecule is both
//! learned and judged; classes are split in proportion.

use std::collections::{BTreeMap, HashMap, HashSet};

use chemxor_core::Task;
use rand::seq::SliceRandom;
use rand::{SeedableRng, rngs::ChaCha20Rng};

use crate::dataset::{Dataset, HoldOut, Row};

/// Indices of both parts, each in ascending order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Split {
    /// What is learned from.
    pub(crate) rest: Vec<usize>,
    /// What is kept aside.
    pub(crate) aside: Vec<usize>,
}

/// The generator of one purpose: the same seed gives independent streams for different purposes.
pub(crate) fn generator(seed: u64, purpose: u64) -> ChaCha20Rng {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    rng.set_stream(purpose);
    rng
}

/// What is held out of a whole data set.
pub(crate) fn hold_out(dataset: &Dataset, fraction: f64, rng: &mut ChaCha20Rng) -> Split {
    let rows = dataset.rows();
    let all: Vec<usize> = (0..rows.len()).collect();
    match dataset.hold_out() {
        HoldOut::Random => split(rows, &all, dataset.task(), fraction, rng),
        HoldOut::Scaffold => by_scaffold(rows, fraction, rng),
        HoldOut::Column(_) => last(rows, fraction),
    }
}

/// Scaffolds in random order until the part is full. One that alone would fill more than half of it
/// is learned from: the molecules without rings are often a large one.
fn by_scaffold(rows: &[Row], fraction: f64, rng: &mut ChaCha20Rng) -> Split {
    let mut groups: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, row) in rows.iter().enumerate() {
        groups.entry(&row.key).or_default().push(index);
    }
    let mut order: Vec<Vec<usize>> = groups.into_values().collect();
    order.shuffle(rng);
    let wanted = ((rows.len() as f64 * fraction).round() as usize).max(1);
    let (mut rest, mut aside) = (Vec::new(), Vec::new());
    for group in order {
        let fits = aside.len() + group.len() <= wanted && group.len() * 2 <= wanted.max(2);
        if fits { &mut aside } else { &mut rest }.extend(group);
    }
    sorted(rest, aside)
}

/// The largest keys; equal ones stay together, and so do spellings of one molecule, on the later
/// side.
fn last(rows: &[Row], fraction: f64) -> Split {
    let numbers: Option<Vec<f64>> = rows.iter().map(|row| row.key.parse().ok()).collect();
    let compare = |a: &usize, b: &usize| match &numbers {
        Some(numbers) => numbers[*a].total_cmp(&numbers[*b]),
        None => rows[*a].key.cmp(&rows[*b].key),
    };
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by(compare);
    let wanted = ((rows.len() as f64 * fraction).round() as usize).clamp(1, rows.len().max(1));
    let first = order.get(rows.len() - wanted).copied().unwrap_or(0);
    let late: HashSet<&str> = (0..rows.len())
        .filter(|row| compare(row, &first).is_ge())
        .map(|row| rows[row].molecule.as_str())
        .collect();
    let (aside, rest) =
        (0..rows.len()).partition(|row| late.contains(rows[*row].molecule.as_str()));
    sorted(rest, aside)
}

fn sorted(mut rest: Vec<usize>, mut aside: Vec<usize>) -> Split {
    rest.sort_unstable();
    aside.sort_unstable();
    Split { rest, aside }
}

/// Number of the class of rows without one; there are at most 64 others.
const MISSING: usize = 64;

/// Keeps about `fraction` of `rows[of]` aside.
pub(crate) fn split(
    rows: &[Row],
    of: &[usize],
    task: Task,
    fraction: f64,
    rng: &mut ChaCha20Rng,
) -> Split {
    let mut order: Vec<&str> = Vec::new();
    let mut groups: HashMap<&str, Vec<usize>> = HashMap::new();
    for index in of {
        let smiles = rows[*index].molecule.as_str();
        let group = groups.entry(smiles).or_default();
        if group.is_empty() {
            order.push(smiles);
        }
        group.push(*index);
    }
    order.shuffle(rng);
    let class = |smiles: &str| match task {
        Task::Regression => 0,
        // several targets: in proportion to the first; a missing one is a class of its own
        Task::Binary | Task::Multiclass => {
            let target = rows[groups[smiles][0]].target();
            if target.is_nan() {
                MISSING
            } else {
                target as usize
            }
        }
    };
    let mut size = [0usize; MISSING + 1];
    for smiles in &order {
        size[class(smiles)] += groups[smiles].len();
    }
    let wanted =
        size.map(|n| ((n as f64 * fraction).round() as usize).clamp(usize::from(n > 1), n));
    let mut taken = [0usize; MISSING + 1];
    let (mut rest, mut aside) = (Vec::new(), Vec::new());
    for smiles in order {
        let class = class(smiles);
        if taken[class] < wanted[class] {
            taken[class] += groups[smiles].len();
            aside.extend_from_slice(&groups[smiles]);
        } else {
            rest.extend_from_slice(&groups[smiles]);
        }
    }
    rest.sort_unstable();
    aside.sort_unstable();
    Split { rest, aside }
}

/// `k` folds of `of`; each as a split with that fold aside.
pub(crate) fn folds(
    rows: &[Row],
    of: &[usize],
    task: Task,
    k: usize,
    rng: &mut ChaCha20Rng,
) -> Vec<Split> {
    let mut left = of.to_vec();
    (0..k)
        .map(|done| {
            let part = split(rows, &left, task, 1.0 / (k - done) as f64, rng);
            let aside = if done + 1 == k {
                left.clone()
            } else {
                part.aside
            };
            left = part.rest;
            let rest = of
                .iter()
                .copied()
                .filter(|i| aside.binary_search(i).is_err())
                .collect();
            Split { rest, aside }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Row> {
        (0..100)
            .map(|i| Row {
                line: i,
                smiles: format!("m{}", i / 2),
                molecule: format!("m{}", i / 2),
                key: format!("{}", i % 13),
                changed: false,
                targets: vec![f64::from(u8::from(i % 10 == 0 || i % 10 == 1))],
                features: Vec::new(),
            })
            .collect()
    }

    #[test]
    fn a_seed_gives_the_same_split_and_molecules_stay_together() {
        let (rows, all) = (rows(), (0..100).collect::<Vec<_>>());
        let make = |seed| split(&rows, &all, Task::Binary, 0.2, &mut generator(seed, 1));
        assert_eq!(make(5), make(5));
        assert_ne!(make(5), make(6));
        let Split { rest, aside } = make(5);
        assert_eq!((rest.len(), aside.len()), (80, 20));
        assert_eq!(
            aside.iter().filter(|i| rows[**i].target() > 0.5).count(),
            4,
            "in proportion"
        );
        for i in &aside {
            assert!(
                aside.contains(&(i ^ 1)),
                "the twin of {i} is on the same side"
            );
        }
    }

    #[test]
    fn no_scaffold_is_on_both_sides() {
        let rows = rows();
        let Split { rest, aside } = by_scaffold(&rows, 0.3, &mut generator(3, 1));
        assert_eq!(rest.len() + aside.len(), 100);
        assert!((15..=30).contains(&aside.len()), "{}", aside.len());
        for row in &aside {
            assert!(rest.iter().all(|other| rows[*other].key != rows[*row].key));
        }
    }

    #[test]
    fn the_last_ones_by_number_are_held_out() {
        let mut rows = rows();
        for row in &mut rows {
            row.molecule = format!("own {}", row.line);
        }
        let Split { rest, aside } = last(&rows, 0.2);
        let key = |row: &usize| rows[*row].key.parse::<u32>().unwrap();
        assert!(aside.len() >= 20);
        assert!(rest.iter().map(key).max() < aside.iter().map(key).min());
    }

    #[test]
    fn folds_cover_everything_once() {
        let (rows, all) = (rows(), (0..100).collect::<Vec<_>>());
        let folds = folds(&rows, &all, Task::Regression, 5, &mut generator(1, 1));
        let mut seen: Vec<usize> = folds.iter().flat_map(|f| f.aside.clone()).collect();
        seen.sort_unstable();
        assert_eq!(seen, all);
        assert!(
            folds
                .iter()
                .all(|f| f.rest.len() + f.aside.len() == 100 && f.aside.len() >= 18)
        );
    }
}
