//! The agent's loop: datastore, decision, template, file, BIRD.
//!
//! ```text
//!   syncer ──► State ──► (quiet for 10 ms, at most 50) ──► decide ──► render ──► same as the file? ── yes ─┐
//!                                                                        │ no                              │
//!   template, passwords (looked at every 5 s) ──────────────────────►    ▼                                 ▼
//!                                       write beside ──► bird -p ──► rename ──► BIRD has it loaded? ──► configure
//! ```
//!
//! Invariants:
//!
//! - Before the first complete snapshot, and while this node is not in the datastore, nothing is written.
//! - The file in place was accepted by BIRD. Whatever fails leaves the file and the running configuration as they
//!   were, is said once, and is tried again with a growing pause.
//! - A lost datastore changes nothing.
//! - Sessions whose own text did not change are not disturbed: `configure`, never `soft`, never a restart.

use std::{collections::BTreeSet, future::Future, path::PathBuf, pin::pin, sync::Arc, time::Duration};

use calico_store::{Event, Kv, Syncer};
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use crate::{
    bird::Error as BirdError,
    decide::Decision,
    file::{ConfigFile, FileError},
    link::{Contact, Link},
    overrides::{Choice, Overrides},
    render::{Template, TemplateError},
    secrets::{FileSecrets, SECRETS_DIR},
    state::{Problem, State},
};

/// A burst of events is over when nothing came for this long.
const QUIET: Duration = Duration::from_millis(10);
/// A burst that does not end is acted on after this long.
const PATIENCE: Duration = Duration::from_millis(50);
/// Between two looks at the files that a person may change: template, passwords, the configuration itself.
const FILES: Duration = Duration::from_secs(5);
/// The first and the longest pause before something that failed is tried again.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Where everything is.
#[derive(Clone, Debug)]
pub struct Options {
    /// This node's name in the datastore.
    pub node: String,
    /// BIRD's configuration, which this agent owns.
    pub config_path: PathBuf,
    /// BIRD's control socket.
    pub socket_path: PathBuf,
    /// BIRD itself, for checking a configuration.
    pub bird_binary: PathBuf,
    /// The operator's template; used while the file exists.
    pub template_override: PathBuf,
    /// Passwords of sessions: `<name>/<key>` of a `secretKeyRef`.
    pub secrets_dir: PathBuf,
}

impl Options {
    /// The usual places, for node `node`.
    pub fn new(node: impl Into<String>) -> Self {
        Self {
            node: node.into(),
            config_path: "/etc/calico/confd/config/bird.cfg".into(),
            socket_path: "/var/run/calico/bird.ctl".into(),
            bird_binary: "bird".into(),
            template_override: "/etc/calico/confd/templates/bird.cfg.j2".into(),
            secrets_dir: SECRETS_DIR.into(),
        }
    }
}

/// Who is told how the agent is.
pub trait Report: Send + Sync {
    /// Whether the wanted configuration is in force, and why not, or what is remarkable. Called on changes.
    fn ready(&self, ready: bool, reason: &str);

    /// What is left out of the configuration. Called on changes.
    fn problems(&self, problems: &[Problem]) {
        let _ = problems;
    }
}

/// The end of the loop that nobody asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The task that follows the datastore has died, which is a defect; a restart heals it.
    #[error("the task that follows the datastore has ended")]
    Syncer,
}

/// Keeps BIRD configured until `shutdown` completes. Leaves file and daemon as they are then.
///
/// # Errors
/// [`RunError`]; everything else is reported and tried again.
pub async fn run(
    options: Options,
    kv: Arc<dyn Kv>,
    shutdown: impl Future<Output = ()>,
    report: &dyn Report,
) -> Result<(), RunError> {
    let mut syncer = Syncer::spawn(kv, State::prefixes(&options.node));
    let mut agent = Agent::new(options, report);
    let mut shutdown = pin!(shutdown);
    let mut files = Instant::now() + FILES;
    agent.publish();
    loop {
        tokio::select! {
            () = &mut shutdown => return Ok(()),
            batch = syncer.next() => agent.absorb(batch.ok_or(RunError::Syncer)?),
            () = sleep_until(agent.due.unwrap_or(files)), if agent.due.is_some() => agent.refresh().await,
            () = sleep_until(files) => {
                files = Instant::now() + FILES;
                if agent.files_may_differ() {
                    agent.refresh().await;
                }
            }
            () = sleep_until(agent.link.next_look()) => agent.look().await,
        }
        agent.publish();
    }
}

/// The loop's state.
struct Agent<'a> {
    state: State,
    overrides: Overrides,
    secrets: FileSecrets,
    file: ConfigFile,
    link: Link,
    /// When to act on what has changed, or to try again.
    due: Option<Instant>,
    /// When the first change of a burst came.
    burst: Option<Instant>,
    pause: Duration,
    /// The text that the running BIRD has confirmed.
    loaded: Option<String>,
    /// The text is the wanted one and in the file.
    written: bool,
    /// Why not.
    failure: Option<String>,
    problems: Vec<Problem>,
    report: &'a dyn Report,
    /// What was reported last.
    told: Option<(bool, String)>,
    told_problems: Option<Vec<Problem>>,
}

impl<'a> Agent<'a> {
    fn new(options: Options, report: &'a dyn Report) -> Self {
        Self {
            state: State::new(options.node),
            overrides: Overrides::new(options.template_override),
            secrets: FileSecrets { dir: options.secrets_dir },
            file: ConfigFile::new(options.config_path, options.bird_binary),
            link: Link::new(options.socket_path),
            due: None,
            burst: None,
            pause: RETRY.0,
            loaded: None,
            written: false,
            failure: None,
            problems: Vec::new(),
            report,
            told: None,
            told_problems: None,
        }
    }

    fn absorb(&mut self, batch: Vec<Event>) {
        let mut changed = false;
        for event in batch {
            changed |= self.state.absorb(event);
        }
        if changed && self.state.is_in_sync() {
            let now = Instant::now();
            let first = *self.burst.get_or_insert(now);
            self.due = Some((now + QUIET).min(first + PATIENCE));
            self.pause = RETRY.0;
        }
    }

    /// True if a file that the configuration depends on may be another one.
    fn files_may_differ(&self) -> bool {
        let changed = self.overrides.changed() || self.file.changed();
        self.state.is_in_sync() && (changed || self.state.has_secrets())
    }

    /// Brings file and daemon to what the facts ask for.
    async fn refresh(&mut self) {
        self.due = None;
        self.burst = None;
        let decision = match self.state.decide(&self.secrets) {
            Ok(decision) => decision,
            Err(waiting) => {
                // What is in force stays: a node that was removed keeps its routes until BIRD is stopped.
                self.fail(waiting.to_string(), false);
                return;
            }
        };
        match self.put_in_force(&decision).await {
            Ok(mut problems) => {
                problems.splice(0..0, decision.problems);
                self.note(problems);
                self.failure = None;
                self.pause = RETRY.0;
            }
            Err(reason) => {
                self.note(decision.problems);
                self.fail(reason, true);
            }
        }
    }

    /// Renders by the best template there is and puts the text in force. What is wrong with the operator's template
    /// comes back as a problem if another one could take its place.
    async fn put_in_force(&mut self, decision: &Decision) -> Result<Vec<Problem>, String> {
        let mut problems = Vec::new();
        for choice in self.overrides.choices(self.file.exists()) {
            let template = match choice {
                Choice::Template(template) => template,
                Choice::Unreadable(problem) => {
                    problems.push(problem);
                    continue;
                }
                Choice::KeepFile => {
                    let reasons: Vec<String> = problems.iter().map(ToString::to_string).collect();
                    return Err(format!("{}; the last good configuration stays", reasons.join("; ")));
                }
            };
            match self.try_template(&template, decision).await {
                Ok(()) => {
                    if template.overlooks_filters(&decision.config) {
                        let reason = "does not apply BGPFilters, and peers have some: take over import.calls, \
                                      import.closed, export.calls and export.closed from the built-in template";
                        problems.push(Problem::new(&template.name, reason));
                    }
                    self.overrides.worked(template);
                    return Ok(problems);
                }
                Err(Attempt::Template(reason)) => problems.push(Problem::new(&template.name, reason)),
                Err(Attempt::Other(reason)) => return Err(reason),
            }
        }
        let reasons: Vec<String> = problems.iter().map(ToString::to_string).collect();
        Err(reasons.join("; "))
    }

    async fn try_template(&mut self, template: &Template, decision: &Decision) -> Result<(), Attempt> {
        let broken = |error: TemplateError| Attempt::Template(format!("line {}: {}", error.line, error.reason));
        let text = template.render(&decision.config).map_err(broken)?;
        let before = self.file.read();
        if before.as_ref() != Some(&text) {
            self.written = false;
            self.file.replace(&text).await?;
            info!(path = %self.file.path().display(), template = template.name, "configuration written");
        }
        self.written = true;
        self.load(text, before).await
    }

    /// Makes BIRD read the file, unless it has or is not there: then it will when it starts.
    async fn load(&mut self, text: String, before: Option<String>) -> Result<(), Attempt> {
        if self.loaded.as_ref() == Some(&text) || !self.link.is_up() {
            return Ok(());
        }
        match self.link.configure().await {
            Ok(()) => {
                info!("BIRD has taken the configuration");
                self.loaded = Some(text);
                Ok(())
            }
            Err(BirdError::Refused { code: 8002, text: words, .. }) => {
                self.take_back(&text, before).await;
                Err(Attempt::Template(words))
            }
            Err(error @ BirdError::Refused { .. }) => Err(Attempt::Other(error.to_string())),
            Err(_gone) => Ok(()),
        }
    }

    /// Undoes a replacement that the checker accepted and the daemon did not. Without an older text the file stays:
    /// the daemon's reason may lie outside of it.
    async fn take_back(&mut self, refused: &str, before: Option<String>) {
        self.written = false;
        let Some(before) = before.filter(|before| before != refused) else { return };
        if let Err(error) = self.file.replace(&before).await {
            warn!(%error, "the configuration before could not be put back");
        }
    }

    async fn look(&mut self) {
        match self.link.look().await {
            Contact::Same => {}
            Contact::Down => self.loaded = None,
            Contact::New => {
                // It may have read the file just before we replaced it.
                self.loaded = None;
                if self.written {
                    self.refresh().await;
                }
            }
        }
    }

    fn fail(&mut self, reason: String, retry: bool) {
        if self.failure.as_ref() != Some(&reason) {
            warn!(reason, "the configuration stays as it is");
        }
        self.failure = Some(reason);
        if retry {
            self.due = Some(Instant::now() + self.pause);
            self.pause = (self.pause * 2).min(RETRY.1);
        }
    }

    /// Says each new problem once.
    fn note(&mut self, problems: Vec<Problem>) {
        let known: BTreeSet<&Problem> = self.problems.iter().collect();
        for problem in problems.iter().filter(|problem| !known.contains(problem)) {
            warn!(subject = problem.subject, reason = problem.reason, "problem");
        }
        self.problems = problems;
    }

    /// Tells the outside what has changed since the last time.
    fn publish(&mut self) {
        let now = self.condition();
        if self.told.as_ref() != Some(&now) {
            self.report.ready(now.0, &now.1);
            self.told = Some(now);
        }
        if self.told_problems.as_ref() != Some(&self.problems) {
            self.report.problems(&self.problems);
            self.told_problems = Some(self.problems.clone());
        }
    }

    fn condition(&self) -> (bool, String) {
        let lost = self.state.lost().map(|cause| format!("; the datastore is lost: {cause}")).unwrap_or_default();
        if let Some(failure) = &self.failure {
            return (false, format!("{failure}{lost}"));
        }
        if !self.written {
            return (false, format!("waiting for the first complete snapshot of the datastore{lost}"));
        }
        if let Some(trouble) = self.link.trouble() {
            return (false, format!("{trouble}{lost}"));
        }
        if self.loaded.is_none() {
            return (false, format!("BIRD has not taken the configuration yet{lost}"));
        }
        let problems = match self.problems.len() {
            0 => String::new(),
            count => format!("; {count} problems, the first is {}", self.problems[0]),
        };
        let (up, all) = self.link.counts();
        (true, format!("{up} of {all} sessions up{problems}{lost}"))
    }
}

/// Why a template did not come into force.
enum Attempt {
    /// Another template may do better.
    Template(String),
    /// It is not the template's fault.
    Other(String),
}

impl From<FileError> for Attempt {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Refused(_) => Self::Template(error.to_string()),
            other => Self::Other(other.to_string()),
        }
    }
}
