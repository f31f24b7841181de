//! Conformance: the known answers of a manifest, asked encrypted through gateway and workers and
//! compared. The publisher's run of a submitted version is signed, and the registry asks for it before
//! anybody may approve; a reviewer and everybody who may query can run it too, at any time.

use std::sync::Arc;
use std::time::Duration;

use chemxor_core::{CONFORMANCE_FORMAT, Conformance, Manifest, VersionId, sign_conformance};
use chemxor_fhe::client::ClientKey;
use chemxor_fhe::ring::security_bits;
use chemxor_proto::v1;
use chemxor_proto::v1::publishing_client::PublishingClient;
use ed25519_dalek::SigningKey;

use crate::catalog::{call, channel};
use crate::predictor::{Patience, Predictor};
use crate::{Access, ClientError};

/// Workers that have just been given a version open it first.
const PATIENCE: Patience = Patience {
    attempts: 60,
    outage: Duration::ZERO,
    pause: Duration::from_millis(100),
};

/// Asks this version under a key that lives as long as the run.
pub fn predictor(
    gateway: &Access,
    version: VersionId,
    manifest: &Manifest,
) -> Result<Predictor, ClientError> {
    let manifest = Arc::new(manifest.clone());
    let key = Arc::new(ClientKey::generate(&manifest.graph.rings())?);
    let access = gateway.clone();
    Ok(Predictor::new(access, version, manifest, key, PATIENCE))
}

/// Asks every molecule with a known answer; `done` hears after each how many there were.
pub async fn run(
    predictor: &Predictor,
    version: VersionId,
    mut done: impl FnMut(usize),
) -> Result<Conformance, ClientError> {
    let manifest = predictor.manifest();
    let bits = manifest.graph.last().output_bits;
    let mut worst = 0.0f64;
    for (index, known) in manifest.known_answers.iter().enumerate() {
        let features = predictor.featurise(&known.smiles)?;
        let codes = predictor.predict_features(features).await?.codes;
        worst = worst.max(known.deviation(&codes, bits));
        done(index + 1);
    }
    let rings = manifest.rings.iter().map(|ring| {
        let std = ring.log2_noise_std.exp2();
        security_bits(ring.lwe_dimension as usize, ring.torus_bits.into(), std)
    });
    Ok(Conformance {
        format: CONFORMANCE_FORMAT,
        version,
        vectors: manifest.known_answers.len() as u32,
        worst_permille: (worst * 1000.0).ceil() as u32,
        security_bits: rings.min().unwrap_or_default(),
    })
}

/// Signs a run and hands it to the registry, which refuses one that does not pass.
pub async fn record(
    access: &Access,
    signer: &SigningKey,
    run: &Conformance,
) -> Result<(), ClientError> {
    let report = run.to_bytes().map_err(|_| ClientError::Computation)?;
    let request = access.token.sign(v1::RecordConformanceRequest {
        version: run.version.to_string(),
        signature: sign_conformance(signer, &report).to_vec().into(),
        report: report.into(),
    })?;
    let mut client = PublishingClient::new(channel(access).await?);
    call(access, client.record_conformance(request)).await?;
    Ok(())
}
