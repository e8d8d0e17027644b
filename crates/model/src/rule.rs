//! Rules of policies and profiles.

use std::collections::BTreeMap;

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
    /// What the request must be like; needs a proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpMatch>,
    /// Notes; says nothing of packets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<RuleMetadata>,
    /// Members not known here. A rule with conditions that felix does not implement must not match more than written.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Conditions on HTTP requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HttpMatch {
    /// Any of these methods.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub methods: Vec<String>,
    /// Any of these paths.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub paths: Vec<HttpPath>,
    /// Members not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A path of HTTP requests: one of the two.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HttpPath {
    /// The whole path.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub exact: String,
    /// Its beginning.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    /// Members not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Notes on a rule.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RuleMetadata {
    /// Notes for tools and people.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Members not known here.
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
    /// The service behind which the address stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services: Option<ServiceMatch>,
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
    /// The service accounts of endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_accounts: Option<ServiceAccountMatch>,
    /// Members not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Endpoints by their service accounts; where both are given, both must hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceAccountMatch {
    /// Any of these names; empty is any name.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub names: Vec<String>,
    /// Label selector over service accounts.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_is_empty")]
    pub selector: String,
    /// Members not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A Kubernetes service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceMatch {
    /// Its name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its namespace; that of the policy if empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Members not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl EntityRule {
    /// True if it has no condition; such a one is not written.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
