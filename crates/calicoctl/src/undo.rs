//! Undoing what a failed command has done, newest first.
//!
//! An undo step is registered *before* the step that it undoes, and must be harmless when that step did not take
//! effect: a lost connection leaves open whether a write arrived, so "did it happen?" is decided by looking, when
//! the time comes. One failed undo does not stop the others; it is told, with what is left.

use futures::future::BoxFuture;

use crate::failure::Failure;

/// Undo steps in the order in which the things to undo were done.
#[derive(Default)]
pub(crate) struct Undo<'a> {
    steps: Vec<(String, BoxFuture<'a, Result<(), Failure>>)>,
}

impl<'a> Undo<'a> {
    /// Nothing to undo.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Registers `undo`, which takes back `what` (a noun for messages: `address 192.168.0.1`).
    pub(crate) fn push(
        &mut self,
        what: impl Into<String>,
        undo: impl Future<Output = Result<(), Failure>> + Send + 'a,
    ) {
        self.steps.push((what.into(), Box::pin(undo)));
    }

    /// Undoes everything, newest first, and returns `failure`, with what could not be undone if anything.
    pub(crate) async fn roll_back(self, mut failure: Failure) -> Failure {
        for (what, undo) in self.steps.into_iter().rev() {
            if let Err(error) = undo.await {
                failure =
                    failure.because(format!("undoing it failed as well, {what} is left behind: {}", error.one_line()));
            }
        }
        failure
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Mutex;

    use super::*;

    #[tokio::test]
    async fn newest_first_and_a_failure_does_not_stop_the_rest() {
        let done = Mutex::new(Vec::new());
        let mut undo = Undo::new();
        for what in ["address", "interface", "endpoint"] {
            let done = &done;
            undo.push(what, async move {
                done.lock().unwrap().push(what);
                if what == "interface" { Err(Failure::new("busy")) } else { Ok(()) }
            });
        }
        let failure = undo.roll_back(Failure::new("no")).await;
        assert_eq!(*done.lock().unwrap(), ["endpoint", "interface", "address"]);
        assert_eq!(
            failure.to_string(),
            "error: no\n  cause: undoing it failed as well, interface is left behind: busy\n"
        );
    }
}
