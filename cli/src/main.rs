//! `chemxor`: one command for every role. Publisher: `train`, `publish`. Reviewer: `approve`. Lab:
//! `keys`, `catalog`, `query`, `evaluate`, `profiles`, `doctor`. Operator: `up`, `status`, `logs`,
//! `stop`, `reset`, `serve`, `registry`, `gateway`, `worker`.
//!
//! Results go to standard output (a table, or JSON with `--format json`); progress and logs go to
//! standard error.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

#[macro_use]
mod output;

mod args;
mod commands;
mod home;

use std::process::ExitCode;

use clap::Parser;

use args::{Args, Command};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args = Args::parse();
    let format = args.format;
    let service = match &args.command {
        Command::Up(up) => up.foreground,
        Command::Serve(_) | Command::Registry(_) | Command::Gateway(_) | Command::Worker(_) => true,
        _ => false,
    };
    chemxor_runtime::telemetry::init(args.log_json, if service { "info" } else { "warn" });
    chemxor_runtime::tls::install_provider();
    if service {
        chemxor_runtime::operations::install_metrics();
    }
    // computing is done by another pool; fewer threads for input and output wake each other less
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads((cores / 2).max(1))
        .enable_all()
        .build();
    let outcome = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
        runtime.block_on(async {
            chemxor_runtime::shutdown::survive_file_limit();
            commands::run(args).await
        })
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => match error.downcast_ref::<output::Ended>() {
            Some(ended) => ExitCode::from(ended.0),
            None => {
                output::error(&error, format);
                ExitCode::FAILURE
            }
        },
    }
}
