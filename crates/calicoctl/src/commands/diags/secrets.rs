//! What this host keeps as secrets, so that it can be struck wherever it occurs.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{Sources, scrub::Scrubber};

/// Bytes; what is larger is no file of a password or of settings.
const MOST: u64 = 8 << 20;

/// Reads what can be read; what cannot does not get into the archive through these files either.
pub(super) fn of(sources: &Sources<'_>) -> Scrubber {
    let mut scrubber = Scrubber::default();
    for (name, value) in std::env::vars() {
        scrubber.know_those_of_settings(&format!("{name}={value}"));
    }
    let etc = &sources.places.etc;
    for file in files_below(etc, 2) {
        let Some(text) = read(&file) else { continue };
        scrubber.know_those_of_settings(&text);
        if let Ok(documents) = calico_model::input::documents(&text) {
            documents.iter().for_each(|data| scrubber.know_those_of_data(data));
        }
    }
    // No program of ours writes a password into it, but somebody may.
    let record = sources.datastore.folder.join("location.env");
    if let Some(text) = read(&record) {
        scrubber.know_those_of_settings(&text);
    }
    // Each of these holds one password and nothing else.
    let passwords = files_below(&etc.join("bgp-secrets"), 3).into_iter().chain(password_files(etc, record));
    for text in passwords.filter_map(|file| read(&file)) {
        scrubber.know(&text);
    }
    for configuration in sources.places.bird_configurations().iter().filter_map(|file| read(file)) {
        scrubber.know_those_of_bird(&configuration);
    }
    scrubber
}

/// The files that settings name as holding etcd's password.
fn password_files(etc: &Path, record: PathBuf) -> Vec<PathBuf> {
    const NAMES: [&str; 2] = ["ETCD_PASSWORD_FILE", "CALICO_ETCD_PASSWORD_FILE"];
    let mut files: Vec<PathBuf> = NAMES.iter().filter_map(std::env::var_os).map(PathBuf::from).collect();
    for text in files_below(etc, 2).into_iter().chain([record]).filter_map(|file| read(&file)) {
        let named = text.lines().filter_map(|line| line.trim().split_once('='));
        let named = named.filter(|(name, _)| NAMES.iter().any(|known| name.ends_with(known)));
        files.extend(named.map(|(_, file)| PathBuf::from(file.trim_matches(['"', '\'']))));
    }
    files
}

/// Regular files of a folder and of those in it, as deep as said. Links are not followed.
pub(super) fn files_below(folder: &Path, depth: usize) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_file() => found.push(entry.path()),
            Ok(kind) if kind.is_dir() && depth > 1 => found.extend(files_below(&entry.path(), depth - 1)),
            _ => {}
        }
    }
    found.sort();
    found
}

/// A small text file.
pub(super) fn read(path: &Path) -> Option<String> {
    // A pipe in the file's place would be waited for.
    if !path.metadata().is_ok_and(|found| found.is_file() && found.len() <= MOST) {
        return None;
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path).ok()?.take(MOST).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The settings in a file of upstream's form.
pub(super) fn settings_of(text: &str) -> Option<serde_json::Map<String, Value>> {
    match calico_model::input::documents(text).ok()?.into_iter().next()? {
        Value::Object(mut file) => match file.remove("spec") {
            Some(Value::Object(spec)) => Some(spec),
            _ => None,
        },
        _ => None,
    }
}
