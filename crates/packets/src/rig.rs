//! One host with an agent, and everything around it.

use std::{collections::BTreeMap, io, sync::mpsc, time::Duration};

use calico_model::{AnyResource, Change, ResourceKey};

use crate::{
    Agent, Applied, Namespace,
    prober::{Answer, Manner, Outcome, Probe, Prober},
    topology::Topology,
    wire::{self, Content},
};

/// How long a round listens for packets that should not come. Delivery takes microseconds, and what comes later all
/// the same is noticed.
pub const SILENCE: Duration = Duration::from_millis(60);
/// How long it listens for an answer that should come, when the machine was too busy for it the first time.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// All resources that stand in the datastore.
pub type State = BTreeMap<ResourceKey, AnyResource>;

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

/// A host, its agent and all parties around it.
pub struct Rig {
    /// How it is made.
    pub topology: Topology,
    /// Sends the packets.
    pub prober: Prober,
    host: Namespace,
    agent: Agent,
    standing: State,
}

impl Rig {
    /// Builds it and starts the agent, which knows of nothing yet.
    ///
    /// # Errors
    /// Anything that could not be made; needs root, `ip`, `nft` and `conntrack`.
    pub fn new(topology: &Topology) -> io::Result<Self> {
        let (places, host) = topology.build()?;
        let agent = Agent::start(&host, &topology.node)?;
        let prober = Prober::new(places, &topology.tcp, &topology.udp)?;
        Ok(Self { topology: topology.clone(), prober, host, agent, standing: State::new() })
    }

    /// The host's namespace.
    pub fn host(&self) -> &Namespace {
        &self.host
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
        let changes = self.changes_to(wanted);
        self.agent.apply(changes)
    }

    /// Starts the way to this state; what is received says that the kernel holds it.
    pub fn begin(&mut self, wanted: &State) -> mpsc::Receiver<Result<Applied, String>> {
        let changes = self.changes_to(wanted);
        self.agent.begin(changes)
    }

    fn changes_to(&mut self, wanted: &State) -> Vec<Change> {
        let gone = self.standing.keys().filter(|key| !wanted.contains_key(*key));
        let mut changes: Vec<Change> = gone.map(|key| Change::Remove { key: key.clone() }).collect();
        for (key, resource) in wanted {
            if self.standing.get(key) != Some(resource) {
                changes.push(Change::Set { key: key.clone(), resource: Box::new(resource.clone()) });
            }
        }
        self.standing = wanted.clone();
        changes
    }

    /// Stops the agent and starts another one, which finds what the first has left in the kernel.
    ///
    /// # Errors
    /// The agent could not be started or could not write.
    pub fn restart_agent(&mut self) -> io::Result<Applied> {
        self.agent = Agent::start(&self.host, &self.topology.node)?;
        let wanted = std::mem::take(&mut self.standing);
        self.set(&wanted)
    }

    /// Makes the host forget all connections, so that none helps a later probe.
    ///
    /// # Errors
    /// `conntrack` failed.
    pub fn forget_connections(&mut self) -> io::Result<()> {
        self.prober.close_flows();
        self.host.sh("conntrack -F 2>/dev/null").map(drop)
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
        let mut outcomes = self.probe(probes, SILENCE)?;
        for _ in 0..3 {
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
            for (at, outcome) in again.into_iter().zip(self.probe(&batch, PATIENCE)?) {
                outcomes[at] = outcome;
            }
        }
        Ok(outcomes)
    }

    /// Connections without ports are the same for every packet between two addresses.
    fn forget_portless(&self) -> io::Result<()> {
        // conntrack fails if there is nothing to delete.
        let delete = "for protocol in 4 47 253 254; do
                 for family in ipv4 ipv6; do conntrack -D -f $family -p $protocol >/dev/null 2>&1 || true; done
             done";
        self.host.sh(delete).map(drop)
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
