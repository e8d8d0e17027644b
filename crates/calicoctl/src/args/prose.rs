//! Explanations that fit every terminal.
//!
//! What stands below the options of a help page is written in lines, as source code is. A terminal that is narrower
//! than those lines would break each of them once more. So sentences are joined to paragraphs here, and the parser
//! breaks them to the width that there is; what is indented (examples, tables) and headings keep their lines.

use clap::Command;

/// The same tree with explanations in paragraphs.
pub(super) fn flowing(command: Command) -> Command {
    let text = command.get_after_help().map(|text| paragraphs(&text.to_string()));
    let command = match text {
        Some(text) => command.after_help(text),
        None => command,
    };
    let below: Vec<String> = command.get_subcommands().map(|below| below.get_name().to_owned()).collect();
    below.into_iter().fold(command, |command, name| command.mut_subcommand(name, flowing))
}

/// Joins lines of one paragraph.
pub(super) fn paragraphs(text: &str) -> String {
    let mut joined = String::new();
    let mut goes_on = false;
    for line in text.lines() {
        if goes_on && is_prose(line) {
            joined.push(' ');
        } else if !joined.is_empty() {
            joined.push('\n');
        }
        joined.push_str(line);
        goes_on = is_prose(line);
    }
    joined
}

/// Part of a sentence: neither empty nor indented, and no heading.
pub(crate) fn is_prose(line: &str) -> bool {
    let is_heading = line.ends_with(':') && line.split_whitespace().count() <= 3;
    !line.is_empty() && !line.starts_with(char::is_whitespace) && !is_heading
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_are_joined_and_all_else_keeps_its_lines() {
        let text =
            "One sentence\ngoes on right here:\nand ends.\n\nAnother.\nForms (-o):\n  a  b\n\nExamples:\n  calicoctl x";
        let expected =
            "One sentence goes on right here: and ends.\n\nAnother.\nForms (-o):\n  a  b\n\nExamples:\n  calicoctl x";
        assert_eq!(paragraphs(text), expected);
    }
}
