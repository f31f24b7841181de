//! The networks as a whole in one process: time of all server steps on one and two threads, time of
//! the client, bytes, and memory of the prepared weights. The untuned reference of each network is
//! its clear twin in plain integers on one thread.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use chemxor_fhe::client::{Progress, Query};
use chemxor_fhe::local::LocalModel;
use chemxor_fhe::plan::report::PlanReport;
use chemxor_fhe::server::{PublicKeys, SeedLog};
use chemxor_fhe::twin;

use crate::nets::{NETS, net};

struct Sample {
    client: Duration,
    server: Vec<Duration>,
}

/// One query; the server's steps run on `pool`.
fn sample(model: &LocalModel, features: &[u16], pool: &rayon::ThreadPool) -> Result<Sample> {
    let rings = model.graph().rings();
    let seeds = SeedLog::default();
    let public = model.key().public_keys(&rings)?;
    let public = PublicKeys::from_bytes(&public, &rings, &seeds)?;
    let mut client = Duration::ZERO;
    let mut server = Vec::new();
    let begin = Instant::now();
    let (mut query, mut message) = Query::start(model.key(), model.graph(), features)?;
    client += begin.elapsed();
    let mut blinds = None;
    for step in model.steps() {
        let begin = Instant::now();
        let done = pool.install(|| step.evaluate(&public, blinds.as_ref(), &message, &seeds))?;
        server.push(begin.elapsed());
        let begin = Instant::now();
        if let Progress::Next(next) = query.receive(&done.reply)? {
            message = next;
        }
        client += begin.elapsed();
        blinds = done.blinds;
    }
    Ok(Sample { client, server })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Prints one row a network, and the plans to standard error.
pub(crate) fn run(quick: bool) -> Result<()> {
    let rounds = if quick { 5 } else { 31 };
    let pools = [1, 2].map(|n| rayon::ThreadPoolBuilder::new().num_threads(n).build());
    let [one, two] = pools;
    let (one, two) = (one?, two?);
    println!(
        "network,rounds,server_ms_1_thread,server_ms_2_threads,client_ms,bytes_up,bytes_down,\
         prepared_bytes,twin_ms,server_times_the_twin"
    );
    let mut held = Vec::new();
    for name in NETS {
        let net = net(name).map_err(anyhow::Error::from_boxed)?;
        eprintln!("{name}\n{}\n", PlanReport::new(&net.graph, &net.demands)?);
        let first = &net.graph.steps()[0];
        let features: Vec<u16> = (0..first.features())
            .map(|i| if i % 23 == 0 { 1 + (i % 3) as u16 } else { 0 })
            .map(|x| x.min(first.feature_limit(0) as u16 - 1))
            .collect();
        let twins = (0..rounds).map(|_| {
            let begin = Instant::now();
            let codes = twin::evaluate(net.graph.steps(), &net.weights, &features, twin::nearest());
            std::hint::black_box(codes);
            millis(begin.elapsed())
        });
        let twin = median(twins.collect());
        let model = LocalModel::new(net.graph.clone(), net.weights)?;
        let prepared: usize = model.steps().iter().map(|step| step.bytes()).sum();
        sample(&model, &features, &two).context("warm-up")?;
        let run = |pool| -> Result<Vec<Sample>> {
            (0..rounds)
                .map(|_| sample(&model, &features, pool))
                .collect()
        };
        let (alone, both) = (run(&one)?, run(&two)?);
        let total = |samples: &[Sample]| {
            median(
                samples
                    .iter()
                    .map(|s| millis(s.server.iter().sum()))
                    .collect(),
            )
        };
        let steps: Vec<String> = (0..model.steps().len())
            .map(|i| median(alone.iter().map(|s| millis(s.server[i])).collect()))
            .map(|ms| format!("{ms:.2}"))
            .collect();
        eprintln!("steps on one thread, ms: {}\n", steps.join(" "));
        let client = median(alone.iter().map(|s| millis(s.client)).collect());
        let shapes = model.steps().iter().map(|step| step.shape());
        let (up, down) = shapes.fold((0, 0), |(up, down), shape| {
            (up + shape.input_bytes(), down + shape.reply_bytes())
        });
        let (alone, both) = (total(&alone), total(&both));
        println!(
            "{name},{},{alone:.2},{both:.2},{client:.2},{up},{down},{prepared},{twin:.3},{:.1}",
            model.steps().len(),
            alone / twin
        );
        held.push(model);
    }
    // all networks stay prepared, client included: what a worker that holds them all needs
    if let Some(peak) = peak_resident_kib() {
        eprintln!(
            "peak resident memory with {} networks: {} MiB",
            held.len(),
            peak / 1024
        );
    }
    Ok(())
}

fn peak_resident_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
