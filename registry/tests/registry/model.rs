//! A small model as a publisher announces it. The weights are noise: the registry opens nothing.

use chemxor_core::{
    BlobDigest, BlobRef, CONFORMANCE_FORMAT, Conformance, DataFingerprint, ExpectedCode,
    Featuriser, KnownAnswer, Manifest, Metrics, OutputScaling, RingName, RingStatement, StepGraph,
    StepKind, StepSpec, Task, VersionId, sign_conformance, sign_manifest,
};
use chemxor_proto::{STATE_KEY_STEP, v1};
use ed25519_dalek::SigningKey;

pub(crate) struct Model {
    pub(crate) request: v1::BeginVersionRequest,
    pub(crate) blobs: Vec<Vec<u8>>,
}

/// `NAME@sha256:…`.
pub(crate) fn reference(name: &str, version: &str) -> String {
    format!("{name}@{version}")
}

/// The key that signs every model here.
pub(crate) fn publisher_key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

impl Model {
    /// Two steps: the first on worker-1, the second on worker-2. Another `seed`, another version.
    pub(crate) fn new(name: &str, seed: u64) -> Self {
        let manifest = manifest(name, seed).to_bytes().unwrap();
        let key = publisher_key();
        let blobs = vec![noise(seed, 300_000), noise(seed + 1, 5_000)];
        let announced = (0u32..).zip(&blobs).map(|(step, blob)| v1::EncryptedBlob {
            step,
            sha256: BlobDigest::of(blob).as_bytes().to_vec().into(),
            length: blob.len() as u64,
        });
        let placements = [("worker-1", 0, 1), ("worker-2", 1, 2)];
        let keys = placements.iter().flat_map(|(worker, first, _)| {
            [*first, STATE_KEY_STEP].map(|step| sealed_key(worker, step))
        });
        let request = v1::BeginVersionRequest {
            signature: sign_manifest(&key, &manifest).to_vec().into(),
            publisher_key: key.verifying_key().to_bytes().to_vec().into(),
            manifest: manifest.into(),
            blobs: announced.collect(),
            keys: keys.collect(),
            placements: placements
                .iter()
                .map(|(worker, first_step, end_step)| v1::Placement {
                    first_group: 0,
                    end_group: 0,
                    worker: (*worker).to_owned(),
                    first_step: *first_step,
                    end_step: *end_step,
                })
                .collect(),
        };
        Self { request, blobs }
    }

    pub(crate) fn version(&self) -> String {
        VersionId::of(&self.request.manifest).to_string()
    }

    pub(crate) fn sha256(&self, step: usize) -> Vec<u8> {
        self.request.blobs[step].sha256.to_vec()
    }

    /// Signs again, after the manifest was changed.
    pub(crate) fn sign(&mut self) {
        let key = publisher_key();
        self.request.signature = sign_manifest(&key, &self.request.manifest).to_vec().into();
    }
}

/// A conformance run of a version that passed, and its signature.
pub(crate) fn conformance(version: &str) -> (Vec<u8>, Vec<u8>) {
    let run = Conformance {
        format: CONFORMANCE_FORMAT,
        version: version.parse().unwrap(),
        vectors: 8,
        worst_permille: 300,
        security_bits: 132,
    };
    signed_run(&run)
}

/// A run and its signature.
pub(crate) fn signed_run(run: &Conformance) -> (Vec<u8>, Vec<u8>) {
    let report = run.to_bytes().unwrap();
    let key = SigningKey::from_bytes(&[7; 32]);
    let signature = sign_conformance(&key, &report).to_vec();
    (report, signature)
}

/// A key whose bytes tell whom it is for.
pub(crate) fn sealed_key(worker: &str, step: u32) -> v1::SealedKey {
    let mark = |length: usize| {
        let digest = BlobDigest::of(format!("{worker}/{step}").as_bytes());
        let mut bytes = digest.as_bytes().repeat(2);
        bytes.truncate(length);
        bytes.into()
    };
    v1::SealedKey {
        worker: worker.to_owned(),
        step,
        encapsulated: mark(32),
        ciphertext: mark(48),
    }
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

fn manifest(name: &str, seed: u64) -> Manifest {
    let step = |kind, inputs, outputs, input_bits, output_bits| StepSpec {
        geometry: Default::default(),
        expansion: Default::default(),
        kind,
        inputs,
        outputs,
        input_bits,
        accumulator_bits: 16,
        output_bits,
        ring: RingName::N1024Q32,
        inputs_per_polynomial: 16,
        body_bits: 32,
        switch_bits: 19,
    };
    let steps = vec![
        step(StepKind::Static, 16, 4, 2, 6),
        step(StepKind::Lookup, 4, 1, 6, 12),
    ];
    let blob = |text: &str| BlobRef {
        digest: BlobDigest::of(text.as_bytes()),
        bytes: 64,
    };
    let graph = StepGraph::new(steps).unwrap();
    Manifest {
        format: chemxor_core::MANIFEST_FORMAT,
        name: name.parse().unwrap(),
        task: Task::Regression,
        endpoint: "aqueous solubility".to_owned(),
        unit: "log10 mol/L".to_owned(),
        description: "a test".to_owned(),
        featuriser: Featuriser::EcfpCounts {
            version: 1,
            radius: 2,
            size: 16,
            max_count: 3,
        },
        rings: graph
            .rings()
            .into_iter()
            .map(|ring| RingStatement {
                ring,
                lwe_dimension: 1024,
                torus_bits: 32,
                log2_noise_std: -22.8,
            })
            .collect(),
        graph,
        outputs: vec![OutputScaling::new(0.01, 0.0)],
        blobs: vec![blob("first"), blob("second")],
        metrics: Metrics {
            metric: "rmse".to_owned(),
            float: 1.0,
            twin: 1.1,
        },
        data: DataFingerprint {
            sha256: "00".repeat(32),
            train_rows: 10,
            test_rows: 2,
        },
        standardisation: chemxor_core::Standardisation::default(),
        domain: None,
        known_answers: ["C", "CC", "CCC", "CCCC", "CO", "CCO", "CCCO", "CN"]
            .map(|smiles| KnownAnswer {
                smiles: smiles.to_owned(),
                outputs: vec![ExpectedCode { code: 1, within: 2 }],
            })
            .into(),
        privacy: None,
        leakage_bits_per_query: 12,
        toolchain: "test".to_owned(),
        seed,
    }
}
