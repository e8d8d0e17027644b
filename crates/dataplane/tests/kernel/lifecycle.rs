//! Restarts, repairs, and changes under load.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use calico_dataplane::Event;
use calico_policy::instruction::{EndpointId, EntityMatch, Instruction, Pool, Rule};

use crate::support::*;

/// Everything that we may have in the kernel, with handles: what is written anew gets another one.
fn kernel_state() -> String {
    run("nft -a list ruleset; ip route show table all; ip -6 route show table all; ip neigh show nud permanent")
}

fn rules() -> String {
    // Counters go on.
    run("nft list ruleset | sed 's/packets [0-9]* bytes [0-9]*/packets N bytes N/'")
}

fn scene(a: &Workload, b: &Workload) -> Vec<Instruction> {
    let ports = EntityMatch { ports: vec![(80, 90), (443, 443), (8000, 9000)], ..EntityMatch::default() };
    let nets = EntityMatch {
        nets: ["10.65.0.0/16", "10.66.0.0/16", "fd65::/64", "fd66::/64"].iter().map(|n| n.parse().unwrap()).collect(),
        ..EntityMatch::default()
    };
    let rule = Rule { protocol: Some(17), source: nets, destination: ports, ..allow() };
    vec![
        set("s:friends", &["10.65.0.1/32", "10.65.0.2/32", "fd65::1/128", "fd65::/64", "0.0.0.0/0"]),
        profile("web", vec![rule, allow_from("s:friends")], vec![allow()]),
        profile("Odd \"name\"", vec![deny()], vec![]),
        a.endpoint(&["web", "Odd \"name\""]),
        b.endpoint(&["web"]),
        Instruction::Pools { pools: vec![Pool { cidr: "10.65.0.0/16".parse().unwrap(), masquerade: true }] },
    ]
}

#[test]
fn a_restart_changes_nothing() {
    on_a_host(|host| async move {
        let (a, b) = (host.workload(1), host.workload(2));
        run("iptables -P FORWARD DROP && iptables -N DOCKER-USER && iptables -A FORWARD -j DOCKER-USER");
        {
            let mut first = dataplane().await;
            absorb(&mut first, scene(&a, &b));
            first.apply().await.unwrap();
            assert_eq!(talks(&a, &b, 80), [true; 2]);
        }
        let before = kernel_state();
        assert!(
            before.contains("counter packets 1 ") || before.contains("counter packets 2 "),
            "something to lose: {before}"
        );
        let mut second = dataplane().await;
        assert_eq!(kernel_state(), before, "after the start");
        absorb(&mut second, scene(&a, &b));
        let report = second.apply().await.unwrap();
        assert!(report.is_unchanged() && report.problems.is_empty(), "{report:?}");
        assert_eq!(kernel_state(), before, "after the first apply");
    });
}

#[test]
fn a_restart_removes_what_is_not_wanted_any_more() {
    on_a_host(|host| async move {
        let (a, b) = (host.workload(1), host.workload(2));
        {
            let mut first = dataplane().await;
            absorb(&mut first, scene(&a, &b));
            first.apply().await.unwrap();
        }
        let mut second = dataplane().await;
        absorb(&mut second, [profile("open", vec![allow()], vec![allow()]), b.endpoint(&["open"])]);
        second.apply().await.unwrap();
        let after = kernel_state();
        for gone in ["pi-web", "s.friends", "cali1", "nat-post", "10.65.0.1"] {
            let ours =
                after.lines().find(|line| line.contains(gone) && !line.contains("fe80") && !line.contains("ff00"));
            assert_eq!(ours, None, "{gone}");
        }
        assert!(after.contains("pi-open") && after.contains("10.65.0.2 dev cali2 proto 80"));
    });
}

/// Another implementation that uses tables of the same name was there before us.
#[test]
fn a_table_of_our_name_that_somebody_else_made_becomes_ours() {
    on_a_host(|host| async move {
        let (a, b) = (host.workload(1), host.workload(2));
        for family in ["ip", "ip6"] {
            let address = format!("{}_addr", if family == "ip" { "ipv4" } else { "ipv6" });
            let ruleset = format!(
                "table {family} calico {{ \
                   counter hits {{ }}; \
                   set cali40s {{ type {address}; flags interval; auto-merge; }}; \
                   map dispatch {{ type ifname : verdict; elements = {{ \"cali1\" : goto fw-cali1 }}; }}; \
                   map f-forward {{ type ifname : verdict; }}; \
                   chain filter-FORWARD {{ type filter hook forward priority filter; policy drop; jump fw; }}; \
                   chain fw {{ iifname vmap @dispatch; tcp dport {{ 22, 80 }} counter name hits drop; goto end; }}; \
                   chain end {{ {family} saddr @cali40s accept; ct state vmap {{ invalid : drop }}; }}; \
                   chain fw-cali1 {{ jump end; drop; }}; \
                   chain d-wl-from {{ accept; }}; \
                   chain nat-post {{ type nat hook postrouting priority 100; masquerade; }}; \
                 }}"
            );
            run(&format!("nft '{ruleset}'"));
        }
        let mut dataplane = dataplane().await;
        assert!(run("nft list table ip calico").contains("fw-cali1"), "left alone until we know better");
        absorb(&mut dataplane, scene(&a, &b));
        let report = dataplane.apply().await.unwrap();
        assert!(report.problems.is_empty(), "{report:?}");
        assert_eq!(talks(&a, &b, 80), [true; 2]);
        for family in ["ip", "ip6"] {
            let after = run(&format!("nft list table {family} calico"));
            for theirs in ["filter-FORWARD", "chain fw", "chain end", "dispatch", "cali40s", "tcp dport"] {
                assert!(!after.contains(theirs), "{theirs} is left of {after}");
            }
        }
        assert!(dataplane.apply().await.unwrap().is_unchanged());
    });
}

#[test]
fn a_set_of_a_hundred_thousand_members() {
    on_a_host(|_host| async move {
        let mut dataplane = dataplane().await;
        let member = |n: u32| format!("10.{}.{}.{}/32", n >> 16 & 255, n >> 8 & 255, n & 255);
        let members: Vec<String> = (0..100_000).map(member).chain(["172.16.0.0/12".to_owned()]).collect();
        let members: Vec<&str> = members.iter().map(String::as_str).collect();
        absorb(
            &mut dataplane,
            [
                set("s:many", &members),
                profile("many", vec![allow_from("s:many")], vec![]),
                endpoint("e", "cali1", &[], &["many"]),
            ],
        );
        dataplane.apply().await.unwrap();
        run(
            "nft get element ip calico i-s.many '{ 10.1.134.159 }' && nft get element ip calico i-s.many '{ 172.20.0.1 }'",
        );
        absorb(&mut dataplane, [set("s:many", &members[..50_000])]);
        dataplane.apply().await.unwrap();
        let listing = run("nft list set ip calico h-s.many");
        assert_eq!(listing.matches(',').count() + 1, 50_000, "single addresses again, in a set of their kind");
        dataplane.distrust();
        assert!(dataplane.apply().await.unwrap().is_unchanged(), "all of it is read back");
    });
}

/// Datagrams from one workload to two others, one that it may reach and one that it may not, in turn.
///
/// Only so many are under way at a time: the kernel's queue between the two ends of a veth pair holds 1,000 packets
/// per processor, and on a busy machine a faster sender fills it. And a receiver has room for all of them, however long
/// it does not run: they count with more than 1,000 bytes each there. What is lost in such places, no rule lost.
pub(crate) struct Stream {
    stop: Arc<AtomicBool>,
    sender: thread::JoinHandle<(u64, u64)>,
    pub(crate) arrived: Arc<AtomicU64>,
    leaked: Arc<AtomicU64>,
    receivers: Vec<thread::JoinHandle<()>>,
}

/// What a stream came to.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) sent: u64,
    pub(crate) lost: u64,
    pub(crate) leaked: u64,
}

impl Stream {
    pub(crate) fn start(from: &Workload, allowed: (&Workload, u16), denied: (&Workload, u16)) -> Self {
        const UNDER_WAY: u64 = 200;
        const ROOM: usize = 4 << 20;
        let stop = Arc::new(AtomicBool::new(false));
        let mut receivers = Vec::new();
        let mut receive = |(workload, port): (&Workload, u16)| {
            let address = SocketAddr::new(workload.v4, port);
            let socket = workload.namespace.run(move || bound(|| UdpSocket::bind(address)));
            rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, ROOM).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            let (count, stop) = (Arc::new(AtomicU64::new(0)), stop.clone());
            let counter = count.clone();
            receivers.push(thread::spawn(move || {
                loop {
                    match socket.recv(&mut [0; 8]) {
                        Ok(_) => drop(counter.fetch_add(1, Ordering::Relaxed)),
                        Err(_) if stop.load(Ordering::Relaxed) => return,
                        Err(_) => {}
                    }
                }
            }));
            (address, count)
        };
        let (to_allowed, arrived) = receive(allowed);
        let (to_denied, leaked) = receive(denied);
        let source = from.v4;
        let socket = from.namespace.run(move || UdpSocket::bind((source, 0)).unwrap());
        let (stopped, progress) = (stop.clone(), arrived.clone());
        let sender = thread::spawn(move || {
            let (mut sent, mut lost) = (0, 0);
            let mut last = (0, Instant::now());
            loop {
                let now = progress.load(Ordering::Relaxed);
                if now != last.0 {
                    last = (now, Instant::now());
                }
                let under_way = sent - lost - now;
                let stopping = stopped.load(Ordering::Relaxed);
                if under_way < UNDER_WAY && !stopping {
                    socket.send_to(b"allowed", to_allowed).unwrap();
                    socket.send_to(b"denied", to_denied).unwrap();
                    sent += 1;
                } else if stopping && under_way == 0 {
                    return (sent, lost);
                } else if last.1.elapsed() > Duration::from_secs(1) {
                    // They will not come any more.
                    lost += under_way;
                    last.1 = Instant::now();
                } else {
                    thread::yield_now();
                }
            }
        });
        Self { stop, sender, arrived, leaked, receivers }
    }

    pub(crate) fn finish(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let (sent, lost) = self.sender.join().unwrap();
        self.receivers.into_iter().for_each(|receiver| receiver.join().unwrap());
        Tally { sent, lost, leaked: self.leaked.load(Ordering::Relaxed) }
    }
}

/// Connection tracking must not hide anything: it is switched off for the stream.
pub(crate) fn untracked() {
    run(
        "nft 'table ip untracked { chain pre { type filter hook prerouting priority -310; udp dport 4000-4001 notrack; }; }'",
    );
}

/// One policy change after the other, and now and then a restart, while packets flow.
#[test]
pub(crate) fn under_constant_change_nothing_allowed_is_lost_and_nothing_denied_leaks() {
    on_a_host(move |host| async move {
        let (a, b, c) = (host.workload(1), host.workload(2), host.workload(3));
        untracked();
        let mut dataplane = dataplane().await;
        let only = |port| {
            let destination = EntityMatch { ports: vec![(port, port)], ..EntityMatch::default() };
            Rule { protocol: Some(17), destination, ..allow() }
        };
        let variant = |number: u32| {
            let mut rules = vec![only(4000); 1 + number as usize % 3];
            rules.insert(
                0,
                Rule {
                    source: EntityMatch { nets: vec!["10.99.0.0/16".parse().unwrap()], ..EntityMatch::default() },
                    ..deny()
                },
            );
            rules.push(only(5000 + number as u16 % 7));
            [profile("web", rules, vec![allow()]), set("s:x", &[&format!("10.0.0.{}/32", number % 250)])]
        };
        let profiles = [&["web"][..], &["web", "spare"], &["spare", "web"]];
        absorb(&mut dataplane, variant(0));
        absorb(
            &mut dataplane,
            [profile("spare", vec![], vec![]), a.endpoint(&["web"]), b.endpoint(&["web"]), c.endpoint(&["web"])],
        );
        dataplane.apply().await.unwrap();
        let stream = Stream::start(&a, (&b, 4000), (&c, 4001));
        eventually("the stream flows", || stream.arrived.load(Ordering::Relaxed) > 100);
        let start = Instant::now();
        let mut changes = 0;
        while start.elapsed() < Duration::from_secs(3) || changes <= 60 {
            changes += 1;
            absorb(&mut dataplane, variant(changes));
            let list = profiles[changes as usize % profiles.len()];
            absorb(&mut dataplane, [b.endpoint(list), c.endpoint(list)]);
            if changes % 50 == 0 {
                dataplane = crate::support::dataplane().await;
                absorb(&mut dataplane, variant(changes));
                absorb(
                    &mut dataplane,
                    [profile("spare", vec![], vec![]), a.endpoint(&["web"]), b.endpoint(list), c.endpoint(list)],
                );
            }
            dataplane.apply().await.unwrap();
        }
        let tally = stream.finish();
        assert!(changes > 30 && tally.sent > 5_000, "{tally:?} during {changes} changes: too little to tell");
        let lost = tally.lost + tally.leaked;
        assert!(
            lost == 0,
            "{tally:?} during {changes} changes\n{}",
            b.namespace.run(|| run("grep Udp: /proc/thread-self/net/snmp"))
        );
    });
}

#[test]
fn whatever_somebody_does_to_our_tables_is_mended_within_100_ms() {
    on_a_host(|host| async move {
        let (a, b) = (host.workload(1), host.workload(2));
        let mut dataplane = dataplane().await;
        absorb(&mut dataplane, scene(&a, &b));
        dataplane.apply().await.unwrap();
        let before = rules();
        let mut repairs = Repairs::default();
        for vandalism in [
            "nft flush ruleset",
            "nft delete table ip calico",
            "nft flush table ip6 calico",
            "nft flush chain ip calico pi-web",
            "nft add rule ip calico d-wl-from accept",
            "nft insert rule ip6 calico d-wl-to accept",
            "nft add rule ip calico pi-web tcp dport '{ 22, 23 }' accept",
            "nft add chain ip calico mine && nft add rule ip calico mine drop",
            "nft add chain ip calico evil '{ type filter hook forward priority -200; policy drop; }'",
            "nft delete element ip calico wl-from '{ \"cali1\" }'",
            "nft add element ip calico wl-to '{ \"cali7\" : accept }'",
            "nft flush set ip calico masq",
            "nft add element ip6 calico pools '{ 2001:db8::/32 }'",
            "nft add set ip calico extra '{ type ipv4_addr; elements = { 1.2.3.4 } ; }'",
            "nft chain ip calico f-forward '{ policy drop; }'",
            "nft add table ip6 calico '{ flags dormant; }'",
            "nft 'delete table ip calico; table ip calico { set pools { type inet_service; elements = { 1 }; }; }'",
            "nft 'delete table ip6 calico; table ip6 calico { chain f-input { type route hook output priority 0; }; }'",
            "nft 'delete table ip calico; table ip calico { map wl-from { type ipv4_addr : verdict; }; set x { type ipv4_addr . ipv4_addr; }; }'",
        ] {
            run(vandalism);
            repairs.mend(&mut dataplane, Event::ForeignTableChange).await;
            assert_eq!(sorted(&rules()), sorted(&before), "{vandalism}");
            assert!(dataplane.apply().await.unwrap().is_unchanged(), "{vandalism}: it stays so");
        }
        assert_eq!(talks(&a, &b, 80), [true; 2]);
    });
}

/// What is made anew is listed at another place.
fn sorted(listing: &str) -> Vec<String> {
    let mut blocks: Vec<String> = listing
        .replace(",\n", ", ")
        .split("\n\n")
        .flat_map(|block| block.split("\n\t}"))
        .map(|block| {
            let mut lines: Vec<String> = block
                .lines()
                .map(|line| {
                    let mut words: Vec<&str> = line.split_whitespace().collect();
                    if words.contains(&"elements") {
                        words = line
                            .trim_matches(['\t', ' ', '}'])
                            .split(", ")
                            .map(str::trim)
                            .map(|w| w.trim_start_matches("elements = { ").trim_end_matches(" }"))
                            .collect();
                        words.sort_unstable();
                    }
                    words.join(" ")
                })
                .collect();
            lines.retain(|line| !line.is_empty() && line != "}" && !line.starts_with("table "));
            lines.join("\n")
        })
        .collect();
    blocks.retain(|block| !block.is_empty());
    blocks.sort();
    blocks
}

#[test]
fn our_own_writes_are_no_news() {
    on_a_host(|host| async move {
        let (a, b) = (host.workload(1), host.workload(2));
        let mut dataplane = dataplane().await;
        absorb(&mut dataplane, scene(&a, &b));
        dataplane.apply().await.unwrap();
        run("nft add table inet other && nft add chain inet other c && ip route add 203.0.113.0/24 dev lo");
        let news = tokio::time::timeout(Duration::from_millis(100), dataplane.next_event()).await;
        assert!(news.is_err(), "{news:?}");
    });
}

#[test]
fn a_thousand_endpoints_and_one_more() {
    on_a_host(|_host| async move {
        let mut dataplane = dataplane().await;
        absorb(&mut dataplane, [profile("web", vec![allow_from("s:web")], vec![allow()])]);
        let members: Vec<String> = (0..1000).map(|n| format!("10.65.{}.{}/32", n / 250, n % 250)).collect();
        let members: Vec<&str> = members.iter().map(String::as_str).collect();
        absorb(&mut dataplane, [set("s:web", &members)]);
        for number in 0..1000 {
            let address = format!("10.65.{}.{}", number / 250, number % 250).parse().unwrap();
            absorb(&mut dataplane, [endpoint(&format!("e{number}"), &format!("cali{number}"), &[address], &["web"])]);
        }
        let report = dataplane.apply().await.unwrap();
        assert_eq!(report.transactions, 2);
        assert_eq!(run("nft list map ip calico wl-from").matches("jump ee-").count(), 1000);
        absorb(&mut dataplane, [endpoint("more", "calimore", &["10.66.0.1".parse().unwrap()], &["web"])]);
        let report = dataplane.apply().await.unwrap();
        assert_eq!((report.transactions, report.operations), (1, 4));
        for number in 0..1000 {
            let id = EndpointId { namespace: "test".to_owned(), name: format!("e{number}") };
            absorb(&mut dataplane, [Instruction::EndpointRemove { id }]);
        }
        dataplane.apply().await.unwrap();
        assert_eq!(run("nft list map ip calico wl-from").matches("jump ee-").count(), 1);
    });
}
