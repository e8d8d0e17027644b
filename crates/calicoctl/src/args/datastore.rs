//! `calicoctl datastore …`

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Connection, OutputArgs};
use crate::output::Format;

pub(super) const EXAMPLES: &str = "\
Examples:
  calicoctl datastore status                   the datastore that this host keeps
  calicoctl datastore backup monday.backup     … a copy of it, while it is in use
  calicoctl datastore export cluster.jsonl     everything below /calico/, in one file
  calicoctl datastore import cluster.jsonl     … into a datastore that holds nothing yet
  calicoctl datastore migrate --to http://10.0.0.9:2379   move the running cluster to an etcd
  calicoctl datastore migrate --abort          … take that back before a host has switched
  calicoctl datastore migrate lock             no address is given out, felix changes nothing
  calicoctl datastore migrate unlock";

const MIGRATE_USAGE: &str = "\
calicoctl datastore migrate --to <ENDPOINTS> [--ca-cert FILE [--cert FILE --key FILE]] [OPTIONS]
       calicoctl datastore migrate --abort
       calicoctl datastore migrate lock|unlock";

const MIGRATE_EXAMPLES: &str = "\
Traffic and policy stay as they are throughout. Every host tries whether it reaches the new
datastore; all is copied and compared; then every host switches. Interrupted anywhere, the same
command goes on.

An etcd with TLS: before the migration, put the authority's certificate, the certificate that the
hosts show and its key (and a password, if it wants one) onto every host, under the same names
below /var/lib/calico/datastore, of root alone (chmod 600). They are not copied for you, and a host
that lacks one says so before anything is moved. Each host may have a certificate of its own.

A host that is off meanwhile follows when it is back: the old datastore tells it where to, so leave
that running. Who works with the old place from elsewhere is warned, and cannot write there.

Examples:
  calicoctl datastore migrate --to http://10.0.0.9:2379
  D=/var/lib/calico/datastore
  calicoctl datastore migrate --to https://e:2379 --ca-cert $D/c.crt --cert $D/a.crt --key $D/a.key
  calicoctl datastore migrate --to http://10.0.0.9:2379 --without-hosts host-7   it is down
  calicoctl datastore migrate --abort        stay, as long as no host has switched
  calicoctl datastore migrate lock           no address is given out, felix changes nothing
  calicoctl datastore migrate unlock";

const STATUS_EXAMPLES: &str = "\
Examples:
  calicoctl datastore status
  calicoctl datastore status -o json";

const CHECK_EXAMPLES: &str = "\
Without FILE: the datastore that this host keeps, also while it is in use.

Examples:
  calicoctl datastore check
  calicoctl datastore check /root/monday.backup";

const BACKUP_EXAMPLES: &str = "\
Work goes on meanwhile. A file that exists is never replaced. Certificates of hosts are no part of
it: they stay in /var/lib/calico/datastore/pki.

Examples:
  calicoctl datastore backup /root/monday.backup";

const RESTORE_EXAMPLES: &str = "\
The service must not run on this host meanwhile. What was there before is kept beside it.

Examples:
  calicoctl node stop
  calicoctl datastore restore /root/monday.backup
  calicoctl node";

const COMPACT_EXAMPLES: &str = "\
It happens by itself; this does it now, and gives the space back to the disk.

Examples:
  calicoctl datastore compact
  calicoctl datastore compact --revision=1000";

/// The words after `datastore`.
#[derive(Debug, PartialEq, Subcommand)]
pub(crate) enum DatastoreCommand {
    /// Say how the datastore is that this host keeps, and which hosts joined it
    #[command(after_help = STATUS_EXAMPLES)]
    Status(OutputArgs),
    /// Look whether the datastore that this host keeps, or a backup, is whole
    #[command(after_help = CHECK_EXAMPLES)]
    Check(DatastoreCheck),
    /// Write a copy of the datastore that this host keeps into a file
    #[command(after_help = BACKUP_EXAMPLES)]
    Backup(DatastoreBackup),
    /// Put a backup in place of the datastore that this host keeps
    #[command(after_help = RESTORE_EXAMPLES)]
    Restore(DatastoreBackup),
    /// Give up history that nobody reads any more
    #[command(after_help = COMPACT_EXAMPLES)]
    Compact(DatastoreCompact),
    /// Write everything below /calico/ into a file
    #[command(after_help = "Examples:\n  calicoctl datastore export cluster.jsonl\n  \
        calicoctl datastore export - > cluster.jsonl")]
    Export(Export),
    /// Read what `export` wrote into a datastore that holds nothing yet
    #[command(after_help = "Examples:\n  calicoctl datastore import cluster.jsonl\n  \
        calicoctl datastore import - < cluster.jsonl")]
    Import(Import),
    /// Move the cluster to an etcd, or hold it as it is while somebody looks after its data
    #[command(override_usage = MIGRATE_USAGE, after_help = MIGRATE_EXAMPLES)]
    #[command(arg_required_else_help = true, args_conflicts_with_subcommands = true)]
    Migrate(Box<Migrate>),
}

/// `datastore export`
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub(crate) struct Export {
    /// The file to write, of root alone; `-` for standard output. One that exists is not overwritten
    pub(crate) file: String,
    /// The datastore.
    #[command(flatten)]
    pub(crate) connection: Connection,
}

/// `datastore import`
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub(crate) struct Import {
    /// The file to read; `-` for standard input
    pub(crate) file: String,
    /// Also into a datastore in use: all that is not in the file is deleted
    #[arg(long)]
    pub(crate) replace: bool,
    /// The datastore.
    #[command(flatten)]
    pub(crate) connection: Connection,
}

/// `datastore migrate`
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub(crate) struct Migrate {
    /// Lock or unlock only.
    #[command(subcommand)]
    pub(crate) command: Option<MigrateCommand>,
    /// Where to: http[s]://HOST:PORT[,…]
    #[arg(long, value_name = "ENDPOINTS")]
    pub(crate) to: Option<String>,
    /// The authority that signed etcd's certificate
    #[arg(long, value_name = "FILE", requires = "to")]
    pub(crate) ca_cert: Option<String>,
    /// The certificate that the hosts show
    #[arg(long, value_name = "FILE", requires = "to")]
    pub(crate) cert: Option<String>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "to")]
    pub(crate) key: Option<String>,
    /// The user, for an etcd that asks for one
    #[arg(long, value_name = "NAME", requires_all = ["to", "password_file"])]
    pub(crate) username: Option<String>,
    /// The file with the user's password
    #[arg(long, value_name = "FILE", requires_all = ["to", "username"])]
    pub(crate) password_file: Option<String>,
    /// Hosts that are down: they are not waited for, and follow when they come back
    #[arg(long, value_name = "HOST", value_delimiter = ',', requires = "to")]
    pub(crate) without_hosts: Vec<String>,
    /// Seconds that hosts may take to answer, and then to switch
    #[arg(long, value_name = "SECONDS", default_value = "60", requires = "to")]
    pub(crate) patience: String,
    /// Take the migration back; too late when a host has switched
    #[arg(long, conflicts_with = "to")]
    pub(crate) abort: bool,
    /// The form of the result.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    /// The datastore.
    #[command(flatten)]
    pub(crate) connection: Connection,
}

/// The words after `datastore migrate`.
#[derive(Clone, Debug, PartialEq, Subcommand)]
pub(crate) enum MigrateCommand {
    /// No address is given out, and felix changes nothing, until `unlock`
    #[command(after_help = "Examples:\n  calicoctl datastore migrate lock")]
    Lock(Lock),
    /// Go on after `lock`
    #[command(after_help = "Examples:\n  calicoctl datastore migrate unlock")]
    Unlock(Lock),
}

/// `datastore migrate lock|unlock`
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub(crate) struct Lock {
    /// The datastore.
    #[command(flatten)]
    pub(crate) connection: Connection,
}

/// `datastore check`
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub(crate) struct DatastoreCheck {
    /// A backup, or the database of a service that does not run
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// How to print.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `datastore backup` and `datastore restore`
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub(crate) struct DatastoreBackup {
    /// The backup
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// How to print.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `datastore compact`
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub(crate) struct DatastoreCompact {
    /// Keep what came after this revision; only the present state if left out
    #[arg(long, value_name = "REVISION")]
    pub(crate) revision: Option<i64>,
    /// How to print.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

impl DatastoreCommand {
    /// The form in which the result was asked for.
    pub(crate) fn format(&self) -> Format {
        match self {
            Self::Status(output)
            | Self::Check(DatastoreCheck { output, .. })
            | Self::Backup(DatastoreBackup { output, .. })
            | Self::Restore(DatastoreBackup { output, .. })
            | Self::Compact(DatastoreCompact { output, .. }) => output.format,
            Self::Migrate(migrate) => migrate.output.format,
            Self::Export(_) | Self::Import(_) => Format::Table,
        }
    }

    /// What was said of the datastore; `None` where it is the one that this host keeps.
    pub(crate) fn connection(&self) -> Option<&Connection> {
        match self {
            Self::Status(_) | Self::Check(_) | Self::Backup(_) | Self::Restore(_) | Self::Compact(_) => None,
            Self::Export(Export { connection, .. }) | Self::Import(Import { connection, .. }) => Some(connection),
            Self::Migrate(migrate) => match &migrate.command {
                Some(MigrateCommand::Lock(Lock { connection }) | MigrateCommand::Unlock(Lock { connection })) => {
                    Some(connection)
                }
                None => Some(&migrate.connection),
            },
        }
    }
}
