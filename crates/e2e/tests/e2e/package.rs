//! The Debian package on a Debian machine with a real systemd, without Docker and without etcd: from `apt install` to
//! `apt purge`, and what the unit may do.

#![allow(clippy::unwrap_used)]

use std::process::{Child, Stdio};

use calico_e2e::{
    debian::{Installed, Machine, package},
    readme,
};

#[test]
fn a_debian_host_from_install_to_purge() {
    let machine = Machine::boot(Installed::Base);
    let before = strangers(&machine);
    machine.put(&package("0.1.0"));
    installing_changes_nothing_that_runs(&machine);
    a_start_that_fails_says_why_and_leaves_nothing(&machine);
    one_command_makes_it_a_node(&machine);
    let workloads = Workloads::add(&machine);
    workloads.undisturbed("a second `calicoctl node`", || {
        let said = machine.ok("calicoctl node --as=64555");
        assert!(said.contains("Restarting the unit") && said.contains("Calico node started successfully"), "{said}");
        assert!(machine.ok("cat /etc/calico/calico.env").contains("\nAS=64555\n"));
    });
    workloads.undisturbed("the upgrade", || {
        let process = machine.ok("systemctl show --property=MainPID calico-node");
        machine.ok("rm calico_*.deb");
        machine.put(&package("0.1.1"));
        install(&machine, "Production: etcd with TLS, firewall, upgrade");
        assert_ne!(machine.ok("systemctl show --property=MainPID calico-node"), process, "the new version runs");
        machine.ok("calico-node health");
        assert!(machine.ok("cat /etc/calico/calico.env").contains("\nAS=64555\n"), "changed settings stay, unasked");
        assert_eq!(
            machine.ok("dpkg-query --show --showformat='${Conffiles}' calico").trim(),
            "",
            "dpkg has none to ask about"
        );
    });
    the_unit_has_what_it_needs_and_nothing_else(&machine);
    workloads.undisturbed("stop", || {
        machine.ok("calicoctl node stop --force");
        assert_eq!(machine.run("systemctl is-active calico-node").text.trim(), "inactive");
        machine.ok("calicoctl node");
    });
    workloads.undisturbed("the removal", || {
        machine.ok("apt-get remove --quiet --yes calico");
        assert!(!machine.run("pgrep -x 'calico-node|calico-felix|bird'").success, "an agent is left");
        assert!(machine.ok("nft list tables").contains("table ip calico"));
    });
    purging_leaves_nothing_of_ours(&machine, &before);
}

/// What is not ours: rules, routes, interfaces, and Debian's files.
fn strangers(machine: &Machine) -> String {
    machine.ok("nft add table ip stranger && nft add chain ip stranger calico && \
                ip route add 10.77.0.0/16 via 10.99.0.1 proto static && ip link add calibre0 type bridge");
    look(machine)
}

fn look(machine: &Machine) -> String {
    machine.ok("nft list ruleset; ip route; ip -6 route | grep -v fe80; ip -o link | cut -d: -f2; \
                find /etc /usr /var/lib -xdev -name '*calico*' | sort")
}

/// As the README says it in this chapter.
#[track_caller]
fn install(machine: &Machine, chapter: &str) -> String {
    machine.ok(&readme::scripts(chapter, "debian").concat())
}

fn installing_changes_nothing_that_runs(machine: &Machine) {
    let said = install(machine, "One host in two minutes");
    assert!(said.contains("calicoctl node"), "the next step is said: {said}");
    assert_eq!(machine.run("systemctl is-enabled calico-node").text.trim(), "disabled");
    assert_eq!(machine.run("systemctl is-active calico-node").text.trim(), "inactive");
    assert_eq!(machine.ok("stat --format='%a %U' /etc/calico/calico.env").trim(), "600 root");
    for file in [
        "/usr/share/man/man1/calicoctl-node.1.gz",
        "/usr/share/man/man8/calico-node.8.gz",
        "/usr/share/bash-completion/completions/calicoctl",
        "/usr/share/zsh/vendor-completions/_calicoctl",
        "/usr/share/fish/vendor_completions.d/calicoctl.fish",
    ] {
        machine.ok(&format!("test -s {file}"));
    }
    machine.ok("systemctl restart bird");
}

fn a_start_that_fails_says_why_and_leaves_nothing(machine: &Machine) {
    machine.ok("mv /usr/sbin/bird /usr/sbin/bird.away");
    let said = machine.fails("calicoctl node --ip=10.99.0.2");
    for part in ["error: Calico node failed to start.", "there is no program bird", "hint: "] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(machine.run("systemctl is-enabled calico-node").text.trim(), "disabled");
    assert_eq!(machine.run("systemctl is-active calico-node").text.trim(), "inactive");
    assert!(!machine.ok("cat /etc/calico/calico.env").contains("\nIP="), "the settings are as they were");
    machine.ok("mv /usr/sbin/bird.away /usr/sbin/bird && systemctl restart bird");
}

fn one_command_makes_it_a_node(machine: &Machine) {
    let said = machine.ok("calicoctl node");
    for part in ["Starting the unit calico-node.service", "Calico node started successfully", "Stopping bird.service"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(machine.ok("systemctl is-enabled calico-node").trim(), "enabled");
    machine.ok("calicoctl status");
    // Debian's BIRD stays down as long as this host is a node, whoever starts it.
    machine.run("systemctl start bird");
    assert_eq!(machine.run("systemctl is-active bird").text.trim(), "inactive");
}

/// Three network namespaces on the machine: the first two may talk, the third to neither.
struct Workloads<'a> {
    machine: &'a Machine,
    addresses: Vec<String>,
}

impl<'a> Workloads<'a> {
    fn add(machine: &'a Machine) -> Self {
        machine.ok("calicoctl profile add P && calicoctl profile add Q");
        let add = |(name, profile): (&str, &str)| {
            let said = machine.ok(&format!(
                "ip netns add {name} && calicoctl container add /var/run/netns/{name} && \
                 calicoctl container /var/run/netns/{name} profile set {profile}"
            ));
            let address = said.split("IP ").nth(1).and_then(|rest| rest.split(' ').next());
            address.unwrap_or_else(|| panic!("no address in: {said}")).to_owned()
        };
        let addresses = [("w1", "P"), ("w2", "P"), ("w3", "Q")].map(add).to_vec();
        let workloads = Self { machine, addresses };
        machine.eventually("w1 to reach w2", &workloads.once("w1"), |said| said.contains(" 0% packet loss"));
        workloads
    }

    fn once(&self, from: &str) -> String {
        format!("ip netns exec {from} ping -n -c 1 -W 1 {}", self.addresses[1])
    }

    /// A hundred pings a second at w2 until [`stop`](Self::stop).
    fn ping(&self, from: &str) -> Child {
        let command = format!("exec ip netns exec {from} ping -n -q -i 0.01 {}", self.addresses[1]);
        self.machine.command(&command).stdout(Stdio::piped()).spawn().unwrap()
    }

    fn stop(&self, child: Child) -> String {
        // The first of its line is nsenter, which waits for the one in the machine.
        self.machine.ok("pkill -INT -o ping");
        let output = child.wait_with_output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// Loses no ping of the allowed pair and lets none of the denied pair through, while something is done.
    #[track_caller]
    fn undisturbed(&self, what: &str, act: impl FnOnce()) {
        let allowed = self.ping("w1");
        self.machine.eventually("the stream of pings", "pgrep -c ping", |said| said.trim() == "1");
        act();
        let denied = self.machine.run(&self.once("w3")).text;
        let allowed = self.stop(allowed);
        assert!(allowed.contains(" 0% packet loss"), "{what}: {allowed}");
        assert!(denied.contains("100% packet loss"), "{what}: {denied}");
    }
}

/// One capability after the other is taken away; each time something specific does not work any more.
fn the_unit_has_what_it_needs_and_nothing_else(machine: &Machine) {
    const ALL: [&str; 4] = ["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_NET_BIND_SERVICE", "CAP_DAC_READ_SEARCH"];
    let unit = machine.ok("systemctl show --property=CapabilityBoundingSet calico-node");
    let mut set: Vec<&str> = unit.trim().trim_start_matches("CapabilityBoundingSet=").split(' ').collect();
    set.sort_unstable();
    let mut all = ALL.map(str::to_lowercase).to_vec();
    all.sort_unstable();
    assert_eq!(set, all);

    // A password in a folder of another user, and iptables of the older kind: what the rarer capabilities are for.
    machine.ok("apt-get install ipset");
    machine.ok("umask 077; echo s3cret >/root/password; \
                calicoctl bgp peer add 10.99.0.9 as 64999 --password-file=/root/password; \
                chown nobody /etc/calico/bgp-secrets/10-99-0-9");
    machine.ok("printf '%s' '{apiVersion: projectcalico.org/v3, kind: FelixConfiguration, metadata: {name: default}, \
                spec: {nftablesMode: Disabled, iptablesBackend: Legacy}}' | calicoctl apply -f -");
    let folder = "/run/systemd/system/calico-node.service.d";
    let with = |without: &str| {
        let left: Vec<&str> = ALL.into_iter().filter(|capability| *capability != without).collect();
        machine.ok(&format!(
            "mkdir -p {folder}; printf '[Service]\\nCapabilityBoundingSet=\\nCapabilityBoundingSet={}\\n' >{folder}/test.conf; \
             systemctl daemon-reload; systemctl --no-block restart calico-node",
            left.join(" ")
        ));
    };
    let health = "calico-node health";
    let log = "journalctl --no-pager --output=cat _SYSTEMD_INVOCATION_ID=$(systemctl show -P InvocationID calico-node)";
    let check = |without: &str, what: &str, look: &str, is_right: &dyn Fn(&str) -> bool| {
        with(without);
        machine.eventually(&format!("{what} without {without}"), look, is_right);
    };
    check(
        "",
        "BGP's port open, all ready",
        "calico-node health && iptables-legacy -S && ss -Hltn sport = 179",
        &|said| said.contains("cali-") && said.contains(":179"),
    );
    check("CAP_NET_RAW", "no access to iptables", health, &|said| said.contains("iptables-legacy"));
    check("CAP_NET_BIND_SERVICE", "no port", log, &|said| said.contains("bird") && said.contains("Permission denied"));
    check("CAP_DAC_READ_SEARCH", "no password", health, &|said| said.contains("Permission denied"));
    check("CAP_NET_ADMIN", "no access to the kernel", log, &|said| said.contains("needs root, or CAP_NET_ADMIN"));

    machine.ok(&format!("rm -r {folder}; systemctl daemon-reload"));
    machine.ok("calicoctl delete felixconfiguration default; calicoctl bgp peer remove 10.99.0.9");
    machine.ok("calicoctl node");
}

fn purging_leaves_nothing_of_ours(machine: &Machine, before: &str) {
    machine.ok("apt-get purge --quiet --yes calico");
    for path in ["/etc/calico", "/var/lib/calico", "/var/log/calico", "/run/calico"] {
        machine.fails(&format!("test -e {path}"));
    }
    assert_eq!(look(machine), before, "after the purge");
    assert_eq!(machine.run("systemctl is-active bird").text.trim(), "active", "Debian's BIRD is as it was");
    machine.ok("ip netns del w1; ip netns del w2; ip netns del w3");
}
