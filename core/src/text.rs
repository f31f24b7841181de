//! Texts that people write and other people read: cards, notes, names.

/// Whether a character shows as itself. Control characters, and those that show as nothing or change the
/// direction of what stands beside them, let a text read otherwise than it is (Unicode TR 36, section
/// 2.10; CVE-2021-42574).
pub fn is_visible(c: char) -> bool {
    let hidden = matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{feff}'
        | '\u{200b}'..='\u{200f}' // zero width, marks of direction
        | '\u{2028}'..='\u{202e}' // separators, embeddings and overrides
        | '\u{2060}'..='\u{206f}' // word joiner, invisible operators, isolates
        | '\u{fff9}'..='\u{fffb}' // interlinear annotation
        | '\u{e0000}'..='\u{e007f}' // tags
    );
    !c.is_control() && !hidden
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_reads_otherwise_than_it_is_is_found() {
        let shown = "Löslichkeit (log mol/L), pKₐ, 溶解度, αβγ, naïve – “x” 🙂";
        assert!(shown.chars().all(is_visible));
        for hidden in [
            "approved\u{202e}ton",
            "a\u{200b}b",
            "a\u{2066}b",
            "x\u{feff}",
            "\u{ad}",
            "a\nb",
            "\u{7f}",
            "\u{e0041}",
            "a\u{2028}b",
        ] {
            assert!(!hidden.chars().all(is_visible), "{hidden:?}");
        }
    }
}
