//! `calicoctl man`: the manual pages, one for each command, made from the same grammar as `--help`.
//!
//! Usage and examples are printed as they are typed: in the classic order, where the name stands before the verb, and
//! line by line. The pages carry no date, so the same program always writes the same bytes.

use std::{io::Write, path::Path};

use clap::Command;
use clap_mangen::Man;
use serde_json::json;

use crate::{
    args::{self, Manual, prose::is_prose},
    failure::Failure,
    output::Output,
};

const SYNOPSIS: &str = "SYNOPSIS";

/// `man`
pub(crate) fn run(args: &Manual) -> Result<Output, Failure> {
    write(&args.dir).map(|files| {
        let text = format!("{} manual pages written to {}\n", files.len(), args.dir.display());
        Output::of(text, json!({ "directory": args.dir, "files": files }))
    })
}

fn write(dir: &Path) -> Result<Vec<String>, Failure> {
    let failed = |path: &Path, error: &std::io::Error| {
        Failure::new(format!("{} cannot be written.", path.display()))
            .cause(error)
            .hint("name a folder that you may write to")
    };
    std::fs::create_dir_all(dir).map_err(|error| failed(dir, &error))?;
    let mut files = Vec::new();
    for (file, page) in pages() {
        let path = dir.join(&file);
        std::fs::write(&path, page).map_err(|error| failed(&path, &error))?;
        files.push(file);
    }
    Ok(files)
}

/// Every page with its file's name.
fn pages() -> Vec<(String, Vec<u8>)> {
    let mut tree = args::tree();
    // Fills in the names with which each command is called.
    tree.build();
    let mut pages = Vec::new();
    collect(&tree, "calicoctl", &mut pages);
    pages
}

fn collect(command: &Command, words: &str, pages: &mut Vec<(String, Vec<u8>)>) {
    pages.push((format!("{}.1", words.replace(' ', "-")), page(command, words)));
    for below in shown(command) {
        collect(below, &format!("{words} {}", below.get_name()), pages);
    }
}

fn shown(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|below| !below.is_hide_set() && below.get_name() != "help")
}

fn page(command: &Command, words: &str) -> Vec<u8> {
    let name = words.replace(' ', "-");
    let man = Man::new(command.clone().display_name(&name))
        .title(name.to_uppercase())
        .section("1")
        .source(concat!("calicoctl ", env!("CARGO_PKG_VERSION")))
        .manual("Calico");
    let mut page = Vec::new();
    let proof = "writing to memory cannot fail";
    man.render_title(&mut page).expect(proof);
    man.render_name_section(&mut page).expect(proof);
    section(&mut page, SYNOPSIS, &usage(command));
    let (before, examples) = explanation(command);
    if !before.is_empty() {
        section(&mut page, "DESCRIPTION", &before);
    }
    if command.get_arguments().any(|arg| !arg.is_hide_set()) {
        man.render_options_section(&mut page).expect(proof);
    }
    for (heading, text) in examples {
        section(&mut page, &heading.to_uppercase(), &text);
    }
    let see = see_also(command, words);
    if !see.is_empty() {
        writeln!(page, ".SH \"SEE ALSO\"\n{}", see.join(",\n")).expect(proof);
    }
    page
}

/// Text below a heading. Sentences are filled, everything else keeps its lines.
fn section(page: &mut Vec<u8>, heading: &str, text: &str) {
    let mut out = format!(".SH \"{heading}\"\n.nf\n");
    for line in text.trim_matches('\n').lines() {
        let fill = heading != SYNOPSIS && is_prose(line);
        let line = line.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
        // A line that begins with a dot would be a request.
        let guard = if line.starts_with('.') { "\\&" } else { "" };
        let (begin, end) = if fill { (".fi\n", ".nf\n") } else { ("", "") };
        out.push_str(&format!("{begin}{guard}{line}\n{end}"));
    }
    out.push_str(".fi\n");
    page.extend(out.into_bytes());
}

/// The usage without its heading, each form on its line.
fn usage(command: &Command) -> String {
    let usage = command.clone().render_usage().to_string();
    let lines = usage.strip_prefix("Usage:").unwrap_or(&usage).lines().map(str::trim);
    lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
}

/// What stands below the options in `--help`: the words before the first heading, and each heading with its text.
fn explanation(command: &Command) -> (String, Vec<(String, String)>) {
    let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let (mut before, mut sections): (String, Vec<(String, String)>) = (String::new(), Vec::new());
    for line in text.lines() {
        let heading = line.strip_suffix(':').filter(|words| !words.is_empty() && !words.contains(char::is_whitespace));
        match (heading, sections.last_mut()) {
            (Some(heading), _) => sections.push((heading.to_owned(), String::new())),
            (None, Some((_, section))) => section.push_str(&format!("{line}\n")),
            (None, None) => before.push_str(&format!("{line}\n")),
        }
    }
    (before.trim_end().to_owned(), sections)
}

/// The commands above and below, each with its section.
fn see_also(command: &Command, words: &str) -> Vec<String> {
    let page = |words: String| format!(".BR {} (1)", words.replace(' ', "\\-"));
    let above = words.rsplit_once(' ').map(|(above, _)| page(above.to_owned()));
    let below = shown(command).map(|below| page(format!("{words} {}", below.get_name())));
    above.into_iter().chain(below).collect()
}

#[cfg(test)]
mod tests;
