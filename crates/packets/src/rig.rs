//! Hosts with agents, and everything around them.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use calico_model::{Change, ResourceKey};

use crate::{
    Agent, Applied, Namespace,
    prober::{Answer, Manner, Outcome, Place, Probe, Prober},
    topology::Topology,
    wire::{self, Content},
};

/// How long a round listens for packets that should not come. Delivery takes microseconds, and what comes later all
/// the same is noticed.
pub const SILENCE: Duration = Duration::from_millis(60);
/// How long it listens for an answer that should come, when the machine was too busy for it the first time.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// Plays all of `work` on so many rigs at once, each made by `build` in a thread of its own.
///
/// # Panics
/// If one of the threads does.
pub fn spread<T: Sync>(rigs: usize, work: &[T], build: impl Fn() -> Rig + Sync, play: impl Fn(&mut Rig, &T) + Sync) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..rigs.min(work.len()) {
            scope.spawn(|| {
                let mut rig = build();
                while let Some(piece) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                    play(&mut rig, piece);
                }
            });
        }
    });
}

/// All that stands in the datastore, as felix' syncer would tell of it: resources, and objects that cannot be used.
pub type State = BTreeMap<ResourceKey, Change>;

/// What is written, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// nftables.
    Nftables,
    /// `iptables-nft` and ipset.
    IptablesNft,
    /// `iptables-legacy` and ipset.
    IptablesLegacy,
}

impl Backend {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Nftables, Self::IptablesNft, Self::IptablesLegacy];

    /// The members of a FelixConfiguration that choose it.
    pub fn settings(self) -> [(&'static str, &'static str); 2] {
        match self {
            Self::Nftables => [("nftablesMode", "Enabled"), ("iptablesBackend", "Auto")],
            Self::IptablesNft => [("nftablesMode", "Disabled"), ("iptablesBackend", "NFT")],
            Self::IptablesLegacy => [("nftablesMode", "Disabled"), ("iptablesBackend", "Legacy")],
        }
    }

    /// The back ends that a run is about: those that the environment variable BACKENDS names, separated by commas, or
    /// all.
    ///
    /// # Panics
    /// If it names none.
    pub fn chosen() -> Vec<Self> {
        let Ok(names) = std::env::var("BACKENDS") else { return Self::ALL.to_vec() };
        let named = |name: &str| Self::ALL.into_iter().find(|backend| backend.to_string() == name);
        names.split(',').map(|name| named(name).unwrap_or_else(|| panic!("BACKENDS: {name} is none"))).collect()
    }
}

impl std::fmt::Display for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Nftables => "nftables",
            Self::IptablesNft => "iptables-nft",
            Self::IptablesLegacy => "iptables-legacy",
        })
    }
}

/// Hosts with their agents and all parties around them.
pub struct Rig {
    /// Sends the packets.
    pub prober: Prober,
    hosts: Vec<Host>,
    standing: State,
    /// Where wires end that nobody is at; with a namespace go its wires.
    _background: Vec<Namespace>,
}

/// A host under test.
#[derive(Debug)]
pub struct Host {
    /// Its node name.
    pub node: String,
    /// Where it is.
    pub namespace: Namespace,
    agent: Option<Agent>,
}

impl Host {
    /// A host whose agent is not running.
    pub fn new(node: &str, namespace: Namespace) -> Self {
        Self { node: node.to_owned(), namespace, agent: None }
    }
}

impl Rig {
    /// Builds one host with everything around it and starts the agent, which knows of nothing yet.
    ///
    /// # Errors
    /// Anything that could not be made; needs root, `ip`, `nft` and `conntrack`.
    pub fn new(topology: &Topology) -> io::Result<Self> {
        let (places, namespace, nowhere) = topology.build()?;
        let hosts = vec![Host::new(&topology.node, namespace)];
        Self::of(places, hosts, vec![nowhere], &topology.tcp, &topology.udp)
    }

    /// Starts the agents of hosts among places that exist; all of these listen on the same ports. Namespaces in the
    /// `background` are kept as long as the rig.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn of(
        places: Vec<Place>,
        hosts: Vec<Host>,
        background: Vec<Namespace>,
        tcp: &[u16],
        udp: &[u16],
    ) -> io::Result<Self> {
        let prober = Prober::new(places, tcp, udp)?;
        let mut rig = Self { prober, hosts, standing: State::new(), _background: background };
        rig.start_agents()?;
        Ok(rig)
    }

    /// The hosts.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// What stands in the datastore now.
    pub fn standing(&self) -> &State {
        &self.standing
    }

    /// Makes this the state of the datastore, and waits until the kernel holds it.
    ///
    /// # Errors
    /// The agent could not write.
    pub fn set(&mut self, wanted: &State) -> io::Result<Applied> {
        let mut all = Applied::default();
        for result in self.begin(wanted) {
            let applied = result.recv().map_err(|_| io::Error::other("an agent has panicked"))?;
            let applied = applied.map_err(io::Error::other)?;
            all.closed.extend(applied.closed);
            all.problems.extend(applied.problems);
        }
        Ok(all)
    }

    /// Starts the way to this state; what is received, of each host, says that its kernel holds it.
    pub fn begin(&mut self, wanted: &State) -> Vec<mpsc::Receiver<Result<Applied, String>>> {
        let changes = self.changes_to(wanted);
        self.hosts.iter().filter_map(|host| host.agent.as_ref()).map(|agent| agent.begin(changes.clone())).collect()
    }

    fn changes_to(&mut self, wanted: &State) -> Vec<Change> {
        let gone = self.standing.keys().filter(|key| !wanted.contains_key(*key));
        let mut changes: Vec<Change> = gone.map(|key| Change::Remove { key: key.clone() }).collect();
        let new = wanted.iter().filter(|(key, change)| self.standing.get(*key) != Some(*change));
        changes.extend(new.map(|(_, change)| change.clone()));
        self.standing = wanted.clone();
        changes
    }

    /// Checks that the kernels hold rules of this back end and of no other.
    ///
    /// # Errors
    /// They do not; the message has the command that says so.
    pub fn is_written_by(&self, backend: Backend) -> io::Result<()> {
        let [nft, iptables_nft, iptables_legacy] = Backend::ALL.map(|other| if other == backend { "" } else { "! " });
        let script = format!(
            "{nft}nft list table ip calico >/dev/null 2>&1
             {iptables_nft}iptables-nft-save 2>/dev/null | grep -q 'A cali-'
             {iptables_legacy}iptables-legacy-save 2>/dev/null | grep -q 'A cali-'
             {nft}nft list table ip6 calico >/dev/null 2>&1
             {iptables_nft}ip6tables-nft-save 2>/dev/null | grep -q 'A cali-'
             {iptables_legacy}ip6tables-legacy-save 2>/dev/null | grep -q 'A cali-'"
        );
        for line in script.lines() {
            for host in &self.hosts {
                // A negated command does not end a script.
                host.namespace.sh(&format!("if {line}; then exit 0; else exit 1; fi")).map_err(|_| {
                    io::Error::other(format!("{}: not the rules of {backend}: {}", host.node, line.trim()))
                })?;
            }
        }
        Ok(())
    }

    /// Stops all agents; the kernels keep what they hold.
    pub fn stop_agents(&mut self) {
        for host in &mut self.hosts {
            host.agent = None;
        }
    }

    /// Starts agents that find what others have left in the kernel, and know of nothing until the next
    /// [`set`](Self::set), which tells them all.
    ///
    /// # Errors
    /// The base rules could not be installed.
    pub fn start_agents(&mut self) -> io::Result<()> {
        self.standing = State::new();
        for host in &mut self.hosts {
            host.agent = None;
            host.agent = Some(Agent::start(&host.namespace, &host.node)?);
        }
        Ok(())
    }

    /// Makes the hosts forget all connections, so that none helps a later probe.
    ///
    /// # Errors
    /// `conntrack` failed.
    pub fn forget_connections(&mut self) -> io::Result<()> {
        self.prober.close_flows();
        for host in &self.hosts {
            host.namespace.sh("conntrack -F 2>/dev/null")?;
        }
        Ok(())
    }

    /// Sends probes, all at once as far as they cannot help one another.
    ///
    /// # Errors
    /// A fault of the test's own.
    pub fn probe(&mut self, probes: &[Probe], silence: Duration) -> io::Result<Vec<Outcome>> {
        let mut outcomes = vec![None; probes.len()];
        let mut left: Vec<usize> = (0..probes.len()).collect();
        let mut first = true;
        while !left.is_empty() {
            if !std::mem::take(&mut first) {
                self.forget_portless()?;
            }
            let (now, later) = independent(probes, &left);
            let batch: Vec<Probe> = now.iter().map(|at| probes[*at].clone()).collect();
            for (at, outcome) in now.into_iter().zip(self.prober.round(&batch, silence)?) {
                outcomes[at] = Some(outcome);
            }
            left = later;
        }
        if probes.iter().any(|probe| portless(probe).is_some()) {
            self.forget_portless()?;
        }
        Ok(outcomes.into_iter().flatten().collect())
    }

    /// As [`probe`](Self::probe); probes that should get through and did not are tried again with more patience, up to
    /// three times: on a busy machine a packet may be late, but none that is denied ever gets through.
    ///
    /// # Errors
    /// A fault of the test's own.
    pub fn probe_expecting(&mut self, probes: &[Probe], expected: &[Answer]) -> io::Result<Vec<Outcome>> {
        self.probe_with_patience(probes, expected, &[PATIENCE; 3])
    }

    /// As [`probe_expecting`](Self::probe_expecting), with so much patience for each further attempt.
    ///
    /// # Errors
    /// A fault of the test's own.
    pub fn probe_with_patience(
        &mut self,
        probes: &[Probe],
        expected: &[Answer],
        attempts: &[Duration],
    ) -> io::Result<Vec<Outcome>> {
        let mut outcomes = self.probe(probes, SILENCE)?;
        for patience in attempts {
            let again: Vec<usize> = (0..probes.len())
                .filter(|at| {
                    let new = !matches!(probes[*at].manner, Manner::Send(_));
                    new && outcomes[*at].answer == Answer::Drop && expected[*at] != Answer::Drop
                })
                .collect();
            if again.is_empty() {
                break;
            }
            let batch: Vec<Probe> = again.iter().map(|at| probes[*at].clone()).collect();
            for (at, outcome) in again.into_iter().zip(self.probe(&batch, *patience)?) {
                outcomes[at] = outcome;
            }
        }
        Ok(outcomes)
    }

    /// Connections without ports are the same for every packet between two addresses.
    fn forget_portless(&self) -> io::Result<()> {
        // Kept connections must stay. conntrack fails if there is nothing to delete.
        let script = if self.prober.flows().next().is_none() {
            "conntrack -F 2>/dev/null"
        } else {
            "for protocol in 4 253 254; do for family in ipv4 ipv6; do
                 conntrack -D -f $family -p $protocol >/dev/null 2>&1 || true
             done; done"
        };
        for host in &self.hosts {
            host.namespace.sh(script)?;
        }
        Ok(())
    }
}

/// What all packets of a protocol without ports between two addresses have in common; `None` for others.
fn portless(probe: &Probe) -> Option<(u8, usize, usize, u8)> {
    match probe.content {
        Content::Other(protocol) => {
            let (low, high) = (probe.from.min(probe.to), probe.from.max(probe.to));
            Some((protocol, low, high, wire::family(probe.destination)))
        }
        _ => None,
    }
}

/// Splits indices into those that can be under way together and the rest.
fn independent(probes: &[Probe], left: &[usize]) -> (Vec<usize>, Vec<usize>) {
    let mut taken = std::collections::HashSet::new();
    left.iter().partition(|at| portless(&probes[**at]).is_none_or(|flow| taken.insert(flow)))
}
