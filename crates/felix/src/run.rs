//! The loop.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::Arc,
    time::Duration,
};

use calico_model::{AgentHealth, AnyResource, Change, KindName, RESOURCE_ROOT, ResourceKey};
use calico_policy::{Engine, Tally};
use calico_store::{Event, Kv, Store, Syncer, SyncerHandle};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use crate::{Driver, blocks::Blocks, effort::Effort};

/// Settings of the agent.
#[derive(Clone, Debug)]
pub struct Options {
    /// This host's node name.
    pub node: String,
    /// How often everything is read back from the kernel, as the net below notifications.
    pub resync: Duration,
    /// How often health is reported when nothing happens; its absence means that the loop hangs.
    pub heartbeat: Duration,
}

impl Options {
    /// Defaults for a node.
    pub fn new(node: impl Into<String>) -> Self {
        Self { node: node.into(), resync: Duration::from_secs(90), heartbeat: Duration::from_secs(5) }
    }
}

/// First wait after a failed write; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(50);
/// How often it is said that disturbances do not end.
const TELL_AGAIN: Duration = Duration::from_secs(60);
/// Longest wait between two tries of a write.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Runs felix until `shutdown` completes. The kernel keeps its state then: stopping felix stops no traffic.
///
/// # Errors
/// Only if the base rules cannot be installed: without them a host would start open.
pub async fn run<D: Driver>(
    store: &Store,
    mut driver: D,
    options: Options,
    mut report: impl FnMut(&AgentHealth),
    shutdown: impl Future<Output = ()>,
) -> Result<(), D::Error> {
    driver.install_base().await?;
    let mut felix = Felix::new(driver, store.kv().clone(), &options);
    let mut syncer = Syncer::spawn(store.kv().clone(), vec![RESOURCE_ROOT.to_owned()]);
    tokio::pin!(shutdown);
    let mut last_report: Option<Instant> = None;
    loop {
        let now = Instant::now();
        let changed = felix.refresh_health();
        if changed || last_report.is_none_or(|at| now - at >= options.heartbeat) {
            report(&felix.health);
            last_report = Some(now);
        }
        tokio::select! {
            biased;
            () = &mut shutdown => return Ok(()),
            wake = felix.next_wake(&mut syncer) => felix.handle(wake),
            () = sleep_until(now + options.heartbeat) => {}
        }
        felix.apply_if_due().await;
    }
}

/// Why the loop woke up.
enum Wake {
    Datastore(Vec<Event>),
    /// Blocks of addresses.
    Blocks(Vec<Event>),
    Disturbed,
    /// A disturbance that had to wait may be mended now.
    Mend,
    Resync,
    Retry,
}

struct Felix<D> {
    engine: Engine,
    driver: D,
    kv: Arc<dyn Kv>,
    blocks: Blocks,
    resync_every: Duration,
    /// The first snapshot is complete.
    in_sync: bool,
    /// ClusterInformation says so; upstream's operators clear it during migrations.
    datastore_ready: bool,
    /// The driver has been told all of a ready datastore at least once. What it knows since then stays in force, and is
    /// restored if somebody disturbs it, whatever becomes of the datastore.
    complete: bool,
    /// Why the datastore is away, while it is.
    lost: Option<String>,
    /// Values that cannot be read, by key.
    unreadable: BTreeMap<ResourceKey, String>,
    /// The kernel may differ from what is wanted.
    dirty: bool,
    /// Why the last write failed, if it did.
    failed: Option<String>,
    /// When to try again what failed, as a whole or for single objects.
    retry: Option<Retry>,
    /// Complaints of the dataplane about single objects.
    complaints: Vec<String>,
    next_resync: Instant,
    /// How much mending of disturbances has cost lately.
    effort: Effort,
    /// When to mend a disturbance, if not at once.
    mend_at: Option<Instant>,
    /// When it was said last that mending has to wait.
    told: Option<Instant>,
    /// The next write mends a disturbance.
    mending: bool,
    applied_once: bool,
    /// As of the last look.
    health: AgentHealth,
    /// All of them, as of the last look.
    problems: Vec<String>,
    /// The engine's version of its problems at that time, unless others than the engine's have changed since.
    problems_version: Option<u64>,
    /// Something that it tells of may have changed since.
    health_is_old: bool,
}

struct Retry {
    at: Instant,
    wait: Duration,
}

impl<D: Driver> Felix<D> {
    fn new(driver: D, kv: Arc<dyn Kv>, options: &Options) -> Self {
        Self {
            engine: Engine::new(&options.node),
            driver,
            kv,
            blocks: Blocks::default(),
            resync_every: options.resync,
            in_sync: false,
            datastore_ready: false,
            complete: false,
            lost: None,
            unreadable: BTreeMap::new(),
            dirty: false,
            failed: None,
            retry: None,
            complaints: Vec::new(),
            next_resync: Instant::now() + options.resync,
            effort: Effort::new(Instant::now()),
            mend_at: None,
            told: None,
            mending: false,
            applied_once: false,
            health: AgentHealth::default(),
            problems: Vec::new(),
            problems_version: None,
            health_is_old: true,
        }
    }

    /// Waits for whatever comes first. Cancel-safe, as all of its branches are.
    async fn next_wake(&mut self, syncer: &mut SyncerHandle) -> Wake {
        let retry_at = self.retry.as_ref().map(|retry| retry.at);
        let mend_at = self.mend_at;
        tokio::select! {
            biased;
            events = syncer.next() => match events {
                Some(events) => Wake::Datastore(events),
                // The syncer lives as long as its handle; pending keeps a bug there from becoming a busy loop.
                None => std::future::pending().await,
            },
            events = self.blocks.next() => Wake::Blocks(events),
            () = self.driver.disturbed() => Wake::Disturbed,
            () = sleep_until(retry_at.unwrap_or(self.next_resync)), if retry_at.is_some() => Wake::Retry,
            () = sleep_until(mend_at.unwrap_or(self.next_resync)), if mend_at.is_some() => Wake::Mend,
            () = sleep_until(self.next_resync) => Wake::Resync,
        }
    }

    fn handle(&mut self, wake: Wake) {
        match wake {
            Wake::Datastore(events) => self.absorb(events),
            Wake::Blocks(events) => {
                self.health_is_old = true;
                self.blocks.absorb(events, &mut self.engine);
                self.flush_engine();
            }
            Wake::Disturbed => self.disturbed(),
            Wake::Mend => self.mend(),
            // A write that failed left the kernel in a state that nobody knows.
            Wake::Retry | Wake::Resync => {
                self.driver.distrust();
                self.dirty = true;
            }
        }
        if self.next_resync <= Instant::now() {
            self.next_resync = Instant::now() + self.resync_every;
        }
    }

    /// Mends at once, unless somebody disturbs all the time.
    fn disturbed(&mut self) {
        let now = Instant::now();
        match self.effort.wait_until(now) {
            None => self.mend(),
            Some(at) if self.mend_at.is_none() => {
                if self.told.is_none_or(|told| now - told >= TELL_AGAIN) {
                    self.told = Some(now);
                    warn!("somebody changes our rules, routes or interfaces all the time; mending them waits");
                }
                self.mend_at = Some(at);
            }
            Some(_) => {}
        }
    }

    fn mend(&mut self) {
        self.mend_at = None;
        self.mending = true;
        self.dirty = true;
    }

    fn absorb(&mut self, events: Vec<Event>) {
        self.health_is_old = true;
        for event in events {
            match event {
                Event::Change(change) => self.absorb_change(change),
                Event::Raw(_) => {}
                Event::Unreadable(error) => {
                    warn!(%error, "record not usable; what it governs is closed");
                    let (key, reason) = (error.key().clone(), error.to_string());
                    self.absorb_change(error.into());
                    self.unreadable.insert(key, reason);
                }
                Event::InSync => {
                    info!("datastore snapshot complete");
                    self.in_sync = true;
                }
                Event::Lost { cause } => {
                    warn!(%cause, "datastore lost; rules and routes stay as they are");
                    self.lost = Some(cause);
                }
                Event::Back => {
                    info!("datastore is back");
                    self.lost = None;
                }
            }
        }
        self.flush_engine();
    }

    fn absorb_change(&mut self, change: Change) {
        let key = match &change {
            Change::Set { key, resource } => {
                if let AnyResource::ClusterInformation(cluster) = &**resource {
                    self.datastore_ready = cluster.spec.datastore_ready == Some(true);
                }
                key
            }
            Change::Remove { key } | Change::Unusable { key, .. } => {
                if key.kind == KindName::ClusterInformation {
                    self.datastore_ready = false;
                }
                key
            }
        };
        debug!(%key, "changed");
        self.unreadable.remove(key);
        self.engine.absorb(change);
    }

    /// Moves what the engine computed to the dataplane, but never before the first complete snapshot: half a
    /// snapshot would look like deletions.
    fn flush_engine(&mut self) {
        if !self.in_sync || !self.datastore_ready {
            return;
        }
        self.blocks.follow(self.engine.wants_blocks(), &self.kv, &mut self.engine);
        // Without all blocks, routes of an earlier run would look unwanted.
        if !self.complete && !self.blocks.are_known() {
            return;
        }
        self.complete = true;
        for instruction in self.engine.flush() {
            self.dirty = true;
            self.driver.absorb(instruction);
        }
        self.dirty |= !self.applied_once;
    }

    async fn apply_if_due(&mut self) {
        let waiting = self.failed.is_some() && self.retry.as_ref().is_some_and(|retry| retry.at > Instant::now());
        if !self.dirty || waiting {
            return;
        }
        let started = Instant::now();
        self.health_is_old = true;
        if self.complete {
            self.apply().await;
        } else {
            self.restore_base().await;
        }
        if std::mem::take(&mut self.mending) {
            self.effort.add(started, Instant::now());
        }
    }

    async fn apply(&mut self) {
        match self.driver.apply().await {
            Ok(applied) => {
                for complaint in applied.complaints.iter().filter(|complaint| !self.complaints.contains(complaint)) {
                    warn!(%complaint, "not everything could be programmed");
                }
                if self.complaints != applied.complaints {
                    self.problems_version = None;
                    self.complaints = applied.complaints;
                }
                self.dirty = false;
                self.failed = None;
                self.retry = applied.retry.then(|| self.next_retry());
                if !std::mem::replace(&mut self.applied_once, true) {
                    info!(endpoints = self.engine.tally().endpoints, "kernel in sync with the datastore");
                }
            }
            Err(error) => self.write_failed(&error),
        }
    }

    /// All that may be written before the datastore is known: a host whose rules somebody flushed is closed again.
    async fn restore_base(&mut self) {
        match self.driver.install_base().await {
            Ok(()) => {
                self.dirty = false;
                self.failed = None;
                self.retry = None;
            }
            Err(error) => self.write_failed(&error),
        }
    }

    fn write_failed(&mut self, error: &D::Error) {
        let retry = self.next_retry();
        warn!(%error, wait = ?retry.wait, "kernel not updated; trying again");
        self.failed = Some(error.to_string());
        self.retry = Some(retry);
    }

    /// The next try of what failed: each twice as far away as the one before.
    fn next_retry(&self) -> Retry {
        let wait = self.retry.as_ref().map_or(RETRY_MIN, |retry| (retry.wait * 2).min(RETRY_MAX));
        Retry { at: Instant::now() + wait, wait }
    }

    /// Brings [`health`](Self::health) up to date, and says what has come to be wrong. True if it has changed.
    fn refresh_health(&mut self) -> bool {
        if !std::mem::take(&mut self.health_is_old) {
            return false;
        }
        let tally = self.engine.tally();
        let mut health = AgentHealth {
            ready: self.applied_once && self.failed.is_none(),
            reason: self.reason(tally),
            gauges: gauges(tally),
            ..AgentHealth::default()
        };
        self.refresh_problems();
        health.set_problems(self.problems.iter().cloned());
        let changed = health != self.health;
        self.health = health;
        changed
    }

    /// The engine knows cheaply when its problems may be others; most changes concern other hosts.
    fn refresh_problems(&mut self) {
        let version = self.engine.problems_version();
        if self.problems_version.replace(version) == Some(version) {
            return;
        }
        let mut problems: Vec<String> = self.unreadable.values().cloned().collect();
        let found = self.engine.problems();
        let told = found.iter().filter(|problem| !self.unreadable.contains_key(&problem.object));
        problems.extend(told.map(ToString::to_string));
        problems.extend(self.complaints.iter().cloned());
        // Records that cannot be read and complaints of the driver have been told when they came.
        let told = self.problems.iter().chain(self.unreadable.values()).chain(&self.complaints);
        let told: BTreeSet<&String> = told.collect();
        for problem in problems.iter().filter(|problem| !told.contains(problem)) {
            warn!(%problem, "closed or left out");
        }
        self.problems = problems;
    }

    fn reason(&self, tally: Tally) -> String {
        if let Some(cause) = &self.failed {
            format!("the kernel could not be updated: {cause}")
        } else if !self.in_sync {
            match &self.lost {
                Some(cause) => format!("waiting for the datastore: {cause}"),
                None => "reading the datastore".to_owned(),
            }
        } else if !self.datastore_ready {
            let kept = if self.complete { ", the last known state is in force" } else { "" };
            format!("the datastore is not initialised or not ready (ClusterInformation){kept}")
        } else if !self.complete {
            "reading the blocks of addresses".to_owned()
        } else if let Some(cause) = &self.lost {
            format!("the datastore is unreachable, the last known state is in force: {cause}")
        } else {
            match tally.host_endpoints {
                0 => format!("{} local endpoints in force", tally.endpoints),
                hosts => format!("{} local endpoints and {hosts} host endpoints in force", tally.endpoints),
            }
        }
    }
}

/// By the names that upstream's Felix has for them, as far as it has any.
fn gauges(tally: Tally) -> BTreeMap<String, u64> {
    let Tally { endpoints, host_endpoints, policies, profiles, sets } = tally;
    let numbers = [
        ("felix_active_local_endpoints", endpoints),
        ("felix_active_local_host_endpoints", host_endpoints),
        ("felix_active_local_policies", policies),
        ("felix_active_local_profiles", profiles),
        ("felix_active_local_selectors", sets),
    ];
    numbers.map(|(name, number)| (name.to_owned(), number as u64)).into()
}

#[cfg(test)]
mod tests;
