//! The whole of what a BIRD configuration says, as a value.
//!
//! Everything is typed and sorted: equal facts give an equal value and so an equal file, and no text of a user's
//! reaches the file unless it went through [`Password`], [`interface_pattern`] or [`description`], which let nothing
//! through that could end a string and go on as configuration. The rules of BGPFilters come as statements that were
//! put together from such values (see the module `filters`).

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use calico_model::AsNumber;
use ipnet::IpNet;
use serde::Serialize;

/// What this node's BIRD shall do. Rendered by a [`Template`](crate::Template); the field names are the template's
/// variables.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BirdConfig {
    /// The node's name, reduced to what is safe in a comment.
    pub node: String,
    /// Unique per node: the IPv4 address, or on an IPv6-only node a hash of the name.
    pub router_id: Ipv4Addr,
    /// The node's AS number.
    pub local_as: u32,
    /// Where to listen; `None` is BGP's own port, 179.
    pub listen_port: Option<u16>,
    /// Listen on the node's addresses only.
    pub strict_bind: bool,
    /// What is logged.
    pub verbosity: Verbosity,
    /// Patterns of interfaces that BIRD shall not see, beside the built-in ones.
    pub ignored_interfaces: Vec<String>,
    /// The local preference of routes of which no filter said another, if some filter of the cluster speaks of
    /// priorities; all nodes must then say the same.
    pub normal_preference: Option<u32>,
    /// IPv4, then IPv6; always both.
    pub families: [FamilyConfig; 2],
}

/// What differs between the address families. All lists are sorted.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FamilyConfig {
    /// 4 or 6, the suffix of all names in the file.
    pub v: u8,
    /// The node's address, the source of its sessions; without it the family has no sessions.
    pub address: Option<IpAddr>,
    /// The node's own subnets: peers may not give routes inside them.
    pub onlink: Vec<IpNet>,
    /// Pools inside the node's own subnets: there, peers may.
    pub onlink_pools: Vec<IpNet>,
    /// Own blocks: announced as aggregates, their addresses are not.
    pub blocks: Vec<IpNet>,
    /// Pools to announce, disabled ones too: their workloads live on.
    pub pools: Vec<IpNet>,
    /// Pools that BGP must not announce.
    pub no_export: Vec<IpNet>,
    /// Pools with an encapsulation: announced, but their routes in the kernel are felix's.
    pub encapsulated: Vec<IpNet>,
    /// Service ranges: announced, never in the kernel.
    pub services: Vec<IpNet>,
    /// Communities of what this node announces.
    pub tags: Vec<Tag>,
    /// Neighbours that are reached through a gateway of their own.
    pub gateways: Vec<Gateway>,
    /// The lists of BGPFilters that the peers of this family call.
    pub functions: Vec<FilterFunction>,
    /// The neighbours: mesh, global, node; each by address.
    pub peers: Vec<Peer>,
}

impl FamilyConfig {
    /// True for a prefix of a single address, which needs no aggregate.
    pub(crate) fn is_single(prefix: &IpNet) -> bool {
        prefix.prefix_len() == prefix.max_prefix_len()
    }
}

/// Communities for routes to a prefix and to what is inside it, where this node is the first to announce them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Tag {
    /// The prefix.
    pub prefix: IpNet,
    /// BIRD's statements that add the communities.
    pub statements: Vec<String>,
}

/// A fixed route to a neighbour, so that no announcement of anybody's can lead elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Gateway {
    /// The neighbour's address, as a prefix of one address.
    pub peer: IpNet,
    /// Where it is reached.
    pub gateway: IpAddr,
}

/// The way that routes take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Direction {
    /// From a peer.
    Import,
    /// To a peer.
    Export,
}

impl Direction {
    /// What a peer does.
    pub(crate) fn verb(self) -> &'static str {
        match self {
            Self::Import => "import",
            Self::Export => "export",
        }
    }
}

/// One list of a BGPFilter as a function in BIRD's language.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FilterFunction {
    /// Its name, to be quoted.
    pub symbol: String,
    /// The filter's name, reduced to what is safe in a comment.
    pub filter: String,
    /// The rules in order, one statement each; `same_as` is the parameter, true where the peer is in this AS.
    pub statements: Vec<String>,
}

/// What the filters of a peer do in one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Screen {
    /// The functions to ask, in this order.
    pub calls: Vec<String>,
    /// Nothing is exchanged, because a filter cannot be followed.
    pub closed: bool,
}

/// Why a session exists; the first part of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum PeerKind {
    /// Every node with every node.
    Mesh,
    /// A BGPPeer for all nodes.
    Global,
    /// A BGPPeer for this node, or for some.
    Node,
}

/// Which next hop is announced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NextHop {
    /// BGP's rules.
    #[default]
    Auto,
    /// This node, always.
    #[serde(rename = "self")]
    SelfAddress,
    /// The one that was learned.
    Keep,
}

/// Whether several paths of one prefix are exchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AddPaths {
    /// A reflector sends them.
    Tx,
    /// Its client takes them.
    Rx,
}

/// One session.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Peer {
    /// BIRD's name of the protocol, unique in the file: `Mesh_10_192_0_3`.
    pub name: String,
    /// Why it exists.
    pub kind: PeerKind,
    /// The neighbour.
    pub address: IpAddr,
    /// The neighbour's port, if it is not 179.
    pub port: Option<u16>,
    /// The neighbour's AS number; never 0, which BIRD refuses.
    pub as_number: u32,
    /// This node's AS number towards this neighbour, where it differs.
    pub local_as: Option<u32>,
    /// For people; safe inside a string.
    pub description: String,
    /// Wait for the neighbour to connect: exactly one side of a mesh pair does.
    pub passive: bool,
    /// Use the node's address as the source.
    pub use_node_address: bool,
    /// A router outside of the cluster in another AS: the number of routes it may send is limited.
    pub external: bool,
    /// The neighbour is in this node's AS, as this node shows it to the neighbour (iBGP).
    pub internal: bool,
    /// The BGPFilters by name, in order.
    #[serde(skip)]
    pub filters: Vec<String>,
    /// What they do to routes from the neighbour.
    pub import: Screen,
    /// What they do to routes to the neighbour.
    pub export: Screen,
    /// The gateway that leads to the neighbour; without one the kernel's routes do.
    pub reachable_by: Option<IpAddr>,
    /// TCP MD5 password.
    pub password: Option<Password>,
    /// Next hop of what is announced.
    pub next_hop: NextHop,
    /// This node reflects routes for this neighbour, under this cluster id.
    pub reflector_cluster_id: Option<Ipv4Addr>,
    /// Several paths of one prefix.
    pub add_paths: Option<AddPaths>,
    /// Accept packets only from at most this many hops away (GTSM, RFC 5082); 1 to 255.
    pub ttl_security: Option<u8>,
    /// Seconds that routes are kept while the neighbour restarts, if not the default; at most 4095 (RFC 4724).
    pub restart_time: Option<u16>,
    /// Seconds between keepalives, if not the default; 1 to 21845.
    pub keepalive_time: Option<u16>,
    /// How often this node's own AS number may occur in a path.
    pub allow_local_as: Option<u32>,
}

impl Peer {
    /// A peer without options.
    pub(crate) fn new(kind: PeerKind, address: IpAddr, port: Option<u16>, as_number: AsNumber) -> Self {
        Self {
            name: session_name(kind, address, port),
            kind,
            address,
            port,
            as_number: as_number.0,
            local_as: None,
            description: String::new(),
            passive: false,
            use_node_address: true,
            external: false,
            internal: false,
            filters: Vec::new(),
            import: Screen::default(),
            export: Screen::default(),
            reachable_by: None,
            password: None,
            next_hop: NextHop::Auto,
            reflector_cluster_id: None,
            add_paths: None,
            ttl_security: None,
            restart_time: None,
            keepalive_time: None,
            allow_local_as: None,
        }
    }
}

/// BIRD's name for a session: at most 57 of the 64 characters that a symbol may have, and never two alike for
/// different neighbours.
fn session_name(kind: PeerKind, address: IpAddr, port: Option<u16>) -> String {
    let address = address.to_string().replace(['.', ':'], "_");
    let port = port.map(|port| format!("_port_{port}")).unwrap_or_default();
    format!("{kind:?}_{address}{port}")
}

/// What BIRD logs, by the names of `logSeverityScreen`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(into = "Logging")]
pub enum Verbosity {
    /// Only what ends the daemon.
    Fatal,
    /// And errors.
    Error,
    /// And warnings, also about peers.
    Warning,
    /// And life-cycle.
    #[default]
    Info,
    /// And the states of all protocols.
    Debug,
    /// And everything.
    Trace,
}

impl Verbosity {
    /// The level of a `logSeverityScreen`, in any case; `None` for another word.
    pub(crate) fn from_severity(severity: &str) -> Option<Self> {
        Some(match severity.to_ascii_lowercase().as_str() {
            "fatal" | "panic" => Self::Fatal,
            "error" => Self::Error,
            "warning" | "warn" => Self::Warning,
            "info" => Self::Info,
            "debug" => Self::Debug,
            "trace" => Self::Trace,
            _ => return None,
        })
    }
}

/// The template's view of a [`Verbosity`].
#[derive(Serialize)]
struct Logging {
    /// BIRD's log classes.
    classes: Vec<&'static str>,
    /// What protocols trace.
    debug: Option<&'static str>,
}

impl From<Verbosity> for Logging {
    fn from(verbosity: Verbosity) -> Self {
        let mut classes = vec!["fatal", "bug"];
        if verbosity as u8 >= Verbosity::Error as u8 {
            classes.extend(["error", "auth"]);
        }
        if verbosity as u8 >= Verbosity::Warning as u8 {
            classes.extend(["warning", "remote"]);
        }
        if verbosity as u8 >= Verbosity::Info as u8 {
            classes.push("info");
        }
        let debug = match verbosity {
            Verbosity::Debug => Some("{ states, events }"),
            Verbosity::Trace => Some("all"),
            _ => None,
        };
        if debug.is_some() {
            classes.extend(["debug", "trace"]);
        }
        Self { classes, debug }
    }
}

/// A TCP MD5 password that BIRD can take. Never shown by `Debug`; serialised for the template only.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Password(String);

impl Password {
    /// Checks a password.
    ///
    /// # Errors
    /// What is wrong, without the password: its length (1 to 80 bytes, the kernel's limit, which `bird -p` does not
    /// check), or a character that BIRD's strings, which have no escapes, cannot hold.
    pub fn new(text: String) -> Result<Self, &'static str> {
        if text.is_empty() {
            Err("is empty")
        } else if text.len() > 80 {
            Err("is longer than 80 bytes, the most that the kernel takes")
        } else if text.contains(['"', '\n', '\r', '\0']) {
            Err("holds a double quote, a line end or a NUL, which BIRD cannot represent")
        } else {
            Ok(Self(text))
        }
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(***)")
    }
}

/// Text for people that is safe in a comment and in a string: other characters become `?`, 100 are kept.
pub(crate) fn description(text: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || " ._:/-".contains(c) { c } else { '?' };
    text.chars().take(100).map(safe).collect()
}

/// An interface pattern that is safe in the file: up to 15 bytes of a name with `*` in it, but not only `*`.
pub(crate) fn interface_pattern(text: &str) -> Option<String> {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-*@".contains(&byte);
    let good = (1..=15).contains(&text.len()) && text.bytes().all(safe) && !text.bytes().all(|byte| byte == b'*');
    good.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn names_of_sessions() {
        let name = |kind, address: &str, port| session_name(kind, address.parse().unwrap(), port);
        assert_eq!(name(PeerKind::Mesh, "10.192.0.3", None), "Mesh_10_192_0_3");
        assert_eq!(name(PeerKind::Global, "fd00:192::3", None), "Global_fd00_192__3");
        assert_eq!(name(PeerKind::Node, "10.0.0.1", Some(1790)), "Node_10_0_0_1_port_1790");
        let longest = name(PeerKind::Global, "fd00:1111:2222:3333:4444:5555:6666:7777", Some(65535));
        assert!(longest.len() <= 64, "{longest}");
    }

    #[test]
    fn passwords() {
        for good in ["x", "a b$c%d\\e'f#g;{h}", &"y".repeat(80)] {
            assert!(Password::new(good.into()).is_ok(), "{good:?}");
        }
        for bad in ["", "a\"b", "a\nb", "a\rb", "a\0b", &"y".repeat(81)] {
            assert!(Password::new(bad.into()).is_err(), "{bad:?}");
        }
        let shown = format!("{:?}", Password::new("s3cret".into()).unwrap());
        assert!(!shown.contains("s3cret"), "{shown}");
    }

    #[test]
    fn text_of_others_cannot_become_configuration() {
        assert_eq!(description("node a\"; }\nprotocol"), "node a?? ??protocol");
        assert_eq!(description(&"x".repeat(200)).len(), 100);
        assert_eq!(interface_pattern("docker*").as_deref(), Some("docker*"));
        for bad in ["", "*", "a\"b", "a b", "0123456789abcdef", "x\n"] {
            assert_eq!(interface_pattern(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn verbosity_by_name() {
        assert_eq!(Verbosity::from_severity("iNFO"), Some(Verbosity::Info));
        assert_eq!(Verbosity::from_severity("loud"), None);
        let of = |verbosity| Logging::from(verbosity);
        assert_eq!(of(Verbosity::Fatal).classes, ["fatal", "bug"]);
        assert!(of(Verbosity::Info).classes.contains(&"info") && of(Verbosity::Info).debug.is_none());
        assert!(of(Verbosity::Debug).classes.contains(&"trace") && of(Verbosity::Debug).debug.is_some());
    }
}
