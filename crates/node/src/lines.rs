//! A child's output as lines, whatever it writes: bytes that are not UTF-8 are replaced, and a line without an end is
//! cut. A reader that gave up on either would lose the log from then on, and the child would write into a closed pipe.

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, BufReader};

/// Reads lines of at most `longest` bytes.
pub(crate) struct Lines<R> {
    reader: BufReader<R>,
    longest: usize,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(crate) fn new(stream: R, longest: usize) -> Self {
        Self { reader: BufReader::new(stream), longest }
    }

    /// The next line without its end; `None` when the other side has closed.
    pub(crate) async fn next(&mut self) -> Option<String> {
        let mut line = Vec::new();
        loop {
            let (taken, ended) = piece(&mut self.reader, &mut line, self.longest).await;
            if ended || line.len() >= self.longest {
                break;
            }
            if taken == 0 {
                if line.is_empty() {
                    return None;
                }
                break;
            }
        }
        Some(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned())
    }
}

/// Moves what is at hand of the line; returns how much that was, and whether it was the last of the line.
async fn piece(reader: &mut (impl AsyncBufRead + Unpin), line: &mut Vec<u8>, longest: usize) -> (usize, bool) {
    // A pipe does not fail in other ways than by its end.
    let Ok(found) = reader.fill_buf().await else { return (0, false) };
    let room = longest.saturating_sub(line.len()).min(found.len());
    let end = found[..room].iter().position(|byte| *byte == b'\n');
    let taken = end.map_or(room, |at| at + 1);
    line.extend_from_slice(&found[..taken]);
    reader.consume(taken);
    (taken, end.is_some())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    async fn read(bytes: &[u8], longest: usize) -> Vec<String> {
        let mut lines = Lines::new(bytes, longest);
        let mut all = Vec::new();
        while let Some(line) = lines.next().await {
            all.push(line);
        }
        all
    }

    #[tokio::test]
    async fn whatever_is_written() {
        assert_eq!(read(b"one\n\ntwo\r\nrest", 100).await, ["one", "", "two", "rest"]);
        assert_eq!(read(b"bad \xff byte\nnext\n", 100).await, ["bad \u{fffd} byte", "next"]);
        assert!(read(b"", 100).await.is_empty());
    }

    #[tokio::test]
    async fn a_line_without_an_end_is_cut() {
        assert_eq!(read(b"abcdefgh\nij\n", 4).await, ["abcd", "efgh", "", "ij"]);
        let endless = vec![b'x'; 100_000];
        assert_eq!(read(&endless, 60_000).await.iter().map(String::len).collect::<Vec<_>>(), [60_000, 40_000]);
    }
}
