//! Why a molecule has no features. Every error names the input, cut to a printable length.

/// Characters of the input that an error repeats.
const SHOWN: usize = 80;

/// Why a SMILES or a featuriser was refused. Positions count characters from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChemError {
    /// Nothing but white space.
    #[error("the SMILES is empty")]
    Empty,
    /// Larger than any molecule that the featurisers are meant for.
    #[error("SMILES {smiles:?} has {got} {what}, at most {limit} are accepted")]
    TooLarge {
        /// The text, shortened.
        smiles: String,
        /// `bytes`, `atoms`, `rings` or `branches`.
        what: &'static str,
        /// How many it has.
        got: usize,
        /// How many it may have.
        limit: usize,
    },
    /// Not a SMILES.
    #[error("SMILES {smiles:?} cannot be read at position {position}: {reason}")]
    Syntax {
        /// The text, shortened.
        smiles: String,
        /// Character, from 1.
        position: usize,
        /// What is wrong there.
        reason: String,
    },
    /// A SMILES, but of no molecule: valence or aromaticity cannot be.
    #[error("SMILES {smiles:?} is no possible molecule{}: {reason}", at(*.position))]
    Molecule {
        /// The text, shortened.
        smiles: String,
        /// Character of the first atom concerned, from 1, where one can be named.
        position: Option<usize>,
        /// What is wrong with it.
        reason: String,
    },
    /// The chemistry code failed on it; a defect of ours, contained.
    #[error("SMILES {smiles:?} made the chemistry code fail; please report it")]
    Internal {
        /// The text, shortened.
        smiles: String,
    },
    /// A featuriser with parameters that this release does not compute.
    #[error(
        "featuriser parameter {what} = {value} is not supported; supported: {supported}; upgrade this program or train with a supported one"
    )]
    Featuriser {
        /// Which parameter.
        what: &'static str,
        /// Its value.
        value: u64,
        /// What is possible.
        supported: &'static str,
    },
}

fn at(position: Option<usize>) -> String {
    position.map_or_else(String::new, |position| {
        format!(" (atom at position {position})")
    })
}

/// The start of `smiles`, for an error.
pub(crate) fn shorten(smiles: &str) -> String {
    let mut shown: String = smiles.chars().take(SHOWN).collect();
    if smiles.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_inputs_are_cut_at_a_character() {
        assert_eq!(shorten("CCO"), "CCO");
        assert_eq!(shorten(&"é".repeat(100)).chars().count(), SHOWN + 1);
    }
}
