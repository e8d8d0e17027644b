//! What BIRD says of its sessions and of itself, as values.
//!
//! The answer to `show protocols all` is read line by line: a 1002 line starts a protocol (split on blanks, because
//! long names shift the columns), the 1006 lines that follow describe it. Only BGP protocols become sessions.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    time::{Duration, SystemTime},
};

use super::{
    Reply,
    parse::{after, time, word},
};

/// Why a session exists, told by the name that the configuration gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SessionKind {
    /// `Mesh_*`: every node with every node.
    Mesh,
    /// `Global_*`: a peer of all nodes.
    Global,
    /// `Node_*`: a peer of this node, or of some.
    Node,
    /// From a template of the operator's own.
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

/// One BGP session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// BIRD's name of the protocol, `Mesh_10_192_0_3`.
    pub name: String,
    /// Why it exists.
    pub kind: SessionKind,
    /// The neighbour; `None` only where BIRD names none.
    pub peer_address: Option<IpAddr>,
    /// The neighbour's AS number.
    pub peer_as: Option<u32>,
    /// The family of the neighbour's address, or of the first channel where there is none.
    pub family: Option<Family>,
    /// What is at the other end, as the configuration describes it: `node host2`.
    pub description: Option<String>,
    /// BIRD's protocol state: `up`, `start`, `stop`, `flush`, `down`.
    pub state: String,
    /// Since when it is in that state; `None` if an operator's own template prints times in another format. BIRD may
    /// move it by a millisecond at a reconfiguration although nothing happened.
    pub since: Option<SystemTime>,
    /// Everything from BIRD's sixth column on: the session state and the last error, inner blanks kept.
    pub info: String,
    /// The last error in BIRD's words.
    pub last_error: Option<String>,
    /// Routes accepted from the peer, all channels together.
    pub imported: u64,
    /// Routes announced to the peer, all channels together.
    pub exported: u64,
    /// True if the session is up.
    pub established: bool,
    /// The peer has gone away and its routes are kept while it restarts.
    pub restarting: bool,
}

/// A graceful restart recovery in progress: BIRD neither writes nor announces anything new.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// Channels that have not recovered.
    pub waiting_for: u32,
    /// How long it has been waiting, and the most that it will wait; `None` if not said.
    pub waited: Option<(Duration, Duration)>,
}

/// The daemon's own state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// `2.0.12`.
    pub version: String,
    /// The router id in force.
    pub router_id: Option<Ipv4Addr>,
    /// The daemon's clock.
    pub server_time: Option<SystemTime>,
    /// When the daemon was started.
    pub last_reboot: Option<SystemTime>,
    /// When the configuration was read last.
    pub last_reconfiguration: Option<SystemTime>,
    /// A recovery in progress.
    pub recovery: Option<Recovery>,
    /// BIRD's last words: `Daemon is up and running`, `Reconfiguration in progress`, `Shutdown in progress`.
    pub text: String,
}

impl Status {
    /// True if no reconfiguration and no shutdown is in progress.
    pub fn is_settled(&self) -> bool {
        self.text == "Daemon is up and running"
    }

    pub(super) fn parse(reply: &Reply) -> Self {
        let mut status = Self::default();
        for (code, line) in &reply.lines {
            if *code == 1000
                && let Some(version) = after(line, "BIRD ")
            {
                status.version = version.to_owned();
            } else if let Some(id) = after(line, "Router ID is ") {
                status.router_id = id.parse().ok();
            } else if let Some(at) = after(line, "Current server time is ") {
                status.server_time = time(at);
            } else if let Some(at) = after(line, "Last reboot on ") {
                status.last_reboot = time(at);
            } else if let Some(at) = after(line, "Last reconfiguration on ") {
                status.last_reconfiguration = time(at);
            } else if line.contains("Graceful restart recovery in progress") {
                status.recovery = Some(Recovery { waiting_for: 0, waited: None });
            } else if let Some(recovery) = &mut status.recovery {
                recovery.line(line);
            }
        }
        status.text = reply.text().to_owned();
        status
    }
}

impl Recovery {
    fn line(&mut self, line: &str) {
        if let Some(count) = after(line, "Waiting for ").and_then(word) {
            self.waiting_for = count.0.parse().unwrap_or_default();
        } else if let Some((waited, limit)) = after(line, "Wait timer is ").and_then(|text| text.split_once('/')) {
            let seconds = |text: &str| text.parse().ok().and_then(|s| Duration::try_from_secs_f64(s).ok());
            self.waited = seconds(waited).zip(seconds(limit));
        }
    }
}

impl Session {
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
        let established = info.split_whitespace().next() == Some("Established");
        Some(Self {
            name: name.to_owned(),
            kind,
            peer_address: None,
            peer_as: None,
            family: None,
            description: None,
            state: state.to_owned(),
            since: time(since),
            info: info.trim_end().to_owned(),
            last_error: None,
            imported: 0,
            exported: 0,
            established,
            restarting: false,
        })
    }

    fn detail(&mut self, line: &str) {
        if let Some(address) = after(line, "Neighbor address:") {
            // A link-local address carries its interface behind a percent sign.
            self.peer_address = address.split('%').next().and_then(|address| address.parse().ok());
            self.family = self.peer_address.map(|address| if address.is_ipv4() { Family::V4 } else { Family::V6 });
        } else if let Some(number) = after(line, "Neighbor AS:") {
            self.peer_as = number.parse().ok();
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
        } else if let Some(counts) = after(line, "Routes:") {
            self.count(counts);
        } else if line.trim() == "Neighbor graceful restart active" {
            self.restarting = true;
        }
    }

    /// `N imported, [N filtered,] N exported, N preferred`.
    fn count(&mut self, counts: &str) {
        for part in counts.split(", ") {
            match part.split_once(' ').map(|(count, what)| (count.parse::<u64>(), what)) {
                Some((Ok(count), "imported")) => self.imported += count,
                Some((Ok(count), "exported")) => self.exported += count,
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
    Routes:         2 imported, 1 filtered, 3 exported, 1 preferred\n \
      Import updates:              9          0          0          0          9\n \
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
                family: Some(Family::V4),
                description: Some("node host2".into()),
                state: "up".into(),
                since: time("1795499598.614"),
                info: "Established".into(),
                last_error: None,
                imported: 2,
                exported: 3,
                established: true,
                restarting: false,
            }
        );
        assert_eq!(global.kind, SessionKind::Global);
        assert_eq!(global.peer_address, Some("fd00:192::9".parse().unwrap()));
        assert_eq!((global.family, global.peer_as), (Some(Family::V6), Some(4_200_000_000)));
        assert_eq!(global.info, "Active        Socket: No route to host");
        assert_eq!(global.last_error.as_deref(), Some("Socket: No route to host"));
        assert!(global.restarting && !global.established);
        assert_eq!((node.kind, node.state.as_str(), node.established), (SessionKind::Node, "down", false));
        assert_eq!(node.info, "Error: Kernel MD5 auth failed");
        assert_eq!((other.kind, other.since, other.peer_address), (SessionKind::Other, None, None));
        assert_eq!(other.family, Some(Family::V6), "from the channel, in the absence of an address");
        assert_eq!(other.info, "Passive");
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

    #[test]
    fn status_while_recovering() {
        let status = Status::parse(&reply(
            "1000-BIRD 2.0.12\n1011-Router ID is 10.192.0.2\n Hostname is vm\n Current server time is 1795499601.622574\n \
Last reboot on 1795499597.625318\n Last reconfiguration on 1795499598.5\n\
0024-Graceful restart recovery in progress\n   Waiting for 2 channels to recover\n   Wait timer is 10.900/15\n\
0013 Daemon is up and running\n",
        ));
        assert_eq!(status.version, "2.0.12");
        assert_eq!(status.router_id, Some(Ipv4Addr::new(10, 192, 0, 2)));
        assert_eq!(status.last_reboot, time("1795499597.625318"));
        assert_eq!(status.last_reconfiguration, time("1795499598.5"));
        let recovery = status.recovery.as_ref().unwrap();
        assert_eq!(recovery.waiting_for, 2);
        assert_eq!(recovery.waited, Some((Duration::from_millis(10_900), Duration::from_secs(15))));
        assert!(status.is_settled());
    }

    #[test]
    fn status_while_reconfiguring() {
        let status = Status::parse(&reply("1000-BIRD 2.0.12\n0013 Reconfiguration in progress\n"));
        assert!(!status.is_settled() && status.recovery.is_none());
    }
}
