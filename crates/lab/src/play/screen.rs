//! How the walk-through looks: a terminal gets colours, a file gets the same text without.

use std::io::{IsTerminal, Write, stdout};
use std::time::Instant;

use crate::error::Result;
use crate::lab::Lab;
use crate::matrix::Matrix;

/// Columns before the text of a fact.
const LABEL: usize = 14;

pub(super) struct Screen {
    colours: bool,
}

/// What a piece of text is, which decides its colour.
#[derive(Clone, Copy)]
pub(super) enum Ink {
    Plain,
    Faint,
    Bold,
    Good,
    Bad,
}

impl Screen {
    pub(super) fn new() -> Self {
        Self { colours: stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) }
    }

    fn ink(&self, ink: Ink, text: &str) -> String {
        let code = match ink {
            Ink::Plain => return text.to_owned(),
            Ink::Faint => "2",
            Ink::Bold => "1",
            Ink::Good => "32",
            Ink::Bad => "31",
        };
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub(super) fn line(&self, text: &str) {
        println!("{text}");
    }

    pub(super) fn good(&self, text: &str) {
        println!("{}", self.ink(Ink::Good, text));
    }

    /// Says what is going on while it goes on, and how long it took.
    pub(super) fn progress<T>(&self, what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        print!("{what} … ");
        // Only the look suffers when the line comes late.
        let _ = stdout().flush();
        let start = Instant::now();
        let result = work();
        match &result {
            Ok(_) => println!("{}", self.ink(Ink::Faint, &format!("{:.1} s", start.elapsed().as_secs_f64()))),
            Err(_) => println!("{}", self.ink(Ink::Bad, "failed")),
        }
        result
    }

    pub(super) fn heading(&self, number: usize, title: &str, about: &str) {
        println!("\n{}", self.ink(Ink::Bold, &format!("{number}. {title}")));
        println!("   {about}\n");
    }

    /// A command as it is typed on a host.
    pub(super) fn typed(&self, host: &str, command: &str) {
        let command = command.replace('\n', "\n   ");
        println!("   {} {}", self.ink(Ink::Faint, &format!("{host} #")), self.ink(Ink::Bold, &command));
    }

    /// What a command printed, without what only fills the screen.
    pub(super) fn printed(&self, text: &str) {
        for line in condensed(text) {
            println!("   {}", self.ink(Ink::Faint, &line));
        }
    }

    /// A label and a text beside it.
    pub(super) fn fact(&self, label: &str, text: &str) {
        println!("   {} {text}", self.ink(Ink::Faint, &format!("{label:<LABEL$}")));
    }

    /// What a step did: labels with lines. A label is shown once, beside its first line.
    pub(super) fn changes(&self, changes: &[(String, Vec<(Ink, String)>)]) {
        for (label, lines) in changes {
            for (index, (ink, text)) in lines.iter().enumerate() {
                self.fact(if index == 0 { label } else { "" }, &self.ink(*ink, text));
            }
        }
    }

    /// Who reaches whom: one line per sender, one column per receiver.
    pub(super) fn matrix(&self, matrix: &Matrix) {
        let width = matrix.names().map(str::len).max().unwrap_or(0) + 2;
        let head: String = matrix.names().map(|name| format!("{name:<width$}")).collect();
        self.fact("ping from / to", &format!("{:width$}{}", "", head.trim_end()));
        for from in matrix.names() {
            let row: String = matrix
                .names()
                .map(|to| match matrix.answered(from, to) {
                    (0, 0) => format!("{:<width$}", "-"),
                    (0, _) => self.ink(Ink::Bad, &format!("{:<width$}", "no")),
                    (some, all) if some < all => self.ink(Ink::Bad, &format!("{:<width$}", "partly")),
                    _ => self.ink(Ink::Good, &format!("{:<width$}", "yes")),
                })
                .collect();
            self.fact("", &format!("{from:<width$}{row}"));
        }
    }

    /// How to play on.
    pub(super) fn farewell(&self, lab: &Lab) {
        let program = lab.binaries().join("calico-lab");
        let program = std::env::current_dir()
            .ok()
            .and_then(|dir| program.strip_prefix(dir).ok().map(std::path::Path::to_owned))
            .unwrap_or_else(|| program.clone());
        let program = program.display();
        println!("\nThe hosts stay up. Enter one and play on:\n");
        for host in lab.hosts() {
            println!("   {}", self.ink(Ink::Bold, &format!("{program} shell {}", host.name())));
        }
        println!("\nfor example, on host1:\n");
        for (command, about) in [
            ("calicoctl status", "the service and its BGP sessions"),
            ("calicoctl endpoint show --detailed", "all containers with their profiles"),
            ("calicoctl profile show --detailed", "all profiles with their members"),
            ("docker exec -ti workload_A sh", "a shell in the container: ping the other one"),
            ("calicoctl container workload_A profile remove PROF_A_B", "and the ping stops"),
            ("nft list table ip calico", "the rules in the kernel"),
        ] {
            println!("   {command:<55} {}", self.ink(Ink::Faint, about));
        }
        println!("\n{} removes everything.", self.ink(Ink::Bold, "make clean-lab"));
    }
}

/// The lines of a command's output that a person needs. A step that was announced with `…` and is then told with its
/// result is shown once; lines of a service's log, which start with a time or with `NAME: ` and a time, are counted.
fn condensed(text: &str) -> Vec<String> {
    let lines: Vec<_> = text.lines().collect();
    let mut shown: Vec<String> = Vec::new();
    let mut log = 0;
    for (index, line) in lines.iter().enumerate() {
        if is_log(line) {
            log += 1;
            continue;
        }
        let announced = line.strip_suffix("...").map(str::trim_end);
        let told = announced.is_some_and(|step| lines.get(index + 1).is_some_and(|next| next.starts_with(step)));
        if !told {
            shown.push((*line).to_owned());
        }
    }
    if log > 0 {
        shown.push(format!("({log} lines of the log)"));
    }
    shown
}

fn is_log(line: &str) -> bool {
    let rest = line.split_once(": ").map_or(line, |(name, rest)| if name.contains(' ') { line } else { rest });
    let is_time = |text: &str| {
        let mut parts = text.splitn(3, '-').map(|part| part.get(..2).unwrap_or_default());
        text.len() > 10 && parts.all(|part| part.len() == 2 && part.chars().all(|c| c.is_ascii_digit()))
    };
    rest.get(..19).is_some_and(|start| is_time(start) && start.matches(':').count() == 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_output_is_cut_to_what_a_person_needs() {
        let text = "Waiting for successful startup\nnode name ...\nnode name: host1\n\nCalico node started\n\
                    2026-11-24T06:45:26.021983Z  INFO started process=\"confd\"\n\
                    bird: 2026-11-24 06:45:26.195 <INFO> Started\nwaiting ...\n";
        let expected = [
            "Waiting for successful startup",
            "node name: host1",
            "",
            "Calico node started",
            "waiting ...",
            "(2 lines of the log)",
        ];
        assert_eq!(condensed(text), expected);
        for line in ["IP 192.168.0.1 added to workload_A", "node name: host1", "a: b: c-d-e", "é: 2026"] {
            assert!(!is_log(line), "{line}");
        }
    }
}
