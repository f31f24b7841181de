//! `fit_image32 FILE`: fits the layout of the `image32` featuriser on the molecules of a table and
//! prints it: for each FCFP6 feature its pixel. Features that occur together become neighbours:
//! distance `1 - r` (Pearson's r of the counts over the molecules), classical scaling to two
//! dimensions (Torgerson 1952), ranks as coordinates, and an assignment to pixels of the smallest
//! total squared distance (Kuhn 1955).
#![allow(clippy::print_stdout, reason = "the layout goes to standard output")]

use std::path::Path;

use chemxor_chem::table::{Column, Table};
use chemxor_chem::{featurise, named};
use nalgebra::{DMatrix, SymmetricEigen};
use pathfinding::kuhn_munkres::kuhn_munkres_min;
use pathfinding::matrix::Matrix;

const SIZE: usize = 1024;
const SIDE: usize = 32;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::env::args().nth(1).ok_or("usage: fit_image32 FILE")?;
    let featuriser = named("fcfp6-counts").ok_or("no featuriser")?;
    let rows: Vec<Vec<u16>> = Table::open(Path::new(&file), &Column::Name("smiles".to_owned()))?
        .filter_map(|row| row.smiles.ok())
        .filter_map(|smiles| featurise(&featuriser, &smiles).ok())
        .collect();
    let counts = DMatrix::from_fn(rows.len(), SIZE, |row, at| f64::from(rows[row][at]));
    let mut standard = counts;
    for mut column in standard.column_iter_mut() {
        let mean = column.mean();
        column.add_scalar_mut(-mean);
        let norm = column.norm();
        if norm > 0.0 {
            column /= norm;
        }
    }
    let correlation = standard.transpose() * &standard;
    let squared = correlation.map(|r| (1.0 - r).powi(2));
    let means: Vec<f64> = squared.row_iter().map(|row| row.mean()).collect();
    let mean = means.iter().sum::<f64>() / SIZE as f64;
    let centred = DMatrix::from_fn(SIZE, SIZE, |i, j| {
        -0.5 * (squared[(i, j)] - means[i] - means[j] + mean)
    });
    let eigen = SymmetricEigen::new(centred);
    let mut order: Vec<usize> = (0..SIZE).collect();
    order.sort_by(|a, b| eigen.eigenvalues[*b].total_cmp(&eigen.eigenvalues[*a]));
    // ranks spread the features over the whole image
    let axis = |of: usize| -> Vec<f64> {
        let values = eigen.eigenvectors.column(of);
        let mut by_value: Vec<usize> = (0..SIZE).collect();
        by_value.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
        let mut ranks = vec![0.0; SIZE];
        for (rank, feature) in by_value.into_iter().enumerate() {
            ranks[feature] = rank as f64 / SIZE as f64 * SIDE as f64;
        }
        ranks
    };
    let (x, y) = (axis(order[0]), axis(order[1]));
    let cost = Matrix::from_fn(SIZE, SIZE, |(feature, pixel)| {
        let (row, column) = ((pixel / SIDE) as f64 + 0.5, (pixel % SIDE) as f64 + 0.5);
        ((x[feature] - column).powi(2) + (y[feature] - row).powi(2)).mul_add(1e4, 0.5) as i64
    });
    let (_, pixels) = kuhn_munkres_min(&cost);
    for line in pixels.chunks(SIDE) {
        let line: Vec<String> = line.iter().map(ToString::to_string).collect();
        println!("{}", line.join(" "));
    }
    Ok(())
}
