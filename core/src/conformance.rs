//! What a publisher's conformance run showed: the known answers of the manifest, evaluated encrypted on
//! the workers that hold the version. Signed with the key that signed the version; without it nobody can
//! approve the version (docs/decisions/0020-conformance.md).

use serde::{Deserialize, Serialize};

use crate::{Manifest, RingName, RingStatement, VersionId};

/// Format of this release.
pub const CONFORMANCE_FORMAT: u32 = 1;
/// Fewest molecules.
pub const LEAST_VECTORS: u32 = 8;
/// Least security of the ring parameters, in bits.
const LEAST_SECURITY_BITS: u32 = 128;
/// Longest record, in bytes.
pub const MAX_CONFORMANCE_BYTES: usize = 4096;

/// Why a run does not pass.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConformanceError {
    /// Not a record.
    #[error("not a conformance record: {0}")]
    Malformed(String),
    /// Of another format.
    #[error("the conformance record has format {0}, this release knows {CONFORMANCE_FORMAT}")]
    Format(u32),
    /// Of another version.
    #[error("the conformance record is of {0}")]
    Version(VersionId),
    /// Too few.
    #[error("{0} molecules were evaluated; {LEAST_VECTORS} or more must be")]
    TooFew(u32),
    /// Not all of them.
    #[error("{got} molecules were evaluated, the manifest has {wanted} known answers")]
    Vectors {
        /// Evaluated.
        got: u32,
        /// In the manifest.
        wanted: u32,
    },
    /// Nothing to compare with.
    #[error(
        "the manifest has {0} known answers, {LEAST_VECTORS} or more are asked for: train or import it again with a current release, and with more output bits when rounding spreads the answers over a sixteenth of their range"
    )]
    Unknown(usize),
    /// Too far from the twin.
    #[error(
        "the encrypted model is not its clear twin: the largest difference is {0} per mille of what rounding explains"
    )]
    Different(u32),
    /// Weak parameters.
    #[error("the ring parameters give {0} bits of security, 128 or more are asked for")]
    Weak(u32),
    /// Weak parameters, by the table of [`check_rings`].
    #[error(
        "ring {0} of the model is weaker than 128 bits or not the one of this release: train it again with a current release"
    )]
    WeakRing(&'static str),
    /// A ring of the graph that is not stated.
    #[error("ring {0} of the step graph is not among the model's parameters")]
    MissingRing(&'static str),
}

/// Refuses a manifest without enough to compare with.
pub fn check_known_answers(manifest: &Manifest) -> Result<(), ConformanceError> {
    let known = manifest.known_answers.len();
    if known < LEAST_VECTORS as usize {
        return Err(ConformanceError::Unknown(known));
    }
    Ok(())
}

/// Dimension n, torus bits w and least log2 of the noise's standard deviation of a ring. The formulas
/// behind these numbers are chemxor-fhe's, whose tests compare; the registry, which knows no
/// cryptography, refuses by this table.
fn floor(ring: RingName) -> (u32, u8, f64) {
    match ring {
        RingName::N1024Q32 => (1024, 32, -22.9),
        RingName::N1536Q64 => (1536, 64, -35.7),
        RingName::N2048Q64 => (2048, 64, -48.4),
    }
}

/// Refuses parameters below 128 bits of security, and a graph with a ring that is not stated.
pub fn check_rings(
    rings: &[RingName],
    statements: &[RingStatement],
) -> Result<(), ConformanceError> {
    for statement in statements {
        let (dimension, torus_bits, noise) = floor(statement.ring);
        let same = (statement.lwe_dimension, statement.torus_bits) == (dimension, torus_bits);
        // noise of the size of the torus, or none that is a number, is no noise
        if !same || !(noise..0.0).contains(&statement.log2_noise_std) {
            return Err(ConformanceError::WeakRing(statement.ring.as_str()));
        }
    }
    let stated = |ring: &&RingName| statements.iter().any(|statement| statement.ring == **ring);
    match rings.iter().find(|ring| !stated(ring)) {
        Some(ring) => Err(ConformanceError::MissingRing(ring.as_str())),
        None => Ok(()),
    }
}

/// The record; its JSON is what is signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conformance {
    /// [`CONFORMANCE_FORMAT`].
    pub format: u32,
    /// What was evaluated.
    pub version: VersionId,
    /// Molecules.
    pub vectors: u32,
    /// Largest difference to the twin, in thousandths of what its rounding explains.
    pub worst_permille: u32,
    /// Security of the weakest ring, recomputed from its parameters.
    pub security_bits: u32,
}

impl Conformance {
    /// The bytes to sign.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ConformanceError> {
        serde_json::to_vec(self).map_err(|error| ConformanceError::Malformed(error.to_string()))
    }

    /// Reads a record.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ConformanceError> {
        if bytes.len() > MAX_CONFORMANCE_BYTES {
            let reason = format!("it is longer than {MAX_CONFORMANCE_BYTES} bytes");
            return Err(ConformanceError::Malformed(reason));
        }
        let read: Self = serde_json::from_slice(bytes)
            .map_err(|error| ConformanceError::Malformed(error.to_string()))?;
        if read.format != CONFORMANCE_FORMAT {
            return Err(ConformanceError::Format(read.format));
        }
        Ok(read)
    }

    /// Whether the run lets this version, which has so many known answers, be approved.
    pub fn check(&self, version: &VersionId, answers: u32) -> Result<(), ConformanceError> {
        if self.version != *version {
            return Err(ConformanceError::Version(self.version));
        }
        if self.security_bits < LEAST_SECURITY_BITS {
            return Err(ConformanceError::Weak(self.security_bits));
        }
        if self.vectors < LEAST_VECTORS {
            return Err(ConformanceError::TooFew(self.vectors));
        }
        if self.vectors != answers {
            let (got, wanted) = (self.vectors, answers);
            return Err(ConformanceError::Vectors { got, wanted });
        }
        if self.worst_permille > 1000 {
            return Err(ConformanceError::Different(self.worst_permille));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_passes_for_its_version_only_when_it_is_close_long_and_strong() {
        let version = VersionId::of(b"a");
        let good = Conformance {
            format: CONFORMANCE_FORMAT,
            version,
            vectors: 8,
            worst_permille: 1000,
            security_bits: 128,
        };
        let bytes = good.to_bytes().unwrap();
        assert_eq!(Conformance::from_bytes(&bytes).unwrap(), good);
        assert_eq!(good.check(&version, 8), Ok(()));
        let other = VersionId::of(b"b");
        assert_eq!(
            good.check(&other, 8),
            Err(ConformanceError::Version(version))
        );
        for (bad, error) in [
            (
                Conformance {
                    vectors: 7,
                    ..good.clone()
                },
                ConformanceError::TooFew(7),
            ),
            (
                Conformance {
                    worst_permille: 1001,
                    ..good.clone()
                },
                ConformanceError::Different(1001),
            ),
            (
                Conformance {
                    security_bits: 127,
                    ..good.clone()
                },
                ConformanceError::Weak(127),
            ),
        ] {
            assert_eq!(bad.check(&version, 8), Err(error));
        }
        let (got, wanted) = (8, 9);
        let some = good.check(&version, wanted);
        assert_eq!(some, Err(ConformanceError::Vectors { got, wanted }));
        let newer = Conformance { format: 2, ..good }.to_bytes().unwrap();
        assert_eq!(
            Conformance::from_bytes(&newer),
            Err(ConformanceError::Format(2))
        );
        assert!(Conformance::from_bytes(&[b' '; 5000]).is_err());
        assert!(Conformance::from_bytes(b"{}").is_err());
    }
}
