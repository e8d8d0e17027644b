//! `calico-bench`: measures the product in the lab, prints a table and writes `bench.json`.
//!
//! Times are comparable within one run only: beside each stands a yardstick from the same run (an etcd write, a
//! `docker run`), and the detail says the ratio. Names are paths, so that a part can be chosen: `--only felix`.

mod attach;
mod bare;
mod bgp;
mod cpu;
mod dataplane;
mod datastore;
mod engine;
mod felix;
mod floor;
mod heap;
mod ipam;
mod libnetwork;
mod memory;
mod nft;
mod packets;
mod report;
mod rig;
mod selector;
mod sizes;

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use miette::{IntoDiagnostic, Result, miette};

use crate::report::Report;

/// Measures the product in the lab. Needs root, Docker, etcd and BIRD, and the release build of the binaries.
#[derive(Parser)]
struct Cli {
    /// Only the measures whose name starts so: `selector`, `engine`, `nft`, `dataplane`, `packets`, `felix`, `datastore`, `memory`, `ipam`,
    /// `bgp`, `attach`, `libnetwork`, `image`, `build`.
    #[arg(long, env = "ONLY", default_value = "")]
    only: String,
    /// Where the numbers go as JSON.
    #[arg(long, default_value = "target/bench.json")]
    output: PathBuf,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    }
}

/// A group of measures: the names it gives start with the word.
type Part = (&'static str, fn(&mut Report) -> Result<()>);

const PARTS: &[Part] = &[
    ("selector", selector::measure),
    ("engine", engine::measure),
    ("nft", nft::measure),
    ("dataplane", dataplane::measure),
    ("packets", packets::measure),
    ("felix", felix::measure),
    ("datastore", datastore::measure),
    ("memory", memory::measure),
    ("ipam", ipam::measure),
    ("bgp", bgp::measure),
    ("attach", attach::measure),
    ("libnetwork", libnetwork::measure),
    ("image", sizes::image),
    ("build", sizes::cold_build),
];

fn run(cli: &Cli) -> Result<()> {
    let wanted = |part: &str| cli.only.is_empty() || part.starts_with(&cli.only) || cli.only.starts_with(part);
    let mut report = Report::default();
    let mut failed = Vec::new();
    for (name, measure) in PARTS.iter().filter(|(name, _)| wanted(name)) {
        eprintln!("measuring {name} ...");
        if let Err(error) = measure(&mut report) {
            eprintln!("{error:?}");
            failed.push(*name);
        }
    }
    println!("{}", report.table());
    if let Some(folder) = cli.output.parent() {
        std::fs::create_dir_all(folder).into_diagnostic()?;
    }
    std::fs::write(&cli.output, report.json()).into_diagnostic()?;
    eprintln!("written to {}", cli.output.display());
    // The numbers of the others are worth having all the same.
    if failed.is_empty() { Ok(()) } else { Err(miette!("these parts could not be measured: {}", failed.join(", "))) }
}
