//! The networks of the benchmarks and of the tests: shapes as published, random integer weights of the size that
//! training gives (products with an entry of about 16, so rows of a few thousand in norm).

use chemxor_core::{Conv2d, Expansion, Grid, Monomials, StepGraph};
use chemxor_fhe::network::trees::{Condition, Leaf, TreeEnsemble};
use chemxor_fhe::network::{StepWeights, Tables};
use chemxor_fhe::plan::{LayerDemand, plan_graph};
use rand::{RngExt, SeedableRng, rngs::ChaCha20Rng};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// A network ready to be prepared.
pub(crate) struct Net {
    pub(crate) graph: StepGraph,
    pub(crate) weights: Vec<StepWeights>,
    pub(crate) demands: Vec<LayerDemand>,
}

/// Bits of a hidden activation.
const B: u8 = 4;
/// Released bits.
const RELEASED: u8 = 12;

/// Names that [`net`] knows.
pub(crate) const NETS: [&str; 5] = ["olinda-zero", "olinda", "olinda-one", "linear", "trees"];

/// A network by name.
pub(crate) fn net(name: &str) -> Result<Net> {
    let rng = &mut ChaCha20Rng::seed_from_u64(7);
    match name {
        "olinda-zero" => olinda(&[], &[512, 256, 1], rng),
        "olinda" => olinda(&[32], &[1024, 512, 256, 1], rng),
        "olinda-one" => olinda(&[32, 64, 64], &[1024, 512, 256, 1], rng),
        "linear" => {
            let weights = StepWeights::new_static(2058, 1, values(2058, 60, rng))?;
            planned(vec![weights], &Expansion::None, 3, RELEASED)
        }
        "trees" => trees(rng),
        _ => Err(format!("unknown network {name}: one of {}", NETS.join(", ")).into()),
    }
}

fn values(count: usize, bound: i16, rng: &mut ChaCha20Rng) -> Vec<i16> {
    (0..count)
        .map(|_| rng.random_range(-bound..=bound))
        .collect()
}

fn tables(neurons: usize, rng: &mut ChaCha20Rng) -> Tables {
    Tables {
        bits: B,
        shift: 5,
        entries: (0..neurons << B)
            .map(|_| rng.random_range(0..=15))
            .collect(),
    }
}

/// An Olinda net whose first convolution (32 filters, 3x3, stride 3, on 32x32) and quadratic
/// activation are lifted; then convolutions of 3x3, then dense layers.
fn olinda(convolutions: &[u32], dense: &[usize], rng: &mut ChaCha20Rng) -> Result<Net> {
    let shape = Monomials {
        height: 32,
        width: 32,
        kernel: 3,
    };
    let mut channels = shape.channels() as u32;
    let mut side = 10;
    let mut weights: Vec<StepWeights> = Vec::new();
    for filters in convolutions {
        let conv = Conv2d {
            channels,
            height: side,
            width: side,
            filters: *filters,
            kernel: 3,
            stride: 1,
            padding: 0,
        };
        let tables = (!weights.is_empty()).then(|| tables(conv.inputs() as usize, rng));
        let kernel = values(conv.taps() * *filters as usize, 60, rng);
        weights.push(StepWeights::new_conv2d(conv, kernel, tables)?);
        (channels, side) = (*filters, side - 2);
    }
    let mut inputs = channels as usize * (side * side) as usize;
    for outputs in dense {
        let row = values(inputs * outputs, 60, rng);
        weights.push(if weights.is_empty() {
            StepWeights::new_static(inputs, *outputs, row)?
        } else {
            let tables = tables(inputs, rng);
            StepWeights::new_lookup(
                inputs,
                *outputs,
                B,
                tables.shift,
                row,
                tables.entries.clone(),
            )?
        });
        inputs = *outputs;
    }
    planned(weights, &Expansion::Monomials(shape), 6, RELEASED)
}

/// 100 trees of depth 4 on 2048 counts of 8 levels and 10 descriptors of 32.
fn trees(rng: &mut ChaCha20Rng) -> Result<Net> {
    let grids = vec![
        Grid {
            features: 2048,
            levels: 8,
        },
        Grid {
            features: 10,
            levels: 32,
        },
    ];
    let mut leaves = Vec::new();
    for _ in 0..100 {
        let splits: Vec<(u32, u16)> = (0..15)
            .map(|_| {
                let feature = rng.random_range(0..2058u32);
                let levels = if feature < 2048 { 8 } else { 32 };
                (feature, rng.random_range(0..levels - 1))
            })
            .collect();
        for leaf in 0..16usize {
            let mut node = 0;
            let path = (0..4).map(|bit| {
                let greater = leaf >> bit & 1 == 1;
                let (feature, threshold) = splits[node];
                node = 2 * node + 1 + usize::from(greater);
                Condition {
                    feature,
                    threshold,
                    greater,
                }
            });
            leaves.push(Leaf {
                conditions: path.collect(),
                values: vec![rng.random_range(-300..=300)],
            });
        }
    }
    let ensemble = TreeEnsemble::new(grids, &leaves)?;
    let demands = ensemble.demands(16, RELEASED).to_vec();
    Ok(Net {
        graph: plan_graph(&demands)?,
        weights: vec![ensemble.counters, ensemble.leaves],
        demands,
    })
}

fn planned(
    weights: Vec<StepWeights>,
    expansion: &Expansion,
    input_bits: u8,
    released: u8,
) -> Result<Net> {
    let last = weights.len() - 1;
    let demand = |(step, weights): (usize, &StepWeights)| {
        let bits = if step == last { released } else { B };
        let demand = LayerDemand::of(weights, if step == 0 { input_bits } else { B }, 16, bits);
        if step == 0 {
            demand.expanding(expansion.clone())
        } else {
            demand
        }
    };
    let demands: Vec<LayerDemand> = weights.iter().enumerate().map(demand).collect();
    Ok(Net {
        graph: plan_graph(&demands)?,
        weights,
        demands,
    })
}
