//! The images of a host, given to its Docker as files instead of by `docker load`.
//!
//! Loading `calico/node` costs Docker two seconds of processor time and writes the whole image to disk, on every host
//! of every lab. The first host loads it; what its Docker made of it, the layers and the notes about them, is kept
//! beside the image's archive, and later hosts start on hard links to that. Layers are never written to: a container's
//! changes go to a layer of its own, and taking an image away removes names only.
//!
//! Kept are only layers of Docker's driver `overlay2`, whose folders mean the same wherever they stand. With any other
//! driver every host loads its images, and so it does when its Docker does not know those that it was given.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use crate::error::{Context, LabError, Result};
use crate::host::Host;

/// Docker's data folder in the folder of a host.
pub(crate) const DOCKER: &str = "docker";
/// What Docker keeps of images there: notes, some of which it rewrites, and layers.
const NOTES: &str = "image";
const LAYERS: &str = "overlay2";
/// Says of which archives the images are; written last.
const STAMP: &str = "of";
/// One of the names of the image that makes it worth it.
const WANTED: &str = "calico/node:latest";

/// Archives of images that a lab's hosts shall have.
pub(crate) struct Images<'a> {
    /// The small ones that every host has.
    pub(crate) busybox: &'a Path,
    /// That of `calico/node`.
    pub(crate) node: Option<&'a Path>,
}

impl Images<'_> {
    /// Starts Docker on a host, with the images. Of several that do it at the same time one loads and the others wait.
    pub(crate) fn start_docker(&self, host: &Host) -> Result<()> {
        let Some(node) = self.node else { return self.load(host) };
        let (kept, stamp) = (node.with_extension("docker"), self.stamp(node)?);
        let path = node.with_extension("docker.lock");
        let locking = || format!("lock {}", path.display());
        let lock = File::create(&path).context(locking)?;
        lock.lock_shared().context(locking)?;
        if !is_of(&kept, &stamp) {
            lock.unlock().context(locking)?;
            lock.lock().context(locking)?;
            // Another one may have been quicker.
            if !is_of(&kept, &stamp) {
                self.load(host)?;
                return keep(&host.dir().join(DOCKER), &kept, &stamp);
            }
        }
        copy_images(&kept, &host.dir().join(DOCKER))?;
        drop(lock);
        host.start_docker()?;
        if host.docker_has(&format!("/images/{WANTED}/json")) { Ok(()) } else { self.load_archives(host) }
    }

    fn load(&self, host: &Host) -> Result<()> {
        host.start_docker()?;
        self.load_archives(host)
    }

    fn load_archives(&self, host: &Host) -> Result<()> {
        host.load_image(self.busybox)?;
        self.node.map_or(Ok(()), |node| host.load_image(node))
    }

    /// Differs when an archive does. The small one is made anew for each lab, from one program of the machine.
    fn stamp(&self, node: &Path) -> Result<String> {
        let look = |path: &Path| fs::metadata(path).context(|| format!("look at {}", path.display()));
        let (small, node) = (look(self.busybox)?, look(node)?);
        Ok(format!("{} {} {}.{:09}\n", small.len(), node.len(), node.mtime(), node.mtime_nsec()))
    }
}

fn is_of(kept: &Path, stamp: &str) -> bool {
    fs::read_to_string(kept.join(STAMP)).is_ok_and(|text| text == stamp)
}

/// Keeps the images of a Docker that has just loaded them and runs no container yet.
fn keep(docker: &Path, kept: &Path, stamp: &str) -> Result<()> {
    if kept.exists() {
        // First, so that a removal that is cut short leaves nothing that looks whole.
        let _ = fs::remove_file(kept.join(STAMP));
        fs::remove_dir_all(kept).context(|| format!("remove {}", kept.display()))?;
    }
    if !docker.join(NOTES).join(LAYERS).exists() {
        return Ok(());
    }
    fs::create_dir_all(kept).context(|| format!("make {}", kept.display()))?;
    copy_images(docker, kept)?;
    let path = kept.join(STAMP);
    fs::write(&path, stamp).context(|| format!("write {}", path.display()))
}

fn copy_images(from: &Path, to: &Path) -> Result<()> {
    copy(&[], &from.join(NOTES), to)?;
    // Between two file systems there are no links.
    copy(&["--link"], &from.join(LAYERS), to).or_else(|_| {
        let half = to.join(LAYERS);
        if half.exists() {
            fs::remove_dir_all(&half).context(|| format!("remove {}", half.display()))?;
        }
        copy(&["--reflink=auto"], &from.join(LAYERS), to)
    })
}

/// Copies a folder with all that belongs to its files into another folder.
fn copy(options: &[&str], from: &Path, to: &Path) -> Result<()> {
    let what = || format!("copy {} to {}", from.display(), to.display());
    let output = Command::new("cp").arg("--archive").args(options).args([from, to]).output().context(what)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(LabError::Io { what: what(), source: std::io::Error::other(said) })
}
