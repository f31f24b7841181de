//! Featurisers: from a SMILES to the integers that a client encrypts.
//!
//! Everything here is public and part of the model's manifest; the integers are within
//! `0..=Featuriser::max_value()` and there are `Featuriser::len()` of them.

use chematic::fp::{RdkitMorganFpSize, RdkitMorganRadius};
use chemxor_core::Featuriser;

use crate::chemistry::{Chematic, Chemistry};
use crate::error::ChemError;

/// The features of one molecule. White space around the SMILES is ignored.
pub fn featurise(featuriser: &Featuriser, smiles: &str) -> Result<Vec<u16>, ChemError> {
    let plan = plan(featuriser)?;
    let smiles = smiles.trim();
    if smiles.is_empty() {
        return Err(ChemError::Empty);
    }
    let counts = Chematic.morgan_counts(smiles, plan.radius, plan.size)?;
    let mut features = vec![0u16; featuriser.len()];
    for (index, count) in counts {
        features[index] = u16::try_from(count).unwrap_or(u16::MAX).min(plan.max);
    }
    Ok(features)
}

/// Whether this release computes that featuriser.
pub fn check_featuriser(featuriser: &Featuriser) -> Result<(), ChemError> {
    plan(featuriser).map(drop)
}

struct Plan {
    radius: RdkitMorganRadius,
    size: RdkitMorganFpSize,
    max: u16,
}

fn plan(featuriser: &Featuriser) -> Result<Plan, ChemError> {
    let (version, radius, size, max) = match featuriser {
        Featuriser::EcfpCounts {
            version,
            radius,
            size,
            max_count,
        } => (*version, *radius, *size, *max_count),
        Featuriser::EcfpBits {
            version,
            radius,
            size,
        } => (*version, *radius, *size, 1),
    };
    let refuse = |what, value: u64, supported| ChemError::Featuriser {
        what,
        value,
        supported,
    };
    if version != 1 {
        return Err(refuse("version", version.into(), "1"));
    }
    if max == 0 {
        return Err(refuse("max_count", 0, "1 or more"));
    }
    let radius = match radius {
        0 => RdkitMorganRadius::R0,
        1 => RdkitMorganRadius::R1,
        2 => RdkitMorganRadius::R2,
        3 => RdkitMorganRadius::R3,
        other => return Err(refuse("radius", other.into(), "0 to 3")),
    };
    let size = match size {
        128 => RdkitMorganFpSize::B128,
        256 => RdkitMorganFpSize::B256,
        512 => RdkitMorganFpSize::B512,
        1024 => RdkitMorganFpSize::B1024,
        2048 => RdkitMorganFpSize::B2048,
        other => return Err(refuse("size", other.into(), "128, 256, 512, 1024, 2048")),
    };
    Ok(Plan { radius, size, max })
}
