//! BGP communities, and the prefixes that this node announces with some.

use std::fmt;

use calico_model::BGPConfigurationSpec;
use ipnet::IpNet;

use crate::{config::Tag, state::Problem};

/// A community of either size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Community {
    /// RFC 1997.
    Standard(u16, u16),
    /// RFC 8092.
    Large(u32, u32, u32),
}

impl Community {
    /// Reads `aa:nn` or `aa:nn:mm`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        // Signs, which Rust would take, are no digits.
        if !parts.iter().all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit())) {
            return None;
        }
        match parts.as_slice() {
            [a, b] => Some(Self::Standard(a.parse().ok()?, b.parse().ok()?)),
            [a, b, c] => Some(Self::Large(a.parse().ok()?, b.parse().ok()?, c.parse().ok()?)),
            _ => None,
        }
    }

    /// BIRD's name of the attribute that holds communities of this size.
    pub(crate) fn attribute(self) -> &'static str {
        match self {
            Self::Standard(..) => "bgp_community",
            Self::Large(..) => "bgp_large_community",
        }
    }

    /// BIRD's statement that adds it to a route.
    pub(crate) fn add(self) -> String {
        format!("{}.add({self});", self.attribute())
    }
}

/// As BIRD writes it: `(65000, 42)`.
impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Standard(a, b) => write!(f, "({a}, {b})"),
            Self::Large(a, b, c) => write!(f, "({a}, {b}, {c})"),
        }
    }
}

/// What this node's announcements are tagged with: by its own settings if they speak of it, else by the cluster's.
/// Names of communities are looked up beside the advertisement first, then in the cluster's settings.
pub(crate) fn tags(
    own: Option<&BGPConfigurationSpec>,
    cluster: &BGPConfigurationSpec,
    problems: &mut Vec<Problem>,
) -> Vec<Tag> {
    let own = own.filter(|own| !own.prefix_advertisements.is_empty());
    let (stated, subject) = match own {
        Some(own) => (own, "prefixAdvertisements of this node"),
        None => (cluster, "prefixAdvertisements"),
    };
    let named = |name: &str| {
        let defined = stated.communities.iter().chain(&cluster.communities);
        defined.into_iter().find(|community| community.name == name).map(|community| community.value.as_str())
    };
    let mut tags = Vec::new();
    for advertisement in &stated.prefix_advertisements {
        let Some(prefix) = prefix(&advertisement.cidr) else {
            problems
                .push(Problem::new(subject, format_args!("{:?} is not a prefix; it is left out", advertisement.cidr)));
            continue;
        };
        let mut communities = Vec::new();
        for text in &advertisement.communities {
            match Community::parse(named(text).unwrap_or(text)) {
                Some(community) => communities.push(community),
                None => problems.push(Problem::new(
                    subject,
                    format_args!("{text:?} of {prefix} is neither a community (aa:nn, aa:nn:mm) nor the name of one; it is left out"),
                )),
            }
        }
        communities.sort();
        communities.dedup();
        tags.push(Tag { prefix, statements: communities.into_iter().map(Community::add).collect() });
    }
    tags.retain(|tag| !tag.statements.is_empty());
    tags.sort();
    tags.dedup();
    tags
}

/// A network, or an address as a network of one.
fn prefix(text: &str) -> Option<IpNet> {
    text.parse().or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from)).ok().map(|net: IpNet| net.trunc())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn both_sizes() {
        assert_eq!(Community::parse("65000:42"), Some(Community::Standard(65000, 42)));
        assert_eq!(Community::parse("70000:1:4294967295"), Some(Community::Large(70000, 1, u32::MAX)));
        for bad in ["", "1", "1:", ":1", "1:2:3:4", "70000:1", "-1:1", "+1:1", "1:2:4294967296", "a:b", "1: 2"] {
            assert_eq!(Community::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn own_advertisements_replace_the_clusters_and_may_use_its_names() {
        let settings = |value: Value| serde_json::from_value::<BGPConfigurationSpec>(value).unwrap();
        let cluster = settings(json!({
            "communities": [{"name": "gold", "value": "65000:1"}],
            "prefixAdvertisements": [{"cidr": "10.0.0.0/8", "communities": ["gold", "65000:1", "1:2:3"]}],
        }));
        let shown = |own: Option<Value>| {
            let (own, mut problems) = (own.map(settings), Vec::new());
            let tags = tags(own.as_ref(), &cluster, &mut problems);
            let tags: Vec<String> =
                tags.iter().map(|tag| format!("{} {}", tag.prefix, tag.statements.join(" "))).collect();
            (tags, problems.len())
        };
        let both = "10.0.0.0/8 bgp_community.add((65000, 1)); bgp_large_community.add((1, 2, 3));".to_owned();
        assert_eq!(shown(None), (vec![both.clone()], 0));
        assert_eq!(shown(Some(json!({"listenPort": 1790}))), (vec![both], 0), "which says nothing of it");
        let own = json!({"prefixAdvertisements": [
            {"cidr": "10.1.0.1", "communities": ["gold", "silver"]}, {"cidr": "x"}, {"cidr": "10.2.0.0/16", "communities": ["?"]},
        ]});
        assert_eq!(shown(Some(own)), (vec!["10.1.0.1/32 bgp_community.add((65000, 1));".to_owned()], 3));
    }
}
