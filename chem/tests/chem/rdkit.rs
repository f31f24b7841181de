//! Acceptance: ECFP4-2048 bits and counts equal RDKit 2026.09.1's on every reference molecule.

use chemxor_chem::{ChemError, DESCRIPTOR_NAMES, FEATURISER_NAMES, descriptors, featurise, named};
use chemxor_core::Featuriser;

const COUNTS: Featuriser = Featuriser::EcfpCounts {
    version: 1,
    radius: 2,
    size: 2048,
    max_count: u16::MAX,
};
const BITS: Featuriser = Featuriser::EcfpBits {
    version: 1,
    radius: 2,
    size: 2048,
};

/// `CHEMXOR_RDKIT_REFERENCE` names a larger file with the same columns.
fn reference() -> Vec<(String, String, String)> {
    let path = std::env::var("CHEMXOR_RDKIT_REFERENCE").unwrap_or_else(|_| {
        concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/rdkit_ecfp4.csv").into()
    });
    let mut reader = csv::Reader::from_path(path).unwrap();
    let headers = reader.headers().unwrap().clone();
    let column = |name: &str| headers.iter().position(|h| h == name).unwrap();
    let columns = ["smiles", "ecfp4_2048_onbits", "ecfp4_2048_counts"].map(column);
    reader
        .records()
        .map(|row| {
            let row = row.unwrap();
            let [smiles, bits, counts] = columns.map(|c| row[c].to_owned());
            (smiles, bits, counts)
        })
        .collect()
}

#[test]
fn bits_and_counts_equal_rdkit() {
    let rows = reference();
    assert!(rows.len() >= 100);
    for (smiles, bits, counts) in rows {
        let got = featurise(&COUNTS, &smiles).unwrap();
        let on = |features: &[u16]| -> Vec<usize> {
            (0..features.len()).filter(|i| features[*i] > 0).collect()
        };
        let shown: Vec<String> = on(&got)
            .iter()
            .map(|i| format!("{i}:{}", got[*i]))
            .collect();
        assert_eq!(shown.join(" "), counts, "{smiles}");
        let got = featurise(&BITS, &smiles).unwrap();
        assert!(got.iter().all(|bit| *bit <= 1));
        let shown: Vec<String> = on(&got).iter().map(ToString::to_string).collect();
        assert_eq!(shown.join(" "), bits, "{smiles}");
    }
}

#[test]
fn counts_are_clipped() {
    let clipped = Featuriser::EcfpCounts {
        version: 1,
        radius: 2,
        size: 2048,
        max_count: 7,
    };
    let features = featurise(&clipped, "CCCCCCCCCCCCCCCCCCCCCC").unwrap();
    assert_eq!(features.iter().max(), Some(&7));
}

#[test]
fn bad_smiles_name_position_and_reason() {
    let text = |smiles: &str| featurise(&BITS, smiles).unwrap_err().to_string();
    assert_eq!(featurise(&BITS, " \t"), Err(ChemError::Empty));
    assert_eq!(
        text("CC(C"),
        "SMILES \"CC(C\" cannot be read at position 5: parentheses do not match"
    );
    assert_eq!(
        text("CC!O"),
        "SMILES \"CC!O\" cannot be read at position 3: unexpected '!'"
    );
    assert_eq!(
        text("CCé"),
        "SMILES \"CCé\" cannot be read at position 3: unexpected 'é'"
    );
    assert!(matches!(
        featurise(&BITS, "C1CC"),
        Err(ChemError::Syntax { reason, .. }) if reason == "ring 1 is not closed"
    ));
    // carbon with five bonds: the parser takes it, RDKit does not
    assert!(matches!(
        featurise(&BITS, "ClC(C)(C)(C)C"),
        Err(ChemError::Molecule {
            position: Some(3),
            ..
        })
    ));
    assert!(matches!(
        featurise(&BITS, "c1cccc1"),
        Err(ChemError::Molecule {
            position: Some(1),
            ..
        })
    ));
    assert!(matches!(
        featurise(&BITS, "CCO ethanol"),
        Err(ChemError::Syntax { position: 4, .. })
    ));
}

#[test]
fn oversized_input_is_refused_before_any_work() {
    let started = std::time::Instant::now();
    for text in [
        "C".repeat(1001),
        "c1ccccc1".repeat(200),
        "(".repeat(5000),
        "CC.".repeat(1 << 20),
    ] {
        assert!(featurise(&BITS, &text).is_err());
    }
    assert!(started.elapsed().as_secs() < 5);
    let Err(ChemError::TooLarge {
        smiles,
        what: "bytes",
        got: 5000,
        ..
    }) = featurise(&BITS, &"C".repeat(5000))
    else {
        panic!("expected a size error")
    };
    assert!(smiles.chars().count() < 100);
}

#[test]
fn unknown_featurisers_are_refused() {
    let odd = Featuriser::EcfpBits {
        version: 1,
        radius: 2,
        size: 1000,
    };
    assert!(matches!(
        featurise(&odd, "C"),
        Err(ChemError::Featuriser { what: "size", .. })
    ));
    let newer = Featuriser::EcfpBits {
        version: 2,
        radius: 2,
        size: 1024,
    };
    assert!(matches!(
        featurise(&newer, "C"),
        Err(ChemError::Featuriser {
            what: "version",
            ..
        })
    ));
}

/// `(smiles, FCFP6-1024 counts, descriptors)` of RDKit 2026.09.1.
fn values() -> Vec<(String, String, Vec<f64>)> {
    let path = std::env::var("CHEMXOR_RDKIT_REFERENCE").unwrap_or_else(|_| {
        concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/rdkit_values.csv").into()
    });
    let mut reader = csv::Reader::from_path(path).unwrap();
    let headers = reader.headers().unwrap().clone();
    let column = |name: &str| headers.iter().position(|h| h == name).unwrap();
    let (smiles, fcfp) = (column("smiles"), column("fcfp6_1024_counts"));
    let descriptors = DESCRIPTOR_NAMES.map(column);
    reader
        .records()
        .map(|row| {
            let row = row.unwrap();
            let values = descriptors.map(|at| row[at].parse().unwrap()).to_vec();
            (row[smiles].to_owned(), row[fcfp].to_owned(), values)
        })
        .collect()
}

/// At least 99.9 % of `rows` agree; the others are named.
fn require_agreement(rows: usize, differing: &[String]) {
    assert!(rows >= 100);
    assert!(
        differing.len() * 1000 <= rows,
        "{} of {rows} differ:\n{}",
        differing.len(),
        differing.join("\n")
    );
}

#[test]
fn fcfp6_counts_equal_rdkit() {
    let featuriser = Featuriser::FcfpCounts {
        version: 1,
        radius: 3,
        size: 1024,
        max_count: u16::MAX,
    };
    let rows = values();
    let differing: Vec<String> = rows
        .iter()
        .filter_map(|(smiles, counts, _)| {
            let got = featurise(&featuriser, smiles).unwrap();
            let shown: Vec<String> = (0..got.len())
                .filter(|i| got[*i] > 0)
                .map(|i| format!("{i}:{}", got[i]))
                .collect();
            (shown.join(" ") != *counts)
                .then(|| format!("{smiles}\n  RDKit {counts}\n  ours  {}", shown.join(" ")))
        })
        .collect();
    require_agreement(rows.len(), &differing);
}

#[test]
fn descriptors_equal_rdkit() {
    let rows = values();
    for (at, name) in DESCRIPTOR_NAMES.iter().enumerate() {
        let differing: Vec<String> = rows
            .iter()
            .filter_map(|(smiles, _, expected)| {
                let got = descriptors(smiles).unwrap().values()[at];
                ((got - expected[at]).abs() > 1e-3)
                    .then(|| format!("{name} {smiles}: RDKit {}, ours {got}", expected[at]))
            })
            .collect();
        require_agreement(rows.len(), &differing);
    }
}

#[test]
fn every_named_featuriser_keeps_its_length_and_range() {
    for name in FEATURISER_NAMES {
        let featuriser = named(name).unwrap();
        let features = featurise(&featuriser, "CC(=O)Oc1ccccc1C(=O)O").unwrap();
        assert_eq!(features.len(), featuriser.len(), "{name}");
        assert!(features.iter().any(|value| *value > 0), "{name}");
        assert!(
            features
                .iter()
                .all(|value| *value <= featuriser.max_value())
        );
    }
    assert_eq!(named("ecfp5"), None);
}
