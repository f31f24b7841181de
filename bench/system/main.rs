//! Benchmarks of the whole system: real processes, real PostgreSQL, real TLS on loopback. Called by
//! `./bench/run kills|disk|clocks|soak|scaling-workers|gateway [--quick]`; the CSV goes to standard output, progress to
//! standard error.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    dead_code,
    reason = "a benchmark stops where something is wrong; it shares its platform with the tests"
)]

#[path = "../../tests/e2e/platform.rs"]
mod platform;

mod direct;
mod disturbed;
mod faults;
mod gateway;
mod proc;
mod soak;
mod workers;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let quick = arguments.iter().any(|argument| argument == "--quick");
    match arguments.first().map(String::as_str) {
        Some("kills") => faults::run(quick),
        Some("disk") => disturbed::disk(quick),
        Some("clocks") => disturbed::clocks(quick),
        Some("soak") => soak::run(quick),
        Some("workers") => workers::run(quick),
        Some("gateway") => gateway::run(quick),
        _ => {
            eprintln!("usage: system kills|disk|clocks|soak|workers|gateway [--quick]");
            std::process::exit(2);
        }
    }
}
