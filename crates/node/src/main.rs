//! `calico-node`: the service of one host. Start-up, then felix, confd and BIRD under supervision.
//!
//! `run` is the service, the same in the container and on the host; `confd`, `datastore` and `libnetwork` are processes that it
//! supervises, and can be run by hand to look at them, as `calico-felix` can; `health` asks a running service.

mod agents;
mod backoff;
mod board;
mod child;
mod clean;
mod crew;
mod datastore;
mod health;
mod libnetwork;
mod lines;
mod lock;
mod logs;
mod metrics;
mod place;
mod process;
mod run;
mod supervisor;

use std::{path::PathBuf, process::ExitCode};

use calico_model::AgentHealth;
use clap::{Args, Parser, Subcommand};
use miette::{IntoDiagnostic, Report, Result};
use process::{block_on, init_log, print_report};

/// Where the service keeps its sockets, lock and BIRD's configuration; shared between container and host.
const RUN_DIR: &str = "/var/run/calico";

/// The Calico service of one host: felix, confd and BIRD under supervision.
#[derive(Parser)]
#[command(name = "calico-node", version, max_term_width = 100, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  calico-node run                                          the service, in the foreground, with its own datastore
  ETCD_ENDPOINTS=http://10.0.0.1:2379 calico-node run      with an etcd
  calico-node run --ip 10.0.0.2 --as 64513                 with a chosen address and AS number
  calico-node health                                       is it live and ready, and if not, why
  calico-node health -o json

The datastore is found by ETCD_ENDPOINTS, ETCD_CA_CERT_FILE, ETCD_CERT_FILE, ETCD_KEY_FILE, ETCD_USERNAME and
ETCD_PASSWORD, or ETCD_PASSWORD_FILE with the password in a file of mode 0600. Without them the host's own record
/var/lib/calico/datastore/location.env says where it is; without that, this host keeps it itself, in
/var/lib/calico/datastore. CALICO_LOG sets the verbosity: error, warn, info, debug, trace.";

#[derive(Subcommand)]
enum Command {
    /// Prepare the host and the datastore, then run felix, confd and BIRD until stopped.
    Run(RunArgs),
    /// Only the agent that configures BIRD. Its health goes to standard output as JSON lines.
    Confd(NodeArgs),
    /// Only the plugin for Docker's networks. Its health goes to standard output as JSON lines.
    Libnetwork {
        /// Name of this node; the host name if absent.
        #[arg(long, env = "HOSTNAME")]
        name: Option<String>,
    },
    /// Only the datastore of this host, served by a socket. Its health goes to standard output as JSON lines.
    Datastore(datastore::DatastoreArgs),
    /// Ask the running service for its health. Exit code 0: ready; 1: not ready, or not running.
    Health(HealthArgs),
    /// Take rules, routes, tunnels and interfaces of workloads out of the kernel: this host is left for good.
    #[command(hide = true)]
    Clean,
    /// Become another program whose life is tied to the supervisor's.
    #[command(hide = true)]
    Child {
        /// Process id of the supervisor.
        #[arg(long)]
        parent: u32,
        /// The program and its arguments.
        #[arg(last = true, required = true)]
        command: Vec<std::ffi::OsString>,
    },
}

#[derive(Args)]
struct RunArgs {
    /// Name of this node; the host name if absent.
    #[arg(long, env = "HOSTNAME")]
    name: Option<String>,
    /// IPv4 address for BGP; found by itself if absent.
    #[arg(long, env = "IP")]
    ip: Option<String>,
    /// IPv6 address for BGP; without it this host speaks no IPv6 to the others.
    #[arg(long, env = "IP6")]
    ip6: Option<String>,
    /// AS number of this node; the cluster's if absent.
    #[arg(long = "as", env = "AS", value_name = "AS_NUMBER")]
    as_number: Option<String>,
    /// Do not create the default pools (`true` or `false`).
    #[arg(long, env = "NO_DEFAULT_POOLS", num_args = 0..=1, default_missing_value = "true")]
    no_default_pools: Option<String>,
    /// Folder of the log files; `none` for standard error only.
    #[arg(long, env = "CALICO_LOG_DIR", default_value = "/var/log/calico")]
    log_dir: String,
    /// Port of the health answer on localhost.
    #[arg(long, env = "CALICO_HEALTH_PORT", default_value_t = health::DEFAULT_PORT)]
    health_port: u16,
    /// Template of BIRD's configuration that replaces the one built in, if the file exists.
    #[arg(long, env = "CALICO_BIRD_TEMPLATE", default_value = "/etc/calico/confd/templates/bird.cfg.j2")]
    bird_template: PathBuf,
    /// Serve Docker's own networks: `true`, `false`, or `auto`: where Docker is.
    #[arg(long, env = "CALICO_LIBNETWORK", default_value = "auto", num_args = 0..=1, default_missing_value = "true")]
    libnetwork: String,
    /// TCP port of the datastore for other hosts; it is opened by the first `calicoctl node invite`.
    #[arg(long, env = "CALICO_DATASTORE_PORT", default_value_t = 2379)]
    datastore_port: u16,
}

#[derive(Args)]
struct NodeArgs {
    /// Name of this node; the host name if absent.
    #[arg(long, env = "HOSTNAME")]
    name: Option<String>,
    /// Template of BIRD's configuration (confd only).
    #[arg(long, env = "CALICO_BIRD_TEMPLATE", default_value = "/etc/calico/confd/templates/bird.cfg.j2")]
    bird_template: PathBuf,
}

#[derive(Args)]
struct HealthArgs {
    /// Port of the health answer on localhost.
    #[arg(long, env = "CALICO_HEALTH_PORT", default_value_t = health::DEFAULT_PORT)]
    health_port: u16,
    /// `table` or `json`.
    #[arg(short, long, default_value = "table", value_parser = ["table", "json"])]
    output: String,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    init_log();
    let is_agent = matches!(cli.command, Command::Confd(_) | Command::Datastore(_) | Command::Libnetwork { .. });
    match dispatch(cli.command) {
        Ok(code) => code,
        Err(error) => {
            eprint!("{}", in_words(&error));
            if is_agent {
                // The supervisor shows it as the reason why the process ended.
                print_report(&AgentHealth { reason: on_one_line(&error), ..AgentHealth::default() });
            }
            ExitCode::FAILURE
        }
    }
}

/// A failure as calicoctl prints its own, and as it reads it from the container's output: one line each for the
/// error, its causes and the way out, never wrapped.
fn in_words(error: &Report) -> String {
    let mut lines: Vec<String> = Vec::new();
    for cause in error.chain() {
        let label = if lines.is_empty() { "error:" } else { "  cause:" };
        lines.push(format!("{label} {cause}\n"));
    }
    lines.extend(error.help().map(|help| format!("hint: {help}\n")));
    lines.concat()
}

/// The same on one line.
fn on_one_line(error: &Report) -> String {
    let mut words = error.chain().map(ToString::to_string).collect::<Vec<_>>().join(": ");
    if let Some(help) = error.help() {
        words.push_str(&format!(" ({help})"));
    }
    words.replace('\n', " ")
}

fn dispatch(command: Command) -> Result<ExitCode> {
    if let Command::Child { parent, command } = command {
        return Err(child::become_child(parent, &command));
    }
    let work = async {
        match command {
            Command::Run(args) => run::run(args).await,
            Command::Confd(args) => agents::confd(&args).await,
            Command::Libnetwork { name } => libnetwork::libnetwork(name.as_deref()).await,
            Command::Datastore(args) => datastore::datastore(args).await,
            Command::Health(args) => print_health(&args).await,
            Command::Clean => clean::clean().await,
            Command::Child { .. } => unreachable!("handled above"),
        }
    };
    block_on(work).into_diagnostic()?
}

async fn print_health(args: &HealthArgs) -> Result<ExitCode> {
    let health = health::ask(args.health_port).await?;
    if args.output == "json" {
        println!("{}", serde_json::to_string_pretty(&health).into_diagnostic()?);
    } else {
        for component in &health.components {
            let state = match (component.live, component.ready) {
                (true, true) => "ready",
                (true, false) => "not ready",
                (false, _) => "not live",
            };
            println!("{:<10} {:<9} {}", component.name, state, component.reason);
            for problem in &component.problems {
                println!("           problem: {problem}");
            }
        }
    }
    Ok(if health.ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use miette::miette;

    use super::*;

    #[test]
    fn a_failure_is_one_line_each_for_error_cause_and_way_out() {
        let long = "a message that is much longer than eighty columns, so that a terminal would have to wrap it";
        assert_eq!(in_words(&miette!(help = "do this", "{long}")), format!("error: {long}\nhint: do this\n"));
        let error = miette!("deepest").wrap_err("outer");
        assert_eq!(in_words(&error), "error: outer\n  cause: deepest\n");
        assert_eq!(on_one_line(&miette!(help = "do this", "deepest").wrap_err("outer")), "outer: deepest (do this)");
    }
}
