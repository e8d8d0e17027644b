//! Files that only root reads, and that are never half written.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use super::PkiError;

/// Makes a folder (and those above it) that nobody else can look into; closes one that is open to others.
///
/// # Errors
/// [`PkiError::File`].
pub fn make_private_folder(path: &Path) -> Result<(), PkiError> {
    let failed = |source| PkiError::File { path: path.to_owned(), action: "made", source };
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    let mode = fs::metadata(path).map_err(failed)?.permissions().mode();
    if mode & 0o077 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(failed)?;
    }
    Ok(())
}

/// Puts `text` into a file of mode 0600, in place of what was there: after a crash it holds the old or the new text,
/// on disk.
///
/// # Errors
/// [`PkiError::File`]; what was there is unchanged.
pub fn write_private(path: &Path, text: &str) -> Result<(), PkiError> {
    let failed = |source| PkiError::File { path: path.to_owned(), action: "written", source };
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    let draft = Path::new(&draft);
    let write = || -> io::Result<()> {
        // A draft of an interrupted write is worth nothing, and its mode may be anything.
        match fs::remove_file(draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(draft, path)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(|source| {
        let _ = fs::remove_file(draft);
        failed(source)
    })
}

/// The text of a file; `None` if there is none.
///
/// # Errors
/// [`PkiError::File`].
pub fn read_private(path: &Path) -> Result<Option<String>, PkiError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PkiError::File { path: path.to_owned(), action: "read", source }),
    }
}
