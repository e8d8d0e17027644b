//! `calicoctl completion`, and what the scripts that it prints call.

use std::ffi::OsString;

use clap::{Args, ValueEnum};

pub(super) const EXAMPLES: &str = "\
The script asks calicoctl itself for what may follow: words in the order in which they are typed, options, and the
names of containers, endpoints, profiles, pools and nodes as far as Docker and the datastore answer at once.

Examples:
  calicoctl completion bash > /etc/bash_completion.d/calicoctl
  calicoctl completion zsh > \"${fpath[1]}/_calicoctl\"
  calicoctl completion fish > ~/.config/fish/completions/calicoctl.fish";

pub(super) const COMPLETE_EXAMPLES: &str = "\
Examples:
  calicoctl __complete fish -- container web ip a";

/// The shells with completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CompletionShell {
    /// GNU bash.
    Bash,
    /// zsh.
    Zsh,
    /// fish.
    Fish,
}

/// What a shell asks: which words may stand where the cursor is?
#[derive(Debug, PartialEq, Args)]
pub(crate) struct Complete {
    /// The shell that asks
    #[arg(value_name = "SHELL", hide_possible_values = true)]
    pub(crate) shell: CompletionShell,
    /// The words behind `calicoctl`, the unfinished one last; from bash the line up to the cursor
    #[arg(last = true, value_name = "WORD")]
    pub(crate) words: Vec<OsString>,
}
