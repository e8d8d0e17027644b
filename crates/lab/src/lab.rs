//! Raising and removing labs.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::address::Place;
use crate::capability::runc_filter;
use crate::dump::dump;
use crate::error::{Context, LabError, Result};
use crate::etcd::{self, Certificates, Etcd};
use crate::host::Host;
use crate::image::{image_path, write_busybox_image};
use crate::kept::{DOCKER, Images};
use crate::network::connect;
use crate::process::ProcessId;
use crate::root::{HostFile, HostRoot};
use crate::state::{self, EtcdMode, LabRecord, MachineRecord, lab_dir, labs_dir};

/// Host name of the switch, where etcd runs too.
pub const SWITCH: &str = "switch";

/// What a lab shall have. The default is what most tests want: two hosts with Docker and the small images, and etcd.
#[derive(Clone, Debug)]
pub struct LabOptions {
    /// Name of the lab; without one, a name that no other lab has.
    pub name: Option<String>,
    /// The segment of each host; hosts are named `host1`, `host2`, … in this order.
    pub segments: Vec<u8>,
    /// How etcd is reached, or no etcd.
    pub etcd: Option<EtcdMode>,
    /// Whether the hosts run Docker, with the images `ubuntu` and `busybox`.
    pub docker: bool,
    /// Whether `calico/node` is loaded into every host's Docker; it must have been built before.
    pub node_image: bool,
    /// Whether the lab outlives this process. Otherwise it ends with it, however it ends.
    pub keep: bool,
    /// Folder with the binaries under test; `calicoctl` and the others are in every host's `PATH`.
    pub binaries: PathBuf,
}

impl Default for LabOptions {
    fn default() -> Self {
        Self {
            name: None,
            segments: vec![0; 2],
            etcd: Some(EtcdMode::Plain),
            docker: true,
            node_image: false,
            keep: false,
            binaries: binaries_dir(),
        }
    }
}

impl LabOptions {
    /// The default with this many hosts, all on one segment.
    pub fn hosts(count: usize) -> Self {
        Self { segments: vec![0; count], ..Self::default() }
    }

    /// Hosts without Docker and etcd: bare network, up in a fraction of a second.
    pub fn bare(count: usize) -> Self {
        Self { etcd: None, docker: false, ..Self::hosts(count) }
    }

    /// With the image `calico/node` in every host's Docker.
    pub fn with_node_image(self) -> Self {
        Self { node_image: true, ..self }
    }
}

/// The folder of the binaries that belong to the running test or program: `CALICO_BIN_DIR`, or where cargo put it.
pub fn binaries_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("CALICO_BIN_DIR") {
        return dir.into();
    }
    let own = std::env::current_exe().unwrap_or_default();
    let dir = own.parent().unwrap_or(Path::new("/"));
    // Cargo puts programs into target/PROFILE, tests and benchmarks into target/PROFILE/deps.
    if dir.ends_with("deps") { dir.parent().unwrap_or(dir).to_owned() } else { dir.to_owned() }
}

/// A lab that is up. Dropping it removes it, unless it was raised with `keep`, or `LAB_KEEP` is set in the environment;
/// when it is dropped by a panic, what can be seen of it is written down first (see [`Lab::dump`]).
#[derive(Debug)]
pub struct Lab {
    record: LabRecord,
    switch: Host,
    hosts: Vec<Host>,
    remove_on_drop: bool,
}

impl Lab {
    /// Raises a lab. Whatever fails, nothing of it stays.
    ///
    /// # Errors
    /// Not root; a program is not installed; the name is taken; an image was not built; Docker or etcd do not start.
    pub fn up(options: &LabOptions) -> Result<Self> {
        check_machine(options)?;
        let keep = options.keep || std::env::var_os("LAB_KEEP").is_some();
        let owner = if keep { None } else { Some(ProcessId::current().context(|| "read /proc/self".into())?) };
        let record = {
            let lock = state::lock()?;
            state::sweep(&lock)?;
            let name = match &options.name {
                Some(name) => checked(name, "lab")?.to_owned(),
                None => free_name(),
            };
            LabRecord::create(&name, owner, options.etcd, options.docker, &options.binaries)?
        };
        let name = record.name.clone();
        Self::raise(record, options, keep).inspect_err(|_| {
            // That first error is the one to show; what cannot be removed now is found by `down --all` later.
            let _ = state::remove(&name);
        })
    }

    fn raise(mut record: LabRecord, options: &LabOptions, keep: bool) -> Result<Self> {
        let dir = lab_dir(&record.name);
        let certificates = match options.etcd {
            Some(EtcdMode::Tls) => Some(Certificates::make(&dir.join("certificates"))?),
            _ => None,
        };
        let runc = if options.docker { runc_filter()? } else { None };
        let places = places(&options.segments);
        let hosts_file = hosts_file(&places);
        let mut machines = Vec::new();
        for (name, place) in [(SWITCH.to_owned(), Place::router(0))].into_iter().chain(places) {
            let is_switch = name == SWITCH;
            let mut files = own_files(&name, &hosts_file)?;
            if let Some(certificates) = &certificates {
                files.extend(certificates.files(is_switch)?);
            }
            if !is_switch && let Some(filter) = &runc {
                files.push(HostFile::new(filter.path.clone(), filter.mode, filter.text.clone()));
            }
            let mut host = start_host(&mut record, &dir.join(&name), &name, place, &files, keep)?;
            host.set_environment(environment(&record, is_switch));
            machines.push(host);
        }
        let switch = machines.remove(0);
        connect(&switch, &machines)?;
        let lab = Self { record, switch, hosts: machines, remove_on_drop: !keep };
        match lab.start_services(options.node_image) {
            Ok(()) => Ok(lab),
            Err(error) => {
                lab.end();
                Err(error)
            }
        }
    }

    /// Starts Docker everywhere and etcd, all at once, then waits for all and loads the images.
    fn start_services(&self, node_image: bool) -> Result<()> {
        if let Some(mode) = self.record.etcd {
            Etcd { switch: &self.switch, mode }.launch()?;
        }
        if self.record.docker {
            let busybox = self.dir().join("busybox.tar");
            let file = File::create(&busybox).context(|| format!("make {}", busybox.display()))?;
            write_busybox_image(file)?;
            let node = image_path(&self.record.binaries);
            let images = Images { busybox: &busybox, node: node_image.then_some(node.as_path()) };
            self.on_every_host(|host| images.start_docker(host))?;
        }
        if let Some(mode) = self.record.etcd {
            Etcd { switch: &self.switch, mode }.wait()?;
        }
        Ok(())
    }

    /// Takes a lab up again that another process raised. Dropping it leaves the lab as it is.
    ///
    /// # Errors
    /// There is no such lab, or a host of it has ended.
    pub fn attach(name: &str) -> Result<Self> {
        let record = LabRecord::load(name)?;
        let dir = lab_dir(name);
        let mut machines = record
            .machines
            .iter()
            .map(|machine| {
                let mut host = Host::attach(machine.clone(), dir.join(&machine.name))?;
                host.set_environment(environment(&record, machine.name == SWITCH));
                Ok(host)
            })
            .collect::<Result<Vec<_>>>()?;
        if machines.is_empty() {
            return Err(LabError::NoSuchLab(name.to_owned()));
        }
        let switch = machines.remove(0);
        Ok(Self { record, switch, hosts: machines, remove_on_drop: false })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.record.name
    }

    /// Its folder on the machine.
    pub fn dir(&self) -> PathBuf {
        lab_dir(&self.record.name)
    }

    /// The hosts in order.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The host with this number, from 1, as in its name.
    ///
    /// # Panics
    /// There are fewer hosts.
    #[track_caller]
    pub fn host(&self, number: usize) -> &Host {
        number
            .checked_sub(1)
            .and_then(|index| self.hosts.get(index))
            .unwrap_or_else(|| panic!("the lab has the hosts 1 to {}, not {number}", self.hosts.len()))
    }

    /// The host of this name, or the switch.
    ///
    /// # Errors
    /// There is none.
    pub fn find(&self, name: &str) -> Result<&Host> {
        self.machines().find(|host| host.name() == name).ok_or_else(|| LabError::NoSuchHost {
            lab: self.record.name.clone(),
            host: name.to_owned(),
            known: self.machines().map(Host::name).collect::<Vec<_>>().join(", "),
        })
    }

    /// The switch that joins the hosts.
    pub fn switch(&self) -> &Host {
        &self.switch
    }

    /// Switch and hosts.
    pub fn machines(&self) -> impl Iterator<Item = &Host> {
        std::iter::once(&self.switch).chain(&self.hosts)
    }

    /// The lab's etcd.
    ///
    /// # Panics
    /// The lab was raised without one.
    #[track_caller]
    pub fn etcd(&self) -> Etcd<'_> {
        self.try_etcd().unwrap_or_else(|error| panic!("{error}"))
    }

    /// The lab's etcd, if it has one.
    ///
    /// # Errors
    /// The lab was raised without one.
    pub fn try_etcd(&self) -> Result<Etcd<'_>> {
        let mode = self.record.etcd.ok_or(LabError::NotPartOfLab { lab: self.record.name.clone(), part: "etcd" })?;
        Ok(Etcd { switch: &self.switch, mode })
    }

    /// Whether the hosts run Docker.
    pub fn has_docker(&self) -> bool {
        self.record.docker
    }

    /// The folder with the binaries under test.
    pub fn binaries(&self) -> &Path {
        &self.record.binaries
    }

    /// Does something on every host at the same time.
    ///
    /// # Errors
    /// The first that occurred, in the order of hosts; the others have finished as well.
    pub fn on_every_host<T: Send>(&self, work: impl Fn(&Host) -> Result<T> + Sync) -> Result<Vec<T>> {
        std::thread::scope(|scope| {
            let threads: Vec<_> = self.hosts.iter().map(|host| scope.spawn(|| work(host))).collect();
            let results: Vec<_> = threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
            results.into_iter().map(|r| r.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        })
    }

    /// Writes down all that helps to understand a failure, as files in `dir`: addresses, routes, rules, BGP, containers
    /// and logs of every host, the keys of the datastore. What cannot be had says why in its file.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn dump(&self, dir: &Path) -> Result<()> {
        dump(self, dir)
    }

    /// Removes the lab now and says what could not be removed.
    ///
    /// # Errors
    /// Something stayed.
    pub fn down(mut self) -> Result<()> {
        self.remove_on_drop = false;
        self.end();
        state::remove(&self.record.name)
    }

    fn end(&self) {
        std::thread::scope(|scope| {
            for host in self.machines() {
                scope.spawn(|| host.end());
            }
        });
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let panicking = std::thread::panicking();
        if panicking {
            let dir = dump_dir(&self.record);
            match self.dump(&dir) {
                Ok(()) => eprintln!("calico-lab: the state of lab `{}` is in {}", self.record.name, dir.display()),
                Err(error) => eprintln!("calico-lab: the state of lab `{}` is lost: {error}", self.record.name),
            }
        }
        if self.remove_on_drop {
            self.end();
            if let Err(error) = state::remove(&self.record.name) {
                eprintln!("calico-lab: {error}");
            }
        } else if panicking {
            eprintln!("calico-lab: the lab stays up; `calico-lab down {}` removes it", self.record.name);
        }
    }
}

/// `LAB_DUMP_DIR`, or `lab-dumps` beside the build profiles, with the lab's name below.
fn dump_dir(record: &LabRecord) -> PathBuf {
    std::env::var_os("LAB_DUMP_DIR")
        .map_or_else(|| record.binaries.parent().unwrap_or(Path::new("/tmp")).join("lab-dumps"), PathBuf::from)
        .join(&record.name)
}

fn check_machine(options: &LabOptions) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Err(LabError::NotRoot);
    }
    let mut programs = vec![("ip", "iproute2"), ("tini-static", "tini"), ("setsid", "util-linux")];
    if options.docker {
        programs.extend([("dockerd", "docker.io"), ("docker", "docker.io"), ("iptables", "iptables")]);
    }
    if options.etcd.is_some() {
        programs.extend([("etcd", "etcd-server"), ("etcdctl", "etcd-client")]);
    }
    for (program, package) in programs {
        let dirs = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
        if !dirs.iter().any(|dir| Path::new(dir).join(program).exists()) {
            return Err(LabError::MissingProgram { program, package });
        }
    }
    if options.node_image {
        let path = image_path(&options.binaries);
        if !path.exists() {
            return Err(LabError::MissingFile { path, hint: "`make image` makes it" });
        }
    }
    Ok(())
}

/// Names end up in host names, interface names and paths; the bounds are those of the narrowest.
fn checked<'a>(name: &'a str, kind: &'static str) -> Result<&'a str> {
    let fits = (1..=12).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if fits { Ok(name) } else { Err(LabError::BadName { kind, name: name.to_owned() }) }
}

/// A name that no other lab has: process id and a counter.
fn free_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    loop {
        let name = format!("t{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        if !lab_dir(&name).exists() {
            return name;
        }
    }
}

/// Names and places of the hosts; each segment counts its own.
fn places(segments: &[u8]) -> Vec<(String, Place)> {
    let place = |index: usize, segment: u8| {
        let before = segments[..index].iter().filter(|&&other| other == segment).count();
        Place::host(segment, u8::try_from(before).unwrap_or(u8::MAX))
    };
    segments.iter().enumerate().map(|(index, &segment)| (format!("host{}", index + 1), place(index, segment))).collect()
}

fn hosts_file(places: &[(String, Place)]) -> String {
    let mut text = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n".to_owned();
    let router = ("etcd".to_owned(), Place::router(0));
    for (name, place) in std::iter::once(&router).chain(places) {
        for address in place.addresses() {
            text += &format!("{address} {name}\n");
        }
    }
    text
}

fn own_files(name: &str, hosts_file: &str) -> Result<Vec<HostFile>> {
    let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid").context(|| "make a machine id".into())?;
    Ok(vec![
        HostFile::new("/etc/hostname", 0o644, format!("{name}\n")),
        HostFile::new("/etc/hosts", 0o644, hosts_file),
        HostFile::new("/etc/machine-id", 0o444, uuid.replace('-', "")),
        // No name server is reachable; with none named, look-ups fail at once instead of after a time.
        HostFile::new("/etc/resolv.conf", 0o644, "options timeout:1 attempts:1\n"),
    ])
}

fn environment(record: &LabRecord, is_switch: bool) -> Vec<(String, String)> {
    // etcd itself takes settings from variables with the same prefix, so the switch must not have them.
    record.etcd.filter(|_| !is_switch).map(etcd::environment).unwrap_or_default()
}

fn start_host(
    record: &mut LabRecord,
    dir: &Path,
    name: &str,
    place: Place,
    files: &[HostFile],
    keep: bool,
) -> Result<Host> {
    let (stage, docker, log) = (dir.join("stage"), dir.join(DOCKER), dir.join("log"));
    for dir in [&stage, &docker, &log] {
        fs::create_dir_all(dir).context(|| format!("make {}", dir.display()))?;
    }
    let hidden = labs_dir();
    let root = HostRoot {
        name,
        stage: &stage,
        binds: &[(docker, "/var/lib/docker"), (log, "/var/log")],
        binaries: &record.binaries.clone(),
        hidden: &hidden,
        files,
    };
    Host::start(&root, place, dir.to_owned(), keep, |machine: &MachineRecord| {
        record.machines.push(machine.clone());
        record.save()
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_fit_interfaces_and_paths() {
        for good in ["lab", "a", "demo-2", "abcdefghijkl"] {
            assert_eq!(checked(good, "lab").unwrap(), good);
        }
        for bad in ["", "A", "-a", "1a", "a/b", "..", "a b", "abcdefghijklm", "é"] {
            assert!(checked(bad, "lab").is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts_are_counted_on_their_segment() {
        let places = places(&[0, 1, 0]);
        let text: Vec<_> = places.iter().map(|(name, place)| format!("{name} {}", place.ipv4())).collect();
        assert_eq!(text, ["host1 172.30.0.11", "host2 172.30.1.11", "host3 172.30.0.12"]);
    }
}
