//! Reading and changing the real kernel, in namespaces of the test's own.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nlink::netlink::namespace::{NamespaceGuard, enter_path};

use crate::{
    Request, StartupError, address, check_bgp_port, enable_forwarding,
    host::{Host, ThisHost},
};

/// A network namespace, held by a process of its own; this thread is inside while the value lives.
struct Inside {
    // Left before the namespace ends.
    _guard: NamespaceGuard,
    _holder: Holder,
}

struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Inside {
    fn new() -> Self {
        let holder = Command::new("unshare")
            .args(["--net", "setpriv", "--pdeathsig", "KILL", "sleep", "infinity"])
            .stdin(Stdio::null())
            .spawn()
            .expect("unshare of util-linux can be started; tests need root");
        let holder = Holder(holder);
        let process = format!("/proc/{}", holder.0.id());
        let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        wait_for("a namespace", || {
            let asleep = std::fs::read_to_string(format!("{process}/comm")).unwrap() == "sleep\n";
            asleep && std::fs::read_link(format!("{process}/ns/net")).is_ok_and(|theirs| theirs != own)
        });
        let guard = enter_path(format!("{process}/ns/net")).expect("root may enter a namespace");
        run("ip link set lo up");
        Self { _guard: guard, _holder: holder }
    }
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn run(line: &str) -> String {
    let output = Command::new("sh").args(["-c", line]).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn detected(request: &Request) -> Result<String, StartupError> {
    let interfaces = block_on(ThisHost.interfaces())?;
    address::settle(request, &interfaces).map(|found| found.to_string())
}

#[test]
fn the_hosts_address_is_read_from_the_kernel() {
    let _inside = Inside::new();
    let request = Request::default();
    assert!(matches!(detected(&request), Err(StartupError::NoAddress { .. })));

    run("ip link add veth0 type veth peer name eth1 && ip addr add 10.6.0.1/16 dev eth1 && ip link set eth1 up");
    let error = detected(&request).expect_err("the other end is down, so the interface has no carrier");
    assert!(error.to_string().contains("eth1 is down"), "{error}");
    run("ip link set veth0 up");
    assert_eq!(detected(&request).unwrap(), "10.6.0.1/16 (detected: first address, of eth1)");

    run("ip link add veth2 type veth peer name eth2 && ip link set veth2 up && ip link set eth2 up &&
         ip addr add 10.7.0.1/24 dev eth2 && ip addr add 10.7.0.2/24 dev eth2 && ip addr add fd07::1/64 dev eth2 nodad &&
         ip route add blackhole default metric 5 && ip route add default via 10.7.0.254 metric 10");
    assert_eq!(detected(&request).unwrap(), "10.7.0.1/24 (detected: eth2 has the default route)");
    run("ip route add default via 10.7.0.254 src 10.7.0.2");
    assert_eq!(detected(&request).unwrap(), "10.7.0.2/24 (detected: eth2 has the default route)");
    let given = Request { ip: Some([10, 6, 0, 1].into()), ip6: Some("fd07::1".parse().unwrap()), ..Request::default() };
    assert_eq!(detected(&given).unwrap(), "10.6.0.1/16 (given, of eth1) and fd07::1/64");
    assert!(ThisHost.has_ipv6());
}

#[test]
fn forwarding_is_switched_on_and_router_advertisements_stay_heard() {
    let _inside = Inside::new();
    run("sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0 &&
         for i in 0 1; do ip link add eth$i type veth peer name peer$i && ip link set eth$i up && ip link set peer$i up &&
         sysctl -qw net.ipv6.conf.eth$i.accept_ra=1; done;
         ip -6 route add default via fe80::1 dev eth0 proto ra metric 1024 expires 600 &&
         ip -6 route add default via fe80::1 dev eth1 metric 2000");
    let warnings = block_on(enable_forwarding()).unwrap();
    assert_eq!(run("sysctl -n net.ipv4.ip_forward net.ipv6.conf.all.forwarding"), "1\n1");
    assert_eq!(run("sysctl -n net.ipv6.conf.eth0.accept_ra net.ipv6.conf.eth1.accept_ra"), "2\n1");
    assert_eq!(warnings.iter().filter(|warning| warning.message.contains("accept_ra")).count(), 1, "{warnings:?}");

    let again = block_on(enable_forwarding()).unwrap();
    assert!(!again.iter().any(|warning| warning.message.contains("accept_ra")), "{again:?}");
}

#[test]
fn bgps_port_is_free_or_its_holder_is_named() {
    let _inside = Inside::new();
    check_bgp_port().unwrap();
    for address in ["127.0.0.1:179", "[::1]:179"] {
        let listener = TcpListener::bind(address).unwrap();
        let error = check_bgp_port().expect_err("this test listens");
        let StartupError::PortTaken { port, address: found, holder } = &error else { panic!("{error}") };
        assert_eq!((*port, format!("{found}")), (179, listener.local_addr().unwrap().ip().to_string()));
        assert!(holder.contains(&format!("process {}", std::process::id())), "{holder}");
        assert!(error.way_out().is_some());
    }
    check_bgp_port().unwrap();
}

#[test]
fn only_our_own_bird_may_have_bgps_port() {
    let _inside = Inside::new();
    let folder = tempfile::tempdir().unwrap();
    for (name, ours) in [("elsewhere", false), ("calico", true)] {
        let at = folder.path().join(name);
        std::fs::create_dir(&at).unwrap();
        std::fs::write(
            at.join("bird.cfg"),
            "router id 10.0.0.1; protocol device {} protocol bgp { ipv4 {}; local 127.0.0.1 as 1; neighbor 127.0.0.2 as 1; }",
        )
        .unwrap();
        let program = crate::find_bird().expect("BIRD of the package bird2");
        let bird = Command::new(program)
            .arg("-f")
            .arg("-c")
            .arg(at.join("bird.cfg"))
            .arg("-s")
            .arg(at.join("bird.ctl"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let _bird = Holder(bird);
        wait_for("BIRD to listen", || !run("ss -Hlnt 'sport = 179'").is_empty());
        let checked = check_bgp_port();
        assert_eq!(checked.is_ok(), ours, "{checked:?}");
        if let Err(error) = checked {
            assert!(error.to_string().contains("bird (process"), "{error}");
        }
    }
}
