//! `calico-felix`: the agent that programs rules and routes, as a program of its own.
//!
//! Resident memory is mostly the part of its program's file that a process touches, and the kernel maps whole
//! neighbourhoods of what is touched. So the agent that runs on every host stands in a file without the supervisor's
//! command line, confd's templates and the health server. `calico-node run` starts it from its own folder.

mod process;

use std::{error::Error, process::ExitCode};

use calico_dataplane::Dataplane;
use calico_startup::node_name;
use process::{block_on, init_log, print_report, stop_signal, store};

const HELP: &str = "\
The agent that programs rules and routes of one host. `calico-node run` starts it; alone it is of use to look at it.

Usage: calico-felix [--name NAME]

Options:
      --name NAME  Name of this node; HOSTNAME or the host's own if absent
  -h, --help       Print help
  -V, --version    Print version

Its health goes to standard output as JSON lines, its log to standard error. The datastore is found by the variables
that calico-node --help lists; CALICO_LOG sets the verbosity.";

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    Run { name: Option<String> },
    Print(&'static str),
}

fn main() -> ExitCode {
    let name = match wanted(std::env::args().skip(1)) {
        Ok(Wanted::Run { name }) => name,
        Ok(Wanted::Print(text)) => {
            println!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(word) => {
            eprintln!("error: {word}\nhint: calico-felix --help");
            return ExitCode::from(2);
        }
    };
    init_log();
    let node = name.or_else(|| std::env::var("HOSTNAME").ok());
    match block_on(felix(node.as_deref())).map_err(Into::into).flatten() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint!("{}", in_words(&*error));
            ExitCode::FAILURE
        }
    }
}

/// One line each for the error and its causes.
fn in_words(error: &dyn Error) -> String {
    let mut lines = format!("error: {error}\n");
    let mut cause = error.source();
    while let Some(error) = cause {
        lines += &format!("  cause: {error}\n");
        cause = error.source();
    }
    lines
}

fn wanted(mut words: impl Iterator<Item = String>) -> Result<Wanted, String> {
    let mut name = None;
    while let Some(word) = words.next() {
        match word.split_once('=').unwrap_or((&word, "")) {
            ("-h" | "--help", "") => return Ok(Wanted::Print(HELP)),
            ("-V" | "--version", "") => return Ok(Wanted::Print(concat!("calico-felix ", env!("CARGO_PKG_VERSION")))),
            ("--name", "") => name = Some(words.next().ok_or("--name wants a name")?),
            ("--name", given) => name = Some(given.to_owned()),
            _ => return Err(format!("{word:?} is not understood")),
        }
    }
    Ok(Wanted::Run { name })
}

async fn felix(name: Option<&str>) -> Result<(), Box<dyn Error>> {
    let node = node_name(name)?;
    let store = store()?;
    let dataplane = Dataplane::new(calico_dataplane::Options::default()).map_err(|error| {
        format!("felix has no access to the kernel's network configuration (it needs root, or CAP_NET_ADMIN): {error}")
    })?;
    tracing::info!(%node, datastore = %store.kv().location(), "felix starts");
    calico_felix::run(&store, dataplane, calico_felix::Options::new(node), print_report, stop_signal())
        .await
        .map_err(|error| format!("the base rules cannot be installed: {error}"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn words_are_understood_or_refused() {
        let wanted = |words: &[&str]| wanted(words.iter().map(|&word| word.to_owned()));
        let named = |name: &str| Wanted::Run { name: Some(name.to_owned()) };
        assert_eq!(wanted(&[]).unwrap(), Wanted::Run { name: None });
        assert_eq!(wanted(&["--name", "h1"]).unwrap(), named("h1"));
        assert_eq!(wanted(&["--name=h1"]).unwrap(), named("h1"));
        assert_eq!(wanted(&["-h"]).unwrap(), Wanted::Print(HELP));
        assert_eq!(wanted(&["--name"]).unwrap_err(), "--name wants a name");
        assert_eq!(wanted(&["felix"]).unwrap_err(), "\"felix\" is not understood");
    }
}
