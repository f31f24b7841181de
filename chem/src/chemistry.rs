//! The chemistry crate behind a trait of ours, so that it can be replaced: it is young, has one
//! author and is pinned exactly (docs/decisions).
//!
//! Two traps of it are closed here. `parse` accepts impossible valences, so every molecule also
//! passes the port of RDKit's sanitisation. Its time grows badly with size (100 repeated fragments:
//! 58 s), so the input is bounded before anything is computed.

use std::panic::{AssertUnwindSafe, catch_unwind};

use chematic::core::Molecule;
use chematic::fp::{
    RdkitMorganConfig, RdkitMorganFpSize, RdkitMorganRadius, rdkit_morgan_fingerprint,
};
use chematic::smiles::{
    RdkitSmilesError, SmilesError, SmilesParseLimits, parse_with_limits, rdkit_sanitized_model,
};

use crate::descriptors::Descriptors;
use crate::error::{ChemError, shorten};
use crate::fcfp;
use crate::grammar;
use crate::position;

/// Longest SMILES in bytes.
pub const MAX_BYTES: usize = 1000;
/// Most atoms in a molecule; the largest that people screen have about 200.
pub const MAX_ATOMS: usize = 400;
/// Most bonds; a molecule has few more bonds than atoms.
const MAX_BONDS: usize = 500;

/// Which atom invariants a Morgan fingerprint starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Invariants {
    /// Connectivity: ECFP.
    Connectivity,
    /// Feature classes: FCFP.
    Features,
}

/// A Morgan fingerprint as counts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Morgan {
    pub(crate) invariants: Invariants,
    pub(crate) radius: RdkitMorganRadius,
    pub(crate) size: RdkitMorganFpSize,
}

/// What featurisers need from a chemistry library: the values of one molecule that are asked for.
pub(crate) trait Chemistry {
    /// Parses once; gives Morgan counts `(index, count)` by RDKit's hash (Rogers and Hahn 2010) and
    /// descriptors.
    fn values(
        &self,
        smiles: &str,
        morgan: Option<Morgan>,
        descriptors: bool,
    ) -> Result<Values, ChemError>;
}

/// What was asked for.
#[derive(Debug, Default)]
pub(crate) struct Values {
    pub(crate) counts: Vec<(usize, u32)>,
    pub(crate) descriptors: Option<Descriptors>,
}

/// The `chematic` crate.
pub(crate) struct Chematic;

impl Chemistry for Chematic {
    fn values(
        &self,
        smiles: &str,
        morgan: Option<Morgan>,
        descriptors: bool,
    ) -> Result<Values, ChemError> {
        contained(smiles, || {
            let molecule = parse(smiles)?;
            let counts = morgan
                .map(|morgan| counts(&molecule, morgan))
                .transpose()
                .map_err(|reason| ChemError::Molecule {
                    smiles: shorten(smiles),
                    position: None,
                    reason,
                })?;
            Ok(Values {
                counts: counts.unwrap_or_default(),
                descriptors: descriptors.then(|| Descriptors::of(&molecule)),
            })
        })
    }
}

fn counts(molecule: &Molecule, morgan: Morgan) -> Result<Vec<(usize, u32)>, String> {
    match morgan.invariants {
        Invariants::Features => fcfp::counts(molecule, morgan.radius, morgan.size.bits()),
        Invariants::Connectivity => {
            let config = RdkitMorganConfig {
                radius: morgan.radius,
                fp_size: morgan.size,
                include_chirality: false,
            };
            rdkit_morgan_fingerprint(molecule, &config)
                .map(|fingerprint| fingerprint.folded_counts.into_iter().collect())
                .map_err(|error| error.to_string())
        }
    }
}

/// Turns a panic of the chemistry crate into an error: one odd row must not end a run of a million.
pub(crate) fn contained<T>(
    smiles: &str,
    compute: impl FnOnce() -> Result<T, ChemError>,
) -> Result<T, ChemError> {
    // nothing outside the closure is changed by it, so nothing is left half done
    catch_unwind(AssertUnwindSafe(compute)).unwrap_or_else(|_| {
        Err(ChemError::Internal {
            smiles: shorten(smiles),
        })
    })
}

pub(crate) fn parse(smiles: &str) -> Result<Molecule, ChemError> {
    let too_large = |what, got, limit| ChemError::TooLarge {
        smiles: shorten(smiles),
        what,
        got,
        limit,
    };
    if smiles.len() > MAX_BYTES {
        return Err(too_large("bytes", smiles.len(), MAX_BYTES));
    }
    let limits = SmilesParseLimits {
        max_input_bytes: MAX_BYTES,
        max_atoms: MAX_ATOMS,
        max_bonds: MAX_BONDS,
    };
    // the crate stops reading at white space; what stands behind it would be lost without a word
    if let Some(at) = smiles.find(char::is_whitespace) {
        return Err(ChemError::Syntax {
            smiles: shorten(smiles),
            position: position::of_byte(smiles, at),
            reason: "white space inside a SMILES".to_owned(),
        });
    }
    let molecule = parse_with_limits(smiles, &limits).map_err(|error| syntax(smiles, &error))?;
    grammar::check(smiles).map_err(|(at, reason)| ChemError::Syntax {
        smiles: shorten(smiles),
        position: position::of_byte(smiles, at),
        reason: reason.to_owned(),
    })?;
    let (atoms, bonds) = (molecule.atom_count(), molecule.bond_count());
    if atoms == 0 {
        return Err(ChemError::Empty);
    }
    if atoms > MAX_ATOMS {
        return Err(too_large("atoms", atoms, MAX_ATOMS));
    }
    if bonds > MAX_BONDS {
        return Err(too_large("bonds", bonds, MAX_BONDS));
    }
    rdkit_sanitized_model(&molecule).map_err(|error| {
        let reason = match error {
            RdkitSmilesError::Sanitization(reason) => lowercase(&reason),
            RdkitSmilesError::Unsupported(reason) => format!("not supported: {reason}"),
        };
        let position = position::atom_in(&reason).and_then(|atom| position::of_atom(smiles, atom));
        ChemError::Molecule {
            smiles: shorten(smiles),
            position,
            reason,
        }
    })?;
    Ok(molecule)
}

fn lowercase(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| {
        first.to_lowercase().chain(characters).collect()
    })
}

fn syntax(smiles: &str, error: &SmilesError) -> ChemError {
    let at = |offset: &usize, reason: String| ChemError::Syntax {
        smiles: shorten(smiles),
        position: position::of_byte(smiles, *offset),
        reason,
    };
    match error {
        SmilesError::EmptyInput => ChemError::Empty,
        SmilesError::ResourceLimit {
            resource,
            actual,
            limit,
        } => ChemError::TooLarge {
            smiles: shorten(smiles),
            what: resource,
            got: *actual,
            limit: *limit,
        },
        SmilesError::UnexpectedEnd { pos } => at(pos, "the text ends too early".to_owned()),
        SmilesError::UnknownElement { symbol, pos } => {
            at(pos, format!("{:?} is no element", shorten(symbol)))
        }
        SmilesError::UnmatchedRingClosure { ring_num, pos } => {
            at(pos, format!("ring {ring_num} is not closed"))
        }
        SmilesError::UnmatchedExtendedRingClosure { ring_num, pos } => {
            at(pos, format!("ring {ring_num} is not closed"))
        }
        SmilesError::MismatchedParentheses { pos } => {
            at(pos, "parentheses do not match".to_owned())
        }
        SmilesError::InvalidBracketAtom { detail, pos } => {
            at(pos, format!("bad bracket atom: {}", shorten(detail)))
        }
        SmilesError::ConflictingRingBond { ring_num, pos } => {
            at(pos, format!("ring {ring_num} has two different bonds"))
        }
        SmilesError::ConflictingExtendedRingBond { ring_num, pos } => {
            at(pos, format!("ring {ring_num} has two different bonds"))
        }
        SmilesError::NestingTooDeep { pos } => at(pos, "too many nested branches".to_owned()),
        SmilesError::UnexpectedCharacter { pos } => {
            let found = smiles.get(*pos..).and_then(|rest| rest.chars().next());
            at(
                pos,
                found.map_or_else(
                    || "unexpected end".to_owned(),
                    |character| format!("unexpected {character:?}"),
                ),
            )
        }
        SmilesError::UnsupportedChiralityClass { class, pos } => {
            at(pos, format!("unknown chirality class {:?}", shorten(class)))
        }
        SmilesError::InvalidValence {
            element,
            atom,
            valence,
            max,
        } => ChemError::Molecule {
            smiles: shorten(smiles),
            position: position::of_atom(smiles, *atom),
            reason: format!("{element} has valence {valence}, at most {max} is possible"),
        },
    }
}
