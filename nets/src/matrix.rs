//! Features of many molecules as a sparse matrix over the columns that vary in training. A column
//! that is 0 in every training row can carry no information, so its weight stays exactly 0.

use crate::dataset::Row;

/// Rows of `(column, value)`, columns renumbered.
#[derive(Debug, Clone)]
pub(crate) struct Matrix {
    /// Nonzero entries of each row.
    pub(crate) rows: Vec<Vec<(u32, f32)>>,
    /// Number of columns.
    pub(crate) columns: usize,
}

/// The features that are nonzero in some training row, ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ActiveColumns {
    features: Vec<u32>,
    /// Column of a feature, or `u32::MAX`.
    column_of: Vec<u32>,
}

impl ActiveColumns {
    /// Of `rows[of]`, for `size` features.
    pub(crate) fn of(rows: &[Row], of: &[usize], size: usize) -> Self {
        let mut seen = vec![false; size];
        for (index, _) in of.iter().flat_map(|row| &rows[*row].features) {
            seen[*index as usize] = true;
        }
        let features: Vec<u32> = (0u32..)
            .zip(seen)
            .filter(|(_, s)| *s)
            .map(|(i, _)| i)
            .collect();
        let mut column_of = vec![u32::MAX; size];
        for (column, feature) in (0u32..).zip(&features) {
            column_of[*feature as usize] = column;
        }
        Self {
            features,
            column_of,
        }
    }

    /// Every feature.
    pub(crate) fn all(size: usize) -> Self {
        let features: Vec<u32> = (0u32..).take(size).collect();
        Self {
            column_of: features.clone(),
            features,
        }
    }

    /// How many.
    pub(crate) fn len(&self) -> usize {
        self.features.len()
    }

    /// `rows[of]` over these columns.
    pub(crate) fn matrix(&self, rows: &[Row], of: &[usize]) -> Matrix {
        let row = |index: &usize| {
            let entry = |(feature, value): &(u32, u16)| {
                let column = self.column_of[*feature as usize];
                (column != u32::MAX).then(|| (column, f32::from(*value)))
            };
            rows[*index].features.iter().filter_map(entry).collect()
        };
        Matrix {
            rows: of.iter().map(row).collect(),
            columns: self.len(),
        }
    }

    /// Weights of columns as weights of all features.
    pub(crate) fn expand(&self, weights: &[f64]) -> Vec<f64> {
        let mut all = vec![0.0; self.column_of.len()];
        for (feature, weight) in self.features.iter().zip(weights) {
            all[*feature as usize] = *weight;
        }
        all
    }
}

impl Matrix {
    /// `X w`.
    pub(crate) fn times(&self, w: &[f64]) -> Vec<f64> {
        let dot = |row: &Vec<(u32, f32)>| -> f64 {
            row.iter()
                .map(|(c, v)| f64::from(*v) * w[*c as usize])
                .sum()
        };
        self.rows.iter().map(dot).collect()
    }

    /// `X^T r`.
    pub(crate) fn transposed_times(&self, r: &[f64]) -> Vec<f64> {
        let mut out = vec![0.0; self.columns];
        for (row, r) in self.rows.iter().zip(r) {
            for (column, value) in row {
                out[*column as usize] += f64::from(*value) * r;
            }
        }
        out
    }

    /// Rows `of` as a dense block, row-major.
    pub(crate) fn dense(&self, of: &[usize]) -> Vec<f32> {
        let mut out = vec![0.0; of.len() * self.columns];
        for (slot, index) in of.iter().enumerate() {
            for (column, value) in &self.rows[*index] {
                out[slot * self.columns + *column as usize] = *value;
            }
        }
        out
    }
}
