//! What is wrong with a session, in words that say where to look.
//!
//! BIRD tells the last error and who found it; a wrong password it does not tell, because the kernel drops the packets
//! before BIRD hears of them. So a session that gets no answer at all is judged together with what else is known: is
//! it to have a password, and does the kernel count packets with a bad signature.

use calico_confd::bird::{BgpState, ErrorOrigin, Md5Failures, Session};

/// What is known beside the session.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Facts {
    /// The neighbour's address is this host's own.
    pub(super) is_own_address: bool,
    /// The session is to have a password.
    pub(super) has_password: bool,
    /// What the kernel counts.
    pub(super) md5: Md5Failures,
}

/// Why a peering of this host with itself never comes up, and need not.
pub(super) const OWN_ADDRESS: &str = "it is this host's own address, as happens with a peer of all hosts that is one of \
                                      them; it stays down";

/// What is wrong, `None` for a session that is up and well, or need not be up.
pub(super) fn problem(session: &Session, facts: &Facts) -> Option<String> {
    if session.established {
        return limit_reached(session);
    }
    if facts.is_own_address {
        return None;
    }
    let mut words = match session.error() {
        Some(error) if is_over(session, &error.reason) => {
            format!("{}; now {}", failed(session, error.origin, &error.reason, facts), unanswered(session, facts))
        }
        Some(error) => failed(session, error.origin, &error.reason, facts),
        None => match &session.last_error {
            Some(other) => format!("BIRD says: {other}"),
            None => unanswered(session, facts),
        },
    };
    if session.restarting {
        words.push_str("; its routes are kept for a while, in case it restarts");
    }
    Some(words)
}

/// True if the error is that of an earlier session's end, and since then a new one is tried: BIRD keeps the error until
/// the next, and silence is none.
fn is_over(session: &Session, reason: &str) -> bool {
    let tried = matches!(session.bgp_state, Some(BgpState::Connect | BgpState::Active | BgpState::Passive));
    let ending = matches!(
        reason,
        "Administrative shutdown"
            | "Administrative reset"
            | "Cease"
            | "Connection collision resolution"
            | "Graceful restart"
            | "Hold timer expired"
            | "Other configuration change"
            | "Peer de-configured"
    );
    tried && ending
}

fn limit_reached(session: &Session) -> Option<String> {
    let (most, _) = session.channels.iter().filter_map(|channel| channel.import_limit).find(|(_, reached)| *reached)?;
    Some(format!("it gives more prefixes than the {most} that it may; the others are not taken"))
}

/// The port in BIRD's name of a session, `Node_10_0_0_1_port_1790`.
fn port(session: &Session) -> &str {
    session.name.rsplit_once("_port_").map_or("179", |(_, port)| port)
}

/// Nobody has answered, and nothing failed.
fn unanswered(session: &Session, facts: &Facts) -> String {
    let port = port(session);
    let state = match session.bgp_state {
        Some(BgpState::Down) => return "it is switched off by hand; on again: birdc enable".to_owned(),
        Some(BgpState::OpenSent | BgpState::OpenConfirm) => {
            return "it has connected; the two are agreeing on the session".to_owned();
        }
        Some(BgpState::Passive) => {
            format!("it has not connected yet, which is its part: is it up, and does a firewall let TCP port {port} in")
        }
        Some(BgpState::Idle) => "it is not tried at the moment: is there a route to it on this host".to_owned(),
        _ => format!("it does not answer: is it up, and does a firewall let TCP port {port} through"),
    };
    match password(facts) {
        Some(words) => format!("{state}? {words}"),
        None => format!("{state}?"),
    }
}

/// What speaks for a password that differs.
fn password(facts: &Facts) -> Option<String> {
    let Md5Failures { missing, unexpected, wrong } = facts.md5;
    let dropped = |count: u64, what: &str| (count > 0).then(|| format!("{count} {what}"));
    let counted: Vec<String> = [
        dropped(wrong, "with another password"),
        dropped(missing, "without a password where one is needed"),
        dropped(unexpected, "with a password where none is set"),
    ]
    .into_iter()
    .flatten()
    .collect();
    match (facts.has_password, counted.is_empty()) {
        (true, true) => Some("Or the passwords differ (TCP MD5): they must be the same at both ends.".to_owned()),
        (_, false) => Some(format!(
            "Or the password differs (TCP MD5): since its start this host dropped packets {}.",
            counted.join(", ")
        )),
        (false, true) => None,
    }
}

fn failed(session: &Session, origin: ErrorOrigin, reason: &str, facts: &Facts) -> String {
    match origin {
        ErrorOrigin::Socket => socket(session, reason, facts),
        ErrorOrigin::Neighbour => refused(session, reason),
        ErrorOrigin::Protocol => found_by_us(session, reason),
        ErrorOrigin::Local => local(session, reason),
        ErrorOrigin::Limit => {
            format!("BIRD has ended it because of a limit: {}; on again: birdc restart {}", lower(reason), session.name)
        }
    }
}

/// The kernel's words about the connection.
fn socket(session: &Session, reason: &str, facts: &Facts) -> String {
    let port = port(session);
    let words = match reason {
        "Connection refused" => {
            format!("the host is there, but no BGP daemon listens on its TCP port {port}: does it run")
        }
        "No route to host" => {
            "no route to it, or nobody in this network has the address: is it up, is the address right".into()
        }
        "Network is unreachable" => "this host has no route to its network; see: ip route".into(),
        "Connection timed out" => {
            format!("it does not answer: is it up, and does a firewall let TCP port {port} through")
        }
        "Connection reset by peer" | "Connection closed" => {
            "it closes the connection without a word: does it have this host as a neighbour".into()
        }
        "bind: Cannot assign requested address" | "Cannot assign requested address" => {
            return "this host does not have the address that the session comes from; see the node's address: \
                    calicoctl node show"
                .to_owned();
        }
        other => return format!("the connection fails: {}", lower(other)),
    };
    let words = if words.contains("; see") { words } else { format!("{words}?") };
    match (reason, password(facts)) {
        ("Connection timed out", Some(password)) => format!("{words} {password}"),
        _ => words,
    }
}

/// The neighbour has ended the session and said why.
fn refused(session: &Session, reason: &str) -> String {
    let ours = session.local_as.map_or_else(|| "our AS number".to_owned(), |number| format!("our AS number {number}"));
    match reason {
        "Bad peer AS" => {
            format!("the neighbour answers, but refuses {ours}: check `as` there, or this host's (calicoctl node --as)")
        }
        "Bad BGP identifier" => {
            "the neighbour answers, but refuses our router id, which is this host's IPv4 address: is it another's too?"
                .into()
        }
        "Unacceptable hold time" => "the neighbour answers, but refuses our hold time".into(),
        "Authentication failure" => "the neighbour answers, but refuses our password".into(),
        "Required capability missing" | "Unsupported optional parameter" | "No supported AFI/SAFI" => {
            format!("the neighbour answers, but wants what this session has not: {}", lower(reason))
        }
        "Hold timer expired" => {
            "the neighbour heard nothing of us for its hold time: is the network between lossy?".into()
        }
        "Administrative shutdown" => "the neighbour's operator has switched the session off".into(),
        "Other configuration change" => "the neighbour's configuration was changed".into(),
        "Administrative reset" => "the neighbour's operator has restarted the session".into(),
        "Peer de-configured" => "the neighbour's operator has removed this host as a neighbour".into(),
        "Connection rejected" => {
            "the neighbour answers, but does not want a session with this host: does it have this host as a neighbour?"
                .into()
        }
        "Maximum number of prefixes reached" => "the neighbour gets more prefixes from us than it allows".into(),
        "Cease" => "the neighbour has ended the session".into(),
        other => format!("the neighbour has ended the session: {}", lower(other)),
    }
}

/// What the neighbour sent was not right, and it was told so.
fn found_by_us(session: &Session, reason: &str) -> String {
    match reason {
        "Bad peer AS" => {
            let wanted = session.peer_as.map_or_else(String::new, |number| format!(" than {number}"));
            format!("the neighbour answers, but with another AS number{wanted}: check `as` of this peer")
        }
        "Bad BGP identifier" => {
            "the neighbour answers, but has the router id of this host: do both have the same IPv4 address?".into()
        }
        "Hold timer expired" => "the neighbour fell silent: nothing was heard of it for the hold time".into(),
        "Connection collision resolution" => "both connected at once; one of the two connections goes on".into(),
        "Required capability missing" => "the neighbour answers, but lacks what this session needs".into(),
        other => format!("the neighbour sends what is not right: {}", lower(other)),
    }
}

/// BIRD's own reasons.
fn local(session: &Session, reason: &str) -> String {
    match reason {
        "Neighbor lost" => "its network is no longer at an interface of this host: is the interface up?".into(),
        "Link down" => "the interface towards it has no carrier".into(),
        "Kernel MD5 auth failed" => "the kernel does not take the password: it has 1 to 80 bytes".into(),
        "No listening socket" => {
            format!("BIRD cannot listen on TCP port {}: does another program hold it?", port(session))
        }
        "BFD session down" => "BFD says that the path to it is dead".into(),
        "Graceful restart" => "it is restarting".into(),
        other => lower(other),
    }
}

/// For the middle of a sentence, unless it starts with an abbreviation.
fn lower(words: &str) -> String {
    let mut chars = words.chars();
    match (chars.next(), chars.next()) {
        (Some(first), Some(second)) if second.is_lowercase() => {
            format!("{}{}", first.to_lowercase(), &words[first.len_utf8()..])
        }
        _ => words.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(state: BgpState, last_error: &str) -> Session {
        Session {
            name: "Node_10_0_0_1_port_1790".into(),
            peer_as: Some(65001),
            local_as: Some(64512),
            bgp_state: Some(state),
            last_error: (!last_error.is_empty()).then(|| last_error.to_owned()),
            ..Session::default()
        }
    }

    #[test]
    fn each_error_says_where_to_look() {
        for (last_error, words) in [
            ("Received: Bad peer AS", "the neighbour answers, but refuses our AS number 64512: check `as` there"),
            ("BGP Error: Bad peer AS", "with another AS number than 65001: check `as` of this peer"),
            ("Socket: No route to host", "no route to it"),
            ("Socket: Network is unreachable", "no route to its network"),
            ("Socket: Connection refused", "no BGP daemon listens on its TCP port 1790"),
            ("Socket: Connection closed", "does it have this host as a neighbour?"),
            ("Socket: Protocol not available", "the connection fails: protocol not available"),
            ("Error: Kernel MD5 auth failed", "does not take the password"),
            ("Error: Neighbor lost", "is the interface up?"),
            ("Received: Administrative shutdown", "switched the session off; now it does not answer"),
            ("BGP Error: Hold timer expired", "fell silent"),
            ("Automatic shutdown: Route limit exceeded", "route limit exceeded"),
            ("Received: Something of RFC 9999", "something of RFC 9999"),
            ("Whatever", "BIRD says: Whatever"),
        ] {
            let said = problem(&session(BgpState::Active, last_error), &Facts::default());
            assert!(said.as_ref().is_some_and(|said| said.contains(words)), "{last_error}: {said:?}");
        }
    }

    #[test]
    fn silence_may_be_a_password() {
        let quiet = session(BgpState::Connect, "");
        let said = |facts: &Facts| problem(&quiet, facts).unwrap_or_default();
        assert!(!said(&Facts::default()).contains("password"));
        let with = Facts { has_password: true, ..Facts::default() };
        assert!(said(&with).contains("the passwords differ (TCP MD5)"), "{}", said(&with));
        let counted = Facts { md5: Md5Failures { missing: 0, unexpected: 2, wrong: 7 }, ..Facts::default() };
        let words = said(&counted);
        assert!(words.contains("7 with another password, 2 with a password where none is set"), "{words}");
        // The end of the last session is not the reason for the silence of the next.
        let over = session(BgpState::Connect, "Received: Other configuration change");
        let words = problem(&over, &with).unwrap_or_default();
        assert!(words.contains("configuration was changed; now it does not answer"), "{words}");
        assert!(words.contains("passwords differ"), "{words}");
        // What is known of the connection speaks against it.
        let refused = problem(&session(BgpState::Active, "Socket: Connection refused"), &with).unwrap_or_default();
        assert!(!refused.contains("password"), "{refused}");
    }

    #[test]
    fn a_session_that_is_up_has_no_problem_unless_it_hits_its_limit() {
        let mut up = Session { established: true, ..session(BgpState::Established, "") };
        assert_eq!(problem(&up, &Facts::default()), None);
        up.channels.push(calico_confd::bird::Channel { import_limit: Some((10, true)), ..Default::default() });
        assert!(problem(&up, &Facts::default()).is_some_and(|words| words.contains("more prefixes than the 10")));
    }

    #[test]
    fn a_peering_with_oneself_is_none() {
        let own = Facts { is_own_address: true, ..Facts::default() };
        assert_eq!(problem(&session(BgpState::Idle, "BGP Error: Bad BGP identifier"), &own), None);
    }

    #[test]
    fn kept_routes_are_told() {
        let gone = Session { restarting: true, ..session(BgpState::Active, "Socket: Connection refused") };
        assert!(problem(&gone, &Facts::default()).is_some_and(|words| words.contains("its routes are kept")));
    }
}
