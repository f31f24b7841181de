//! The model bundle: one file with the manifest and one weight blob for each step. It is what
//! training writes and publishing reads; blobs are opaque here (their format is chemxor-fhe's).
//!
//! Format, version 1, little endian: magic `CXBN`, version u16 = 1, two zero bytes, manifest
//! length u32, blob count u32, one u64 length for each blob, manifest, blobs. Nothing may follow.
//!
//! Invariant: a `Bundle` in memory is consistent: its manifest is the parse of `manifest_bytes`,
//! and its blobs have the digests and lengths that the manifest states. Every announced length is
//! checked against the bytes present before anything is allocated.

use std::fmt;

use crate::{BlobDigest, Manifest, ManifestError, VersionId};

const MAGIC: &[u8; 4] = b"CXBN";
const VERSION: u16 = 1;
const HEAD: usize = 16;
/// Longest manifest, in bytes.
const MAX_MANIFEST: usize = 1 << 20;
/// Most blobs: one for each step, and a graph has at most 64.
const MAX_BLOBS: usize = 64;

/// A trained model: manifest and weights, checked against each other.
#[derive(Clone, PartialEq)]
pub struct Bundle {
    manifest: Manifest,
    manifest_bytes: Vec<u8>,
    version: VersionId,
    blobs: Vec<Vec<u8>>,
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, version, count) = (&self.manifest.name, &self.version, self.blobs.len());
        write!(f, "Bundle({name}@{version}, {count} blobs [redacted])")
    }
}

/// Why a bundle was refused. Shows no weight.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// Does not begin like a bundle.
    #[error(
        "this is not a model bundle: it does not begin with CXBN; give the file that `chemxor train` wrote"
    )]
    Magic,
    /// Written by a release that this one does not know.
    #[error("the bundle has format {0}, this release reads format 1: upgrade this program")]
    Version(u16),
    /// Shorter or longer than its header says.
    #[error("the bundle has {got} bytes, its header asks for {expected}: copy the file again")]
    Length {
        /// Bytes found.
        got: usize,
        /// Bytes that the header asks for.
        expected: u64,
    },
    /// A number in the header is out of range.
    #[error("the bundle's {what} is {value}, allowed is at most {limit}")]
    Range {
        /// Which number.
        what: &'static str,
        /// What it says.
        value: u64,
        /// Largest.
        limit: u64,
    },
    /// The blobs are not those of the manifest.
    #[error(
        "blob {step} is not the one that the manifest names: expected {expected}, found {found}"
    )]
    Digest {
        /// Step of the graph.
        step: usize,
        /// What the manifest says.
        expected: BlobDigest,
        /// Of the bytes found.
        found: BlobDigest,
    },
    /// One blob for each entry of the manifest.
    #[error("the bundle has {got} blobs, its manifest names {expected}")]
    Count {
        /// Blobs found.
        got: usize,
        /// Blobs that the manifest names.
        expected: usize,
    },
    /// The manifest itself.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

impl Bundle {
    /// Joins a manifest and its blobs; fixes the manifest's bytes and with them the version.
    pub fn new(manifest: &Manifest, blobs: Vec<Vec<u8>>) -> Result<Self, BundleError> {
        Self::from_parts(manifest.to_bytes()?, blobs)
    }

    /// Joins the bytes of a manifest, kept as they are, and its blobs.
    pub fn from_parts(manifest_bytes: Vec<u8>, blobs: Vec<Vec<u8>>) -> Result<Self, BundleError> {
        limit("manifest length", manifest_bytes.len() as u64, MAX_MANIFEST)?;
        let (manifest, version) = Manifest::from_bytes(&manifest_bytes)?;
        if blobs.len() != manifest.blobs.len() {
            return Err(BundleError::Count {
                got: blobs.len(),
                expected: manifest.blobs.len(),
            });
        }
        for (step, (blob, named)) in blobs.iter().zip(&manifest.blobs).enumerate() {
            let found = BlobDigest::of(blob);
            if found != named.digest || blob.len() as u64 != named.bytes {
                return Err(BundleError::Digest {
                    step,
                    expected: named.digest,
                    found,
                });
            }
        }
        Ok(Self {
            manifest,
            manifest_bytes,
            version,
            blobs,
        })
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Its bytes, exactly as they are signed and hashed.
    pub fn manifest_bytes(&self) -> &[u8] {
        &self.manifest_bytes
    }

    /// The version that the manifest bytes name.
    pub fn version(&self) -> VersionId {
        self.version
    }

    /// The plaintext weight blobs, one for each step. Secret of the publisher.
    pub fn blobs(&self) -> &[Vec<u8>] {
        &self.blobs
    }

    /// The file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let blob_bytes: usize = self.blobs.iter().map(Vec::len).sum();
        let size = HEAD + 8 * self.blobs.len() + self.manifest_bytes.len() + blob_bytes;
        let mut out = Vec::with_capacity(size);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[0, 0]);
        // both are far below 2^32, see MAX_MANIFEST and MAX_BLOBS
        out.extend_from_slice(&(self.manifest_bytes.len() as u32).to_le_bytes());
        out.extend_from_slice(&(self.blobs.len() as u32).to_le_bytes());
        for blob in &self.blobs {
            out.extend_from_slice(&(blob.len() as u64).to_le_bytes());
        }
        out.extend_from_slice(&self.manifest_bytes);
        for blob in &self.blobs {
            out.extend_from_slice(blob);
        }
        out
    }

    /// Reads and checks a file.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BundleError> {
        if !bytes.starts_with(MAGIC) {
            return Err(BundleError::Magic);
        }
        let total = bytes.len();
        let short = |expected: usize| BundleError::Length {
            got: total,
            expected: expected as u64,
        };
        let head: &[u8; HEAD] = bytes.first_chunk().ok_or_else(|| short(HEAD))?;
        let version = u16::from_le_bytes([head[4], head[5]]);
        if version != VERSION {
            return Err(BundleError::Version(version));
        }
        if head[6..8] != [0, 0] {
            let value = u16::from_le_bytes([head[6], head[7]]).into();
            return Err(BundleError::Range {
                what: "reserved field",
                value,
                limit: 0,
            });
        }
        let manifest_length = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
        let count = u32::from_le_bytes([head[12], head[13], head[14], head[15]]);
        limit("manifest length", manifest_length.into(), MAX_MANIFEST)?;
        limit("blob count", count.into(), MAX_BLOBS)?;
        let lengths_end = HEAD + 8 * count as usize;
        let lengths = bytes
            .get(HEAD..lengths_end)
            .ok_or_else(|| short(lengths_end))?;
        let lengths: Vec<u64> = lengths
            .as_chunks::<8>()
            .0
            .iter()
            .map(|word| u64::from_le_bytes(*word))
            .collect();
        let start = lengths_end as u64 + u64::from(manifest_length);
        let expected = lengths
            .iter()
            .fold(start, |sum, length| sum.saturating_add(*length));
        if expected != total as u64 {
            return Err(BundleError::Length {
                got: total,
                expected,
            });
        }
        // from here on every length is known to lie inside `bytes`
        let (manifest, mut rest) = bytes[lengths_end..].split_at(manifest_length as usize);
        let mut blobs = Vec::with_capacity(lengths.len());
        for length in lengths {
            let (blob, after) = rest.split_at(length as usize);
            blobs.push(blob.to_vec());
            rest = after;
        }
        Self::from_parts(manifest.to_vec(), blobs)
    }
}

fn limit(what: &'static str, value: u64, limit: usize) -> Result<(), BundleError> {
    if value <= limit as u64 {
        Ok(())
    } else {
        Err(BundleError::Range {
            what,
            value,
            limit: limit as u64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        BlobRef, DataFingerprint, Featuriser, MANIFEST_FORMAT, Metrics, OutputScaling, RingName,
        StepGraph, StepKind, StepSpec, Task,
    };
    use proptest::prelude::*;

    const GOLDEN: &[u8] = include_bytes!("../tests/golden/bundle-v1.cxbn");

    fn sample() -> Bundle {
        let blob = b"not real weights".to_vec();
        let step = StepSpec {
            geometry: Default::default(),
            expansion: Default::default(),
            kind: StepKind::Static,
            inputs: 128,
            outputs: 1,
            input_bits: 3,
            accumulator_bits: 20,
            output_bits: 12,
            ring: RingName::N2048Q64,
            inputs_per_polynomial: 128,
            body_bits: 30,
            switch_bits: 16,
        };
        let graph = StepGraph::new(vec![step]).unwrap();
        let manifest = Manifest {
            format: MANIFEST_FORMAT,
            name: "golden".parse().unwrap(),
            task: Task::Regression,
            endpoint: "aqueous solubility".into(),
            unit: "log10 mol/L".into(),
            description: "made by a test".into(),
            featuriser: Featuriser::EcfpCounts {
                version: 1,
                radius: 2,
                size: 128,
                max_count: 7,
            },
            rings: vec![],
            graph,
            outputs: vec![OutputScaling::new(0.5, -3.0)],
            blobs: vec![BlobRef {
                digest: BlobDigest::of(&blob),
                bytes: blob.len() as u64,
            }],
            metrics: Metrics {
                metric: "rmse".into(),
                float: 0.75,
                twin: 0.75,
            },
            data: DataFingerprint {
                sha256: "00".repeat(32),
                train_rows: 9,
                test_rows: 1,
            },
            standardisation: crate::Standardisation::default(),
            domain: None,
            known_answers: Vec::new(),
            privacy: None,
            leakage_bits_per_query: 12,
            toolchain: "test".into(),
            seed: 1,
        };
        Bundle::new(&manifest, vec![blob]).unwrap()
    }

    /// `CHEMXOR_BLESS=1` writes the file of a new format version.
    #[test]
    fn version_1_stays_readable_and_is_written_the_same() {
        if std::env::var_os("CHEMXOR_BLESS").is_some() {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/bundle-v1.cxbn");
            std::fs::write(path, sample().to_bytes()).unwrap();
            return;
        }
        assert_eq!(Bundle::from_bytes(GOLDEN).unwrap(), sample());
        assert_eq!(sample().to_bytes(), GOLDEN);
    }

    #[test]
    fn every_truncation_and_any_tail_is_refused() {
        for end in 0..GOLDEN.len() {
            assert!(Bundle::from_bytes(&GOLDEN[..end]).is_err(), "{end}");
        }
        let longer = [GOLDEN, &[0]].concat();
        let expected = GOLDEN.len() as u64;
        let got = longer.len();
        assert_eq!(
            Bundle::from_bytes(&longer),
            Err(BundleError::Length { got, expected })
        );
    }

    #[test]
    fn changed_weights_are_refused_and_never_printed() {
        let mut bytes = GOLDEN.to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        assert!(matches!(
            Bundle::from_bytes(&bytes),
            Err(BundleError::Digest { step: 0, .. })
        ));
        let shown = format!("{:?}", sample());
        assert!(shown.ends_with("1 blobs [redacted])"), "{shown}");
    }

    #[test]
    fn huge_lengths_allocate_nothing() {
        let mut bytes = GOLDEN.to_vec();
        bytes[HEAD..HEAD + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(matches!(
            Bundle::from_bytes(&bytes),
            Err(BundleError::Length {
                expected: u64::MAX,
                ..
            })
        ));
        bytes[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(
            Bundle::from_bytes(&bytes),
            Err(BundleError::Range {
                what: "blob count",
                ..
            })
        ));
        bytes[4] = 2;
        assert_eq!(Bundle::from_bytes(&bytes), Err(BundleError::Version(2)));
    }

    proptest! {
        #[test]
        fn damage_is_refused(at in 0..GOLDEN.len(), with in 1u8..) {
            let mut bytes = GOLDEN.to_vec();
            bytes[at] ^= with;
            // a changed manifest may still be a manifest; then it is another version
            if let Ok(bundle) = Bundle::from_bytes(&bytes) {
                prop_assert_ne!(bundle.version(), sample().version());
            }
        }

        #[test]
        fn blobs_round_trip(blob in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut manifest = sample().manifest().clone();
            manifest.blobs =
                vec![BlobRef { digest: BlobDigest::of(&blob), bytes: blob.len() as u64 }];
            let bundle = Bundle::new(&manifest, vec![blob]).unwrap();
            prop_assert_eq!(Bundle::from_bytes(&bundle.to_bytes()).unwrap(), bundle);
        }
    }
}
