//! `calicoctl profile …`

use std::ffi::OsStr;

use clap::{
    Args, Subcommand, ValueEnum,
    builder::{PossibleValue, StringValueParser, TypedValueParser},
};

use super::OutputArgs;
use crate::output::Format;

pub(super) const USAGE: &str = "\
calicoctl profile show [--detailed] [-o <FORMAT>]
       calicoctl profile add <PROFILE>
       calicoctl profile remove <PROFILE> [--no-check]
       calicoctl profile <PROFILE> tag (add|remove) <TAG>
       calicoctl profile <PROFILE> tag show [-o <FORMAT>]
       calicoctl profile <PROFILE> rule add (inbound|outbound) [--at=<N>] (allow|deny) [MATCH]
       calicoctl profile <PROFILE> rule remove (inbound|outbound) (--at=<N> | (allow|deny) …)
       calicoctl profile <PROFILE> rule show [-o <FORMAT>]
       calicoctl profile <PROFILE> rule (json|update)

Match: (tcp|udp) [from [ports <PORTS>] END] [to [ports <PORTS>] END]
       (icmp|icmpv6) [type <TYPE> [code <CODE>]] [from END] [to END]
       [from END] [to END]
End:   [tag <TAG>] [cidr <CIDRS>]";

pub(super) const EXAMPLES: &str = "\
A profile is a list of rules for what comes in and one for what goes out; the first rule that
matches decides, and an endpoint that no rule of its profiles lets pass is closed. A new profile
lets in what comes from its own members, and everything out.

Examples:
  calicoctl profile add PROF_A_B
  calicoctl container workload_A profile set PROF_A_B
  calicoctl profile PROF_A_B rule add inbound allow tcp to ports 80,443
  calicoctl profile PROF_A_B rule show
  calicoctl profile PROF_A_B tag add APP
  calicoctl profile show --detailed
  calicoctl profile remove PROF_A_B";

const TAG_USAGE: &str = "\
calicoctl profile <PROFILE> tag (add|remove) <TAG>
       calicoctl profile <PROFILE> tag show [-o <FORMAT>]";
const TAG_EXAMPLES: &str = "\
Rules speak of endpoints by tag: `from tag APP` are those that have a profile with the tag APP.
In v3 a tag is a label with an empty value that the profile lends its endpoints.

Examples:
  calicoctl profile WEB tag add APP
  calicoctl profile WEB tag show
  calicoctl profile DB rule add inbound allow tcp from tag APP to ports 3306";
const TAG_SHOW_USAGE: &str = "calicoctl profile <PROFILE> tag show [-o <FORMAT>]";
const TAG_ADD_USAGE: &str = "calicoctl profile <PROFILE> tag add <TAG>";
const TAG_REMOVE_USAGE: &str = "calicoctl profile <PROFILE> tag remove <TAG>";

const RULE_USAGE: &str = "\
calicoctl profile <PROFILE> rule add (inbound|outbound) [--at=<N>] (allow|deny) [MATCH]
       calicoctl profile <PROFILE> rule remove (inbound|outbound) (--at=<N> | (allow|deny) …)
       calicoctl profile <PROFILE> rule show [-o <FORMAT>]
       calicoctl profile <PROFILE> rule (json|update)";
const RULE_ADD_USAGE: &str = "\
calicoctl profile <PROFILE> rule add (inbound|outbound) [--at=<N>] (allow|deny) [MATCH]

Match: (tcp|udp) [from [ports <PORTS>] END] [to [ports <PORTS>] END]
       (icmp|icmpv6) [type <TYPE> [code <CODE>]] [from END] [to END]
       [from END] [to END]
End:   [tag <TAG>] [cidr <CIDRS>]";
const RULE_ADD_EXAMPLES: &str = "\
The words have this order: action, protocol, type, code, from, to; behind from and to: ports,
tag, cidr. PORTS is a list of ports and ranges (80,8000:8080), CIDRS one of networks and
addresses of one family. A rule that is there already is not added again.

Examples:
  calicoctl profile WEB rule add inbound allow tcp to ports 80,443,8000:8080
  calicoctl profile WEB rule add inbound allow icmp type 8
  calicoctl profile WEB rule add inbound allow icmpv6 from cidr fd00::/8
  calicoctl profile DB rule add inbound --at=1 deny tcp from tag GUEST to ports 3306
  calicoctl profile DB rule add outbound allow udp to ports 53 cidr 10.0.0.10/32
  calicoctl profile DB rule add inbound allow from cidr 192.168.0.0/16";
const RULE_REMOVE_USAGE: &str = "\
calicoctl profile <PROFILE> rule remove (inbound|outbound) --at=<N>
       calicoctl profile <PROFILE> rule remove (inbound|outbound) (allow|deny) [MATCH]";
const RULE_REMOVE_EXAMPLES: &str = "\
Without a position the words say which rule is meant, as `rule show` prints it.

Examples:
  calicoctl profile WEB rule remove inbound --at=1
  calicoctl profile WEB rule remove inbound allow tcp to ports 80,443";
const RULE_SHOW_USAGE: &str = "calicoctl profile <PROFILE> rule show [-o <FORMAT>]";
const RULE_SHOW_EXAMPLES: &str = "\
A rule that has something for which there are no classic words is marked with (v3).

Examples:
  calicoctl profile WEB rule show
  calicoctl profile WEB rule show -o json";
const RULE_JSON_USAGE: &str = "calicoctl profile <PROFILE> rule json";
const RULE_UPDATE_USAGE: &str = "calicoctl profile <PROFILE> rule update < FILE";
const RULE_JSON_EXAMPLES: &str = "\
The members of a rule are action, protocol, icmp_type, icmp_code, and src_ and dst_ with tag,
selector, ports, net, nets; or v3 alone, with a rule as v3 has it.

Examples:
  calicoctl profile WEB rule json > WEB-rules.json
  calicoctl profile WEB rule update < WEB-rules.json";

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
    /// Show or change the tags by which rules speak of a profile's endpoints
    #[command(subcommand_required = true, arg_required_else_help = true)]
    #[command(override_usage = TAG_USAGE, after_help = TAG_EXAMPLES)]
    Tag {
        /// What to do.
        #[command(subcommand)]
        command: ProfileTagCommand,
    },
    /// Show or change a profile's rules
    #[command(subcommand_required = true, arg_required_else_help = true)]
    #[command(override_usage = RULE_USAGE, after_help = RULE_ADD_EXAMPLES)]
    Rule {
        /// What to do.
        #[command(subcommand)]
        command: ProfileRuleCommand,
    },
}

/// `profile <PROFILE> tag …`
#[derive(Debug, PartialEq, Subcommand)]
pub(crate) enum ProfileTagCommand {
    /// List the tags
    #[command(override_usage = TAG_SHOW_USAGE, after_help = TAG_EXAMPLES)]
    Show {
        /// The profile
        profile: String,
        /// How to print it.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Give the profile a tag
    #[command(override_usage = TAG_ADD_USAGE, after_help = TAG_EXAMPLES)]
    Add(ProfileTag),
    /// Take a tag away
    #[command(override_usage = TAG_REMOVE_USAGE, after_help = TAG_EXAMPLES)]
    Remove(ProfileTag),
}

/// A profile and a tag.
#[derive(Debug, PartialEq, Args)]
pub(crate) struct ProfileTag {
    /// The profile
    pub(crate) profile: String,
    /// Letters, digits, dots, dashes and underscores
    pub(crate) tag: String,
}

/// `profile <PROFILE> rule …`
#[derive(Debug, PartialEq, Subcommand)]
pub(crate) enum ProfileRuleCommand {
    /// Add a rule behind the others, or at a position
    #[command(override_usage = RULE_ADD_USAGE, after_help = RULE_ADD_EXAMPLES)]
    Add {
        /// The profile
        profile: String,
        /// For traffic to the endpoints (inbound) or from them (outbound)
        #[arg(value_name = "DIRECTION", hide_possible_values = true)]
        direction: RuleDirection,
        /// The place that the rule will have, from 1
        #[arg(long, value_name = "N")]
        at: Option<String>,
        /// allow or deny, and what the rule is about
        #[arg(value_name = "RULE", required = true, value_parser = RuleWord, hide_possible_values = true)]
        rule: Vec<String>,
    },
    /// Remove a rule
    #[command(override_usage = RULE_REMOVE_USAGE, after_help = RULE_REMOVE_EXAMPLES)]
    Remove {
        /// The profile
        profile: String,
        /// For traffic to the endpoints (inbound) or from them (outbound)
        #[arg(value_name = "DIRECTION", hide_possible_values = true)]
        direction: RuleDirection,
        /// The rule's place, from 1
        #[arg(long, value_name = "N", conflicts_with = "rule", required_unless_present = "rule")]
        at: Option<String>,
        /// The rule's words
        #[arg(value_name = "RULE", value_parser = RuleWord, hide_possible_values = true)]
        rule: Vec<String>,
    },
    /// List the rules with their positions
    #[command(override_usage = RULE_SHOW_USAGE, after_help = RULE_SHOW_EXAMPLES)]
    Show {
        /// The profile
        profile: String,
        /// How to print it.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Print the rules as JSON for `rule update`
    #[command(override_usage = RULE_JSON_USAGE, after_help = RULE_JSON_EXAMPLES)]
    Json {
        /// The profile
        profile: String,
    },
    /// Replace all rules by those of a JSON document on standard input
    #[command(override_usage = RULE_UPDATE_USAGE, after_help = RULE_JSON_EXAMPLES)]
    Update {
        /// The profile
        profile: String,
    },
}

/// Which of a profile's lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RuleDirection {
    /// What comes to the endpoints.
    Inbound,
    /// What comes from them.
    Outbound,
}

/// Any word. The language's own are proposed by completion; the command says what is wrong with others, all at once.
#[derive(Clone, Copy, Debug)]
struct RuleWord;

impl TypedValueParser for RuleWord {
    type Value = String;

    fn parse_ref(
        &self,
        command: &clap::Command,
        argument: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<String, clap::Error> {
        StringValueParser::new().parse_ref(command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(calico_classic::VOCABULARY.iter().map(PossibleValue::new)))
    }
}

impl ProfileCommand {
    /// The form in which the result was asked for.
    pub(crate) fn format(&self) -> Format {
        match self {
            Self::Show { output, .. }
            | Self::Tag { command: ProfileTagCommand::Show { output, .. } }
            | Self::Rule { command: ProfileRuleCommand::Show { output, .. } } => output.format,
            _ => Format::Table,
        }
    }
}
