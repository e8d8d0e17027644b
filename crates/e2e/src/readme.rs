//! README.md as a fixture: its fenced blocks whose info string is `sh HOST` are scripts that a test runs word for word on
//! that host.

use std::fs;

/// A block of commands.
#[derive(Debug)]
pub struct Block {
    /// The heading of the chapter that it stands in.
    pub chapter: String,
    /// Where it runs: `host1`, `host2`, `hosts` for each of them, or `debian` for a machine on which the package is
    /// installed.
    pub host: String,
    /// The commands.
    pub script: String,
}

/// All blocks of README.md, in order.
pub fn blocks() -> Vec<Block> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md");
    parse(&fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}")))
}

/// The blocks of one chapter on one host.
///
/// # Panics
/// There is none: the chapter was renamed, or lost its marks.
#[track_caller]
pub fn scripts(chapter: &str, host: &str) -> Vec<String> {
    let of_it = |block: &Block| block.chapter == chapter && block.host == host;
    let scripts: Vec<String> = blocks().into_iter().filter(of_it).map(|block| block.script).collect();
    assert!(!scripts.is_empty(), "README.md has no block of {host} in the chapter {chapter:?}");
    scripts
}

/// The blocks of a text in Markdown.
pub fn parse(text: &str) -> Vec<Block> {
    let (mut chapter, mut blocks) = (String::new(), Vec::new());
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(heading) = line.strip_prefix("## ") {
            heading.clone_into(&mut chapter);
        }
        let Some(info) = line.strip_prefix("```") else { continue };
        let body: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        if let Some(host) = info.strip_prefix("sh ") {
            blocks.push(Block { chapter: chapter.clone(), host: host.to_owned(), script: body.join("\n") });
        }
    }
    blocks
}
