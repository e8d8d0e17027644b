//! The reconciler: follows Docker and the records of networks, and does what only Docker's names and labels allow.
//!
//! It is a task beside the one that answers Docker, so neither waits for the other. Rounds begin after events, which are
//! gathered for some milliseconds, and every few minutes; each reads everything anew ([`crate::plan`]). A step that
//! fails is told and tried again in a later round with growing pauses; the other steps are made all the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::pending,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use calico_ipam::{Ipam, ReleaseRequest};
use calico_model::{AgentHealth, IPPoolSpec, ProfileSpec, WorkloadEndpoint};
use calico_store::{Error, Event, Store, Syncer, SyncerHandle};
use futures::{StreamExt, stream::BoxStream};
use time::OffsetDateTime;
use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    dead::Living,
    docker::{Engine, State},
    endpoint::{EndpointId, stored_addresses},
    ipam::{TIMESTAMP, is_ours},
    kernel::Kernel,
    network::{local_endpoints, remove_record},
    plan::{GRACE, Plan, Seen, Step, is_past_grace, plan},
    pools::is_made_by_us,
    profile, record, retire,
};

/// Events that come within this time after the first make one round: Docker tells several for one container.
const GATHER: Duration = Duration::from_millis(3);
/// Between two rounds without any event.
const SLOW: Duration = Duration::from_secs(300);
/// The first and the longest pause before what failed is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Between two looks for a Docker that is away: a container that starts with it is closed until it is found.
const LOOK: Duration = Duration::from_secs(1);
/// Health is told this often even if nothing changes.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// The reconciler of a node.
pub(crate) struct Follower {
    node: String,
    store: Store,
    ipam: Ipam,
    kernel: Arc<dyn Kernel>,
    engine: Arc<dyn Engine>,
    living: Living,
    /// What was said before, so that the log says it once.
    told: BTreeSet<String>,
    /// Endpoints that Docker shows and that are not stored; losing it only means to wait once more.
    missing: BTreeMap<String, OffsetDateTime>,
}

/// What a round came to.
#[derive(Debug, Default)]
struct Round {
    problems: Vec<String>,
    /// A step failed.
    failed: bool,
    /// Something is too young to be judged; the next round is due then at the latest.
    again: Option<Duration>,
    networks: usize,
    endpoints: usize,
}

impl Follower {
    /// `living` is kept up to date for those who answer Docker.
    pub(crate) fn new(
        node: &str,
        store: &Store,
        kernel: Arc<dyn Kernel>,
        engine: Arc<dyn Engine>,
        living: Living,
    ) -> Self {
        Self {
            node: node.to_owned(),
            store: store.clone(),
            ipam: Ipam::new(store.clone()),
            kernel,
            engine,
            living,
            told: BTreeSet::new(),
            missing: BTreeMap::new(),
        }
    }

    /// Follows until dropped. Safe to drop between any two steps: the next start goes on from what it sees.
    pub(crate) async fn run(mut self, mut report: impl FnMut(&AgentHealth)) {
        let mut records = Syncer::spawn(self.store.kv().clone(), vec![record::NETWORK_ROOT.to_owned()]);
        let mut events: Option<BoxStream<'static, ()>> = None;
        let mut pause = RETRY.0;
        let mut next = Instant::now();
        // Address by address what looks unused is judged only now and then: that reads all blocks.
        let mut next_sweep = Instant::now();
        let mut health = AgentHealth { reason: "starting".to_owned(), ..AgentHealth::default() };
        report(&health);
        loop {
            let woken = wait(&mut records, &mut events, next).await;
            if matches!(woken, Woken::Heartbeat) {
                report(&health);
                continue;
            }
            if matches!(woken, Woken::DockerGone) {
                events = None;
                self.living.forget();
            }
            if events.is_none() {
                match self.engine.events().await {
                    Ok(stream) => {
                        tracing::info!("following Docker");
                        // Its end may be met while events are gathered, and is looked for again afterwards.
                        (events, next_sweep) = (Some(stream.fuse().boxed()), Instant::now());
                    }
                    Err(reason) => {
                        if self.told.insert(reason.clone()) {
                            tracing::warn!(reason, "Docker is not followed; endpoints stay as they are");
                        }
                        health = AgentHealth { reason, ..AgentHealth::default() };
                        report(&health);
                        next = Instant::now() + LOOK;
                        continue;
                    }
                }
            }
            gather(&mut records, &mut events).await;
            let sweep = Instant::now() >= next_sweep;
            let (told, failed, again) = match self.round(sweep).await {
                Ok(round) => (in_words(&round), round.failed, round.again),
                Err(reason) => (AgentHealth { reason, ..AgentHealth::default() }, true, None),
            };
            health = told;
            report(&health);
            let now = Instant::now();
            pause = if failed { (pause * 2).min(RETRY.1) } else { RETRY.0 };
            if sweep && !failed {
                next_sweep = now + again.unwrap_or(SLOW).min(SLOW);
            }
            let due = again.map_or(next_sweep, |again| next_sweep.min(now + again));
            next = if failed { due.min(now + pause) } else { due };
        }
    }

    /// One round: looks, decides, acts.
    async fn round(&mut self, sweep: bool) -> Result<Round, String> {
        let docker = self.engine.look().await?;
        self.living.note(&docker);
        let in_words = |error: Error| error.to_string();
        let (records, unreadable) = record::list(&**self.store.kv()).await.map_err(in_words)?;
        let noted = record::all_noted(&**self.store.kv(), &self.node).await.map_err(in_words)?;
        let endpoints = local_endpoints(&self.store, &self.node).await.map_err(in_words)?;
        let seen = Seen {
            node: &self.node,
            now: OffsetDateTime::now_utc(),
            docker: &docker,
            records: &records,
            endpoints: &endpoints,
            noted: &noted,
            unreadable: !unreadable.is_empty(),
            missing: &self.missing,
        };
        let Plan { steps, mut problems, again, missing } = plan(&seen);
        self.missing = missing;
        problems.extend(unreadable);
        let mut round = Round { again: again.map(pause_of), ..Round::default() };
        round.networks = docker.networks.iter().filter(|network| network.is_calico()).count();
        round.endpoints = endpoints.len();
        for step in steps {
            if let Err(reason) = self.act(&step).await {
                problems.push(reason);
                round.failed = true;
            }
        }
        if sweep {
            match self.sweep(&docker).await {
                Ok(true) => round.again = Some(round.again.map_or(pause_of(GRACE), |again| again.min(pause_of(GRACE)))),
                Ok(false) => {}
                Err(reason) => {
                    problems.push(reason);
                    round.failed = true;
                }
            }
        }
        self.tell(&problems);
        round.problems = problems;
        Ok(round)
    }

    /// Logs what is new among the problems.
    fn tell(&mut self, problems: &[String]) {
        let now: BTreeSet<String> = problems.iter().cloned().collect();
        for problem in now.difference(&self.told) {
            tracing::warn!("{problem}");
        }
        self.told = now;
    }

    async fn act(&self, step: &Step) -> Result<(), String> {
        let kv = &**self.store.kv();
        let in_words = |error: Error| error.to_string();
        match step {
            Step::Note(network) => record::note(kv, &self.node, network).await.map_err(in_words),
            Step::Forget(id) => record::forget(kv, &self.node, id).await.map_err(in_words),
            Step::CreateRecord(wanted) => {
                if record::create(kv, wanted).await.map_err(in_words)? {
                    tracing::info!(network = wanted.name, "the network is recorded, other hosts follow");
                }
                Ok(())
            }
            Step::DeleteRecord(stored) => {
                record::delete(kv, stored).await.map_err(in_words)?;
                let name = &stored.record.name;
                tracing::info!(network = name, "the network was removed, so is its record");
                retire::profiles(&self.store, &[calico_model::normalise(name)].into()).await.map_err(in_words)?;
                // Docker gave them back while the record still had them.
                for subnet in &stored.record.subnets {
                    retire::pool(&self.store, &self.ipam, *subnet).await?;
                }
                Ok(())
            }
            Step::CreateNetwork(record) => {
                self.engine.create_network(record).await?;
                tracing::info!(network = record.name, origin = record.origin, "the network is made here too");
                Ok(())
            }
            Step::RemoveNetwork { id, name } => {
                self.engine.remove_network(id).await?;
                tracing::info!(network = name, "the network was removed where it came from, and is removed here");
                // Where it came from the profile could not go while it was in use here.
                let (records, unreadable) = record::list(kv).await.map_err(in_words)?;
                if records.contains_key(name) || !unreadable.is_empty() {
                    return Ok(());
                }
                retire::profiles(&self.store, &[calico_model::normalise(name)].into()).await.map_err(in_words)
            }
            Step::Profile { name, internal } => self.ensure_profile(name, *internal).await.map_err(in_words),
            Step::CreateEndpoint(endpoint) => match self.store.create((**endpoint).clone()).await {
                Ok(_) | Err(Error::AlreadyExists { .. }) => Ok(()),
                Err(error) => Err(error.to_string()),
            },
            Step::UpdateEndpoint(endpoint) => self.update(endpoint).await,
            Step::RemoveEndpoint(endpoint) => self.remove(endpoint).await,
        }
    }

    async fn ensure_profile(&self, name: &calico_model::ProfileName, internal: bool) -> Result<(), Error> {
        match self.store.get::<ProfileSpec>(name.as_stored()).await {
            Err(Error::NotFound { .. }) => {}
            // One that people made beforehand is what they want the network to be.
            Ok(_) | Err(Error::Corrupt { .. }) => return Ok(()),
            Err(error) => return Err(error),
        }
        match self.store.create(profile::of_network(name, internal)).await {
            Ok(_) => {
                tracing::info!(profile = name.as_typed(), "the network has a profile");
                Ok(())
            }
            Err(Error::AlreadyExists { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Opens an endpoint. One that has changed since it was read is left to the next round, which an event of that
    /// change does not start; so it is tried again.
    async fn update(&self, endpoint: &WorkloadEndpoint) -> Result<(), String> {
        match self.store.update(endpoint.clone()).await {
            Ok(_) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(format!("endpoint {} is not brought up to date: {error}", endpoint.name())),
        }
    }

    /// Removes what Docker has forgotten: interface, record, address.
    async fn remove(&self, endpoint: &WorkloadEndpoint) -> Result<(), String> {
        let id = EndpointId::parse(&endpoint.spec.endpoint)?;
        self.kernel.remove(&id.host_interface()).await?;
        remove_record(&self.store, &endpoint.key()).await.map_err(|error| error.to_string())?;
        tracing::info!(endpoint = endpoint.name(), "removed: Docker does not have it any more");
        let addresses: BTreeSet<IpAddr> = stored_addresses(endpoint).collect();
        self.release(|address| addresses.contains(&address)).await.map(drop)
    }

    /// Gives back addresses that neither an endpoint nor a network has, and takes away pools and profiles that no network
    /// has; `true` if something is too young to be judged.
    async fn sweep(&self, docker: &State) -> Result<bool, String> {
        let in_words = |error: Error| error.to_string();
        let endpoints = local_endpoints(&self.store, &self.node).await.map_err(in_words)?;
        let mut used: BTreeSet<IpAddr> = endpoints.iter().flat_map(stored_addresses).collect();
        used.extend(docker.networks.iter().flat_map(|network| &network.auxiliary));
        for endpoint in docker.networks.iter().flat_map(|network| network.endpoints.values()) {
            let texts = [&endpoint.address4, &endpoint.address6];
            used.extend(texts.iter().filter_map(|text| text.split('/').next()?.parse::<IpAddr>().ok()));
        }
        let waiting = self.release(|address| !used.contains(&address)).await?;
        self.retire().await?;
        Ok(waiting)
    }

    /// Releases addresses of this node's that `is_unused` says; `true` if one is too young.
    async fn release(&self, is_unused: impl Fn(IpAddr) -> bool) -> Result<bool, String> {
        let now = OffsetDateTime::now_utc();
        let (mut requests, mut waiting) = (Vec::new(), false);
        for block in self.ipam.all_blocks().await.map_err(|error| error.to_string())? {
            for address in block.in_use().filter(|address| is_unused(*address)) {
                let Some(ordinal) = block.ordinal(address) else { continue };
                let Some(attribute) = block.attribute(ordinal) else { continue };
                let Some(handle) = attribute.handle().filter(|handle| is_ours(handle, &self.node)) else { continue };
                let at = attribute.secondary.as_ref().and_then(|notes| notes.get(TIMESTAMP)).map(String::as_str);
                if attribute.released_at.is_some() {
                    continue;
                }
                if !is_past_grace(at, now) {
                    waiting = true;
                    continue;
                }
                let sequence = Some(block.sequence(ordinal));
                requests.push(ReleaseRequest { address, handle: Some(handle), sequence });
            }
        }
        if requests.is_empty() {
            return Ok(waiting);
        }
        match self.ipam.release_ips(&requests).await {
            Ok(released) => {
                tracing::info!(addresses = ?released.released, "given back: nothing has them");
                Ok(waiting)
            }
            // Assigned anew meanwhile, so they are used.
            Err(calico_ipam::ReleaseError::Mismatch { .. }) => Ok(true),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Takes away pools and profiles that were made for networks that are gone.
    async fn retire(&self) -> Result<(), String> {
        let in_words = |error: Error| error.to_string();
        let (records, unreadable) = record::list(&**self.store.kv()).await.map_err(in_words)?;
        if !unreadable.is_empty() {
            return Ok(());
        }
        let now = OffsetDateTime::now_utc();
        let (pools, _) = self.store.list::<IPPoolSpec>().await.map_err(in_words)?;
        for pool in pools.iter().filter(|pool| is_made_by_us(&pool.metadata.annotations)) {
            if is_past_grace(pool.metadata.creation_timestamp.as_deref(), now) {
                retire::pool(&self.store, &self.ipam, pool.spec.cidr).await?;
            }
        }
        let named: BTreeSet<String> = records.keys().map(|name| calico_model::normalise(name)).collect();
        let (profiles, _) = self.store.list::<ProfileSpec>().await.map_err(in_words)?;
        let orphans = profiles.iter().filter(|profile| {
            let metadata = &profile.metadata;
            is_made_by_us(&metadata.annotations)
                && !named.contains(&metadata.name)
                && is_past_grace(metadata.creation_timestamp.as_deref(), now)
        });
        let orphans = orphans.map(|profile| profile.name().to_owned()).collect();
        retire::profiles(&self.store, &orphans).await.map_err(in_words)
    }
}

/// How long to wait until something is old enough: a little longer, so that it is.
fn pause_of(age: time::Duration) -> Duration {
    age.max(time::Duration::ZERO).unsigned_abs() + Duration::from_millis(500)
}

/// Why the loop goes on.
enum Woken {
    Changed,
    DockerGone,
    Heartbeat,
}

async fn wait(records: &mut SyncerHandle, events: &mut Option<BoxStream<'static, ()>>, next: Instant) -> Woken {
    let heartbeat = Instant::now() + HEARTBEAT;
    tokio::select! {
        changed = changed(records) => { if changed { Woken::Changed } else { pending().await } },
        event = docker_event(events) => if event { Woken::Changed } else { Woken::DockerGone },
        () = sleep_until(next) => Woken::Changed,
        () = sleep_until(heartbeat) => Woken::Heartbeat,
    }
}

/// Waits for a change of a record.
async fn changed(records: &mut SyncerHandle) -> bool {
    while let Some(batch) = records.next().await {
        if batch.iter().any(|event| matches!(event, Event::Raw(_) | Event::InSync | Event::Back)) {
            return true;
        }
    }
    false
}

/// Waits for an event of Docker's; `false` when the stream is over.
async fn docker_event(events: &mut Option<BoxStream<'static, ()>>) -> bool {
    match events {
        Some(events) => events.next().await.is_some(),
        None => pending().await,
    }
}

/// Takes what comes within a moment.
async fn gather(records: &mut SyncerHandle, events: &mut Option<BoxStream<'static, ()>>) {
    let end = Instant::now() + GATHER;
    loop {
        tokio::select! {
            () = sleep_until(end) => return,
            more = docker_event(events) => if !more { return sleep(Duration::ZERO).await },
            more = changed(records) => if !more { return },
        }
    }
}

fn in_words(round: &Round) -> AgentHealth {
    let mut health = AgentHealth {
        ready: !round.failed,
        reason: match round.failed {
            true => "some networks or endpoints are not as they should be; trying again".to_owned(),
            false => format!("{} networks, {} endpoints", round.networks, round.endpoints),
        },
        gauges: BTreeMap::from([
            ("libnetwork_networks".to_owned(), round.networks as u64),
            ("libnetwork_endpoints".to_owned(), round.endpoints as u64),
        ]),
        ..AgentHealth::default()
    };
    health.set_problems(round.problems.iter().cloned());
    health
}
