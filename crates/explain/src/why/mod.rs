//! Why a packet passes or does not: one answer from sender to receiver, over one host or two.
//!
//! The sender's host judges first, then the receiver's; each is asked through the policy engine's oracle, seen from
//! that host. What the answer names are the objects that people wrote: kind, name, tier, the rule's place in its
//! list. What would have to change is tried before it is told: [`Answer::proven`] says that the opposite verdict
//! follows.
//!
//! What the datastore does not say is assumed: traffic between hosts goes by the interface that has the host's
//! address, which a host endpoint may name.

mod ends;
mod fixes;
mod follow;
mod steps;
#[cfg(test)]
mod tests;

use calico_policy::packet::{Transport, Verdict};
use serde::Serialize;

use crate::{Cluster, plan::word};
pub use ends::{ANNOTATION_WORKLOAD, End, Party};
pub use fixes::Fix;
pub use steps::{AskedObject, RulePlace, StepTaken};

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Who sends.
    pub from: Party,
    /// Who is to receive. Of the sender's family.
    pub to: Party,
    /// What.
    pub transport: Transport,
    /// The ports that its destination port stands for, if there are more.
    pub ports: Option<(u16, u16)>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// Who sends.
    pub from: Place,
    /// Who is to receive.
    pub to: Place,
    /// 4 or 6.
    pub ip_version: u8,
    /// Protocol and port.
    pub traffic: String,
    /// What the sender gets to see.
    #[serde(serialize_with = "word")]
    pub verdict: Verdict,
    /// Verdict and what decided, in one line.
    pub summary: String,
    /// The hosts on the way that judge, in order.
    pub hosts: Vec<HostVerdict>,
    /// The way.
    pub route: Route,
    /// What would change the verdict: of a packet that passes any of these, of one that does not all of them.
    pub changes: Vec<Fix>,
    /// It was tried that these changes, or the first of any, bring the opposite verdict.
    pub proven: bool,
}

/// One end as it was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The name that people know.
    pub name: String,
    /// The endpoint's resource, if it is one.
    pub endpoint: Option<String>,
    /// The address that is used.
    pub address: std::net::IpAddr,
    /// The host, if it is one of the cluster's.
    pub node: Option<String>,
}

/// What one host decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HostVerdict {
    /// The host.
    pub node: String,
    /// What becomes of the packet, and of the answer to it.
    #[serde(serialize_with = "word")]
    pub verdict: Verdict,
    /// The packet's stations, the last of which decides if it is denied.
    pub steps: Vec<StepTaken>,
    /// Those of the answer, if it is what is denied.
    pub reply: Vec<StepTaken>,
}

/// The way from one end to the other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// In words.
    pub text: String,
    /// The next host, and its address in the mesh.
    pub next_hop: Option<String>,
    /// The source address that the receiver sees, if it is another than the sender's.
    pub masqueraded: Option<std::net::IpAddr>,
    /// The workload behind a published port of the host, if the packet is for one.
    pub translated: Option<Translated>,
    /// What cannot work, or was assumed.
    pub warnings: Vec<String>,
}

/// Where a published port leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Translated {
    /// The host that has it.
    pub node: String,
    /// The port there.
    pub port: u16,
    /// The workload behind, by the name that people know.
    pub name: String,
    /// Its endpoint's resource, as `namespace/name`.
    pub endpoint: String,
    /// Its interface on the host.
    pub interface: String,
    /// Its address and port.
    pub to: std::net::SocketAddr,
}

/// Answers.
pub fn why(cluster: &Cluster, question: &Question) -> Answer {
    let legs = follow::legs(cluster, question);
    let judged: Vec<_> = legs.iter().map(follow::Leg::judge).collect();
    let verdict = judged.iter().map(calico_policy::oracle::Flow::verdict).find(|verdict| !verdict.is_allow());
    let verdict = verdict.unwrap_or(Verdict::Allow);
    let hosts: Vec<HostVerdict> =
        legs.iter().zip(&judged).map(|(leg, flow)| steps::of_host(cluster, leg, flow)).collect();
    let traffic = crate::plan::probes::traffic(question.transport, question.ports());
    let (changes, proven) = fixes::fixes(cluster, question, &legs, verdict);
    Answer {
        from: question.from.place(cluster),
        to: question.to.place(cluster),
        ip_version: question.ip_version(),
        summary: steps::summary(cluster, question, &traffic, verdict, &hosts),
        traffic,
        verdict,
        route: follow::route(cluster, question, &legs),
        hosts,
        changes,
        proven,
    }
}

/// The verdict alone.
pub fn verdict(cluster: &Cluster, question: &Question) -> Verdict {
    let legs = follow::legs(cluster, question);
    let denied = legs.iter().map(|leg| leg.judge().verdict()).find(|verdict| !verdict.is_allow());
    denied.unwrap_or(Verdict::Allow)
}

/// Traffic of one protocol and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Share {
    /// Protocol and ports.
    pub traffic: String,
    /// What becomes of it.
    #[serde(serialize_with = "word")]
    pub verdict: Verdict,
    /// The first and the last port.
    pub ports: (u16, u16),
}

/// What becomes of all ports of a protocol, in ranges that the rules on the way tell apart.
pub fn by_port(cluster: &Cluster, question: &Question, protocol: u8) -> Vec<Share> {
    let legs = follow::legs(cluster, question);
    let nodes: Vec<&str> = legs.iter().map(|leg| leg.node.as_str()).collect();
    let mut shares: Vec<Share> = Vec::new();
    for probe in follow::bounds(cluster, &nodes, question).probes(question.ip_version()) {
        let (Transport::Ports { protocol: own, .. }, Some((low, high))) = (probe.transport, probe.ports) else {
            continue;
        };
        if own != protocol {
            continue;
        }
        let verdict = follow::verdict_of(&legs, probe.transport);
        match shares.last_mut() {
            Some(last) if last.verdict == verdict && last.ports.1.checked_add(1) == Some(low) => last.ports.1 = high,
            _ => shares.push(Share { traffic: String::new(), verdict, ports: (low, high) }),
        }
    }
    for share in &mut shares {
        let transport = Transport::Ports { protocol, source: follow::CLIENT_PORT, destination: share.ports.0 };
        share.traffic = crate::plan::probes::traffic(transport, Some(share.ports));
    }
    shares
}

impl Question {
    /// A flow to a port.
    pub fn to_port(from: Party, to: Party, protocol: u8, port: u16) -> Self {
        let transport = Transport::Ports { protocol, source: follow::CLIENT_PORT, destination: port };
        Self { from, to, transport, ports: None }
    }

    /// A packet without ports.
    pub fn of(from: Party, to: Party, transport: Transport) -> Self {
        Self { from, to, transport, ports: None }
    }

    /// The ports that are meant.
    fn ports(&self) -> Option<(u16, u16)> {
        match self.transport {
            Transport::Ports { destination, .. } => Some(self.ports.unwrap_or((destination, destination))),
            _ => None,
        }
    }

    fn ip_version(&self) -> u8 {
        if self.from.address.is_ipv4() { 4 } else { 6 }
    }
}
