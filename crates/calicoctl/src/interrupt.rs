//! Ctrl-C, and what it means at which moment.
//!
//! A command that only looks can be dropped anywhere. One that acts must not: what it has begun has to be undone,
//! by the same code that undoes a failure. So a command says when it begins to act ([`Interrupt::acting`]); from
//! then on the interrupt is a wish that it asks for between two steps ([`Interrupt::check`]) or while it waits
//! ([`Interrupt::wait`]), and that becomes an ordinary failure there.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::watch;

use crate::failure::Failure;

/// The wish to stop. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Interrupt {
    wished: watch::Receiver<bool>,
    acting: Arc<AtomicUsize>,
    endless: Arc<AtomicUsize>,
}

/// Tells the command that the user wants it to stop.
#[derive(Debug)]
pub(crate) struct Interrupter(watch::Sender<bool>);

/// While it lives the command acts, or has no other end than an interrupt.
#[derive(Debug)]
pub(crate) struct Acting(Arc<AtomicUsize>);

impl Interrupt {
    /// The two ends.
    pub(crate) fn new() -> (Interrupter, Self) {
        let (sender, wished) = watch::channel(false);
        (Interrupter(sender), Self { wished, acting: Arc::default(), endless: Arc::default() })
    }

    /// Says that the command begins to act.
    pub(crate) fn acting(&self) -> Acting {
        self.acting.fetch_add(1, Ordering::SeqCst);
        Acting(self.acting.clone())
    }

    /// True while the command acts: it must be left to unwind by itself.
    pub(crate) fn is_acting(&self) -> bool {
        self.acting.load(Ordering::SeqCst) > 0
    }

    /// Says that the command goes on until it is interrupted, which is no failure then.
    pub(crate) fn endless(&self) -> Acting {
        self.endless.fetch_add(1, Ordering::SeqCst);
        Acting(self.endless.clone())
    }

    /// True while an interrupt is the proper end.
    pub(crate) fn is_endless(&self) -> bool {
        self.endless.load(Ordering::SeqCst) > 0
    }

    /// Between two steps: fails if the user wants to stop.
    ///
    /// # Errors
    /// [`Failure::aborted`].
    pub(crate) fn check(&self) -> Result<(), Failure> {
        if *self.wished.borrow() { Err(Failure::aborted()) } else { Ok(()) }
    }

    /// Returns when the user wants to stop, and never otherwise.
    pub(crate) async fn wait(&self) -> Failure {
        let mut wished = self.wished.clone();
        // The sender lives as long as the process; without it nobody can wish any more.
        if wished.wait_for(|wished| *wished).await.is_err() {
            std::future::pending::<()>().await;
        }
        Failure::aborted()
    }
}

impl Interrupter {
    /// The user wants to stop.
    pub(crate) fn interrupt(&self) {
        self.0.send_replace(true);
    }
}

impl Drop for Acting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
