//! Played: first one host without etcd, then the walk-through on two hosts. Every command as it is typed, and after each
//! what it did.
//!
//! It is a demonstration that checks itself. After every step it waits for what the step promises, and asks all
//! containers to ping each other: a pair that talks too early fails it just as one that does not talk in the end.

mod alone;
mod observe;
mod screen;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::error::{LabError, Result};
use crate::lab::{Lab, LabOptions};
use crate::matrix::Matrix;
use crate::state;
use crate::wait::wait_for;
use observe::Facts;
use screen::Screen;

/// Name of the lab that is played on, unless the options name one.
pub const LAB: &str = "quickstart";

/// How long what a step promises may take. It takes a second or two; the rest is for a busy machine.
const SETTLE: Duration = Duration::from_secs(60);

/// How long a container that must not be reached is asked before that counts as shown.
const SILENCE: Duration = Duration::from_millis(800);

/// A step of the walk-through.
struct Step {
    title: &'static str,
    /// What it is about, for people who see it for the first time.
    about: &'static str,
    /// Number of the host, and the command as typed there.
    commands: &'static [(usize, &'static str)],
    /// What must come true before the step counts as done.
    promise: Promise,
}

/// What a step brings about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Promise {
    /// The hosts exchange routes.
    Sessions,
    /// The containers run.
    Containers,
    /// Both hosts know the way to both containers, and no container reaches the other.
    RoutesButNoPing,
    /// Both containers reach each other.
    Ping,
}

const STEPS: [Step; 6] = [
    Step {
        title: "Start Calico on both hosts",
        about: "Each host runs the container calico-node: felix programs the kernel, BIRD tells the other hosts.",
        commands: &[(1, "calicoctl node"), (2, "calicoctl node")],
        promise: Promise::Sessions,
    },
    Step {
        title: "Start a container on each host",
        about: "Docker gives them no network at all.",
        commands: &[
            (1, "docker run --net=none --name=workload_A -tid ubuntu"),
            (2, "docker run --net=none --name=workload_B -tid ubuntu"),
        ],
        promise: Promise::Containers,
    },
    Step {
        title: "Connect them",
        about: "Each gets a routed address of its own. Without a profile nothing passes yet, in or out.",
        commands: &[(1, "calicoctl container add workload_A"), (2, "calicoctl container add workload_B")],
        promise: Promise::RoutesButNoPing,
    },
    Step {
        title: "Create a profile",
        about: "A profile lets its own members in, and everything out. It has no members yet.",
        commands: &[(1, "calicoctl profile add PROF_A_B")],
        promise: Promise::RoutesButNoPing,
    },
    Step {
        title: "Put the first container into it",
        about: "One member alone has nobody to talk to.",
        commands: &[(1, "calicoctl container workload_A profile set PROF_A_B")],
        promise: Promise::RoutesButNoPing,
    },
    Step {
        title: "Put the second container into it",
        about: "Now, and only now, they can talk.",
        commands: &[(2, "calicoctl container workload_B profile set PROF_A_B")],
        promise: Promise::Ping,
    },
];

/// The containers of the walk-through and the numbers of their hosts.
const WORKLOADS: [(usize, &str); 2] = [(1, "workload_A"), (2, "workload_B")];

/// Plays one host without etcd, then raises a lab of two hosts and plays the walk-through on it. With `keep`, the lab stays up, also after a failure, and
/// takes the place of one that was played on before.
///
/// # Errors
/// The lab cannot be raised, a command fails, or a step does not keep its promise; the message says which step, and
/// where the state of the hosts was written down.
pub fn play(options: &LabOptions) -> Result<()> {
    let screen = Screen::new();
    let start = Instant::now();
    alone::play(&screen, options)?;
    let name = options.name.clone().unwrap_or_else(|| LAB.to_owned());
    if state::list()?.contains(&name) {
        screen.progress("removing the hosts of the last time", || state::remove(&name))?;
    }
    let options = LabOptions { name: Some(name), segments: vec![0; 2], ..options.clone() }.with_node_image();
    let lab = screen.progress("raising two hosts with Docker and etcd, loading the images", || Lab::up(&options))?;
    for host in lab.hosts() {
        screen.fact(host.name(), &format!("{}, {}", host.ipv4(), host.ipv6()));
    }
    screen.fact("etcd", &lab.etcd().endpoints());

    let mut player = Player { facts: Facts::gather(&lab)?, lab: &lab, screen: &screen };
    for (index, step) in STEPS.iter().enumerate() {
        player.play(index + 1, step).map_err(|error| failed(&lab, index + 1, step.title, error))?;
    }
    screen.line("");
    screen.good(&format!(
        "All {} steps did what they promise, in {:.0} s.",
        STEPS.len(),
        start.elapsed().as_secs_f64()
    ));
    if options.keep {
        screen.farewell(&lab);
    }
    Ok(())
}

struct Player<'a> {
    lab: &'a Lab,
    screen: &'a Screen,
    facts: Facts,
}

impl Player<'_> {
    fn play(&mut self, number: usize, step: &Step) -> Result<()> {
        self.screen.heading(number, step.title, step.about);
        for &(host, command) in step.commands {
            let host = self.lab.host(host);
            self.screen.typed(host.name(), command);
            let output = host.command(command).limit(Duration::from_secs(180)).output()?;
            self.screen.printed(&output.text());
            output.ok()?;
        }
        let matrix = self.keep(step.promise)?;
        let facts = Facts::gather(self.lab)?;
        self.screen.line("");
        self.screen.changes(&facts.changes_since(&self.facts));
        if let Some(matrix) = matrix {
            self.screen.matrix(&matrix);
        }
        self.facts = facts;
        Ok(())
    }

    /// Waits until the promise holds, and makes sure that nothing more than the promise holds.
    fn keep(&self, promise: Promise) -> Result<Option<Matrix>> {
        match promise {
            Promise::Sessions => {
                let others = self.lab.hosts().len() - 1;
                wait_for(SETTLE, "a BGP session between the hosts", || {
                    self.lab.hosts().iter().try_for_each(|host| {
                        let sessions = observe::sessions(host);
                        let up = sessions.iter().filter(|session| session.is_established()).count();
                        if up >= others { Ok(()) } else { Err(format!("{}: {sessions:?}", host.name())) }
                    })
                })?;
                Ok(None)
            }
            Promise::Containers => {
                for (host, name) in WORKLOADS {
                    self.lab.host(host).container_network(name)?;
                }
                Ok(None)
            }
            Promise::RoutesButNoPing => {
                self.wait_for_routes()?;
                let matrix = self.ask_everybody(SILENCE)?;
                match matrix.answers().iter().find(|answer| answer.answered) {
                    Some(answer) => Err(LabError::Broken(format!("{} reaches {} already", answer.from, answer.to))),
                    None => Ok(Some(matrix)),
                }
            }
            Promise::Ping => wait_for(SETTLE, "an answer to every ping", || {
                let matrix = self.ask_everybody(SILENCE).map_err(|error| error.to_string())?;
                match matrix.answers().iter().find(|answer| !answer.answered) {
                    Some(answer) => Err(format!("{} does not reach {} ({})", answer.from, answer.to, answer.address)),
                    None => Ok(Some(matrix)),
                }
            }),
        }
    }

    /// Every host must have a way to every container: through the container's interface, or by the other host.
    fn wait_for_routes(&self) -> Result<()> {
        for (host, name) in WORKLOADS {
            let own = self.lab.host(host);
            for address in self.addresses(host, name)? {
                for other in self.lab.hosts() {
                    let via = if other.name() == own.name() { "dev cali".to_owned() } else { own.ipv4().to_string() };
                    let what = format!("a route to {name} ({address}) on {}", other.name());
                    wait_for(SETTLE, &what, || {
                        let route = other.command(&format!("ip route get {address}")).output();
                        let route = route.map_err(|error| error.to_string())?.text();
                        if route.contains(&via) { Ok(()) } else { Err(route) }
                    })?;
                }
            }
        }
        Ok(())
    }

    fn addresses(&self, host: usize, name: &str) -> Result<Vec<IpAddr>> {
        let addresses = self.lab.host(host).container_addresses(name)?;
        if addresses.is_empty() {
            return Err(LabError::Broken(format!("{name} has no address")));
        }
        Ok(addresses)
    }

    fn ask_everybody(&self, limit: Duration) -> Result<Matrix> {
        Matrix::ask(&WORKLOADS.map(|(host, name)| (self.lab.host(host), name)), limit)
    }
}

/// Writes down the state of the hosts and says which step failed.
fn failed(lab: &Lab, number: usize, title: &'static str, error: LabError) -> LabError {
    let dir: PathBuf = lab.binaries().parent().unwrap_or(lab.binaries()).join("lab-dumps").join(lab.name());
    let dump = match lab.dump(&dir) {
        Ok(()) => format!("the state of the hosts is in {}", dir.display()),
        Err(error) => format!("the state of the hosts could not be written down: {error}"),
    };
    LabError::StepFailed { number, title, error: Box::new(error), dump }
}
