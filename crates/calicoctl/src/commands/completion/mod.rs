//! Completion: which words may stand where the cursor is.
//!
//! The scripts for the shells hold no words. They ask `calicoctl __complete`, so that they fit whatever version is
//! installed, know the order in which people type (`container web ip add`, where the name stands before the verb),
//! and can offer names that exist. [`tree`] reads what was typed so far, [`names`] asks Docker and the datastore,
//! [`line`] cuts bash's line into words.
//!
//! A shell waits for the answer with every press of TAB: nothing here takes longer than [`PATIENCE`], nothing is
//! said on standard error, and where nothing is known nothing is offered.

mod line;
mod names;
#[cfg(test)]
mod tests;
mod tree;

use std::time::Duration;

use crate::{
    args::{Complete, CompletionShell},
    context::Context,
    failure::Failure,
    output::Output,
};
use tree::{Asked, Candidate, Names};

/// How long Docker and the datastore may take together.
const PATIENCE: Duration = Duration::from_millis(1500);

/// The words that tell a script to complete names of files or of folders itself.
const FILES: &str = ":files";
const FOLDERS: &str = ":folders";

/// `completion`
pub(crate) fn script(shell: CompletionShell) -> Output {
    let script = match shell {
        CompletionShell::Bash => include_str!("calicoctl.bash"),
        CompletionShell::Zsh => include_str!("calicoctl.zsh"),
        CompletionShell::Fish => include_str!("calicoctl.fish"),
    };
    Output::of(script.to_owned(), serde_json::Value::from(script))
}

/// `__complete`
pub(crate) async fn candidates(connected: Result<&Context, &Failure>, args: &Complete) -> Output {
    let typed = args.words.iter().map(|word| word.to_string_lossy().into_owned());
    let words: Vec<String> = match args.shell {
        CompletionShell::Bash => line::words(&typed.collect::<Vec<_>>().join(" ")).into_iter().skip(1).collect(),
        CompletionShell::Zsh | CompletionShell::Fish => typed.collect(),
    };
    let (current, before) = words.split_last().map_or(("", &[][..]), |(last, rest)| (last.as_str(), rest));
    let mut asked = tree::ask(&crate::args::tree(), before, current);
    match (&asked.names, connected) {
        (Some(Names::Files), _) => return lines([FILES.to_owned()]),
        (Some(Names::Folders), _) => return lines([FOLDERS.to_owned()]),
        (Some(Names::Of(wanted)), Ok(ctx)) => {
            let found = tokio::time::timeout(PATIENCE, names::find(ctx, wanted)).await.unwrap_or_default();
            asked.candidates.extend(found.into_iter().map(Candidate::name));
        }
        _ => {}
    }
    lines(answer(args.shell, &asked))
}

fn lines(lines: impl IntoIterator<Item = String>) -> Output {
    let text: String = lines.into_iter().map(|line| format!("{line}\n")).collect();
    let data = serde_json::Value::from(text.as_str());
    Output::of(text, data)
}

/// The candidates that begin as what was typed, each in the shell's own form.
fn answer(shell: CompletionShell, asked: &Asked) -> Vec<String> {
    // Names come from Docker and the datastore: one with a line feed or an escape would be taken for something else.
    let plain = |candidate: &&Candidate| !candidate.word.chars().any(char::is_control);
    let fits = |candidate: &&Candidate| candidate.word.starts_with(&asked.typed);
    let mut found: Vec<&Candidate> = asked.candidates.iter().filter(plain).filter(fits).collect();
    found.sort_by(|a, b| a.word.cmp(&b.word));
    found.dedup_by(|a, b| a.word == b.word);
    found.into_iter().map(|candidate| form(shell, &asked.lead, candidate)).collect()
}

fn form(shell: CompletionShell, lead: &str, candidate: &Candidate) -> String {
    let word = format!("{lead}{}", candidate.word);
    match (shell, candidate.about.as_str()) {
        (CompletionShell::Bash, _) => line::behind_the_last_break(&word).to_owned(),
        (CompletionShell::Zsh, "") => word.replace(':', "\\:"),
        (CompletionShell::Zsh, about) => format!("{}:{about}", word.replace(':', "\\:")),
        (CompletionShell::Fish, "") => word,
        (CompletionShell::Fish, about) => format!("{word}\t{about}"),
    }
}
