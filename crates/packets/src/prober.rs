//! Sends packets from anywhere to anywhere and says what became of each.
//!
//! One thread and one event loop serve all places: a socket stays in the namespace where it was opened, so the thread
//! only visits a namespace to open one. All probes of a [round](Prober::round) are under way at the same time; those
//! that nothing was heard of when the round ends count as dropped. A delivery between namespaces is finished before
//! the call that sends returns, or very soon after it, so a round may be short; what turns up too late all the same is
//! kept in [`Prober::late`], for a test to fail by.
//!
//! Each probe is a flow of its own: source ports and ICMP identifiers do not come back before thousands of others.

mod events;
mod sockets;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::{event::epoll, io::Errno};

use crate::{
    Namespace,
    wire::{self, Content, SYN, Token, protocol},
};

/// A namespace with its addresses.
#[derive(Debug)]
pub struct Place {
    /// What tests call it.
    pub name: String,
    /// Where it is.
    pub namespace: Namespace,
    /// All addresses at which it listens.
    pub addresses: Vec<IpAddr>,
}

/// One packet, or conversation, to be tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Index of the place that it starts at.
    pub from: usize,
    /// Index of the place that it should reach.
    pub to: usize,
    /// A source address in place of the one that the kernel would choose; if it is not the place's own, only
    /// [`Manner::OneWay`] makes sense.
    pub source: Option<IpAddr>,
    /// Where it is sent.
    pub destination: IpAddr,
    /// A source port in place of one that nothing else uses.
    pub source_port: Option<u16>,
    /// What is sent.
    pub content: Content,
    /// What counts as success.
    pub manner: Manner,
}

/// What is done and what counts as success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Manner {
    /// TCP connects, a datagram is echoed, an ICMP question is answered.
    Converse,
    /// As [`Converse`](Self::Converse), with data over TCP too, and the connection is kept under this name.
    Keep(String),
    /// Sends on the kept connection; its echo must come back.
    Send(String),
    /// One hand-made packet; it must reach a socket of the place.
    OneWay,
}

/// What became of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Answer {
    /// It got through, both ways unless it is one way only.
    Allow,
    /// Nothing was heard of it, or its sender was told that it may not send.
    Drop,
    /// Somebody refused it: a reset or an ICMP error.
    Reject,
    /// The kept connection had ended before.
    Closed,
}

/// An [`Answer`], and how the packet looked when it arrived, where a receiver could tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What became of it.
    pub answer: Answer,
    /// How it arrived.
    pub seen: Option<Seen>,
}

/// How a packet looked when it arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its source address; the port is 0 for hand-made packets.
    pub source: SocketAddr,
    /// Its DSCP, of hand-made packets over IPv4.
    pub dscp: Option<u8>,
    /// Index of the place where it did.
    pub place: usize,
}

/// A socket that is waited for.
enum Source {
    /// Of a place.
    Listener(usize),
    /// An accepted connection and who is at its other end, in a place.
    Served(SocketAddr, usize),
    /// Of a place.
    Echo(usize),
    /// Hears everything of a protocol in a place.
    Ear { place: usize, family: u8, protocol: u8 },
    /// The near end of a TCP probe of the round.
    Stream { number: u32, connected: bool, talk: bool },
    /// The near end of a UDP probe of the round.
    Datagram { number: u32 },
    /// A kept connection that no probe uses now.
    Kept,
}

struct Socket {
    fd: OwnedFd,
    source: Source,
}

/// The round that is under way.
#[derive(Default)]
struct Round {
    /// The number of its first probe.
    first: u32,
    probes: Vec<Probe>,
    answers: Vec<Option<Answer>>,
    seen: Vec<Option<Seen>>,
    /// The probes that are connecting, by place, source port and destination.
    connecting: HashMap<(usize, u16, SocketAddr), u32>,
    open: usize,
}

impl Round {
    fn probe(&self, number: u32) -> Option<&Probe> {
        self.probes.get(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    /// A refusal may be overtaken by a success; nothing else changes an answer.
    fn resolve(&mut self, number: u32, answer: Answer) {
        let Some(slot) = number.checked_sub(self.first).and_then(|at| self.answers.get_mut(at as usize)) else {
            return;
        };
        match *slot {
            None => {
                *slot = Some(answer);
                // A refused hand-made packet may still turn out to have arrived.
                self.open -= 1;
            }
            Some(Answer::Reject) if answer == Answer::Allow => *slot = Some(answer),
            Some(_) => {}
        }
    }

    fn see(&mut self, number: u32, source: SocketAddr, dscp: Option<u8>, place: usize) {
        if let Some(slot) = number.checked_sub(self.first).and_then(|at| self.seen.get_mut(at as usize)) {
            let source = SocketAddr::new(source.ip().to_canonical(), source.port());
            slot.get_or_insert(Seen { source, dscp, place });
        }
    }
}

/// Listens everywhere and sends probes.
pub struct Prober {
    places: Vec<Place>,
    epoll: OwnedFd,
    sockets: HashMap<u64, Socket>,
    next_key: u64,
    next_number: u32,
    next_port: u16,
    /// Kept connections: the key of the socket.
    flows: BTreeMap<String, u64>,
    /// For hand-made packets, by place and family.
    senders: HashMap<(usize, u8), OwnedFd>,
    round: Round,
    /// Hand-made packets that were given up, by number.
    given_up: HashMap<u32, Probe>,
    /// Those of them that arrived all the same.
    late: Vec<Probe>,
}

/// The ports that probes use as their source when they are not told otherwise: within the range of the kernel's own
/// choice.
const SOURCE_PORTS: std::ops::Range<u16> = 45_000..60_000;

impl Prober {
    /// Listens on these ports at every address of every place.
    ///
    /// # Errors
    /// A socket could not be opened.
    pub fn new(places: Vec<Place>, tcp: &[u16], udp: &[u16]) -> io::Result<Self> {
        let mut prober = Self {
            places,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            sockets: HashMap::new(),
            next_key: 0,
            next_number: 0,
            next_port: SOURCE_PORTS.start,
            flows: BTreeMap::new(),
            senders: HashMap::new(),
            round: Round::default(),
            given_up: HashMap::new(),
            late: Vec::new(),
        };
        for place in 0..prober.places.len() {
            prober.places[place].namespace.enter()?;
            for port in tcp {
                let listener = sockets::listener(*port)?;
                prober.watch(listener, Source::Listener(place), epoll::EventFlags::IN)?;
            }
            for address in prober.places[place].addresses.clone() {
                for port in udp {
                    let server = sockets::datagram(SocketAddr::new(address, *port))?;
                    prober.watch(server, Source::Echo(place), epoll::EventFlags::IN)?;
                }
            }
            for (family, protocol) in [(4, protocol::ICMP), (6, protocol::ICMPV6)] {
                prober.listen_for(place, family, protocol)?;
                prober.senders.insert((place, family), sockets::raw(family, sockets::HAND_MADE)?);
            }
        }
        Ok(prober)
    }

    /// The places, in the order in which they were given.
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// The hand-made packets that arrived after their round had given them up, since this was asked last.
    pub fn late(&mut self) -> Vec<Probe> {
        std::mem::take(&mut self.late)
    }

    /// The names of the kept connections.
    pub fn flows(&self) -> impl Iterator<Item = &str> {
        self.flows.keys().map(String::as_str)
    }

    /// Sends all probes and waits until something was heard of each, or nothing for `silence` after the last was sent.
    ///
    /// # Errors
    /// A socket could not be opened or used; that is a fault of the test, not an answer.
    pub fn round(&mut self, probes: &[Probe], silence: Duration) -> io::Result<Vec<Outcome>> {
        self.round = Round {
            first: self.next_number,
            probes: probes.to_vec(),
            answers: vec![None; probes.len()],
            seen: vec![None; probes.len()],
            connecting: HashMap::new(),
            open: probes.len(),
        };
        self.next_number += u32::try_from(probes.len()).map_err(io::Error::other)?;
        let ears = self.open_ears()?;
        for (number, probe) in (self.round.first..).zip(probes) {
            self.start(number, probe).map_err(|error| io::Error::other(format!("{error}: {probe:?}")))?;
            // Servers must answer, and buffers must not fill up, while the others are started.
            self.turn(Duration::ZERO)?;
        }
        let end = Instant::now() + silence;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let open = self.round.open > 0 || self.refused_hand_made();
            if left.is_zero() || !open {
                break;
            }
            self.turn(left)?;
        }
        self.turn(Duration::ZERO)?;
        for key in ears {
            self.forget(key);
        }
        self.finish()
    }

    /// Ends a kept connection, and those whose name goes on with a dot after it.
    pub fn close_flow(&mut self, name: &str) {
        let kept = self.flows.extract_if(.., |flow, _| flow == name || flow.starts_with(&format!("{name}.")));
        for (_, key) in kept.collect::<Vec<_>>() {
            self.forget(key);
        }
    }

    /// Ends all kept connections.
    pub fn close_flows(&mut self) {
        for key in std::mem::take(&mut self.flows).into_values() {
            self.forget(key);
        }
    }

    /// A refusal of a hand-made packet is only final when the round ends.
    fn refused_hand_made(&self) -> bool {
        let round = &self.round;
        round
            .probes
            .iter()
            .zip(&round.answers)
            .any(|(probe, answer)| probe.manner == Manner::OneWay && *answer == Some(Answer::Reject))
    }

    fn finish(&mut self) -> io::Result<Vec<Outcome>> {
        let round = std::mem::take(&mut self.round);
        let answers: Vec<Answer> = round.answers.iter().map(|answer| answer.unwrap_or(Answer::Drop)).collect();
        for ((number, probe), answer) in (round.first..).zip(&round.probes).zip(&answers) {
            if probe.manner == Manner::OneWay && *answer == Answer::Drop {
                self.given_up.insert(number, probe.clone());
            }
            // A connection that does not answer any more is not used again.
            if let Manner::Send(name) = &probe.manner
                && *answer != Answer::Allow
                && let Some(key) = self.flows.remove(name)
            {
                self.forget(key);
            }
        }
        let ends = self.sockets.iter().filter_map(|(key, socket)| match socket.source {
            Source::Stream { number, .. } | Source::Datagram { number } => Some((*key, number)),
            _ => None,
        });
        for (key, number) in ends.collect::<Vec<_>>() {
            let at = (number - round.first) as usize;
            match &round.probes[at].manner {
                Manner::Keep(name) | Manner::Send(name) if answers[at] == Answer::Allow => {
                    self.flows.insert(name.clone(), key);
                    if let Some(socket) = self.sockets.get_mut(&key) {
                        socket.source = Source::Kept;
                    }
                }
                _ => self.forget(key),
            }
        }
        Ok(answers.into_iter().zip(round.seen).map(|(answer, seen)| Outcome { answer, seen }).collect())
    }

    fn start(&mut self, number: u32, probe: &Probe) -> io::Result<()> {
        match (&probe.manner, probe.content) {
            (Manner::Send(name), _) => self.send_on(number, name),
            (Manner::Converse, Content::Tcp { flags: SYN, .. }) => self.connect(number, probe, false),
            (Manner::Keep(_), Content::Tcp { flags: SYN, .. }) => self.connect(number, probe, true),
            (Manner::Converse | Manner::Keep(_), Content::Udp { .. }) => self.ask(number, probe),
            _ => self.send_hand_made(number, probe),
        }
    }

    fn connect(&mut self, number: u32, probe: &Probe, talk: bool) -> io::Result<()> {
        let Content::Tcp { port, .. } = probe.content else { unreachable!("only TCP connects") };
        self.places[probe.from].namespace.enter()?;
        let (socket, source_port) = self.bound(probe, sockets::stream)?;
        let destination = SocketAddr::new(probe.destination, port);
        self.round.connecting.insert((probe.from, source_port, destination), number);
        match sockets::connect(&socket, destination) {
            Ok(()) | Err(Errno::INPROGRESS) => {
                let source = Source::Stream { number, connected: false, talk };
                self.watch(socket, source, epoll::EventFlags::OUT)?;
            }
            Err(errno) => self.round.resolve(number, refusal(errno, true)?),
        }
        Ok(())
    }

    fn ask(&mut self, number: u32, probe: &Probe) -> io::Result<()> {
        let Content::Udp { port } = probe.content else { unreachable!("only UDP asks") };
        self.places[probe.from].namespace.enter()?;
        let (socket, _) = self.bound(probe, sockets::datagram)?;
        let asked = sockets::connect(&socket, SocketAddr::new(probe.destination, port))
            .and_then(|()| sockets::send(&socket, &Token::of(number)));
        match asked {
            Ok(()) => drop(self.watch(socket, Source::Datagram { number }, epoll::EventFlags::IN)?),
            Err(errno) => self.round.resolve(number, refusal(errno, true)?),
        }
        Ok(())
    }

    fn send_on(&mut self, number: u32, name: &str) -> io::Result<()> {
        let Some(socket) = self.flows.get(name).and_then(|key| self.sockets.get_mut(key)) else {
            self.round.resolve(number, Answer::Closed);
            return Ok(());
        };
        let stream = sockets::is_stream(&socket.fd)?;
        match sockets::send(&socket.fd, &Token::of(number)) {
            Ok(()) if stream => socket.source = Source::Stream { number, connected: true, talk: true },
            Ok(()) => socket.source = Source::Datagram { number },
            Err(errno) => {
                let answer = refusal(errno, true)?;
                self.round.resolve(number, answer);
            }
        }
        Ok(())
    }

    fn send_hand_made(&mut self, number: u32, probe: &Probe) -> io::Result<()> {
        let source = match probe.source {
            Some(source) => source,
            None => self.source_for(probe.from, probe.destination)?,
        };
        let port = match probe.source_port {
            Some(port) => port,
            None => self.port(),
        };
        let packet = wire::packet(source, probe.destination, port, &probe.content, number);
        let sender = &self.senders[&(probe.from, wire::family(probe.destination))];
        if let Err(errno) = sockets::send_to(sender, &packet, probe.destination) {
            self.round.resolve(number, refusal(errno, true)?);
        }
        Ok(())
    }

    /// A socket made by `make`, bound to the source that a probe wants or to a port that is free; and its port.
    fn bound(
        &mut self,
        probe: &Probe,
        make: impl Fn(SocketAddr) -> Result<OwnedFd, Errno>,
    ) -> io::Result<(OwnedFd, u16)> {
        let any = if probe.destination.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0_u16; 8]) };
        let address = probe.source.unwrap_or(any);
        loop {
            let port = probe.source_port.unwrap_or_else(|| self.port());
            match make(SocketAddr::new(address, port)) {
                Err(Errno::ADDRINUSE) if probe.source_port.is_none() => {}
                made => return Ok((made?, port)),
            }
        }
    }

    /// A source port that no probe of late has used.
    pub fn port(&mut self) -> u16 {
        let port = self.next_port;
        self.next_port = if port + 1 == SOURCE_PORTS.end { SOURCE_PORTS.start } else { port + 1 };
        port
    }

    /// The address that a place's kernel chooses for packets to a destination.
    ///
    /// # Errors
    /// It has no way there.
    pub fn source_for(&self, place: usize, destination: IpAddr) -> io::Result<IpAddr> {
        self.places[place].namespace.enter()?;
        Ok(sockets::source_for(destination)?)
    }

    /// Opens what hears the hand-made packets of this round.
    fn open_ears(&mut self) -> io::Result<Vec<u64>> {
        let mut wanted = HashSet::new();
        for probe in self.round.probes.iter().filter(|probe| probe.manner == Manner::OneWay) {
            let family = wire::family(probe.destination);
            wanted.insert((probe.to, family, probe.content.protocol(family)));
        }
        wanted.retain(|(_, _, number)| !matches!(*number, protocol::ICMP | protocol::ICMPV6));
        let mut keys = Vec::new();
        for (place, family, number) in wanted {
            self.places[place].namespace.enter()?;
            keys.push(self.listen_for(place, family, number)?);
        }
        Ok(keys)
    }

    /// The thread is in the place.
    fn listen_for(&mut self, place: usize, family: u8, protocol: u8) -> io::Result<u64> {
        let ear = sockets::raw(family, protocol)?;
        self.watch(ear, Source::Ear { place, family, protocol }, epoll::EventFlags::IN)
    }

    fn watch(&mut self, fd: OwnedFd, source: Source, interest: epoll::EventFlags) -> io::Result<u64> {
        let key = self.next_key;
        self.next_key += 1;
        epoll::add(&self.epoll, &fd, epoll::EventData::new_u64(key), interest)?;
        self.sockets.insert(key, Socket { fd, source });
        Ok(key)
    }

    /// Closing a socket also ends the watch.
    fn forget(&mut self, key: u64) {
        self.sockets.remove(&key);
    }
}

/// What a failed call says of the packet. `at_once`: it failed before anything could come back.
fn refusal(errno: Errno, at_once: bool) -> io::Result<Answer> {
    match errno {
        Errno::PERM | Errno::TIMEDOUT => Ok(Answer::Drop),
        // Without a route nothing leaves; later it is what somebody on the way said.
        Errno::HOSTUNREACH | Errno::NETUNREACH if at_once => Ok(Answer::Drop),
        Errno::HOSTUNREACH
        | Errno::NETUNREACH
        | Errno::CONNREFUSED
        | Errno::CONNRESET
        | Errno::ACCESS
        | Errno::PIPE => Ok(Answer::Reject),
        other => Err(other.into()),
    }
}
