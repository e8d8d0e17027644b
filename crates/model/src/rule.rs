//! Rules of policies and profiles.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Port, Protocol, metadata::null_is_empty};

/// What a rule does with a packet that it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Accept; no further rule of this endpoint is asked.
    Allow,
    /// Drop (or reject, by Felix' settings).
    Deny,
    /// Write a log line and go on with the next rule.
    Log,
    /// Skip the rest of the tier.
    Pass,
}

/// One rule: all of its conditions must hold, and within a list any.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// As written. Upstream stores a profile rule with any word here; [`Rule::parsed_action`] gives the meaning.
    #[serde(default)]
    pub action: String,
    /// 4 or 6.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "ipVersion")]
    pub ip_version: Option<u8>,
    /// The packet's protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// ICMP type and code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp: Option<Icmp>,
    /// Any protocol but this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_protocol: Option<Protocol>,
    /// Any ICMP type and code but these.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "notICMP")]
    pub not_icmp: Option<Icmp>,
    /// Where the packet comes from.
    #[serde(default, skip_serializing_if = "EntityRule::is_empty", deserialize_with = "null_is_empty")]
    pub source: EntityRule,
    /// Where it goes to.
    #[serde(default, skip_serializing_if = "EntityRule::is_empty", deserialize_with = "null_is_empty")]
    pub destination: EntityRule,
    /// `http`, `metadata` and members not known here. A rule with conditions that felix does not implement must
    /// not match more than written.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Rule {
    /// A rule with an action and no conditions.
    pub fn of(action: Action) -> Self {
        Self { action: action.as_str().to_owned(), ..Self::default() }
    }

    /// The action, `None` if it is not one of v3's.
    pub fn parsed_action(&self) -> Option<Action> {
        [Action::Allow, Action::Deny, Action::Log, Action::Pass].into_iter().find(|a| a.as_str() == self.action)
    }
}

impl Action {
    /// As written in a resource.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "Allow",
            Self::Deny => "Deny",
            Self::Log => "Log",
            Self::Pass => "Pass",
        }
    }
}

/// ICMP type, and code within it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Icmp {
    /// The type, any if absent.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<u16>,
    /// The code, any if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
}

/// One end of a rule.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EntityRule {
    /// CIDRs, as typed.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub nets: Vec<String>,
    /// Label selector over endpoints and network sets.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub selector: String,
    /// Label selector over namespaces.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace_selector: String,
    /// Ports, any of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub ports: Vec<Port>,
    /// None of these CIDRs.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub not_nets: Vec<String>,
    /// Not selected by this.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub not_selector: String,
    /// None of these ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub not_ports: Vec<Port>,
    /// `serviceAccounts`, `services` and members not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl EntityRule {
    /// True if it has no condition; such a one is not written.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
