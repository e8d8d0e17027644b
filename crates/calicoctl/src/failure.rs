//! What a command says when it does not succeed, and the process's exit code.
//!
//! A failure is words for a person: the thing that failed, what caused it, and the way out. Lower layers hand over
//! typed errors; the conversions here add the hint that only the edge can give. Printed on stderr as
//!
//! ```text
//! error: IP address is already assigned in pool 192.168.0.0/16.
//!   cause: 192.168.0.1 belongs to container 4f2a70c1d39e on host-1
//! hint: choose another address, or leave it out to get a free one
//! ```

use std::{error::Error, fmt, process::ExitCode};

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All done, and the classic soft refusals that scripts rely on being 0.
    Done,
    /// The command failed; nothing was changed, or what was changed is named.
    Failed,
    /// Not understood, or not allowed: bad words on the command line, or not root.
    Usage,
    /// `plan`: verdicts would change.
    Changes,
    /// `why`: the traffic is denied.
    Denied,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Done => Self::SUCCESS,
            Exit::Failed => Self::from(1),
            Exit::Usage | Exit::Changes => Self::from(2),
            Exit::Denied => Self::from(3),
        }
    }
}

/// A failed command, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    messages: Vec<String>,
    causes: Vec<String>,
    hints: Vec<String>,
    exit: Exit,
    /// The datastore does not answer, so whatever needs it would fail in the same way.
    is_outage: bool,
}

impl Failure {
    /// A failure that says `message`.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            messages: vec![message.into()],
            causes: Vec::new(),
            hints: Vec::new(),
            exit: Exit::Failed,
            is_outage: false,
        }
    }

    /// Several faults found at once, each on its line; `messages` must not be empty.
    pub(crate) fn all(messages: Vec<String>) -> Self {
        Self { messages, causes: Vec::new(), hints: Vec::new(), exit: Exit::Failed, is_outage: false }
    }

    /// The refusal for a command that needs root.
    pub(crate) fn not_root() -> Self {
        let mut failure = Self::new("This command must be run as root.").hint("run it again with sudo -E, or as root");
        failure.exit = Exit::Usage;
        failure
    }

    /// The same, for words on the command line that are not understood.
    pub(crate) fn not_understood(mut self) -> Self {
        self.exit = Exit::Usage;
        self
    }

    /// The command was interrupted, and what it had begun has been undone.
    pub(crate) fn aborted() -> Self {
        Self::new("Aborted command.")
    }

    /// Adds one cause, in words.
    pub(crate) fn because(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// Adds an error and everything below it as causes.
    pub(crate) fn cause(mut self, error: &dyn Error) -> Self {
        let mut next = Some(error);
        while let Some(error) = next {
            let words = error.to_string();
            // Transparent wrappers repeat the words of what they wrap.
            if self.causes.last() != Some(&words) {
                self.causes.push(words);
            }
            next = error.source();
        }
        self
    }

    /// Says the way out; the innermost layer's comes first.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        let hint = hint.into();
        if !self.hints.contains(&hint) {
            self.hints.push(hint);
        }
        self
    }

    /// Puts `message` in front; what was said so far becomes the cause.
    pub(crate) fn context(mut self, message: impl Into<String>) -> Self {
        let mut causes = std::mem::replace(&mut self.messages, vec![message.into()]);
        causes.append(&mut self.causes);
        self.causes = causes;
        self
    }

    /// Puts the thing that failed before each message.
    pub(crate) fn about(mut self, subject: &str) -> Self {
        if !subject.is_empty() {
            self.messages.iter_mut().for_each(|message| *message = format!("{subject}: {message}"));
        }
        self
    }

    /// Several failures as one, `None` for none. Each keeps its causes on its line.
    pub(crate) fn together(mut failures: Vec<Self>) -> Option<Self> {
        if failures.len() < 2 {
            return failures.pop();
        }
        let mut all =
            Self { messages: Vec::new(), causes: Vec::new(), hints: Vec::new(), exit: Exit::Failed, is_outage: false };
        for failure in failures {
            let causes: Vec<&str> = failure.causes.iter().map(|cause| cause.trim_end_matches('.')).collect();
            let causes = if causes.is_empty() { String::new() } else { format!(" ({})", causes.join("; ")) };
            all.messages.extend(failure.messages.iter().map(|message| format!("{message}{causes}")));
            all = failure.hints.into_iter().fold(all, Self::hint);
        }
        Some(all)
    }

    /// Messages and causes on one line, to stand inside another failure.
    pub(crate) fn one_line(&self) -> String {
        let parts: Vec<&str> =
            self.messages.iter().chain(&self.causes).map(|part| part.trim_end_matches('.')).collect();
        parts.join(": ")
    }

    /// True if the datastore does not answer: nothing that needs it is worth trying now.
    pub(crate) fn is_outage(&self) -> bool {
        self.is_outage
    }

    /// How the process ends.
    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    /// The first message.
    #[cfg(test)]
    pub(crate) fn message(&self) -> &str {
        &self.messages[0]
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for message in &self.messages {
            writeln!(f, "error: {message}")?;
        }
        for cause in &self.causes {
            writeln!(f, "  cause: {cause}")?;
        }
        for hint in &self.hints {
            writeln!(f, "hint: {hint}")?;
        }
        Ok(())
    }
}

impl From<calico_store::Error> for Failure {
    fn from(error: calico_store::Error) -> Self {
        use calico_store::Error as E;
        let failure = Self::new(sentence(&error)).sources_of(&error);
        match error {
            E::Unreachable { endpoints, .. } if endpoints.starts_with("unix:") => Self { is_outage: true, ..failure }
                .hint(
                    "start it with `calicoctl node`; if it runs, `calicoctl status` says how it is, and its log is in \
                 /var/log/calico/datastore",
                ),
            E::Unreachable { .. } => Self { is_outage: true, ..failure }.hint(
                "make sure that etcd runs, and that ETCD_ENDPOINTS (with https also ETCD_CA_CERT_FILE, ETCD_CERT_FILE, \
                 ETCD_KEY_FILE) say where it is and how to reach it",
            ),
            E::Conflict { .. } => failure.hint("run the command again"),
            E::Corrupt { key, .. } => failure.hint(format!("look at it with: etcdctl get {key}")),
            E::Settings { setting, .. } if !setting.ends_with("_FILE") => failure.hint(
                "ETCD_ENDPOINTS is a comma-separated list of http://HOST:PORT or https://HOST:PORT; without it, \
                 calico-node keeps the datastore itself",
            ),
            _ => failure,
        }
    }
}

impl Failure {
    fn sources_of(self, error: &dyn Error) -> Self {
        match error.source() {
            Some(source) => self.cause(source),
            None => self,
        }
    }
}

/// An error as a message of its own: its words as a sentence. Names keep their spelling.
pub(crate) fn sentence(error: &dyn Error) -> String {
    let words = error.to_string();
    let mut chars = words.chars();
    let is_a_word = words.split(' ').next().is_some_and(|word| word.bytes().all(|b| b.is_ascii_lowercase()));
    let mut text = match chars.next() {
        Some(first) if is_a_word => format!("{}{}", first.to_ascii_uppercase(), chars.as_str()),
        _ => words.clone(),
    };
    if !text.ends_with(['.', '?', '!']) {
        text.push('.');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printed_as_messages_causes_hint() {
        let failure = Failure::new("No.").because("a").because("b").hint("try c").hint("or d").hint("try c");
        assert_eq!(failure.to_string(), "error: No.\n  cause: a\n  cause: b\nhint: try c\nhint: or d\n");
        let failure = failure.context("Whole thing failed.");
        assert_eq!(
            failure.to_string(),
            "error: Whole thing failed.\n  cause: No.\n  cause: a\n  cause: b\nhint: try c\nhint: or d\n"
        );
    }

    #[test]
    fn an_unreachable_datastore_says_where_and_what_to_look_at() {
        let failure = Failure::from(calico_store::Error::Unreachable {
            endpoints: "http://127.0.0.1:2379".into(),
            cause: "connection refused".into(),
        });
        let text = failure.to_string();
        assert!(text.contains("The datastore at http://127.0.0.1:2379 is unreachable: connection refused."), "{text}");
        assert!(text.contains("hint: make sure that etcd runs"), "{text}");
        assert_eq!(failure.exit(), Exit::Failed);
    }
}
