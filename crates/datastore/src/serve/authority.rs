//! Takes the name of the server out of requests that come over a Unix socket.
//!
//! Clients written in Go, `etcdctl` among them, send the socket's path as HTTP/2's `:authority`. It has slashes, so it
//! is none, and the server's HTTP/2 refuses the request as malformed before anybody here sees it. On a Unix socket the
//! name means nothing; so it is overwritten on its way in.
//!
//! That needs no understanding of header compression (RFC 7541) beyond its outermost shape: a literal whose name is
//! entry 1 of the static table is `:authority`. Both sides keep a table of literals and must agree on its size, so the
//! new value has as many characters as the old one; of one in Huffman's code, only their number is worked out. What is
//! not understood passes untouched, and the server judges it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
};
use tonic::transport::server::{Connected, UdsConnectInfo};

/// What a client sends before its first frame.
const PREFACE: usize = 24;
/// The header of a frame (RFC 9113, 4.1).
const FRAME_HEADER: usize = 9;
/// The largest frame that the server accepts without having said otherwise.
const MAX_FRAME: usize = 16_384;
/// The type of a frame that begins a request, and its flags that move the header block.
const HEADERS: u8 = 1;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// The entry `:authority` of the static table.
const AUTHORITY: usize = 1;
/// How much is read at once.
const CHUNK: usize = 8192;

/// A connection over a Unix socket whose requests name no server.
pub(super) struct Anonymous {
    inner: UnixStream,
    filter: Filter,
    /// Read and filtered, but not yet taken.
    ready: Vec<u8>,
    taken: usize,
}

impl Anonymous {
    pub(super) fn new(inner: UnixStream) -> Self {
        Self { inner, filter: Filter::default(), ready: Vec::new(), taken: 0 }
    }
}

impl Connected for Anonymous {
    type ConnectInfo = UdsConnectInfo;

    fn connect_info(&self) -> UdsConnectInfo {
        self.inner.connect_info()
    }
}

impl AsyncRead for Anonymous {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.taken == this.ready.len() {
            let mut chunk = [0; CHUNK];
            let mut chunk = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut this.inner).poll_read(context, &mut chunk))?;
            if chunk.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.ready.clear();
            this.taken = 0;
            this.filter.pass(chunk.filled(), &mut this.ready);
        }
        let rest = &this.ready[this.taken..];
        let now = rest.len().min(into.remaining());
        into.put_slice(&rest[..now]);
        this.taken += now;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Anonymous {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

/// Where in the stream of frames it is.
struct Filter {
    /// Bytes that pass as they are: the preface, and what is in frames of no interest.
    passing: usize,
    /// A frame of interest, or the header of any, as far as it has come.
    held: Vec<u8>,
}

impl Default for Filter {
    fn default() -> Self {
        Self { passing: PREFACE, held: Vec::new() }
    }
}

impl Filter {
    /// Takes bytes of the client; those that may go on are appended to `out`.
    fn pass(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            if self.passing > 0 {
                let (now, rest) = bytes.split_at(self.passing.min(bytes.len()));
                out.extend_from_slice(now);
                self.passing -= now.len();
                bytes = rest;
                continue;
            }
            let missing = self.whole().saturating_sub(self.held.len());
            let (now, rest) = bytes.split_at(missing.min(bytes.len()));
            self.held.extend_from_slice(now);
            bytes = rest;
            if self.held.len() == FRAME_HEADER && !self.is_of_interest() {
                self.passing = self.length();
                out.append(&mut self.held);
            } else if self.held.len() >= FRAME_HEADER && self.held.len() == self.whole() {
                out.extend(without_authority(std::mem::take(&mut self.held)));
            }
        }
    }

    /// How long the held frame will be, as far as is known.
    fn whole(&self) -> usize {
        if self.held.len() < FRAME_HEADER { FRAME_HEADER } else { FRAME_HEADER + self.length() }
    }

    fn length(&self) -> usize {
        usize::from(self.held[0]) << 16 | usize::from(self.held[1]) << 8 | usize::from(self.held[2])
    }

    fn is_of_interest(&self) -> bool {
        self.held[3] == HEADERS && self.length() <= MAX_FRAME
    }
}

/// A frame of headers, without the name of the server.
fn without_authority(frame: Vec<u8>) -> Vec<u8> {
    let flags = frame[4];
    let payload = &frame[FRAME_HEADER..];
    let padding = if flags & PADDED == 0 { 0 } else { 1 + usize::from(payload.first().copied().unwrap_or(0)) };
    let before = usize::from(flags & PADDED != 0) + if flags & PRIORITY == 0 { 0 } else { 5 };
    let after = padding.saturating_sub(1);
    let Some(block) = payload.len().checked_sub(after).and_then(|end| payload.get(before..end)) else { return frame };
    let block = rewritten(block);
    let length = before + block.len() + after;
    if length > MAX_FRAME {
        return frame;
    }
    let mut new = Vec::with_capacity(FRAME_HEADER + length);
    let [_, high, middle, low] = u32::try_from(length).unwrap_or(0).to_be_bytes();
    new.extend_from_slice(&[high, middle, low]);
    new.extend_from_slice(&frame[3..FRAME_HEADER + before]);
    new.extend_from_slice(&block);
    new.extend_from_slice(&payload[payload.len() - after..]);
    new
}

/// A header block in which each value of `:authority` is overwritten.
fn rewritten(block: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(block.len() + 64);
    let mut at = Cursor { block, at: 0 };
    loop {
        let start = at.at;
        let Some(value) = at.field() else {
            // The end, or something that the server shall judge.
            out.extend_from_slice(&block[start..]);
            return out;
        };
        match value {
            Some((value_at, characters)) => {
                out.extend_from_slice(&block[start..value_at]);
                write_name(characters, &mut out);
            }
            None => out.extend_from_slice(&block[start..at.at]),
        }
    }
}

/// Writes a name of so many characters: a string not in Huffman's code.
fn write_name(characters: usize, out: &mut Vec<u8>) {
    const MOST: usize = 127;
    let mut rest = characters;
    if rest < MOST {
        out.push(u8::try_from(rest).unwrap_or(0));
    } else {
        out.push(0x7f);
        rest -= MOST;
        while rest >= 128 {
            out.push(u8::try_from(rest % 128).unwrap_or(0) | 0x80);
            rest /= 128;
        }
        out.push(u8::try_from(rest).unwrap_or(0));
    }
    out.extend(std::iter::repeat_n(b'x', characters));
}

/// Where in a header block it is.
struct Cursor<'a> {
    block: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// Goes past one field. If it is a literal of `:authority`: where its value begins, and its number of characters.
    fn field(&mut self) -> Option<Option<(usize, usize)>> {
        let first = *self.block.get(self.at)?;
        // Indexed, or a change of the table's size: no value.
        if first & 0x80 != 0 {
            self.number(7)?;
            return Some(None);
        }
        if first & 0xe0 == 0x20 {
            self.number(5)?;
            return Some(None);
        }
        // Literals: to be kept in the table, or not.
        let name = self.number(if first & 0xc0 == 0x40 { 6 } else { 4 })?;
        if name == 0 {
            self.string()?;
        }
        let value_at = self.at;
        let (huffman, value) = self.string()?;
        if name != AUTHORITY {
            return Some(None);
        }
        let characters = if huffman { huffman_characters(value)? } else { value.len() };
        Some(Some((value_at, characters)))
    }

    /// An integer with a prefix of so many bits (5.1).
    fn number(&mut self, bits: u32) -> Option<usize> {
        let most = (1 << bits) - 1;
        let mut number = usize::from(*self.block.get(self.at)?) & most;
        self.at += 1;
        if number < most {
            return Some(number);
        }
        for shift in [0, 7, 14] {
            let byte = usize::from(*self.block.get(self.at)?);
            self.at += 1;
            number += (byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    /// A string (5.2), and whether it is in Huffman's code.
    fn string(&mut self) -> Option<(bool, &'a [u8])> {
        let huffman = *self.block.get(self.at)? & 0x80 != 0;
        let length = self.number(7)?;
        let end = self.at.checked_add(length)?;
        let block = self.block;
        let string = block.get(self.at..end)?;
        self.at = end;
        Some((huffman, string))
    }
}

/// How many characters a string in Huffman's code has. The code (appendix B) is such that the value of the first bits
/// says how long a character's code is; these are the lengths of printable ASCII, with the first value above each.
fn huffman_characters(string: &[u8]) -> Option<usize> {
    const LENGTHS: [(usize, u32); 11] = [
        (5, 0xa),
        (6, 0x2e),
        (7, 0x7c),
        (8, 0xfe),
        (10, 0x3fd),
        (11, 0x7fd),
        (12, 0xffc),
        (13, 0x1ffe),
        (14, 0x3ffe),
        (15, 0x7fff),
        (19, 0x7fff3),
    ];
    let bits = string.len() * 8;
    let bit = |index: usize| u32::from(string[index / 8] >> (7 - index % 8) & 1);
    let (mut at, mut characters) = (0, 0);
    loop {
        let left = bits - at;
        let code = |length: usize| (at..at + length).fold(0, |code, index| code << 1 | bit(index));
        let found = LENGTHS.iter().find(|(length, above)| *length <= left && code(*length) < *above);
        match found {
            Some((length, _)) => (at, characters) = (at + length, characters + 1),
            // The rest is padding: less than a byte, all ones.
            None if left < 8 && code(left) == (1 << left) - 1 => return Some(characters),
            None => return None,
        }
    }
}

#[cfg(test)]
mod tests;
