//! What a service says while it starts, on its way to the user: from a container's output or from a unit's journal.
//!
//! The steps of starting are shown at once. What its processes log is held back, and shown only if the start fails without
//! a word on why, or takes long.

use crate::{context::Console, failure::Failure};

/// How many of the last lines a failure ends with.
const LAST_WORDS: usize = 3;

/// What was heard so far.
pub(super) struct Words<'a> {
    console: &'a dyn Console,
    /// Log lines not shown yet; `None` shows them at once.
    held: Option<Vec<String>>,
    /// The last lines, for a failure to end with.
    last: Vec<String>,
    complaint: Complaint,
}

impl<'a> Words<'a> {
    /// Nothing yet.
    pub(super) fn new(console: &'a dyn Console) -> Self {
        Self { console, held: Some(Vec::new()), last: Vec::new(), complaint: Complaint::default() }
    }

    /// Takes a line in; `is_log` if it is no step of starting.
    pub(super) fn hear(&mut self, line: &str, is_log: bool) {
        match &mut self.held {
            Some(held) if is_log => held.push(line.to_owned()),
            _ if is_log => self.console.note(line),
            _ => self.console.say(line),
        }
        self.complaint.listen(line);
        if !line.trim().is_empty() {
            self.last.push(line.trim().to_owned());
            if self.last.len() > LAST_WORDS {
                self.last.remove(0);
            }
        }
    }

    /// Adds to the last words what the service did not say itself.
    pub(super) fn add_last(&mut self, words: String) {
        self.last.push(words);
    }

    /// Shows what was held back, and from now on everything at once.
    pub(super) fn show_held(&mut self) {
        for line in self.held.take().into_iter().flatten() {
            self.console.note(&line);
        }
    }

    /// The same, unless the service has said itself what is wrong.
    pub(super) fn show_unless_explained(&mut self) {
        if self.complaint.explain(Failure::new("")).is_none() {
            self.show_held();
        }
    }

    /// A start that failed, by the service's own words, or else for `cause`.
    pub(super) fn failure(&self, cause: String) -> Failure {
        let failure = Failure::new("Calico node failed to start.");
        if let Some(explained) = self.complaint.explain(failure.clone()) {
            return explained;
        }
        match self.last.is_empty() {
            true => failure.because(cause),
            false => failure.because(cause).because(format!("its last words: {}", self.last.join(" / "))),
        }
    }
}

/// A service's own words on why it does not start.
#[derive(Default)]
pub(super) struct Complaint {
    /// The step of starting that failed, with its cause.
    step: Option<String>,
    /// The error that it ended with, then what caused it.
    causes: Vec<String>,
    /// The way out.
    hints: Vec<String>,
}

impl Complaint {
    /// Takes note of a line of the service's output.
    pub(super) fn listen(&mut self, line: &str) {
        if line.contains(": failed: ") {
            self.step = Some(line.trim().to_owned());
        } else if let Some(error) = line.strip_prefix("error: ") {
            // A service that was started again says it again.
            self.causes = vec![error.to_owned()];
            self.hints.clear();
        } else if let Some(cause) = line.strip_prefix("  cause: ") {
            self.causes.push(cause.to_owned());
        } else if let Some(hint) = line.strip_prefix("hint: ") {
            self.hints.push(hint.to_owned());
        }
    }

    /// `failure` with these words, `None` if there are none.
    pub(super) fn explain(&self, failure: Failure) -> Option<Failure> {
        let mut causes = self.causes.clone();
        match (causes.first_mut(), &self.step) {
            (None, None) => return None,
            (None, Some(step)) => causes.push(step.clone()),
            (Some(error), Some(step)) => {
                let step = step.split_once(": failed: ").map_or(step.as_str(), |(name, _)| name);
                *error = format!("{step}: {error}");
            }
            (Some(_), None) => {}
        }
        let failure = causes.into_iter().fold(failure, Failure::because);
        Some(self.hints.iter().cloned().fold(failure, Failure::hint))
    }
}
