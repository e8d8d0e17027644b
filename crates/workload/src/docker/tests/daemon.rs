//! A Docker daemon of the test's own.

use std::{
    fs,
    process::{Child, Command, Stdio},
};

use crate::tests::support::wait_for;

/// `dockerd` in network and mount namespaces of its own, all its files in a folder that goes with it.
pub(super) struct Daemon {
    process: Child,
    folder: tempfile::TempDir,
}

impl Daemon {
    /// A running daemon with an image `busybox` that has a shell.
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let log = fs::File::create(at("log")).unwrap();
        let process = Command::new("unshare")
            .args(["--net", "--mount", "--propagation", "private", "setpriv", "--pdeathsig", "TERM", "dockerd"])
            .arg(format!("--host=unix://{}", at("socket").display()))
            .arg("--data-root")
            .arg(at("data"))
            .arg("--exec-root")
            .arg(at("exec"))
            .arg("--pidfile")
            .arg(at("pid"))
            .args(["--bridge=none", "--iptables=false", "--storage-driver=vfs", "--log-level=warn"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("unshare of util-linux can be started; tests need root");
        let daemon = Self { process, folder };
        // The daemon unlinks and makes the socket while it starts, so only an answer counts.
        wait_for("the Docker daemon (package docker.io)", || daemon.try_docker("docker version").is_ok());
        daemon.docker(
            "mkdir -p root/bin && cp /bin/busybox root/bin/ && ln -s busybox root/bin/sh &&
             tar -C root -c . | docker import --change 'CMD [\"sh\"]' - busybox",
        );
        daemon
    }

    pub(super) fn host(&self) -> String {
        format!("unix://{}", self.folder.path().join("socket").display())
    }

    pub(super) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Runs a command line in the daemon's folder, with Docker's own client meaning this daemon.
    pub(super) fn docker(&self, line: &str) -> String {
        self.try_docker(line).unwrap_or_else(|words| {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            panic!("{line}: {words}\n{log}")
        })
    }

    fn try_docker(&self, line: &str) -> Result<String, String> {
        let output = Command::new("sh")
            .args(["-c", line])
            .current_dir(self.folder.path())
            .env("DOCKER_HOST", self.host())
            .output()
            .expect("sh can be started");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim().to_owned();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Containers outlive a daemon that is killed, so it is asked to end.
        let _ = self.try_docker("docker ps -aq | xargs -r docker rm -f");
        let _ = Command::new("kill").arg(self.process.id().to_string()).status();
        let _ = self.process.wait();
    }
}
