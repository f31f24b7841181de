//! The conformance run of a submitted version: fixed molecules through gateway and workers, encrypted,
//! beside the clear twin of the publisher's own weights. Run and signed by the publisher, who alone
//! has the weights; the registry asks for it before anybody may approve.

use std::sync::Arc;
use std::time::Duration;

use chemxor_core::{Bundle, CONFORMANCE_FORMAT, Conformance, VersionId, sign_conformance};
use chemxor_fhe::client::ClientKey;
use chemxor_fhe::network::StepWeights;
use chemxor_fhe::ring::security_bits;
use chemxor_fhe::twin::{evaluate, stochastic};
use chemxor_proto::v1;
use chemxor_proto::v1::publishing_client::PublishingClient;
use ed25519_dalek::SigningKey;

use crate::catalog::{call, channel};
use crate::predictor::{Patience, Predictor};
use crate::{Access, ClientError};

/// Molecules that every run evaluates: drugs, solvents, building blocks.
pub const VECTORS: [&str; 16] = [
    "CCO",
    "c1ccccc1",
    "CC(=O)Oc1ccccc1C(=O)O",
    "CN1C=NC2=C1C(=O)N(C(=O)N2C)C",
    "CC(C)Cc1ccc(cc1)C(C)C(=O)O",
    "CC(=O)Nc1ccc(O)cc1",
    "OC(=O)c1ccccc1O",
    "c1ccc2ccccc2c1",
    "CCN(CC)CC",
    "C1CCOC1",
    "ClC(Cl)Cl",
    "CS(=O)C",
    "Nc1ccc(cc1)S(=O)(=O)N",
    "OCC1OC(O)C(O)C(O)C1O",
    "CCCCCCCCCCCCCCCC(=O)O",
    "FC(F)(F)c1ccc(Br)cc1",
];
/// Runs of the twin for each molecule.
const DRAWS: usize = 64;
/// Standard deviations, and output codes beside them, that rounding explains: with 64 draws a right
/// model fails with a probability below one in a million for each output.
const ALLOWED: (f64, f64) = (6.0, 2.0);

/// Workers that have just been given a version open it first.
const PATIENCE: Patience = Patience {
    attempts: 60,
    pause: Duration::from_millis(100),
};

/// Predicts with a submitted version as its publisher may, under a key that lives as long as the run.
pub fn predictor(gateway: &Access, bundle: &Bundle) -> Result<Predictor, ClientError> {
    let manifest = Arc::new(bundle.manifest().clone());
    let key = Arc::new(ClientKey::generate(&manifest.graph.rings())?);
    let access = gateway.clone();
    let version = bundle.version();
    Ok(Predictor::new(access, version, manifest, key, PATIENCE))
}

/// The weights of a bundle.
pub fn weights(bundle: &Bundle) -> Result<Vec<StepWeights>, ClientError> {
    let blobs = bundle.blobs().iter();
    let read = blobs.map(|blob| StepWeights::from_blob(blob));
    Ok(read.collect::<Result<_, _>>()?)
}

/// Evaluates every molecule both ways; `done` hears after each how many there were.
pub async fn run(
    predictor: &Predictor,
    version: VersionId,
    weights: &[StepWeights],
    mut done: impl FnMut(usize),
) -> Result<Conformance, ClientError> {
    let manifest = predictor.manifest();
    for (spec, weights) in manifest.graph.steps().iter().zip(weights) {
        weights.matches(spec)?;
    }
    let bits = manifest.graph.last().output_bits;
    let mut uniform = generator(u64::from_le_bytes(
        version.as_bytes()[..8].try_into().unwrap_or_default(),
    ));
    let mut worst = 0.0f64;
    for (index, smiles) in VECTORS.into_iter().enumerate() {
        let features = predictor.featurise(smiles)?;
        let draws: Vec<Vec<u32>> = (0..DRAWS)
            .map(|_| {
                let carry = stochastic(&mut uniform);
                evaluate(manifest.graph.steps(), weights, &features, carry)
            })
            .collect();
        let encrypted = predictor.predict_features(features).await?.codes;
        for (output, code) in encrypted.iter().enumerate() {
            let drawn: Vec<u32> = draws.iter().map(|draw| draw[output]).collect();
            worst = worst.max(deviation(&drawn, *code, bits));
        }
        done(index + 1);
    }
    let rings = manifest.rings.iter().map(|ring| {
        let std = ring.log2_noise_std.exp2();
        security_bits(ring.lwe_dimension as usize, ring.torus_bits.into(), std)
    });
    Ok(Conformance {
        format: CONFORMANCE_FORMAT,
        version,
        vectors: VECTORS.len() as u32,
        worst_permille: (worst * 1000.0).ceil() as u32,
        security_bits: rings.min().unwrap_or_default(),
    })
}

/// How far a code is from what the twin draws, as a share of what its rounding explains. Codes wrap.
fn deviation(drawn: &[u32], code: u32, bits: u8) -> f64 {
    let (modulus, first) = (1i64 << bits, i64::from(drawn[0]));
    let offset = |code: u32| {
        let offset = (i64::from(code) - first).rem_euclid(modulus);
        (if offset >= modulus / 2 {
            offset - modulus
        } else {
            offset
        }) as f64
    };
    let count = drawn.len() as f64;
    let mean = drawn.iter().map(|code| offset(*code)).sum::<f64>() / count;
    let squares = drawn.iter().map(|code| (offset(*code) - mean).powi(2));
    let std = (squares.sum::<f64>() / count).sqrt();
    (offset(code) - mean).abs() / (ALLOWED.0 * std + ALLOWED.1)
}

/// Uniform numbers for carries that need not be secret (splitmix64).
fn generator(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed;
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rounding_explains_passes_and_another_model_does_not() {
        let drawn = [10, 11, 10, 12, 9, 10, 11, 10];
        assert!(deviation(&drawn, 12, 8) < 1.0);
        assert!(deviation(&drawn, 30, 8) > 1.0);
        // codes wrap: 255 is next to 0
        assert!(deviation(&[0, 1, 255, 0], 254, 8) < 1.0);
        // without any rounding two codes are allowed
        assert!(deviation(&[7; 8], 9, 8) <= 1.0);
        assert!(deviation(&[7; 8], 10, 8) > 1.0);
        let mut uniform = generator(1);
        let mean = (0..10_000).map(|_| uniform()).sum::<f64>() / 10_000.0;
        assert!((mean - 0.5).abs() < 0.02, "{mean}");
    }
}
