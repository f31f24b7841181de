//! How the server's time grows with outputs, inputs and table size of a lookup step, on one thread:
//! a product costs the same everywhere, so time is linear in products.

use std::time::Instant;

use anyhow::Result;
use chemxor_fhe::local::LocalModel;
use chemxor_fhe::network::StepWeights;
use chemxor_fhe::plan::{LayerDemand, plan_graph};
use chemxor_fhe::server::{PublicKeys, SeedLog};
use rand::{RngExt, SeedableRng, rngs::ChaCha20Rng};

/// Prints one row a shape.
pub(crate) fn run(quick: bool) -> Result<()> {
    let rounds = if quick { 5 } else { 21 };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    println!("sweep,neurons,outputs,table,products,output_ciphertexts,server_ms,us_a_product");
    let outputs = [64, 128, 256, 512, 1024].map(|n| ("outputs", 512, n, 4u8));
    let inputs = [64, 128, 256, 512, 1024].map(|n| ("inputs", n, 256, 4u8));
    let tables = [3u8, 4, 5, 6, 7, 8].map(|b| ("table", 256, 256, b));
    let shapes = outputs.into_iter().chain(inputs).chain(tables);
    for (sweep, neurons, outputs, b) in shapes {
        let rng = &mut ChaCha20Rng::seed_from_u64(3);
        let mut values = |n: usize, low: i16, high: i16| -> Vec<i16> {
            (0..n).map(|_| rng.random_range(low..=high)).collect()
        };
        // one bit of precision asks for half the norm, so that every shape fits the small ring
        let bound = 60 >> b.saturating_sub(4);
        let first = StepWeights::new_static(8, neurons, values(8 * neurons, -30, 30))?;
        let tables = values(neurons << b, 0, 15);
        let weights = values(neurons * outputs, -bound, bound);
        let second = StepWeights::new_lookup(neurons, outputs, b, 5, weights, tables)?;
        let demands = [
            LayerDemand::of(&first, 3, 12, b),
            LayerDemand::of(&second, b, 14, 8).in_ring(chemxor_core::RingName::N1024Q32),
        ];
        let model = LocalModel::new(plan_graph(&demands)?, vec![first, second])?;
        let rings = model.graph().rings();
        let public = model.key().public_keys(&rings)?;
        let public = PublicKeys::from_bytes(&public, &rings, &SeedLog::default())?;
        let mut query = model.query(&[1; 8])?;
        let done = query.advance()?;
        let step = &model.steps()[1];
        let mut times = Vec::new();
        for _ in 0..=rounds {
            let seeds = SeedLog::default();
            let begin = Instant::now();
            let evaluate = || step.evaluate(&public, done.blinds.as_ref(), query.message(), &seeds);
            std::hint::black_box(pool.install(evaluate)?);
            times.push(begin.elapsed().as_secs_f64() * 1e3);
        }
        times.sort_by(f64::total_cmp);
        let median = times[times.len() / 2];
        let layout = &step.shape().layout;
        let products = layout.product_count();
        println!(
            "{sweep},{neurons},{outputs},{},{products},{},{median:.3},{:.2}",
            1 << b,
            layout.output_count(),
            median * 1e3 / products as f64
        );
    }
    Ok(())
}
