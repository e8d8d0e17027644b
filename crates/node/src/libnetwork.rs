//! Docker's network plugin as a process of its own, and whether this host wants one.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use calico_libnetwork::Options;
use miette::{IntoDiagnostic, Result, miette};

use crate::process::{print_report, stop_signal, store};

/// Serves Docker's networks until stopped.
pub(crate) async fn libnetwork(name: Option<&str>) -> Result<ExitCode> {
    let node = calico_startup::node_name(name).into_diagnostic()?;
    let store = store().into_diagnostic()?;
    tracing::info!(%node, datastore = %store.kv().location(), "libnetwork starts");
    calico_libnetwork::run(&store, Options::new(node), print_report, stop_signal()).await.into_diagnostic()?;
    Ok(ExitCode::SUCCESS)
}

/// The process's name.
pub(crate) const LIBNETWORK: &str = "libnetwork";

/// Where Docker's own program usually is.
const DOCKER: [&str; 3] = ["/usr/bin/dockerd", "/usr/sbin/dockerd", "/usr/local/bin/dockerd"];

/// Whether the plugin is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    No,
    /// Somebody asked for it.
    Yes,
    /// As soon as Docker is there: then this file exists.
    Where(PathBuf),
}

impl Wanted {
    /// What `CALICO_LIBNETWORK` says, on this host.
    ///
    /// # Errors
    /// Another word than `auto`, `true` and `false`.
    pub(crate) fn parse(word: &str) -> Result<Self> {
        Self::on(word, socket_of(&Options::new("").docker), |path| path.exists())
    }

    fn on(word: &str, socket: Option<PathBuf>, exists: impl Fn(&Path) -> bool) -> Result<Self> {
        match word.trim().to_ascii_lowercase().as_str() {
            "true" => Ok(Self::Yes),
            "false" => Ok(Self::No),
            "auto" | "" => {
                // A Docker that starts after us looks for its plugins at once, so the plugin must not wait for it.
                let is_installed = DOCKER.iter().any(|program| exists(Path::new(program)));
                Ok(match socket {
                    None => Self::No,
                    Some(socket) => Self::Where(if is_installed { "/".into() } else { socket }),
                })
            }
            _ => Err(miette!(
                help = "say true or false; auto, or nothing, has the plugin where Docker is",
                "CALICO_LIBNETWORK={word:?} is not understood"
            )),
        }
    }

    /// The processes without which the node is whole: the plugin, unless somebody asked for it. A Docker that is
    /// installed need not run.
    pub(crate) fn optional(&self) -> &'static [&'static str] {
        if *self == Self::Yes { &[] } else { &[LIBNETWORK] }
    }

    /// The file that must exist before the plugin starts, if one must; `None` if there is to be no plugin.
    pub(crate) fn gate(&self) -> Option<Option<PathBuf>> {
        match self {
            Self::No => None,
            Self::Yes => Some(None),
            Self::Where(file) => Some(Some(file.clone())),
        }
    }
}

/// The socket in Docker's address; `None` if Docker is asked by other ways, and so on another host.
fn socket_of(docker: &str) -> Option<PathBuf> {
    docker.strip_prefix("unix://").map(Into::into)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn wanted_where_docker_is_unless_somebody_says_otherwise() {
        let on = |word: &str, programs: &[&str]| {
            Wanted::on(word, Some("/d.sock".into()), |path| programs.iter().any(|there| path == Path::new(there)))
        };
        assert_eq!(on("auto", &["/usr/bin/dockerd"]).unwrap(), Wanted::Where("/".into()), "it need not run yet");
        assert_eq!(on("", &[]).unwrap(), Wanted::Where("/d.sock".into()));
        assert_eq!(on("TRUE", &[]).unwrap(), Wanted::Yes);
        assert_eq!(on("false", &["/usr/bin/dockerd"]).unwrap(), Wanted::No);
        assert!(on("perhaps", &[]).unwrap_err().to_string().contains("\"perhaps\""));
        assert_eq!(Wanted::on("auto", None, |_| true).unwrap(), Wanted::No, "Docker is somewhere else");
        assert!(Wanted::Yes.optional().is_empty() && Wanted::Where("/".into()).optional() == [LIBNETWORK]);
    }

    #[test]
    fn only_a_docker_of_this_host_is_served() {
        assert_eq!(socket_of("unix:///d.sock"), Some("/d.sock".into()));
        assert_eq!(socket_of("tcp://elsewhere:2375"), None);
    }
}
