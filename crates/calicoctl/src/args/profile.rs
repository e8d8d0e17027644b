//! `calicoctl profile …`

use clap::Subcommand;

use super::OutputArgs;

pub(super) const EXAMPLES: &str = "\
A new profile lets in what comes from its own members, and everything out.

Examples:
  calicoctl profile add PROF_A_B
  calicoctl container workload_A profile set PROF_A_B
  calicoctl profile show --detailed
  calicoctl profile remove PROF_A_B";

/// What to do with profiles.
#[derive(Debug, PartialEq, Subcommand)]
pub(crate) enum ProfileCommand {
    /// List the profiles
    #[command(after_help = "Examples:\n  calicoctl profile show\n  calicoctl profile show --detailed -o yaml")]
    Show {
        /// Also who has which profile
        #[arg(long)]
        detailed: bool,
        /// How to print it.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Create a profile whose members may talk to each other
    #[command(after_help = "Examples:\n  calicoctl profile add PROF_A_B")]
    Add {
        /// Letters, digits, dots, dashes and underscores
        profile: String,
    },
    /// Delete a profile that no endpoint has
    #[command(
        after_help = "Examples:\n  calicoctl profile remove PROF_A_B\n  calicoctl profile remove PROF_A_B --no-check"
    )]
    Remove {
        /// The profile
        profile: String,
        /// Delete it even if endpoints have it; for them it then allows nothing
        #[arg(long)]
        no_check: bool,
    },
}
