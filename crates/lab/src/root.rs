//! What a host sees as `/`.
//!
//! A host shares the machine's programs, but nothing that it writes may reach the machine or another host. Its root is
//! therefore an overlay: the machine's files below, a private memory file system above. Directories that a real host
//! fills with much data (`/var/lib/docker`, `/var/log`) are bound from the lab's own folder on disk; `/run`, `/sys`
//! and `/proc` are made anew; `/etc` gets the host's own names. The lab's folder itself is hidden.
//!
//! `/sys` is new because it shows the network of whoever mounted it; the mounts below it are carried over, because
//! without the control groups `dockerd` refuses to start.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_bind, mount_change,
    mount_remount, move_mount, open_tree, unmount,
};
use rustix::process::{chdir, pivot_root};
use rustix::system::sethostname;

use crate::error::{Context, Result};

/// Where the folder with the binaries under test is visible inside a host, read-only.
pub(crate) const BINARIES: &str = "/run/calico-lab/bin";

/// Programs of ours that `/usr/local/bin` of a host points to, when they are built.
const PROGRAMS: [&str; 4] = ["calicoctl", "calico-node", "calico-felix", "calico-lab"];

/// Everything about a host's files that differs from the machine's.
pub(crate) struct HostRoot<'a> {
    /// Host name.
    pub(crate) name: &'a str,
    /// An empty folder of the machine; used while the root is put together, empty again afterwards.
    pub(crate) stage: &'a Path,
    /// Folders of the machine and where the host sees them, writable.
    pub(crate) binds: &'a [(PathBuf, &'static str)],
    /// Folder with the binaries under test.
    pub(crate) binaries: &'a Path,
    /// The folder of all labs, empty in the host's view.
    pub(crate) hidden: &'a Path,
    /// Files of its own, such as `/etc/hosts`.
    pub(crate) files: &'a [HostFile],
}

impl HostRoot<'_> {
    /// Builds the root and moves the calling thread into it. The thread must be alone in new mount and host-name
    /// namespaces; `/proc` stays empty, since only a process inside the new process namespace can mount it.
    pub(crate) fn enter(&self) -> Result<()> {
        mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)
            .context(|| "cut the host's mounts off the machine's".into())?;
        let carried = self.pick_up()?;
        self.overlay_everything()?;
        pivot_into(&self.stage.join("root"))?;
        self.fill(carried)?;
        sethostname(self.name.as_bytes()).context(|| format!("set the host name {}", self.name))?;
        // Like a host that systemd set up: mounts made by Docker and seen by its containers, and the other way round.
        mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::SHARED)
            .context(|| "share the mounts within the host".into())
    }

    /// Takes hold of the machine's mounts that the host keeps, before the machine's tree is out of sight.
    fn pick_up(&self) -> Result<Vec<Carried>> {
        let mut carried = vec![Carried::pick("/dev", "/dev", true)?];
        for point in mount_points()?.iter().filter(|m| m.path.starts_with("/sys") && m.path != Path::new("/sys")) {
            let path = point.path.as_path();
            if !carried.iter().any(|c: &Carried| path.starts_with(&c.target)) {
                carried.push(Carried::pick(path, path, true)?);
            }
        }
        for (source, target) in self.binds {
            carried.push(Carried::pick(source, *target, false)?);
        }
        carried.push(Carried::pick(self.binaries, BINARIES, false)?);
        Ok(carried)
    }

    /// Lays a writable memory layer over the root file system and over every other file system on a disk.
    fn overlay_everything(&self) -> Result<()> {
        let stage = self.stage;
        mount("calico-lab", stage, "tmpfs", MountFlags::empty(), c"mode=0755")
            .context(|| format!("mount the writable layer at {}", stage.display()))?;
        let root = stage.join("root");
        fs::create_dir(&root).context(|| format!("make {}", root.display()))?;
        self.overlay(Path::new("/"), &root, 0)?;
        for (number, point) in mount_points()?.iter().filter(|m| m.is_disk()).enumerate() {
            let target = root.join(point.path.strip_prefix("/").unwrap_or(&point.path));
            if !target.is_dir() {
                continue;
            }
            if self.overlay(&point.path, &target, number + 1).is_err() {
                // A file system that overlayfs cannot stack on (FAT, for one) is shown as it is, but never written.
                mount_bind(&point.path, &target)
                    .and_then(|()| mount_remount(&target, MountFlags::BIND | MountFlags::RDONLY, c""))
                    .context(|| format!("show {} to the host", point.path.display()))?;
            }
        }
        Ok(())
    }

    fn overlay(&self, lower: &Path, target: &Path, number: usize) -> Result<()> {
        let upper = self.stage.join(format!("upper-{number}"));
        let work = self.stage.join(format!("work-{number}"));
        for dir in [&upper, &work] {
            fs::create_dir(dir).context(|| format!("make {}", dir.display()))?;
        }
        // The upper folder becomes the top of the merged one and would otherwise change its permissions.
        fs::metadata(lower)
            .and_then(|meta| fs::set_permissions(&upper, meta.permissions()))
            .context(|| format!("copy the permissions of {}", lower.display()))?;
        let options = format!("lowerdir={},upperdir={},workdir={}", escape(lower), escape(&upper), escape(&work));
        CString::new(options)
            .map_err(io::Error::from)
            .and_then(|options| Ok(mount("calico-lab", target, "overlay", MountFlags::empty(), options.as_c_str())?))
            .context(|| format!("lay a writable layer over {}", lower.display()))
    }

    /// Fills the new root in. From here on every path is the host's own, so a symbolic link of the machine cannot lead
    /// a write back to it.
    fn fill(&self, carried: Vec<Carried>) -> Result<()> {
        mount("sysfs", "/sys", "sysfs", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, c"")
            .context(|| "mount the host's /sys".into())?;
        mount("tmpfs", "/run", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=0755")
            .context(|| "mount the host's /run".into())?;
        make_dir("/run/lock", 0o1777)?;
        for mount in carried {
            mount.attach()?;
        }
        mount_remount(BINARIES, MountFlags::BIND | MountFlags::RDONLY, c"")
            .context(|| format!("make {BINARIES} read-only"))?;
        if fs::canonicalize("/var/run").is_ok_and(|path| path != Path::new("/run")) {
            mount_bind("/run", "/var/run").context(|| "mount the host's /var/run".into())?;
        }
        if self.hidden.is_dir() {
            mount("tmpfs", self.hidden, "tmpfs", MountFlags::RDONLY, c"mode=0700")
                .context(|| format!("hide {}", self.hidden.display()))?;
        }
        for stale in ["/etc/calico", "/var/lib/calico", "/etc/docker"] {
            remove(Path::new(stale))?;
        }
        for own in ["/etc/calico", "/var/lib/calico"] {
            make_dir(own, 0o755)?;
        }
        self.files.iter().try_for_each(HostFile::write)?;
        for program in PROGRAMS {
            let link = Path::new("/usr/local/bin").join(program);
            remove(&link)?;
            symlink(Path::new(BINARIES).join(program), &link).context(|| format!("link {}", link.display()))?;
        }
        Ok(())
    }
}

/// A file that a host has of its own.
pub(crate) struct HostFile {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
    pub(crate) mode: u32,
}

impl HostFile {
    pub(crate) fn new(path: impl Into<PathBuf>, mode: u32, text: impl Into<String>) -> Self {
        Self { path: path.into(), text: text.into(), mode }
    }

    /// Replaces whatever is at the path, also a symbolic link, by the file.
    fn write(&self) -> Result<()> {
        remove(&self.path)?;
        if let Some(parent) = self.path.parent() {
            fs::create_dir_all(parent).context(|| format!("make {}", parent.display()))?;
        }
        fs::write(&self.path, &self.text)
            .and_then(|()| fs::set_permissions(&self.path, fs::Permissions::from_mode(self.mode)))
            .context(|| format!("write the host's {}", self.path.display()))
    }
}

/// A mount of the machine on its way into the host.
struct Carried {
    tree: OwnedFd,
    target: PathBuf,
}

impl Carried {
    fn pick(source: impl AsRef<Path>, target: impl Into<PathBuf>, with_mounts_below: bool) -> Result<Self> {
        let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        flags.set(OpenTreeFlags::AT_RECURSIVE, with_mounts_below);
        let source = source.as_ref();
        let tree = open_tree(CWD, source, flags).context(|| format!("take hold of {}", source.display()))?;
        Ok(Self { tree, target: target.into() })
    }

    fn attach(self) -> Result<()> {
        let Self { tree, target } = self;
        // Exists already for /dev and for what the kernel shows in /sys, where nothing can be made.
        if !target.exists() {
            fs::create_dir_all(&target).context(|| format!("make the host's {}", target.display()))?;
        }
        move_mount(&tree, "", CWD, &target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .context(|| format!("mount the host's {}", target.display()))
    }
}

/// Makes `root` the root of the calling thread and lets go of the old one.
fn pivot_into(root: &Path) -> Result<()> {
    let what = || format!("make {} the host's root", root.display());
    chdir(root).context(what)?;
    // With both arguments the same, the old root ends up on top of the new one, where it can be taken off.
    pivot_root(".", ".").context(what)?;
    unmount(".", UnmountFlags::DETACH).context(|| "let go of the machine's root".into())?;
    chdir("/").context(what)
}

fn make_dir(path: impl AsRef<Path>, mode: u32) -> Result<()> {
    let path = path.as_ref();
    fs::create_dir_all(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
        .context(|| format!("make the host's {}", path.display()))
}

/// Removes a file, a link or a folder with all in it; nothing there is fine.
fn remove(path: &Path) -> Result<()> {
    let outcome = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    outcome.context(|| format!("clear the host's {}", path.display()))
}

/// A path as overlayfs wants it in its options, where `:` and `,` separate.
fn escape(path: &Path) -> String {
    path.display().to_string().replace('\\', r"\\").replace(':', r"\:").replace(',', r"\,")
}

/// One line of `/proc/self/mountinfo`.
#[derive(Debug, PartialEq, Eq)]
struct MountPoint {
    path: PathBuf,
    file_system: String,
    source: String,
}

impl MountPoint {
    /// Fields: id, parent, device, root, *mount point*, options, optional fields, `-`, *type*, *source*, more options.
    fn parse(line: &str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let mut after = after.split(' ');
        Some(Self {
            path: unescape(before.split(' ').nth(4)?).into(),
            file_system: after.next()?.to_owned(),
            source: unescape(after.next()?),
        })
    }

    /// Whether files that people keep are on it, and it is not one of those that every host has anew.
    fn is_disk(&self) -> bool {
        const ANEW: [&str; 5] = ["/dev", "/proc", "/run", "/sys", "/var/run"];
        let on_disk = self.source.starts_with("/dev/")
            || matches!(self.file_system.as_str(), "zfs" | "9p" | "virtiofs" | "nfs" | "nfs4");
        on_disk && self.path != Path::new("/") && !ANEW.iter().any(|dir| self.path.starts_with(dir))
    }
}

/// The mounts that the calling thread sees, sorted so that outer ones come first; of several on one path only one.
fn mount_points() -> Result<Vec<MountPoint>> {
    let text = fs::read_to_string("/proc/thread-self/mountinfo").context(|| "read the list of mounts".into())?;
    let mut points: Vec<_> = text.lines().filter_map(MountPoint::parse).collect();
    points.sort_by(|a, b| a.path.cmp(&b.path));
    points.dedup_by(|a, b| a.path == b.path);
    Ok(points)
}

/// The kernel writes blank, tab, line feed and backslash in paths as three octal digits.
fn unescape(text: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .into_iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(text.to_owned(), |text, (code, plain)| text.replace(code, plain))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_the_kernels_list_of_mounts() {
        let point = MountPoint::parse(
            r"36 35 98:0 /mnt1 /data/my\040disk rw,noatime master:1 - ext3 /dev/sd\040a rw,errors=continue",
        );
        let expected =
            MountPoint { path: "/data/my disk".into(), file_system: "ext3".into(), source: "/dev/sd a".into() };
        assert_eq!(point, Some(expected));
        assert_eq!(MountPoint::parse("36 35 98:0 /mnt1"), None);
    }

    #[test]
    fn only_disks_get_a_writable_layer() {
        let disk = |path: &str, file_system: &str, source: &str| {
            MountPoint { path: path.into(), file_system: file_system.into(), source: source.into() }.is_disk()
        };
        assert!(disk("/var", "ext4", "/dev/sda2"));
        assert!(disk("/home", "zfs", "tank/home"));
        assert!(!disk("/", "ext4", "/dev/sda1"), "the root is laid first, on its own");
        assert!(!disk("/tmp", "tmpfs", "tmpfs"));
        assert!(!disk("/run/media/usb", "ext4", "/dev/sdb1"), "every host has a /run of its own");
        assert!(disk("/runner", "ext4", "/dev/sdb1"), "a path is compared by its parts");
    }

    #[test]
    fn a_path_cannot_add_overlay_options() {
        assert_eq!(escape(Path::new(r"/a,upperdir=/b:c\d")), r"/a\,upperdir=/b\:c\\d");
    }
}
