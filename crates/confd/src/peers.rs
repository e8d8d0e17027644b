//! Which neighbours this node has.
//!
//! Three sources: the mesh (every node with every node, route reflectors apart), BGPPeers for all nodes (global),
//! and BGPPeers for this node or for some that it is one of (node). A neighbour is an address and a port, and gets
//! one session whatever names it: BIRD would take the two ends of two sessions for each other. The most specific
//! source wins (node, global, mesh), then the first by name.
//!
//! A BGPPeer for all nodes may be one of them. That node gets a session with itself, which stays `Idle` and does no
//! harm: the status of every node shows the same peers, as operators of the classic commands know it.
//!
//! A BGPPeer that cannot be had as it was asked for, because its password is missing or because it names something
//! that is not supported here, also takes its neighbour out of the less specific sources: a plainer session instead
//! would be a more open one.

use std::{
    collections::{BTreeMap, btree_map},
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use calico_model::{AsNumber, BGPPeerSpec};
use calico_selector::Selector;

use crate::{
    config::{AddPaths, Direction, Password, Peer, PeerKind, description},
    decide::{BGP_PORT, Context},
    peer_options::PeerOptions,
    secrets::{SecretKeyRef, Secrets},
    state::{NodeFacts, Problem, is_host},
};

/// The sessions by family, each sorted by kind and address.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    pub(crate) v4: Vec<Peer>,
    pub(crate) v6: Vec<Peer>,
}

/// A neighbour's place: address and port.
type Place = (IpAddr, u16);

/// What a source says of a place.
struct Claim {
    kind: PeerKind,
    /// The source, for messages.
    source: String,
    /// `None` keeps the place free of any session.
    peer: Option<Peer>,
}

/// All sessions of this node.
pub(crate) fn sessions(context: &Context<'_>, secrets: &dyn Secrets, problems: &mut Vec<Problem>) -> Sessions {
    let mut claims = Claims { by_place: BTreeMap::new(), problems };
    for (name, spec) in &context.state.peers {
        if let Some(rule) = Rule::read(name, spec, context, secrets, claims.problems) {
            rule.claim(context, &mut claims);
        }
    }
    mesh(context, secrets, &mut claims);

    let mut sessions = Sessions::default();
    let Claims { by_place, problems } = claims;
    for mut peer in by_place.into_values().filter_map(|claim| claim.peer) {
        let v = if peer.address.is_ipv4() { 4 } else { 6 };
        peer.internal = peer.as_number == peer.local_as.unwrap_or(context.local_as.0);
        peer.import = context.filters.screen(&peer.filters, v, Direction::Import, problems);
        peer.export = context.filters.screen(&peer.filters, v, Direction::Export, problems);
        if peer.address.is_ipv4() { &mut sessions.v4 } else { &mut sessions.v6 }.push(peer);
    }
    for list in [&mut sessions.v4, &mut sessions.v6] {
        list.sort_by_key(|peer| (peer.kind, peer.address, peer.port));
    }
    sessions
}

struct Claims<'a> {
    by_place: BTreeMap<Place, Claim>,
    problems: &'a mut Vec<Problem>,
}

impl Claims<'_> {
    /// Gives the place to the more specific claim, the one that came first where they are equal.
    fn add(&mut self, place: Place, claim: Claim) {
        let mut entry = match self.by_place.entry(place) {
            btree_map::Entry::Vacant(entry) => {
                entry.insert(claim);
                return;
            }
            btree_map::Entry::Occupied(entry) => entry,
        };
        let holder = entry.get();
        if claim.kind == holder.kind && claim.source != holder.source {
            let what = if claim.kind == PeerKind::Mesh { "has" } else { "names" };
            self.problems.push(Problem::new(
                &claim.source,
                format_args!("{what} the address {} of {}, which is kept", place.0, holder.source),
            ));
        }
        if claim.kind > holder.kind {
            entry.insert(claim);
        }
    }
}

/// The mesh: all nodes but this one and the route reflectors.
fn mesh(context: &Context<'_>, secrets: &dyn Secrets, claims: &mut Claims<'_>) {
    let cluster = context.cluster;
    if cluster.node_to_node_mesh_enabled == Some(false) || context.me.cluster_id.is_some() {
        return;
    }
    let source = "BGPConfiguration default";
    let password = match mesh_password(context, secrets) {
        Ok(password) => password,
        Err(reason) => {
            claims.problems.push(Problem::new(source, format_args!("{reason}; the mesh has no sessions until then")));
            return;
        }
    };
    let restart_time = cluster.node_mesh_max_restart_time.as_deref().and_then(|text| {
        let time = crate::peer_options::restart_time(text);
        if time.is_none() {
            claims.problems.push(Problem::new(source, format_args!("{text:?} is no duration; the default is used")));
        }
        time
    });
    for (name, node) in
        context.state.nodes.iter().filter(|(name, node)| **name != context.state.node && node.cluster_id.is_none())
    {
        for v in [4, 6] {
            let Some(mut peer) = node_peer(context, PeerKind::Mesh, name, node, v) else { continue };
            if context.me.address(v).is_some_and(|me| me.address == peer.address) {
                let reason = format_args!("has the address {} of this node; no session with it", peer.address);
                claims.problems.push(Problem::new(format_args!("node {name}"), reason));
                continue;
            }
            // Both sides compare the same two numbers, so exactly one of them waits.
            peer.passive = context.me.address(v).is_some_and(|me| peer.address > me.address);
            peer.password.clone_from(&password);
            peer.restart_time = restart_time;
            let claim = Claim { kind: PeerKind::Mesh, source: format!("node {name}"), peer: Some(peer) };
            claims.add(place_of(claim.peer.as_ref().expect("it was just put there")), claim);
        }
    }
}

fn mesh_password(context: &Context<'_>, secrets: &dyn Secrets) -> Result<Option<Password>, String> {
    let Some(value) = context.cluster.node_mesh_password.as_ref().filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    let reference = value.get("secretKeyRef").cloned().unwrap_or_default();
    let reference: SecretKeyRef =
        serde_json::from_value(reference).map_err(|error| format!("nodeMeshPassword.secretKeyRef: {error}"))?;
    secrets.password(&reference).map(Some).map_err(|error| error.to_string())
}

/// A session with another node, `None` unless both have an address of the family.
fn node_peer(context: &Context<'_>, kind: PeerKind, name: &str, node: &NodeFacts, v: u8) -> Option<Peer> {
    context.me.address(v)?;
    let address = node.address(v)?.address;
    let mut peer = Peer::new(kind, address, context.listen_port(name), node.as_number.unwrap_or(context.cluster_as));
    peer.description = description(&format!("node {name}"));
    Some(peer)
}

fn place_of(peer: &Peer) -> Place {
    (peer.address, peer.port.unwrap_or(BGP_PORT))
}

/// A BGPPeer that concerns this node.
struct Rule<'a> {
    name: &'a str,
    kind: PeerKind,
    target: Target,
    as_number: Option<AsNumber>,
    /// `Err`: the neighbours get no session.
    options: Result<PeerOptions, ()>,
}

/// Whom a BGPPeer means.
enum Target {
    /// One address.
    Address(IpAddr, Option<u16>),
    /// Nodes, by name.
    Nodes(Vec<String>),
}

impl<'a> Rule<'a> {
    /// Reads a BGPPeer; `None` if it does not concern this node or cannot be understood.
    fn read(
        name: &'a str,
        spec: &BGPPeerSpec,
        context: &Context<'_>,
        secrets: &dyn Secrets,
        problems: &mut Vec<Problem>,
    ) -> Option<Self> {
        let subject = format!("BGPPeer {name}");
        let mut problem = |reason: String| problems.push(Problem::new(&subject, reason));
        let target = match target(spec, context) {
            Ok(target) => target?,
            Err(reason) => {
                problem(format!("{reason}; it is left out"));
                return None;
            }
        };
        let global = spec.node.is_empty() && spec.node_selector.is_empty();
        let kind = if global { PeerKind::Global } else { PeerKind::Node };
        let options = PeerOptions::read(spec, secrets, &mut problem).map_err(|reason| {
            problem(format!("{reason}; its neighbours get no session"));
        });
        let as_number = spec.as_number.filter(|number| number.0 != 0);
        Some(Self { name, kind, target, as_number, options })
    }

    fn claim(&self, context: &Context<'_>, claims: &mut Claims<'_>) {
        match &self.target {
            Target::Address(address, port) => self.claim_address(*address, *port, context, claims),
            Target::Nodes(names) => {
                for name in names {
                    self.claim_node(name, &context.state.nodes[name], context, claims);
                }
            }
        }
    }

    fn claim_address(&self, address: IpAddr, port: Option<u16>, context: &Context<'_>, claims: &mut Claims<'_>) {
        let v = if address.is_ipv4() { 4 } else { 6 };
        // Normal for a peer of all nodes, some of which lack the family.
        if context.me.address(v).is_none() {
            return;
        }
        let node =
            context.state.nodes.values().find(|node| node.address(v).is_some_and(|host| host.address == address));
        let of_node = node.map(|node| node.as_number.unwrap_or(context.cluster_as));
        let as_number = self.as_number.or(of_node).unwrap_or(context.cluster_as);
        let mut peer = Peer::new(self.kind, address, port.filter(|port| *port != BGP_PORT), as_number);
        peer.description = description(&format!("BGPPeer {}", self.name));
        peer.external = node.is_none() && as_number != context.local_as;
        self.finish(peer, node, context, claims);
    }

    fn claim_node(&self, name: &str, node: &NodeFacts, context: &Context<'_>, claims: &mut Claims<'_>) {
        for v in [4, 6] {
            if let Some(peer) = node_peer(context, self.kind, name, node, v) {
                self.finish(peer, Some(node), context, claims);
            }
        }
    }

    fn finish(&self, mut peer: Peer, node: Option<&NodeFacts>, context: &Context<'_>, claims: &mut Claims<'_>) {
        let place = place_of(&peer);
        let claim = |peer| Claim { kind: self.kind, source: format!("BGPPeer {}", self.name), peer };
        let Ok(options) = &self.options else {
            claims.add(place, claim(None));
            return;
        };
        options.apply(&mut peer);
        if !peer.use_node_address && context.strict_bind() {
            let reason = "sourceAddress None makes BIRD listen on all addresses, in spite of bindMode NodeIP";
            claims.problems.push(Problem::new(format_args!("BGPPeer {}", self.name), reason));
        }
        let local_as = peer.local_as.unwrap_or(context.local_as.0);
        reflect(&mut peer, local_as, context.me.cluster_id, node.and_then(|node| node.cluster_id));
        claims.add(place, claim(Some(peer)));
    }
}

/// Makes this node the neighbour's route reflector, or its client. Only inside an AS, and not between reflectors of
/// the same cluster.
fn reflect(peer: &mut Peer, local_as: u32, mine: Option<Ipv4Addr>, theirs: Option<Ipv4Addr>) {
    if peer.as_number != local_as || mine == theirs {
        return;
    }
    peer.reflector_cluster_id = mine;
    peer.add_paths = if mine.is_some() { Some(AddPaths::Tx) } else { Some(AddPaths::Rx) };
}

/// Whom a BGPPeer means, seen from this node; `None` if it is not among those who peer.
fn target(spec: &BGPPeerSpec, context: &Context<'_>) -> Result<Option<Target>, String> {
    let here = Selection::of(&spec.node, &spec.node_selector, "nodeSelector")?;
    let (me, mine) = (&context.state.node, context.me);
    if !spec.peer_ip.is_empty() {
        let (address, port) = neighbour(&spec.peer_ip)?;
        return Ok(here.has(me, mine).then_some(Target::Address(address, port)));
    }
    if spec.extra.get("localWorkloadSelector").and_then(|value| value.as_str()).is_some_and(|text| !text.is_empty()) {
        return Err("localWorkloadSelector (BGP with workloads of this node) is not supported".into());
    }
    if spec.peer_selector.is_empty() {
        return Err("it names no neighbour (peerIP or peerSelector)".into());
    }
    let there = Selection::Matching(selector(&spec.peer_selector, "peerSelector")?);
    // The nodes that are selected peer back by themselves, unless the peering is to be one-sided.
    let back = spec.extra.get("reversePeering").and_then(|value| value.as_str()) != Some("Manual");
    let (i_start, i_am_meant) = (here.has(me, mine), back && there.has(me, mine));
    let others = context.state.nodes.iter().filter(|(name, _)| *name != me);
    let meant =
        others.filter(|(name, node)| (i_start && there.has(name, node)) || (i_am_meant && here.has(name, node)));
    let names: Vec<String> = meant.map(|(name, _)| name.clone()).collect();
    Ok((!names.is_empty()).then_some(Target::Nodes(names)))
}

/// Some of the nodes.
enum Selection {
    All,
    Named(String),
    Matching(Selector),
}

impl Selection {
    fn of(name: &str, text: &str, field: &str) -> Result<Self, String> {
        match (name, text) {
            ("", "") => Ok(Self::All),
            ("", text) => selector(text, field).map(Self::Matching),
            (name, "") => Ok(Self::Named(name.to_owned())),
            _ => Err(format!("it has both node and {field}")),
        }
    }

    fn has(&self, name: &str, node: &NodeFacts) -> bool {
        match self {
            Self::All => true,
            Self::Named(wanted) => wanted == name,
            Self::Matching(selector) => selector.matches(&node.labels),
        }
    }
}

fn selector(text: &str, field: &str) -> Result<Selector, String> {
    if text.trim().is_empty() {
        return Err(format!("{field} is blank, which could mean all or none"));
    }
    calico_selector::parse(text).map_err(|error| format!("{field} {text:?}: {error}"))
}

/// A neighbour's address, with or without a port.
pub(crate) fn neighbour(text: &str) -> Result<(IpAddr, Option<u16>), String> {
    let plain = text.parse::<IpAddr>().map(|address| (address, None));
    let (address, port) = plain
        .or_else(|_| text.parse::<SocketAddr>().map(|socket| (socket.ip(), Some(socket.port()))))
        .map_err(|_| format!("peerIP {text:?} is not an address, v4:port or [v6]:port"))?;
    if !is_host(address) || port == Some(0) {
        return Err(format!("peerIP {text:?} cannot be the address of a neighbour"));
    }
    Ok((address, port))
}
