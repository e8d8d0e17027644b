//! From what was typed to the ends of a flow, and to what flows.

use std::net::IpAddr;

use calico_explain::{
    Cluster,
    why::{End, Party},
};
use calico_workload::docker::DockerError;

use crate::{context::Context, failure::Failure};

/// The word for the host that the command runs on.
const THIS_HOST: &str = "host";

/// What is asked for, without the ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Traffic {
    /// All ports of a protocol that has ports.
    AllPorts(u8),
    /// One of them.
    Port(u8, u16),
    /// A ping.
    Ping,
    /// A protocol without ports.
    Protocol(u8),
}

/// The end that a word means, with its addresses.
///
/// # Errors
/// Nothing, or several things, have this name; or it has no address.
pub(super) async fn find(ctx: &Context, cluster: &Cluster, word: &str) -> Result<Vec<Party>, Failure> {
    if let Ok(address) = word.parse::<IpAddr>() {
        return Ok(vec![cluster.party(address)]);
    }
    let end = if word == THIS_HOST { End::Host(ctx.node.clone()) } else { named(ctx, cluster, word).await? };
    let addresses = cluster.addresses(&end);
    if addresses.is_empty() {
        return Err(match &end {
            End::Host(node) if cluster.node(node).is_none() => {
                Failure::new(format!("Host {node} has no record, so its addresses are not known."))
                    .hint("see: calicoctl node show")
            }
            _ => Failure::new(format!("{word} has no address.")),
        });
    }
    Ok(addresses.into_iter().map(|address| Party { end: end.clone(), address }).collect())
}

async fn named(ctx: &Context, cluster: &Cluster, word: &str) -> Result<End, Failure> {
    // A container of this host is meant before one that another host calls by the same name.
    let here = match ctx.host.inspect(word).await {
        Ok(container) => {
            let own = cluster.endpoints().filter(|(_, endpoint)| endpoint.spec.workload == container.id);
            let own: Vec<End> = own.map(|(id, _)| End::Endpoint(id)).collect();
            if own.is_empty() && cluster.named(word).is_empty() {
                return Err(Failure::new(format!("Container {word} has no endpoint."))
                    .hint(format!("give it one: calicoctl container add {word}")));
            }
            own
        }
        // Without Docker the datastore's names are enough.
        Err(DockerError::NoSuchContainer { .. } | DockerError::NotRunning { .. }) => Vec::new(),
        Err(error) => {
            tracing::debug!(%error, "Docker cannot be asked for the container");
            Vec::new()
        }
    };
    let found = if here.is_empty() { cluster.named(word) } else { here };
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(Failure::new(format!("{word} is no container, endpoint, host or address that is known."))
            .hint("see: calicoctl endpoint show --detailed, calicoctl node show")),
        several => {
            let names: Vec<String> = several.iter().map(|end| described(cluster, end)).collect();
            Err(Failure::new(format!("{word} names several things."))
                .because(names.join(", "))
                .hint("give namespace/name of the endpoint that is meant, or an address"))
        }
    }
}

fn described(cluster: &Cluster, end: &End) -> String {
    match end {
        End::Endpoint(id) => {
            let addresses: Vec<String> = cluster.addresses(end).iter().map(ToString::to_string).collect();
            format!("endpoint {id} ({})", addresses.join(", "))
        }
        End::Host(node) => format!("host {node}"),
        End::Outside => String::new(),
    }
}

/// What the last two words mean.
///
/// # Errors
/// They mean nothing.
pub(super) fn traffic(protocol: Option<&str>, port: Option<&str>) -> Result<Traffic, Failure> {
    const TCP: u8 = 6;
    let usage = |message: String, hint: &str| Failure::new(message).hint(hint);
    let word = protocol.unwrap_or("tcp").to_ascii_lowercase();
    // A number alone is a port only if nothing follows it.
    let (word, port) = match (&word.parse::<u16>(), port) {
        (Ok(number), None) if protocol.is_some() => ("tcp".to_owned(), Some(number.to_string())),
        _ => (word, port.map(str::to_owned)),
    };
    let number = match word.as_str() {
        "tcp" => TCP,
        "udp" => 17,
        "sctp" => 132,
        "icmp" | "icmpv6" | "ping" => {
            return match port {
                None => Ok(Traffic::Ping),
                Some(port) => Err(usage(format!("{word} has no port {port}."), "leave the port out: a ping is meant")),
            };
        }
        other => match other.parse::<u8>() {
            Ok(1 | 58) => return traffic(Some("icmp"), port.as_deref()),
            Ok(number) => number,
            Err(_) => {
                return Err(usage(format!("{other} is no protocol."), "it is tcp, udp, sctp, icmp or a number"));
            }
        },
    };
    match (number, port) {
        (TCP | 17 | 132, None) => Ok(Traffic::AllPorts(number)),
        (TCP | 17 | 132, Some(port)) => match port.parse() {
            Ok(port) if port > 0 => Ok(Traffic::Port(number, port)),
            _ => Err(usage(format!("{port} is no port."), "it is a number from 1 to 65535")),
        },
        (number, None) => Ok(Traffic::Protocol(number)),
        (number, Some(_)) => Err(usage(format!("protocol {number} has no ports."), "leave the port out")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn protocols_and_ports() {
        for (words, expected) in [
            (vec![], Traffic::AllPorts(6)),
            (vec!["UDP"], Traffic::AllPorts(17)),
            (vec!["tcp", "80"], Traffic::Port(6, 80)),
            (vec!["443"], Traffic::Port(6, 443)),
            (vec!["17", "53"], Traffic::Port(17, 53)),
            (vec!["47"], Traffic::Port(6, 47)),
            (vec!["icmp"], Traffic::Ping),
            (vec!["ping"], Traffic::Ping),
            (vec!["sctp", "9"], Traffic::Port(132, 9)),
        ] {
            assert_eq!(traffic(words.first().copied(), words.get(1).copied()).unwrap(), expected, "{words:?}");
        }
        for words in [vec!["frob"], vec!["tcp", "0"], vec!["tcp", "http"], vec!["icmp", "8"], vec!["47", "1"]] {
            let failure = traffic(words.first().copied(), words.get(1).copied()).unwrap_err();
            assert!(failure.to_string().contains("hint: "), "{failure}");
        }
    }
}
