//! The datastore of this host as a process of its own: wiring between the library and standard output.
//!
//! A process of its own, so that nothing that happens to the supervisor or to an agent interrupts it, and so that the
//! memory of its database is given back when the datastore moves away.

use std::{path::PathBuf, process::ExitCode};

use calico_datastore::ServeOptions;
use calico_store::{DATASTORE_DIR, DATASTORE_SOCKET};
use clap::Args;
use miette::{IntoDiagnostic, Result};

use crate::process::{print_report, stop_signal};

/// Where `calicoctl` asks for what etcd's API does not have.
const ADMIN_SOCKET: &str = "/var/run/calico/datastore-admin.sock";

#[derive(Args)]
pub(crate) struct DatastoreArgs {
    /// Name of this node; the host name if absent.
    #[arg(long, env = "HOSTNAME")]
    name: Option<String>,
    /// Folder of the database.
    #[arg(long, default_value = DATASTORE_DIR)]
    dir: PathBuf,
    /// Socket on which etcd's API is served to processes of this host.
    #[arg(long, default_value = DATASTORE_SOCKET)]
    socket: PathBuf,
    /// Socket for calicoctl.
    #[arg(long, default_value = ADMIN_SOCKET)]
    admin_socket: PathBuf,
    /// TCP port for other hosts; it is opened by the first `calicoctl node invite`.
    #[arg(long, env = "CALICO_DATASTORE_PORT", default_value_t = 2379)]
    listen_port: u16,
}

pub(crate) async fn datastore(args: DatastoreArgs) -> Result<ExitCode> {
    let name = calico_startup::node_name(args.name.as_deref()).into_diagnostic()?;
    let DatastoreArgs { dir, socket, admin_socket, listen_port, .. } = args;
    let options = ServeOptions { dir, socket, admin_socket, name, listen_port };
    calico_datastore::serve(options, stop_signal(), print_report).await.into_diagnostic()?;
    Ok(ExitCode::SUCCESS)
}
