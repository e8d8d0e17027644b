//! The image `calico/node`: our binaries, BIRD, iptables and ipset, and the libraries that they load, nothing else.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{ImageConfig, Layer, write_image};
use crate::error::{Context, LabError, Result};

/// Where the image file of a build stands, given the folder of its binaries (`target/PROFILE`).
pub(crate) fn image_path(binaries: &Path) -> PathBuf {
    binaries.parent().unwrap_or(binaries).join("calico-node.tar")
}

/// What was built.
#[derive(Clone, Debug)]
pub struct NodeImage {
    /// Id of the image, as `docker images --no-trunc` shows it.
    pub id: String,
    /// Size of the archive in bytes.
    pub size: u64,
    /// The files that make up the size, in bytes, largest first.
    pub parts: Vec<(String, u64)>,
}

/// Programs of Debian's `bird2`: the daemon and its two clients (`birdcl` needs no terminal).
const BIRD: [&str; 3] = ["/usr/sbin/bird", "/usr/sbin/birdc", "/usr/sbin/birdcl"];

/// Programs of Debian's `iptables` and `ipset`, for hosts whose rules are iptables': both kinds, each with the names
/// that felix calls it by.
const XTABLES: [(&str, &str); 2] =
    [("/usr/sbin/xtables-nft-multi", "nft"), ("/usr/sbin/xtables-legacy-multi", "legacy")];
const IPSET: &str = "/usr/sbin/ipset";
/// Where iptables' extensions stand: one library for each kind of match and target.
const EXTENSIONS: &str = "/usr/lib/x86_64-linux-gnu/xtables";

const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Writes the image archive to `out`, with the binaries found in the folder `binaries`.
///
/// The archive replaces `out` only when it is complete. Debugging sections are left out.
///
/// # Errors
/// `calico-node` or `calico-felix` is not built, BIRD is not installed, or a file cannot be read or written.
pub fn write_node_image(out: &Path, binaries: &Path) -> Result<NodeImage> {
    let mut layer = Layer::default();
    let mut parts = Vec::new();
    for (name, needed) in [("calico-node", true), ("calico-felix", true), ("calicoctl", false)] {
        let path = binaries.join(name);
        if path.exists() {
            add_program(&mut layer, &mut parts, &format!("usr/bin/{name}"), &path)?;
        } else if needed {
            return Err(LabError::MissingFile { path, hint: "`make build` makes it" });
        }
    }
    for path in BIRD.map(Path::new) {
        if !path.exists() {
            return Err(LabError::MissingProgram { program: "bird", package: "bird2" });
        }
        add_program(&mut layer, &mut parts, &path.display().to_string(), path)?;
    }
    add_iptables(&mut layer, &mut parts)?;
    add_surroundings(&mut layer)?;
    let strings = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect();
    let version = env!("CARGO_PKG_VERSION");
    let config = ImageConfig {
        tags: vec!["calico/node:latest".to_owned(), format!("calico/node:v{version}")],
        entrypoint: strings(&["calico-node"]),
        command: strings(&["run"]),
        environment: strings(&["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]),
        labels: vec![("org.opencontainers.image.version".to_owned(), version.to_owned())],
    };
    let partial = out.with_extension("partial");
    let what = || format!("write {}", out.display());
    let mut file = BufWriter::new(File::create(&partial).context(what)?);
    let id = write_image(&mut file, &layer, &config).context(what)?;
    file.flush().context(what)?;
    fs::rename(&partial, out).context(what)?;
    let size = fs::metadata(out).context(what)?.len();
    parts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    Ok(NodeImage { id, size, parts })
}

/// The second renderer's programs.
fn add_iptables(layer: &mut Layer, parts: &mut Vec<(String, u64)>) -> Result<()> {
    for (path, kind) in XTABLES {
        if !Path::new(path).exists() {
            return Err(LabError::MissingProgram { program: "iptables", package: "iptables" });
        }
        add_program(layer, parts, path, Path::new(path))?;
        let target = path.rsplit('/').next().unwrap_or(path);
        for family in ["iptables", "ip6tables"] {
            for suffix in ["", "-save", "-restore"] {
                layer.add_link(&format!("usr/sbin/{family}-{kind}{suffix}"), target);
            }
        }
    }
    if !Path::new(IPSET).exists() {
        return Err(LabError::MissingProgram { program: "ipset", package: "ipset" });
    }
    add_program(layer, parts, IPSET, Path::new(IPSET))?;
    let what = || format!("read {EXTENSIONS}");
    let mut names = fs::read_dir(EXTENSIONS)
        .and_then(|entries| entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect())
        .context(what)
        .map(|names: Vec<String>| names)?;
    // Those of ebtables and arptables are not asked for.
    names.retain(|name| ["libxt_", "libipt_", "libip6t_"].iter().any(|prefix| name.starts_with(prefix)));
    names.sort_unstable();
    for name in names {
        let path = format!("{EXTENSIONS}/{name}");
        let target = path.trim_start_matches('/').to_owned();
        match fs::read_link(&path) {
            Ok(link) => layer.add_link(&target, &link.display().to_string()),
            Err(_) => {
                let content = fs::read(&path).context(|| format!("read {path}"))?;
                parts.push((target.clone(), content.len() as u64));
                layer.add_bytes(&target, content, 0o644);
            }
        }
    }
    Ok(())
}

/// Adds a program and the shared libraries that it needs, at the paths where the loader looks for them.
fn add_program(layer: &mut Layer, parts: &mut Vec<(String, u64)>, target: &str, source: &Path) -> Result<()> {
    let mut add = |target: &str, content: Vec<u8>| {
        let target = target.trim_start_matches('/').to_owned();
        parts.retain(|(name, _)| *name != target);
        parts.push((target.clone(), content.len() as u64));
        layer.add_bytes(&target, content, 0o755);
    };
    add(target, stripped(source)?);
    for library in libraries(source)? {
        add(&library, fs::read(&library).context(|| format!("read {library}"))?);
    }
    Ok(())
}

/// The content of a program without debugging sections and symbols: every host of a lab has a copy.
fn stripped(program: &Path) -> Result<Vec<u8>> {
    let what = || format!("read {}", program.display());
    let copy = std::env::temp_dir().join(format!("calico-lab-strip-{}", std::process::id()));
    let outcome = Command::new("strip").arg("--strip-all").arg("-o").arg(&copy).arg(program).output();
    let stripped = outcome.is_ok_and(|output| output.status.success()).then(|| fs::read(&copy).ok()).flatten();
    let _ = fs::remove_file(&copy);
    // Without binutils the image is larger, and works all the same.
    stripped.map_or_else(|| fs::read(program).context(what), Ok)
}

/// Shared libraries of a program and its loader, as `ldd` finds them.
fn libraries(program: &Path) -> Result<Vec<String>> {
    let output = Command::new("ldd").arg(program).output().context(|| "run ldd".into())?;
    let text = String::from_utf8_lossy(&output.stdout);
    if let Some(missing) = text.lines().find(|line| line.contains("not found")) {
        return Err(LabError::Command {
            host: "this machine".to_owned(),
            command: format!("ldd {}", program.display()),
            outcome: "misses a library".to_owned(),
            output: missing.trim().to_owned(),
        });
    }
    Ok(parse_ldd(&text))
}

/// Lines are `NAME => PATH (ADDRESS)`, `PATH (ADDRESS)` for the loader, `NAME (ADDRESS)` for the kernel's own object.
fn parse_ldd(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| {
            let path = line.rsplit_once("=> ").map_or(line, |(_, path)| path).trim();
            let path = path.rsplit_once(" (").map_or(path, |(path, _)| path);
            path.starts_with('/').then(|| path.to_owned())
        })
        .collect()
}

/// What programs expect to find around them: users, name service, places to write.
fn add_surroundings(layer: &mut Layer) -> Result<()> {
    layer.add_text(
        "etc/passwd",
        "root:x:0:0:root:/root:/usr/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    );
    layer.add_text("etc/group", "root:x:0:\nnogroup:x:65534:\n");
    layer.add_text("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n");
    for dir in ["etc/calico", "lib/modules", "root", "run/calico", "var/lib/calico", "var/log/calico"] {
        layer.add_dir(dir, 0o755);
    }
    layer.add_dir("tmp", 0o1777);
    layer.add_link("var/run", "../run");
    if Path::new(AUTHORITIES).exists() {
        let bundle = fs::read(AUTHORITIES).context(|| format!("read {AUTHORITIES}"))?;
        layer.add_bytes(AUTHORITIES, bundle, 0o644);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_ldd() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n\tstatically linked\n";
        assert_eq!(parse_ldd(text), ["/lib/x86_64-linux-gnu/libz.so.1", "/lib64/ld-linux-x86-64.so.2"]);
    }

    #[test]
    fn the_image_has_bird_with_its_libraries_and_is_reproducible() {
        let dir = tempfile::tempdir().unwrap();
        let error = write_node_image(&dir.path().join("x.tar"), dir.path()).unwrap_err();
        assert!(matches!(error, LabError::MissingFile { .. }), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");

        for name in ["calico-node", "calico-felix"] {
            fs::copy("/bin/true", dir.path().join(name)).unwrap();
        }
        let image = write_node_image(&dir.path().join("a.tar"), dir.path()).unwrap();
        let again = write_node_image(&dir.path().join("b.tar"), dir.path()).unwrap();
        assert_eq!(image.id, again.id);
        assert_eq!(fs::read(dir.path().join("a.tar")).unwrap(), fs::read(dir.path().join("b.tar")).unwrap());

        // Run BIRD with nothing but the image's own files around it.
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        let unpack = "tar -xf a.tar --wildcards '*/layer.tar' && tar -xf */layer.tar -C root";
        assert!(Command::new("sh").args(["-c", unpack]).current_dir(dir.path()).status().unwrap().success());
        for (program, says) in [
            ("bird --version", "BIRD version"),
            ("birdc", "Unable to connect to server control socket"),
            ("birdcl", "Unable to connect to server control socket"),
            ("iptables-nft-restore --version", "(nf_tables)"),
            ("ip6tables-legacy-restore --version", "(legacy)"),
            ("iptables-nft -m set --help", "set match options"),
            ("ip6tables-nft -m rpfilter --help", "rpfilter match options"),
            ("ipset version", "ipset v"),
        ] {
            let run = Command::new("chroot").arg(&root).args(program.split(' ')).output().unwrap();
            let said = String::from_utf8_lossy(&run.stderr).into_owned() + &String::from_utf8_lossy(&run.stdout);
            assert!(said.contains(says), "{program}: {said}");
        }
    }
}
