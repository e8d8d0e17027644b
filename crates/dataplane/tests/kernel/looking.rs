//! Looking at what is programmed, without changing it.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use calico_dataplane::{Comparison, Dataplane, Options, compare, listing};
use calico_policy::instruction::{Instruction, IptablesBackend, PublishedPort, Renderer, Settings};

use crate::support::*;

#[test]
fn a_comparison_finds_what_was_changed_and_changes_nothing() {
    on_a_host(|host| async move {
        let (a, b) = (host.workload(1), host.workload(2));
        let wanted = [profile("web", vec![allow()], vec![allow()]), a.endpoint(&["web"]), b.endpoint(&["web"])];
        let mut dataplane = dataplane().await;
        absorb(&mut dataplane, wanted.clone());
        dataplane.apply().await.unwrap();
        assert_eq!(compare(wanted.to_vec()).await.unwrap(), Comparison::default());

        let more = compare([&wanted[..], &[profile("web", vec![allow()], Vec::new())]].concat()).await.unwrap();
        assert!(more.differences.iter().any(|line| line.contains("chain") && line.contains("ip6")), "{more:?}");

        run("nft flush map ip calico wl-from");
        let before = run("nft list ruleset");
        let found = compare(wanted.to_vec()).await.unwrap();
        assert!(found.differences.iter().any(|line| line.contains("wl-from")), "{found:?}");
        assert_eq!(run("nft list ruleset"), before, "looking is not touching");
    });
}

/// Settings by which felix writes with one kind of iptables.
fn iptables(backend: IptablesBackend) -> Instruction {
    let settings = Settings { renderer: Renderer::Iptables, iptables_backend: backend, ..Settings::default() };
    Instruction::Settings(settings)
}

#[test]
fn a_comparison_with_iptables_finds_what_was_changed_and_changes_nothing() {
    for (backend, program) in [(IptablesBackend::Nft, "iptables-nft"), (IptablesBackend::Legacy, "iptables-legacy")] {
        on_a_host(move |host| async move {
            let (a, b) = (host.workload(1), host.workload(2));
            let wanted = [
                iptables(backend),
                set("s:friends", &["10.65.0.1/32", "fd65::/64"]),
                profile("web", vec![allow_from("s:friends")], vec![allow()]),
                a.endpoint(&["web"]),
                b.endpoint(&["web"]),
            ];
            let mut dataplane = Dataplane::new(Options::default()).unwrap();
            absorb(&mut dataplane, wanted.clone());
            dataplane.apply().await.unwrap();
            assert_eq!(compare(wanted.to_vec()).await.unwrap(), Comparison::default(), "{program}");

            let more = compare([&wanted[..], &[profile("web", vec![allow()], Vec::new())]].concat()).await.unwrap();
            let says = |found: &Comparison, words: &[&str]| {
                found.differences.iter().any(|line| words.iter().all(|word| line.contains(word)))
            };
            assert!(says(&more, &["other rules in chain", "profile web ingress", "ip6 filter"]), "{more:?}");

            let friends = run("ipset list -n | grep ^cali40.*friends").trim().to_owned();
            run(&format!("ipset del {friends} 10.65.0.1 && ipset add {friends} 10.65.0.9"));
            run(&format!("{program} -D cali-f-forward 1 && {program} -N cali-mine"));
            run(&format!("{program} -I FORWARD -j ACCEPT && {program} -D INPUT 1"));
            run("nft add table ip6 calico");
            let state = || {
                let rules = run(&format!("{program}-save | grep -v '^#' | sed 's/\\[[0-9:]*\\]//'"));
                rules + &run("ipset save | sort | sed 's/ initval [^ ]*//'") + &run("nft list tables")
            };
            let before = state();
            let found = compare(wanted.to_vec()).await.unwrap();
            for words in [
                &["other members in set", "1 missing, 1 left over"][..],
                &["other rules in chain cali-f-forward of ip filter"],
                &["left over: chain cali-mine of ip filter"],
                &["not the first rule of chain FORWARD of ip filter"],
                &["missing: the rule that leads from chain INPUT of ip filter to cali-INPUT"],
                &["left over: table ip6 calico of nftables"],
            ] {
                assert!(says(&found, words), "{words:?} in {found:?}");
            }
            assert_eq!(found.differences.len(), 6, "{found:?}");
            assert_eq!(found.impossible, None);
            assert_eq!(state(), before, "looking is not touching");
        });
    }
}

#[test]
pub(crate) fn a_listing_names_the_rules_and_counts_their_packets() {
    on_a_host(|host| async move {
        let (a, b) = (host.workload(1), host.workload(2));
        let mut dataplane = dataplane().await;
        let mut publishing = b.endpoint(&["web"]);
        let published =
            PublishedPort { protocol: 17, host_port: 5353, host: IpAddr::from([0; 4]), address: b.v4, port: 53 };
        if let Instruction::EndpointUpdate { endpoint, .. } = &mut publishing {
            endpoint.published = vec![published];
        }
        absorb(&mut dataplane, [profile("web", vec![allow()], vec![allow()]), a.endpoint(&["web"]), publishing]);
        dataplane.apply().await.unwrap();
        assert_eq!(talks(&a, &b, 80), [true; 2]);
        let listing = listing::of_interface("cali2").await.unwrap();
        let places: Vec<(u8, &str)> = listing.paths.iter().map(|path| (path.ip_version, path.place.as_str())).collect();
        for expected in [(4, "from workload"), (4, "to workload"), (6, "from workload"), (6, "to workload")] {
            assert!(places.contains(&expected), "{expected:?} in {places:?}");
        }
        let wanted = listing::rule_comment("profile web", "ingress", 0, "allow");
        for path in listing.paths.iter().filter(|path| path.place == "to workload") {
            let rules = path.chains.iter().flat_map(|chain| &chain.rules);
            let counted: Vec<_> =
                rules.filter(|rule| rule.comment.as_ref() == Some(&wanted) && rule.counter.is_some()).collect();
            assert_eq!(counted.len(), 1, "{path:?}");
            // One connection in each family, whose other packets no policy is asked about.
            assert!(counted[0].counter.is_some_and(|(packets, bytes)| packets == 1 && bytes > 0), "{:?}", counted[0]);
        }
        let behind = SocketAddr::new(b.v4, published.port);
        let server = b.namespace.run(move || UdpSocket::bind(behind).unwrap());
        server.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let source = SocketAddr::new(a.v4, 0);
        let client = a.namespace.run(move || UdpSocket::bind(source).unwrap());
        for _ in 0..3 {
            client.send_to(b"hello", ("192.0.2.1", published.host_port)).unwrap();
            server.recv(&mut [0; 8]).expect("the host's port leads to the workload");
        }
        let listing = listing::of_interface("cali2").await.unwrap();
        // Three datagrams, of which the first is led and the others follow.
        let [listed] = listing.published.as_slice() else { panic!("{:?}", listing.published) };
        assert_eq!(listed.port, published);
        assert!(listed.counter.is_some_and(|(packets, bytes)| packets == 1 && bytes > 0), "{listed:?}");
        assert!(listing::of_interface("cali1").await.unwrap().published.is_empty(), "it leads to somebody else");
        dataplane.distrust();
        assert!(dataplane.apply().await.unwrap().is_unchanged(), "counters are no change");
        assert_eq!(listing::of_interface("cali9").await.unwrap(), listing::Listing::default());
    });
}
