//! Files of this host: logs, settings, BIRD's configuration, the kernel's settings.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::{
    Content, Item, Places,
    secrets::{files_below, read, settings_of},
};

/// Bytes of one log; its end is what matters.
const MOST_OF_ONE: u64 = 4 << 20;
/// Bytes of all logs.
const MOST_OF_ALL: u64 = 48 << 20;

/// Settings of the kernel that are shown. An allow-list: among the others are keys.
const SYSCTLS: &[&str] = &[
    "accept_local",
    "accept_ra",
    "accept_redirects",
    "accept_source_route",
    "arp_announce",
    "arp_filter",
    "arp_ignore",
    "bridge-nf-call-arptables",
    "bridge-nf-call-ip6tables",
    "bridge-nf-call-iptables",
    "bridge-nf-filter-vlan-tagged",
    "disable_ipv6",
    "forwarding",
    "gc_thresh1",
    "gc_thresh2",
    "gc_thresh3",
    "ip_forward",
    "ip_local_port_range",
    "log_martians",
    "mtu",
    "nf_conntrack_buckets",
    "nf_conntrack_count",
    "nf_conntrack_max",
    "nf_conntrack_tcp_be_liberal",
    "nf_conntrack_tcp_loose",
    "proxy_arp",
    "proxy_ndp",
    "rmem_max",
    "route_localnet",
    "rp_filter",
    "send_redirects",
    "somaxconn",
    "src_valid_mark",
    "tcp_l3mdev_accept",
    "wmem_max",
];

/// The kernel's settings, `name = value` by line.
pub(super) fn sysctls(root: &Path) -> Vec<Item> {
    let is_shown =
        |path: &PathBuf| path.file_name().and_then(|name| name.to_str()).is_some_and(|name| SYSCTLS.contains(&name));
    let line = |path: PathBuf| {
        let value = std::fs::read_to_string(&path).ok()?;
        let name = path.strip_prefix(root).ok()?.display().to_string();
        Some(format!("net/{name} = {}\n", value.trim()))
    };
    let text: String = files_below(root, 4).into_iter().filter(is_shown).filter_map(line).collect();
    let fault = text.is_empty().then(|| format!("nothing can be read below {}", root.display()));
    vec![Item::text("sysctl", text).but(fault)]
}

/// Settings of calicoctl and of the service; of every other file only who may read it.
pub(super) fn settings(etc: &Path) -> Vec<Item> {
    let mut items = vec![listing(etc)];
    for file in files_below(etc, 1) {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(text) = read(&file) else { continue };
        let content = match name.rsplit_once('.').map(|(_, end)| end) {
            Some("env") => Some(Content::Settings(text)),
            Some("cfg" | "yaml" | "yml") => settings_of(&text).map(Content::SettingsOf),
            _ => None,
        };
        if let Some(content) = content {
            items.push(Item { name: format!("settings/{name}"), content, fault: None });
        }
    }
    items
}

/// Names, sizes, modes and owners of files.
pub(super) fn listing(folder: &Path) -> Item {
    let line = |path: PathBuf| {
        let found = path.symlink_metadata().ok()?;
        let (mode, owner, size) = (found.mode() & 0o7777, found.uid(), found.len());
        Some(format!("{mode:04o} {owner:>6} {size:>9} {}\n", path.display()))
    };
    let text: String = files_below(folder, 3).into_iter().filter_map(line).collect();
    let fault = text.is_empty().then(|| format!("there are no files in {}", folder.display()));
    Item { name: "settings/files".to_owned(), content: Content::Paths(text), fault }
}

/// BIRD's configuration, and what BIRD has refused of it.
pub(super) fn bird(places: &Places) -> Vec<Item> {
    let mut items = Vec::new();
    for (index, path) in places.bird_configurations().into_iter().enumerate() {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let name = if index == 0 { name } else { format!("bird/{index}-{name}") };
        items.extend(read(&path).map(|text| Item::text(name, text)));
    }
    if items.is_empty() {
        items.push(Item::missing("bird.cfg", format!("there is none in {}", places.run.display())));
    }
    items
}

/// The ends of the logs, of the newest first, as far as there is room.
pub(super) fn logs(folder: &Path) -> Vec<Item> {
    let age = |path: &PathBuf| path.metadata().and_then(|found| found.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    let mut files = files_below(folder, 2);
    files.retain(|path| path.file_name().is_none_or(|name| name != "lock"));
    files.sort_by_key(|path| std::cmp::Reverse(age(path)));
    if files.is_empty() {
        return vec![Item::missing("logs", format!("no logs found in {}; say with --log-dir where", folder.display()))];
    }
    let mut room = MOST_OF_ALL;
    let mut items = Vec::new();
    for file in files {
        let below = file.strip_prefix(folder).unwrap_or(&file).display();
        let name = format!("logs/{below}");
        items.push(match end_of(&file, room.min(MOST_OF_ONE)) {
            Ok((text, is_cut)) => {
                room = room.saturating_sub(text.len() as u64);
                Item::text(name, text).but(is_cut.then(|| "only its end".to_owned()))
            }
            Err(fault) => Item::missing(name, fault),
        });
    }
    items
}

/// The last lines of a file, and whether there are more.
fn end_of(path: &Path, most: u64) -> Result<(String, bool), String> {
    let failed = |error: std::io::Error| error.to_string();
    let mut file = File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    if most == 0 && size > 0 {
        return Err("no room is left for it".to_owned());
    }
    let begin = size.saturating_sub(most);
    file.seek(SeekFrom::Start(begin)).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes).map_err(failed)?;
    // Secrets in it could not be seen.
    if bytes.contains(&0) || bytes.starts_with(&[0x1f, 0x8b]) {
        return Err("it is no text".to_owned());
    }
    let text = String::from_utf8_lossy(&bytes);
    // The first line is cut somewhere, perhaps in the middle of a secret.
    let text = if begin == 0 { &text } else { text.split_once('\n').map_or("", |(_, rest)| rest) };
    Ok((text.to_owned(), begin > 0))
}
