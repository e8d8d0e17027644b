//! What the datastore says of itself to the supervisor.

use std::{collections::BTreeMap, convert::Infallible, time::Duration};

use calico_model::AgentHealth;
use tokio::time;

use crate::{Datastore, Status};

/// How often it looks at itself and reports.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Reports for ever.
pub(super) async fn report(datastore: &Datastore, mut report: impl FnMut(&AgentHealth)) -> Infallible {
    let mut heartbeat = time::interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    loop {
        heartbeat.tick().await;
        report(&health(&datastore.status()));
    }
}

/// A datastore whose disk is full, or fails, still answers every read: it is ready, with a problem.
pub(super) fn health(status: &Status) -> AgentHealth {
    let gauge = |name: &str, value: u64| (format!("calico_datastore_{name}"), value);
    let gauges = BTreeMap::from([
        gauge("revision", u64::try_from(status.revision).unwrap_or(0)),
        gauge("bytes", status.bytes),
        gauge("bytes_in_use", status.bytes_in_use),
        gauge("history_bytes", u64::try_from(status.history_bytes).unwrap_or(u64::MAX)),
        gauge("full", u64::from(status.full)),
    ]);
    let reason = format!("revision {}, {} KiB on disk", status.revision, status.bytes / 1024);
    let mut health = AgentHealth { ready: true, reason, gauges, ..AgentHealth::default() };
    let mut problems: Vec<String> = status.trouble.iter().cloned().collect();
    if status.full && problems.is_empty() {
        problems.push("the disk is full: writes are refused until there is room".to_owned());
    }
    health.set_problems(problems.into_iter());
    health
}
