//! A trained model on real molecules: the encrypted run equals the clear twin that is fed the
//! carries of the run, bit for bit, for 1,000 molecules.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../../fhe/tests/support/mod.rs"]
mod support;

use std::path::Path;
use std::sync::Arc;

use chemxor_fhe::client::ClientKey;
use chemxor_nets::{Dataset, ModelKind, ReadOptions, TrainConfig, train};

fn check(kind: ModelKind, molecules: usize) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/esol.csv");
    let dataset = Dataset::read_csv(&path, &ReadOptions::default()).unwrap();
    let config = TrainConfig {
        kind,
        epochs: 15,
        seed: 3,
        ..TrainConfig::default()
    };
    let trained = train(&dataset, &config, &mut |_| {}).unwrap();
    let manifest = trained.bundle.manifest();
    let network = support::network(manifest.graph.clone(), trained.weights.clone());
    let key = Arc::new(ClientKey::generate(&manifest.graph.rings()).unwrap());
    let (mut difference, mut count) = (0.0, 0usize);
    for row in dataset.rows().iter().cycle().take(molecules) {
        let features = dataset.dense(row);
        let (codes, rounded) = support::run(&network, &key, &features);
        support::compare(&network, &features, &codes, &rounded);
        let value = manifest.outputs[0].apply(codes[0], manifest.graph.last().output_bits);
        difference += (value - row.target()).abs();
        count += 1;
    }
    assert_eq!(count, molecules);
    // the model has learned something: the mean error is far below the spread of the targets
    assert!(
        difference / (count as f64) < 1.0,
        "mean error {}",
        difference / count as f64
    );
}

#[test]
fn encrypted_mlp_equals_the_twin_on_a_thousand_molecules() {
    check(ModelKind::Mlp, 1000);
}

#[test]
fn encrypted_linear_model_equals_the_twin() {
    check(ModelKind::Linear, 200);
}
