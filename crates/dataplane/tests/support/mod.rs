//! Network namespaces, veth pairs and real packets for kernel tests.
//!
//! The host under test is the namespace of the test's thread, a workload is a further thread in a further namespace
//! that runs closures on demand.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

mod namespace;

use std::{
    cell::Cell,
    future::Future,
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use calico_dataplane::{Dataplane, Event, Options};
use calico_model::MacAddress;
use calico_policy::instruction::{
    Endpoint, EndpointId, EntityMatch, Instruction, IptablesBackend, ProfileId, Renderer, Rule, RuleAction, RuleSet,
    SetId,
};
use ipnet::IpNet;
pub use namespace::*;

/// How long is waited for something that must not happen. Delivery over veth takes microseconds.
pub const SILENCE: Duration = Duration::from_millis(80);

/// Which renderer a test is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// nftables.
    Nftables,
    /// `iptables-nft`.
    IptablesNft,
    /// `iptables-legacy`.
    IptablesLegacy,
}

thread_local! {
    static RENDERER: Cell<By> = const { Cell::new(By::Nftables) };
}

/// Runs a test, as it is written for nftables, with another renderer.
pub fn by(renderer: By, test: fn()) {
    RENDERER.set(renderer);
    test();
    RENDERER.set(By::Nftables);
}

impl By {
    /// The renderer of the calling test.
    pub fn current() -> Self {
        RENDERER.get()
    }

    /// Options of a dataplane that uses it.
    pub fn options(self) -> Options {
        let (renderer, backend) = match self {
            Self::Nftables => (Renderer::Nftables, None),
            Self::IptablesNft => (Renderer::Iptables, Some(IptablesBackend::Nft)),
            Self::IptablesLegacy => (Renderer::Iptables, Some(IptablesBackend::Legacy)),
        };
        Options { renderer: Some(renderer), iptables_backend: backend, ..Options::default() }
    }
}

/// What `nft` says, if the test is about nftables.
#[track_caller]
pub fn nft(arguments: &str) -> Option<String> {
    (By::current() == By::Nftables).then(|| run(&format!("nft {arguments}")))
}

/// Runs a test on a host with the addresses 192.0.2.1 and 2001:db8::1.
pub fn on_a_host<F: Future<Output = ()>>(test: impl FnOnce(Host) -> F + Send + 'static) {
    let renderer = By::current();
    in_a_namespace(move || {
        RENDERER.set(renderer);
        run("ip address add 192.0.2.1/32 dev lo");
        run("ip address add 2001:db8::1/128 dev lo nodad");
        test(Host)
    });
}

/// The namespace of the host under test; the calling thread is in it.
pub struct Host;

/// A workload: a namespace behind a veth pair.
pub struct Workload {
    pub namespace: Namespace,
    pub interface: String,
    pub v4: IpAddr,
    pub v6: IpAddr,
}

impl Workload {
    /// Its addresses.
    pub fn addresses(&self) -> Vec<IpAddr> {
        vec![self.v4, self.v6]
    }

    /// The address of the same family as another.
    pub fn address_like(&self, other: IpAddr) -> IpAddr {
        if other.is_ipv4() { self.v4 } else { self.v6 }
    }

    /// Its endpoint with these profiles.
    pub fn endpoint(&self, profiles: &[&str]) -> Instruction {
        endpoint(&self.interface, &self.interface, &self.addresses(), profiles)
    }
}

impl Host {
    /// A workload with addresses 10.65.0.N and fd65::N on interface caliN.
    pub fn workload(&self, number: u8) -> Workload {
        self.workload_on(&format!("cali{number}"), number)
    }

    /// The same on an interface of another name.
    pub fn workload_on(&self, interface: &str, number: u8) -> Workload {
        let namespace = Namespace::new();
        run(&format!("ip link add {interface} type veth peer name eth0 netns {}", namespace.id));
        run(&format!("ip address add fe80::1/64 dev {interface} nodad && ip link set {interface} up"));
        let v4: IpAddr = format!("10.65.0.{number}").parse().unwrap();
        let v6: IpAddr = format!("fd65::{number}").parse().unwrap();
        namespace.sh(&format!(
            "ip link set eth0 address 02:00:00:00:00:{number:02x} && ip link set eth0 up && \
             ip address add {v4}/32 dev eth0 && ip address add {v6}/128 dev eth0 nodad && \
             ip route add default via 192.0.2.1 dev eth0 onlink && ip -6 route add default via fe80::1 dev eth0"
        ));
        // The carrier is reported by a work queue of the kernel.
        eventually("the interface runs", || run(&format!("ip -o link show {interface}")).contains("state UP"));
        eventually("its addresses are usable", || !namespace.sh("ip -6 address").contains("tentative"));
        Workload { namespace, interface: interface.to_owned(), v4, v6 }
    }

    /// A namespace outside: 198.51.100.2 behind the host's eth0, with routes to the workloads.
    pub fn outsider(&self) -> Namespace {
        let namespace = Namespace::new();
        run(&format!("ip link add eth0 type veth peer name eth0 netns {}", namespace.id));
        run("ip address add 198.51.100.1/24 dev eth0 && ip address add 2001:db8:1::1/64 dev eth0 nodad");
        run("ip link set eth0 up");
        namespace.sh("ip link set eth0 up && ip address add 198.51.100.2/24 dev eth0 && \
             ip address add 2001:db8:1::2/64 dev eth0 nodad && ip route add default via 198.51.100.1 && \
             ip -6 route add default via 2001:db8:1::1");
        namespace
    }
}

impl Host {
    /// Another outside network: 203.0.113.2 behind the host's eth1.
    pub fn second_network(&self) -> Namespace {
        let namespace = Namespace::new();
        run(&format!("ip link add eth1 type veth peer name eth0 netns {}", namespace.id));
        run("ip address add 203.0.113.1/24 dev eth1 && ip link set eth1 up");
        namespace.sh(
            "ip link set eth0 up && ip address add 203.0.113.2/24 dev eth0 && ip route add default via 203.0.113.1",
        );
        namespace
    }
}

/// A dataplane with the base installed.
pub async fn dataplane() -> Dataplane {
    let mut dataplane = Dataplane::new(By::current().options()).unwrap();
    dataplane.install_base().await.unwrap();
    dataplane
}

/// Takes instructions and applies them; no problem may be reported.
#[track_caller]
pub fn absorb(dataplane: &mut Dataplane, instructions: impl IntoIterator<Item = Instruction>) {
    for instruction in instructions {
        dataplane.absorb(instruction);
    }
}

/// How long repairs took. One may have to wait for the processor on a busy machine, most must not.
#[derive(Default)]
pub struct Repairs(Vec<Duration>);

impl Repairs {
    /// Waits for the notification of a foreign change and mends it.
    pub async fn mend(&mut self, dataplane: &mut Dataplane, wanted: Event) {
        let start = Instant::now();
        event(dataplane, wanted).await;
        dataplane.apply().await.unwrap();
        self.0.push(start.elapsed());
    }
}

impl Drop for Repairs {
    fn drop(&mut self) {
        self.0.sort_unstable();
        let median = self.0.get(self.0.len() / 2).copied().unwrap_or_default();
        if !thread::panicking() {
            assert!(median < Duration::from_millis(100), "repairs take {median:?}");
        }
    }
}

/// Waits for one kind of event; others, of which a test does not speak, are taken note of as always.
pub async fn event(dataplane: &mut Dataplane, wanted: Event) {
    loop {
        let event = tokio::time::timeout(PATIENCE, dataplane.next_event()).await;
        if event.expect("a notification") == wanted {
            return;
        }
    }
}

pub fn endpoint(name: &str, interface: &str, addresses: &[IpAddr], profiles: &[&str]) -> Instruction {
    let number = addresses.first().map_or(0, |address| match address {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(address) => address.octets()[15],
    });
    Instruction::EndpointUpdate {
        id: EndpointId { namespace: "test".to_owned(), name: name.to_owned() },
        endpoint: Endpoint {
            interface: interface.to_owned(),
            mac: Some(MacAddress([2, 0, 0, 0, 0, number])),
            addresses: addresses.to_vec(),
            profiles: profiles.iter().map(|p| ProfileId((*p).to_owned())).collect(),
            ..Endpoint::default()
        },
    }
}

pub fn profile(name: &str, ingress: Vec<Rule>, egress: Vec<Rule>) -> Instruction {
    Instruction::ProfileUpdate { id: ProfileId(name.to_owned()), rules: RuleSet { ingress, egress }.into() }
}

pub fn set(name: &str, members: &[&str]) -> Instruction {
    Instruction::SetReplace {
        id: SetId(name.to_owned()),
        members: members.iter().map(|member| member.parse::<IpNet>().unwrap()).collect(),
    }
}

pub fn allow() -> Rule {
    Rule::of(RuleAction::Allow)
}

pub fn deny() -> Rule {
    Rule::of(RuleAction::Deny)
}

/// `allow` from the members of a set.
pub fn allow_from(set: &str) -> Rule {
    Rule { source: EntityMatch { sets: vec![SetId(set.to_owned())], ..EntityMatch::default() }, ..allow() }
}

/// Where a probe starts or ends: in another namespace or, `None`, on the host.
pub type Place<'a> = Option<&'a Namespace>;

fn at<T: Send + 'static>(place: Place<'_>, job: impl FnOnce() -> T + Send + 'static) -> T {
    match place {
        Some(namespace) => namespace.run(job),
        None => job(),
    }
}

/// Binds a socket. A program that another test's thread is starting holds copies of all sockets for a moment, also of
/// one that was closed meanwhile, so an address may be in use a little longer.
#[track_caller]
pub fn bound<T>(mut bind: impl FnMut() -> std::io::Result<T>) -> T {
    let mut socket = None;
    eventually("the address is free", || match bind() {
        Ok(made) => {
            socket = Some(made);
            true
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::AddrInUse, "{error}");
            false
        }
    });
    socket.unwrap()
}

/// Receives a datagram. The end of a program that another test started may interrupt the system call.
pub fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> std::io::Result<(usize, SocketAddr)> {
    loop {
        match socket.recv_from(buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Sends a datagram and says whether it arrives.
#[track_caller]
pub fn udp_arrives(from: Place<'_>, source: IpAddr, to: Place<'_>, destination: SocketAddr) -> bool {
    let receiver = at(to, move || bound(|| UdpSocket::bind(destination)));
    receiver.set_read_timeout(Some(SILENCE)).unwrap();
    let sender = at(from, move || UdpSocket::bind((source, 0)).unwrap());
    // Twice: on a busy machine the way may still be in the making when the first one goes.
    for _ in 0..2 {
        if let Err(error) = sender.send_to(b"probe", destination) {
            // The host may know already that there is no way.
            let known = [ErrorKind::HostUnreachable, ErrorKind::NetworkUnreachable, ErrorKind::PermissionDenied];
            assert!(known.contains(&error.kind()), "{error}");
            return false;
        }
        let mut buffer = [0; 16];
        match receive(&receiver, &mut buffer) {
            Ok((length, peer)) => {
                assert_eq!(&buffer[..length], b"probe");
                assert!(peer.ip() == source || source.is_unspecified(), "somebody else's: {peer}");
                return true;
            }
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
            }
        }
    }
    false
}

/// Opens a connection, sends a line there and one back.
#[track_caller]
pub fn tcp_works(from: Place<'_>, to: Place<'_>, destination: SocketAddr) -> bool {
    let listener = at(to, move || bound(|| TcpListener::bind(destination)));
    let (done, is_done) = mpsc::channel::<()>();
    let server = thread::spawn(move || {
        listener.set_nonblocking(true).unwrap();
        loop {
            match listener.accept() {
                Ok((mut stream, _)) => {
                    stream.set_nonblocking(false).unwrap();
                    let mut line = [0; 5];
                    return stream.read_exact(&mut line).and_then(|()| stream.write_all(&line)).is_ok();
                }
                // Until the client has given up.
                Err(_) if is_done.recv_timeout(GLANCE) == Err(RecvTimeoutError::Timeout) => {}
                Err(_) => return false,
            }
        }
    });
    let answered = at(from, move || {
        let Ok(mut stream) = TcpStream::connect_timeout(&destination, SILENCE) else { return false };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut line = [0; 5];
        stream.write_all(b"hello").and_then(|()| stream.read_exact(&mut line)).is_ok() && &line == b"hello"
    });
    drop(done);
    server.join().unwrap() && answered
}

/// One workload to another, UDP, both families.
#[track_caller]
pub fn talks(from: &Workload, to: &Workload, port: u16) -> [bool; 2] {
    [from.v4, from.v6].map(|source| {
        let destination = SocketAddr::new(to.address_like(source), port);
        udp_arrives(Some(&from.namespace), source, Some(&to.namespace), destination)
    })
}
