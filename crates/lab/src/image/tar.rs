//! The part of the POSIX tar format (ustar) that images need: files, folders, links; root as owner, time zero.

use std::io::{self, Write};

const BLOCK: usize = 512;

/// What stands at one path of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    kind: Kind,
    mode: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    File(Vec<u8>),
    Dir,
    Link(String),
}

impl Entry {
    pub(crate) fn file(content: Vec<u8>, mode: u32) -> Self {
        Self { kind: Kind::File(content), mode }
    }

    pub(crate) fn dir(mode: u32) -> Self {
        Self { kind: Kind::Dir, mode }
    }

    pub(crate) fn link(target: &str) -> Self {
        Self { kind: Kind::Link(target.to_owned()), mode: 0o777 }
    }
}

/// Writes an archive entry by entry.
pub(crate) struct TarWriter<W> {
    out: W,
}

impl<W: Write> TarWriter<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out }
    }

    /// Appends one entry. Paths are relative, without a leading `/`.
    pub(crate) fn append(&mut self, path: &str, entry: &Entry) -> io::Result<()> {
        let (content, kind, link): (&[u8], u8, &str) = match &entry.kind {
            Kind::File(content) => (content, b'0', ""),
            Kind::Link(target) => (&[], b'2', target),
            Kind::Dir => (&[], b'5', ""),
        };
        let path = if kind == b'5' { format!("{path}/") } else { path.to_owned() };
        self.out.write_all(&header(&path, kind, entry.mode, content.len(), link)?)?;
        self.out.write_all(content)?;
        self.pad(content.len())
    }

    /// Writes the end of the archive: two empty blocks.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.flush()
    }

    fn pad(&mut self, length: usize) -> io::Result<()> {
        self.out.write_all(&[0; BLOCK][..length.next_multiple_of(BLOCK) - length])
    }
}

fn header(path: &str, kind: u8, mode: u32, size: usize, link: &str) -> io::Result<[u8; BLOCK]> {
    let mut block = [0; BLOCK];
    let (prefix, name) = split(path)?;
    put(&mut block[0..100], name)?;
    put(&mut block[100..108], &format!("{mode:07o}"))?;
    put(&mut block[108..116], "0000000")?;
    put(&mut block[116..124], "0000000")?;
    put(&mut block[124..136], &format!("{size:011o}"))?;
    put(&mut block[136..148], "00000000000")?;
    block[156] = kind;
    put(&mut block[157..257], link)?;
    block[257..265].copy_from_slice(b"ustar\x0000");
    put(&mut block[345..500], prefix)?;
    // The sum counts its own eight bytes as blanks.
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    put(&mut block[148..155], &format!("{sum:06o}"))?;
    Ok(block)
}

/// Splits a path that is longer than the name field at a `/`, so that the front goes into the prefix field.
fn split(path: &str) -> io::Result<(&str, &str)> {
    if path.len() <= 100 {
        return Ok(("", path));
    }
    path.match_indices('/')
        .map(|(at, _)| (&path[..at], &path[at + 1..]))
        .find(|(prefix, name)| prefix.len() <= 155 && !name.is_empty() && name.len() <= 100)
        .ok_or_else(|| too_long(path))
}

fn put(field: &mut [u8], text: &str) -> io::Result<()> {
    let text = text.as_bytes();
    field
        .get_mut(..text.len())
        .map(|field| field.copy_from_slice(text))
        .ok_or_else(|| too_long(&String::from_utf8_lossy(text)))
}

fn too_long(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("`{what}` is too long for a tar archive"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn long_paths_are_split_or_refused() {
        let dir = "d".repeat(90);
        let path = format!("{dir}/{}", "f".repeat(90));
        assert_eq!(split(&path).unwrap().0, dir);
        assert_eq!(split("short").unwrap(), ("", "short"));
        assert!(split(&"x".repeat(101)).is_err());
        assert!(TarWriter::new(Vec::new()).append("a", &Entry::link(&"x".repeat(101))).is_err());
    }
}
