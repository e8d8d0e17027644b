//! What policies cost a packet: small UDP packets from one workload to another through a host, the receiver behind 0 to
//! 10,000 policies, beside the same way without any rules.
//!
//! A veth pair hands a packet on within the sender's system call, so the time of a call is the time of the whole way.
//! Batches of all variants take turns, and the fastest batch of each counts: whatever else the machine does only ever
//! makes a batch slower.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use calico_dataplane::Options;
use calico_lab::{Host, Lab};
use calico_policy::instruction::{EntityMatch, Instruction, Rule, RuleAction, RuleSet};
use miette::{IntoDiagnostic, Result, miette};

use crate::{felix, report::Report, rig};

/// Policies in front of the receiver.
const POLICIES: [usize; 4] = [0, 10, 100, 10_000];
const MANY: usize = 10_000;
const ROUNDS: usize = 2;
/// Batches of a variant in a round, and packets of a batch.
const BATCHES: usize = 5;
const PACKETS: usize = 10_000;
/// First packets of a batch: each goes to another port. Each of them asks every policy.
const FIRST_PACKETS: u16 = 200;
const SENDER: Ipv4Addr = Ipv4Addr::new(10, 65, 0, 2);
const RECEIVER: Ipv4Addr = Ipv4Addr::new(10, 65, 0, 3);
const PORT: u16 = 9;
/// First byte of a packet that the receiver answers.
const ANSWER: u8 = 1;
/// There is no BIRD here whose routes could be taken away.
const BIRD_METRIC: u32 = 32;

/// Nanoseconds for a packet of a known connection, and for the first one of a connection.
#[derive(Clone, Copy)]
struct Cost {
    known: f64,
    first: f64,
}

impl Cost {
    const NONE: Self = Self { known: f64::INFINITY, first: f64::INFINITY };

    fn better(self, other: Self) -> Self {
        Self { known: self.known.min(other.known), first: self.first.min(other.first) }
    }
}

pub(crate) fn measure(report: &mut Report) -> Result<()> {
    let lab = rig::bare_lab(3)?;
    connect(&lab)?;
    let receiver = Receiver::start(lab.host(3))?;
    let (mut bare, mut tracked, mut ours) = (Cost::NONE, Cost::NONE, [Cost::NONE; POLICIES.len()]);
    for round in 0..ROUNDS {
        bare = bare.better(receiver.check(|| without_rules(&lab, ""))?);
        tracked = tracked.better(receiver.check(|| without_rules(&lab, TRACKING))?);
        for (cost, policies) in ours.iter_mut().zip(POLICIES) {
            // To make so many takes longer than to measure them.
            if policies >= MANY && round > 0 {
                continue;
            }
            *cost = cost.better(receiver.check(|| behind(&lab, policies))?);
        }
    }
    drop(receiver);
    let n = ROUNDS * BATCHES * PACKETS;
    report.add("packets/bare", bare.known, "ns", n, "a small UDP packet through the host without any rules");
    let detail = format!(
        "the same with connection tracking and one rule that accepts; {:.2} x bare",
        tracked.known / bare.known
    );
    report.add("packets/tracked", tracked.known, "ns", n, detail);
    report.add("packets/first/bare", bare.first, "ns", n, "the first packet of a connection, without any rules");
    report.add("packets/first/tracked", tracked.first, "ns", n, "the same with connection tracking and one rule");
    for (cost, policies) in ours.iter().zip(POLICIES) {
        let known = format!(
            "a packet of a known connection; rate {:.0} % of the way without rules, {:.0} % of tracking alone",
            100.0 * bare.known / cost.known,
            100.0 * tracked.known / cost.known
        );
        report.add(format!("packets/known/{policies}"), cost.known, "ns", n, known);
        let first = "the first packet of a connection, which the last policy allows";
        report.add(format!("packets/first/{policies}"), cost.first, "ns", n, first);
    }
    Ok(())
}

/// What connection tracking and a single rule cost alone.
const TRACKING: &str = "table ip yardstick { chain forward { type filter hook forward priority 0; ct state \
                        established,related accept; accept; }; chain raw { type filter hook prerouting priority -300; }; }";

/// Two workloads, each behind an interface of the first host.
fn connect(lab: &Lab) -> Result<()> {
    for (number, address) in [(2, SENDER), (3, RECEIVER)] {
        let (router, workload) = (lab.host(1), lab.host(number));
        let pid = workload.init().pid;
        rig::run_in(router, &format!("ip link add cali{number} type veth peer name w0 netns {pid}"))?;
        rig::run_in(router, &format!("ip link set cali{number} up && sysctl -qw net.ipv4.ip_forward=1"))?;
        let link = rig::run_in(router, &format!("ip -o link show cali{number}"))?;
        let mac = link.split("link/ether ").nth(1).and_then(|rest| rest.split_whitespace().next());
        let mac = mac.ok_or_else(|| miette!("no hardware address in {link}"))?;
        rig::run_in(
            workload,
            &format!(
                "ip link set w0 up && ip address add {address}/32 dev w0 && \
                 ip neighbour add 192.0.2.1 lladdr {mac} dev w0 nud permanent && \
                 ip route add 10.65.0.0/24 via 192.0.2.1 dev w0 onlink"
            ),
        )?;
    }
    Ok(())
}

/// The way between the workloads with no table of ours, and with `rules`, if any.
fn without_rules(lab: &Lab, rules: &str) -> Result<Cost> {
    let router = lab.host(1);
    rig::run_in(router, &format!("ip route add {SENDER} dev cali2 && ip route add {RECEIVER} dev cali3"))?;
    if !rules.is_empty() {
        rig::run_in(router, &format!("nft '{rules}'"))?;
    }
    let cost = sample(lab.host(2));
    if !rules.is_empty() {
        rig::run_in(router, "nft delete table ip yardstick")?;
    }
    rig::run_in(router, &format!("ip route delete {SENDER} dev cali2 && ip route delete {RECEIVER} dev cali3"))?;
    cost
}

/// The way with the receiver behind so many policies, of which the last allows everything.
fn behind(lab: &Lab, policies: usize) -> Result<Cost> {
    let router = lab.host(1);
    felix::inside(router, || async move {
        let mut dataplane = rig::dataplane().await?;
        for number in 0..policies {
            let mut rule = Rule::of(RuleAction::Allow);
            if number + 1 < policies {
                rule.protocol = Some(6);
                rule.destination = EntityMatch { ports: vec![(7, 7)], ..EntityMatch::default() };
            }
            let rules = RuleSet { ingress: vec![rule], egress: Vec::new() };
            dataplane.absorb(Instruction::PolicyUpdate { id: rig::policy(number), rules: rules.into() });
        }
        dataplane.absorb(rig::endpoint("cali2", vec![SENDER.into()], 0));
        dataplane.absorb(rig::endpoint("cali3", vec![RECEIVER.into()], policies));
        rig::apply(&mut dataplane).await.map(drop)
    })?;
    let cost = sample(lab.host(2));
    felix::inside(router, || async {
        calico_dataplane::purge(&Options::default(), BIRD_METRIC).await.into_diagnostic()
    })?;
    cost
}

/// Sends from a host to the receiver.
fn sample(sender: &Host) -> Result<Cost> {
    let socket = || sender.in_network(|| Ok(UdpSocket::bind((SENDER, 0)))).into_diagnostic()?.into_diagnostic();
    let known = socket()?;
    known.connect((RECEIVER, PORT)).into_diagnostic()?;
    introduce(&known)?;
    let mut cost = Cost::NONE;
    for batch in 0..BATCHES {
        let start = Instant::now();
        for _ in 0..PACKETS {
            known.send(&[0; 18]).into_diagnostic()?;
        }
        let each = |time: Duration, packets: usize| time.as_nanos() as f64 / packets as f64;
        let known = each(start.elapsed(), PACKETS);
        // Another source port each time, so that all of them are first packets.
        let first = socket()?;
        let ports = 1000 + batch as u16..1000 + batch as u16 + FIRST_PACKETS;
        let start = Instant::now();
        for port in ports {
            first.send_to(&[0; 18], SocketAddr::from((IpAddr::from(RECEIVER), port))).into_diagnostic()?;
        }
        cost = cost.better(Cost { known, first: each(start.elapsed(), usize::from(FIRST_PACKETS)) });
    }
    Ok(cost)
}

/// Has a packet answered: a UDP connection without one is new to the kernel with each packet.
fn introduce(socket: &UdpSocket) -> Result<()> {
    socket.set_read_timeout(Some(Duration::from_millis(500))).into_diagnostic()?;
    for _ in 0..20 {
        socket.send(&[ANSWER]).into_diagnostic()?;
        if socket.recv(&mut [0; 64]).is_ok() {
            return Ok(());
        }
    }
    Err(miette!("the receiver does not answer"))
}

/// Takes packets off the receiver's socket, so that its queue is not full, and answers some.
struct Receiver {
    stop: Arc<AtomicBool>,
    received: Arc<AtomicUsize>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Receiver {
    fn start(host: &Host) -> Result<Self> {
        let socket = host.in_network(|| Ok(UdpSocket::bind((RECEIVER, PORT)))).into_diagnostic()?.into_diagnostic()?;
        socket.set_read_timeout(Some(Duration::from_millis(100))).into_diagnostic()?;
        let (stop, received) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, count) = (stop.clone(), received.clone());
        let thread = thread::spawn(move || {
            let mut packet = [0; 64];
            while !stopped.load(Ordering::Relaxed) {
                // A timeout only brings the next look at the flag.
                if let Ok((_, sender)) = socket.recv_from(&mut packet) {
                    count.fetch_add(1, Ordering::Relaxed);
                    if packet[0] == ANSWER {
                        let _ = socket.send_to(&[ANSWER], sender);
                    }
                }
            }
        });
        Ok(Self { stop, received, thread: Some(thread) })
    }
}

impl Receiver {
    /// What is measured must be packets that arrive, but for those that find the queue full.
    fn check(&self, sample: impl FnOnce() -> Result<Cost>) -> Result<Cost> {
        let before = self.received.load(Ordering::Relaxed);
        let cost = sample()?;
        let arrived = self.received.load(Ordering::Relaxed) - before;
        if arrived < BATCHES * PACKETS / 10 {
            return Err(miette!("only {arrived} of {} packets arrived", BATCHES * PACKETS));
        }
        Ok(cost)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
