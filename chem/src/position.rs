//! Where in a SMILES an atom stands. The chemistry crate numbers atoms in the order of the text;
//! people look for them by position.

/// Character position, from 1, of atom `index` (from 0) of a text that parsed as SMILES.
pub(crate) fn of_atom(smiles: &str, index: usize) -> Option<usize> {
    let mut characters = smiles.chars().enumerate().peekable();
    let mut atom = 0;
    while let Some((position, character)) = characters.next() {
        let is_atom = match character {
            '[' => {
                characters.by_ref().find(|(_, c)| *c == ']');
                true
            }
            // %nn: a ring label, not an atom; the digits are skipped below as no letters
            'B' | 'C' => {
                let second = if character == 'B' { 'r' } else { 'l' };
                characters.next_if(|(_, c)| *c == second);
                true
            }
            'N' | 'O' | 'P' | 'S' | 'F' | 'I' | '*' => true,
            'b' | 'c' | 'n' | 'o' | 'p' | 's' => true,
            _ => false,
        };
        if is_atom {
            if atom == index {
                return Some(position + 1);
            }
            atom += 1;
        }
    }
    None
}

/// Character position, from 1, of byte `offset`.
pub(crate) fn of_byte(smiles: &str, offset: usize) -> usize {
    smiles
        .char_indices()
        .take_while(|(at, _)| *at < offset)
        .count()
        + 1
}

/// The first whole number in a message such as `… atom # 3 N, 5, …`: the atom it speaks of.
pub(crate) fn atom_in(message: &str) -> Option<usize> {
    message
        .split(|c: char| !c.is_ascii_digit())
        .find(|digits| !digits.is_empty())
        .and_then(|digits| digits.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn atoms_are_found_through_brackets_and_two_letter_symbols() {
        let smiles = "Cl[C@@H](Br)%12c1ccccc1";
        assert_eq!(
            [0, 1, 2, 3].map(|i| of_atom(smiles, i)),
            [Some(1), Some(3), Some(10), Some(16)]
        );
        assert_eq!(of_atom("CC", 2), None);
    }

    #[test]
    fn messages_name_their_atom() {
        assert_eq!(
            atom_in("Explicit valence for atom # 12 N, 5, is greater"),
            Some(12)
        );
        assert_eq!(
            atom_in("Can't kekulize mol.  Unkekulized atoms: 3 4"),
            Some(3)
        );
        assert_eq!(atom_in("no atom"), None);
    }
}
