//! Namespaces that end with the test, and tools to look into them that share no code with what is tested.

use std::{
    net::IpAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nlink::netlink::namespace::{NamespaceGuard, enter_path};

use crate::{Attachment, NetnsRef};

/// A network namespace, held by a process of its own.
pub(crate) struct Namespace {
    holder: Child,
}

impl Namespace {
    pub(crate) fn new() -> Self {
        // The holder ends with this thread even if the test is killed.
        let holder = Command::new("unshare")
            .args(["--net", "setpriv", "--pdeathsig", "KILL", "sleep", "infinity"])
            .stdin(Stdio::null())
            .spawn()
            .expect("unshare of util-linux can be started; tests need root");
        let namespace = Self { holder };
        let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        wait_for("a namespace of its own", || {
            let asleep = std::fs::read_to_string(format!("/proc/{}/comm", namespace.pid())).unwrap() == "sleep\n";
            asleep && std::fs::read_link(namespace.path()).is_ok_and(|theirs| theirs != own)
        });
        namespace.run("ip link set lo up");
        namespace
    }

    pub(crate) fn pid(&self) -> i32 {
        self.holder.id() as i32
    }

    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.pid()).into()
    }

    pub(crate) fn at(&self) -> NetnsRef {
        NetnsRef::Pid(self.pid())
    }

    /// Runs a command line inside and returns what it prints.
    pub(crate) fn run(&self, line: &str) -> String {
        self.try_run(line).unwrap_or_else(|words| panic!("{line}: {words}"))
    }

    pub(crate) fn try_run(&self, line: &str) -> Result<String, String> {
        let output = Command::new("nsenter")
            .arg(format!("--net={}", self.path().display()))
            .args(["sh", "-c", line])
            .output()
            .expect("nsenter of util-linux can be started");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr) + &text(output.stdout)) }
    }

    /// One packet there and one back, at once: nothing may have to be learnt or detected first.
    pub(crate) fn pings(&self, address: &str) -> bool {
        self.try_run(&format!("ping -n -c 1 -W 2 {address}")).is_ok()
    }

    /// The settings that attaching touches, as text.
    pub(crate) fn settings(&self) -> String {
        self.run("sysctl -a | sed -n '/disable_ipv6/p; /accept_dad/p'")
    }

    /// Everything else that attaching touches, as text.
    pub(crate) fn state(&self) -> String {
        [
            "ip -d -o addr | sed '/inet6 fe80/d; s/[^ ]*lft [^ ]*//g'",
            "ip -d -o link | sed 's/ numtxqueues.*//'",
            "ip -d -4 route show table all",
            "ip -d -6 route show table all | sed '/fe80/d; /ff00/d'",
            "ip neigh show nud permanent",
        ]
        .map(|line| self.run(line))
        .join("---\n")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// A host: this thread is inside its namespace while the value lives.
pub(crate) struct Host {
    // Left before the namespace ends.
    _inside: NamespaceGuard,
    pub(crate) namespace: Namespace,
}

impl Host {
    /// With an uplink of MTU 1400, addresses 10.5.0.1 and fd05::1, a default route, and forwarding.
    pub(crate) fn new() -> Self {
        let namespace = Namespace::new();
        namespace.run(
            "ip link add eth0 mtu 1400 type veth peer name uplink mtu 1400 &&
             ip addr add 10.5.0.1/24 dev eth0 && ip addr add fd05::1/64 dev eth0 nodad &&
             ip link set eth0 up && ip link set uplink up &&
             ip route add default via 10.5.0.254 &&
             sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
        );
        Self { _inside: enter_path(namespace.path()).expect("root may enter a namespace"), namespace }
    }

    /// The routes that an agent would add for the workload's addresses.
    pub(crate) fn route(&self, attachment: &Attachment) {
        for address in &attachment.addresses {
            self.route_to(*address, &attachment.host_interface);
        }
    }

    pub(crate) fn route_to(&self, address: IpAddr, interface: &str) {
        let family = if address.is_ipv4() { "-4" } else { "-6" };
        self.namespace.run(&format!("ip {family} route add {address} dev {interface}"));
    }
}

/// Like a container on Docker's default bridge: eth0 with a default route of metric 0, IPv6 switched off.
pub(crate) fn docker_container(host: &Host, number: u8) -> Namespace {
    let container = Namespace::new();
    let (pid, peer) = (container.pid(), format!("dk{number}"));
    host.namespace.run(&format!(
        "ip link add {peer} type veth peer name eth0 netns {pid} &&
         ip addr add 172.17.{number}.1/24 dev {peer} && ip link set {peer} up"
    ));
    container.run(&format!(
        "sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1 &&
         ip addr add 172.17.{number}.2/24 dev eth0 && ip link set eth0 up &&
         ip route add default via 172.17.{number}.1 dev eth0 src 172.17.{number}.2 mtu 1300"
    ));
    container
}

pub(crate) fn attachment(host_interface: &str, container_interface: &str, addresses: &[&str]) -> Attachment {
    Attachment {
        host_interface: host_interface.into(),
        container_interface: container_interface.into(),
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        gateway4: Some([10, 5, 0, 1].into()),
        gateway6: None,
        mtu: None,
    }
}

/// Waits until `condition` holds; fails after ten seconds.
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Runs on this thread, which is the one inside the host's namespace.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}
