//! The BGP part of `status`: own address and AS number, and each session, by family.
//!
//! The first five columns are the classic ones; what came in and goes out stands behind them. Below a family's table
//! there is a line for each session that is not up, with the error in words.

use std::{fmt::Write as _, net::IpAddr, time::SystemTime};

use calico_confd::bird::{Channel, Family, Md5Failures, Session, SessionKind};
use calico_model::{BGPConfigurationSpec, BGPPeer, BGPPeerSpec, Node, NodeSpec};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::words::{self, Facts};
use crate::{
    commands::{bgp::Neighbour, config, node_show},
    context::Context,
    failure::{Exit, Failure},
    output::{Cell, Column, Table},
};

const PEERS: &[Column] = &[
    Column::new("Peer address", "address"),
    Column::new("Peer type", "type"),
    Column::new("State", "state"),
    Column::new("Since", "since"),
    Column::new("Info", "info"),
    Column::new("Prefixes in", "imported"),
    Column::new("Prefixes out", "exported"),
    Column::hidden("name"),
    Column::hidden("description"),
    Column::hidden("asNumber"),
    Column::hidden("localASNumber"),
    Column::hidden("routerID"),
    Column::hidden("established"),
    Column::hidden("restarting"),
    Column::hidden("channels"),
    Column::hidden("lastError"),
    Column::hidden("problem"),
    Column::hidden("ownAddress"),
];

/// Both families' own address, AS number and sessions.
pub(super) async fn bgp(ctx: &Context, text: &mut String, data: &mut Value) -> Exit {
    let identity = Identity::read(ctx).await;
    if let Err(failure) = &identity {
        let _ = writeln!(text, "\nError connecting to etcd.\n  {}", failure.one_line());
        data["datastoreError"] = json!(failure.one_line());
    }
    let (sessions, exit) = if ctx.host.is_root() {
        (ctx.runtime.sessions().await.map_err(|error| format!("Couldn't connect to bird.\n  {error}")), Exit::Done)
    } else {
        (Err("BIRD answers to root only: run this as root to see the peers.".to_owned()), Exit::Usage)
    };
    let md5 = ctx.runtime.md5_failures();
    for (family, is_v4) in [("IPv4", true), ("IPv6", false)] {
        let _ = writeln!(text, "\n{family} BGP status");
        let mut part = json!({ "address": Value::Null });
        match &identity {
            Ok(identity) => match if is_v4 { &identity.ipv4 } else { &identity.ipv6 } {
                None => {
                    let _ = writeln!(text, "No {family} address configured.");
                    data[family.to_lowercase()] = part;
                    continue;
                }
                Some(address) => {
                    let number = &identity.as_number;
                    let _ = writeln!(text, "IP: {address}    AS Number: {number}");
                    part = json!({ "address": address, "asNumber": number });
                }
            },
            Err(_) => text.push_str("IP: unknown    AS Number: unknown\n"),
        }
        match &sessions {
            Ok(sessions) => {
                let peers = Peers::of_family(sessions, is_v4, identity.as_ref().ok(), md5);
                part["peers"] = peers.table().data();
                let _ = write!(text, "{peers}");
            }
            Err(words) => {
                part["error"] = json!(words);
                let _ = writeln!(text, "{words}");
            }
        }
        data[family.to_lowercase()] = part;
    }
    exit
}

/// What the datastore has of this host and its peers.
struct Identity {
    ipv4: Option<String>,
    ipv6: Option<String>,
    as_number: String,
    peers: Vec<BGPPeer>,
    mesh_has_password: bool,
}

impl Identity {
    async fn read(ctx: &Context) -> Result<Self, Failure> {
        let node: Option<Node> = match ctx.store.get::<NodeSpec>(&ctx.node).await {
            Ok(node) => Some(node),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error.into()),
        };
        let cluster = config::read::<BGPConfigurationSpec>(ctx, config::CLUSTER).await?.map(|stored| stored.spec);
        let cluster = cluster.unwrap_or_default();
        let cluster_as = cluster.as_number.unwrap_or(node_show::DEFAULT_AS);
        // Of an unreadable one confd tells, among the problems above.
        let (peers, _) = ctx.store.list::<BGPPeerSpec>().await?;
        let bgp = node.and_then(|node| node.spec.bgp).unwrap_or_default();
        let as_number = bgp.as_number.map_or_else(|| format!("{cluster_as} (inherited)"), |own| own.to_string());
        let address = |net: Option<&str>| node_show::address(net);
        Ok(Self {
            ipv4: address(bgp.ipv4_address.as_deref()),
            ipv6: address(bgp.ipv6_address.as_deref()),
            as_number,
            peers,
            mesh_has_password: cluster.node_mesh_password.is_some(),
        })
    }

    fn is_own(&self, address: IpAddr) -> bool {
        [&self.ipv4, &self.ipv6].into_iter().flatten().any(|own| own.parse() == Ok(address))
    }

    /// Whether the session is to have a password. BIRD does not say, so the BGPPeer is asked that confd names in the
    /// session's description.
    fn has_password(&self, session: &Session) -> bool {
        if session.kind == SessionKind::Mesh {
            return self.mesh_has_password;
        }
        let made_by = session.description.as_deref().and_then(|text| text.strip_prefix("BGPPeer "));
        let is_at = |peer: &BGPPeer| {
            Neighbour::of(&peer.spec).is_some_and(|neighbour| session.peer_address == Some(neighbour.address))
        };
        self.peers
            .iter()
            .filter(|peer| made_by == Some(peer.name()) || is_at(peer))
            .any(|peer| peer.spec.extra.contains_key("password"))
    }
}

/// The sessions of one family, sorted, each with what is wrong with it.
struct Peers<'a>(Vec<Peer<'a>>);

struct Peer<'a> {
    address: IpAddr,
    session: &'a Session,
    problem: Option<String>,
    is_own_address: bool,
}

impl<'a> Peers<'a> {
    fn of_family(sessions: &'a [Session], v4: bool, identity: Option<&Identity>, md5: Md5Failures) -> Self {
        let of_family = sessions.iter().filter_map(|session| {
            let address = session.peer_address.filter(|address| address.is_ipv4() == v4)?;
            let facts = Facts {
                is_own_address: identity.is_some_and(|identity| identity.is_own(address)),
                has_password: identity.is_some_and(|identity| identity.has_password(session)),
                md5,
            };
            let problem = words::problem(session, &facts);
            Some(Peer { address, session, problem, is_own_address: facts.is_own_address })
        });
        let mut peers: Vec<_> = of_family.collect();
        peers.sort_by_key(|peer| (peer.address, peer.session.kind));
        Self(peers)
    }

    fn table(&self) -> Table {
        let mut table = Table::new(PEERS);
        let hidden = |value: Value| Cell::Both(String::new(), value);
        for Peer { address, session, problem, is_own_address } in &self.0 {
            table.push(vec![
                address.to_string().into(),
                kind(session.kind).into(),
                session.state.as_str().into(),
                since(session.since, OffsetDateTime::now_utc()),
                session.info.as_str().into(),
                Cell::Both(
                    count(&session.channels, session.imported, |channel| channel.imported),
                    session.imported.into(),
                ),
                Cell::Both(
                    count(&session.channels, session.exported, |channel| channel.exported),
                    session.exported.into(),
                ),
                session.name.as_str().into(),
                hidden(json!(session.description)),
                hidden(json!(session.peer_as)),
                hidden(json!(session.local_as)),
                hidden(json!(session.peer_id)),
                hidden(session.established.into()),
                hidden(session.restarting.into()),
                hidden(session.channels.iter().map(channel).collect()),
                hidden(json!(session.last_error)),
                hidden(json!(problem)),
                hidden((*is_own_address).into()),
            ]);
        }
        table
    }
}

impl std::fmt::Display for Peers<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.table())?;
        for Peer { address, session, problem, is_own_address } in &self.0 {
            // Who is at the other end, as confd says it: a host by name, or the BGPPeer.
            let who = session.description.as_ref().map_or_else(String::new, |who| format!(", {who}"));
            match problem {
                Some(problem) => writeln!(f, "Problem ({address}{who}): {problem}")?,
                None if *is_own_address => writeln!(f, "Note ({address}{who}): {}", words::OWN_ADDRESS)?,
                None => {}
            }
        }
        Ok(())
    }
}

/// The classic words.
fn kind(kind: SessionKind) -> &'static str {
    match kind {
        SessionKind::Mesh => "node-to-node mesh",
        SessionKind::Node => "node specific",
        SessionKind::Global => "global",
        SessionKind::Other => "other",
    }
}

fn family(family: Option<Family>) -> &'static str {
    match family {
        Some(Family::V4) => "IPv4",
        Some(Family::V6) => "IPv6",
        None => "other",
    }
}

/// A count of prefixes; by family where a session carries several.
fn count(channels: &[Channel], all: u64, of: impl Fn(&Channel) -> u64) -> String {
    if channels.len() < 2 {
        return all.to_string();
    }
    let counts: Vec<String> =
        channels.iter().map(|channel| format!("{} {}", of(channel), family(channel.family))).collect();
    counts.join(", ")
}

fn channel(channel: &Channel) -> Value {
    json!({
        "family": family(channel.family),
        "state": channel.state,
        "in": channel.imported,
        "out": channel.exported,
        "preferred": channel.preferred,
        "refused": channel.refused,
        "limit": channel.import_limit.map(|(most, _)| most),
    })
}

/// As BIRD shows times: the time of day within a day, else the date. UTC.
fn since(since: Option<SystemTime>, now: OffsetDateTime) -> Cell {
    let Some(since) = since.map(OffsetDateTime::from) else { return Cell::Absent("") };
    let words = if now - since < time::Duration::DAY {
        format!("{:02}:{:02}:{:02}", since.hour(), since.minute(), since.second())
    } else {
        since.date().to_string()
    };
    Cell::Both(words, calico_model::timestamp(since).into())
}
