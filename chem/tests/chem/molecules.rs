//! What is refused, with position and reason, and what odd spellings are read, as RDKit does.

use chemxor_chem::{ChemError, featurise, named};

#[test]
fn impossible_molecules_are_refused_with_position_and_reason() {
    let bits = named("ecfp4-bits").unwrap();
    for (smiles, position) in [
        ("CC(C)(C)(C)C", 2), // five bonds at carbon
        ("CN(C)(C)C", 2),    // four at a neutral nitrogen
        ("CO(C)C", 2),       // three at a neutral oxygen
        ("CF(C)", 2),        // two at fluorine
        ("C#C#C", 3),        // six at carbon
        ("c1cccc1", 1),      // five aromatic carbons
        ("c1ccnc1", 1),      // pyrrole without its hydrogen
        ("c1ccccc1=O", 7),   // exocyclic double bond on a benzene
    ] {
        match featurise(&bits, smiles) {
            Err(ChemError::Molecule {
                position: found,
                reason,
                ..
            }) => {
                assert!(found.is_some(), "{smiles}: {reason}");
                if smiles.starts_with('C') {
                    assert_eq!(found, Some(position), "{smiles}: {reason}");
                }
            }
            other => panic!("{smiles}: {other:?}"),
        }
    }
    for smiles in [
        "C1CC", "CC(", "CC)", "C((C))(", "[C", "C]", "C%1", "CX", "[Xx]", "C=1CCC#1", "()",
        "C..C(", "C=", "1CC1", "[]",
    ] {
        assert!(
            matches!(featurise(&bits, smiles), Err(ref e) if !e.to_string().is_empty()),
            "{smiles} was accepted"
        );
    }
}

#[test]
fn odd_spellings_that_rdkit_reads_are_read() {
    let bits = named("ecfp4-bits").unwrap();
    for smiles in [
        "[NH4+].[Cl-]",
        "C%10CCCC%10",
        "C0CC0",
        "[13CH4]",
        "[2H]C([2H])[2H]",
        "F/C=C/F",
        "N[C@@H](C)C(=O)O",
        "C[N+](=O)[O-]",
        "CN(=O)=O",
        "c1cc[nH]c1",
        "c1ccc2ccccc2c1",
        "[H][H]",
        "*C",
        "[CH3:1][OH:2]",
        "S(F)(F)(F)(F)(F)F",
        "O=Cl(=O)(=O)O",
        "[Fe+2]",
        "c1ccsc1",
        "[se]1cccc1",
        "C1=CC=CC=C1",
    ] {
        let result = featurise(&bits, smiles);
        assert!(result.is_ok(), "{smiles}: {result:?}");
    }
}
