//! Morgan fingerprints on feature classes (FCFP). The chemistry crate has its own classes and hash;
//! these are RDKit's default feature definitions (licence: `NOTICE-RDKit.txt`), so that the counts
//! are RDKit's.

use std::collections::{HashMap, HashSet};

use chematic::core::{AtomIdx, BondIdx, BondOrder, Molecule};
use chematic::fp::RdkitMorganRadius;
use chematic::perception::apply_aromaticity_rdkit_parity_shared;
use chematic::smarts::{MatchConfig, QueryMolecule, find_matches_with_config, parse_smarts};

/// RDKit's feature definitions; class k sets bit k of an atom's invariant. Donor, acceptor,
/// aromatic, halogen, basic, acidic.
const CLASSES: [&str; 6] = [
    "[$([N;!H0;v3,v4&+1]),$([O,S;H1;+0]),n&H1&+0]",
    "[$([O,S;H1;v2;!$(*-*=[O,N,P,S])]),$([O,S;H0;v2]),$([O,S;-]),$([N;v3;!$(N-*=[O,N,P,S])]),n&H0&+0,$([o,s;+0;!$([o,s]:n);!$([o,s]:c:n)])]",
    "[a]",
    "[F,Cl,Br,I]",
    "[#7;+,$([N;H2&+0][$([C,a]);!$([C,a](=O))]),$([N;H1&+0]([$([C,a]);!$([C,a](=O))])[$([C,a]);!$([C,a](=O))]),$([N;H0&+0]([C;!$(C(=O))])([C;!$(C(=O))])[C;!$(C(=O))])]",
    "[$([C,S](=[O,S,P])-[O;H1,-1])]",
];

thread_local! {
    // one set of compiled patterns for each thread
    static QUERIES: Result<Vec<QueryMolecule>, String> = CLASSES
        .iter()
        .map(|smarts| parse_smarts(smarts).map_err(|error| format!("{error:?}")))
        .collect();
}

/// `(index, count)` of the environments up to `radius` bonds, folded to `size`.
pub(crate) fn counts(
    molecule: &Molecule,
    radius: RdkitMorganRadius,
    size: usize,
) -> Result<Vec<(usize, u32)>, String> {
    let suppressed = chematic::smiles::rdkit_hydrogen_suppressed(molecule);
    let molecule = suppressed.as_ref().unwrap_or(molecule);
    let view = apply_aromaticity_rdkit_parity_shared(molecule);
    let molecule = view.as_ref().as_ref().map_err(ToString::to_string)?;
    let radius = match radius {
        RdkitMorganRadius::R0 => 0,
        RdkitMorganRadius::R1 => 1,
        RdkitMorganRadius::R2 => 2,
        RdkitMorganRadius::R3 => 3,
    };
    let mut counts: HashMap<usize, u32> = HashMap::new();
    for identifier in environments(molecule, classes(molecule)?, radius)? {
        *counts.entry(identifier as usize % size).or_insert(0) += 1;
    }
    Ok(counts.into_iter().collect())
}

fn classes(molecule: &Molecule) -> Result<Vec<u32>, String> {
    let mut classes = vec![0u32; molecule.atom_count()];
    QUERIES.with(|queries| {
        for (bit, query) in queries.as_ref().map_err(Clone::clone)?.iter().enumerate() {
            for found in find_matches_with_config(query, molecule, &MatchConfig::default()) {
                for AtomIdx(atom) in found.values() {
                    classes[*atom as usize] |= 1 << bit;
                }
            }
        }
        Ok(classes)
    })
}

/// Identifiers of all environments that are no repetition of a smaller or earlier one (Rogers and
/// Hahn 2010, with RDKit's hash and its order among equal environments).
fn environments(
    molecule: &Molecule,
    mut identifiers: Vec<u32>,
    radius: u32,
) -> Result<Vec<u32>, String> {
    let atoms = molecule.atom_count();
    let mut neighbours: Vec<Vec<(usize, usize, u32)>> = vec![Vec::new(); atoms];
    for (BondIdx(at), bond) in molecule.bonds() {
        let (a, b) = (bond.atom1.0 as usize, bond.atom2.0 as usize);
        let kind = bond_kind(bond.order).ok_or("a bond of unknown kind")?;
        neighbours[a].push((at as usize, b, kind));
        neighbours[b].push((at as usize, a, kind));
    }
    let words = molecule.bond_count().div_ceil(64);
    let mut covered: Vec<Vec<u64>> = vec![vec![0; words]; atoms];
    let mut ended: Vec<bool> = neighbours.iter().map(Vec::is_empty).collect();
    let mut seen: HashSet<Vec<u64>> = HashSet::new();
    let mut found = identifiers.clone();
    for layer in 0..radius {
        let mut round = Vec::new();
        let mut next = identifiers.clone();
        let mut wider = covered.clone();
        for atom in (0..atoms).filter(|atom| !ended[*atom]) {
            let mut around: Vec<(u32, u32)> = Vec::new();
            for (bond, other, kind) in &neighbours[atom] {
                wider[atom][bond / 64] |= 1 << (bond % 64);
                for (word, more) in wider[atom].iter_mut().zip(&covered[*other]) {
                    *word |= more;
                }
                around.push((*kind, identifiers[*other]));
            }
            around.sort_unstable();
            let mut hash = combine(layer, identifiers[atom]);
            for (kind, identifier) in around {
                hash = combine(hash, combine(combine(0, kind), identifier));
            }
            next[atom] = hash;
            round.push((hash, atom));
        }
        // among equal environments of a layer the smallest identifier stands for all
        round.sort_unstable();
        for (hash, atom) in round {
            if seen.insert(wider[atom].clone()) {
                found.push(hash);
            } else {
                ended[atom] = true;
            }
        }
        identifiers = next;
        covered = wider;
    }
    Ok(found)
}

/// The 32-bit mixing step of RDKit's hash.
fn combine(seed: u32, value: u32) -> u32 {
    let mixed = value
        .wrapping_add(0x9e37_79b9)
        .wrapping_add(seed << 6)
        .wrapping_add(seed >> 2);
    seed ^ mixed
}

/// RDKit's number of a bond kind.
fn bond_kind(order: BondOrder) -> Option<u32> {
    Some(match order {
        BondOrder::Single | BondOrder::Up | BondOrder::Down => 1,
        BondOrder::Double => 2,
        BondOrder::Triple => 3,
        BondOrder::Quadruple => 4,
        BondOrder::Aromatic => 12,
        BondOrder::Zero => 21,
        BondOrder::Dative => 17,
        _ => return None,
    })
}
