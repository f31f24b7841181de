//! What the integers of a model answer for molecules that everybody knows: the known answers that
//! the manifest states (docs/decisions/0022-known-answers.md).

use chemxor_core::{
    ExpectedCode, Featuriser, KnownAnswer, Standardisation, StepGraph, code_offset, widest,
};
use chemxor_fhe::network::StepWeights;
use chemxor_fhe::twin::{evaluate, stochastic};
use rand::RngExt;
use rayon::prelude::*;

use super::KNOWN;
use crate::split::generator;

/// Drugs, solvents, building blocks: none of the publisher's molecules.
const MOLECULES: [&str; 16] = [
    "CCO",
    "c1ccccc1",
    "CC(=O)Oc1ccccc1C(=O)O",
    "CN1C=NC2=C1C(=O)N(C(=O)N2C)C",
    "CC(C)Cc1ccc(cc1)C(C)C(=O)O",
    "CC(=O)Nc1ccc(O)cc1",
    "OC(=O)c1ccccc1O",
    "c1ccc2ccccc2c1",
    "CCN(CC)CC",
    "C1CCOC1",
    "ClC(Cl)Cl",
    "CS(=O)C",
    "Nc1ccc(cc1)S(=O)(=O)N",
    "OCC1OC(O)C(O)C(O)C1O",
    "CCCCCCCCCCCCCCCC(=O)O",
    "FC(F)(F)c1ccc(Br)cc1",
];
/// Runs of the twin for each molecule.
const DRAWS: usize = 64;
/// Standard deviations, and output codes beside them, that rounding explains: with 64 draws a right
/// model fails with a probability below one in a million for each output.
const ALLOWED: (f64, f64) = (6.0, 2.0);

/// One for each molecule that the featuriser reads and whose outputs rounding does not spread wider than
/// a known answer may be.
pub fn known_answers(
    standardisation: Standardisation,
    featuriser: &Featuriser,
    graph: &StepGraph,
    weights: &[StepWeights],
    seed: u64,
) -> Vec<KnownAnswer> {
    let indexed = MOLECULES.par_iter().enumerate();
    let answers = indexed.filter_map(|(number, smiles)| {
        let standard = chemxor_chem::standardise(standardisation, smiles).ok()?;
        let features = chemxor_chem::featurise(featuriser, &standard.smiles).ok()?;
        let mut rng = generator(seed ^ KNOWN, number as u64);
        let draws: Vec<Vec<u32>> = (0..DRAWS)
            .map(|_| {
                let carry = stochastic(|| rng.random::<f64>());
                evaluate(graph.steps(), weights, &features, carry)
            })
            .collect();
        let bits = graph.last().output_bits;
        let outputs = (0..graph.last().outputs as usize)
            .map(|output| expected(draws.iter().map(|draw| draw[output]), bits))
            .collect::<Option<_>>()?;
        Some(KnownAnswer {
            smiles: (*smiles).to_owned(),
            outputs,
        })
    });
    answers.collect()
}

/// Mean and spread of codes of so many bits, which wrap; none when the spread says nothing.
fn expected(mut drawn: impl Iterator<Item = u32> + Clone, bits: u8) -> Option<ExpectedCode> {
    let modulus = 1i64 << bits;
    let first = drawn.clone().next().unwrap_or_default();
    let offsets = drawn
        .clone()
        .map(|code| code_offset(code, first, bits) as f64);
    let count = drawn.by_ref().count().max(1) as f64;
    let mean = offsets.clone().sum::<f64>() / count;
    let variance = offsets.map(|offset| (offset - mean).powi(2)).sum::<f64>() / count;
    let code = (i64::from(first) + mean.round() as i64).rem_euclid(modulus);
    let within = (ALLOWED.0 * variance.sqrt() + ALLOWED.1).ceil() as u32;
    (within <= widest(bits)).then_some(ExpectedCode {
        code: code as u32,
        within,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_near_the_seam_have_their_mean_there() {
        let at = |codes: &[u32]| expected(codes.iter().copied(), 8);
        assert_eq!(at(&[7; 8]), Some(ExpectedCode { code: 7, within: 2 }));
        let seam = at(&[0, 1, 255, 0, 254, 0]).unwrap();
        assert!(seam.code == 0 && seam.within > 2, "{seam:?}");
        let below = at(&[1, 253, 253, 253]).unwrap();
        assert_eq!(below.code, 254);
        // of a spread over everything nothing can be expected
        assert_eq!(at(&[0, 64, 192, 127, 130]), None);
    }
}
