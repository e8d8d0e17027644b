//! From files, directories and standard input to resources.
//!
//! Everything is read and brought into form before anything is done: one bad document, and nothing happens. All that
//! is wrong is told at once, with the file and the number of the resource in it.

use std::{
    io,
    path::{Path, PathBuf},
};

use calico_model::{
    AnyResource, KindName, Metadata, Revision,
    input::{self, InputError},
};
use serde_json::Value;

use super::{kinds, words};
use crate::{args::Files, context::Console, failure::Failure};

/// Larger texts are no resources, but a wrong file.
const LARGEST: u64 = 64 << 20;

/// A resource as somebody wrote it.
#[derive(Clone, Debug)]
pub(super) struct Item {
    /// The resource; neither completed nor validated.
    pub(super) resource: AnyResource,
    /// Where it was written, for messages: a file, and which resource in it. Empty if there is no doubt.
    pub(super) place: String,
}

/// What a resource is called, from a file of which nothing more is wanted.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) kind: KindName,
    pub(super) metadata: Metadata,
    /// The version that the file speaks of.
    pub(super) revision: Option<Revision>,
    /// As for an [`Item`].
    pub(super) place: String,
}

/// A text and its name.
struct Text {
    name: String,
    text: String,
}

/// The resources that `-f` names, in order. None only with `--skip-empty`.
///
/// # Errors
/// Files that cannot be read, or hold nothing; every fault of form of every resource.
pub(super) fn read(console: &dyn Console, files: &Files) -> Result<Vec<Item>, Failure> {
    let parsed = read_with(console, files, |kind, value| supported(kind, &value).and_then(|()| input::parse(value)))?;
    Ok(parsed.into_iter().map(|(resource, place)| Item { resource, place }).collect())
}

/// As [`read`], for commands that want to know no more than names: the rest of a resource may be missing, or wrong.
///
/// # Errors
/// As for [`read`].
pub(super) fn identities(console: &dyn Console, files: &Files) -> Result<Vec<Identity>, Failure> {
    let parsed = read_with(console, files, identity)?;
    let with_place = |(mut identity, place): (Identity, String)| {
        identity.place = place;
        identity
    };
    Ok(parsed.into_iter().map(with_place).collect())
}

fn identity(kind: KindName, value: Value) -> Result<Identity, InputError> {
    supported(kind, &value)?;
    let name = value.pointer("/metadata/name").and_then(Value::as_str).map(str::to_owned);
    let namespace = value.pointer("/metadata/namespace").and_then(Value::as_str).map(str::to_owned);
    let version = value.pointer("/metadata/resourceVersion").and_then(Value::as_str).map(str::parse::<i64>);
    match (input::parse(value), name) {
        (Ok(mut resource), _) => {
            // An endpoint may leave its name to be computed; whether all else is valid does not matter here.
            let _ = resource.prepare();
            let metadata = resource.metadata().clone();
            Ok(Identity { kind, metadata, revision: resource.revision(), place: String::new() })
        }
        (Err(InputError::Invalid(invalid)), Some(name)) if only_of_the_spec(&invalid.faults) => {
            let metadata = Metadata { name, namespace, ..Metadata::default() };
            let revision = version.and_then(Result::ok).map(Revision);
            Ok(Identity { kind, metadata, revision, place: String::new() })
        }
        (Err(error), _) => Err(error),
    }
}

/// True if what a resource is called is not in doubt.
fn only_of_the_spec(faults: &[calico_model::Fault]) -> bool {
    faults.iter().all(|fault| fault.path.starts_with("spec") || fault.path.starts_with("status"))
}

fn supported(kind: KindName, value: &Value) -> Result<(), InputError> {
    if kinds::is_supported(kind) {
        return Ok(());
    }
    let version = value["apiVersion"].as_str().unwrap_or_default().to_owned();
    Err(InputError::UnknownKind { kind: kind.to_string(), version })
}

fn read_with<T>(
    console: &dyn Console,
    files: &Files,
    parse_one: impl Fn(KindName, Value) -> Result<T, InputError>,
) -> Result<Vec<(T, String)>, Failure> {
    let (mut items, mut faults) = (Vec::new(), Vec::new());
    for file in &files.files {
        let before = items.len() + faults.len();
        for text in texts(console, file, files.recursive)? {
            parse(&text, &parse_one, &mut items, &mut faults);
        }
        if items.len() + faults.len() == before && !files.skip_empty {
            let what = if file != "-" && Path::new(file).is_dir() { "directory" } else { "file" };
            return Err(Failure::new(format!("No resources specified in {what} {file}."))
                .hint("--skip-empty makes that a success"));
        }
    }
    if !faults.is_empty() {
        return Err(Failure::all(faults).hint("nothing has been changed"));
    }
    if let [only] = items.as_mut_slice()
        && files.files == ["-"]
    {
        only.1.clear();
    }
    Ok(items)
}

/// The texts that a word after `-f` names.
fn texts(console: &dyn Console, file: &str, recursive: bool) -> Result<Vec<Text>, Failure> {
    let unreadable = |name: &str, error: &io::Error| Failure::new(format!("{name} cannot be read.")).cause(error);
    if file == "-" {
        let name = "standard input".to_owned();
        let text = console.input().map_err(|error| unreadable(&name, &error))?;
        return Ok(vec![Text { name, text }]);
    }
    let mut paths = Vec::new();
    collect(Path::new(file), recursive, &mut paths).map_err(|(path, error)| unreadable(&path, &error))?;
    let read = |path: PathBuf| {
        let name = path.display().to_string();
        let text = read_file(&path).map_err(|error| unreadable(&name, &error))?;
        Ok(Text { name, text })
    };
    paths.into_iter().map(read).collect()
}

/// A file itself; of a directory those with resources, in the order of their names.
fn collect(path: &Path, recursive: bool, found: &mut Vec<PathBuf>) -> Result<(), (String, io::Error)> {
    let failed = |error| (path.display().to_string(), error);
    if !std::fs::metadata(path).map_err(failed)?.is_dir() {
        found.push(path.to_owned());
        return Ok(());
    }
    let entries: io::Result<Vec<_>> = std::fs::read_dir(path).map_err(failed)?.collect();
    let mut entries: Vec<PathBuf> = entries.map_err(failed)?.into_iter().map(|entry| entry.path()).collect();
    entries.sort();
    for entry in entries {
        if entry.is_dir() {
            // A link to a directory could lead back here.
            if recursive && !entry.is_symlink() {
                collect(&entry, recursive, found)?;
            }
        } else if holds_resources(&entry) {
            found.push(entry);
        }
    }
    Ok(())
}

fn holds_resources(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).map(str::to_ascii_lowercase);
    matches!(extension.as_deref(), Some("json" | "yaml" | "yml"))
}

fn read_file(path: &Path) -> io::Result<String> {
    use io::Read;
    let mut text = String::new();
    std::fs::File::open(path)?.take(LARGEST + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LARGEST {
        return Err(io::Error::other("it is larger than 64 MiB"));
    }
    Ok(text)
}

fn parse<T>(
    text: &Text,
    parse_one: impl Fn(KindName, Value) -> Result<T, InputError>,
    items: &mut Vec<(T, String)>,
    faults: &mut Vec<String>,
) {
    let values = match input::documents(&text.text) {
        Ok(values) => values,
        // The parser's words begin as ours do.
        Err(error) => {
            let words = error.to_string().replacen("cannot be read: error: ", "cannot be read: ", 1);
            return faults.push(format!("{}: {words}", text.name));
        }
    };
    let several = values.len() > 1;
    for (index, value) in values.into_iter().enumerate() {
        let place = if several { format!("{}, resource {}", text.name, index + 1) } else { text.name.clone() };
        match input::kind(&value).and_then(|kind| parse_one(kind, value)) {
            Ok(item) => items.push((item, place)),
            Err(InputError::Invalid(invalid)) => faults.extend(words::faults(&place, &invalid)),
            Err(error) => faults.push(format!("{place}: {error}")),
        }
    }
}
