//! Featurisers: from a SMILES to the integers that a client encrypts.
//!
//! Everything here is public and part of the model's manifest; the integers are within
//! `0..=Featuriser::max_value()` and there are `Featuriser::len()` of them.

use chematic::fp::{RdkitMorganFpSize, RdkitMorganRadius};
use chemxor_core::{DescriptorScaling, Featuriser};

use crate::chemistry::{Chematic, Chemistry, Invariants, Morgan};
use crate::descriptors;
use crate::error::ChemError;
use crate::image32;

/// Names that [`named`] knows.
pub const FEATURISER_NAMES: [&str; 8] = [
    "ecfp4-counts+descriptors",
    "ecfp4-counts",
    "ecfp4-bits",
    "fcfp4-counts",
    "fcfp6-counts",
    "fcfp4-bits",
    "descriptors",
    "image32",
];

/// The featuriser of a short name: 2048 long, FCFP6 1024 long, counts clipped to 0..=7, descriptors
/// scaled over the default ranges.
pub fn named(name: &str) -> Option<Featuriser> {
    let (version, radius, size, max_count) = (1, 2, 2048, 7);
    Some(match name {
        "ecfp4-counts+descriptors" => Featuriser::EcfpDescriptors {
            version,
            radius,
            size,
            max_count,
            scaling: DescriptorScaling::default(),
        },
        "ecfp4-counts" => Featuriser::EcfpCounts {
            version,
            radius,
            size,
            max_count,
        },
        "ecfp4-bits" => Featuriser::EcfpBits {
            version,
            radius,
            size,
        },
        "fcfp4-counts" => Featuriser::FcfpCounts {
            version,
            radius,
            size,
            max_count,
        },
        "fcfp6-counts" => Featuriser::FcfpCounts {
            version,
            radius: 3,
            size: 1024,
            max_count,
        },
        "fcfp4-bits" => Featuriser::FcfpBits {
            version,
            radius,
            size,
        },
        "image32" => Featuriser::Image32 { version, max_count },
        "descriptors" => Featuriser::Descriptors {
            version,
            scaling: DescriptorScaling::default(),
        },
        _ => return None,
    })
}

/// The features of one molecule. White space around the SMILES is ignored.
pub fn featurise(featuriser: &Featuriser, smiles: &str) -> Result<Vec<u16>, ChemError> {
    let plan = plan(featuriser)?;
    let smiles = smiles.trim();
    if smiles.is_empty() {
        return Err(ChemError::Empty);
    }
    let morgan = plan.morgan.map(|(morgan, _)| morgan);
    let values = Chematic.values(smiles, morgan, plan.scaling.is_some())?;
    let mut features = Vec::with_capacity(featuriser.len());
    if let Some((morgan, max)) = plan.morgan {
        features.resize(morgan.size.bits(), 0);
        for (index, count) in values.counts {
            let index = if plan.image {
                image32::pixel(index)
            } else {
                index
            };
            features[index] = u16::try_from(count).unwrap_or(u16::MAX).min(max);
        }
    }
    if let (Some(scaling), Some(descriptors)) = (plan.scaling, values.descriptors) {
        features.extend(descriptors.scaled(scaling));
    }
    Ok(features)
}

/// Whether this release computes that featuriser.
pub fn check_featuriser(featuriser: &Featuriser) -> Result<(), ChemError> {
    plan(featuriser).map(drop)
}

struct Plan<'a> {
    /// With the largest count.
    morgan: Option<(Morgan, u16)>,
    scaling: Option<&'a DescriptorScaling>,
    /// Whether the counts are laid out as an image.
    image: bool,
}

fn plan(featuriser: &Featuriser) -> Result<Plan<'_>, ChemError> {
    use Invariants::{Connectivity, Features};
    let (version, fingerprint, scaling) = match featuriser {
        Featuriser::EcfpCounts {
            version,
            radius,
            size,
            max_count,
        } => (
            *version,
            Some((Connectivity, *radius, *size, *max_count)),
            None,
        ),
        Featuriser::FcfpCounts {
            version,
            radius,
            size,
            max_count,
        } => (*version, Some((Features, *radius, *size, *max_count)), None),
        Featuriser::EcfpBits {
            version,
            radius,
            size,
        } => (*version, Some((Connectivity, *radius, *size, 1)), None),
        Featuriser::FcfpBits {
            version,
            radius,
            size,
        } => (*version, Some((Features, *radius, *size, 1)), None),
        Featuriser::Image32 { version, max_count } => {
            (*version, Some((Features, 3, 1024, *max_count)), None)
        }
        Featuriser::Descriptors { version, scaling } => (*version, None, Some(scaling)),
        Featuriser::EcfpDescriptors {
            version,
            radius,
            size,
            max_count,
            scaling,
        } => (
            *version,
            Some((Connectivity, *radius, *size, *max_count)),
            Some(scaling),
        ),
    };
    if version != 1 {
        return Err(refuse("version", version.into(), "1"));
    }
    scaling.map_or(Ok(()), descriptors::check)?;
    let morgan = fingerprint
        .map(|(invariants, radius, size, max)| morgan(invariants, radius, size, max))
        .transpose()?;
    let image = matches!(featuriser, Featuriser::Image32 { .. });
    Ok(Plan {
        morgan,
        scaling,
        image,
    })
}

fn refuse(what: &'static str, value: u64, supported: &'static str) -> ChemError {
    ChemError::Featuriser {
        what,
        value,
        supported,
    }
}

fn morgan(
    invariants: Invariants,
    radius: u32,
    size: u32,
    max: u16,
) -> Result<(Morgan, u16), ChemError> {
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
    let morgan = Morgan {
        invariants,
        radius,
        size,
    };
    Ok((morgan, max))
}
