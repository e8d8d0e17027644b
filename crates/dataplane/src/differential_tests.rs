//! The kernel against the interpreter of instructions: random states, real packets.
//!
//! Three workloads, an outsider and the host; every packet is written byte by byte, carries a number, and is looked
//! for where it should arrive. Nobody answers (a rule in each namespace sees to that), and connection tracking is
//! emptied before each packet, so that each is the first of its flow.
//!
//! `DIFFERENTIAL_STATES` says how many states are tried.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use calico_policy::{
    instruction::Instruction,
    interpret::Programmed,
    packet::{Hop, Packet, Transport, Verdict},
};
use nlink::netlink::{Connection, Netfilter};
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, TestRunner},
};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketType};

use crate::{
    Dataplane, Options,
    arbitrary::{ADDRESSES, INTERFACES, instruction, packet},
    namespace::{Namespace, in_a_namespace, run},
};

const HOST: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
const OUTSIDER: [&str; 2] = ["198.51.100.2", "2001:db8:1::2"];
/// All protocols that packets have; receivers listen to each.
const PROTOCOLS: [u8; 7] = [1, 4, 6, 17, 58, 132, 200];
/// How long stragglers may take.
const SILENCE: Duration = Duration::from_millis(25);
/// At the end of each packet, with its number.
const COOKIE: &[u8; 8] = b"calico->";

/// Raw sockets of one namespace.
struct Sockets {
    receivers: Vec<OwnedFd>,
    senders: [OwnedFd; 2],
}

impl Sockets {
    /// Opens them in the namespace of the calling thread, and silences everybody else there.
    fn open() -> Self {
        run("nft 'table inet quiet { chain out { type filter hook output priority 0; \
             icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept; meta mark != 77 drop; }; }'");
        // SCTP has a checksum of its own kind, which is not worth its code here.
        std::fs::write("/proc/sys/net/netfilter/nf_conntrack_checksum", "0").expect("root");
        let raw = |family, protocol: u8| {
            let protocol = Protocol::from_raw(u32::from(protocol).try_into().expect("not 0"));
            rustix::net::socket(family, SocketType::RAW, Some(protocol)).expect("root")
        };
        let families = [AddressFamily::INET, AddressFamily::INET6];
        let receivers = families.iter().flat_map(|family| PROTOCOLS.map(|protocol| raw(*family, protocol))).collect();
        let senders = families.map(|family| raw(family, 255));
        for sender in &senders {
            set_mark(sender, 77);
        }
        Self { receivers, senders }
    }

    /// The numbers of all packets that have arrived.
    fn received(&self) -> BTreeSet<u32> {
        let mut numbers = BTreeSet::new();
        let mut buffer = [0u8; 256];
        for socket in &self.receivers {
            while let Ok((_, length)) = rustix::net::recv(socket, &mut buffer, RecvFlags::DONTWAIT) {
                let data = &buffer[..length];
                let found = data.windows(12).find(|window| window.starts_with(COOKIE));
                numbers.extend(found.and_then(|window| window.last_chunk()).map(|n| u32::from_be_bytes(*n)));
            }
        }
        numbers
    }

    fn send(&self, packet: &Packet, number: u32) {
        let bytes = wire(packet, number);
        let sender = &self.senders[usize::from(packet.source.is_ipv6())];
        rustix::net::sendto(sender, &bytes, SendFlags::empty(), &SocketAddr::new(packet.destination, 0))
            .unwrap_or_else(|error| panic!("{packet:?}: {error}"));
    }
}

#[allow(unsafe_code, reason = "SO_MARK has no safe wrapper")]
fn set_mark(socket: &OwnedFd, mark: u32) {
    use std::os::fd::AsRawFd;
    // SAFETY: pointer and length describe `mark`.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_MARK, (&raw const mark).cast(), 4) };
    assert_eq!(result, 0, "root");
}

fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low))).sum()
}

fn checksum(total: u32) -> [u8; 2] {
    let folded = (total & 0xffff) + (total >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    (!(folded as u16)).to_be_bytes()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The packet with its IP header. Transport checksums are right: connection tracking looks at them.
fn wire(packet: &Packet, number: u32) -> Vec<u8> {
    let tail = [COOKIE.as_slice(), &number.to_be_bytes()].concat();
    let addresses = [octets(packet.source), octets(packet.destination)].concat();
    let (mut payload, checksum_at) = match packet.transport {
        Transport::Ports { protocol, source, destination } => {
            let ports = [source.to_be_bytes(), destination.to_be_bytes()].concat();
            match protocol {
                // A SYN.
                6 => ([ports, vec![0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0x20, 0, 0, 0, 0, 0]].concat(), Some(16)),
                17 => ([ports, vec![0, 8 + 12, 0, 0]].concat(), Some(6)),
                // An INIT chunk, with our tail as a parameter that the receiver may ignore.
                _ => {
                    let header = vec![0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 20 + 16];
                    let init = vec![0, 0, 0, 1, 0, 0, 16, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0xc0, 0, 0, 16];
                    ([ports, header, init].concat(), None)
                }
            }
        }
        Transport::Icmp { icmp_type, code } => (vec![icmp_type, code, 0, 0, 0, 1, 0, 1], Some(2)),
        Transport::Other(_) => (vec![0; 4], None),
    };
    payload.extend_from_slice(&tail);
    if let Some(at) = checksum_at {
        // ICMP in IPv4 has no pseudo header.
        let pseudo = packet.protocol() != 1;
        let header = sum(&addresses) + u32::from(packet.protocol()) + payload.len() as u32;
        let total = sum(&payload) + if pseudo { header } else { 0 };
        payload[at..at + 2].copy_from_slice(&checksum(total));
    }
    let length = payload.len() as u16;
    let header = if packet.source.is_ipv4() {
        // The kernel fills in length, identification and checksum.
        let total = (length + 20).to_be_bytes();
        vec![0x45, 0, total[0], total[1], 0, 0, 0, 0, 64, packet.protocol(), 0, 0]
    } else {
        let length = length.to_be_bytes();
        vec![0x60, 0, 0, 0, length[0], length[1], packet.protocol(), 64]
    };
    [header, addresses, payload].concat()
}

/// The namespaces around the host under test.
struct Field {
    workloads: Vec<Namespace>,
    outsider: Namespace,
    host: Sockets,
}

type Job<T> = Box<dyn FnOnce(&Sockets) -> T + Send>;

thread_local! {
    static SOCKETS: std::cell::OnceCell<Sockets> = const { std::cell::OnceCell::new() };
}

impl Field {
    fn build() -> Self {
        let tail = "ip link set eth0 up";
        let mut workloads = Vec::new();
        for (index, interface) in INTERFACES.iter().enumerate() {
            let namespace = Namespace::new();
            run(&format!("ip link add {interface} type veth peer name eth0 netns {}", namespace.id));
            run(&format!("ip address add fe80::1/64 dev {interface} nodad && ip link set {interface} up"));
            let (v4, v6) = (ADDRESSES[index], ADDRESSES[index + 3]);
            namespace.sh(&format!(
                "{tail} && ip address add {v4}/32 dev eth0 && ip address add {v6}/128 dev eth0 nodad && \
                 ip route add default via 192.0.2.1 dev eth0 onlink && ip -6 route add default via fe80::1 dev eth0"
            ));
            workloads.push(namespace);
        }
        let outsider = Namespace::new();
        run(&format!("ip link add eth0 type veth peer name eth0 netns {}", outsider.id));
        run("ip address add 198.51.100.1/24 dev eth0 && ip address add 2001:db8:1::1/64 dev eth0 nodad");
        run("ip link set eth0 up && ip address add 192.0.2.1/32 dev lo && ip address add 2001:db8::1/128 dev lo nodad");
        outsider.sh(&format!(
            "{tail} && ip address add 198.51.100.2/24 dev eth0 && ip address add 2001:db8:1::2/64 dev eth0 nodad && \
             ip route add default via 198.51.100.1 && ip -6 route add default via 2001:db8:1::1"
        ));
        for namespace in workloads.iter().chain([&outsider]) {
            namespace.run(|| SOCKETS.with(|sockets| drop(sockets.set(Sockets::open()))));
        }
        Self { workloads, outsider, host: Sockets::open() }
    }

    fn at<T: Send + 'static>(&self, hop: &Hop, job: Job<T>) -> T {
        let namespace = match hop {
            Hop::Host => return job(&self.host),
            Hop::Interface(name) => {
                let index = INTERFACES.iter().position(|interface| interface == name);
                index.map_or(&self.outsider, |index| &self.workloads[index])
            }
        };
        namespace.run(move || SOCKETS.with(|sockets| job(sockets.get().expect("opened when built"))))
    }

    /// Sends packets, each as the first of its flow; returns the positions of those that arrived. Numbers are never
    /// used again: a packet that waited for an answer to an ARP request may come late.
    async fn verdicts(&self, round: u32, packets: &[Packet], expected: &BTreeSet<u32>) -> BTreeSet<u32> {
        const MOST: u32 = 1000;
        let conntrack = Connection::<Netfilter>::new().expect("root");
        for (number, packet) in packets.iter().enumerate() {
            conntrack.flush_conntrack_all().await.expect("conntrack");
            let owned = packet.clone();
            self.at(&packet.from, Box::new(move |sockets| sockets.send(&owned, round * MOST + number as u32)));
        }
        let mut arrived = BTreeSet::new();
        let mut patience = Instant::now() + Duration::from_secs(3);
        let mut complete = false;
        while Instant::now() < patience {
            let places = INTERFACES.iter().map(|name| Hop::Interface((*name).to_owned()));
            for place in places.chain([Hop::Interface("eth0".to_owned()), Hop::Host]) {
                let numbers = self.at(&place, Box::new(Sockets::received));
                let mine = numbers.into_iter().filter(|number| number / MOST == round).map(|number| number % MOST);
                arrived.extend(mine.filter(|position| packets[*position as usize].to == place));
            }
            if !complete && arrived.is_superset(expected) {
                complete = true;
                patience = Instant::now() + SILENCE;
            }
        }
        arrived
    }
}

/// Sends the packet to where it says that it goes.
fn addressed(mut packet: Packet) -> Option<Packet> {
    let address = |hop: &Hop, v6: bool| -> Option<IpAddr> {
        let own = match hop {
            Hop::Host => HOST[usize::from(v6)],
            Hop::Interface(name) if name == "eth0" => OUTSIDER[usize::from(v6)],
            Hop::Interface(name) => {
                let index = INTERFACES.iter().position(|interface| interface == name)?;
                ADDRESSES[index + if v6 { 3 } else { 0 }]
            }
        };
        own.parse().ok()
    };
    let v6 = packet.source.is_ipv6();
    packet.destination = address(&packet.to, v6)?;
    let source = address(&packet.from, v6)?;
    // Only a workload may lie about its source.
    if packet.from == Hop::Host || packet.from == Hop::Interface("eth0".to_owned()) {
        packet.source = source;
    }
    // A protocol of the other family is dropped by the kernel itself in places; a packet to oneself never leaves.
    let strange = packet.from == packet.to || packet.source == packet.destination;
    (!strange).then_some(packet)
}

/// Packets that can be the first of a flow, to where there is a route. For connection tracking an ICMP packet that
/// asks nothing is invalid unless it belongs to a flow, so its verdict says nothing about rules.
fn is_fair(packet: &Packet, programmed: &Programmed) -> bool {
    let asks = match packet.transport {
        Transport::Icmp { icmp_type, .. } if packet.source.is_ipv4() => [8, 13].contains(&icmp_type),
        Transport::Icmp { icmp_type, .. } => [128, 139].contains(&icmp_type),
        _ => true,
    };
    let is_routed = match &packet.to {
        Hop::Interface(name) if name.starts_with("cali") => {
            programmed.endpoints.values().any(|endpoint| endpoint.interface == *name)
        }
        _ => true,
    };
    asks && is_routed
}

/// Leaves out packets that would pass for the answer to an earlier one, should that still be under way when
/// connection tracking is emptied.
fn without_answers(packets: impl Iterator<Item = Packet>) -> Vec<Packet> {
    let mut seen: Vec<Packet> = Vec::new();
    for packet in packets {
        let transport = match packet.transport {
            Transport::Ports { protocol, source, destination } => {
                Transport::Ports { protocol, source: destination, destination: source }
            }
            other => other,
        };
        let answers = |earlier: &Packet| {
            (earlier.source, earlier.destination, earlier.transport) == (packet.destination, packet.source, transport)
        };
        if !seen.iter().any(answers) {
            seen.push(packet);
        }
    }
    seen
}

#[test]
fn the_kernel_does_what_the_instructions_say() {
    let states = std::env::var("DIFFERENTIAL_STATES").ok().and_then(|n| n.parse().ok()).unwrap_or(60);
    in_a_namespace(move || async move {
        let field = Field::build();
        let mut dataplane = Dataplane::new(Options::default()).expect("root");
        dataplane.install_base().await.expect("accepted");
        let mut programmed = Programmed::default();
        let mut runner = TestRunner::new(Config::default());
        let steps = prop::collection::vec(instruction(), 4..24);
        let probes = prop::collection::vec(packet(), 60);
        let (mut allowed, mut denied) = (0, 0);
        for state in 0..states {
            let instructions: Vec<Instruction> = steps.new_tree(&mut runner).expect("generates").current();
            for instruction in instructions {
                // Masquerade would change what arrives, and is not the interpreter's business.
                let masquerades = matches!(instruction, Instruction::Pools { .. });
                if !masquerades && programmed.apply(&instruction).is_ok() {
                    dataplane.absorb(instruction);
                }
            }
            let report = dataplane.apply().await.expect("accepted");
            assert!(report.problems.is_empty() && !report.retry, "{:?}", report);
            let packets = probes.new_tree(&mut runner).expect("generates").current();
            let fair = packets.into_iter().filter_map(addressed).filter(|packet| is_fair(packet, &programmed));
            let packets = without_answers(fair);
            let numbers = (0..packets.len() as u32).zip(&packets);
            let expected: BTreeSet<u32> = numbers
                .filter(|(_, packet)| programmed.verdict(packet) == Verdict::Allow)
                .map(|(number, _)| number)
                .collect();
            let arrived = field.verdicts(state, &packets, &expected).await;
            if let Some(wrong) = expected.symmetric_difference(&arrived).next() {
                let packet = &packets[*wrong as usize];
                let rules = run("nft list ruleset");
                panic!("state {state}: {packet:?} expected {:?}\n{programmed:#?}\n{rules}", programmed.verdict(packet));
            }
            allowed += expected.len();
            denied += packets.len() - expected.len();
        }
        assert!(
            allowed > states as usize && denied > states as usize,
            "{allowed} allowed, {denied} denied: nothing was tested"
        );
    });
}
