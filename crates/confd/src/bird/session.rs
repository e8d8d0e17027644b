//! What BIRD says of its sessions, as values.
//!
//! The answer to `show protocols all` is read line by line: a 1002 line starts a protocol (split on blanks, because
//! long names shift the columns), the 1006 lines that follow describe it. Only BGP protocols become sessions.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    time::SystemTime,
};

use super::{
    Reply,
    parse::{after, time, word},
};

/// Why a session exists, told by the name that the configuration gave it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SessionKind {
    /// `Mesh_*`: every node with every node.
    Mesh,
    /// `Global_*`: a peer of all nodes.
    Global,
    /// `Node_*`: a peer of this node, or of some.
    Node,
    /// From a template of the operator's own.
    #[default]
    Other,
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// The state of the session's own machine (RFC 4271, 8.2.2), with BIRD's additions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BgpState {
    /// Waiting after an error, or before the neighbour can be reached at all.
    Idle,
    /// A connection is being made; nobody has answered yet.
    Connect,
    /// Between two attempts to connect.
    Active,
    /// Waiting for the neighbour to connect, which is its part.
    Passive,
    /// Connected; our OPEN is sent, theirs is awaited.
    OpenSent,
    /// Both OPENs were good; the first keepalive is awaited.
    OpenConfirm,
    /// The session is up.
    Established,
    /// The session is being ended.
    Close,
    /// Switched off, by hand or after an error that no retry can mend.
    Down,
}

impl BgpState {
    fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "Idle" => Self::Idle,
            "Connect" => Self::Connect,
            "Active" => Self::Active,
            "Passive" => Self::Passive,
            "OpenSent" => Self::OpenSent,
            "OpenConfirm" => Self::OpenConfirm,
            "Established" => Self::Established,
            "Close" => Self::Close,
            "Down" => Self::Down,
            _ => return None,
        })
    }
}

/// Who found the last error of a session; BIRD writes it before the error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorOrigin {
    /// `Error`: this BIRD, outside of the protocol (`Neighbor lost`, `Kernel MD5 auth failed`, `BFD session down`).
    Local,
    /// `Socket`: the kernel, making or keeping the connection (`Connection refused`, `No route to host`).
    Socket,
    /// `Received`: the neighbour, which ended the session with this reason (`Bad peer AS`, `Administrative shutdown`).
    Neighbour,
    /// `BGP Error`: this BIRD, about what the neighbour sent; the neighbour was told (`Bad peer AS`,
    /// `Hold timer expired`).
    Protocol,
    /// `Automatic shutdown`: this BIRD, because of a limit (`Route limit exceeded`).
    Limit,
}

/// The last error of a session, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastError {
    /// Who found it.
    pub origin: ErrorOrigin,
    /// What, in BIRD's words without the origin.
    pub reason: String,
}

impl LastError {
    /// Takes BIRD's words apart; `None` if they are of no known form.
    pub fn parse(text: &str) -> Option<Self> {
        let (origin, reason) = text.split_once(": ")?;
        let origin = match origin {
            "Error" => ErrorOrigin::Local,
            "Socket" => ErrorOrigin::Socket,
            "Received" => ErrorOrigin::Neighbour,
            "BGP Error" => ErrorOrigin::Protocol,
            "Automatic shutdown" => ErrorOrigin::Limit,
            _ => return None,
        };
        Some(Self { origin, reason: reason.to_owned() })
    }
}

/// What a session exchanges of one address family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Channel {
    /// The family; `None` for one that is neither (an operator's own template).
    pub family: Option<Family>,
    /// BIRD's word: `UP`, `DOWN`, `START`, `FLUSHING`.
    pub state: String,
    /// Prefixes that came from the neighbour and were accepted.
    pub imported: u64,
    /// Prefixes that were announced to the neighbour.
    pub exported: u64,
    /// Of the imported ones, those that are the best for their prefix.
    pub preferred: u64,
    /// Announcements that the import filter refused since the session came up, repetitions included.
    pub refused: u64,
    /// The most prefixes that the neighbour may give, and whether that was reached.
    pub import_limit: Option<(u64, bool)>,
}

/// One BGP session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Session {
    /// BIRD's name of the protocol, `Mesh_10_192_0_3`.
    pub name: String,
    /// Why it exists.
    pub kind: SessionKind,
    /// The neighbour; `None` only where BIRD names none.
    pub peer_address: Option<IpAddr>,
    /// The neighbour's AS number, as configured.
    pub peer_as: Option<u32>,
    /// This node's AS number towards the neighbour.
    pub local_as: Option<u32>,
    /// The neighbour's router id, once it has said it.
    pub peer_id: Option<Ipv4Addr>,
    /// The family of the neighbour's address, or of the first channel where there is none.
    pub family: Option<Family>,
    /// What is at the other end, as the configuration describes it: `node host2`.
    pub description: Option<String>,
    /// BIRD's protocol state: `up`, `start`, `stop`, `flush`, `down`.
    pub state: String,
    /// Since when it is in that state; `None` if an operator's own template prints times in another format. BIRD may
    /// move it by a millisecond at a reconfiguration although nothing happened.
    pub since: Option<SystemTime>,
    /// The session's own state; `None` for a word that is not BIRD 2's.
    pub bgp_state: Option<BgpState>,
    /// Everything from BIRD's sixth column on: the session state and the last error, inner blanks kept.
    pub info: String,
    /// The last error in BIRD's words, forgotten once the session is up.
    pub last_error: Option<String>,
    /// Routes accepted from the peer, all channels together.
    pub imported: u64,
    /// Routes announced to the peer, all channels together.
    pub exported: u64,
    /// What is exchanged, by family; usually one.
    pub channels: Vec<Channel>,
    /// True if the session is up.
    pub established: bool,
    /// The peer has gone away and its routes are kept while it restarts.
    pub restarting: bool,
}

impl Session {
    /// The last error taken apart, `None` without one or if it is of no known form. BIRD forgets it once the session
    /// is up.
    pub fn error(&self) -> Option<LastError> {
        LastError::parse(self.last_error.as_deref()?)
    }

    /// All BGP sessions of an answer to `show protocols all`, in BIRD's order.
    pub(super) fn parse_all(reply: &Reply) -> Vec<Self> {
        let mut sessions = Vec::new();
        let mut current: Option<Self> = None;
        for (code, line) in &reply.lines {
            match code {
                1002 if line.is_empty() => {}
                1002 => {
                    sessions.extend(current.take());
                    current = Self::heading(line);
                }
                1006 => {
                    if let Some(session) = &mut current {
                        session.detail(line);
                    }
                }
                _ => {}
            }
        }
        sessions.extend(current);
        sessions
    }

    /// A session from its line of the table, `None` for a protocol that is not BGP.
    fn heading(line: &str) -> Option<Self> {
        let (name, rest) = word(line)?;
        let (protocol, rest) = word(rest)?;
        let (_table, rest) = word(rest)?;
        let (state, rest) = word(rest)?;
        let (since, info) = word(rest)?;
        if protocol != "BGP" {
            return None;
        }
        let kind = match name.split_once('_').map(|(kind, _)| kind) {
            Some("Mesh") => SessionKind::Mesh,
            Some("Global") => SessionKind::Global,
            Some("Node") => SessionKind::Node,
            _ => SessionKind::Other,
        };
        let bgp_state = info.split_whitespace().next().and_then(BgpState::parse);
        Some(Self {
            name: name.to_owned(),
            kind,
            state: state.to_owned(),
            since: time(since),
            bgp_state: bgp_state.or_else(|| (state == "down").then_some(BgpState::Down)),
            info: info.trim_end().to_owned(),
            established: bgp_state == Some(BgpState::Established),
            ..Self::default()
        })
    }

    fn detail(&mut self, line: &str) {
        if let Some(address) = after(line, "Neighbor address:") {
            // A link-local address carries its interface behind a percent sign.
            self.peer_address = address.split('%').next().and_then(|address| address.parse().ok());
            self.family = self.peer_address.map(|address| if address.is_ipv4() { Family::V4 } else { Family::V6 });
        } else if let Some(number) = after(line, "Neighbor AS:") {
            self.peer_as = number.parse().ok();
        } else if let Some(number) = after(line, "Local AS:") {
            self.local_as = number.parse().ok();
        } else if let Some(id) = after(line, "Neighbor ID:") {
            self.peer_id = id.parse().ok();
        } else if let Some(state) = after(line, "BGP state:") {
            self.bgp_state = BgpState::parse(state);
        } else if let Some(text) = after(line, "Description:") {
            self.description = Some(text.to_owned());
        } else if let Some(error) = after(line, "Last error:") {
            self.last_error = Some(error.to_owned());
        } else if let Some(name) = after(line, "Channel ") {
            let family = match name {
                "ipv4" => Some(Family::V4),
                "ipv6" => Some(Family::V6),
                _ => None,
            };
            self.family = self.family.or(family);
            self.channels.push(Channel { family, ..Channel::default() });
        } else if line.trim() == "Neighbor graceful restart active" {
            self.restarting = true;
        } else if let Some(channel) = self.channels.last_mut() {
            channel.detail(line);
            self.imported = self.channels.iter().map(|channel| channel.imported).sum();
            self.exported = self.channels.iter().map(|channel| channel.exported).sum();
        }
    }
}

impl Channel {
    fn detail(&mut self, line: &str) {
        if let Some(state) = after(line, "State:") {
            self.state = state.to_owned();
        } else if let Some(counts) = after(line, "Routes:") {
            self.count(counts);
        } else if let Some(counters) = after(line, "Import updates:") {
            // received, rejected, filtered, ignored, accepted
            let filtered = counters.split_whitespace().nth(2).and_then(|count| count.parse().ok());
            self.refused = filtered.unwrap_or_default();
        } else if let Some(limit) = after(line, "Import limit:") {
            let (most, rest) = word(limit).unwrap_or_default();
            self.import_limit = most.parse().ok().map(|most| (most, rest.starts_with("[HIT]")));
        }
    }

    /// `N imported, [N filtered,] N exported, N preferred`.
    fn count(&mut self, counts: &str) {
        for part in counts.split(", ") {
            match part.split_once(' ').map(|(count, what)| (count.parse::<u64>(), what)) {
                Some((Ok(count), "imported")) => self.imported = count,
                Some((Ok(count), "exported")) => self.exported = count,
                Some((Ok(count), "preferred")) => self.preferred = count,
                _ => {}
            }
        }
    }
}

/// The names of the sessions that are up, from an answer to `show protocols`.
pub(crate) fn established_sessions(reply: &Reply) -> BTreeSet<String> {
    headings(reply).filter(|session| session.established).map(|session| session.name).collect()
}

/// How many sessions there are, from an answer to `show protocols`.
pub(crate) fn session_count(reply: &Reply) -> usize {
    headings(reply).count()
}

fn headings(reply: &Reply) -> impl Iterator<Item = Session> {
    reply.lines.iter().filter(|(code, _)| *code == 1002).filter_map(|(_, line)| Session::heading(line))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::bird::ReplyReader;

    fn reply(text: &str) -> Reply {
        let mut reader = ReplyReader::new();
        reader.feed(text.as_bytes()).unwrap();
        reader.next_reply().unwrap()
    }

    const ALL: &str = "2002-Name       Proto      Table      State  Since         Info\n\
1002-device1    Device     ---        up     1795499597.625  \n\
1006-\n\
1002-kernel4    Kernel     master4    up     1795499597.625  \n\
1006-  Channel ipv4\n \
    Routes:         7 imported, 2 exported, 0 preferred\n \n\
1002-Mesh_10_192_0_3 BGP        ---        up     1795499598.614  Established   \n\
1006-  Description:    node host2\n \
  BGP state:          Established\n \
    Neighbor address: 10.192.0.3\n \
    Neighbor AS:      64512\n \
    Local AS:         64513\n \
    Neighbor ID:      10.192.0.9\n \
  Channel ipv4\n \
    State:          UP\n \
    Import limit:   100000 [HIT]\n \
      Action:       block\n \
    Routes:         2 imported, 1 filtered, 3 exported, 1 preferred\n \
      Import updates:              9          0          4          0          9\n \
    BGP Next hop:   10.192.0.2\n \n\
1002-Global_fd00_192__9 BGP        ---        start  1795499597.625  Active        Socket: No route to host\n\
1006-  BGP state:          Active\n \
    Neighbor address: fd00:192::9\n \
    Neighbor AS:      4200000000\n \
    Neighbor graceful restart active\n \
    Restart timer:    117.499/-\n \
    Last error:       Socket: No route to host\n \
  Channel ipv6\n \
    Routes:         5 imported, 0 exported, 5 preferred\n \n\
1002-Node_10_192_0_12 BGP        ---        down   1795499597.627  Error: Kernel MD5 auth failed\n\
1006-  BGP state:          Down\n \
    Neighbor address: 10.192.0.12\n \
    Last error:       Error: Kernel MD5 auth failed\n \n\
1002-a_name_that_is_much_longer_than_any_column_of_the_table BGP ---        start  17:54:00  Passive       \n\
1006-  Channel ipv6\n \n\
0000 \n";

    #[test]
    fn sessions_of_every_state() {
        let sessions = Session::parse_all(&reply(ALL));
        let names: Vec<&str> = sessions.iter().map(|session| session.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "Mesh_10_192_0_3",
                "Global_fd00_192__9",
                "Node_10_192_0_12",
                "a_name_that_is_much_longer_than_any_column_of_the_table"
            ]
        );
        let [mesh, global, node, other] = sessions.try_into().unwrap();
        assert_eq!(
            mesh,
            Session {
                name: "Mesh_10_192_0_3".into(),
                kind: SessionKind::Mesh,
                peer_address: Some("10.192.0.3".parse().unwrap()),
                peer_as: Some(64512),
                local_as: Some(64513),
                peer_id: Some(Ipv4Addr::new(10, 192, 0, 9)),
                family: Some(Family::V4),
                description: Some("node host2".into()),
                state: "up".into(),
                since: time("1795499598.614"),
                bgp_state: Some(BgpState::Established),
                info: "Established".into(),
                last_error: None,
                imported: 2,
                exported: 3,
                channels: vec![Channel {
                    family: Some(Family::V4),
                    state: "UP".into(),
                    imported: 2,
                    exported: 3,
                    preferred: 1,
                    refused: 4,
                    import_limit: Some((100_000, true)),
                }],
                established: true,
                restarting: false,
            }
        );
        assert_eq!(global.kind, SessionKind::Global);
        assert_eq!(global.peer_address, Some("fd00:192::9".parse().unwrap()));
        assert_eq!((global.family, global.peer_as), (Some(Family::V6), Some(4_200_000_000)));
        assert_eq!(global.info, "Active        Socket: No route to host");
        assert_eq!(global.last_error.as_deref(), Some("Socket: No route to host"));
        assert_eq!(global.bgp_state, Some(BgpState::Active));
        assert_eq!(global.error(), LastError::parse("Socket: No route to host"));
        assert_eq!(global.channels.iter().map(|channel| channel.imported).collect::<Vec<_>>(), [5]);
        assert!(global.restarting && !global.established);
        assert_eq!((node.kind, node.state.as_str(), node.established), (SessionKind::Node, "down", false));
        assert_eq!(node.info, "Error: Kernel MD5 auth failed");
        assert_eq!(node.bgp_state, Some(BgpState::Down));
        assert_eq!((other.kind, other.since, other.peer_address), (SessionKind::Other, None, None));
        assert_eq!(other.family, Some(Family::V6), "from the channel, in the absence of an address");
        assert_eq!((other.info.as_str(), other.bgp_state), ("Passive", Some(BgpState::Passive)));
    }

    #[test]
    fn origins_of_errors() {
        for (text, origin, reason) in [
            ("Error: Kernel MD5 auth failed", ErrorOrigin::Local, "Kernel MD5 auth failed"),
            ("Socket: Connection refused", ErrorOrigin::Socket, "Connection refused"),
            ("Received: Cease: x", ErrorOrigin::Neighbour, "Cease: x"),
            ("BGP Error: Bad peer AS", ErrorOrigin::Protocol, "Bad peer AS"),
            ("Automatic shutdown: Route limit exceeded", ErrorOrigin::Limit, "Route limit exceeded"),
        ] {
            assert_eq!(LastError::parse(text), Some(LastError { origin, reason: reason.into() }));
        }
        assert_eq!(LastError::parse("something else"), None);
    }

    #[test]
    fn the_short_table() {
        let reply = reply(
            "2002-Name Proto Table State Since Info\n\
1002-direct1    Direct     ---        up     1795499597.625  \n \
Mesh_10_192_0_3 BGP        ---        up     1795499598.614  Established   \n \
Mesh_10_192_0_4 BGP        ---        start  1795499598.614  Connect       \n \
Node_10_192_0_5 BGP        ---        down   1795499597.625  \n0000 \n",
        );
        assert_eq!(established_sessions(&reply), BTreeSet::from(["Mesh_10_192_0_3".to_owned()]));
        assert_eq!(session_count(&reply), 3);
    }
}
