//! The manifest: everything public about a model version. Its bytes are signed and their SHA-256
//! names the version, so they are kept exactly as they were made and never serialised again.

use serde::{Deserialize, Serialize};

use crate::known_answers::{KnownAnswer, MAX_KNOWN_ANSWERS};
use crate::{BlobDigest, ModelName, RingStatement, StepGraph, VersionId, is_visible};

/// Format number that this build writes and reads.
pub const MANIFEST_FORMAT: u32 = 1;

/// What the model predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// A number for each output.
    Regression,
    /// The log-odds of class 1 for each output.
    Binary,
    /// One of several classes: an output for each class; the largest one is predicted, and their
    /// softmax gives probabilities.
    Multiclass,
}

/// How molecules become integers; computed by the client, so all of it is public.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Featuriser {
    /// Morgan counts, folded, clipped to `0..=max_count` (Rogers and Hahn 2010; RDKit's hash).
    EcfpCounts {
        /// Version of our definition, now 1.
        version: u32,
        /// Bonds from the centre; 2 is ECFP4.
        radius: u32,
        /// Length after folding.
        size: u32,
        /// Counts above are clipped.
        max_count: u16,
    },
    /// Morgan bits, folded.
    EcfpBits {
        /// Version of our definition, now 1.
        version: u32,
        /// Bonds from the centre; 2 is ECFP4.
        radius: u32,
        /// Length after folding.
        size: u32,
    },
    /// As [`Self::EcfpCounts`], with RDKit's six feature classes in place of the connectivity.
    FcfpCounts {
        /// Version of our definition, now 1.
        version: u32,
        /// Bonds from the centre; 2 is FCFP4, 3 is FCFP6.
        radius: u32,
        /// Length after folding.
        size: u32,
        /// Counts above are clipped.
        max_count: u16,
    },
    /// As [`Self::EcfpBits`], with RDKit's six feature classes in place of the connectivity.
    FcfpBits {
        /// Version of our definition, now 1.
        version: u32,
        /// Bonds from the centre; 2 is FCFP4, 3 is FCFP6.
        radius: u32,
        /// Length after folding.
        size: u32,
    },
    /// [`Self::FcfpCounts`] with radius 3 and 1024 features, laid out on an image of 32x32 pixels so
    /// that features that occur together are neighbours. The layout is data of the chemistry crate;
    /// its version is that of the featuriser.
    Image32 {
        /// Version of our layout, now 1.
        version: u32,
        /// Counts above are clipped.
        max_count: u16,
    },
    /// The ten descriptors of [`DescriptorScaling`], as small integers.
    Descriptors {
        /// Version of our definition, now 1.
        version: u32,
        /// From values to integers.
        scaling: DescriptorScaling,
    },
    /// [`Self::EcfpCounts`] followed by [`Self::Descriptors`].
    EcfpDescriptors {
        /// Version of our definition, now 1.
        version: u32,
        /// Bonds from the centre; 2 is ECFP4.
        radius: u32,
        /// Length of the folded counts.
        size: u32,
        /// Counts above are clipped.
        max_count: u16,
        /// From descriptor values to integers.
        scaling: DescriptorScaling,
    },
}

/// How the ten descriptors become integers, in this order: molecular weight, Crippen logP, TPSA,
/// donors, acceptors, rotatable bonds, rings, aromatic rings, heavy atoms, fraction of sp3 carbons.
///
/// A value is placed linearly on `0..=max_value * copies` between the ends of its range and clipped
/// there: its level. It is then given as `copies` features, copy k being `floor((level + k) /
/// copies)`. Each copy is at most `max_value`, and by Hermite's identity they add up to the level,
/// so that a linear layer sees the full resolution through inputs of few bits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DescriptorScaling {
    /// Largest feature.
    pub max_value: u16,
    /// Features for each descriptor.
    pub copies: u16,
    /// Lower and upper end of each descriptor's range, in thousandths of its unit.
    pub ranges: Vec<[i64; 2]>,
}

impl DescriptorScaling {
    /// Number of features.
    pub fn len(&self) -> usize {
        self.ranges.len() * usize::from(self.copies)
    }

    /// Whether there is no feature.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Default for DescriptorScaling {
    /// Eight copies of 0..=7 over the ranges of drug-like molecules; no data set was looked at.
    fn default() -> Self {
        Self {
            max_value: 7,
            copies: 8,
            ranges: vec![
                [0, 700_000],
                [-3_000, 9_000],
                [0, 200_000],
                [0, 8_000],
                [0, 14_000],
                [0, 14_000],
                [0, 8_000],
                [0, 7_000],
                [0, 56_000],
                [0, 1_000],
            ],
        }
    }
}

impl Featuriser {
    /// Number of features.
    pub fn len(&self) -> usize {
        match self {
            Self::EcfpCounts { size, .. }
            | Self::EcfpBits { size, .. }
            | Self::FcfpCounts { size, .. }
            | Self::FcfpBits { size, .. } => *size as usize,
            Self::Image32 { .. } => 1024,
            Self::Descriptors { scaling, .. } => scaling.len(),
            Self::EcfpDescriptors { size, scaling, .. } => *size as usize + scaling.len(),
        }
    }

    /// Whether there is no feature.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Largest value of a feature.
    pub fn max_value(&self) -> u16 {
        match self {
            Self::EcfpCounts { max_count, .. }
            | Self::FcfpCounts { max_count, .. }
            | Self::Image32 { max_count, .. } => *max_count,
            Self::EcfpBits { .. } | Self::FcfpBits { .. } => 1,
            Self::Descriptors { scaling, .. } => scaling.max_value,
            Self::EcfpDescriptors {
                max_count, scaling, ..
            } => (*max_count).max(scaling.max_value),
        }
    }
}

/// What is done to a molecule before it is featurised.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Standardisation {
    /// Keep the largest fragment: counter-ions and solvents go. As RDKit's `FragmentParent`.
    pub largest_fragment: bool,
    /// Remove charges that hydrogens can balance. As RDKit's `Uncharger`.
    pub neutralise: bool,
}

impl Standardisation {
    /// Whether nothing is asked for.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// From a released integer to the endpoint's unit: `value = scale * integer + offset`, where the
/// integer is the B-bit output, read as signed two's complement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputScaling {
    /// Units of the endpoint for one step of the integer.
    pub scale: f64,
    /// Value at integer 0.
    pub offset: f64,
    /// The endpoint or class of this output, where the model has several.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Half width of an interval around the value that held 90 % of the molecules kept aside
    /// (split conformal prediction, Vovk et al. 2005); regression only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval90: Option<f64>,
}

impl OutputScaling {
    /// Without a name or an interval.
    pub fn new(scale: f64, offset: f64) -> Self {
        Self {
            scale,
            offset,
            name: String::new(),
            interval90: None,
        }
    }

    /// The value of the B-bit integer `code` in the endpoint's unit.
    pub fn apply(&self, code: u32, bits: u8) -> f64 {
        self.scale * f64::from(signed(code, bits)) + self.offset
    }
}

/// Two's complement of the low `bits` bits.
fn signed(code: u32, bits: u8) -> i32 {
    let shift = 32 - u32::from(bits);
    ((code << shift) as i32) >> shift
}

/// The training data, named but not shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataFingerprint {
    /// SHA-256 of the training file, hex.
    pub sha256: String,
    /// Molecules used for training.
    pub train_rows: u64,
    /// Molecules held out.
    pub test_rows: u64,
}

/// What the training molecules were like, coarse enough to be public: a client says of its own
/// molecule whether it lies within. No training molecule can be read from it, and a distance to the
/// nearest one is not computable from it (docs/decisions/0016).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApplicabilityDomain {
    /// For each descriptor, in the order of [`DescriptorScaling`], the 1 % and 99 % quantiles over
    /// the training molecules, in thousandths.
    pub descriptors: Vec<[i64; 2]>,
    /// Tanimoto similarity of a training molecule to the nearest other one (ECFP4 bits), in
    /// thousandths: quantiles at 5, 25, 50, 75 and 95 %.
    pub nearest_neighbour: Vec<u16>,
}

/// What the publisher says about the privacy of the training molecules.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrivacyStatement {
    /// The guarantee that it was trained with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub differential: Option<DifferentialPrivacy>,
    /// What an attack found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub membership: Option<MembershipInference>,
}

impl PrivacyStatement {
    fn is_sound(&self) -> bool {
        let differential = self.differential.iter().flat_map(|dp| {
            let DifferentialPrivacy {
                epsilon,
                delta,
                noise_multiplier,
                clip,
                sampling_rate,
                rows: _,
                steps: _,
            } = dp;
            [*epsilon, *delta, *noise_multiplier, *clip, *sampling_rate]
        });
        let membership = self.membership.iter().flat_map(|found| {
            let triples = [found.auc, found.found_at_0, found.found_at_0001];
            triples.into_iter().flatten().chain([found.found_at_001])
        });
        differential
            .chain(membership)
            .all(|value| value.is_finite() && value >= 0.0)
    }
}

/// (ε, δ) differential privacy under adding or removing one molecule (Dwork et al. 2006), for the
/// molecules that gradients come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DifferentialPrivacy {
    /// ε.
    pub epsilon: f64,
    /// δ.
    pub delta: f64,
    /// Molecules that are covered.
    pub rows: u64,
    /// Standard deviation of the noise in units of the clipping norm.
    pub noise_multiplier: f64,
    /// Largest norm of the gradient of one molecule.
    pub clip: f64,
    /// Gradient steps.
    pub steps: u64,
    /// Probability that a molecule takes part in a step.
    pub sampling_rate: f64,
}

/// Membership inference with shadow models (Carlini et al. 2022) on what a query releases; the
/// strongest variant. Rates are `[value, lower end, upper end]` with 95 % confidence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MembershipInference {
    /// Shadow models.
    pub shadows: u64,
    /// Area under the curve; 0.5 is guessing.
    pub auc: [f64; 3],
    /// Training molecules that were attacked.
    pub members: u64,
    /// Held-out molecules that were attacked.
    pub others: u64,
    /// Part of the training molecules found without a false alarm among the held-out ones.
    pub found_at_0: [f64; 3],
    /// Part found at a false alarm rate of 0.001, by attacks on models of the same recipe.
    pub found_at_0001: [f64; 3],
    /// Part of the training molecules found at a false alarm rate of 0.01 among the held-out ones.
    pub found_at_001: f64,
}

/// Quality on the held-out molecules, in the endpoint's unit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// Name of the figure, e.g. `rmse` or `roc-auc`.
    pub metric: String,
    /// Of the float model.
    pub float: f64,
    /// Of the clear twin: same integers as the encrypted run, carries simulated.
    pub twin: f64,
}

/// A weight blob by the digest of its plaintext. The blob begins with 32 random bytes, so the
/// digest commits to the weights and hides them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlobRef {
    /// Digest of the plaintext blob.
    pub digest: BlobDigest,
    /// Length of the plaintext blob in bytes.
    pub bytes: u64,
}

/// Everything public about a model version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`MANIFEST_FORMAT`].
    pub format: u32,
    /// Name in the registry.
    pub name: ModelName,
    /// Regression or classification.
    pub task: Task,
    /// What is predicted, e.g. "aqueous solubility".
    pub endpoint: String,
    /// Its unit, e.g. "log10 mol/L".
    pub unit: String,
    /// One line for the catalogue.
    pub description: String,
    /// Molecule to integers.
    pub featuriser: Featuriser,
    /// What is done to a molecule before that.
    #[serde(default, skip_serializing_if = "Standardisation::is_none")]
    pub standardisation: Standardisation,
    /// Shapes, precisions and rings.
    pub graph: StepGraph,
    /// Parameters of the rings of the graph: whoever loads the model computes their security again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rings: Vec<RingStatement>,
    /// One for each output.
    pub outputs: Vec<OutputScaling>,
    /// One for each step.
    pub blobs: Vec<BlobRef>,
    /// Held-out quality.
    pub metrics: Metrics,
    /// Training data.
    pub data: DataFingerprint,
    /// What the training molecules were like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<ApplicabilityDomain>,
    /// Molecules with what the clear twin answers, to compare encrypted answers with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub known_answers: Vec<KnownAnswer>,
    /// What is known about the privacy of the training molecules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privacy: Option<PrivacyStatement>,
    /// Bits that one query releases about the weights, at most.
    pub leakage_bits_per_query: u64,
    /// Program and version that made it.
    pub toolchain: String,
    /// Seed of the training run.
    pub seed: u64,
}

/// Why a manifest was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// Not the JSON of a manifest.
    #[error("the manifest cannot be read: {0}")]
    Json(String),
    /// Made by a release that this one does not know.
    #[error(
        "the manifest has format {0}, this release reads format {MANIFEST_FORMAT}: upgrade the older side"
    )]
    Format(u32),
    /// Parts that contradict each other.
    #[error("the manifest contradicts itself: {0}")]
    Inconsistent(String),
}

impl Manifest {
    /// The bytes that are signed and hashed. Call once, then keep the bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ManifestError> {
        serde_json::to_vec(self).map_err(|error| ManifestError::Json(error.to_string()))
    }

    /// Reads and checks; also gives the version that the bytes name.
    pub fn from_bytes(bytes: &[u8]) -> Result<(Self, VersionId), ManifestError> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let json = |error: serde_json::Error| ManifestError::Json(error.to_string());
        let head: Head = serde_json::from_slice(bytes).map_err(json)?;
        if head.format != MANIFEST_FORMAT {
            return Err(ManifestError::Format(head.format));
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(json)?;
        manifest.check()?;
        Ok((manifest, VersionId::of(bytes)))
    }

    /// Whether the parts agree with each other.
    pub fn check(&self) -> Result<(), ManifestError> {
        let graph = &self.graph;
        let first = &graph.steps()[0];
        let last = graph.last();
        let require = |holds: bool, what: &str| {
            if holds {
                Ok(())
            } else {
                Err(ManifestError::Inconsistent(what.to_owned()))
            }
        };
        require(
            first.features() == self.featuriser.len(),
            "step 0 does not take what the featuriser gives",
        )?;
        require(
            (0..first.features())
                .map(|feature| first.feature_limit(feature))
                .max()
                .is_some_and(|limit| u32::from(self.featuriser.max_value()) < limit),
            "features do not fit step 0",
        )?;
        require(
            self.outputs.len() == last.outputs as usize,
            "one output scaling for each output",
        )?;
        let stated: Vec<_> = self.rings.iter().map(|statement| statement.ring).collect();
        require(
            // manifests from before statements existed can be read; nobody evaluates them
            stated.is_empty() || stated == graph.rings(),
            "one statement for each ring of the graph, in order",
        )?;
        require(
            self.outputs.iter().all(|output| {
                let half = output.interval90.unwrap_or(0.0);
                output.scale.is_finite()
                    && output.offset.is_finite()
                    && half.is_finite()
                    && half >= 0.0
            }),
            "output scalings must be finite",
        )?;
        require(
            self.task != Task::Multiclass || self.outputs.len() > 1,
            "several classes need an output each",
        )?;
        require(
            self.domain.as_ref().is_none_or(|domain| {
                domain.descriptors.len() == DescriptorScaling::default().ranges.len()
                    && domain.nearest_neighbour.len() == 5
            }),
            "the applicability domain has ten descriptors and five quantiles",
        )?;
        let privacy = self.privacy.as_ref();
        require(
            privacy.is_none_or(PrivacyStatement::is_sound),
            "figures of privacy must be finite and not negative",
        )?;
        require(
            self.known_answers.len() <= MAX_KNOWN_ANSWERS
                && self
                    .known_answers
                    .iter()
                    .all(|known| known.is_sound(self.outputs.len(), last.output_bits)),
            "a known answer is a SMILES and, for each output, a code and how far from it is right",
        )?;
        require(
            self.blobs.len() == graph.steps().len(),
            "one blob for each step",
        )?;
        require(
            self.leakage_bits_per_query == graph.leakage_bits_per_query(),
            "the leakage is not outputs times output bits",
        )?;
        let texts = [
            &self.endpoint,
            &self.unit,
            &self.description,
            &self.toolchain,
        ];
        let names = self.outputs.iter().map(|output| &output.name);
        require(
            texts
                .into_iter()
                .chain(names)
                .all(|text| text.len() <= 2000 && text.chars().all(is_visible)),
            "texts are at most 2000 bytes, without control or invisible characters",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_signed() {
        let scaling = OutputScaling::new(0.5, 1.0);
        assert_eq!(scaling.apply(0, 8), 1.0);
        assert_eq!(scaling.apply(255, 8), 0.5);
        assert_eq!(scaling.apply(127, 8), 64.5);
        assert_eq!(scaling.apply(128, 8), -63.0);
    }

    #[test]
    fn a_newer_format_is_named() {
        assert_eq!(
            Manifest::from_bytes(br#"{"format":7,"new":1}"#),
            Err(ManifestError::Format(7))
        );
        assert!(matches!(
            Manifest::from_bytes(b"{"),
            Err(ManifestError::Json(_))
        ));
    }
}
