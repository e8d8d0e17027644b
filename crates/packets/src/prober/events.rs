//! What happens when a socket has something to say.

use std::{io, net::SocketAddr, time::Duration};

use rustix::{
    event::{Timespec, epoll},
    io::Errno,
    net::{SocketFlags, acceptfrom_with, sockopt},
};

use super::{Answer, Manner, Prober, Source, refusal, sockets};
use crate::wire::{self, Content, Token, protocol};

/// Larger than any packet here.
const BUFFER: usize = 2048;

/// Source and DSCP of what arrived.
type Arrival = Option<(SocketAddr, Option<u8>)>;

impl Prober {
    /// Handles what there is, after waiting for it no longer than this.
    pub(super) fn turn(&mut self, wait: Duration) -> io::Result<()> {
        let none = epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) };
        let mut events = [none; 64];
        let mut timeout = Timespec::try_from(wait).map_err(io::Error::other)?;
        loop {
            let count = match epoll::wait(&self.epoll, &mut events, Some(&timeout)) {
                Err(Errno::INTR) => continue,
                count => count?,
            };
            for event in &events[..count] {
                // Copies: the kernel's structure is packed.
                let (key, flags) = (event.data.u64(), event.flags);
                self.handle(key, flags)?;
            }
            if count < events.len() {
                return Ok(());
            }
            timeout = Timespec { tv_sec: 0, tv_nsec: 0 };
        }
    }

    fn handle(&mut self, key: u64, flags: epoll::EventFlags) -> io::Result<()> {
        // A socket may have been closed by an event before this one.
        let Some(socket) = self.sockets.get(&key) else { return Ok(()) };
        match socket.source {
            Source::Listener(place) => self.accept(key, place),
            Source::Served(peer, place) => self.serve(key, peer, place),
            Source::Echo(place) => self.echo(key, place),
            Source::Ear { place, family, protocol } => self.hear(key, place, family, protocol),
            Source::Stream { number, connected: false, talk } => self.connected(key, number, talk),
            Source::Stream { number, .. } | Source::Datagram { number } => self.answered(key, number),
            Source::Kept => {
                // Nobody asked: the other side ended it. It stays, for a later probe to find out.
                if flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR) {
                    self.flows.retain(|_, kept| *kept != key);
                    self.forget(key);
                } else {
                    let mut buffer = [0; BUFFER];
                    let socket = &self.sockets[&key];
                    if matches!(sockets::receive(&socket.fd, &mut buffer), Ok(Some((0, _))) | Err(_)) {
                        self.flows.retain(|_, kept| *kept != key);
                        self.forget(key);
                    }
                }
                Ok(())
            }
        }
    }

    fn accept(&mut self, key: u64, place: usize) -> io::Result<()> {
        loop {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            match acceptfrom_with(&self.sockets[&key].fd, flags) {
                Ok((fd, peer)) => {
                    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
                    let Some(peer) = peer else { continue };
                    self.watch(fd, Source::Served(peer, place), epoll::EventFlags::IN)?;
                }
                Err(Errno::AGAIN) => return Ok(()),
                // The client was gone before it was accepted.
                Err(Errno::CONNABORTED) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Echoes what comes over an accepted connection.
    fn serve(&mut self, key: u64, peer: SocketAddr, place: usize) -> io::Result<()> {
        let mut buffer = [0; BUFFER];
        loop {
            let socket = &self.sockets[&key];
            match sockets::receive(&socket.fd, &mut buffer) {
                Ok(None) => return Ok(()),
                Ok(Some((length @ 1.., _))) => {
                    // A connection that broke meanwhile shows at its other end.
                    let _ = sockets::send(&socket.fd, &buffer[..length]);
                    if let Some(number) = Token::find(&buffer[..length]) {
                        self.round.see(number, peer, None, place);
                    }
                }
                Ok(Some((0, _))) | Err(_) => {
                    self.forget(key);
                    return Ok(());
                }
            }
        }
    }

    /// Echoes datagrams.
    fn echo(&mut self, key: u64, place: usize) -> io::Result<()> {
        let mut buffer = [0; BUFFER];
        loop {
            let socket = &self.sockets[&key];
            match sockets::receive(&socket.fd, &mut buffer) {
                Ok(None) => return Ok(()),
                Ok(Some((length, Some(peer)))) => {
                    // It may not be allowed to answer; then nothing arrives, and that is what is measured.
                    let _ = sockets::answer(&socket.fd, &buffer[..length], peer);
                    if let Some(number) = Token::find(&buffer[..length]) {
                        self.round.see(number, peer, None, place);
                    }
                }
                // An error that was queued for an earlier answer.
                Ok(Some((_, None))) | Err(_) => {}
            }
        }
    }

    fn connected(&mut self, key: u64, number: u32, talk: bool) -> io::Result<()> {
        let socket = self.sockets.get_mut(&key).expect("it has just been looked up");
        match sockopt::socket_error(&socket.fd)? {
            Ok(()) if talk => {
                socket.source = Source::Stream { number, connected: true, talk };
                epoll::modify(&self.epoll, &socket.fd, epoll::EventData::new_u64(key), epoll::EventFlags::IN)?;
                if let Err(errno) = sockets::send(&socket.fd, &Token::of(number)) {
                    self.round.resolve(number, refusal(errno, false)?);
                }
            }
            Ok(()) => {
                self.round.resolve(number, Answer::Allow);
                // Nothing more is expected of it until the round ends.
                self.forget(key);
            }
            Err(errno) => {
                self.round.resolve(number, refusal(errno, false)?);
                self.forget(key);
            }
        }
        Ok(())
    }

    /// Something came back to a probe's near end.
    fn answered(&mut self, key: u64, number: u32) -> io::Result<()> {
        let mut buffer = [0; BUFFER];
        let socket = &self.sockets[&key];
        match sockets::receive(&socket.fd, &mut buffer) {
            Ok(None) => {}
            Ok(Some((0, _))) if sockets::is_stream(&socket.fd)? => {
                self.round.resolve(number, Answer::Reject);
                self.forget(key);
            }
            Ok(Some((length, _))) => {
                if Token::find(&buffer[..length]) == Some(number) {
                    self.round.resolve(number, Answer::Allow);
                }
            }
            Err(errno) => {
                self.round.resolve(number, refusal(errno, false)?);
                self.forget(key);
            }
        }
        Ok(())
    }

    /// Packets that reached a raw socket.
    fn hear(&mut self, key: u64, place: usize, family: u8, protocol: u8) -> io::Result<()> {
        let mut buffer = [0; BUFFER];
        loop {
            let (length, source) = match sockets::receive(&self.sockets[&key].fd, &mut buffer) {
                Ok(None) => return Ok(()),
                Ok(Some((length, source))) => (length, source),
                // An error that was queued; the packets follow.
                Err(_) => continue,
            };
            // In IPv4 the header comes with it.
            let header = if family == 4 { usize::from(buffer[0] & 15) * 4 } else { 0 };
            let Some(body) = buffer.get(header..length) else { continue };
            let seen = source.map(|source| (source, (family == 4).then(|| buffer[1] >> 2)));
            if matches!(protocol, protocol::ICMP | protocol::ICMPV6) {
                self.hear_icmp(place, family, body, seen);
            } else if let Some(number) = Token::find(body) {
                self.arrived(place, number, seen);
            }
        }
    }

    fn hear_icmp(&mut self, place: usize, family: u8, message: &[u8], seen: Arrival) {
        let Some(&icmp_type) = message.first() else { return };
        if wire::is_error(family, icmp_type) {
            if let Some((port, destination)) = wire::quoted_connection(family, message)
                && let Some(number) = self.round.connecting.get(&(place, port, destination))
            {
                // The connecting socket itself does not see an error that comes while the call is under way.
                return self.round.resolve(*number, Answer::Reject);
            }
            let Some(number) = wire::quoted_number(family, message) else { return };
            let Some(probe) = self.round.probe(number) else { return self.arrived(place, number, seen) };
            if probe.content.is_icmp_error(family) && probe.to == place {
                self.arrived(place, number, seen);
            } else if probe.from == place && probe.manner != Manner::Converse
                || matches!(probe.content, Content::Icmp { .. } if probe.from == place)
            {
                self.round.resolve(number, Answer::Reject);
            }
            return;
        }
        let answer = matches!((family, icmp_type), (4, 0 | 14) | (6, 129));
        let Some(number) = wire::icmp_number(message).filter(|_| answer).or_else(|| Token::find(message)) else {
            return;
        };
        match self.round.probe(number) {
            Some(probe) if answer && probe.from == place && probe.manner == Manner::Converse => {
                self.round.resolve(number, Answer::Allow);
            }
            Some(probe) if answer && probe.manner == Manner::Converse => {}
            _ => self.arrived(place, number, seen),
        }
    }

    /// A hand-made packet turned up somewhere.
    fn arrived(&mut self, place: usize, number: u32, seen: Arrival) {
        match self.round.probe(number) {
            Some(probe) if probe.to == place => {
                if let Some((source, dscp)) = seen {
                    self.round.see(number, source, dscp, place);
                }
                if self.round.probe(number).is_some_and(|probe| probe.manner == Manner::OneWay) {
                    self.round.resolve(number, Answer::Allow);
                }
            }
            Some(_) => {}
            None => self.late.extend(self.given_up.remove(&number).filter(|probe| probe.to == place)),
        }
    }
}
