//! Raises, enters and removes labs, and builds the image that they load: the words for people, no logic.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use calico_lab::image::write_node_image;
use calico_lab::play::play;
use calico_lab::state::{self, LabRecord};
use calico_lab::{EtcdMode, Lab, LabError, LabOptions, Result, binaries_dir};
use clap::{Parser, Subcommand};

/// Hosts without virtual machines: network namespaces with their own files, Docker and a real etcd.
#[derive(Parser)]
#[command(name = "calico-lab", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Words,
}

/// The lab that commands mean when none is named.
const DEFAULT: &str = "lab";

#[derive(Subcommand)]
enum Words {
    /// Raise a lab: a switch with etcd, and hosts with Docker.
    Up {
        /// Name of the lab.
        #[arg(long, default_value = DEFAULT)]
        name: String,
        /// Number of hosts.
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=40))]
        hosts: u8,
        /// Hosts without Docker.
        #[arg(long)]
        no_docker: bool,
        /// Load the image calico/node (see `make image`) into every host's Docker.
        #[arg(long, conflicts_with = "no_docker")]
        node_image: bool,
        /// etcd with TLS and client certificates.
        #[arg(long)]
        tls: bool,
        /// No etcd, and no word of one: hosts keep their datastore themselves.
        #[arg(long, conflicts_with = "tls")]
        no_etcd: bool,
    },
    /// Remove a lab with all that it made.
    Down {
        /// Name of the lab.
        #[arg(default_value = DEFAULT)]
        name: String,
        /// Every lab on this machine, also one that crashed.
        #[arg(long, conflicts_with = "name")]
        all: bool,
    },
    /// Run a command on a host.
    Exec {
        /// Name of the lab; not needed when only one is up.
        #[arg(long)]
        lab: Option<String>,
        /// Name of the host.
        host: String,
        /// The command with its arguments.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Open a shell on a host.
    Shell {
        /// Name of the lab; not needed when only one is up.
        #[arg(long)]
        lab: Option<String>,
        /// Name of the host.
        host: String,
    },
    /// List the labs and their hosts.
    Status,
    /// Write down everything that helps to understand what is going on in a lab.
    Dump {
        /// Name of the lab; not needed when only one is up.
        #[arg(long)]
        lab: Option<String>,
        /// Folder for the files.
        dir: PathBuf,
    },
    /// Raise two hosts and play the walk-through on them, showing what every command does.
    Play,
    /// Build the image calico/node from the binaries beside this program.
    Image {
        /// The archive to write, for `docker load`.
        #[arg(long)]
        out: PathBuf,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("calico-lab: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: Words) -> Result<ExitCode> {
    match words {
        Words::Up { name, hosts, no_docker, node_image, tls, no_etcd } => {
            let etcd = (!no_etcd).then_some(if tls { EtcdMode::Tls } else { EtcdMode::Plain });
            let options = LabOptions {
                name: Some(name),
                etcd,
                docker: !no_docker,
                node_image,
                keep: true,
                ..LabOptions::hosts(hosts.into())
            };
            up(&options)?;
        }
        Words::Down { name, all: false } => {
            state::remove(&name)?;
            println!("removed the lab {name}");
        }
        Words::Down { all: true, .. } => down_all()?,
        Words::Exec { lab, host, command } => {
            let (program, arguments) = command.split_first().expect("clap demands a command");
            return enter(&chosen(lab)?, &host, program, arguments);
        }
        Words::Shell { lab, host } => return enter(&chosen(lab)?, &host, "/bin/bash", &["--norc".to_owned()]),
        Words::Status => status()?,
        Words::Dump { lab, dir } => {
            let lab = chosen(lab)?;
            Lab::attach(&lab)?.dump(&dir)?;
            println!("the state of the lab {lab} is in {}", dir.display());
        }
        Words::Play => play(&LabOptions { keep: true, ..LabOptions::default() })?,
        Words::Image { out } => image(&out)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn up(options: &LabOptions) -> Result<()> {
    let start = Instant::now();
    let lab = Lab::up(options)?;
    println!("the lab {} is up after {:.1} s", lab.name(), start.elapsed().as_secs_f64());
    print_hosts(&lab);
    let program = std::env::args().next().unwrap_or_else(|| "calico-lab".to_owned());
    println!("enter a host with: {program} shell --lab {} {}", lab.name(), lab.host(1).name());
    Ok(())
}

fn print_hosts(lab: &Lab) {
    for host in lab.machines() {
        println!("  {:<8} {:<14} {}", host.name(), host.ipv4(), host.ipv6());
    }
    if let Ok(etcd) = lab.try_etcd() {
        println!("  etcd     {}", etcd.endpoints());
    }
}

/// The lab that is meant: the named one, or the only one that was raised to stay.
fn chosen(name: Option<String>) -> Result<String> {
    if let Some(name) = name {
        return Ok(name);
    }
    let kept = |name: &String| LabRecord::load(name).is_ok_and(|record| record.owner.is_none());
    let mut names: Vec<_> = state::list()?.into_iter().filter(kept).collect();
    match names.len() {
        0 => Err(LabError::NoSuchLab(DEFAULT.to_owned())),
        1 => Ok(names.remove(0)),
        _ => Err(LabError::WhichLab(names.join(", "))),
    }
}

/// Removes what it can and reports the rest, so that one stubborn lab does not keep the others.
fn down_all() -> Result<()> {
    let mut first = None;
    for name in state::list()? {
        match state::remove(&name) {
            Ok(()) => println!("removed the lab {name}"),
            // Somebody else was faster.
            Err(LabError::NoSuchLab(_)) => {}
            Err(error) => match first {
                None => first = Some(error),
                Some(_) => eprintln!("calico-lab: {error}"),
            },
        }
    }
    first.map_or(Ok(()), Err)
}

fn enter(lab: &str, host: &str, program: &str, arguments: &[String]) -> Result<ExitCode> {
    let lab = Lab::attach(lab)?;
    let status = lab.find(host)?.interactive(program, arguments)?;
    // As a shell reports it: the exit code, or 128 and the number of the signal.
    let code =
        std::os::unix::process::ExitStatusExt::signal(&status).map_or(status.code(), |signal| Some(128 + signal));
    Ok(code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

fn status() -> Result<()> {
    let names = state::list()?;
    if names.is_empty() {
        println!("no lab is up");
    }
    for name in names {
        match LabRecord::load(&name) {
            Ok(record) => {
                let alive = record.is_of_this_boot() && record.machines.iter().all(|machine| machine.init.is_alive());
                let owner = record.owner.map_or(String::new(), |owner| format!(", of process {}", owner.pid));
                println!("{name}: {}{owner}", if alive { "up" } else { "not running" });
                for machine in &record.machines {
                    let (place, state) = (machine.place, if machine.init.is_alive() { "up" } else { "ended" });
                    println!("  {:<8} {state:<6} {:<14} {}", machine.name, place.ipv4(), place.ipv6());
                }
            }
            Err(error) => println!("{name}: {error}"),
        }
    }
    Ok(())
}

fn image(out: &std::path::Path) -> Result<()> {
    let start = Instant::now();
    let image = write_node_image(out, &binaries_dir())?;
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    for (path, size) in image.parts.iter().filter(|(_, size)| *size >= 1_000_000) {
        println!("{:>8.1} MB  /{path}", megabytes(*size));
    }
    println!("{:>8.1} MB  {} ({:.1} s)", megabytes(image.size), out.display(), start.elapsed().as_secs_f64());
    println!("calico/node, sha256:{}", &image.id[..12]);
    Ok(())
}
