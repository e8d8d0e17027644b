//! A network as a profile: its members reach each other, published ports are open, everything may go out.

use calico_model::{Action, EntityRule, Port, Profile, ProfileName, Protocol, Rule};

use crate::{
    endpoint::PUBLISHED,
    pools::{ANNOTATION_MADE_BY, MADE_BY},
};

/// The profile of a network, which nobody has made yet.
pub(crate) fn of_network(name: &ProfileName, internal: bool) -> Profile {
    let mut profile = Profile::classic_default(name);
    profile.metadata.annotations.insert(ANNOTATION_MADE_BY.to_owned(), MADE_BY.to_owned());
    if internal {
        // Out to the members only; nothing of an internal network is published.
        let members = profile.spec.ingress[0].source.clone();
        let mut outbound = Rule::of(Action::Allow);
        outbound.destination = members;
        profile.spec.egress = vec![outbound];
        return profile;
    }
    for (protocol, port) in PUBLISHED {
        let mut rule = Rule::of(Action::Allow);
        rule.protocol = Some(Protocol::from(protocol));
        rule.destination = EntityRule { ports: vec![Port::Name(port.to_owned())], ..EntityRule::default() };
        profile.spec.ingress.push(rule);
    }
    profile
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn profiles_of_networks_are_valid() {
        for (name, internal) in [("app", false), ("My_Net.1", false), ("back", true)] {
            let name = ProfileName::typed(name).unwrap();
            let mut profile = of_network(&name, internal);
            profile.prepare().unwrap();
            assert_eq!(profile.spec.ingress.len(), if internal { 1 } else { 4 });
            assert_eq!(profile.spec.egress[0].destination.selector.is_empty(), !internal);
        }
    }
}
