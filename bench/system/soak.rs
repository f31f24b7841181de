//! Full load for half an hour: memory and descriptors of every service once a second, and the slope
//! of memory over the second half.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::platform::Platform;
use crate::proc::{descriptors, memory_mib};

/// Slope of a least-squares line, per hour.
fn slope(points: &[(f64, f64)]) -> f64 {
    let n = points.len() as f64;
    let (x, y) = points
        .iter()
        .fold((0.0, 0.0), |(x, y), p| (x + p.0 / n, y + p.1 / n));
    let over: f64 = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum();
    let under: f64 = points.iter().map(|p| (p.0 - x).powi(2)).sum();
    3600.0 * over / under
}

pub(crate) fn run(quick: bool) {
    let seconds = if quick { 60 } else { 1800 };
    let platform = Platform::start(2);
    platform.publish_spread("esol", true, "steps");
    let holdout = platform.path("holdout.csv").display().to_string();
    let window = (seconds as f64 / 3.0).to_string();
    let mut command = platform.command(&[
        "load",
        "esol",
        "--input",
        &holdout,
        "--concurrency",
        "16",
        "--sessions",
        "4",
        "--window",
        &window,
        "--max-windows",
        "3",
        "--stable",
        "0",
        "--format",
        "json",
    ]);
    let load = command.stdout(Stdio::piped()).spawn().unwrap();
    let services: Vec<(String, u32)> = [
        ("registry".to_owned(), platform.registry.as_ref()),
        ("gateway".to_owned(), platform.gateway.as_ref()),
    ]
    .into_iter()
    .chain(
        (1..)
            .zip(&platform.workers)
            .map(|(number, worker)| (format!("worker-{number}"), worker.as_ref())),
    )
    .map(|(name, service)| (name, service.unwrap().pid()))
    .collect();
    let begun = Instant::now();
    let mut memory = vec![Vec::new(); services.len()];
    let mut files = vec![Vec::new(); services.len()];
    while begun.elapsed() < Duration::from_secs(seconds) {
        for (index, (_, pid)) in services.iter().enumerate() {
            memory[index].push((begun.elapsed().as_secs_f64(), memory_mib(*pid).0));
            files[index].push(descriptors(*pid));
        }
        std::thread::sleep(Duration::from_secs(1));
        let left = seconds - begun.elapsed().as_secs().min(seconds);
        if left % 60 == 0 {
            eprintln!("{left} s left");
        }
    }
    let done = load.wait_with_output().unwrap();
    let levels: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    let rate = levels[0]["queries_per_second"].as_f64().unwrap();
    let failed = levels[0]["failed"].as_u64().unwrap();
    println!(
        "service,seconds,queries_per_second,failed,rss_first_mib,rss_last_mib,slope_mib_per_hour,descriptors_first,descriptors_last,descriptors_max"
    );
    for (index, (name, _)) in services.iter().enumerate() {
        // the first half fills pools and caches
        let (memory, files) = (&memory[index], &files[index]);
        let (half, files) = (&memory[memory.len() / 2..], &files[files.len() / 2..]);
        println!(
            "{name},{seconds},{rate:.1},{failed},{:.1},{:.1},{:.2},{},{},{}",
            half[0].1,
            half[half.len() - 1].1,
            slope(half),
            files[0],
            files[files.len() - 1],
            files.iter().max().unwrap(),
        );
    }
}
