#![no_main]
//! SMILES.
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let featuriser = chemxor_chem::named("ecfp4-counts+descriptors");
    if let (Ok(text), Some(featuriser)) = (std::str::from_utf8(bytes), featuriser) {
        let result = chemxor_chem::featurise(&featuriser, text);
        assert!(!matches!(result, Err(chemxor_chem::ChemError::Internal { .. })));
    }
});
