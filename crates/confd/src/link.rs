//! The standing connection to BIRD.
//!
//! It notices a daemon that came, went or was restarted, and sessions that came up. It also keeps BIRD 2.0.12 awake:
//! an event queued by its background work is not noticed before the main loop's `poll` sleeps (up to 1 s with our
//! device scan), so routes of a session that just came up would arrive late. Any request on the control socket wakes
//! it, so while things converge the table of protocols is asked for every 50 ms.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use tokio::time::Instant;
use tracing::{info, warn};

use crate::bird::{Client, Configured, Error, established_sessions, session_count};

/// Between two requests while routes are being exchanged.
const CONVERGING: Duration = Duration::from_millis(50);
/// How long that lasts after a reconfiguration or a session that came up.
const CONVERGENCE: Duration = Duration::from_secs(3);
/// Between two requests while sessions are expected to come up.
const EXPECTING: Duration = Duration::from_millis(200);
/// How long they are expected after a reconfiguration.
const EXPECTATION: Duration = Duration::from_secs(30);
/// Between two requests otherwise.
const QUIET: Duration = Duration::from_secs(1);
/// The first and the longest pause between two attempts to connect.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// How long protocols that were removed may take to shut down before that is worth a warning.
const SETTLING: Duration = Duration::from_secs(5);

/// What a look at the daemon showed.
#[derive(Debug)]
pub(crate) enum Contact {
    /// As before.
    Same,
    /// The daemon was not there before, or is another one now.
    New,
    /// It is not there.
    Down,
}

/// The connection, whatever its state.
#[derive(Debug)]
pub(crate) struct Link {
    socket: PathBuf,
    client: Option<Client>,
    /// Why there is no client.
    trouble: Option<String>,
    established: BTreeSet<String>,
    sessions: usize,
    converging_until: Instant,
    expecting_until: Instant,
    pause: Duration,
    next: Instant,
}

impl Link {
    pub(crate) fn new(socket: PathBuf) -> Self {
        let now = Instant::now();
        Self {
            socket,
            client: None,
            trouble: None,
            established: BTreeSet::new(),
            sessions: 0,
            converging_until: now,
            expecting_until: now,
            pause: RECONNECT.0,
            next: now,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.client.is_some()
    }

    /// Why the daemon cannot be talked to.
    pub(crate) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// How many sessions are up, and how many there are.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.established.len(), self.sessions)
    }

    /// When to look again.
    pub(crate) fn next_look(&self) -> Instant {
        self.next
    }

    /// Looks at the daemon.
    pub(crate) async fn look(&mut self) -> Contact {
        let fresh = self.client.is_none();
        if fresh {
            match Client::connect(&self.socket).await {
                Ok(client) => self.connected(client),
                Err(error) => return self.lost(&error),
            }
        }
        let Some(client) = &mut self.client else { return Contact::Down };
        match client.table().await {
            Ok(table) => {
                let now = Instant::now();
                let established = established_sessions(&table);
                for name in established.difference(&self.established) {
                    info!(session = name, "session is up");
                    self.converging_until = now + CONVERGENCE;
                }
                for name in self.established.difference(&established) {
                    warn!(session = name, "session is down");
                }
                self.established = established;
                self.sessions = session_count(&table);
                self.next = now + self.rhythm(now);
                if fresh { Contact::New } else { Contact::Same }
            }
            Err(error) => self.lost(&error),
        }
    }

    /// Makes BIRD read its file, and waits a while for removed protocols to shut down.
    ///
    /// # Errors
    /// The client's. After any but a refusal the connection is given up.
    pub(crate) async fn configure(&mut self) -> Result<(), Error> {
        let outcome = match &mut self.client {
            Some(client) => reconfigure(client).await,
            None => match Client::connect(&self.socket).await {
                Ok(client) => {
                    self.connected(client);
                    reconfigure(self.client.as_mut().expect("it was just connected")).await
                }
                Err(error) => Err(error),
            },
        };
        match outcome {
            Ok(()) => {
                let now = Instant::now();
                self.converging_until = now + CONVERGENCE;
                self.expecting_until = now + EXPECTATION;
                self.next = now;
                Ok(())
            }
            Err(error) => {
                if !error.is_refusal() {
                    self.lost(&error);
                }
                Err(error)
            }
        }
    }

    fn connected(&mut self, client: Client) {
        info!(socket = %self.socket.display(), "talking to BIRD");
        self.client = Some(client);
        self.trouble = None;
        self.established.clear();
        self.pause = RECONNECT.0;
        let now = Instant::now();
        self.converging_until = now + CONVERGENCE;
        self.expecting_until = now + EXPECTATION;
    }

    fn lost(&mut self, error: &Error) -> Contact {
        let trouble = error.to_string();
        if self.client.take().is_some() {
            warn!(reason = trouble, "lost BIRD, its routes stay in the kernel; trying again");
        } else if self.trouble.as_deref() != Some(&trouble) {
            info!(reason = trouble, "no BIRD yet, trying again");
        }
        self.trouble = Some(trouble);
        self.established.clear();
        self.sessions = 0;
        self.next = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(RECONNECT.1);
        Contact::Down
    }

    fn rhythm(&self, now: Instant) -> Duration {
        if now < self.converging_until {
            CONVERGING
        } else if now < self.expecting_until && self.established.len() < self.sessions {
            EXPECTING
        } else {
            QUIET
        }
    }
}

async fn reconfigure(client: &mut Client) -> Result<(), Error> {
    match client.configure().await? {
        Configured::Done => Ok(()),
        Configured::InProgress | Configured::Queued => {
            let until = Instant::now() + SETTLING;
            while !client.status().await?.is_settled() {
                if Instant::now() > until {
                    warn!("BIRD took the configuration, but removed protocols are still shutting down");
                    break;
                }
                tokio::time::sleep(CONVERGING).await;
            }
            Ok(())
        }
    }
}
