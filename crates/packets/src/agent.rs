//! Engine and dataplane of one host, as felix puts them together: resources in, rules and routes in the kernel out.

use std::{io, sync::mpsc, thread, time::Duration};

use calico_dataplane::{Dataplane, Options};
use calico_model::Change;
use calico_policy::Engine;
use tokio::sync::mpsc as queue;

use crate::Namespace;

/// How often an apply that could not do everything is repeated before it is given up.
const ATTEMPTS: u32 = 50;
/// The pause between two of them, unless the kernel says something earlier.
const PAUSE: Duration = Duration::from_millis(20);

/// What there is to say after a change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Objects that are governed closed, with the reason; from the engine.
    pub closed: Vec<String>,
    /// What the kernel refused; from the dataplane.
    pub problems: Vec<String>,
}

struct Command {
    changes: Vec<Change>,
    done: mpsc::Sender<Result<Applied, String>>,
}

/// A running agent; it stops when it is dropped and leaves the kernel as it is.
#[derive(Debug)]
pub struct Agent {
    commands: Option<queue::UnboundedSender<Command>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Agent {
    /// Starts the agent of a node on a thread in a namespace.
    ///
    /// # Errors
    /// The base rules could not be installed.
    pub fn start(namespace: &Namespace, node: &str) -> io::Result<Self> {
        let (commands, queue) = queue::unbounded_channel();
        let (ready, started) = mpsc::channel();
        let (namespace, node) = (namespace.try_clone()?, node.to_owned());
        let thread = thread::Builder::new().name(format!("agent {node}")).spawn(move || {
            let opened = namespace.enter().and_then(|()| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                let dataplane = runtime.block_on(open()).map_err(io::Error::other)?;
                Ok((runtime, dataplane))
            });
            match opened {
                Ok((runtime, dataplane)) => {
                    let _ = ready.send(Ok(()));
                    runtime.block_on(follow(queue, Engine::new(node), dataplane));
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        })?;
        let agent = Self { commands: Some(commands), thread: Some(thread) };
        started.recv().map_err(io::Error::other)??;
        Ok(agent)
    }

    /// Starts a change; what is received says that the kernel holds it.
    pub fn begin(&self, changes: Vec<Change>) -> mpsc::Receiver<Result<Applied, String>> {
        let (done, result) = mpsc::channel();
        if let Some(commands) = &self.commands {
            // If the thread is gone, so is `done`, and the receiver says so.
            let _ = commands.send(Command { changes, done });
        }
        result
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            // Its panic has been printed and has failed whoever waited for an answer.
            let _ = thread.join();
        }
    }
}

async fn open() -> Result<Dataplane, calico_dataplane::Error> {
    let mut dataplane = Dataplane::new(Options::default())?;
    dataplane.install_base().await?;
    Ok(dataplane)
}

async fn follow(mut queue: queue::UnboundedReceiver<Command>, mut engine: Engine, mut dataplane: Dataplane) {
    loop {
        tokio::select! {
            command = queue.recv() => {
                let Some(command) = command else { return };
                for change in command.changes {
                    engine.absorb(change);
                }
                for instruction in engine.flush() {
                    dataplane.absorb(instruction);
                }
                let result = apply(&mut dataplane).await.map(|problems| {
                    let closed = engine.problems().iter().map(ToString::to_string).collect();
                    Applied { closed, problems }
                });
                let _ = command.done.send(result);
            }
            event = dataplane.next_event() => {
                tracing::debug!(?event, "the kernel has changed");
                if let Err(error) = apply(&mut dataplane).await {
                    tracing::error!(error, "the kernel could not be mended");
                }
            }
        }
    }
}

/// Applies until nothing is left that may succeed by itself; what is wrong then.
async fn apply(dataplane: &mut Dataplane) -> Result<Vec<String>, String> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        match dataplane.apply().await {
            Ok(report) if !report.retry || attempt == ATTEMPTS => {
                return Ok(report.problems.iter().map(ToString::to_string).collect());
            }
            Ok(_) => {}
            Err(error) if attempt == ATTEMPTS => return Err(error.to_string()),
            Err(error) => tracing::debug!(%error, attempt, "again"),
        }
        let _ = tokio::time::timeout(PAUSE, dataplane.next_event()).await;
    }
}
