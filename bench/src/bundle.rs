//! `bundle NET FILE`: a bundle of a network with random weights, to measure the whole system with a
//! shape that no data set in the repository trains.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use chemxor_core::{
    BlobDigest, BlobRef, Bundle, DataFingerprint, Featuriser, Manifest, Metrics, OutputScaling,
    Standardisation, Task,
};
use chemxor_fhe::ring::statements;
use chemxor_nets::known_answers;

use crate::nets::net;

/// Of everything that is drawn.
const SEED: u64 = 7;

pub(crate) fn run(name: &str, file: &Path) -> Result<()> {
    let net = net(name).map_err(|error| anyhow!("{error}"))?;
    let blobs = net
        .weights
        .iter()
        // random weights need no hiding
        .map(|weights| weights.to_blob(&[7; 32]))
        .collect::<Vec<Vec<u8>>>();
    let featuriser = Featuriser::EcfpCounts {
        version: 1,
        radius: 3,
        size: 1024,
        max_count: 7,
    };
    let standardisation = Standardisation::default();
    let answers = known_answers(standardisation, &featuriser, &net.graph, &net.weights, SEED);
    let manifest = Manifest {
        format: chemxor_core::MANIFEST_FORMAT,
        name: name.parse()?,
        task: Task::Regression,
        endpoint: "random weights".to_owned(),
        unit: String::new(),
        description: "for benchmarks".to_owned(),
        featuriser,
        rings: statements(&net.graph.rings()),
        outputs: vec![OutputScaling::new(1.0, 0.0); net.graph.last().outputs as usize],
        blobs: blobs
            .iter()
            .map(|blob| BlobRef {
                digest: BlobDigest::of(blob),
                bytes: blob.len() as u64,
            })
            .collect(),
        metrics: Metrics {
            metric: "none".to_owned(),
            float: 0.0,
            twin: 0.0,
        },
        domain: None,
        known_answers: answers,
        privacy: None,
        standardisation,
        data: DataFingerprint {
            sha256: "0".repeat(64),
            train_rows: 0,
            test_rows: 0,
        },
        leakage_bits_per_query: net.graph.leakage_bits_per_query(),
        toolchain: concat!("chemxor-bench ", env!("CARGO_PKG_VERSION")).to_owned(),
        seed: SEED,
        graph: net.graph,
    };
    let bundle = Bundle::from_parts(manifest.to_bytes()?, blobs)?;
    std::fs::write(file, bundle.to_bytes()).with_context(|| file.display().to_string())
}
