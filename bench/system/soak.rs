//! Full load for half an hour: memory and descriptors of every service once a second, every
//! prediction compared with the clear twin, and beside it new sessions all the time. Sessions are short
//! (`SESSION` queries), so that what is kept for a session levels off early and whatever still grows is
//! a leak: the run fails when memory or descriptors do.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::platform::Platform;
use crate::proc::{descriptors, memory_mib};

/// Queries after which a session ends and the client opens the next one.
const SESSION: u32 = 2000;
/// What the second half may grow by: the slope of resident memory, in MiB an hour, and descriptors.
/// Allocators keep pages; a leak of one session (some 100 KiB) a second would show as 350.
const MAX_SLOPE: f64 = 12.0;
const MAX_DESCRIPTORS: usize = 4;

/// Seconds of which the least is taken: what is free and not yet given back comes and goes within a few
/// seconds by several MiB, and what leaks stays.
const CALM: f64 = 60.0;

/// The least of each minute, at its middle.
fn minima(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut least: Vec<(f64, f64)> = Vec::new();
    for (at, value) in points {
        let middle = ((at / CALM).floor() + 0.5) * CALM;
        match least.last_mut() {
            Some(last) if last.0 == middle => last.1 = last.1.min(*value),
            _ => least.push((middle, *value)),
        }
    }
    least
}

/// Slope of a least-squares line through the least of each minute, per hour.
fn slope(points: &[(f64, f64)]) -> f64 {
    let points = minima(points);
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
    let limits = format!("[limits]\nqueries_per_session = {SESSION}\n");
    let platform = Platform::start_configured(2, ["", &limits, ""]);
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
        "--expect-column",
        "twin",
        "--tolerance",
        "0.6",
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
    let mut visits = 0;
    let mut memory = vec![Vec::new(); services.len()];
    let mut files = vec![Vec::new(); services.len()];
    while begun.elapsed() < Duration::from_secs(seconds) {
        for (index, (_, pid)) in services.iter().enumerate() {
            memory[index].push((begun.elapsed().as_secs_f64(), memory_mib(*pid).0));
            files[index].push(descriptors(*pid));
        }
        // somebody comes, asks one molecule and goes
        let asked = platform.json(&["query", "esol", "--smiles", "CCO"]);
        assert!(asked["values"][0].is_number(), "{asked}");
        visits += 1;
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
    let wrong = levels[0]["wrong"].as_u64().unwrap();
    eprintln!("{visits} visits of one molecule beside the load");
    let mut grown = Vec::new();
    println!(
        "service,seconds,queries_per_second,failed,wrong,rss_first_mib,rss_last_mib,slope_mib_per_hour,descriptors_first,descriptors_last,descriptors_max"
    );
    for (index, (name, _)) in services.iter().enumerate() {
        let least = minima(&memory[index]);
        let least: Vec<String> = least.iter().map(|(_, mib)| format!("{mib:.1}")).collect();
        eprintln!("{name}, least MiB of each minute: {}", least.join(" "));
        // the first half fills pools and caches
        let (memory, files) = (&memory[index], &files[index]);
        let (half, files) = (&memory[memory.len() / 2..], &files[files.len() / 2..]);
        println!(
            "{name},{seconds},{rate:.1},{failed},{wrong},{:.1},{:.1},{:.2},{},{},{}",
            half[0].1,
            half[half.len() - 1].1,
            slope(half),
            files[0],
            files[files.len() - 1],
            files.iter().max().unwrap(),
        );
        // a minute is too short for a slope
        if (!quick && slope(half) > MAX_SLOPE)
            || files[files.len() - 1] > files[0] + MAX_DESCRIPTORS
        {
            grown.push(name);
        }
    }
    assert_eq!(
        (failed, wrong),
        (0, 0),
        "under full load every answer is right"
    );
    assert!(grown.is_empty(), "{grown:?} grew");
}
