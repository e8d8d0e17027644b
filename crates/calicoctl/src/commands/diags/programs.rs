//! Programs of this host, with a limit to their time and to what they say.

use std::{process::Stdio, time::Duration};

use async_trait::async_trait;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Command,
};

/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes. What a program says beyond that is cut.
const MOST: u64 = 8 << 20;
/// Bytes of its complaints.
const MOST_COMPLAINTS: u64 = 16 << 10;

/// What a program said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    /// Its output, as far as there was time and room.
    pub(super) text: String,
    /// Why that is not all, or not right.
    pub(super) fault: Option<String>,
}

impl Said {
    /// Nothing was said.
    pub(super) fn nothing(fault: impl Into<String>) -> Self {
        Self { text: String::new(), fault: Some(fault.into()) }
    }
}

/// Runs programs.
#[async_trait]
pub(super) trait Programs: Send + Sync {
    /// Runs a program with its arguments to its end, without input.
    async fn run(&self, line: &[&str]) -> Said;
}

/// Those that are installed here.
#[derive(Debug)]
pub(super) struct Installed;

#[async_trait]
impl Programs for Installed {
    async fn run(&self, line: &[&str]) -> Said {
        let [program, arguments @ ..] = line else { return Said::nothing("no program") };
        let child = Command::new(program)
            .args(arguments)
            .env("PATH", search_path(std::env::var("PATH").ok()))
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        let mut child = match child {
            Ok(child) => child,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Said::nothing(format!("{program} is not installed"));
            }
            Err(error) => return Said::nothing(format!("{program} cannot be run: {error}")),
        };
        let (mut text, mut complaints) = (Vec::new(), Vec::new());
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let talk = async {
            // Whoever has said enough is not waited for.
            tokio::join!(limited(stdout, MOST, &mut text), limited(stderr, MOST_COMPLAINTS, &mut complaints)).0
        };
        let fault = match tokio::time::timeout(PATIENCE, talk).await {
            Err(_) => Some(format!("ended after {} s", PATIENCE.as_secs())),
            Ok(true) => Some(format!("cut at {} MiB", MOST >> 20)),
            Ok(false) => match tokio::time::timeout(PATIENCE, child.wait()).await {
                Ok(Ok(status)) if status.success() => None,
                Ok(Ok(status)) => {
                    let complaints = String::from_utf8_lossy(&complaints);
                    Some(format!("{status}: {}", complaints.lines().collect::<Vec<_>>().join("; ")))
                }
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some(format!("ended after {} s", PATIENCE.as_secs())),
            },
        };
        // Some print their version where others complain.
        if text.is_empty() && fault.is_none() {
            text = complaints;
        }
        // Dropping the child kills it if it still runs.
        Said { text: String::from_utf8_lossy(&text).into_owned(), fault }
    }
}

/// Where programs are looked for: as this process does, then where those of root are. A part without text would be the
/// working folder, which may be anybody's.
fn search_path(own: Option<String>) -> String {
    const OF_ROOT: &str = "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin";
    let own = own.unwrap_or_default();
    own.split(':').filter(|folder| !folder.is_empty()).chain([OF_ROOT]).collect::<Vec<_>>().join(":")
}

/// Reads to the end or to the limit; true if there was more.
async fn limited(from: Option<impl AsyncRead + Unpin>, most: u64, into: &mut Vec<u8>) -> bool {
    let Some(from) = from else { return false };
    let _ = from.take(most + 1).read_to_end(into).await;
    let is_more = into.len() as u64 > most;
    into.truncate(usize::try_from(most).unwrap_or(usize::MAX));
    is_more
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn output_faults_and_missing_programs_are_told_apart() {
        let said = Installed.run(&["sh", "-c", "echo good"]).await;
        assert_eq!(said, Said { text: "good\n".into(), fault: None });
        let said = Installed.run(&["sh", "-c", "echo half; echo no right >&2; exit 3"]).await;
        assert_eq!(said.text, "half\n");
        assert!(said.fault.is_some_and(|fault| fault.contains('3') && fault.contains("no right")));
        let said = Installed.run(&["no-such-program"]).await;
        assert_eq!(said, Said::nothing("no-such-program is not installed"));
    }

    #[test]
    fn programs_are_not_looked_for_in_the_working_folder() {
        for (own, before) in [(None, ""), (Some(""), ""), (Some("/opt/bin::/x:"), "/opt/bin:/x:")] {
            let path = search_path(own.map(str::to_owned));
            assert_eq!(path, format!("{before}/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"));
        }
    }

    #[tokio::test]
    async fn a_program_without_end_is_cut() {
        let said = Installed.run(&["yes"]).await;
        assert_eq!(said.text.len() as u64, MOST);
        assert_eq!(said.fault.as_deref(), Some("cut at 8 MiB"));
    }
}
