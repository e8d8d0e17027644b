//! bash's line: where words begin and end, and what bash itself takes for a word.
//!
//! bash hands a completion its line, cut at the characters of `COMP_WORDBREAKS`, among them `=` and `:`. So
//! `--host=h` comes in three pieces and `fd80::1` in as many. The line is cut again here as a shell would cut it, and
//! of each answer only what follows the last such character is given back, because bash replaces only that.

/// The words of a line up to the cursor, the unfinished one last; it is empty after a blank.
pub(super) fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut is_open) = (Vec::new(), String::new(), false);
    let mut quote = None;
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (None, blank) if blank.is_whitespace() => {
                if is_open {
                    words.push(std::mem::take(&mut word));
                }
                is_open = false;
                continue;
            }
            (None, '"' | '\'') => quote = Some(character),
            (Some(open), closing) if open == closing => quote = None,
            (None | Some('"'), '\\') => word.extend(characters.next()),
            _ => word.push(character),
        }
        is_open = true;
    }
    words.push(word);
    words
}

/// What bash puts in place of the piece at the cursor.
pub(super) fn behind_the_last_break(word: &str) -> &str {
    word.rfind(['=', ':']).map_or(word, |at| &word[at + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_as_a_shell_cuts_it() {
        for (line, expected) in [
            ("calicoctl ", vec!["calicoctl", ""]),
            ("calicoctl  container we", vec!["calicoctl", "container", "we"]),
            ("calicoctl --host=h x", vec!["calicoctl", "--host=h", "x"]),
            ("calicoctl container a\\ b ip", vec!["calicoctl", "container", "a b", "ip"]),
            ("calicoctl get \"a 'b\" 'c \\d", vec!["calicoctl", "get", "a 'b", "c \\d"]),
            ("calicoctl '' ", vec!["calicoctl", "", ""]),
            ("", vec![""]),
        ] {
            assert_eq!(words(line), expected, "{line}");
        }
    }

    #[test]
    fn only_the_last_piece_is_replaced() {
        assert_eq!(behind_the_last_break("--host=host-1"), "host-1");
        assert_eq!(behind_the_last_break("fd80::1"), "1");
        assert_eq!(behind_the_last_break("web"), "web");
    }
}
