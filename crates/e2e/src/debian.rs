//! A Debian machine with a real systemd as its process 1, for what only the whole of a host shows: the package, its
//! maintainer scripts, the unit with its restrictions.
//!
//! The machine is a set of namespaces of its own (mounts, network, processes, control groups …) over a root that
//! `scripts/debian-root` makes once. Its disk is a memory layer over that root, in a mount namespace that outlives a boot:
//! when the machine's systemd ends, in order or by a power cut, the next one starts on the same disk with everything
//! else new, as after a reboot. Its network is a pair of interfaces; the other end is in a namespace of the same
//! machine, [`OUTSIDE`], which plays somebody on the wire. All ends with the process that holds the disk, however that
//! ends.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use calico_lab::{binaries_dir, image::write_busybox_image, wait_for, wait_until};

/// How long a machine may take to boot; it takes two or three seconds when nothing else runs.
const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// How long a command may take, `apt` and waiting starts of services included.
const COMMAND_LIMIT: Duration = Duration::from_secs(240);
/// Control groups of machines; the number of the process that booted one follows, and one that tells its machines apart.
const GROUP: &str = "calico-machine-";
/// How many machines this process has booted.
static BOOTED: AtomicU32 = AtomicU32::new(0);
/// No terminal to ask at, and no network for what is only recommended.
const APT: &str = r#"APT::Get::Assume-Yes "1"; APT::Install-Recommends "0";"#;

/// The network namespace on the machine that is its neighbour on the wire, and the address there.
pub const OUTSIDE: (&str, &str) = ("outside", "10.99.0.1");

/// Holds the disk and boots the machine on it, again whenever it has ended. `$1` are the layers of the root, `$2` is the
/// control group, `$3` what a boot does.
const HOLD: &str = r#"set -eu
mount -t tmpfs -o mode=755 calico-machine /mnt
mkdir /mnt/upper /mnt/work /mnt/docker /mnt/root
boot=0
while :; do
    boot=$((boot + 1))
    mkdir "$2/$boot"
    setpriv --pdeathsig KILL bash -euc "$3" boot "$1" "$2/$boot" || :
    # Control groups do not outlive a boot. What was killed may take a moment to leave its group.
    until find "$2" -mindepth 1 -depth -type d -exec rmdir {} + 2>/dev/null; do sleep 0.1; done
done
"#;

/// Becomes the machine. The new systemd keeps the process's number.
const BOOT: &str = r#"
echo $$ >"$2/cgroup.procs"
exec unshare --mount --net --uts --ipc --pid --cgroup --propagation private --kill-child=KILL --fork bash -c '
set -eu
mount -t overlay -o "lowerdir=$1,upperdir=/mnt/upper,workdir=/mnt/work" calico-machine /mnt/root
cd /mnt/root
mount -t tmpfs -o mode=755,nosuid tmpfs dev
for device in null zero full random urandom tty; do
    : >dev/$device
    mount --bind /dev/$device dev/$device
done
mkdir -p dev/pts dev/shm old var/lib/docker
# Docker makes overlays of its own, which it cannot on an overlay.
mount --bind /mnt/docker var/lib/docker
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t proc -o nosuid,nodev,noexec proc proc
mount -t sysfs -o nosuid,nodev,noexec sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755,nosuid,nodev tmpfs run
mount -t tmpfs tmpfs tmp
pivot_root . old
umount --lazy /old
hostname debian1
ip netns add outside
ip link set lo up
ip link add eth0 type veth peer name wire netns outside
ip link set eth0 up
ip address add 10.99.0.2/24 dev eth0
ip -n outside link set lo up
ip -n outside link set wire up
ip -n outside address add 10.99.0.1/24 dev wire
ip route add default via 10.99.0.1
# Nothing but what systemd is told by those who start containers (its CONTAINER_INTERFACE document).
exec env -i container=machine PATH=/usr/sbin:/usr/bin /lib/systemd/systemd --log-target=console --show-status=no
' enter "$1"
"#;

/// What is installed on a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Installed {
    /// A plain server.
    Base,
    /// Docker too, as Debian's `docker.io` comes: enabled, running.
    Docker,
}

/// A machine that has booted.
pub struct Machine {
    holder: Child,
    init: u32,
    group: PathBuf,
}

/// What a command on the machine did.
pub struct Said {
    /// Whether it ended with exit code 0.
    pub success: bool,
    /// Both streams, as they came.
    pub text: String,
}

impl Machine {
    /// Boots one, after its root was made if this is the first time.
    pub fn boot(installed: Installed) -> Self {
        let layers = layers(installed);
        let groups = control_groups();
        sweep(&groups);
        let number = BOOTED.fetch_add(1, Ordering::Relaxed);
        let group = groups.join(format!("{GROUP}{}-{number}", std::process::id()));
        fs::create_dir(&group).unwrap_or_else(|error| panic!("{}: {error}", group.display()));
        let log = group_log(&group);
        let holder = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private"])
            .args(["bash", "-c", HOLD, "hold", &layers])
            .arg(&group)
            .arg(BOOT)
            .stdin(Stdio::null())
            .stdout(File::create(&log).unwrap())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut machine = Self { holder, init: 0, group };
        machine.wait_until_up();
        let failed = machine.run("systemctl --failed --no-legend").text;
        assert!(failed.trim().is_empty(), "units that failed: {failed}\n{}", machine.story());
        machine.ok(&format!("echo '{APT}' >/etc/apt/apt.conf.d/90test"));
        machine
    }

    /// Shuts it down in order and boots it again: a new kernel's network, new processes, the same disk.
    pub fn reboot(&mut self) {
        // It ends with the command's own process, so there is no answer.
        self.run("systemctl reboot");
        self.wait_until_up();
    }

    /// The same without warning: every process is killed. What it has written is on its disk, synced or not.
    pub fn power_cut(&mut self) {
        let killed = Command::new("kill").args(["-KILL", &self.init.to_string()]).status().unwrap();
        assert!(killed.success(), "process 1 of the machine, {}, is gone", self.init);
        self.wait_until_up();
    }

    /// Waits until a systemd other than the last one has brought everything up that is to come up.
    fn wait_until_up(&mut self) {
        let (holder, last) = (self.holder.id(), self.init);
        self.init = wait_for(BOOT_LIMIT, "the machine's systemd", || {
            let init = child_of(holder).and_then(child_of).ok_or("not started")?;
            let name = fs::read_to_string(format!("/proc/{init}/comm")).unwrap_or_default();
            if name.trim() == "systemd" && init != last { Ok(init) } else { Err(format!("{init} is {name}")) }
        })
        .unwrap_or_else(|error| panic!("{error}"));
        wait_for(BOOT_LIMIT, "the machine to be up", || {
            let said = self.run("systemctl is-system-running --wait");
            let up = ["running", "degraded"].contains(&said.text.trim());
            if up { Ok(()) } else { Err(said.text) }
        })
        .unwrap_or_else(|error| panic!("{error}\n{}", self.story()));
    }

    /// Runs a command as root of the machine, to its end.
    pub fn run(&self, command: &str) -> Said {
        let mut output = tempfile::tempfile().unwrap();
        let mut child = self
            .command(command)
            .stdout(output.try_clone().unwrap())
            .stderr(output.try_clone().unwrap())
            .spawn()
            .unwrap();
        let begin = Instant::now();
        let _ = wait_until(COMMAND_LIMIT, command, || matches!(child.try_wait(), Ok(Some(_))));
        let in_time = begin.elapsed() < COMMAND_LIMIT;
        if !in_time {
            let _ = child.kill();
        }
        let status = child.wait().unwrap();
        let mut text = String::new();
        std::io::Seek::rewind(&mut output).and_then(|()| output.read_to_string(&mut text)).unwrap();
        Said { success: in_time && status.success(), text }
    }

    /// Runs a command that must succeed; what it printed.
    #[track_caller]
    pub fn ok(&self, command: &str) -> String {
        let said = self.run(command);
        assert!(said.success, "`{command}` failed on the machine:\n{}\n{}", said.text, self.story());
        said.text
    }

    /// Runs a command that must fail; what it printed.
    #[track_caller]
    pub fn fails(&self, command: &str) -> String {
        let said = self.run(command);
        assert!(!said.success, "`{command}` succeeded on the machine:\n{}", said.text);
        said.text
    }

    /// Waits until a command prints what is expected of it.
    #[track_caller]
    pub fn eventually(&self, what: &str, command: &str, is_right: impl Fn(&str) -> bool) {
        let outcome = wait_for(crate::SOON * 3, what, || {
            let text = self.run(command).text;
            if is_right(&text) { Ok(()) } else { Err(text) }
        });
        outcome.unwrap_or_else(|error| panic!("{error}\n{}", self.story()));
    }

    /// A command that runs on, in all the namespaces of the machine.
    pub fn command(&self, command: &str) -> Command {
        let mut nsenter = Command::new("nsenter");
        nsenter
            .args(["--mount", "--net", "--uts", "--ipc", "--pid", "--cgroup", "--root", "--wd", "--target"])
            .arg(self.init.to_string())
            // Where a person is after logging in.
            .args(["sh", "-c", &format!("cd /root\n{command}")])
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .envs([("HOME", "/root"), ("LANG", "C.UTF-8"), ("DEBIAN_FRONTEND", "noninteractive"), ("PAGER", "cat")])
            .stdin(Stdio::null());
        nsenter
    }

    /// Copies a file into root's home on the machine.
    pub fn put(&self, file: &Path) {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        fs::copy(file, format!("/proc/{}/root/root/{name}", self.init)).unwrap();
    }

    /// Loads the image that the lab has too, `busybox` and `ubuntu`, into the machine's Docker.
    pub fn load_image(&self) {
        let archive = format!("/proc/{}/root/root/busybox.tar", self.init);
        write_busybox_image(File::create(archive).unwrap()).unwrap();
        self.ok("docker load --quiet --input busybox.tar && rm busybox.tar");
    }

    /// What helps to understand a failure.
    pub fn story(&self) -> String {
        self.run(
            "systemctl --no-pager --lines=0 status calico-node bird docker; journalctl --no-pager --lines=100 | grep -v containerd; \
             ip -br address; ip route; ip rule",
        )
        .text
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // With it goes the machine's process 1, and with that all its processes, mounts and interfaces.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        let _ = fs::remove_file(group_log(&self.group));
        let _ = wait_until(Duration::from_secs(20), "the machine's control groups to go", || remove_group(&self.group));
    }
}

/// Where systemd's own words go; it says little.
fn group_log(group: &Path) -> PathBuf {
    std::env::temp_dir().join(format!("{}.log", group.file_name().unwrap_or_default().to_string_lossy()))
}

/// The folder beside the build profiles.
fn target() -> PathBuf {
    binaries_dir().parent().unwrap().to_owned()
}

fn project() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// Runs a script of the project; its standard output.
fn script(name: &str, arguments: &[&Path]) -> String {
    let program = project().join("scripts").join(name);
    let output = Command::new(program).args(arguments).env("COMPRESS", "none").output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "scripts/{name}: {words}");
    String::from_utf8(output.stdout).unwrap()
}

/// The folders that make the root, as overlayfs takes them: the uppermost first.
fn layers(installed: Installed) -> String {
    let root = target().join("debian-root");
    script("debian-root", &[&root]);
    let names: &[&str] = match installed {
        Installed::Base => &["base"],
        Installed::Docker => &["docker", "base"],
    };
    names.iter().map(|name| root.join(name).display().to_string()).collect::<Vec<_>>().join(":")
}

/// The one child of a process.
fn child_of(process: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).ok()?;
    children.trim().parse().ok()
}

/// The package, of the programs under test, with this version. Made once, whichever tests ask for it.
pub fn package(version: &str) -> PathBuf {
    static MADE: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    let make = || script("deb", &[&binaries_dir(), &target().join("deb-test"), Path::new(version)]).trim().into();
    made.entry(version.to_owned()).or_insert_with(make).clone()
}

/// The root of the machine's control groups of version 2.
fn control_groups() -> PathBuf {
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let fields = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let found = mounts.lines().map(fields).find(|mount| mount.get(2).is_some_and(|kind| kind == "cgroup2"));
    found.expect("this machine has no control groups of version 2, which systemd needs")[1].clone().into()
}

/// Removes what machines left whose owner was killed.
fn sweep(groups: &Path) {
    for entry in fs::read_dir(groups).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(GROUP).and_then(|rest| rest.split('-').next());
        let owner = owner.map(|owner| Path::new("/proc").join(owner));
        if owner.is_some_and(|owner| !owner.exists()) {
            remove_group(&entry.path());
        }
    }
}

/// Removes a control group with those below. False while a process is in it.
fn remove_group(group: &Path) -> bool {
    let below = fs::read_dir(group).into_iter().flatten().flatten();
    for entry in below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_group(&entry.path());
    }
    let _ = fs::remove_dir(group);
    !group.exists()
}
