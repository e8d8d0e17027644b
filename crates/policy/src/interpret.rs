//! What a dataplane that followed the instructions would do: the reference for tests of both sides.
//!
//! [`Programmed`] holds what the instructions so far amount to. Taking one in, it checks what instructions promise:
//! nothing is referred to before it exists or removed while it is referred to, a delta fits the set that it changes,
//! a set stays of its sort, and no two endpoints have one interface. The way of a packet through the host is the
//! oracle's; what endpoints, policies and sets say there comes from the instructions alone.

mod matching;
mod promises;
mod view;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use crate::{
    instruction::{
        ClusterRoute, Endpoint, EndpointId, HostEndpoint, HostEndpointId, Instruction, Members, PolicyId, Pool,
        PortMember, ProfileId, RuleSet, SetId, Settings, Tunnels, Vtep,
    },
    oracle::{Flow, Why, judge, judge_flow, seen_source},
    packet::{Packet, Verdict},
};

/// The sum of instructions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Programmed {
    /// The host's own interfaces and their addresses; no instruction says that.
    pub interfaces: BTreeMap<String, Vec<IpAddr>>,
    /// Members of each set.
    pub sets: BTreeMap<SetId, SetMembers>,
    /// Rules of each policy.
    pub policies: BTreeMap<PolicyId, Arc<RuleSet>>,
    /// Rules of each profile.
    pub profiles: BTreeMap<ProfileId, Arc<RuleSet>>,
    /// The local workload endpoints.
    pub endpoints: BTreeMap<EndpointId, Endpoint>,
    /// The local host endpoints.
    pub host_endpoints: BTreeMap<HostEndpointId, HostEndpoint>,
    /// Addresses of all hosts.
    pub hosts: Vec<IpAddr>,
    /// The pools.
    pub pools: Vec<Pool>,
    /// The settings.
    pub settings: Settings,
    /// This host's ends of the overlay.
    pub tunnels: Tunnels,
    /// Other hosts' ends, by address.
    pub vteps: BTreeMap<IpAddr, Vtep>,
    /// Routes to blocks and addresses of VXLAN pools.
    pub routes: BTreeMap<IpNet, ClusterRoute>,
}

/// The members of a set, of one sort.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetMembers {
    /// Networks.
    Nets(BTreeSet<IpNet>),
    /// Addresses with a protocol and port.
    Ports(BTreeSet<PortMember>),
}

/// An instruction that does not fit what came before it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{instruction:?}: {reason}")]
pub struct Violation {
    /// Which.
    pub instruction: Box<Instruction>,
    /// The promise that it breaks.
    pub reason: String,
}

impl From<Members> for SetMembers {
    fn from(members: Members) -> Self {
        match members {
            Members::Nets(nets) => Self::Nets(nets.into_iter().collect()),
            Members::Ports(ports) => Self::Ports(ports.into_iter().collect()),
        }
    }
}

impl Programmed {
    /// Takes an instruction in.
    ///
    /// # Errors
    /// [`Violation`] if it breaks a promise; nothing is changed then.
    pub fn apply(&mut self, instruction: &Instruction) -> Result<(), Violation> {
        match self.objection(instruction) {
            Some(reason) => Err(Violation { instruction: Box::new(instruction.clone()), reason }),
            None => {
                self.accept(instruction.clone());
                Ok(())
            }
        }
    }

    fn accept(&mut self, instruction: Instruction) {
        match instruction {
            Instruction::SetReplace { id, members } => {
                self.sets.insert(id, members.into());
            }
            Instruction::SetDelta { id, added, removed } => {
                if let Some(members) = self.sets.get_mut(&id) {
                    members.change(added, &removed);
                }
            }
            Instruction::SetRemove { id } => {
                self.sets.remove(&id);
            }
            Instruction::ProfileUpdate { id, rules } => {
                self.profiles.insert(id, rules);
            }
            Instruction::ProfileRemove { id } => {
                self.profiles.remove(&id);
            }
            Instruction::PolicyUpdate { id, rules } => {
                self.policies.insert(id, rules);
            }
            Instruction::PolicyRemove { id } => {
                self.policies.remove(&id);
            }
            Instruction::EndpointUpdate { id, endpoint } => {
                self.endpoints.insert(id, endpoint);
            }
            Instruction::EndpointRemove { id } => {
                self.endpoints.remove(&id);
            }
            Instruction::HostEndpointUpdate { id, endpoint } => {
                self.host_endpoints.insert(id, endpoint);
            }
            Instruction::HostEndpointRemove { id } => {
                self.host_endpoints.remove(&id);
            }
            Instruction::Hosts { addresses } => self.hosts = addresses,
            Instruction::Pools { pools } => self.pools = pools,
            Instruction::Settings(settings) => self.settings = settings,
            Instruction::Tunnels(tunnels) => self.tunnels = tunnels,
            Instruction::VtepUpdate { vtep } => {
                self.vteps.insert(vtep.address, vtep);
            }
            Instruction::VtepRemove { address } => {
                self.vteps.remove(&address);
            }
            Instruction::RouteUpdate { destination, route } => {
                self.routes.insert(destination, route);
            }
            Instruction::RouteRemove { destination } => {
                self.routes.remove(&destination);
            }
        }
    }

    /// What becomes of a packet.
    pub fn verdict(&self, packet: &Packet) -> Verdict {
        self.why(packet).0
    }

    /// What becomes of a packet, and which of the policies, profiles and rules that are programmed decides.
    pub fn why(&self, packet: &Packet) -> (Verdict, Why) {
        judge(self, packet)
    }

    /// What becomes of a packet that begins a flow, and of its answer.
    pub fn flow(&self, packet: &Packet) -> Flow {
        judge_flow(self, packet)
    }

    /// The source address that the receiver of a packet sees.
    pub fn seen_source(&self, packet: &Packet) -> IpAddr {
        seen_source(self, packet)
    }
}

impl SetMembers {
    /// The networks of a set of networks, none of another.
    pub fn nets(&self) -> impl Iterator<Item = &IpNet> {
        match self {
            Self::Nets(nets) => Some(nets),
            Self::Ports(_) => None,
        }
        .into_iter()
        .flatten()
    }

    /// Of the set's sort, as has been checked.
    fn change(&mut self, added: Members, removed: &Members) {
        match (self, added, removed) {
            (Self::Nets(members), Members::Nets(added), Members::Nets(removed)) => {
                members.retain(|net| !removed.contains(net));
                members.extend(added);
            }
            (Self::Ports(members), Members::Ports(added), Members::Ports(removed)) => {
                members.retain(|port| !removed.contains(port));
                members.extend(added);
            }
            _ => {}
        }
    }
}
