//! The control protocol's replies, parsed from any split of the byte stream.
//!
//! A reply is a run of lines; each ends in LF and is one of:
//!
//! - `CCCC-text`: text with code CCCC, more lines follow;
//! - `CCCC text`: the last line;
//! - a space and text: the code of the line before, more lines follow (a blank separator is a lone space);
//! - `+…`: an asynchronous log line, not part of any reply.

use std::collections::VecDeque;

/// A line longer than this is not BIRD's.
const MAX_LINE: usize = 64 * 1024;
/// More than this in one reply is refused, so that a broken peer cannot fill the memory. A full dump of 100,000
/// routes with attributes is about half of it.
const MAX_REPLY: usize = 64 * 1024 * 1024;

/// One complete reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The code of the last line, which says how the command ended: 0-999 done, 8000 and above failed.
    pub code: u16,
    /// All lines with their codes, without the code column.
    pub lines: Vec<(u16, String)>,
}

impl Reply {
    /// The last line's text.
    pub fn text(&self) -> &str {
        self.lines.last().map_or("", |(_, text)| text)
    }

    /// True if BIRD could not do what was asked (run-time or syntax error).
    pub fn is_failure(&self) -> bool {
        self.code >= 8000
    }
}

/// Bytes that are no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadReply {
    /// A line that fits none of the forms.
    #[error("{0:?} is not a line of BIRD's control protocol")]
    Line(String),
    /// More than any sensible reply.
    #[error("a reply of more than {0} bytes")]
    TooLong(usize),
}

/// Collects bytes and yields replies. Any split of the stream gives the same replies.
#[derive(Debug, Default)]
pub struct ReplyReader {
    /// Bytes of the line that is not complete yet.
    partial: Vec<u8>,
    /// Lines of the reply that is not complete yet.
    lines: Vec<(u16, String)>,
    /// Bytes in `lines`.
    size: usize,
    ready: VecDeque<Reply>,
}

impl ReplyReader {
    /// A reader at the start of a connection.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes what was read from the socket.
    ///
    /// # Errors
    /// [`BadReply`]; the connection is useless then.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), BadReply> {
        for chunk in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.partial.len() + chunk.len() > MAX_LINE {
                return Err(BadReply::TooLong(MAX_LINE));
            }
            self.partial.extend_from_slice(chunk);
            if self.partial.last() == Some(&b'\n') {
                let line = std::mem::take(&mut self.partial);
                self.line(String::from_utf8_lossy(line.trim_ascii_end_of_line()).into_owned())?;
            }
        }
        Ok(())
    }

    /// The next complete reply.
    pub fn next_reply(&mut self) -> Option<Reply> {
        self.ready.pop_front()
    }

    fn line(&mut self, line: String) -> Result<(), BadReply> {
        if line.starts_with('+') {
            return Ok(());
        }
        self.size += line.len();
        if self.size > MAX_REPLY {
            return Err(BadReply::TooLong(MAX_REPLY));
        }
        if let Some(text) = line.strip_prefix(' ') {
            // Before any code has been seen there is no code to repeat.
            let code = self.lines.last().map_or(0, |(code, _)| *code);
            self.lines.push((code, text.to_owned()));
            return Ok(());
        }
        let Some((code, last, text)) = coded(&line) else {
            return Err(BadReply::Line(line));
        };
        self.lines.push((code, text.to_owned()));
        if last {
            self.size = 0;
            self.ready.push_back(Reply { code, lines: std::mem::take(&mut self.lines) });
        }
        Ok(())
    }
}

/// Splits `CCCC-text` or `CCCC text` into code, whether it is the last line, and text.
fn coded(line: &str) -> Option<(u16, bool, &str)> {
    let (code, rest) = line.split_at_checked(4)?;
    if !code.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let last = match rest.bytes().next()? {
        b' ' => true,
        b'-' => false,
        _ => return None,
    };
    Some((code.parse().ok()?, last, &rest[1..]))
}

/// Removal of exactly one line end, CR LF or LF: BIRD's own trailing blanks stay.
trait LineEnd {
    fn trim_ascii_end_of_line(&self) -> &[u8];
}

impl LineEnd for Vec<u8> {
    fn trim_ascii_end_of_line(&self) -> &[u8] {
        let line = self.strip_suffix(b"\n").unwrap_or(self);
        line.strip_suffix(b"\r").unwrap_or(line)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    const STREAM: &str = "0001 BIRD 2.0.12 ready.\n\
        1000-BIRD 2.0.12\n\
        1011-Router ID is 10.192.0.2\n \
        Current server time is 1795460583.936426\n \
        Last reconfiguration on 1795460580.918573\n\
        0013 Daemon is up and running\n\
        +bird: a log line\n\
        2002-Name       Proto      Table      State  Since         Info\n\
        1002-kernel4    Kernel     master4    up     1795461204.124  \n \n \
        Mesh_10_192_0_3 BGP        ---        up     1795461205.066  Established   \n\
        0000 \n\
        8001 Network not found\n\
        0002-Reading configuration from bird.conf\n\
        8002 bird.conf:88:1 syntax error, unexpected CF_SYM_UNDEFINED\n";

    fn replies(pieces: &[&[u8]]) -> Vec<Reply> {
        let mut reader = ReplyReader::new();
        let mut out = Vec::new();
        for piece in pieces {
            reader.feed(piece).unwrap();
            out.extend(std::iter::from_fn(|| reader.next_reply()));
        }
        out
    }

    #[test]
    fn forms_of_lines() {
        let all = replies(&[STREAM.as_bytes()]);
        let codes: Vec<u16> = all.iter().map(|reply| reply.code).collect();
        assert_eq!(codes, [1, 13, 0, 8001, 8002]);
        assert_eq!(all[1].lines[3], (1011, "Last reconfiguration on 1795460580.918573".into()));
        assert_eq!(all[2].lines[2], (1002, String::new()), "a blank separator");
        assert!(all[2].lines[3].1.starts_with("Mesh_10_192_0_3 "));
        assert!(all[3].is_failure() && !all[2].is_failure());
        assert!(all[4].text().starts_with("bird.conf:88:1"));
    }

    #[test]
    fn split_at_every_byte() {
        let whole = replies(&[STREAM.as_bytes()]);
        for at in 0..=STREAM.len() {
            let (left, right) = STREAM.as_bytes().split_at(at);
            assert_eq!(replies(&[left, right]), whole, "split at byte {at}");
        }
        let bytes: Vec<&[u8]> = STREAM.as_bytes().chunks(1).collect();
        assert_eq!(replies(&bytes), whole, "byte by byte");
    }

    #[test]
    fn carriage_returns_are_tolerated() {
        let with = STREAM.replace('\n', "\r\n");
        assert_eq!(replies(&[with.as_bytes()]), replies(&[STREAM.as_bytes()]));
    }

    #[test]
    fn what_is_not_a_reply_is_refused() {
        for bad in ["hello\n", "12345 x\n", "000\n", "\n", "0000\n", "00é0 x\n", "0000_x\n"] {
            assert!(matches!(ReplyReader::new().feed(bad.as_bytes()), Err(BadReply::Line(_))), "{bad:?}");
        }
        let endless = vec![b'x'; MAX_LINE + 1];
        assert_eq!(ReplyReader::new().feed(&endless), Err(BadReply::TooLong(MAX_LINE)));
    }

    proptest! {
        #[test]
        fn any_bytes_and_any_split_agree(bytes in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b' '), b'0'..=b'9', Just(b'-'), any::<u8>()], 0..200), at in 0usize..200) {
            let at = at.min(bytes.len());
            let run = |pieces: [&[u8]; 2]| {
                let mut reader = ReplyReader::new();
                let outcome = pieces.iter().try_for_each(|piece| reader.feed(piece));
                (outcome, std::iter::from_fn(|| reader.next_reply()).collect::<Vec<_>>())
            };
            prop_assert_eq!(run([&bytes[..at], &bytes[at..]]), run([&bytes, &[]]));
        }
    }
}
