//! A cluster under test, seen by the oracle and by the kernel.

use std::{collections::HashSet, io, net::IpAddr};

use calico_model::Change;
use calico_packets::{
    Answer, Backend, Content, Manner, Outcome, Probe, Rig, Scenarios, State,
    scenario::stored,
    topology::{Role, Topology},
    wire::SYN,
};
use calico_policy::{
    oracle::{self, List, Stage, Why},
    packet::{Addressed, Hop, Packet, Tracking, Transport, Verdict},
};

use crate::generate::{Documents, Shot};

/// The state of the datastore that documents make.
pub(crate) fn state(scenarios: &Scenarios, documents: &Documents, backend: Backend) -> io::Result<State> {
    let mut cluster = scenarios.empty(backend)?;
    for endpoint in &documents.endpoints {
        // Ports and namespaces stay those of the topology.
        cluster.endpoint(endpoint.clone());
    }
    for (field, value) in &documents.config {
        cluster.configure(field, value.clone());
    }
    let mut state = cluster.state()?;
    for document in &documents.resources {
        // What is not even of its kind's shape cannot be in a datastore that anybody wrote to with a client.
        if let Ok(change) = stored(document.clone()) {
            state.insert(change.key().clone(), change);
        }
    }
    Ok(state)
}

/// A difference between what the oracle says and what the kernel does.
#[derive(Debug)]
pub(crate) struct Mismatch {
    pub(crate) shot: Shot,
    pub(crate) outcome: Outcome,
    pub(crate) expected: String,
    pub(crate) packet: Packet,
    pub(crate) why: Vec<Why>,
}

/// What the oracle says of a shot.
pub(crate) struct Expectation {
    pub(crate) packet: Packet,
    pub(crate) answer: Answer,
    pub(crate) verdict: Verdict,
    seen: IpAddr,
    why: Vec<Why>,
    /// Untracked policy of the host keeps the error from its sender by which it would be told of a refusal.
    unheard: bool,
    /// Connection tracking sees the request and not its answer, so TCP's third packet belongs to no connection for it:
    /// what was opened is refused a moment later.
    halved: bool,
    /// Its destination is a floating address.
    floats: bool,
    /// Where a published port leads it.
    pub(crate) led: Option<(IpAddr, Hop)>,
}

/// Stations with their verdicts, and whether they allow by a rule; whether the packet's address floats; where a
/// published port leads it.
type Early<'a> = (Vec<(Stage, Verdict, bool)>, bool, Option<&'a (IpAddr, Hop)>);

impl Expectation {
    /// What becomes of the packet before the table in which most policy is, as far as it matters for what follows: the
    /// stations there with their verdicts, and whether it is translated.
    pub(crate) fn early(&self) -> Early<'_> {
        let is_early =
            |stage: Stage| matches!(stage, Stage::SourceCheck | Stage::Policy(List::Untracked | List::PreDnat, _));
        let request = self.why.first().into_iter().flat_map(|why| &why.steps);
        let stations =
            request.filter(|step| is_early(step.stage)).map(|step| (step.stage, step.verdict, step.allows_by_rule()));
        (stations.collect(), self.floats, self.led.as_ref())
    }
}

/// Who has spoken to whom in a round by a protocol without ports. Such packets all belong to one connection, so one in
/// the other direction would be an answer, and no beginning as the oracle takes it for.
#[derive(Default)]
pub(crate) struct Spoken(HashSet<(IpAddr, IpAddr, u8)>);

impl Spoken {
    /// Takes a packet in, unless it would be an answer.
    pub(crate) fn begins(&mut self, expectation: &Expectation, destination: IpAddr) -> bool {
        let Expectation { packet, seen, .. } = expectation;
        let Transport::Other(protocol) = packet.transport else { return true };
        let places = [destination, packet.destination];
        if places.iter().any(|place| self.0.contains(&(*place, packet.source, protocol))) {
            return false;
        }
        self.0.extend(places.iter().flat_map(|place| [packet.source, *seen].map(|source| (source, *place, protocol))));
        true
    }
}

/// The oracle's view of the host of a topology.
pub(crate) fn oracle(topology: &Topology, state: &State) -> oracle::State {
    let mut seen = oracle::State::new(&topology.node);
    let mut add = |interface: &str, addresses: &[IpAddr]| {
        seen.interfaces.insert(interface.to_owned(), addresses.to_vec());
    };
    let parse = |text: &str| text.parse::<IpAddr>().expect("these are addresses");
    add("lo", &[parse("127.0.0.1"), parse("::1")]);
    add("eth0", &[parse("172.18.0.11")]);
    for party in &topology.parties {
        if let Role::Neighbour(ours) = &party.role {
            add(&party.interface, ours);
        }
    }
    for change in state.values() {
        seen.apply(change);
    }
    seen
}

/// Sends shots and compares; what differs, and how many packets got through. `attempts` as in [`Rig::probe_with_patience`].
pub(crate) fn differences(
    rig: &mut Rig,
    topology: &Topology,
    state: &State,
    shots: &[Shot],
    attempts: &[std::time::Duration],
) -> io::Result<(Vec<Mismatch>, usize)> {
    let oracle = oracle(topology, state);
    let mut probes = Vec::new();
    let mut expectations = Vec::new();
    let (mut chosen, mut spoken) = (Vec::new(), Spoken::default());
    for shot in shots {
        let source = match shot.source {
            Some(source) => source,
            None => rig.prober.source_for(shot.from, shot.destination)?,
        };
        let source_port = shot.source_port.unwrap_or_else(|| rig.prober.port());
        let expectation = expect(topology, &oracle, shot, source, source_port);
        if !spoken.begins(&expectation, shot.destination) {
            continue;
        }
        chosen.push(shot);
        probes.push(Probe {
            from: shot.from,
            to: shot.to,
            source: shot.source,
            destination: shot.destination,
            source_port: Some(source_port),
            content: shot.content,
            manner: shot.manner.clone(),
        });
        expectations.push(expectation);
    }
    let answers: Vec<Answer> = expectations.iter().map(|expectation| expectation.answer).collect();
    let outcomes = rig.probe_with_patience(&probes, &answers, attempts)?;
    let late = rig.prober.late();
    let allowed = outcomes.iter().filter(|outcome| outcome.answer == Answer::Allow).count();
    let compared = chosen.into_iter().zip(&probes).zip(expectations).zip(outcomes);
    let mismatches = compared
        .filter_map(|(((shot, probe), expectation), mut outcome)| {
            if late.contains(probe) {
                outcome.answer = Answer::Allow;
            }
            compare(shot, expectation, outcome)
        })
        .collect();
    Ok((mismatches, allowed))
}

fn compare(shot: &Shot, expectation: Expectation, outcome: Outcome) -> Option<Mismatch> {
    let Expectation { packet, answer, verdict, seen, why, unheard, halved, floats: _, led } = expectation;
    let same = match (answer, outcome.answer) {
        (Answer::Allow, Answer::Allow) => {
            let asked = shot.manner == Manner::Converse && matches!(shot.content, Content::Udp { .. });
            // Who speaks to himself by a port of the host is masqueraded, by whichever address the kernel takes.
            let to_itself = led.as_ref().is_some_and(|(to, _)| *to == packet.source);
            !asked || to_itself || outcome.seen.is_some_and(|arrival| arrival.source.ip() == seen)
        }
        // A sender on the host itself is refused by its own kernel before an error can reach it, and nobody is told of
        // some hand-made packets (answers, errors, fragments of streams).
        (Answer::Reject, Answer::Drop) => packet.from == Hop::Host || shot.manner == Manner::OneWay || unheard,
        // A port of the host that was to be translated and is not: nobody listens there. Or one that is, for somebody
        // else, whose kernel speaks no such protocol.
        (Answer::Drop, Answer::Reject) if verdict.is_allow() => packet.addressed.is_some() || led.is_some(),
        (Answer::Allow, Answer::Reject) => halved && matches!(shot.content, Content::Tcp { .. }),
        (expected, got) => expected == got,
    };
    let expected = format!("{answer:?} as {verdict:?}, from {seen}");
    (!same).then(|| Mismatch { shot: shot.clone(), outcome, expected, packet, why })
}

/// What becomes of a shot, with this source address and port.
pub(crate) fn expect(
    topology: &Topology,
    oracle: &oracle::State,
    shot: &Shot,
    source: IpAddr,
    port: u16,
) -> Expectation {
    let (packet, reached) = packet(topology, oracle, shot, source, port);
    let flow = oracle::flow(oracle, &packet);
    // Nobody translates what connection tracking knows nothing of.
    let translated = packet.destination != shot.destination || floats(oracle, packet.destination);
    let untracked = flow.request.1.is_untracked();
    let after = oracle.translated(&packet);
    let led = (packet.to == Hop::Host && after.to != Hop::Host).then_some((after.destination, after.to));
    let reached = match &led {
        // Everybody answers, but a packet without an answer must get to whom it is for.
        Some((_, to)) if shot.manner == Manner::OneWay && !untracked => *to == hop(topology, shot.to),
        _ => reached && !(translated && untracked),
    };
    let verdict = if shot.manner == Manner::Converse { flow.verdict() } else { flow.request.0 };
    let answer = match verdict {
        Verdict::Allow if !reached => Answer::Drop,
        Verdict::Allow => Answer::Allow,
        Verdict::Drop => Answer::Drop,
        Verdict::Reject => Answer::Reject,
    };
    let halved = !untracked && flow.reply.as_ref().is_some_and(|(_, why)| why.is_untracked());
    let seen = oracle.seen_source(&packet);
    let why = [Some(flow.request), flow.reply].into_iter().flatten().map(|(_, why)| why).collect();
    let floats = floats(oracle, shot.destination);
    let unheard = matches!(answer, Answer::Reject) && !tells(topology, oracle, &packet);
    Expectation { packet, answer, verdict, seen, why, unheard, halved, floats, led }
}

/// Whether an error of the host's gets to the sender of a packet.
fn tells(topology: &Topology, oracle: &oracle::State, packet: &Packet) -> bool {
    let (family, icmp_type, code) = if packet.source.is_ipv4() { (4, 3, 3) } else { (6, 1, 4) };
    let host = topology.parties.last().and_then(|host| host.address(family)).expect("a host has both families");
    let mut error =
        Packet::new(Hop::Host, packet.from.clone(), host, packet.source, Transport::Icmp { icmp_type, code });
    error.tracking = Tracking::Established;
    oracle::verdict(oracle, &error).0.is_allow()
}

/// The packet as the oracle takes it, and whether routing brings it to where it is waited for.
fn packet(topology: &Topology, oracle: &oracle::State, shot: &Shot, source: IpAddr, port: u16) -> (Packet, bool) {
    let ports = |protocol, destination| Transport::Ports { protocol, source: port, destination };
    let transport = match shot.content {
        Content::Tcp { port, .. } => ports(6, port),
        Content::Udp { port } => ports(17, port),
        Content::Sctp { port } => ports(132, port),
        Content::Icmp { icmp_type, code } => Transport::Icmp { icmp_type, code },
        Content::Other(protocol) => Transport::Other(protocol),
    };
    let mut packet =
        Packet::new(hop(topology, shot.from), Hop::Host, source, shot.destination, transport).unknown_to_tracking();
    if let Content::Tcp { flags, .. } = shot.content {
        // A SYN begins a flow; an ACK is taken for the middle of one that was not seen.
        packet.tracking = if matches!(flags, SYN | 16) { Tracking::New } else { Tracking::Invalid };
    }
    if let (Content::Tcp { port, .. }, true) = (shot.content, packet.from != Hop::Host)
        && let Some(rule) =
            topology.translations.iter().find(|rule| rule.address == shot.destination && rule.port == port)
        && packet.tracking == Tracking::New
    {
        packet.addressed = Some(Addressed { address: rule.address, port: Some(rule.port) });
        packet.destination = rule.to;
        packet.transport = ports(6, rule.to_port);
    }
    packet.to = route(topology, oracle, packet.destination);
    let floating = floats(oracle, packet.destination) && packet.tracking != Tracking::Invalid;
    let reached = packet.to == hop(topology, shot.to) || floating;
    (packet, reached)
}

/// Where a party is, seen from the host.
fn hop(topology: &Topology, party: usize) -> Hop {
    match topology.parties[party].role {
        Role::Host => Hop::Host,
        Role::Workload(_) | Role::Neighbour(_) => Hop::Interface(topology.parties[party].interface.clone()),
    }
}

/// Whether an address is one that some endpoint has beside its own.
fn floats(oracle: &oracle::State, address: IpAddr) -> bool {
    let leads_here = |nat: &calico_model::IPNat| nat.external_ip.parse() == Ok(address);
    let enabled = oracle.felix.values().flatten().any(|felix| felix.spec.floating_ips.as_deref() == Some("Enabled"));
    enabled && oracle.endpoints.values().any(|endpoint| endpoint.spec.ip_nats.iter().any(leads_here))
}

/// Where the host's routes lead.
fn route(topology: &Topology, oracle: &oracle::State, address: IpAddr) -> Hop {
    if oracle.interfaces.values().any(|addresses| addresses.contains(&address)) {
        return Hop::Host;
    }
    let text = address.to_string();
    let local = oracle.endpoints.values().find(|endpoint| {
        let mut networks = endpoint.spec.ip_networks.iter();
        networks.any(|network| network.split('/').next() == Some(text.as_str()))
    });
    if let Some(endpoint) = local {
        return Hop::Interface(endpoint.spec.interface_name.clone());
    }
    let neighbour = |party: &&calico_packets::topology::Party| party.addresses.contains(&address);
    let on_link = topology.parties.iter().find(neighbour).filter(|party| matches!(party.role, Role::Neighbour(_)));
    // The first neighbour is the host's gateway.
    let gateway = topology.parties.iter().find(|party| matches!(party.role, Role::Neighbour(_)));
    let way = on_link.or(gateway).expect("a topology has neighbours");
    Hop::Interface(way.interface.clone())
}

/// Everything that somebody needs to see what went wrong.
pub(crate) fn report(topology: &Topology, state: &State, usual: &State, mismatch: &Mismatch) -> String {
    let name = |party: usize| topology.parties[party].name.as_str();
    let Mismatch { shot, outcome, expected, packet, why } = mismatch;
    let mut report = format!(
        "{} -> {}: {shot:?}\n  the oracle says {expected}\n  the kernel says {outcome:?}\n  packet: {packet:?}\n",
        name(shot.from),
        name(shot.to)
    );
    for why in why {
        report += &format!("  why: {why}\n");
    }
    report + &documents(state, usual)
}

/// The resources as YAML documents, without those that are as usual.
pub(crate) fn documents(state: &State, usual: &State) -> String {
    let mut text = String::new();
    for gone in usual.keys().filter(|key| !state.contains_key(*key)) {
        text += &format!("# there is no {gone}\n");
    }
    for (_, change) in state.iter().filter(|(key, change)| usual.get(*key) != Some(*change)) {
        let (resource, flaw) = match change {
            Change::Set { resource, .. } => (Some(resource), None),
            Change::Unusable { resource, reason, .. } => (resource.as_ref(), Some(reason)),
            Change::Remove { .. } => (None, None),
        };
        let json = resource.and_then(|resource| serde_json::from_slice::<serde_json::Value>(&resource.to_json()).ok());
        let yaml = json.and_then(|json| serde_saphyr::to_string(&json).ok());
        text += "---\n";
        if let Some(flaw) = flaw {
            text += &format!("# cannot be used: {flaw}\n");
        }
        text += &yaml.unwrap_or_else(|| format!("# {}\n", change.key()));
    }
    text
}
