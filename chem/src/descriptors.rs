//! Ten descriptors with RDKit's definitions, and their scaling to the integers that are encrypted.

use chematic::chem;
use chematic::core::Molecule;
use chematic::perception::relevant_cycles;
use chemxor_core::DescriptorScaling;

use crate::chemistry::{Chematic, Chemistry};
use crate::error::ChemError;

/// Names of the descriptors, in the order of [`Descriptors::values`].
pub const DESCRIPTOR_NAMES: [&str; 10] = [
    "mol_wt",
    "crippen_logp",
    "tpsa",
    "hbd",
    "hba",
    "rotatable_bonds",
    "ring_count",
    "aromatic_rings",
    "heavy_atoms",
    "fraction_csp3",
];

/// Largest number of copies of a descriptor; more only repeat what is there.
const MAX_COPIES: u16 = 64;

/// Rings that are looked for; a cage can have exponentially many relevant cycles.
const MAX_RINGS: usize = 10_000;

/// The descriptors of one molecule, unscaled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Descriptors {
    values: [f64; DESCRIPTOR_NAMES.len()],
}

impl Descriptors {
    pub(crate) fn of(molecule: &Molecule) -> Self {
        // explicit hydrogens are counted as atoms otherwise; RDKit takes them away first
        let suppressed = chematic::smiles::rdkit_hydrogen_suppressed(molecule);
        let molecule = suppressed.as_ref().unwrap_or(molecule);
        let count = |number: usize| number as f64;
        Self {
            values: [
                chem::rdkit_molecular_weight(molecule),
                chem::logp_crippen(molecule),
                chem::rdkit_tpsa(molecule),
                count(chem::hbd_count(molecule)),
                count(chem::rdkit_hba_count(molecule)),
                count(chem::rotatable_bond_count(molecule)),
                count(rings(molecule)),
                count(chem::rdkit_aromatic_ring_count(molecule)),
                count(chem::heavy_atom_count(molecule)),
                chem::fsp3(molecule),
            ],
        }
    }

    /// Molecular weight (g/mol), Crippen logP, TPSA of N and O (square angstroms), then counts, then
    /// a fraction: the order of [`DESCRIPTOR_NAMES`].
    pub fn values(&self) -> [f64; DESCRIPTOR_NAMES.len()] {
        self.values
    }

    /// The integers of `scaling`, the copies of a descriptor side by side.
    pub(crate) fn scaled(&self, scaling: &DescriptorScaling) -> Vec<u16> {
        let copies = u32::from(scaling.copies);
        let levels = f64::from(u32::from(scaling.max_value) * copies);
        self.values
            .iter()
            .zip(&scaling.ranges)
            .flat_map(|(value, [low, high])| {
                let part = (value * 1000.0 - *low as f64) / (*high as f64 - *low as f64);
                // a value that is not a number becomes level 0
                let level = (part * levels).round().clamp(0.0, levels) as u32;
                (0..copies).map(move |copy| ((level + copy) / copies) as u16)
            })
            .collect()
    }
}

/// Number of rings: all relevant cycles, which is what RDKit counts since 2026.09. The crate's own
/// count is that of older releases for small bridged cages.
fn rings(molecule: &Molecule) -> usize {
    relevant_cycles(molecule, MAX_RINGS)
        .map_or_else(|_| chem::rdkit_num_rings(molecule), |cycles| cycles.len())
}

/// The unscaled descriptors of a SMILES. White space around it is ignored.
pub fn descriptors(smiles: &str) -> Result<Descriptors, ChemError> {
    let smiles = smiles.trim();
    if smiles.is_empty() {
        return Err(ChemError::Empty);
    }
    let values = Chematic.values(smiles, None, true)?;
    values.descriptors.ok_or(ChemError::Empty)
}

/// Whether this release computes that scaling.
pub(crate) fn check(scaling: &DescriptorScaling) -> Result<(), ChemError> {
    let refuse = |what, value: u64, supported| {
        Err(ChemError::Featuriser {
            what,
            value,
            supported,
        })
    };
    if scaling.max_value == 0 {
        return refuse("scaling.max_value", 0, "1 or more");
    }
    if !(1..=MAX_COPIES).contains(&scaling.copies) {
        return refuse("scaling.copies", scaling.copies.into(), "1 to 64");
    }
    if scaling.ranges.len() != DESCRIPTOR_NAMES.len() {
        return refuse("number of ranges", scaling.ranges.len() as u64, "10");
    }
    if let Some(at) = scaling.ranges.iter().position(|[low, high]| low >= high) {
        return refuse("range", at as u64, "lower end below upper end");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scaled(value: f64, scaling: &DescriptorScaling) -> Vec<u16> {
        let all = Descriptors {
            values: [value; 10],
        }
        .scaled(scaling);
        all[..usize::from(scaling.copies)].to_vec()
    }

    proptest! {
        #[test]
        fn copies_add_up_to_the_level(value in -1e3f64..1e3, max in 1u16..100, copies in 1u16..=MAX_COPIES) {
            let scaling = DescriptorScaling { max_value: max, copies, ranges: vec![[-100_000, 300_000]; 10] };
            let features = scaled(value, &scaling);
            prop_assert!(features.iter().all(|feature| *feature <= max));
            let levels = f64::from(max) * f64::from(copies);
            let level = ((value + 100.0) / 400.0 * levels).clamp(0.0, levels);
            let sum: f64 = features.iter().map(|feature| f64::from(*feature)).sum();
            prop_assert!((sum - level).abs() <= 0.5 + 1e-6, "{sum} {level}");
        }
    }

    #[test]
    fn values_outside_the_range_and_odd_ones_are_clipped() {
        let scaling = DescriptorScaling::default();
        assert_eq!(scaled(f64::INFINITY, &scaling), [7; 8]);
        assert_eq!(scaled(-1e9, &scaling), [0; 8]);
        assert_eq!(scaled(f64::NAN, &scaling), [0; 8]);
    }
}
