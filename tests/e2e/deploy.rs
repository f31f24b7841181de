//! Everything under deploy/ is read by what reads it in production, or by a parser of its format,
//! and checked against the services: configuration keys, ports, metric names, documents.

mod chart;
mod compose;
mod image;
mod metrics;
mod promql;
mod samples;
mod units;

use std::path::{Path, PathBuf};

use serde_yaml_ng::Value;

const ROLES: [&str; 3] = ["registry", "gateway", "worker"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn text(name: &str) -> String {
    let path = root().join("deploy").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn documents(name: &str, text: &str) -> Vec<Value> {
    serde_yaml_ng::Deserializer::from_str(text)
        .map(serde::Deserialize::deserialize)
        .collect::<Result<_, _>>()
        .unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn sample<T: serde::de::DeserializeOwned>(name: &str) -> T {
    toml::from_str(&text(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The port of an address.
fn port(address: &toml::Value) -> u16 {
    let address = address.as_str().unwrap();
    address.rsplit(':').next().unwrap().parse().unwrap()
}

/// Whether a program is on this machine.
fn installed(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
    })
}
