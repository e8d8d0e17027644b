#![allow(clippy::unwrap_used)]
use calico_model::{AsNumber, BGPConfigurationSpec, BGPPeerSpec, NodeBgp, NodeSpec, Resource};

use crate::{commands::node_show::show, output::Format, testing::Bench};

fn peer(node: &str, selector: &str, peer_ip: &str, number: u32) -> BGPPeerSpec {
    BGPPeerSpec {
        node: node.into(),
        node_selector: selector.into(),
        peer_ip: peer_ip.into(),
        as_number: Some(AsNumber(number)),
        ..BGPPeerSpec::default()
    }
}

#[tokio::test]
async fn hosts_with_addresses_as_numbers_and_their_own_peers() {
    let bench = Bench::new();
    let global = BGPConfigurationSpec { as_number: Some(AsNumber(64511)), ..BGPConfigurationSpec::default() };
    bench.put(Resource::new("default", global)).await;
    bench.node("h1", "10.5.0.1/24", None).await;
    let own_as = NodeBgp {
        as_number: Some(AsNumber(64555)),
        ipv4_address: Some("10.5.0.77/24".into()),
        ipv6_address: Some("fd00::1/64".into()),
        ..NodeBgp::default()
    };
    let mut h2 = Resource::new("h2", NodeSpec { bgp: Some(own_as), ..NodeSpec::default() });
    h2.metadata.labels.insert("rack".into(), "r1".into());
    bench.put(h2).await;
    bench.put(Resource::new("policy-only", NodeSpec::default())).await;
    for (name, spec) in [
        ("a", peer("h2", "", "10.5.0.10", 65000)),
        ("b", peer("h2", "", "10.5.0.9", 65001)),
        ("c", peer("", "rack == 'r1'", "[fd00::9]:1790", 65002)),
        ("everybody", peer("", "", "10.9.9.9", 65003)),
    ] {
        bench.put(Resource::new(name, spec)).await;
    }
    let output = show(&bench.ctx).await.unwrap();
    insta::assert_snapshot!("node_show", output.text);
    insta::assert_snapshot!("node_show_json", output.render(Format::Json));
}

#[tokio::test]
async fn no_hosts_are_an_empty_table() {
    let bench = Bench::new();
    let output = show(&bench.ctx).await.unwrap();
    assert_eq!(output.render(Format::Json), "[]\n");
    assert_eq!(output.text.lines().count(), 4);
}
