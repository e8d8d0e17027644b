//! Docker on a host: the daemon in stock configuration, images without a registry, the network of a container.

use std::fs::File;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::error::{Context, LabError, Result};
use crate::host::Host;
use crate::namespace::in_network;
use crate::wait::wait_until;

/// `dockerd` is up in about a second; on a busy machine with two cores for everything it may take much longer.
const START_LIMIT: Duration = Duration::from_secs(60);

impl Host {
    /// Starts the Docker daemon as it comes: bridge, iptables and its own containerd. Does not wait for it.
    pub(crate) fn launch_docker(&self) -> Result<()> {
        self.start_daemon("dockerd", "dockerd")
    }

    /// Waits until the Docker daemon answers.
    ///
    /// # Errors
    /// It does not within a minute; the message has the end of its log.
    pub fn wait_for_docker(&self) -> Result<()> {
        wait_until(START_LIMIT, &format!("an answer of Docker on {}", self.name()), || self.docker_answers()).map_err(
            |error| match error {
                LabError::TimedOut { what, after, .. } => {
                    let log = self.read("/var/log/dockerd.log").unwrap_or_default();
                    let tail: Vec<_> = log.lines().rev().take(10).collect();
                    let detail = tail.into_iter().rev().fold(String::new(), |text, line| text + "\n" + line);
                    LabError::TimedOut { what, after, detail }
                }
                other => other,
            },
        )
    }

    /// Starts the Docker daemon and waits until it answers.
    ///
    /// # Errors
    /// It does not come up.
    pub fn start_docker(&self) -> Result<()> {
        self.launch_docker()?;
        self.wait_for_docker()
    }

    /// Stops the Docker daemon, and with it all containers, as a service manager would.
    ///
    /// # Errors
    /// It does not end.
    pub fn stop_docker(&self) -> Result<()> {
        self.signal_daemon("dockerd", "TERM", true)
    }

    /// Asks the daemon's own health question.
    fn docker_answers(&self) -> bool {
        self.docker_has("/_ping")
    }

    /// Whether the daemon answers a request with success; without the cost of starting Docker's client.
    pub(crate) fn docker_has(&self, what: &str) -> bool {
        let ask = || -> std::io::Result<String> {
            let mut socket = UnixStream::connect(self.path("/run/docker.sock"))?;
            socket.set_read_timeout(Some(Duration::from_secs(5)))?;
            write!(socket, "GET {what} HTTP/1.0\r\nHost: docker\r\n\r\n")?;
            let mut answer = String::new();
            socket.read_to_string(&mut answer)?;
            Ok(answer)
        };
        ask().is_ok_and(|answer| answer.split(' ').nth(1) == Some("200"))
    }

    /// Loads an image archive of the machine into the host's Docker.
    ///
    /// # Errors
    /// The file cannot be read, or Docker refuses it.
    pub fn load_image(&self, archive: &Path) -> Result<()> {
        let file = File::open(archive).context(|| format!("open {}", archive.display()))?;
        self.command("docker load --quiet").stdin(file).output()?.ok()?;
        Ok(())
    }

    /// The open network namespace of a running container.
    ///
    /// # Errors
    /// There is no such container, or it does not run.
    pub fn container_network(&self, container: &str) -> Result<File> {
        let answer = self.command(&format!("docker inspect -f '{{{{.State.Pid}}}}' {container}")).output()?.ok()?;
        // Docker says a process id of the host's own namespace; the host's /proc knows it.
        let path = self.path(format!("/proc/{}/ns/net", answer.trim()));
        File::open(&path).context(|| format!("open the network of the container {container} on {}", self.name()))
    }

    /// Addresses of global scope that a running container has, in both families.
    ///
    /// # Errors
    /// There is no such container, or it does not run.
    pub fn container_addresses(&self, container: &str) -> Result<Vec<IpAddr>> {
        let lines = self.in_container(container, &["ip", "-o", "addr", "show", "scope", "global"])?;
        // Columns: number, interface, family, address with prefix length, …
        let address = |line: &str| line.split_whitespace().nth(3)?.split('/').next()?.parse().ok();
        Ok(lines.lines().filter_map(address).collect())
    }

    /// Runs a program of the machine, such as `ip`, in the network of a running container.
    ///
    /// # Errors
    /// There is no such container, it does not run, or the program fails.
    pub fn in_container(&self, container: &str, command: &[&str]) -> Result<String> {
        let what = || format!("run {command:?} in the network of {container}");
        let (program, arguments) = command.split_first().expect("a command has a program");
        let netns = self.container_network(container)?;
        let output = in_network(&netns, || Command::new(program).args(arguments).output().context(what))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(LabError::Command {
            host: self.name().to_owned(),
            command: format!("{} (in the network of {container})", command.join(" ")),
            outcome: output.status.to_string(),
            output: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}
