//! The programs of iptables and ipset: found, run, and never waited for without end.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{io::AsyncWriteExt, process::Command};

use crate::error::Error;

/// Longest run. The programs wait up to [`LOCK_SECONDS`] for each other; a table of ten thousand chains takes a few
/// seconds to load.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long iptables-legacy waits for its lock.
pub(super) const LOCK_SECONDS: &str = "10";
/// Where the programs are on systems that keep them out of the search path of an agent.
const ALSO_IN: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// What a program said.
#[derive(Debug)]
pub(super) struct Output {
    /// Its standard output.
    pub text: String,
    /// Its process identifier, by which notifications of its changes are known.
    pub process: u32,
}

/// The folders in which programs are looked for.
fn folders() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    for folder in ALSO_IN.map(PathBuf::from) {
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    folders
}

/// Where a program is.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    folders().into_iter().map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// Runs a program with a text on its standard input.
///
/// # Errors
/// [`Error::Program`] with what it said if it fails, or takes too long, in which case it is ended.
pub(super) async fn run(program: &Path, arguments: &[&str], input: &str) -> Result<Output, Error> {
    let name = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
    let fail = |reason: String| Error::Program { program: name.clone(), reason };
    let path: OsString = std::env::join_paths(folders()).unwrap_or_default();
    let mut command = Command::new(program);
    command.args(arguments).env("PATH", path).env("LC_ALL", "C").kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| fail(error.to_string()))?;
    let process = child.id().unwrap_or_default();
    let stdin = child.stdin.take();
    let feed = async {
        let Some(mut stdin) = stdin else { return };
        // A program that ends without reading everything says itself why.
        let _ = stdin.write_all(input.as_bytes()).await;
        let _ = stdin.shutdown().await;
    };
    let work = async { tokio::join!(feed, child.wait_with_output()).1 };
    let output = tokio::time::timeout(PATIENCE, work)
        .await
        .map_err(|_| fail(format!("did not end within {} seconds", PATIENCE.as_secs())))?
        .map_err(|error| fail(error.to_string()))?;
    if output.status.success() {
        return Ok(Output { text: String::from_utf8_lossy(&output.stdout).into_owned(), process });
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim();
    let mut reason = format!("{}: {}", output.status, said.replace('\n', " | "));
    if let Some(line) = failed_line(said).and_then(|number| input.lines().nth(number.checked_sub(1)?)) {
        reason.push_str(&format!(" (that line: {line})"));
    }
    Err(fail(reason))
}

/// The number of the line that a program complains about: "line 7 failed", "Error in line 7: …".
fn failed_line(said: &str) -> Option<usize> {
    let mut words = said.split_ascii_whitespace();
    words.find(|word| word.trim_end_matches(':').eq_ignore_ascii_case("line"))?;
    words.next()?.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]

    use super::*;

    fn on_a_runtime<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn a_failure_says_what_failed_and_which_line() {
        assert_eq!(failed_line("iptables-restore: line 3 failed"), Some(3));
        assert_eq!(failed_line("ipset v7.17: Error in line 12: Set cannot be created"), Some(12));
        assert_eq!(failed_line("Error occurred at line: 4"), Some(4));
        assert_eq!(failed_line("no such thing"), None);
        let script = "cat > /dev/null; echo 'line 2 failed' >&2; exit 3";
        let error = on_a_runtime(run(&find("sh").unwrap(), &["-c", script], "one\ntwo\n")).unwrap_err().to_string();
        for word in ["sh", "exit status: 3", "line 2 failed", "that line: two"] {
            assert!(error.contains(word), "{word}: {error}");
        }
    }

    #[test]
    fn more_than_a_pipe_holds_goes_in_and_comes_out() {
        let text = "x".repeat(1 << 20);
        let output = on_a_runtime(run(&find("cat").unwrap(), &[], &text)).unwrap();
        assert!(output.text == text && output.process > 0);
    }
}
