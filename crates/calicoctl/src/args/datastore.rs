//! `calicoctl datastore …`

use clap::{Args, Subcommand};

use super::Connection;
use crate::output::Format;

pub(super) const EXAMPLES: &str = "\
Examples:
  calicoctl datastore migrate lock       no address is given out, and felix changes nothing
  calicoctl datastore migrate unlock";

/// The words after `datastore`.
#[derive(Debug, PartialEq, Subcommand)]
pub(crate) enum DatastoreCommand {
    /// Hold the cluster as it is while somebody looks after its data
    #[command(subcommand_required = true, arg_required_else_help = true, after_help = EXAMPLES)]
    Migrate {
        /// What to do.
        #[command(subcommand)]
        command: MigrateCommand,
    },
}

/// The words after `datastore migrate`.
#[derive(Debug, PartialEq, Subcommand)]
pub(crate) enum MigrateCommand {
    /// No address is given out, and felix changes nothing, until `unlock`
    #[command(after_help = "Examples:\n  calicoctl datastore migrate lock")]
    Lock(Migrate),
    /// Go on after `lock`
    #[command(after_help = "Examples:\n  calicoctl datastore migrate unlock")]
    Unlock(Migrate),
}

/// `datastore migrate lock|unlock`
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub(crate) struct Migrate {
    /// The datastore.
    #[command(flatten)]
    pub(crate) connection: Connection,
}

impl DatastoreCommand {
    /// The form in which the result was asked for.
    pub(crate) fn format(&self) -> Format {
        Format::Table
    }

    /// What was said of the datastore.
    pub(crate) fn connection(&self) -> Option<&Connection> {
        let Self::Migrate { command: MigrateCommand::Lock(migrate) | MigrateCommand::Unlock(migrate) } = self;
        Some(&migrate.connection)
    }
}
