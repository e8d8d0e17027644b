//! Adding and removing peers.
//!
//! A peer is known by whose it is and where its neighbour listens, not by its BGPPeer's name: one that was made by
//! `apply` under another name is changed and removed in place. Everything that was typed is checked first, all faults
//! are told at once, and writes are compare-and-swap.

use calico_model::{AsNumber, BGPFilterSpec, BGPPeer, BGPPeerSpec, Resource};
use calico_store::Error;
use serde_json::json;

use super::{
    neighbour::{self, Neighbour, Scope},
    password::{self, Kept, Wanted},
};
use crate::{
    args::{PeerAdd, PeerRemove},
    commands::race::Races,
    context::Context,
    failure::Failure,
    output::Output,
};

/// What was typed, checked.
struct Addition {
    neighbour: Neighbour,
    as_number: AsNumber,
    password: Wanted,
    keep_next_hop: bool,
    filters: Vec<String>,
}

/// `peer add`
pub(super) async fn add(ctx: &Context, scope: &Scope, typed: &PeerAdd) -> Result<Output, Failure> {
    let addition = Addition::read(ctx, typed)?;
    filters_exist(ctx, &addition.filters).await?;
    let _acting = ctx.interrupt.acting();
    let mut races = Races::new(format!("BGP peer {}", addition.neighbour));
    loop {
        ctx.interrupt.check()?;
        let peers = list(ctx).await?;
        let target = target(&peers, scope, &addition.neighbour)?;
        // Before the record that refers to it: a session without its password would not come up.
        let kept = addition.keep_password(ctx, target.name())?;
        let wanted = addition.applied_to(&target);
        let written = match write(ctx, &target, wanted.clone()).await {
            Ok(written) => written,
            Err(failure) if failure.is_outage() && kept.is_some() => match arrived(ctx, &wanted).await {
                Some(true) => true,
                Some(false) => return Err(taken_back(kept, failure)),
                None => return Err(failure.because(unknown(ctx, target.name()))),
            },
            Err(failure) => return Err(taken_back(kept, failure)),
        };
        if written {
            return Ok(added(ctx, scope, &addition, &target, kept.is_some()));
        }
        if let Some(kept) = kept {
            kept.undo().map_err(Failure::new)?;
        }
        races.lost().await?;
    }
}

/// Whether a write whose answer was lost was carried out, `None` while nobody can say.
async fn arrived(ctx: &Context, wanted: &BGPPeer) -> Option<bool> {
    match ctx.store.get::<BGPPeerSpec>(wanted.name()).await {
        Ok(stored) => Some(stored.spec == wanted.spec),
        Err(error) if error.is_not_found() => Some(false),
        Err(_) => None,
    }
}

/// The peer may be stored, and would have no session without its password.
fn unknown(ctx: &Context, peer: &str) -> String {
    let folder = ctx.runtime.bgp_secrets().join(peer);
    format!("nobody can say whether the peer is stored: its password stays in {}", folder.display())
}

/// The failure, with what it left behind if that could not be taken back.
fn taken_back(kept: Option<Kept>, failure: Failure) -> Failure {
    match kept.map(Kept::undo) {
        Some(Err(words)) => failure.because(words),
        _ => failure,
    }
}

fn added(ctx: &Context, scope: &Scope, addition: &Addition, peer: &BGPPeer, keeps_password: bool) -> Output {
    if keeps_password && *scope == Scope::AllNodes {
        let path = ctx.runtime.bgp_secrets().join(peer.name()).join(password::own_reference(peer.name()).key);
        ctx.console.note(&format!(
            "note: put the password into {} of every other host too, mode 0600: without it a host has no session with {}",
            path.display(),
            addition.neighbour
        ));
    }
    let data = json!({
        "name": peer.name(),
        "peer": addition.neighbour.to_string(),
        "asNumber": addition.as_number,
        "node": if scope.node().is_empty() { None } else { Some(scope.node()) },
    });
    Output::of(String::new(), data)
}

impl Addition {
    fn read(ctx: &Context, typed: &PeerAdd) -> Result<Self, Failure> {
        let (mut messages, mut causes) = (Vec::new(), Vec::new());
        let mut wrong = |message: &str, cause: String| {
            messages.push(message.to_owned());
            causes.push(cause);
        };
        let address = neighbour::address(&typed.address).map_err(|cause| wrong(BAD_ADDRESS, cause)).ok();
        let number = neighbour::as_number(&typed.as_number).map_err(|cause| wrong(BAD_AS_NUMBER, cause)).ok();
        let port = typed.port.as_deref().map(neighbour::port).transpose();
        let port = port.map_err(|cause| wrong("Invalid port specified.", cause)).ok();
        let (Some(address), Some(as_number), Some(port)) = (address, number, port) else {
            return Err(causes.into_iter().fold(Failure::all(messages), Failure::because));
        };
        Ok(Self {
            neighbour: Neighbour::new(address, port),
            as_number,
            password: Wanted::read(ctx, typed)?,
            keep_next_hop: typed.keep_next_hop,
            filters: typed.filters.clone(),
        })
    }

    fn keep_password(&self, ctx: &Context, peer: &str) -> Result<Option<Kept>, Failure> {
        match &self.password {
            Wanted::Keep(password) => {
                Kept::write(&ctx.runtime.bgp_secrets(), &password::own_reference(peer), password).map(Some)
            }
            Wanted::AsIs | Wanted::KeptIn(_) => Ok(None),
        }
    }

    /// The peer as it shall be.
    fn applied_to(&self, before: &BGPPeer) -> BGPPeer {
        let mut peer = before.clone();
        let spec = &mut peer.spec;
        spec.as_number = Some(self.as_number);
        if self.keep_next_hop {
            // The newer name of the same wish; both together are refused.
            spec.extra.remove("nextHopMode");
            spec.keep_original_next_hop = true;
        }
        if !self.filters.is_empty() {
            spec.extra.insert("filters".to_owned(), json!(self.filters));
        }
        match &self.password {
            Wanted::AsIs => {}
            Wanted::KeptIn(reference) => drop(spec.extra.insert("password".to_owned(), password::member(reference))),
            Wanted::Keep(_) => {
                let reference = password::own_reference(before.name());
                drop(spec.extra.insert("password".to_owned(), password::member(&reference)));
            }
        }
        peer
    }
}

/// Stores the peer; false for a lost race.
async fn write(ctx: &Context, before: &BGPPeer, wanted: BGPPeer) -> Result<bool, Failure> {
    let stored = match wanted.revision {
        Some(_) if wanted == *before => return Ok(true),
        Some(_) => ctx.store.update(wanted).await,
        None => ctx.store.create(wanted).await,
    };
    match stored {
        Ok(_) => Ok(true),
        Err(Error::Conflict { .. } | Error::NotFound { .. } | Error::AlreadyExists { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

const BAD_ADDRESS: &str = "Invalid IP address specified.";
const BAD_AS_NUMBER: &str = "Invalid AS Number specified.";

/// All BGPPeers.
async fn list(ctx: &Context) -> Result<Vec<BGPPeer>, Failure> {
    let (peers, unreadable) = ctx.store.list::<BGPPeerSpec>().await?;
    ctx.note_unreadable(&unreadable);
    Ok(peers)
}

fn is(peer: &BGPPeer, scope: &Scope, neighbour: &Neighbour) -> bool {
    scope.has(&peer.spec) && Neighbour::of(&peer.spec).as_ref() == Some(neighbour)
}

/// The BGPPeer to change: the one that there is, or a new one.
fn target(peers: &[BGPPeer], scope: &Scope, neighbour: &Neighbour) -> Result<BGPPeer, Failure> {
    let found: Vec<&BGPPeer> = peers.iter().filter(|peer| is(peer, scope, neighbour)).collect();
    let name = neighbour.name(scope);
    match found.as_slice() {
        [] => {}
        [one] => return Ok((*one).clone()),
        several => {
            let names: Vec<&str> = several.iter().map(|peer| peer.name()).collect();
            return Err(Failure::new(format!("Several BGPPeers name {neighbour}: {}.", names.join(", ")))
                .hint(format!("keep one of them: calicoctl delete bgppeer {}", names[1])));
        }
    }
    if let Some(other) = peers.iter().find(|peer| peer.name() == name) {
        return Err(Failure::new(format!("The name {name} is taken by another BGPPeer."))
            .because(format!("it is for {}", described(other)))
            .hint(format!("store that under another name, then delete it: calicoctl delete bgppeer {name}")));
    }
    let spec = BGPPeerSpec { node: scope.node().to_owned(), peer_ip: neighbour.to_string(), ..BGPPeerSpec::default() };
    Ok(Resource::new(name, spec))
}

/// Whom a BGPPeer joins, in words.
fn described(peer: &BGPPeer) -> String {
    let spec = &peer.spec;
    let here = match (spec.node.as_str(), spec.node_selector.as_str()) {
        ("", "") => "all hosts".to_owned(),
        ("", selector) => format!("the hosts with {selector}"),
        (node, _) => format!("host {node}"),
    };
    let there = if spec.peer_ip.is_empty() { &spec.peer_selector } else { &spec.peer_ip };
    format!("{here} and {there}")
}

async fn filters_exist(ctx: &Context, filters: &[String]) -> Result<(), Failure> {
    let mut missing = Vec::new();
    for filter in filters {
        match ctx.store.get::<BGPFilterSpec>(filter).await {
            Ok(_) => {}
            Err(error) if error.is_not_found() => missing.push(format!("There is no BGPFilter {filter:?}.")),
            Err(error) => return Err(error.into()),
        }
    }
    match missing.is_empty() {
        true => Ok(()),
        false => Err(Failure::all(missing)
            .hint("the filters that there are: calicoctl get bgpfilters; a new one: calicoctl apply -f FILE")),
    }
}

/// `peer remove`
pub(super) async fn remove(ctx: &Context, scope: &Scope, typed: &PeerRemove) -> Result<Output, Failure> {
    let address = neighbour::address(&typed.address).map_err(|cause| Failure::new(BAD_ADDRESS).because(cause))?;
    let port = typed.port.as_deref().map(neighbour::port).transpose();
    let port = port.map_err(|cause| Failure::new("Invalid port specified.").because(cause))?;
    let mut races = Races::new(format!("BGP peer {address}"));
    let mut removed = Vec::new();
    loop {
        let peers = list(ctx).await?;
        let at_address = |peer: &&BGPPeer| {
            let neighbour = Neighbour::of(&peer.spec);
            scope.has(&peer.spec)
                && neighbour.is_some_and(|n| n.address == address && port.is_none_or(|port| n.port == port))
        };
        let found: Vec<&BGPPeer> = peers.iter().filter(at_address).collect();
        if found.is_empty() && removed.is_empty() {
            return Err(not_there(scope, &peers, &Neighbour::new(address, port)));
        }
        one_port(&found)?;
        let mut lost = false;
        for peer in found {
            match ctx.store.delete(peer).await {
                Ok(()) => {
                    forget_password(ctx, peer);
                    removed.push(peer.name().to_owned());
                }
                Err(Error::Conflict { .. } | Error::NotFound { .. }) => lost = true,
                Err(error) => return Err(error.into()),
            }
        }
        if !lost {
            let place = if *scope == Scope::AllNodes { "global" } else { "node" };
            let text = format!("BGP peer removed from {place} configuration\n");
            return Ok(Output::of(text, json!({ "removed": removed })));
        }
        races.lost().await?;
    }
}

/// Refuses to guess between neighbours at one address.
fn one_port(found: &[&BGPPeer]) -> Result<(), Failure> {
    let mut neighbours: Vec<Neighbour> = found.iter().filter_map(|peer| Neighbour::of(&peer.spec)).collect();
    neighbours.sort();
    neighbours.dedup();
    if neighbours.len() < 2 {
        return Ok(());
    }
    let ports: Vec<String> = neighbours.iter().map(|neighbour| neighbour.port.to_string()).collect();
    Err(Failure::new(format!(
        "There are several peers at {}, on the ports {}.",
        neighbours[0].address,
        ports.join(", ")
    ))
    .hint(format!("say which: --port={}", ports[0])))
}

fn not_there(scope: &Scope, peers: &[BGPPeer], neighbour: &Neighbour) -> Failure {
    let failure = Failure::new(match scope {
        Scope::AllNodes => format!("{neighbour} is not a globally configured peer."),
        Scope::Node(_) => format!("{neighbour} is not a configured peer for this node."),
    });
    let elsewhere =
        peers.iter().filter(|peer| Neighbour::of(&peer.spec).is_some_and(|n| n.address == neighbour.address));
    elsewhere.fold(failure, |failure, peer| {
        let remove = match (&peer.spec.node, peer.spec.node_selector.is_empty()) {
            (node, true) if node.is_empty() => format!("calicoctl bgp peer remove {}", neighbour.address),
            _ => format!("calicoctl delete bgppeer {}", peer.name()),
        };
        failure.hint(format!("it is a peer of {}; to remove that: {remove}", described(peer)))
    })
}

/// The password goes with the peer; that it stays behind is no failure of the removal.
fn forget_password(ctx: &Context, peer: &BGPPeer) {
    let Some(reference) = password::of(&peer.spec) else { return };
    if let Err(error) = password::forget(&ctx.runtime.bgp_secrets(), peer.name(), &reference) {
        let path = ctx.runtime.bgp_secrets().join(&reference.name).join(&reference.key);
        ctx.console.note(&format!("warning: the password is still in {}: {error}", path.display()));
    }
}
