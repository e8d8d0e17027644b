//! The second renderer in real kernels, with both kinds of iptables: the packet tests of nftables once more, and what
//! only concerns iptables.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use calico_dataplane::{Dataplane, Event, Options};
use calico_policy::instruction::{EndpointId, EntityMatch, Instruction, IptablesBackend, Renderer, Rule, Settings};

use crate::{
    lifecycle::{Stream, untracked},
    support::*,
};

/// The tests of other modules, by both kinds.
macro_rules! once_more {
    ($module:ident: $($test:ident),+ $(,)?) => {
        mod $module {
            $(mod $test {
                use crate::support::{By, by};
                #[test]
                fn nft() {
                    by(By::IptablesNft, crate::$module::$test);
                }
                #[test]
                fn legacy() {
                    by(By::IptablesLegacy, crate::$module::$test);
                }
            })+
        }
    };
}

once_more!(packets:
    an_interface_without_endpoint_passes_nothing,
    the_base_alone_closes_workloads_and_nothing_else,
    an_endpoint_without_profile_or_with_a_missing_one_passes_nothing,
    members_of_a_set_get_in_and_others_do_not,
    both_ends_must_allow,
    ports_protocols_and_icmp_types_are_told_apart,
    a_source_that_is_not_the_workloads_own_is_dropped,
    the_loopback_of_the_host_is_out_of_a_workloads_reach,
    from_workload_to_host_the_setting_decides_after_policy,
    the_host_reaches_its_workloads_whatever_their_policy,
    neighbour_discovery_works_where_policy_denies_all,
    established_flows_survive_a_denial_and_new_ones_do_not_start,
    a_workload_does_not_inject_into_the_overlay,
    pools_with_masquerade_hide_their_addresses_from_the_outside_only,
    two_endpoints_on_one_interface_the_lower_name_has_it,
    an_interface_name_that_cannot_be_leaves_the_endpoint_closed_and_is_said,
    a_log_rule_goes_on,
);

once_more!(hosts:
    a_host_endpoint_closes_all_but_the_failsafe_ports_both_ways,
    a_host_endpoint_follows_its_address_from_interface_to_interface,
    the_endpoint_of_all_other_interfaces_covers_the_loopback_and_not_workloads,
    forward_policy_judges_what_passes_through,
    untracked_policy_needs_both_directions_and_leaves_no_entry,
    what_untracked_policy_lets_in_has_no_answers_from_workloads,
    pre_dnat_policy_sees_the_port_that_was_sent,
    what_the_host_sends_through_dnat_is_judged_where_it_leaves,
    reject_answers_and_works_with_every_host_endpoint_list,
    tiers_pass_and_end,
);

once_more!(large:
    thousands_of_ports_are_told_apart,
    a_list_of_ten_thousand_rules_is_followed_to_its_end,
    odd_members_of_sets_hold_up_nothing,
    odd_words_hold_up_nothing,
);

once_more!(looking: a_listing_names_the_rules_and_counts_their_packets);

once_more!(lifecycle: under_constant_change_nothing_allowed_is_lost_and_nothing_denied_leaks);

/// Runs a test with both kinds of iptables.
fn each(test: fn()) {
    by(By::IptablesNft, test);
    by(By::IptablesLegacy, test);
}

/// The program of the current kind.
fn program() -> &'static str {
    match By::current() {
        By::IptablesLegacy => "iptables-legacy",
        _ => "iptables-nft",
    }
}

/// Everything that iptables and ipset hold, without counters and dates.
fn state() -> String {
    let v4 = program();
    let v6 = v4.replace("iptables", "ip6tables");
    let clean = "grep -v '^#' | sed 's/ \\[[0-9:]*\\]$//; s/ initval [^ ]*//'";
    run(&format!("{{ {v4}-save; {v6}-save; ipset save | sort; }} | {clean}"))
}

fn scene(a: &Workload, b: &Workload) -> Vec<Instruction> {
    vec![
        set("s:friends", &["10.65.0.1/32", "10.65.0.2/32", "fd65::1/128", "fd65::/64", "0.0.0.0/0"]),
        profile("web", vec![allow_from("s:friends")], vec![allow()]),
        profile("Odd \"name\"", vec![deny()], vec![]),
        a.endpoint(&["web", "Odd \"name\""]),
        b.endpoint(&["web"]),
    ]
}

fn removed(workload: &Workload) -> Instruction {
    let id = EndpointId { namespace: "test".to_owned(), name: workload.interface.clone() };
    Instruction::EndpointRemove { id }
}

#[test]
fn a_restart_changes_nothing() {
    each(|| {
        on_a_host(|host| async move {
            let (a, b) = (host.workload(1), host.workload(2));
            {
                let mut first = dataplane().await;
                absorb(&mut first, scene(&a, &b));
                let report = first.apply().await.unwrap();
                assert!(report.problems.is_empty(), "{report:?}");
                assert_eq!(talks(&a, &b, 80), [true; 2], "{}", state());
                assert!(first.apply().await.unwrap().is_unchanged());
            }
            let before = state();
            let counted = run(&format!("{} -vS cali-FORWARD", program()));
            let mut second = dataplane().await;
            assert_eq!(state(), before, "after the start");
            absorb(&mut second, scene(&a, &b));
            let report = second.apply().await.unwrap();
            assert!(report.is_unchanged() && report.problems.is_empty(), "{report:?}");
            assert_eq!(state(), before, "after the first apply");
            assert_eq!(run(&format!("{} -vS cali-FORWARD", program())), counted, "counters go on");
        });
    });
}

#[test]
fn a_restart_removes_what_is_not_wanted_any_more() {
    each(|| {
        on_a_host(|host| async move {
            let (a, b) = (host.workload(1), host.workload(2));
            {
                let mut first = dataplane().await;
                absorb(&mut first, scene(&a, &b));
                first.apply().await.unwrap();
            }
            // What an earlier Felix of the same names left.
            run(&format!(
                "{0} -N cali-fw-cali9 && {0} -A cali-fw-cali9 -j DROP && ipset create cali40s:x hash:net",
                program()
            ));
            let mut second = dataplane().await;
            absorb(&mut second, [profile("open", vec![allow()], vec![allow()]), b.endpoint(&["open"])]);
            second.apply().await.unwrap();
            let after = state();
            for gone in ["cali-pi-web", "s.friends", "cali1 ", "cali-fw", "cali40s:x"] {
                assert!(!after.contains(gone), "{gone}: {after}");
            }
            assert!(after.contains("cali-pi-open"));
        });
    });
}

#[test]
fn chains_and_sets_of_others_stay_as_they_are() {
    each(|| {
        on_a_host(|host| async move {
            let (a, b) = (host.workload(1), host.workload(2));
            let iptables = program();
            run("ipset create mine hash:net && ipset add mine 10.0.0.0/8");
            run(&format!(
                "{iptables} -N DOCKER-USER && {iptables} -A DOCKER-USER -m set --match-set mine src -j RETURN && \
                 {iptables} -A FORWARD -j DOCKER-USER && {iptables} -P FORWARD DROP && \
                 {iptables} -A INPUT -p tcp --dport 22 -m comment --comment 'calico: mine' -j ACCEPT && \
                 {iptables} -t nat -A POSTROUTING -s 172.17.0.0/16 -j MASQUERADE"
            ));
            let foreign = || {
                let all = state();
                let others = all
                    .lines()
                    .filter(|line| !line.contains("cali-") && !line.contains("cali40") && !line.contains("cali60"));
                others.filter(|line| line.starts_with(['-', 'a', 'c'])).map(str::to_owned).collect::<Vec<_>>()
            };
            let before = foreign();
            assert!(before.len() >= 5, "{before:?}");
            let mut dataplane = dataplane().await;
            absorb(&mut dataplane, scene(&a, &b));
            dataplane.apply().await.unwrap();
            assert_eq!(talks(&a, &b, 80), [true; 2], "what policy allowed passes Docker's policy of drop");
            absorb(&mut dataplane, [removed(&a)]);
            dataplane.apply().await.unwrap();
            dataplane.distrust();
            assert!(dataplane.apply().await.unwrap().is_unchanged());
            assert_eq!(foreign(), before);
            calico_dataplane::purge(&Options::default(), 1).await.unwrap();
            assert_eq!(foreign(), before);
            assert!(!state().contains("cali-") && !state().contains("cali40"), "{}", state());
        });
    });
}

/// Damage that somebody does, in the words of both kinds.
const VANDALISM: [&str; 9] = [
    "iptables -F FORWARD",
    "iptables -D INPUT 1",
    "iptables -F cali-pi-web",
    "iptables -I cali-wl-to-host -j ACCEPT",
    "iptables -A cali-d-wl-from -j ACCEPT",
    "iptables -I FORWARD -i eth9 -j ACCEPT",
    "iptables -I FORWARD -j cali-FORWARD",
    "iptables -t raw -F; iptables -t raw -X",
    "ip6tables -F; ip6tables -X",
];

#[test]
fn what_somebody_does_to_iptables_nft_is_mended_within_100_ms() {
    by(By::IptablesNft, || {
        on_a_host(|host| async move {
            let (a, b) = (host.workload(1), host.workload(2));
            let mut dataplane = dataplane().await;
            absorb(&mut dataplane, scene(&a, &b));
            dataplane.apply().await.unwrap();
            let before = state();
            let mut repairs = Repairs::default();
            for vandalism in VANDALISM {
                run(&vandalism.replace("tables", "tables-nft"));
                repairs.mend(&mut dataplane, Event::ForeignTableChange).await;
                let after = state().replace("-A FORWARD -i eth9 -j ACCEPT\n", "");
                assert_eq!(sorted(&after), sorted(&before), "{vandalism}");
                assert!(dataplane.apply().await.unwrap().is_unchanged(), "{vandalism}: it stays so");
            }
            assert_eq!(talks(&a, &b, 80), [true; 2]);
        });
    });
}

/// Nobody says that iptables-legacy or a set changed: only the slow reading of everything finds it.
#[test]
fn what_tells_nobody_is_mended_when_everything_is_read_again() {
    each(|| {
        on_a_host(|host| async move {
            let (a, b) = (host.workload(1), host.workload(2));
            let mut dataplane = dataplane().await;
            absorb(&mut dataplane, scene(&a, &b));
            dataplane.apply().await.unwrap();
            let before = state();
            let tables = program().replace("ip", "");
            let sets = ["ipset flush cali40i-s.friends", "ipset add cali60i-s.friends 2001:db8::/32"];
            for vandalism in VANDALISM.into_iter().chain(sets) {
                run(&vandalism.replace("tables", &tables));
                dataplane.distrust();
                assert!(!dataplane.apply().await.unwrap().is_unchanged(), "{vandalism}");
                let after = state().replace("-A FORWARD -i eth9 -j ACCEPT\n", "");
                assert_eq!(sorted(&after), sorted(&before), "{vandalism}");
            }
            assert_eq!(talks(&a, &b, 80), [true; 2]);
        });
    });
}

/// What is made anew is listed at another place.
fn sorted(listing: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = listing.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn our_own_writes_are_no_news() {
    each(|| {
        on_a_host(|host| async move {
            let (a, b) = (host.workload(1), host.workload(2));
            let mut dataplane = dataplane().await;
            absorb(&mut dataplane, scene(&a, &b));
            dataplane.apply().await.unwrap();
            absorb(&mut dataplane, [profile("web", vec![allow()], vec![allow()])]);
            assert!(!dataplane.apply().await.unwrap().is_unchanged());
            let news = tokio::time::timeout(Duration::from_millis(100), dataplane.next_event()).await;
            assert!(news.is_err(), "{news:?}");
            assert!(dataplane.apply().await.unwrap().is_unchanged());
        });
    });
}

fn renderer(by: By) -> Instruction {
    let (renderer, iptables_backend) = match by {
        By::Nftables => (Renderer::Nftables, IptablesBackend::Auto),
        By::IptablesNft => (Renderer::Iptables, IptablesBackend::Nft),
        By::IptablesLegacy => (Renderer::Iptables, IptablesBackend::Legacy),
    };
    Instruction::Settings(Settings { renderer, iptables_backend, ..Settings::default() })
}

/// Which renderers hold rules of ours.
fn holders() -> Vec<By> {
    let all = [
        (By::Nftables, "nft list tables | grep ' calico' || true"),
        (By::IptablesNft, "iptables-nft-save | grep cali- || true"),
        (By::IptablesLegacy, "iptables-legacy-save | grep cali- || true"),
    ];
    all.into_iter().filter(|(_, command)| !run(command).is_empty()).map(|(by, _)| by).collect()
}

#[test]
fn the_renderer_follows_the_settings_and_leaves_nothing_behind() {
    on_a_host(|host| async move {
        let (a, b, c) = (host.workload(1), host.workload(2), host.workload(3));
        let mut dataplane = Dataplane::new(Options::default()).unwrap();
        dataplane.install_base().await.unwrap();
        absorb(&mut dataplane, scene(&a, &b));
        absorb(&mut dataplane, [profile("out", vec![], vec![allow()]), c.endpoint(&["out"])]);
        use By::{IptablesLegacy, IptablesNft, Nftables};
        for next in [Nftables, IptablesNft, IptablesLegacy, Nftables, IptablesLegacy, IptablesNft, Nftables] {
            absorb(&mut dataplane, [renderer(next)]);
            let report = dataplane.apply().await.unwrap();
            assert!(report.problems.is_empty(), "{report:?}");
            assert_eq!(holders(), [next]);
            assert_eq!(talks(&a, &b, 80), [true; 2], "{next:?}");
            assert_eq!(talks(&a, &c, 80), [false; 2], "{next:?}");
            assert!(dataplane.apply().await.unwrap().is_unchanged(), "{next:?}");
        }
        assert!(!run("ipset list -n").contains("cali"), "sets went with iptables");
    });
}

#[test]
fn a_renderer_that_is_not_installed_is_said_and_policy_goes_on() {
    on_a_host(|host| async move {
        let (a, b) = (host.workload(1), host.workload(2));
        unshare_mounts();
        run("for program in iptables-nft-restore iptables-legacy-restore ipset; do \
             mount --bind /dev/null \"$(readlink -f \"$(command -v $program || echo /usr/sbin/$program)\")\"; done");
        let mut dataplane = Dataplane::new(Options::default()).unwrap();
        dataplane.install_base().await.unwrap();
        absorb(&mut dataplane, scene(&a, &b));
        dataplane.apply().await.unwrap();
        assert_eq!(talks(&a, &b, 80), [true; 2]);
        absorb(&mut dataplane, [renderer(By::IptablesNft), b.endpoint(&["out"])]);
        let report = dataplane.apply().await.unwrap();
        let told: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
        assert!(told.len() == 1 && told[0].starts_with("renderer: iptables-nft"), "{told:?}");
        assert_eq!(talks(&a, &b, 80), [false; 2], "what came with the setting is in force");
        absorb(&mut dataplane, [renderer(By::Nftables)]);
        assert!(dataplane.apply().await.unwrap().problems.is_empty());
    });
}

/// From one renderer to the next and back while packets flow, and a change of policy each time.
#[test]
fn a_change_of_renderer_loses_nothing_allowed_and_leaks_nothing_denied() {
    under_changes_of_renderer("true", &[By::IptablesNft, By::Nftables, By::IptablesLegacy]);
}

/// The same beside Docker.
#[test]
fn a_change_of_renderer_loses_nothing_under_a_forward_policy_of_drop() {
    under_changes_of_renderer("iptables-nft -P FORWARD DROP", &[By::IptablesNft, By::Nftables]);
}

fn under_changes_of_renderer(preparation: &'static str, all: &'static [By]) {
    on_a_host(move |host| async move {
        let (a, b, c) = (host.workload(1), host.workload(2), host.workload(3));
        untracked();
        run(preparation);
        let only = |port| Rule {
            protocol: Some(17),
            destination: EntityMatch { ports: vec![(port, port)], ..EntityMatch::default() },
            ..allow()
        };
        let policy = |change: usize| profile("web", vec![only(4000), only(5000 + change as u16)], vec![allow()]);
        let mut dataplane = Dataplane::new(Options::default()).unwrap();
        dataplane.install_base().await.unwrap();
        absorb(&mut dataplane, [policy(0), a.endpoint(&["web"]), b.endpoint(&["web"]), c.endpoint(&["web"])]);
        dataplane.apply().await.unwrap();
        let stream = Stream::start(&a, (&b, 4000), (&c, 4001));
        eventually("the stream flows", || stream.arrived.load(Ordering::Relaxed) > 100);
        let start = Instant::now();
        let mut changes = 0;
        while start.elapsed() < Duration::from_secs(4) || changes < all.len() {
            absorb(&mut dataplane, [policy(changes), renderer(all[changes % all.len()])]);
            let report = dataplane.apply().await.unwrap();
            assert!(report.problems.is_empty(), "{report:?}");
            changes += 1;
        }
        let tally = stream.finish();
        assert!(tally.sent > 5_000, "{tally:?} during {changes} changes: too little to tell");
        assert_eq!((tally.lost, tally.leaked), (0, 0), "{tally:?} during {changes} changes");
    });
}

/// A packet has to pass both kinds of iptables, and only one is ours.
#[test]
fn a_drop_policy_of_the_other_kind_is_reported_with_the_way_out() {
    by(By::IptablesLegacy, || {
        on_a_host(|_host| async move {
            let mut dataplane = dataplane().await;
            assert!(dataplane.apply().await.unwrap().problems.is_empty());
            run("iptables-nft -P FORWARD DROP");
            event(&mut dataplane, Event::ForeignFilterChange).await;
            let problems = dataplane.apply().await.unwrap().problems;
            assert_eq!(problems.iter().map(|problem| problem.subject.as_str()).collect::<Vec<_>>(), ["iptables-nft"]);
            assert!(problems[0].reason.contains("iptables-nft -P FORWARD ACCEPT"), "{problems:?}");
            run("iptables-nft -P FORWARD ACCEPT");
            event(&mut dataplane, Event::ForeignFilterChange).await;
            assert!(dataplane.apply().await.unwrap().problems.is_empty());
        });
    });
}

/// An agent that starts with another renderer than the one before it: packets are judged by the old rules until the
/// new ones are complete.
#[test]
fn a_restart_with_another_renderer_takes_over() {
    on_a_host(|host| async move {
        let (a, b) = (host.workload(1), host.workload(2));
        for (before, after) in
            [(By::Nftables, By::IptablesNft), (By::IptablesNft, By::IptablesLegacy), (By::IptablesLegacy, By::Nftables)]
        {
            {
                let mut first = Dataplane::new(before.options()).unwrap();
                first.install_base().await.unwrap();
                absorb(&mut first, scene(&a, &b));
                first.apply().await.unwrap();
            }
            let mut second = Dataplane::new(after.options()).unwrap();
            second.install_base().await.unwrap();
            assert_eq!(holders(), [before], "nothing closes a host that is open by policy");
            assert_eq!(talks(&a, &b, 80), [true; 2], "{before:?} to {after:?}");
            absorb(&mut second, scene(&a, &b));
            second.apply().await.unwrap();
            assert_eq!(holders(), [after]);
            assert_eq!(talks(&a, &b, 80), [true; 2], "{before:?} to {after:?}");
        }
    });
}

/// Interfaces are told apart by a tree of chains, so one more rewrites a few rules and not a thousand.
#[test]
fn one_more_among_a_thousand_endpoints_is_a_small_change() {
    each(|| {
        on_a_host(|_host| async move {
            let mut dataplane = dataplane().await;
            let many = |number: u32| {
                let name = format!("cali{:08x}", number.wrapping_mul(0x9e37_79b9));
                let address = format!("10.65.{}.{}", number / 250, number % 250).parse().unwrap();
                endpoint(&name, &name, &[address], &["web"])
            };
            let members: Vec<String> = (0..10_000).map(|n| format!("10.66.{}.{}/32", n / 250, n % 250)).collect();
            let members: Vec<&str> = members.iter().map(String::as_str).collect();
            absorb(&mut dataplane, [set("s:web", &members), profile("web", vec![allow_from("s:web")], vec![allow()])]);
            absorb(&mut dataplane, (0..1000).map(many));
            dataplane.apply().await.unwrap();
            assert_eq!(run(&format!("{}-save | grep -c -- '-g cali-e'", program())).trim(), "2000");
            absorb(&mut dataplane, [many(1000)]);
            let start = Instant::now();
            let report = dataplane.apply().await.unwrap();
            println!("{}: one endpoint more: {:?}", program(), start.elapsed());
            assert_eq!(report.transactions, 2, "one run per family");
            assert!(report.operations < 100, "{report:?}");
            absorb(&mut dataplane, [set("s:web", &members[1..])]);
            let start = Instant::now();
            let report = dataplane.apply().await.unwrap();
            println!("{}: one member less: {:?}", program(), start.elapsed());
            assert_eq!((report.transactions, report.operations), (1, 1), "{report:?}");
        });
    });
}

#[test]
fn a_listing_shows_what_was_met_and_how_often() {
    each(|| {
        on_a_host(|host| async move {
            let (a, b) = (host.workload(1), host.workload(2));
            let mut dataplane = dataplane().await;
            absorb(&mut dataplane, scene(&a, &b));
            absorb(&mut dataplane, [profile("web", vec![deny()], vec![allow()])]);
            dataplane.apply().await.unwrap();
            assert_eq!(talks(&a, &b, 80), [false; 2]);
            let listing = calico_dataplane::listing::of_interface("cali2").await.unwrap();
            let places: Vec<(u8, &str)> =
                listing.paths.iter().map(|path| (path.ip_version, path.place.as_str())).collect();
            assert_eq!(places, [(4, "from workload"), (4, "to workload"), (6, "from workload"), (6, "to workload")]);
            let path = &listing.paths[1];
            assert_eq!(path.owner.as_deref(), Some("test/cali2"));
            assert_eq!(path.chains.iter().map(|chain| chain.depth).collect::<Vec<_>>(), [0, 1], "{path:#?}");
            let denies = &path.chains[1].rules[0];
            assert!(denies.comment.as_deref().unwrap().starts_with("profile web ingress"), "{denies:?}");
            assert_eq!(denies.text, "-j DROP");
            assert!(denies.counter.unwrap().0 > 0, "{denies:?}");
        });
    });
}
