//! Waiting until the packets that are under way have passed.
//!
//! nftables, and so iptables-nft too, keeps two generations of every chain. A packet takes the generation that is in
//! force when it enters a base chain, and stays with it; a transaction writes the other one and puts that in force. So
//! while one transaction is committed, a packet meets nothing but what was there when it came. A second transaction,
//! whoever makes it, writes the generation that the packet reads: from there on it meets what is new, and where a
//! chain was taken away, nothing. It must be held up for that long between two rules, which happens where the
//! hypervisor takes the processor away.
//!
//! All rules are read in one read-side critical section of RCU, so a grace period that begins after the first
//! transaction ends when no such packet is left. `membarrier` with `MEMBARRIER_CMD_GLOBAL` is one, without any right
//! that would have to be given: two to five ticks, 8 to 20 ms where there are 250 of them in a second, also on a busy
//! host. It is refused where processors run without ticks (`nohz_full`), and does nothing where there is one processor
//! only; there time has to do.

use std::time::Duration;

use rustix::thread::{MembarrierCommand, membarrier};
use tokio::task::JoinHandle;

/// How long to wait in any case.
pub(crate) const AT_LEAST: Duration = Duration::from_millis(3);
/// How long to wait without a grace period.
const WITHOUT: Duration = Duration::from_millis(30);

/// Packets that were under way when the last transaction was committed, and may be still.
#[derive(Debug, Default)]
pub(crate) struct Passing(Option<JoinHandle<()>>);

impl Passing {
    /// A transaction was committed just now. Must be called inside a tokio runtime.
    pub(crate) fn committed(&mut self) {
        self.0 = Some(tokio::spawn(async {
            let ended = tokio::task::spawn_blocking(|| membarrier(MembarrierCommand::Global));
            tokio::time::sleep(AT_LEAST).await;
            if let Ok(Err(error)) = ended.await {
                tracing::debug!(%error, "the kernel gives no grace period; time has to do");
                tokio::time::sleep(WITHOUT).await;
            }
        }));
    }

    /// Returns when all of them have passed. Dropped half-way, the next call goes on waiting.
    pub(crate) async fn ended(&mut self) {
        if let Some(passing) = &mut self.0 {
            // It neither panics nor is it aborted as long as the runtime lives.
            drop(passing.await);
            self.0 = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_committed_has_passed_once_and_for_all() {
        let mut passing = Passing::default();
        passing.ended().await;
        assert!(passing.0.is_none());
        passing.committed();
        let dropped = tokio::time::timeout(Duration::ZERO, passing.ended()).await;
        assert!(dropped.is_err() && passing.0.is_some(), "it is still waited for");
        passing.ended().await;
        assert!(passing.0.is_none());
    }
}
