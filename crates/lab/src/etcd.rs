//! The datastore of a lab: a real etcd on the switch, reachable by all hosts, with its life in the hands of the test.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::address::Place;
use crate::error::{Context, LabError, Result};
use crate::host::Host;
use crate::root::HostFile;
use crate::state::EtcdMode;
use crate::wait::wait_until;

/// Where hosts find the certificates when the lab's etcd wants them.
const CERTIFICATES: &str = "/etc/calico/certs";

/// Answers health questions without TLS, on the switch itself only.
const HEALTH_PORT: u16 = 2381;

const START_LIMIT: Duration = Duration::from_secs(60);

/// Handle on the lab's etcd.
#[derive(Clone, Copy, Debug)]
pub struct Etcd<'a> {
    pub(crate) switch: &'a Host,
    pub(crate) mode: EtcdMode,
}

impl Etcd<'_> {
    /// The value of `ETCD_ENDPOINTS` for all hosts.
    pub fn endpoints(&self) -> String {
        endpoints(self.mode)
    }

    /// Starts it without waiting. Its data survive a stop and a kill, but not the lab.
    pub(crate) fn launch(&self) -> Result<()> {
        let port = |scheme| format!("{scheme}://0.0.0.0:2379");
        let listen = port(scheme(self.mode));
        let tls = match self.mode {
            EtcdMode::Plain => String::new(),
            EtcdMode::Tls => format!(
                " --client-cert-auth --trusted-ca-file {CERTIFICATES}/ca.pem \
                 --cert-file {CERTIFICATES}/server.pem --key-file {CERTIFICATES}/server-key.pem"
            ),
        };
        self.switch.start_daemon(
            "etcd",
            &format!(
                "etcd --name lab --data-dir /var/lib/calico-lab-etcd --logger zap --log-outputs stderr \
                 --listen-client-urls {listen} --advertise-client-urls {endpoints} \
                 --listen-metrics-urls http://127.0.0.1:{HEALTH_PORT} \
                 --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 \
                 --initial-cluster lab=http://127.0.0.1:2380{tls}",
                endpoints = self.endpoints(),
            ),
        )
    }

    /// Waits until it says that it is healthy.
    pub(crate) fn wait(&self) -> Result<()> {
        wait_until(START_LIMIT, "an answer of etcd", || self.is_healthy())
    }

    /// Starts it and waits until it is healthy.
    ///
    /// # Errors
    /// It does not come up.
    pub fn start(&self) -> Result<()> {
        self.launch()?;
        self.wait()
    }

    /// Stops it in order and waits for its end.
    ///
    /// # Errors
    /// It does not end.
    pub fn stop(&self) -> Result<()> {
        self.switch.signal_daemon("etcd", "TERM", true)
    }

    /// Ends it with `kill -9`.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&self) -> Result<()> {
        self.switch.signal_daemon("etcd", "KILL", true)
    }

    /// Lets it hang: connections stay, answers do not come. [`Etcd::resume`] ends this.
    ///
    /// # Errors
    /// It does not run.
    pub fn pause(&self) -> Result<()> {
        self.switch.signal_daemon("etcd", "STOP", false)?;
        // On a busy machine a thread may still run for a while before it takes notice.
        let stopped = "! grep -h ^State: /proc/$(cat /run/etcd.pid)/task/*/status | grep -qv 'T (stopped)'";
        wait_until(Duration::from_secs(30), "all threads of etcd to stop", || {
            self.switch.command(stopped).output().is_ok_and(|output| output.success())
        })
    }

    /// Lets it go on after [`Etcd::pause`].
    ///
    /// # Errors
    /// It does not run.
    pub fn resume(&self) -> Result<()> {
        self.switch.signal_daemon("etcd", "CONT", false)
    }

    /// Whether it has a leader and answers.
    pub fn is_healthy(&self) -> bool {
        let ask = || -> std::io::Result<bool> {
            let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, HEALTH_PORT))?;
            socket.set_read_timeout(Some(Duration::from_secs(5)))?;
            socket.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            socket.read_to_string(&mut answer)?;
            Ok(answer.contains(r#""health":"true""#))
        };
        self.switch.in_network(|| ask().context(|| "ask etcd for its health".into())).unwrap_or(false)
    }

    /// Runs etcd's own client, independent of our code, with these arguments.
    ///
    /// # Errors
    /// It fails.
    pub fn ctl(&self, arguments: &str) -> Result<String> {
        let tls = match self.mode {
            EtcdMode::Plain => String::new(),
            EtcdMode::Tls => format!(
                " --cacert {CERTIFICATES}/ca.pem --cert {CERTIFICATES}/client.pem --key {CERTIFICATES}/client-key.pem"
            ),
        };
        let command = format!("etcdctl --endpoints {}{tls} {arguments}", self.endpoints());
        self.switch.command(&command).env("ETCDCTL_API", "3").output()?.ok()
    }

    /// The keys that start with `prefix`, sorted.
    ///
    /// # Errors
    /// etcd does not answer.
    pub fn keys(&self, prefix: &str) -> Result<Vec<String>> {
        let text = self.ctl(&format!("get --prefix --keys-only '{prefix}'"))?;
        Ok(text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect())
    }

    /// The value of a key, or nothing when the key is not there.
    ///
    /// # Errors
    /// etcd does not answer.
    pub fn get(&self, key: &str) -> Result<Option<String>> {
        // The key comes first, so that an empty value and a missing key can be told apart.
        let text = self.ctl(&format!("get '{key}'"))?;
        Ok(text.split_once('\n').map(|(_, value)| value.strip_suffix('\n').unwrap_or(value).to_owned()))
    }

    /// Writes a key behind everybody's back.
    ///
    /// # Errors
    /// etcd does not answer.
    pub fn put(&self, key: &str, value: &str) -> Result<()> {
        let value = value.replace('\'', r"'\''");
        self.ctl(&format!("put '{key}' -- '{value}'")).map(drop)
    }
}

fn scheme(mode: EtcdMode) -> &'static str {
    match mode {
        EtcdMode::Plain => "http",
        EtcdMode::Tls => "https",
    }
}

fn endpoints(mode: EtcdMode) -> String {
    format!("{}://{}:2379", scheme(mode), Place::router(0).ipv4())
}

/// The variables by which a host's commands find the datastore.
pub(crate) fn environment(mode: EtcdMode) -> Vec<(String, String)> {
    let mut variables = vec![("ETCD_ENDPOINTS".to_owned(), endpoints(mode))];
    if mode == EtcdMode::Tls {
        for (name, file) in
            [("ETCD_CA_CERT_FILE", "ca.pem"), ("ETCD_CERT_FILE", "client.pem"), ("ETCD_KEY_FILE", "client-key.pem")]
        {
            variables.push((name.to_owned(), format!("{CERTIFICATES}/{file}")));
        }
    }
    variables
}

/// An authority of the lab's own with a certificate for etcd and one for its clients.
pub(crate) struct Certificates {
    dir: PathBuf,
}

impl Certificates {
    /// Makes them in the lab's folder.
    pub(crate) fn make(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir).context(|| format!("make {}", dir.display()))?;
        let router = Place::router(0);
        let alternatives = format!("IP:{},IP:{},IP:127.0.0.1,DNS:etcd", router.ipv4(), router.ipv6());
        let own = Self { dir: dir.to_owned() };
        own.openssl(&[
            &["req", "-x509", "-subj", "/CN=calico-lab authority", "-out", "ca.pem"],
            &NEW_KEY[..],
            &["-keyout", "ca-key.pem"],
        ])?;
        for (name, usage) in
            [("server", format!("subjectAltName={alternatives}")), ("client", "keyUsage=digitalSignature".into())]
        {
            own.openssl(&[
                &["req", "-x509", "-CA", "ca.pem", "-CAkey", "ca-key.pem", "-addext", &usage],
                &["-addext", "basicConstraints=critical,CA:FALSE"],
                &["-subj", &format!("/CN={name}"), "-out", &format!("{name}.pem")],
                &NEW_KEY[..],
                &["-keyout", &format!("{name}-key.pem")],
            ])?;
        }
        Ok(own)
    }

    /// The files that a host gets; only the switch has the server's key.
    pub(crate) fn files(&self, with_server_key: bool) -> Result<Vec<HostFile>> {
        let mut names = vec!["ca.pem", "client.pem", "client-key.pem"];
        if with_server_key {
            names.extend(["server.pem", "server-key.pem"]);
        }
        names
            .into_iter()
            .map(|name| {
                let text = std::fs::read_to_string(self.dir.join(name)).context(|| format!("read {name}"))?;
                let mode = if name.ends_with("key.pem") { 0o600 } else { 0o644 };
                Ok(HostFile::new(Path::new(CERTIFICATES).join(name), mode, text))
            })
            .collect()
    }

    fn openssl(&self, arguments: &[&[&str]]) -> Result<()> {
        let output = Command::new("openssl").args(arguments.concat()).current_dir(&self.dir).output();
        let output = output.map_err(|_| LabError::MissingProgram { program: "openssl", package: "openssl" })?;
        if output.status.success() {
            return Ok(());
        }
        Err(LabError::Command {
            host: "this machine".to_owned(),
            command: format!("openssl {}", arguments.concat().join(" ")),
            outcome: output.status.to_string(),
            output: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}

const NEW_KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc"];
