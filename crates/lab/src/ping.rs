//! Pings from inside a container, counted one by one.
//!
//! The socket is opened in the container's network namespace and then used from here, so that nothing has to be
//! installed in the container, nothing is parsed, and a hundred pings a second cost next to nothing. Every ping carries
//! its own number; an answer counts for exactly that ping.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, ipproto, recv, send, socket_with,
};

use crate::error::{Context, LabError, Result};
use crate::host::Host;
use crate::namespace::in_network;

/// Between two pings: a hundred a second.
const INTERVAL: Duration = Duration::from_millis(10);

/// How long after the last ping its answer still counts.
const GRACE: Duration = Duration::from_secs(1);

/// A stream of pings that runs until it is stopped.
#[derive(Debug)]
pub struct Pinger {
    counts: Arc<Counts>,
    thread: Option<JoinHandle<PingReport>>,
}

#[derive(Debug, Default)]
struct Counts {
    stop: AtomicBool,
    sent: AtomicU64,
    received: AtomicU64,
}

/// What became of a stream of pings.
#[derive(Clone, Debug, Default)]
pub struct PingReport {
    /// Pings sent, or tried to send.
    pub sent: u64,
    /// Pings that were answered.
    pub received: u64,
    /// The others, in order.
    pub lost: Vec<Loss>,
}

/// A ping without an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Its number, from 0.
    pub number: u64,
    /// When it was sent, counted from the start of the stream.
    pub at: Duration,
    /// Why it could not be sent, if it was lost already here.
    pub error: Option<String>,
}

impl PingReport {
    /// The longest run of pings without an answer, in time: from the first ping of the run to the last.
    pub fn longest_gap(&self) -> Duration {
        let mut longest = Duration::ZERO;
        let mut first = 0;
        for (index, loss) in self.lost.iter().enumerate() {
            if index == 0 || self.lost[index - 1].number + 1 != loss.number {
                first = index;
            }
            longest = longest.max(loss.at - self.lost[first].at + INTERVAL);
        }
        longest
    }
}

impl fmt::Display for PingReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sent, {} received, {} lost", self.sent, self.received, self.lost.len())?;
        if !self.lost.is_empty() {
            write!(f, ", longest gap {:.2?}; lost", self.longest_gap())?;
        }
        for loss in self.lost.iter().take(20) {
            write!(f, " #{} at {:.2?}", loss.number, loss.at)?;
            if let Some(error) = &loss.error {
                write!(f, " ({error})")?;
            }
        }
        if self.lost.len() > 20 { write!(f, " …") } else { Ok(()) }
    }
}

impl Pinger {
    /// Starts to ping `destination` from a container.
    ///
    /// # Errors
    /// There is no such container, or it has no way of the destination's family at all.
    pub fn start(host: &Host, container: &str, destination: IpAddr) -> Result<Self> {
        let netns = host.container_network(container)?;
        Ok(Self::run(in_network(&netns, || open(destination))?))
    }

    /// Starts to ping `destination` from a host itself.
    ///
    /// # Errors
    /// The host has no way of the destination's family at all.
    pub fn start_on(host: &Host, destination: IpAddr) -> Result<Self> {
        Ok(Self::run(host.in_network(|| open(destination))?))
    }

    fn run(stream: Stream) -> Self {
        let counts = Arc::new(Counts::default());
        let thread = std::thread::spawn({
            let counts = Arc::clone(&counts);
            move || stream.run(&counts)
        });
        Self { counts, thread: Some(thread) }
    }

    /// Pings sent so far.
    pub fn sent(&self) -> u64 {
        self.counts.sent.load(Ordering::Relaxed)
    }

    /// Pings answered so far.
    pub fn received(&self) -> u64 {
        self.counts.received.load(Ordering::Relaxed)
    }

    /// Stops, gives the last answers a second to arrive, and reports.
    pub fn stop(mut self) -> PingReport {
        self.finish().unwrap_or_default()
    }

    fn finish(&mut self) -> Option<PingReport> {
        self.counts.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take()?;
        Some(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }
}

impl Drop for Pinger {
    fn drop(&mut self) {
        self.counts.stop.store(true, Ordering::Relaxed);
    }
}

/// Whether `destination` answers a container's ping within `limit`. Pings go out all the time, so that the answer is
/// known as soon as there is one; `false` takes the whole time.
///
/// # Errors
/// There is no such container.
pub fn reaches(host: &Host, container: &str, destination: IpAddr, limit: Duration) -> Result<bool> {
    let netns = host.container_network(container)?;
    match in_network(&netns, || open(destination)) {
        Ok(stream) => Ok(stream.first_answer(limit)),
        // Without any route of that family the kernel refuses already here: a plain no.
        Err(LabError::Io { source, .. }) if source.raw_os_error().is_some_and(is_no_way) => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_no_way(error: i32) -> bool {
    [Errno::NETUNREACH, Errno::HOSTUNREACH, Errno::ADDRNOTAVAIL, Errno::ACCESS]
        .map(Errno::raw_os_error)
        .contains(&error)
}

/// A raw socket towards one destination, in the network namespace of the thread that opened it.
struct Stream {
    socket: OwnedFd,
    echo: Echo,
}

fn open(destination: IpAddr) -> Result<Stream> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let (family, protocol) = match destination {
        IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP),
        IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6),
    };
    let what = || format!("open a socket to ping {destination}");
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::RAW, flags, Some(protocol)).context(what)?;
    // From here on only packets of the destination are received.
    connect(&socket, &SocketAddr::new(destination, 0)).context(what)?;
    let id = (std::process::id() as u16).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
    Ok(Stream { socket, echo: Echo { is_ipv6: destination.is_ipv6(), id } })
}

impl Stream {
    fn run(&self, counts: &Counts) -> PingReport {
        let start = Instant::now();
        // For every ping when it was sent, whether it was answered, and why it could not be sent.
        let mut pings: Vec<(Duration, bool, Option<String>)> = Vec::new();
        let answered = |pings: &mut Vec<(Duration, bool, Option<String>)>, number: u64| {
            if let Some(ping) = usize::try_from(number).ok().and_then(|number| pings.get_mut(number))
                && !std::mem::replace(&mut ping.1, true)
            {
                counts.received.fetch_add(1, Ordering::Relaxed);
            }
        };
        let mut next = start;
        while !counts.stop.load(Ordering::Relaxed) {
            let error = send(&self.socket, &self.echo.request(pings.len() as u64), SendFlags::empty()).err();
            pings.push((start.elapsed(), false, error.map(|error| error.to_string())));
            counts.sent.fetch_add(1, Ordering::Relaxed);
            next += INTERVAL;
            self.receive_until(next, |number| answered(&mut pings, number));
        }
        let end = Instant::now() + GRACE;
        while Instant::now() < end && pings.iter().any(|(_, answered, error)| !answered && error.is_none()) {
            self.receive_until(end.min(Instant::now() + INTERVAL), |number| answered(&mut pings, number));
        }
        let lost: Vec<_> = (0u64..)
            .zip(&pings)
            .filter(|(_, (_, answered, _))| !answered)
            .map(|(number, (at, _, error))| Loss { number, at: *at, error: error.clone() })
            .collect();
        let sent = pings.len() as u64;
        PingReport { sent, received: sent - lost.len() as u64, lost }
    }

    fn first_answer(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        let mut answered = false;
        let mut pause = INTERVAL;
        for number in 0u64.. {
            // What cannot be sent is simply not answered.
            let _ = send(&self.socket, &self.echo.request(number), SendFlags::empty());
            let until = end.min(Instant::now() + pause);
            while !answered && Instant::now() < until {
                self.receive_until(until.min(Instant::now() + INTERVAL), |_| answered = true);
            }
            if answered || Instant::now() >= end {
                break;
            }
            pause = (pause * 2).min(Duration::from_millis(100));
        }
        answered
    }

    /// Hands the number of every answer that comes before `until` to `answer`. Returns at that time.
    fn receive_until(&self, until: Instant, mut answer: impl FnMut(u64)) {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
            match poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&timeout)) {
                Ok(0) => return,
                _ => {
                    let mut packet = [0; 256];
                    // Errors that the network reported for earlier pings are taken off the socket by reading them.
                    while let Ok((length, _)) = recv(&self.socket, &mut packet, RecvFlags::empty()) {
                        if let Some(number) = self.echo.answer(&packet[..length.min(packet.len())]) {
                            answer(number);
                        }
                    }
                }
            }
            if Instant::now() >= until {
                return;
            }
        }
    }
}

/// Echo requests and answers of one stream.
#[derive(Clone, Copy, Debug)]
struct Echo {
    is_ipv6: bool,
    id: u16,
}

impl Echo {
    /// Type, code, checksum, identifier, sequence number (RFC 792, RFC 4443), then the whole number as data.
    fn request(self, number: u64) -> [u8; 16] {
        let mut packet = [0; 16];
        packet[0] = if self.is_ipv6 { 128 } else { 8 };
        packet[4..6].copy_from_slice(&self.id.to_be_bytes());
        packet[6..8].copy_from_slice(&(number as u16).to_be_bytes());
        packet[8..16].copy_from_slice(&number.to_be_bytes());
        // For ICMPv6 the kernel computes the sum, which covers addresses that only it knows.
        if !self.is_ipv6 {
            let sum = checksum(&packet);
            packet[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        packet
    }

    /// The number that an answer to this stream carries. IPv4 raw sockets deliver the packet with its header.
    fn answer(self, packet: &[u8]) -> Option<u64> {
        let message = if self.is_ipv6 { packet } else { packet.get(usize::from(packet.first()? & 15) * 4..)? };
        let expected = if self.is_ipv6 { 129 } else { 0 };
        if *message.first()? != expected || message.get(4..6)? != self.id.to_be_bytes() {
            return None;
        }
        Some(u64::from_be_bytes(message.get(8..16)?.try_into().ok()?))
    }
}

/// The Internet checksum (RFC 1071) of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_answer_belongs_to_its_stream_and_its_ping() {
        for is_ipv6 in [false, true] {
            let echo = Echo { is_ipv6, id: 7 };
            let mut message = echo.request(70_000).to_vec();
            let framed = |message: &[u8]| {
                let header: &[u8] =
                    if is_ipv6 { &[] } else { &[0x45, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2] };
                [header, message].concat()
            };
            assert_eq!(echo.answer(&framed(&message)), None, "a request is no answer");
            message[0] = if is_ipv6 { 129 } else { 0 };
            assert_eq!(echo.answer(&framed(&message)), Some(70_000));
            assert_eq!(Echo { id: 8, ..echo }.answer(&framed(&message)), None);
            for length in 0..framed(&message).len() {
                assert_eq!(echo.answer(&framed(&message)[..length]), None, "cut short");
            }
        }
    }

    #[test]
    fn the_checksum_makes_the_sum_all_ones() {
        let packet = Echo { is_ipv6: false, id: 0xfffe }.request(u64::MAX);
        assert_eq!(checksum(&packet), 0);
    }

    #[test]
    fn gaps_are_runs_of_losses() {
        let loss = |number: u64| Loss { number, at: INTERVAL * number as u32, error: None };
        let report = PingReport { sent: 20, received: 15, lost: vec![loss(3), loss(7), loss(8), loss(9), loss(19)] };
        assert_eq!(report.longest_gap(), Duration::from_millis(30));
        assert!(
            report.to_string().starts_with("20 sent, 15 received, 5 lost, longest gap 30.00ms; lost #3 at 30.00ms")
        );
    }
}
