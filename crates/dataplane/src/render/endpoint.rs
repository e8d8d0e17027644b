//! The chain of all endpoints that have the same profiles.

use calico_policy::instruction::ProfileId;

use crate::{
    Options,
    name::{self, Direction},
    ruleset::{Action, CT_ESTABLISHED_RELATED, CT_INVALID, Chain, End, Match, Rule},
};

/// `NEXTHDR_IPV4`, IP in IP.
const IPIP: u8 = 4;
const UDP: u8 = 17;
/// IANA's port, and the one that hosts use between themselves.
const VXLAN: u16 = 4789;

/// Established flows first, then the profiles in order, then drop. The content depends on the profiles' names only,
/// so the chain never changes.
pub(crate) fn endpoint_chain(profiles: &[ProfileId], direction: Direction, options: &Options) -> Chain {
    let mut rules = vec![
        Rule::new(vec![Match::CtState(CT_ESTABLISHED_RELATED)], vec![Action::Accept]),
        Rule::new(vec![Match::CtState(CT_INVALID)], vec![Action::Drop]).counted("invalid for connection tracking"),
    ];
    if direction == Direction::Egress {
        rules.extend(overlay());
    }
    let accepted = Match::Mark { mask: options.mark_accept, value: options.mark_accept };
    for profile in profiles {
        rules.push(Rule::new(Vec::new(), vec![Action::Jump(name::profile_chain(profile, direction))]));
        rules.push(Rule::new(vec![accepted.clone()], vec![Action::Return]));
    }
    let last = if profiles.is_empty() { "no profile" } else { "no profile allows it" };
    rules.push(Rule::new(Vec::new(), vec![Action::Drop]).counted(last));
    let list: Vec<&str> = profiles.iter().map(|p| p.0.as_str()).collect();
    let list = if list.is_empty() { "none".to_owned() } else { list.join(", ") };
    Chain {
        name: name::endpoint_chain(profiles, direction),
        base: None,
        comment: Some(name::comment(&format!("{} of endpoints with profiles {list}", direction.word()))),
        rules,
    }
}

/// A workload must not inject packets into the hosts' overlay, whatever its policy says.
fn overlay() -> [Rule; 2] {
    let protocol = |number| Match::Protocol { number, negated: false };
    let port = Match::Port { end: End::Destination, range: (VXLAN, VXLAN), negated: false };
    [
        Rule::new(vec![protocol(IPIP)], vec![Action::Drop]).counted("IP in IP from a workload"),
        Rule::new(vec![protocol(UDP), port], vec![Action::Drop]).counted("VXLAN from a workload"),
    ]
}
