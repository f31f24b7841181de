//! What may follow what in a SMILES outside brackets. The parser of the chemistry crate reads over some
//! mistakes that RDKit's grammar refuses (an empty branch, a bond that leads nowhere, a chirality
//! mark without brackets, an atom bonded to itself), and what is read over would be lost without a
//! word.

use std::collections::HashMap;

/// What stood before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Start,
    Atom,
    Bond,
    Ring,
    Open,
    Close,
    Dot,
}

/// Byte and reason of the first mistake.
pub(crate) fn check(smiles: &str) -> Result<(), (usize, &'static str)> {
    use Before::{Atom, Bond, Close, Dot, Open, Ring, Start};
    let bytes = smiles.as_bytes();
    let mut before = Start;
    let mut bond_at = 0;
    // number of the atom that opened a ring; atoms are counted, rings close in any order
    let mut open_rings: HashMap<u32, usize> = HashMap::new();
    let mut atom = 0usize;
    let mut atoms_before_branch: Vec<usize> = Vec::new();
    let mut next_atom = 0usize;
    let mut at = 0;
    while at < bytes.len() {
        let here = at;
        let complete = matches!(before, Atom | Ring | Close);
        match bytes[at] {
            b'[' => {
                // an unclosed bracket is the parser's to report
                at += bytes[at..].iter().position(|b| *b == b']').unwrap_or(0);
                (before, atom) = (Atom, next_atom);
                next_atom += 1;
            }
            b'(' => {
                if !complete {
                    return Err((here, "a branch must follow an atom"));
                }
                atoms_before_branch.push(atom);
                before = Open;
            }
            b')' => {
                match before {
                    Open => return Err((here, "the branch is empty")),
                    Bond => return Err((bond_at, "the bond leads nowhere")),
                    Dot | Start => return Err((here, "an atom is missing")),
                    Atom | Ring | Close => {}
                }
                // parentheses that do not match are the parser's to report
                atom = atoms_before_branch.pop().unwrap_or(atom);
                before = Close;
            }
            b'.' => {
                if !complete {
                    return Err((here, "a part of the molecule is empty"));
                }
                before = Dot;
            }
            b'-' if bytes.get(at + 1) == Some(&b'>') => {
                at += 1;
                (before, bond_at) = (Bond, here);
            }
            b'-' | b'=' | b'#' | b'$' | b':' | b'/' | b'\\' | b'~' => {
                if !complete && before != Open {
                    return Err((here, "a bond must follow an atom"));
                }
                (before, bond_at) = (Bond, here);
            }
            b'@' => return Err((here, "chirality must stand in brackets")),
            b'0'..=b'9' | b'%' => {
                if !(complete || before == Bond) {
                    return Err((here, "a ring closure must follow an atom"));
                }
                let (number, length) = ring_number(&bytes[at..]);
                at += length - 1;
                match open_rings.remove(&number) {
                    Some(other) if other == atom => {
                        return Err((here, "a ring closure joins an atom with itself"));
                    }
                    Some(_) => {}
                    None => {
                        open_rings.insert(number, atom);
                    }
                }
                before = Ring;
            }
            first => {
                // the second letter of Cl and Br is no atom of its own
                let pair = (first, bytes.get(at + 1));
                if matches!(pair, (b'C', Some(b'l')) | (b'B', Some(b'r'))) {
                    at += 1;
                }
                (before, atom) = (Atom, next_atom);
                next_atom += 1;
            }
        }
        at += 1;
    }
    match before {
        Bond => Err((bond_at, "the bond leads nowhere")),
        Dot => Err((bytes.len() - 1, "a part of the molecule is empty")),
        Start | Atom | Ring | Open | Close => Ok(()),
    }
}

/// Number and length of `7`, `%12` or `%(123)`.
fn ring_number(bytes: &[u8]) -> (u32, usize) {
    let digits = |from: usize, most: usize| {
        let found = bytes.iter().skip(from).take(most);
        let found = found.take_while(|b| b.is_ascii_digit());
        found.fold((0u32, 0usize), |(value, count), digit| {
            (value * 10 + u32::from(digit - b'0'), count + 1)
        })
    };
    match bytes {
        [b'%', b'(', ..] => {
            let (value, count) = digits(2, 5);
            (value, count + 3)
        }
        [b'%', ..] => {
            let (value, count) = digits(1, 2);
            (value, count + 1)
        }
        _ => (digits(0, 1).0, 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_found_where_they_are() {
        for (smiles, at) in [
            ("CC()C", 3),
            ("CC(=)C", 3),
            ("C@C", 1),
            ("CC.", 2),
            (".CC", 0),
            ("C\\(Cl)C", 2),
            ("C11", 2),
            ("C%12%12", 4),
            ("C(1CC1)", 2),
            ("C==C", 2),
            ("CC=", 2),
            ("((C))", 0),
        ] {
            assert_eq!(check(smiles).map_err(|(at, _)| at), Err(at), "{smiles}");
        }
        for smiles in [
            "C1CC1",
            "C(C)1CC1",
            "C=1CCC1",
            "C12CC1C2",
            "C(=O)(O)C",
            "[C@H](F)(Cl)Br",
            "C(C1)C1",
        ] {
            assert_eq!(check(smiles), Ok(()), "{smiles}");
        }
    }
}
