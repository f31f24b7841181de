//! Standardisation: the largest fragment, and charges removed. Off unless asked for: a model sees what
//! it was trained on, and a user sees what was done to a molecule.

use chematic::chem::{cleanup, fragment_parent, murcko_scaffold, uncharge};
use chematic::core::Molecule;
use chematic::smiles::rdkit_canonical_smiles;
use chemxor_core::Standardisation;

use crate::chemistry::{contained, parse};
use crate::error::{ChemError, shorten};

/// A molecule after [`Standardisation`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standardised {
    /// The SMILES as it came in where nothing was done, else RDKit's canonical one.
    pub smiles: String,
    /// What was done, in words; empty where nothing was.
    pub done: Vec<&'static str>,
}

/// Applies it. A molecule that needs nothing keeps its spelling.
pub fn standardise(what: Standardisation, smiles: &str) -> Result<Standardised, ChemError> {
    let smiles = smiles.trim();
    if smiles.is_empty() {
        return Err(ChemError::Empty);
    }
    let same = || Standardised {
        smiles: smiles.to_owned(),
        done: Vec::new(),
    };
    if what.is_none() {
        return Ok(same());
    }
    contained(smiles, || {
        let molecule = parse(smiles)?;
        let before = canonical_of(smiles, &molecule)?;
        let mut last = before.clone();
        let mut molecule = cleanup(&molecule);
        let mut done = Vec::new();
        let mut note = |molecule: &Molecule, what| -> Result<(), ChemError> {
            let now = canonical_of(smiles, molecule)?;
            if now != last {
                done.push(what);
                last = now;
            }
            Ok(())
        };
        note(&molecule, "functional groups normalised")?;
        if what.largest_fragment {
            molecule = fragment_parent(&molecule).0;
            note(&molecule, "largest fragment kept")?;
        }
        if what.neutralise {
            molecule = uncharge(&molecule);
            note(&molecule, "charges removed")?;
        }
        if done.is_empty() {
            return Ok(same());
        }
        Ok(Standardised { smiles: last, done })
    })
}

/// RDKit's canonical SMILES: equal for two spellings of one molecule.
pub fn canonical(smiles: &str) -> Result<String, ChemError> {
    let smiles = smiles.trim();
    contained(smiles, || canonical_of(smiles, &parse(smiles)?))
}

/// The Bemis-Murcko scaffold (1996) as canonical SMILES: rings and what joins them. Empty for a
/// molecule without rings.
pub fn scaffold(smiles: &str) -> Result<String, ChemError> {
    let smiles = smiles.trim();
    contained(smiles, || {
        let scaffold = murcko_scaffold(&parse(smiles)?);
        if scaffold.atom_count() == 0 {
            return Ok(String::new());
        }
        canonical_of(smiles, &scaffold)
    })
}

fn canonical_of(smiles: &str, molecule: &Molecule) -> Result<String, ChemError> {
    rdkit_canonical_smiles(molecule).map_err(|error| ChemError::Molecule {
        smiles: shorten(smiles),
        position: None,
        reason: format!("{error:?}").to_lowercase(),
    })
}
