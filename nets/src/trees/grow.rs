//! One tree. A feature takes few levels, so the sums of gradients and curvatures over the molecules
//! of a node, kept for each level of each feature, hold every split exactly; most features of a
//! molecule are 0, and level 0 is what the other levels leave of the node's total (the histograms of
//! Chen and Guestrin 2016 and Ke et al. 2017, without their binning).

use chemxor_fhe::network::trees::Condition;
use rand::RngExt;
use rand::rngs::ChaCha20Rng;

use super::Leaf;

/// Nonzero entries of every row over the columns that vary, and the number of levels.
#[derive(Debug)]
pub(crate) struct Columns {
    /// `(column, value)` of each row.
    pub(super) rows: Vec<Vec<(u32, u16)>>,
    /// Feature of a column.
    pub(super) features: Vec<u32>,
    /// Levels of every feature.
    pub(super) levels: usize,
}

impl Columns {
    /// Of sparse rows; values are below `levels`.
    pub(crate) fn new<'a>(
        rows: impl Iterator<Item = &'a [(u32, u16)]>,
        size: usize,
        levels: usize,
    ) -> Self {
        let rows: Vec<&[(u32, u16)]> = rows.collect();
        let mut column_of = vec![u32::MAX; size];
        for (feature, _) in rows.iter().copied().flatten() {
            column_of[*feature as usize] = 0;
        }
        let mut features = Vec::new();
        for (feature, column) in (0u32..).zip(&mut column_of) {
            if *column == 0 {
                *column = features.len() as u32;
                features.push(feature);
            }
        }
        let renumber = |row: &&[(u32, u16)]| {
            let entry = |(feature, value): &(u32, u16)| (column_of[*feature as usize], *value);
            row.iter().map(entry).collect()
        };
        Self {
            rows: rows.iter().map(renumber).collect(),
            features,
            levels,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.features.len()
    }
}

/// Gradient, curvature and number of rows.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sums {
    pub(super) gradient: f64,
    pub(super) curvature: f64,
    pub(super) rows: f64,
}

impl Sums {
    fn add(&mut self, other: Self) {
        self.gradient += other.gradient;
        self.curvature += other.curvature;
        self.rows += other.rows;
    }

    fn minus(self, other: Self) -> Self {
        Self {
            gradient: self.gradient - other.gradient,
            curvature: self.curvature - other.curvature,
            rows: self.rows - other.rows,
        }
    }

    fn score(self, penalty: f64) -> f64 {
        self.gradient * self.gradient / (self.curvature + penalty).max(1e-12)
    }
}

/// What limits a tree.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) depth: usize,
    pub(super) least_leaf: f64,
    pub(super) penalty: f64,
    /// Part of the columns drawn for the tree, or for each split.
    pub(super) columns: f64,
    pub(super) columns_by_split: bool,
}

struct Node {
    rows: Vec<u32>,
    path: Vec<Condition>,
}

/// Grows a tree on `rows` (a row may stand there more than once); a leaf's value is
/// `-gradient / (curvature + penalty)`.
pub(super) fn grow(
    columns: &Columns,
    sums: &[Sums],
    rows: Vec<u32>,
    limits: &Limits,
    rng: &mut ChaCha20Rng,
) -> Vec<Leaf> {
    let mut of_tree = draw(columns.len(), limits.columns, rng);
    let mut histogram = vec![Sums::default(); columns.len() * columns.levels];
    let mut leaves = Vec::new();
    let mut open = vec![Node {
        rows,
        path: Vec::new(),
    }];
    while let Some(node) = open.pop() {
        let mut total = Sums::default();
        for row in &node.rows {
            total.add(sums[*row as usize]);
        }
        let split = if node.path.len() < limits.depth && total.rows >= 2.0 * limits.least_leaf {
            if limits.columns_by_split {
                of_tree = draw(columns.len(), limits.columns, rng);
            }
            fill(&mut histogram, columns, sums, &node.rows, &of_tree);
            best_split(&histogram, columns, total, &of_tree, limits)
        } else {
            None
        };
        let Some((column, threshold)) = split else {
            let value = -total.gradient / (total.curvature + limits.penalty).max(1e-12);
            leaves.push(Leaf {
                conditions: node.path,
                value,
            });
            continue;
        };
        let (above, below): (Vec<u32>, Vec<u32>) = node.rows.iter().partition(|row| {
            let entries = &columns.rows[**row as usize];
            let at = entries.binary_search_by_key(&column, |(column, _)| *column);
            at.is_ok_and(|at| entries[at].1 > threshold)
        });
        for (rows, greater) in [(above, true), (below, false)] {
            let mut path = node.path.clone();
            path.push(Condition {
                feature: columns.features[column as usize],
                threshold,
                greater,
            });
            open.push(Node { rows, path });
        }
    }
    leaves
}

/// Which columns take part.
fn draw(count: usize, part: f64, rng: &mut ChaCha20Rng) -> Vec<bool> {
    if part >= 1.0 {
        return vec![true; count];
    }
    (0..count).map(|_| rng.random_bool(part)).collect()
}

fn fill(
    histogram: &mut [Sums],
    columns: &Columns,
    sums: &[Sums],
    rows: &[u32],
    taking_part: &[bool],
) {
    histogram.fill(Sums::default());
    for row in rows {
        let own = sums[*row as usize];
        for (column, value) in &columns.rows[*row as usize] {
            if taking_part[*column as usize] {
                let at = *column as usize * columns.levels + usize::from(*value);
                histogram[at].add(own);
            }
        }
    }
}

/// Column and largest level of the lower side.
fn best_split(
    histogram: &[Sums],
    columns: &Columns,
    total: Sums,
    taking_part: &[bool],
    limits: &Limits,
) -> Option<(u32, u16)> {
    let whole = total.score(limits.penalty);
    let mut best = (1e-9 * whole.abs().max(1e-12), None);
    for (column, levels) in histogram.chunks(columns.levels).enumerate() {
        if !taking_part[column] {
            continue;
        }
        // from the highest level down: level 0 is never needed
        let mut above = Sums::default();
        for threshold in (0..columns.levels - 1).rev() {
            let level = levels[threshold + 1];
            if level.rows == 0.0 {
                continue;
            }
            above.add(level);
            let below = total.minus(above);
            if above.rows < limits.least_leaf || below.rows < limits.least_leaf {
                continue;
            }
            let gain = above.score(limits.penalty) + below.score(limits.penalty) - whole;
            if gain > best.0 {
                best = (gain, Some((column as u32, threshold as u16)));
            }
        }
    }
    best.1
}
