//! The first part: one host without etcd, with Docker's own network command.
//!
//! The commands are those of the README's first chapter. Every step says what its last command must show.

use std::time::Duration;

use super::screen::Screen;
use crate::error::{LabError, Result};
use crate::host::Host;
use crate::lab::{Lab, LabOptions};

/// What the last command of a step must do.
#[derive(Clone, Copy)]
enum Ends {
    /// Succeed.
    Well,
    /// Say that the packet is denied (`calicoctl why` ends with 3 then).
    Denied,
}

struct Step {
    title: &'static str,
    about: &'static str,
    commands: &'static [&'static str],
    ends: Ends,
}

const STEPS: [Step; 4] = [
    Step {
        title: "Start Calico",
        about: "No etcd anywhere: this host keeps the datastore itself.",
        commands: &["calicoctl node"],
        ends: Ends::Well,
    },
    Step {
        title: "A network, and two containers with labels",
        about: "Docker asks calico-node for addresses and interfaces. Members of a network reach each other by name.",
        commands: &[
            "docker network create -d calico --ipam-driver calico-ipam app",
            "docker run -d --net app --name web --label org.projectcalico.label.role=web busybox sleep 86400",
            "docker run -d --net app --name db --label org.projectcalico.label.role=db busybox sleep 86400",
            "docker exec web ping -c 1 -W 5 db",
        ],
        ends: Ends::Well,
    },
    Step {
        title: "A policy by labels",
        about: "From now on the database takes TCP 5432 from web servers, and nothing else.",
        commands: &[
            "calicoctl apply -f - <<'END'\n\
             apiVersion: projectcalico.org/v3\n\
             kind: GlobalNetworkPolicy\n\
             metadata: {name: db}\n\
             spec:\n  \
               selector: role == 'db'\n  \
               types: [Ingress]\n  \
               ingress:\n  \
               - {action: Allow, protocol: TCP, source: {selector: role == 'web'}, destination: {ports: [5432]}}\n\
             END",
            "calicoctl why web db tcp 5432",
        ],
        ends: Ends::Well,
    },
    Step {
        title: "Ask why something does not work",
        about: "The rule that decides, and the smallest change that would turn it around.",
        commands: &["calicoctl why web db tcp 22"],
        ends: Ends::Denied,
    },
];

/// The exit code of `calicoctl why` for what is denied.
const DENIED: i32 = 3;

/// Plays it on a host of its own, which is gone afterwards.
///
/// # Errors
/// The host cannot be raised, or a step does not end as it should.
pub(super) fn play(screen: &Screen, options: &LabOptions) -> Result<()> {
    let options = LabOptions { name: None, segments: vec![0], etcd: None, keep: false, ..options.clone() };
    let lab = screen.progress("raising one host with Docker and no etcd", || Lab::up(&options.with_node_image()))?;
    for (index, step) in STEPS.iter().enumerate() {
        screen.heading(index + 1, step.title, step.about);
        run(screen, lab.host(1), step).map_err(|error| super::failed(&lab, index + 1, step.title, error))?;
    }
    screen.line("");
    screen.good("One host does what it promises. Now two, with etcd:");
    screen.line("");
    lab.down()
}

fn run(screen: &Screen, host: &Host, step: &Step) -> Result<()> {
    for (index, command) in step.commands.iter().enumerate() {
        screen.typed(host.name(), command);
        let output = host.command(command).limit(Duration::from_secs(180)).output()?;
        screen.printed(&output.text());
        let is_last = index + 1 == step.commands.len();
        match step.ends {
            Ends::Denied if is_last && output.code() == Some(DENIED) => {}
            Ends::Denied if is_last => {
                return Err(LabError::Broken(format!("`{command}` does not say that it is denied")));
            }
            _ => drop(output.ok()?),
        }
    }
    Ok(())
}
