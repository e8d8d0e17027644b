//! The seam to the kernel.

use std::fmt;

use calico_dataplane::Dataplane;
use calico_policy::instruction::Instruction;

/// What an apply could not do for single objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// What is wrong with which object.
    pub complaints: Vec<String>,
    /// Some of it may succeed by itself: apply again after a while.
    pub retry: bool,
}

/// What felix needs of a dataplane. All methods are called from one task.
#[allow(async_fn_in_trait, reason = "felix runs on a current-thread runtime; the futures need not be Send")]
pub trait Driver {
    /// Why a write failed.
    type Error: fmt::Display;

    /// Makes unknown workload interfaces closed on a host without any state of ours. Leaves state of ours alone.
    async fn install_base(&mut self) -> Result<(), Self::Error>;

    /// Takes note of a change of what is wanted; no kernel access.
    fn absorb(&mut self, instruction: Instruction);

    /// Makes the kernel hold what is wanted.
    ///
    /// # Errors
    /// The rules could not be written; the kernel holds what it held.
    async fn apply(&mut self) -> Result<Applied, Self::Error>;

    /// Forget what is believed of the kernel: the next [`apply`](Self::apply) reads everything back.
    fn distrust(&mut self);

    /// Returns when somebody else changed something in the kernel that [`apply`](Self::apply) may have to mend.
    /// Cancel-safe.
    async fn disturbed(&mut self);
}

impl Driver for Dataplane {
    type Error = calico_dataplane::Error;

    async fn install_base(&mut self) -> Result<(), Self::Error> {
        Dataplane::install_base(self).await
    }

    fn absorb(&mut self, instruction: Instruction) {
        Dataplane::absorb(self, instruction);
    }

    async fn apply(&mut self) -> Result<Applied, Self::Error> {
        let report = Dataplane::apply(self).await?;
        if !report.is_unchanged() {
            tracing::debug!(?report, "kernel updated");
        }
        Ok(Applied { complaints: report.problems.iter().map(ToString::to_string).collect(), retry: report.retry })
    }

    fn distrust(&mut self) {
        Dataplane::distrust(self);
    }

    async fn disturbed(&mut self) {
        let event = self.next_event().await;
        tracing::debug!(?event, "somebody else changed the kernel");
    }
}
