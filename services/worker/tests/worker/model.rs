//! Small models of two steps, with weights that make their answers sure: pre-activations of the
//! hidden layer sit in the middle of their buckets, so that no rounding decides anything.

use std::sync::Arc;

use bytes::Bytes;
use chemxor_core::{
    BlobDigest, BlobRef, DataFingerprint, Featuriser, MANIFEST_FORMAT, Manifest, Metrics,
    OutputScaling, Task, VersionId,
};
use chemxor_fhe::client::ClientKey;
use chemxor_fhe::network::StepWeights;
use chemxor_fhe::plan::{LayerDemand, plan_graph};
use chemxor_fhe::ring::statements;
use chemxor_fhe::sealing::ModelKey;
use chemxor_fhe::server::PreparedStep;
use chemxor_fhe::twin;
use chemxor_proto::{STATE_KEY_STEP, v1};

/// The publisher's secret.
const SECRET: [u8; 32] = [5; 32];
/// Features that have weights; all of them are 1 in a query.
const FEATURES: usize = 64;
/// Neurons that reach the output.
const NEURONS: usize = 8;

/// A published model, as the registry holds it and as its publisher knows it.
pub(crate) struct Model {
    pub(crate) manifest: Manifest,
    pub(crate) version: VersionId,
    pub(crate) key: Arc<ClientKey>,
    pub(crate) weights: Vec<StepWeights>,
    pub(crate) bytes: Bytes,
    /// Ciphertext of each step.
    pub(crate) blobs: Vec<Bytes>,
}

impl Model {
    /// `pattern` says which hidden neurons are on, and so what the model answers.
    pub(crate) fn new(name: &str, inputs: usize, hidden: usize, pattern: u8) -> Self {
        let weight = |index: usize| {
            let (neuron, input) = (index / inputs, index % inputs);
            let on = pattern >> (neuron % NEURONS) & 1 == 1;
            // times 64: the middle of bucket 4 or 12 of 16
            match (input < FEATURES, on) {
                (false, _) => 0,
                (true, false) => 36,
                (true, true) => 100,
            }
        };
        let first = (0..inputs * hidden).map(weight).collect();
        let last = (0..hidden).map(|neuron| match neuron < NEURONS {
            true => 100 * (neuron as i16 + 1),
            false => 0,
        });
        let table = |index: usize| if index % 16 < 8 { 0 } else { 16 };
        let tables = (0..hidden << 4).map(table).collect();
        let weights = vec![
            StepWeights::new_static(inputs, hidden, first).unwrap(),
            StepWeights::new_lookup(hidden, 1, 4, 4, last.collect(), tables).unwrap(),
        ];
        let layers = [
            LayerDemand::of(&weights[0], 3, 13, 4),
            LayerDemand::of(&weights[1], 4, 13, 8),
        ];
        let graph = plan_graph(&layers).unwrap();
        let plain: Vec<Vec<u8>> = weights.iter().map(|step| step.to_blob(&[9; 32])).collect();
        let blob = |plain: &Vec<u8>| BlobRef {
            digest: BlobDigest::of(plain),
            bytes: plain.len() as u64,
        };
        let manifest = Manifest {
            format: MANIFEST_FORMAT,
            name: name.parse().unwrap(),
            task: Task::Regression,
            endpoint: "solubility".into(),
            unit: "log10 mol/L".into(),
            description: "of a test".into(),
            featuriser: Featuriser::EcfpCounts {
                version: 1,
                radius: 2,
                size: inputs as u32,
                max_count: 7,
            },
            outputs: vec![OutputScaling::new(1.0, 0.0)],
            blobs: plain.iter().map(blob).collect(),
            metrics: Metrics {
                metric: "rmse".into(),
                float: 1.0,
                twin: 1.0,
            },
            data: DataFingerprint {
                sha256: "0".repeat(64),
                train_rows: 1,
                test_rows: 1,
            },
            standardisation: chemxor_core::Standardisation::default(),
            domain: None,
            known_answers: Vec::new(),
            privacy: None,
            rings: statements(&graph.rings()),
            leakage_bits_per_query: graph.leakage_bits_per_query(),
            graph,
            toolchain: "test".into(),
            seed: 1,
        };
        let bytes = Bytes::from(manifest.to_bytes().unwrap());
        let version = VersionId::of(&bytes);
        let seal = |(step, plain): (u32, &Vec<u8>)| {
            let key = ModelKey::derive(&SECRET, &version, step);
            Bytes::from(key.encrypt_blob(plain, &version, step).unwrap())
        };
        Self {
            key: Arc::new(ClientKey::generate(&manifest.graph.rings()).unwrap()),
            blobs: (0..).zip(&plain).map(seal).collect(),
            manifest,
            version,
            weights,
            bytes,
        }
    }

    /// A light model: each step takes one permit.
    pub(crate) fn light(name: &str, pattern: u8) -> Self {
        Self::new(name, FEATURES, NEURONS, pattern)
    }

    /// A model whose first step takes two permits and whose second takes one.
    pub(crate) fn heavy() -> Self {
        let model = Self::new("heavy", 1024, 256, 0b1010_0110);
        let permits: Vec<u32> = model
            .manifest
            .graph
            .steps()
            .iter()
            .map(|s| s.permits())
            .collect();
        assert_eq!(permits, [2, 1]);
        model
    }

    /// What the worker is told, with keys sealed to it.
    pub(crate) fn assignment(&self, worker: &[u8]) -> v1::Assignment {
        let sealed = |step: u32| {
            let key = ModelKey::derive(&SECRET, &self.version, step);
            let (encapsulated, ciphertext) = key.seal_to(worker, &self.version, step).unwrap();
            v1::SealedKey {
                worker: "a".into(),
                step,
                encapsulated: encapsulated.into(),
                ciphertext: ciphertext.into(),
            }
        };
        let blob = |(step, blob): (u32, &Bytes)| v1::EncryptedBlob {
            step,
            sha256: BlobDigest::of(blob).as_bytes().to_vec().into(),
            length: blob.len() as u64,
        };
        v1::Assignment {
            name: self.manifest.name.to_string(),
            version: self.version.to_string(),
            manifest: self.bytes.clone(),
            first_step: 0,
            end_step: 2,
            blobs: (0..).zip(&self.blobs).map(blob).collect(),
            keys: (0..2).map(sealed).collect(),
            state_key: Some(sealed(STATE_KEY_STEP)),
            first_group: 0,
            end_group: 0,
        }
    }

    pub(crate) fn features(&self) -> Vec<u16> {
        let inputs = self.manifest.graph.steps()[0].inputs as usize;
        (0..inputs)
            .map(|input| u16::from(input < FEATURES))
            .collect()
    }

    /// Whether a code is the clear twin's, give or take the last rounding. The twin rounds down here; the
    /// run adds a random fraction and its noise, which together reach one below and two above.
    pub(crate) fn check(&self, codes: &[u32]) {
        let specs = self.manifest.graph.steps();
        let twin = twin::evaluate(specs, &self.weights, &self.features(), |_| 0);
        let [code] = codes else {
            panic!("one output, got {codes:?}");
        };
        let above = i64::from(*code) - i64::from(twin[0]);
        assert!(
            (-1..=2).contains(&above),
            "{code}, the twin says {}",
            twin[0]
        );
    }

    /// Bytes that its prepared weights take.
    pub(crate) fn prepared_bytes(&self) -> usize {
        let steps = self.manifest.graph.steps().iter().zip(&self.weights);
        steps
            .enumerate()
            .map(|(step, (spec, weights))| {
                let prepared = PreparedStep::new(spec, step == 1, weights.clone());
                prepared.unwrap().bytes()
            })
            .sum()
    }
}
