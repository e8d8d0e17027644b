//! Container images made from files of this machine: no registry, no base image, no daemon.
//!
//! An image is a tar archive in the layout that `docker load` reads: a manifest, a configuration and one layer. The
//! same input gives the same bytes: entries are sorted, times are zero, owners are root.

mod layer;
mod node;
mod tar;

use std::io::{self, Write};

use serde_json::json;
use sha2::{Digest, Sha256};

pub use layer::Layer;
pub(crate) use node::image_path;
pub use node::{NodeImage, write_node_image};

use crate::error::{Context, LabError, Result};
use std::path::Path;
use tar::{Entry, TarWriter};

/// What an image says about itself besides its files.
#[derive(Clone, Debug, Default)]
pub struct ImageConfig {
    /// Names with tags, such as `ubuntu:latest`.
    pub tags: Vec<String>,
    /// What runs when nothing else is asked for.
    pub command: Vec<String>,
    /// What runs in front of the command.
    pub entrypoint: Vec<String>,
    /// Environment, as `NAME=value`.
    pub environment: Vec<String>,
    /// Labels, as name and value.
    pub labels: Vec<(String, String)>,
}

/// Writes an image archive and returns the image's id, the digest of its configuration.
///
/// # Errors
/// `out` cannot be written.
pub fn write_image(out: impl Write, layer: &Layer, config: &ImageConfig) -> io::Result<String> {
    let layer = layer.to_tar()?;
    let layer_digest = hex(&Sha256::digest(&layer));
    let labels: serde_json::Map<_, _> =
        config.labels.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
    let description = json!({
        "architecture": architecture(),
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {
            "Cmd": config.command,
            "Entrypoint": if config.entrypoint.is_empty() { None } else { Some(&config.entrypoint) },
            "Env": config.environment,
            "Labels": labels,
            "WorkingDir": "/",
        },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer_digest}")] },
        "history": [{ "created": "1970-01-01T00:00:00Z", "created_by": "calico-lab image" }],
    });
    let description = serde_json::to_vec(&description)?;
    let id = hex(&Sha256::digest(&description));
    let (config_name, layer_name) = (format!("{id}.json"), format!("{layer_digest}/layer.tar"));
    let manifest = json!([{ "Config": config_name, "RepoTags": config.tags, "Layers": [layer_name] }]);
    let mut tar = TarWriter::new(out);
    tar.append(&layer_name, &Entry::file(layer, 0o644))?;
    tar.append(&config_name, &Entry::file(description, 0o644))?;
    tar.append("manifest.json", &Entry::file(serde_json::to_vec(&manifest)?, 0o644))?;
    tar.finish()?;
    Ok(id)
}

/// The stand-in for the small images of a registry: `busybox`, tagged `busybox` and `ubuntu`, with a shell to start.
///
/// # Errors
/// `busybox-static` is not installed, or `out` cannot be written.
pub fn write_busybox_image(out: impl Write) -> Result<String> {
    let busybox = Path::new("/bin/busybox");
    if !busybox.exists() {
        return Err(LabError::MissingProgram { program: "busybox", package: "busybox-static" });
    }
    let mut layer = Layer::default();
    layer.add_file("bin/busybox", busybox, 0o755).context(|| "read /bin/busybox".into())?;
    let applets = std::process::Command::new(busybox).arg("--list").output().context(|| "run busybox --list".into())?;
    for applet in String::from_utf8_lossy(&applets.stdout).lines().filter(|name| *name != "busybox") {
        layer.add_link(&format!("bin/{applet}"), "busybox");
    }
    layer.add_text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n");
    layer.add_text("etc/group", "root:x:0:\n");
    layer.add_dir("root", 0o700);
    layer.add_dir("tmp", 0o1777);
    let strings = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect();
    let config = ImageConfig {
        tags: strings(&["busybox:latest", "ubuntu:latest"]),
        command: strings(&["sh"]),
        environment: strings(&["PATH=/bin"]),
        ..ImageConfig::default()
    };
    write_image(out, &layer, &config).context(|| "write the busybox image".into())
}

/// The machine's architecture by the name that images use.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::collections::BTreeMap;
    use std::fs;
    use std::process::Command;

    /// Reads an archive with the independent `tar` tool.
    fn unpack(archive: &[u8]) -> (tempfile::TempDir, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("archive.tar");
        fs::write(&file, archive).unwrap();
        let list = Command::new("tar").args(["--numeric-owner", "-tvf"]).arg(&file).env("TZ", "UTC").output().unwrap();
        assert!(list.status.success(), "{}", String::from_utf8_lossy(&list.stderr));
        assert!(Command::new("tar").arg("-xf").arg(&file).arg("-C").arg(dir.path()).status().unwrap().success());
        fs::remove_file(file).unwrap();
        (dir, String::from_utf8(list.stdout).unwrap().lines().map(str::to_owned).collect())
    }

    #[test]
    fn the_archive_is_what_docker_load_reads() {
        let mut layer = Layer::default();
        layer.add_text("etc/deep/file", "hello");
        layer.add_link("bin/sh", "busybox");
        layer.add_dir("tmp", 0o1777);
        let config = ImageConfig { tags: vec!["x/y:z".into()], command: vec!["run".into()], ..ImageConfig::default() };
        let mut archive = Vec::new();
        let id = write_image(&mut archive, &layer, &config).unwrap();
        let (dir, _) = unpack(&archive);
        let read = |name: &str| fs::read(dir.path().join(name)).unwrap();
        let manifest: serde_json::Value = serde_json::from_slice(&read("manifest.json")).unwrap();
        assert_eq!(manifest[0]["RepoTags"], json!(["x/y:z"]));
        let description = read(manifest[0]["Config"].as_str().unwrap());
        assert_eq!(hex(&Sha256::digest(&description)), id);
        let description: serde_json::Value = serde_json::from_slice(&description).unwrap();
        assert_eq!(description["config"]["Cmd"], json!(["run"]));
        let layer_tar = read(manifest[0]["Layers"][0].as_str().unwrap());
        assert_eq!(description["rootfs"]["diff_ids"][0], format!("sha256:{}", hex(&Sha256::digest(&layer_tar))));

        let (files, list) = unpack(&layer_tar);
        assert_eq!(fs::read_to_string(files.path().join("etc/deep/file")).unwrap(), "hello");
        assert_eq!(fs::read_link(files.path().join("bin/sh")).unwrap().to_str(), Some("busybox"));
        let modes: BTreeMap<_, _> = list
            .iter()
            .map(|line| {
                assert!(line.contains(" 0/0 ") && line.contains(" 1970-01-01 00:00 "), "owner and time: {line}");
                let fields: Vec<_> = line.split_whitespace().collect();
                (fields[5].to_owned(), fields[0].to_owned())
            })
            .collect();
        assert_eq!(modes["tmp/"], "drwxrwxrwt");
        assert_eq!(modes["etc/deep/"], "drwxr-xr-x", "folders on the way are made");
        assert_eq!(modes["etc/deep/file"], "-rw-r--r--");
        assert_eq!(modes["bin/sh"], "lrwxrwxrwx");
    }

    #[test]
    fn the_same_input_gives_the_same_bytes_in_any_order() {
        let build = |names: &[&str]| {
            let mut layer = Layer::default();
            for name in names {
                layer.add_text(name, name);
            }
            let mut archive = Vec::new();
            write_image(&mut archive, &layer, &ImageConfig::default()).unwrap();
            archive
        };
        assert_eq!(build(&["a", "b/c", "b/d"]), build(&["b/d", "a", "b/c"]));
        assert_ne!(build(&["a", "b/c"]), build(&["a", "b/d"]));
    }
}
