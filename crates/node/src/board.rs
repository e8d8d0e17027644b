//! The board on which the supervised processes' states stand: what `/healthz`, `calico-node health` and
//! `calicoctl status` show.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use calico_model::AgentHealth;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, futures::Notified};

use crate::crew::FORMER_DATASTORE;

/// A process that said nothing for this long hangs.
pub(crate) const SILENCE: Duration = Duration::from_secs(30);

/// What a process does that has not reported yet.
const STARTING: &str = "starting";

/// The whole service's health.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Health {
    pub(crate) node: String,
    pub(crate) live: bool,
    pub(crate) ready: bool,
    pub(crate) components: Vec<Component>,
}

/// One process's health.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Component {
    pub(crate) name: String,
    /// Runs, and answered lately.
    pub(crate) live: bool,
    /// Does its work.
    pub(crate) ready: bool,
    /// Process id, while it runs.
    pub(crate) pid: Option<u32>,
    /// Start of the process, seconds since 1970.
    pub(crate) since: Option<u64>,
    /// How often it was started again.
    pub(crate) restarts: u32,
    /// One line: why not ready, or what it does.
    pub(crate) reason: String,
    /// Objects that it leaves out, each with the reason.
    pub(crate) problems: Vec<String>,
    /// How many there are, also of those not listed.
    #[serde(default)]
    pub(crate) problem_count: usize,
    /// Numbers for `/metrics`, by their whole name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) gauges: BTreeMap<String, u64>,
}

/// How a process ended.
#[derive(Debug)]
pub(crate) struct End {
    /// In words.
    pub(crate) why: String,
    /// Its last report says more: it ended by itself, with a failure.
    pub(crate) has_said_why: bool,
}

impl End {
    /// One that its process said nothing about.
    pub(crate) fn of(why: String) -> Self {
        Self { why, has_said_why: false }
    }
}

#[derive(Default)]
struct State {
    pid: Option<u32>,
    since: Option<u64>,
    starts: u32,
    heard: Option<Instant>,
    report: AgentHealth,
}

/// Shared by the supervisor's tasks and the health server.
pub(crate) struct Board {
    node: String,
    /// Without these the service is live and ready all the same.
    optional: Mutex<BTreeSet<&'static str>>,
    states: Mutex<BTreeMap<&'static str, State>>,
    changed: Notify,
}

impl Board {
    pub(crate) fn new(node: &str, names: &[&'static str], optional: &'static [&'static str]) -> Self {
        let waiting = || State {
            report: AgentHealth { reason: "not started yet".into(), ..AgentHealth::default() },
            ..State::default()
        };
        Self {
            node: node.to_owned(),
            optional: Mutex::new(optional.iter().copied().chain([FORMER_DATASTORE]).collect()),
            states: Mutex::new(names.iter().map(|name| (*name, waiting())).collect()),
            changed: Notify::new(),
        }
    }

    /// The states are plain values, whole after every statement: a panic elsewhere cannot leave them half written.
    fn states(&self) -> MutexGuard<'_, BTreeMap<&'static str, State>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn started(&self, name: &'static str, pid: Option<u32>) {
        {
            let mut states = self.states();
            // Some processes are wanted only later, and stand on the board from then on.
            let state = states.entry(name).or_default();
            state.pid = pid;
            state.since = SystemTime::now().duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs());
            state.starts += 1;
            state.heard = Some(Instant::now());
            state.report = AgentHealth { reason: STARTING.into(), ..AgentHealth::default() };
        }
        self.changed.notify_waiters();
    }

    pub(crate) fn ended(&self, name: &'static str, end: &End) {
        if let Some(state) = self.states().get_mut(name) {
            state.pid = None;
            state.since = None;
            state.heard = None;
            let last = std::mem::take(&mut state.report);
            let has_words = end.has_said_why && !last.ready && last.reason != STARTING;
            let reason = if has_words { format!("{}: {}", end.why, last.reason) } else { end.why.clone() };
            state.report.reason = reason;
        }
        self.changed.notify_waiters();
    }

    pub(crate) fn reported(&self, name: &'static str, report: AgentHealth) {
        if let Some(state) = self.states().get_mut(name) {
            state.heard = Some(Instant::now());
            state.report = report;
        }
        self.changed.notify_waiters();
    }

    /// A component was asked and did not answer: not ready, and after [`SILENCE`] not live.
    pub(crate) fn unheard(&self, name: &'static str, why: &str) {
        if let Some(state) = self.states().get_mut(name) {
            state.report = AgentHealth { reason: why.to_owned(), ..AgentHealth::default() };
        }
        self.changed.notify_waiters();
    }

    /// Process id of a component, while it runs.
    pub(crate) fn pid(&self, name: &str) -> Option<u32> {
        self.states().get(name).and_then(|state| state.pid)
    }

    /// Whether one component does its work.
    pub(crate) fn is_ready(&self, name: &str, now: Instant) -> bool {
        self.states().get(name).is_some_and(|state| component(name, state, now).ready)
    }

    /// Says whether the service is whole without a component.
    pub(crate) fn set_optional(&self, name: &'static str, optional: bool) {
        {
            let mut all = self.optional();
            if optional {
                all.insert(name)
            } else {
                all.remove(name)
            };
        }
        self.changed.notify_waiters();
    }

    /// A set is whole after every call on it: a panic elsewhere cannot leave it half written.
    fn optional(&self) -> MutexGuard<'_, BTreeSet<&'static str>> {
        self.optional.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_optional(&self, component: &Component) -> bool {
        self.optional().contains(component.name.as_str())
    }

    /// The components that are not ready and ought to be.
    pub(crate) fn lacking(&self, now: Instant) -> Vec<Component> {
        let components = self.health(now).components.into_iter();
        components.filter(|component| !component.ready && !self.is_optional(component)).collect()
    }

    /// One component, if it is on the board.
    pub(crate) fn component(&self, name: &str, now: Instant) -> Option<Component> {
        self.states().get(name).map(|state| component(name, state, now))
    }

    /// Completes at the first change after this call, even if it is awaited later.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    pub(crate) fn health(&self, now: Instant) -> Health {
        let components: Vec<Component> =
            self.states().iter().map(|(name, state)| component(name, state, now)).collect();
        Health {
            node: self.node.clone(),
            live: components.iter().all(|component| component.live || self.is_optional(component)),
            ready: components.iter().all(|component| component.ready || self.is_optional(component)),
            components,
        }
    }
}

fn component(name: &str, state: &State, now: Instant) -> Component {
    let heard = state.heard.is_some_and(|heard| now.saturating_duration_since(heard) < SILENCE);
    let live = state.pid.is_some() && heard;
    let reason = if state.pid.is_some() && !heard {
        format!("runs, but has not answered for {} s", SILENCE.as_secs())
    } else {
        state.report.reason.clone()
    };
    Component {
        name: name.to_owned(),
        live,
        ready: live && state.report.ready,
        pid: state.pid,
        since: state.since,
        restarts: state.starts.saturating_sub(1),
        reason,
        problems: state.report.problems.clone(),
        problem_count: state.report.problem_count,
        gauges: state.report.gauges.clone(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ready_only_while_it_runs_and_answers() {
        let board = Board::new("h1", &["felix"], &[]);
        let at = |now| board.health(now).components.remove(0);
        let now = Instant::now();
        assert!(!at(now).live && at(now).reason == "not started yet");
        board.started("felix", Some(7));
        assert!(at(Instant::now()).live && !board.health(Instant::now()).ready);
        board.reported("felix", AgentHealth { ready: true, reason: "in force".into(), ..AgentHealth::default() });
        assert!(board.health(Instant::now()).ready && board.is_ready("felix", Instant::now()));
        let silent = at(Instant::now() + SILENCE);
        assert!(!silent.live && !silent.ready && silent.reason.contains("not answered"));
        board.unheard("felix", "no answer");
        let unheard = at(Instant::now());
        assert!(unheard.live && !unheard.ready && unheard.reason == "no answer");
        assert!(!at(Instant::now() + SILENCE).live, "a failed question is no answer");
        board.ended("felix", &End::of("killed by signal 9".into()));
        assert!(!at(Instant::now()).live && at(Instant::now()).reason == "killed by signal 9");
        board.started("felix", Some(8));
        assert_eq!(at(Instant::now()).restarts, 1);
    }

    #[test]
    fn whoever_fails_has_the_last_word_and_latecomers_find_a_place() {
        let board = Board::new("h1", &["felix"], &["libnetwork"]);
        let code = || End { why: "ended with code 1".into(), has_said_why: true };
        board.started("libnetwork", Some(6));
        board.started("felix", Some(5));
        board.reported("felix", AgentHealth { ready: true, ..AgentHealth::default() });
        board.started(FORMER_DATASTORE, None);
        assert!(board.health(Instant::now()).ready && board.lacking(Instant::now()).is_empty(), "it goes without");
        let reason = || board.component("datastore", Instant::now()).unwrap().reason;
        assert!(board.component("datastore", Instant::now()).is_none());
        board.started("datastore", Some(7));
        board.ended("datastore", &code());
        assert_eq!(reason(), "ended with code 1", "it said nothing");
        assert_eq!(board.lacking(Instant::now())[0].name, "datastore");
        board.set_optional("datastore", true);
        assert!(
            board.health(Instant::now()).ready && board.lacking(Instant::now()).is_empty(),
            "the cluster has left it"
        );
        board.set_optional("datastore", false);
        assert!(!board.health(Instant::now()).live && !board.health(Instant::now()).ready, "and has come back");
        board.started("datastore", Some(8));
        board.reported("datastore", AgentHealth { reason: "the file is damaged".into(), ..AgentHealth::default() });
        board.ended("datastore", &code());
        assert_eq!(reason(), "ended with code 1: the file is damaged");
        board.reported("datastore", AgentHealth { ready: true, reason: "all well".into(), ..AgentHealth::default() });
        board.ended("datastore", &code());
        assert_eq!(reason(), "ended with code 1", "what it said while it was well explains nothing");
    }
}
