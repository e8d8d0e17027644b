//! The way of a packet through the host: which stations it comes to, in which order.
//!
//! The stations are those of `dataplane.md` §1, with its corrections in §9; where ours differ on purpose
//! (`vectors/DIFFERENCES.md`), they are never more open.

use std::{
    borrow::Cow,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::ControlFlow,
};

use calico_model::Direction;
use ipnet::IpNet;

use super::{
    host::is_workload,
    why::{List, Reason, Stage, Step, Subject, Why},
};
use crate::{
    instruction::{DenyAction, EndpointId, FailsafePort, HostEndpointId, Pool, PublishedAt, ServiceLoop, Settings},
    packet::{Addressed, Hop, Packet, Tracking, Transport, Verdict},
};

/// The interface by which a host reaches itself.
const LOOPBACK: &str = "lo";
/// The port that VXLAN has unless another is set.
pub(crate) const VXLAN_PORT: u16 = 4789;

/// What the way of a packet depends on. The oracle answers from the resources, the interpreter from instructions.
pub(crate) trait View {
    /// Settings in force.
    fn settings(&self) -> Cow<'_, Settings>;
    /// The addresses of one of the host's own interfaces.
    fn interface_addresses(&self, interface: &str) -> Vec<IpAddr>;
    /// True for an address of the host itself.
    fn is_local(&self, address: IpAddr) -> bool;
    /// True for an address of any host of the cluster.
    fn is_host(&self, address: IpAddr) -> bool;
    /// The pools.
    fn pools(&self) -> Cow<'_, [Pool]>;
    /// The workload endpoint that has an interface.
    fn workload(&self, interface: &str) -> Option<EndpointId>;
    /// True if an endpoint may use a source address.
    fn may_use(&self, endpoint: &EndpointId, source: IpAddr) -> bool;
    /// The endpoint's own address, and its interface, that a floating address leads to.
    fn floating(&self, external: IpAddr) -> Option<(IpAddr, String)>;
    /// Where exactly this port of the host leads, if an endpoint has published it.
    fn published(&self, at: &PublishedAt) -> Option<Led>;
    /// The host endpoint whose list sees the traffic of an interface.
    fn host_endpoint(&self, interface: &str, list: List) -> Option<HostEndpointId>;
    /// True if an endpoint's list has policies for a direction.
    fn has_policies(&self, subject: &Subject, list: List, direction: Direction) -> bool;
    /// What the policies of a list, and the profiles if it has them, decide; `None` if nothing there has a say.
    fn decide(&self, subject: &Subject, list: List, direction: Direction, packet: &Packet) -> Option<Step>;
}

/// Where a published port leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Led {
    /// The endpoint's address.
    pub(crate) address: IpAddr,
    /// The endpoint's port.
    pub(crate) port: u16,
    /// The endpoint's interface.
    pub(crate) interface: String,
}

/// What becomes of a packet, and why.
pub fn verdict(state: &super::State, packet: &Packet) -> (Verdict, Why) {
    judge(state, packet)
}

/// What becomes of a packet that begins a flow, and of its answer.
pub fn flow(state: &super::State, packet: &Packet) -> Flow {
    judge_flow(state, packet)
}

pub(crate) fn judge(view: &impl View, packet: &Packet) -> (Verdict, Why) {
    let why = walk(view, packet, Until::Denied);
    let verdict = why.steps.last().map_or(Verdict::Allow, |step| step.verdict);
    (verdict, why)
}

/// A question and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// What becomes of the packet itself.
    pub request: (Verdict, Why),
    /// What becomes of its answer; `None` if the packet was denied, or nothing answers such a packet.
    pub reply: Option<(Verdict, Why)>,
}

impl Flow {
    /// What the sender gets to see. An answer that is denied on its way back is silence.
    pub fn verdict(&self) -> Verdict {
        match &self.reply {
            Some((verdict, _)) if !verdict.is_allow() => Verdict::Drop,
            _ => self.request.0,
        }
    }
}

pub(crate) fn judge_flow(view: &impl View, packet: &Packet) -> Flow {
    let request = judge(view, packet);
    let packet = translated(view, packet);
    let reply = packet.reply().filter(|_| request.0.is_allow()).map(|mut reply| {
        let seen = seen_source(view, &packet);
        if seen != packet.source {
            reply.addressed = Some(Addressed { address: seen, port: reply.ports().map(|(_, port)| port) });
        }
        if request.1.is_untracked() {
            reply.tracking = without_question(&reply);
        }
        judge(view, &reply)
    });
    Flow { request, reply }
}

/// What connection tracking says of an answer whose question it has not seen.
fn without_question(reply: &Packet) -> Tracking {
    const UDP: u8 = 17;
    match reply.transport {
        Transport::Ports { protocol: UDP, .. } | Transport::Other(_) => Tracking::New,
        Transport::Ports { .. } | Transport::Icmp { .. } => Tracking::Invalid,
    }
}

/// When a walk ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// At the first station that denies.
    Denied,
    /// At the last one, as if a rule had allowed the packet wherever it is denied.
    Arrived,
}

/// All stations that a packet comes to.
pub(super) fn walk<V: View>(view: &V, packet: &Packet, until: Until) -> Why {
    let settings = view.settings();
    let packet = translated(view, packet);
    let mut walk = Walk { view, settings, until, steps: Vec::new(), packet, accepted: false };
    // That it was stopped can be seen from the last step.
    let _ = walk.run();
    Why { steps: walk.steps }
}

struct Walk<'a, V> {
    view: &'a V,
    settings: Cow<'a, Settings>,
    until: Until,
    steps: Vec<Step>,
    packet: Packet,
    /// Untracked or pre-DNAT policy has allowed the packet: no host endpoint's list is asked about it where it comes
    /// in, nor when the host itself sends it.
    accepted: bool,
}

impl<V: View> Walk<'_, V> {
    fn run(&mut self) -> ControlFlow<()> {
        match (self.packet.from.clone(), self.packet.to.clone()) {
            (Hop::Host, Hop::Host) => {
                self.leaves_host(LOOPBACK)?;
                self.comes_in(LOOPBACK)?;
                self.enters_host(LOOPBACK)
            }
            (Hop::Host, Hop::Interface(to)) => {
                self.leaves_host(&to)?;
                // Untracked, hence not translated: it was for the host itself.
                match self.packet.to {
                    Hop::Host => {
                        self.comes_in(LOOPBACK)?;
                        self.enters_host(LOOPBACK)
                    }
                    Hop::Interface(_) => ControlFlow::Continue(()),
                }
            }
            (Hop::Interface(from), _) => {
                self.comes_in(&from)?;
                // Untracked packets are not translated, which may change where they go.
                match self.packet.to.clone() {
                    Hop::Host => self.enters_host(&from),
                    Hop::Interface(to) => self.passes_through(&from, &to),
                }
            }
        }
    }

    /// Before and after connection tracking, before routing.
    fn comes_in(&mut self, from: &str) -> ControlFlow<()> {
        if is_workload(from)
            && let Some((subject, reason)) = self.source_fault(from)
        {
            self.silently(step(Stage::SourceCheck, subject, reason, Vec::new()))?;
        }
        let sent = self.packet.as_sent();
        if let Some(step) = self.host_list(List::Untracked, Direction::Ingress, from, &sent) {
            self.untracked(step)?;
        }
        if !self.accepted
            && let Some(step) = self.host_list(List::PreDnat, Direction::Ingress, from, &sent)
        {
            self.accepted |= self.is_accepted(&step);
            self.silently(step)?;
        }
        ControlFlow::Continue(())
    }

    /// To the host itself.
    fn enters_host(&mut self, from: &str) -> ControlFlow<()> {
        if self.is_tunnelled() {
            let known = self.view.is_host(self.packet.source) && !is_workload(from);
            let reason = if known { Reason::Peer } else { Reason::Stranger };
            return self.finally(step(Stage::Tunnel, None, reason, Vec::new()));
        }
        if is_workload(from) {
            return self.workload_to_host(from);
        }
        if self.accepted {
            return ControlFlow::Continue(());
        }
        let packet = self.packet.clone();
        match self.host_list(List::Normal, Direction::Ingress, from, &packet) {
            Some(step) => self.take(step),
            None => ControlFlow::Continue(()),
        }
    }

    fn workload_to_host(&mut self, from: &str) -> ControlFlow<()> {
        let subject = self.view.workload(from).map(Subject::Workload);
        if self.packet.is_neighbour_discovery() {
            let stage = Stage::Policy(List::Workload, Direction::Egress);
            return self.take(step(stage, subject, Reason::NeighbourDiscovery, Vec::new()));
        }
        let step_taken = self.workload(Direction::Egress, from);
        let established = step_taken.reason == Reason::Established;
        self.take(step_taken)?;
        if established {
            return ControlFlow::Continue(());
        }
        self.silently(step(Stage::ToHost, subject, Reason::ToHost(self.settings.endpoint_to_host), Vec::new()))
    }

    /// From one interface to another.
    fn passes_through(&mut self, from: &str, to: &str) -> ControlFlow<()> {
        let packet = self.packet.clone();
        if !self.accepted
            && let Some(step) = self.host_list(List::Forward, Direction::Ingress, from, &packet)
        {
            self.take(step)?;
        }
        if is_workload(from) {
            let step = self.workload(Direction::Egress, from);
            self.take(step)?;
        }
        if is_workload(to) {
            let step = self.workload(Direction::Ingress, to);
            self.take(step)?;
        }
        if let Some(step) = self.host_list(List::Forward, Direction::Egress, to, &packet) {
            self.take(step)?;
        }
        self.service_loop()
    }

    /// From the host itself.
    fn leaves_host(&mut self, to: &str) -> ControlFlow<()> {
        let sent = self.packet.as_sent();
        // The host's own ports are translated after routing.
        let is_own = self.packet.addressed.is_some() && self.view.is_local(sent.destination);
        let routed = if is_own { LOOPBACK } else { to };
        if let Some(step) = self.host_list(List::Untracked, Direction::Egress, routed, &sent) {
            self.untracked(step)?;
        }
        let to = if self.packet.to == Hop::Host { LOOPBACK } else { to };
        if is_workload(to) {
            return self.take(step(Stage::FromHost, None, Reason::FromHost, Vec::new()));
        }
        if self.is_tunnelled() && self.view.is_host(self.packet.destination) {
            return self.take(step(Stage::Tunnel, None, Reason::Peer, Vec::new()));
        }
        if std::mem::take(&mut self.accepted) {
            return ControlFlow::Continue(());
        }
        let packet = self.packet.clone();
        match self.host_list(List::Normal, Direction::Egress, to, &packet) {
            // A translated packet is judged after routing, where no ICMP error can be sent.
            Some(step) if packet.addressed.is_some() => self.silently(step),
            Some(step) => self.take(step),
            None => ControlFlow::Continue(()),
        }
    }

    fn service_loop(&mut self) -> ControlFlow<()> {
        let verdict = match self.settings.service_loop {
            ServiceLoop::Drop => Verdict::Drop,
            ServiceLoop::Reject => Verdict::Reject,
            ServiceLoop::Disabled => return ControlFlow::Continue(()),
        };
        if !self.settings.service_cidrs.iter().any(|net| net.contains(&self.packet.destination)) {
            return ControlFlow::Continue(());
        }
        let step = step(Stage::ServiceLoop, None, Reason::ServiceLoop, Vec::new());
        self.finally(Step { verdict, ..step })
    }

    /// What a list of the host endpoint that stands for an interface decides; `None` if there is none, or it has no
    /// policies and therefore no say.
    fn host_list(&self, list: List, direction: Direction, interface: &str, packet: &Packet) -> Option<Step> {
        let subject = Subject::Host(self.view.host_endpoint(interface, list)?, interface.to_owned());
        let special = matches!(list, List::Untracked | List::PreDnat);
        if special && !self.view.has_policies(&subject, list, direction) {
            return None;
        }
        // Such a packet ends on its link; one that is forwarded is no such packet, whatever it looks like.
        let stays = direction == Direction::Egress || self.packet.to == Hop::Host;
        let reason = if stays && list != List::Forward && packet.is_link_upkeep() {
            Some(Reason::NeighbourDiscovery)
        } else {
            let tracked = if list == List::Untracked { None } else { self.tracked(packet) };
            tracked.or_else(|| self.failsafe(list, direction, packet))
        };
        match reason {
            Some(reason) => Some(step(Stage::Policy(list, direction), Some(subject), reason, Vec::new())),
            None => self.view.decide(&subject, list, direction, packet),
        }
    }

    /// What the policy of the workload behind an interface decides.
    fn workload(&self, direction: Direction, interface: &str) -> Step {
        let stage = Stage::Policy(List::Workload, direction);
        let Some(id) = self.view.workload(interface) else {
            return step(stage, None, Reason::UnknownInterface(interface.to_owned()), Vec::new());
        };
        let subject = Subject::Workload(id);
        let overlay = direction == Direction::Egress && self.is_foreign_overlay();
        let reason = self.tracked(&self.packet).or(overlay.then_some(Reason::Overlay));
        match reason {
            Some(reason) => step(stage, Some(subject), reason, Vec::new()),
            None => self
                .view
                .decide(&subject, List::Workload, direction, &self.packet)
                .expect("a list with profiles always decides"),
        }
    }

    /// Why a workload must not send the packet at all, whatever policy says.
    fn source_fault(&self, from: &str) -> Option<(Option<Subject>, Reason)> {
        let Some(id) = self.view.workload(from) else {
            return Some((None, Reason::UnknownInterface(from.to_owned())));
        };
        let destination = self.packet.as_sent().destination;
        let reason = if destination.is_ipv4() && destination.is_loopback() {
            Reason::Loopback
        } else if !self.packet.has_unroutable_source() && !self.view.may_use(&id, self.packet.source) {
            Reason::ForgedSource
        } else {
            return None;
        };
        Some((Some(Subject::Workload(id)), reason))
    }

    /// Traffic between hosts.
    fn is_tunnelled(&self) -> bool {
        self.settings.vxlan_port.is_some_and(|port| self.packet.is_vxlan(port))
    }

    /// What workloads must not send.
    fn is_foreign_overlay(&self) -> bool {
        let port = self.settings.vxlan_port.unwrap_or(VXLAN_PORT);
        let vxlan = self.packet.is_vxlan(port) && !self.settings.vxlan_from_workloads;
        vxlan || (self.packet.is_ipip() && !self.settings.ipip_from_workloads)
    }

    /// What connection tracking says before any policy is asked.
    fn tracked(&self, packet: &Packet) -> Option<Reason> {
        match packet.tracking {
            Tracking::Established => Some(Reason::Established),
            Tracking::Invalid if !self.settings.accept_invalid => Some(Reason::Invalid),
            Tracking::New | Tracking::Invalid => None,
        }
    }

    /// Before connection tracking, answers from and to failsafe ports pass too.
    fn failsafe(&self, list: List, direction: Direction, packet: &Packet) -> Option<Reason> {
        let (inbound, outbound) = (&self.settings.failsafe_inbound, &self.settings.failsafe_outbound);
        let (questions, answers, other_end) = match direction {
            Direction::Ingress => (inbound, outbound, packet.source),
            Direction::Egress => (outbound, inbound, packet.destination),
        };
        let (source, destination) = packet.ports()?;
        let among = |ports: &[FailsafePort], port: u16| {
            ports.iter().any(|failsafe| {
                failsafe.protocol == packet.protocol()
                    && failsafe.port == port
                    && failsafe.net.is_none_or(|net| net.contains(&other_end))
            })
        };
        let answers = list == List::Untracked && among(answers, source);
        let port = match list {
            List::Workload | List::Forward => None,
            _ if among(questions, destination) => Some(destination),
            _ => answers.then_some(source),
        };
        port.map(|port| Reason::Failsafe { port })
    }

    /// Untracked policy: what it allows is not tracked, hence not translated, and nobody else of the host endpoints is
    /// asked.
    fn untracked(&mut self, step: Step) -> ControlFlow<()> {
        if self.is_accepted(&step) {
            self.accepted = true;
            if self.packet.addressed.is_some() {
                self.packet = self.packet.as_sent();
                if self.view.is_local(self.packet.destination) {
                    self.packet.to = Hop::Host;
                }
            }
            self.packet.tracking = Tracking::New;
        }
        self.silently(step)
    }

    /// True if a rule of untracked or pre-DNAT policy allows the packet, or would if it did not deny it.
    fn is_accepted(&self, step: &Step) -> bool {
        step.allows_by_rule() || (self.until == Until::Arrived && !step.verdict.is_allow())
    }

    /// A station where an ICMP error can be sent.
    fn take(&mut self, mut step: Step) -> ControlFlow<()> {
        if !step.verdict.is_allow() && self.settings.deny == DenyAction::Reject {
            step.verdict = Verdict::Reject;
        }
        self.finally(step)
    }

    /// A station where none can be sent, or never is.
    fn silently(&mut self, step: Step) -> ControlFlow<()> {
        self.finally(step)
    }

    /// A station whose verdict is as it stands.
    fn finally(&mut self, step: Step) -> ControlFlow<()> {
        let denied = !step.verdict.is_allow();
        self.steps.push(step);
        if denied && self.until == Until::Denied { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// A step whose verdict follows from its reason; the path makes rejects of some.
pub(crate) fn step(stage: Stage, subject: Option<Subject>, reason: Reason, asked: Vec<super::Asked>) -> Step {
    let verdict = if reason.allows() { Verdict::Allow } else { Verdict::Drop };
    Step { stage, subject, reason, asked, verdict }
}

/// The packet with a floating address, or a published port of the host, as destination translated to the endpoint's
/// own.
pub(super) fn translated(view: &impl View, packet: &Packet) -> Packet {
    let mut packet = packet.clone();
    let address = packet.addressed.map_or(packet.destination, |addressed| addressed.address);
    if packet.tracking != Tracking::Established
        && let Some((internal, interface)) = view.floating(address)
    {
        let port = packet.ports().map(|(_, port)| port);
        packet.addressed.get_or_insert(Addressed { address, port });
        packet.destination = internal;
        packet.to = Hop::Interface(interface);
    } else if let Some((led, addressed)) = published(view, &packet) {
        packet.addressed = Some(addressed);
        packet.destination = led.address;
        packet.to = Hop::Interface(led.interface);
        if let Transport::Ports { destination, .. } = &mut packet.transport {
            *destination = led.port;
        }
    }
    packet
}

/// Where a packet to a published port of the host is led, and what it was addressed to. Loopback addresses are the
/// host's own business: nobody else reaches a port there, and of IPv6, whose loopback address cannot leave the host,
/// nobody at all.
fn published(view: &impl View, packet: &Packet) -> Option<(Led, Addressed)> {
    let sent = packet.as_sent();
    let (destination, port) = (sent.destination, sent.ports()?.1);
    let is_reachable = match destination {
        IpAddr::V4(address) => !address.is_loopback() || packet.from == Hop::Host,
        IpAddr::V6(address) => !address.is_loopback(),
    };
    if packet.tracking != Tracking::New || !is_reachable || !view.is_local(destination) {
        return None;
    }
    let any = if destination.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let at = |host| PublishedAt { protocol: packet.protocol(), port, host };
    let led = view.published(&at(destination)).or_else(|| view.published(&at(any)))?;
    Some((led, Addressed { address: destination, port: Some(port) }))
}

/// The source address that the receiver sees: packets that leave all pools from one that masquerades bear the
/// address of the interface by which they leave, and an endpoint that speaks to itself through its floating
/// address bears that. One that speaks to itself through a port of the host bears some address of the host, for which the
/// one that it spoke to stands here, as the loopback address does for the host's when it speaks to a workload.
pub(crate) fn seen_source(view: &impl View, packet: &Packet) -> IpAddr {
    let packet = translated(view, packet);
    let Hop::Interface(to) = &packet.to else { return packet.source };
    if let (true, Some(addressed)) = (packet.source == packet.destination, packet.addressed) {
        return addressed.address;
    }
    let settings = &view.settings().nat_outgoing;
    let pools = view.pools();
    let within = |address: IpAddr| move |cidr: &IpNet| cidr.contains(&address);
    let from_pool = pools.iter().filter(|pool| pool.masquerade).map(|pool| &pool.cidr).any(within(packet.source));
    let into_pool = pools.iter().map(|pool| &pool.cidr).any(within(packet.destination));
    let spared = settings.exclude_hosts && view.is_host(packet.destination);
    let leaves = settings.interface.as_deref().is_none_or(|filter| match filter.strip_suffix('+') {
        Some(prefix) => to.starts_with(prefix),
        None => filter == to,
    });
    if !from_pool || into_pool || spared || !leaves {
        return packet.source;
    }
    let is_four = packet.source.is_ipv4();
    let chosen = settings.address.filter(|_| is_four).map(IpAddr::from);
    let outgoing = || view.interface_addresses(to).into_iter().find(|address| address.is_ipv4() == is_four);
    chosen.or_else(outgoing).unwrap_or(packet.source)
}
