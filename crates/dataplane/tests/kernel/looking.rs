//! Looking at what is programmed, without changing it.

use calico_dataplane::{Comparison, compare, listing};

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

#[test]
fn a_listing_names_the_rules_and_counts_their_packets() {
    on_a_host(|host| async move {
        let (a, b) = (host.workload(1), host.workload(2));
        let mut dataplane = dataplane().await;
        absorb(
            &mut dataplane,
            [profile("web", vec![allow()], vec![allow()]), a.endpoint(&["web"]), b.endpoint(&["web"])],
        );
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
            let counted: Vec<_> = rules.filter(|rule| rule.comment.as_ref() == Some(&wanted)).collect();
            assert_eq!(counted.len(), 1, "{path:?}");
            assert!(counted[0].counter.is_some_and(|(packets, bytes)| packets > 0 && bytes > 0), "{:?}", counted[0]);
        }
        assert_eq!(listing::of_interface("cali9").await.unwrap(), listing::Listing::default());
    });
}
