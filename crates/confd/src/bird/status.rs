//! What BIRD says of itself: the answer to `show status`.

use std::{
    net::Ipv4Addr,
    time::{Duration, SystemTime},
};

use super::{
    Reply,
    parse::{after, time, word},
};

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
