//! What is written down about labs, so that all of it can be removed later, also by another process and after a crash.
//!
//! All labs live in one folder, by default `/var/cache/calico-lab`, one folder each: `lab.json` says which processes
//! hold the hosts, `HOST/` has a host's data (Docker's images, logs). The record is written before a host's first
//! process gets the word to go on, and that process ends by itself when the word never comes: there is no moment at
//! which a host exists that no record knows.
//!
//! A lab that belongs to a test is *owned* by the test's process. Its hosts end with their owner, however it ends; what
//! is left of them on disk is removed when the next lab is raised.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::address::Place;
use crate::error::{Context, LabError, Result};
use crate::process::{ProcessId, boot_id};

/// The kernel needs a moment to take a host apart (its mounts, links and processes); ten seconds is far beyond.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// The record of one lab.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LabRecord {
    /// Name of the lab.
    pub name: String,
    /// The boot of the machine to which all process ids belong.
    pub boot_id: String,
    /// The process with which the lab ends, or none when it stays until it is removed.
    pub owner: Option<ProcessId>,
    /// How the etcd of the lab is reached, if it has one.
    pub etcd: Option<EtcdMode>,
    /// Whether the hosts run Docker.
    pub docker: bool,
    /// Folder with the binaries under test.
    pub binaries: PathBuf,
    /// The switch first, then the hosts in order.
    pub machines: Vec<MachineRecord>,
}

/// The record of one host, or of the switch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MachineRecord {
    /// Host name.
    pub name: String,
    /// Process 1 of the host.
    pub init: ProcessId,
    /// Its place in the network.
    pub place: Place,
}

/// How an etcd is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EtcdMode {
    /// `http`.
    Plain,
    /// `https`, with client certificates required.
    Tls,
}

/// The folder of all labs: `CALICO_LAB_DIR`, or `/var/cache/calico-lab`.
pub fn labs_dir() -> PathBuf {
    std::env::var_os("CALICO_LAB_DIR").map_or_else(|| "/var/cache/calico-lab".into(), PathBuf::from)
}

/// A lab's folder.
pub(crate) fn lab_dir(name: &str) -> PathBuf {
    labs_dir().join(name)
}

/// Makes the folder of all labs when it is missing and locks it until the returned file is dropped.
pub(crate) fn lock() -> Result<File> {
    let dir = labs_dir();
    match fs::DirBuilder::new().mode(0o700).create(&dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => fs::symlink_metadata(&dir),
    }
    .and_then(|meta| {
        if meta.is_dir() && meta.uid() == 0 && meta.mode() & 0o022 == 0 {
            Ok(())
        } else {
            Err(io::Error::other("it is not a folder that only root can write"))
        }
    })
    .context(|| format!("use {} for labs", dir.display()))?;
    let path = dir.join(".lock");
    File::create(&path)
        .and_then(|file| {
            flock(&file, FlockOperation::LockExclusive)?;
            Ok(file)
        })
        .context(|| format!("lock {}", path.display()))
}

/// Names of all labs that have a folder.
pub fn list() -> Result<Vec<String>> {
    let dir = labs_dir();
    let entries = match fs::read_dir(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.context(|| format!("list {}", dir.display()))?,
    };
    let mut names: Vec<_> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            entry.file_type().ok()?.is_dir().then(|| entry.file_name().to_string_lossy().into_owned())
        })
        .collect();
    names.sort();
    Ok(names)
}

impl LabRecord {
    /// Starts the record of a new lab and makes its folder.
    pub(crate) fn create(
        name: &str,
        owner: Option<ProcessId>,
        etcd: Option<EtcdMode>,
        docker: bool,
        binaries: &Path,
    ) -> Result<Self> {
        let dir = lab_dir(name);
        fs::DirBuilder::new().mode(0o700).create(&dir).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => LabError::NameTaken(name.to_owned()),
            _ => LabError::Io { what: format!("make {}", dir.display()), source: error },
        })?;
        let record = Self {
            name: name.to_owned(),
            boot_id: boot_id().context(|| "read the boot id".into())?,
            owner,
            etcd,
            docker,
            binaries: binaries.to_owned(),
            machines: Vec::new(),
        };
        record.save()?;
        Ok(record)
    }

    /// Reads the record of a lab.
    ///
    /// # Errors
    /// There is no such lab, or its record is damaged.
    pub fn load(name: &str) -> Result<Self> {
        let path = lab_dir(name).join("lab.json");
        let text = fs::read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => LabError::NoSuchLab(name.to_owned()),
            _ => LabError::Io { what: format!("read {}", path.display()), source: error },
        })?;
        serde_json::from_slice(&text).map_err(|source| LabError::BadRecord { path, source })
    }

    /// Writes the record; whoever reads it sees the old or the new one, never half of it.
    pub(crate) fn save(&self) -> Result<()> {
        let path = lab_dir(&self.name).join("lab.json");
        let new = path.with_extension("new");
        serde_json::to_vec_pretty(self)
            .map_err(io::Error::from)
            .and_then(|text| fs::write(&new, text))
            .and_then(|()| fs::rename(&new, &path))
            .context(|| format!("write {}", path.display()))
    }

    /// Whether the recorded processes are of this boot, and so may still run.
    pub fn is_of_this_boot(&self) -> bool {
        boot_id().is_ok_and(|id| id == self.boot_id)
    }

    fn is_abandoned(&self) -> bool {
        self.owner.is_some_and(|owner| !self.is_of_this_boot() || !owner.is_alive())
    }
}

/// Removes every owned lab whose owner is gone. Call with the lock held. One that cannot be removed now stays for the
/// next time, and does not keep anybody from raising a lab.
pub(crate) fn sweep(_lock: &File) -> Result<()> {
    for name in list()? {
        if LabRecord::load(&name).is_ok_and(|record| record.is_abandoned())
            && let Err(error) = remove(&name)
        {
            eprintln!("calico-lab: left for later: {error}");
        }
    }
    Ok(())
}

/// Removes a lab: ends its hosts and deletes what it left. Works on half-made and half-removed labs alike.
///
/// # Errors
/// There is no such lab, or parts of it stayed; everything that could be removed was.
pub fn remove(name: &str) -> Result<()> {
    let dir = lab_dir(name);
    if name.is_empty() || name.contains('/') || name.starts_with('.') || !dir.is_dir() {
        return Err(LabError::NoSuchLab(name.to_owned()));
    }
    let mut problems = Vec::new();
    match LabRecord::load(name) {
        Ok(record) if record.is_of_this_boot() => problems.extend(end_hosts(&record)),
        // After a reboot nothing runs any more; without a record nothing ever ran (see the module's description).
        Ok(_) | Err(LabError::NoSuchLab(_)) => {}
        Err(error) => problems.push(error.to_string()),
    }
    problems.extend(remove_control_groups(&dir));
    if problems.is_empty()
        && let Err(error) = fs::remove_dir_all(&dir)
        && error.kind() != io::ErrorKind::NotFound
    {
        problems.push(format!("delete {}: {error}", dir.display()));
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(LabError::NotRemoved { lab: name.to_owned(), problems: problems.join("\n") })
    }
}

/// Lets paused containers of a host run on, whose folder this is: under control groups of version 1 a frozen process
/// does not even die.
pub(crate) fn thaw_containers(host: &Path) {
    for container in sub_dirs(&host.join("docker/containers")) {
        let id = container.file_name().unwrap_or_default();
        let state = Path::new("/sys/fs/cgroup/freezer/docker").join(id).join("freezer.state");
        // Not there with version 2, or when the container does not run.
        let _ = fs::OpenOptions::new().write(true).open(state).and_then(|mut file| file.write_all(b"THAWED"));
    }
}

fn end_hosts(record: &LabRecord) -> Vec<String> {
    record.machines.iter().for_each(|machine| thaw_containers(&lab_dir(&record.name).join(&machine.name)));
    // First all get the signal, then all are awaited: the kernel takes them apart side by side.
    let threads: Vec<_> = record
        .machines
        .iter()
        .map(|machine| {
            (
                machine,
                std::thread::spawn({
                    let init = machine.init;
                    move || init.kill_and_wait(KILL_LIMIT)
                }),
            )
        })
        .collect();
    threads
        .into_iter()
        .filter_map(|(machine, thread)| match thread.join() {
            Ok(true) => None,
            _ => Some(format!("{}: process {} does not end", machine.name, machine.init.pid)),
        })
        .collect()
}

/// Removes the control groups of the containers that the hosts of the lab ran. Docker names them after the container,
/// and every container has a folder below `HOST/docker/containers`.
fn remove_control_groups(lab: &Path) -> Vec<String> {
    let containers: Vec<_> = sub_dirs(lab).flat_map(|host| sub_dirs(&host.join("docker/containers"))).collect();
    if containers.is_empty() {
        return Vec::new();
    }
    let mut problems = Vec::new();
    // Version 1 has one tree per controller below this folder, version 2 a single one in it.
    let root = PathBuf::from("/sys/fs/cgroup");
    let trees: Vec<_> = sub_dirs(&root).chain([root.clone()]).map(|tree| tree.join("docker")).collect();
    for docker in trees.iter().filter(|tree| tree.is_dir()) {
        for group in containers.iter().filter_map(|dir| Some(docker.join(dir.file_name()?))) {
            if let Err(error) = remove_group(&group) {
                problems.push(format!("remove the control group {}: {error}", group.display()));
            }
        }
        // Shared by all labs: the kernel refuses as long as another one has a container in it.
        let _ = fs::remove_dir(docker);
    }
    problems
}

/// Removes a control group with the groups below it. Their processes are gone already, but the kernel may still be
/// letting go of them, so a refusal counts only after a while.
fn remove_group(group: &Path) -> io::Result<()> {
    for below in sub_dirs(group) {
        remove_group(&below)?;
    }
    let mut pause = Duration::from_millis(1);
    loop {
        match fs::remove_dir(group) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && pause < Duration::from_secs(1) => {
                std::thread::sleep(pause);
                pause *= 2;
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => return Ok(()),
        }
    }
}

fn sub_dirs(dir: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())))
        .map(|entry| entry.path())
}
