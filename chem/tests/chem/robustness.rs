//! No text makes the featuriser panic, hang, or leave its range.

use chemxor_chem::{ChemError, featurise};
use chemxor_core::Featuriser;
use proptest::prelude::*;

const COUNTS: Featuriser = Featuriser::EcfpCounts {
    version: 1,
    radius: 2,
    size: 2048,
    max_count: 7,
};

const SEEDS: [&str; 6] = [
    "CC(=O)Oc1ccccc1C(=O)O",
    "CN1C=NC2=C1C(=O)N(C(=O)N2C)C",
    "C[C@@H](C(=O)O)N",
    "[Na+].[Cl-]",
    "C/C=C\\C%12CCC%12",
    "O=S(=O)(c1ccc2[nH]ccc2c1)N1CCOCC1",
];

fn check(text: &str) -> Result<(), TestCaseError> {
    match featurise(&COUNTS, text) {
        Ok(features) => {
            prop_assert_eq!(features.len(), 2048);
            prop_assert!(features.iter().all(|count| *count <= 7));
        }
        Err(ChemError::Internal { smiles }) => prop_assert!(false, "panicked on {smiles:?}"),
        Err(error) => prop_assert!(!error.to_string().is_empty()),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_text(text in any::<String>()) {
        check(&text)?;
    }

    #[test]
    fn smiles_alphabet(text in "[CNOSPFIBclnosp0-9()=#%\\[\\]@+H./\\\\*:$-]{0,60}") {
        check(&text)?;
    }

    #[test]
    fn mutated_molecules(
        seed in proptest::sample::select(&SEEDS),
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), "[CNOcnos1-3()=#\\[\\]+-]"), 1..6),
    ) {
        let mut text: Vec<char> = seed.chars().collect();
        for (at, with) in edits {
            let at = at.index(text.len());
            text[at] = with.chars().next().unwrap();
        }
        check(&text.into_iter().collect::<String>())?;
    }
}
