//! Felix' settings, of the cluster and of this host.

use calico_model::{FelixConfigurationSpec, KindName, ResourceKey};

use crate::{
    Problem,
    instruction::{HostAction, Settings},
};

/// The configuration that holds for all hosts.
const DEFAULT: &str = "default";

#[derive(Default)]
pub(super) struct FelixSettings {
    /// `defaultEndpointToHostAction` of the configuration `default`, as written.
    cluster: Option<String>,
    /// The same of this host's configuration, which goes before.
    node: Option<String>,
}

impl FelixSettings {
    pub(super) fn set(&mut self, node: &str, name: &str, spec: &FelixConfigurationSpec) {
        if let Some(action) = self.slot(node, name) {
            *action = spec.default_endpoint_to_host_action.clone().filter(|action| !action.is_empty());
        }
    }

    pub(super) fn remove(&mut self, node: &str, name: &str) {
        if let Some(action) = self.slot(node, name) {
            *action = None;
        }
    }

    fn slot(&mut self, node: &str, name: &str) -> Option<&mut Option<String>> {
        if name == DEFAULT {
            Some(&mut self.cluster)
        } else if name.strip_prefix("node.") == Some(node) {
            Some(&mut self.node)
        } else {
            None
        }
    }

    /// The settings in force. A word that is none closes.
    pub(super) fn settings(&self) -> Settings {
        let action = self.node.as_ref().or(self.cluster.as_ref());
        let endpoint_to_host = action.map_or(HostAction::Return, |a| parse(a).unwrap_or(HostAction::Drop));
        Settings { endpoint_to_host, ..Settings::default() }
    }

    pub(super) fn problems(&self, node: &str) -> Option<Problem> {
        let (name, action) = match (&self.node, &self.cluster) {
            (Some(action), _) => (format!("node.{node}"), action),
            (None, Some(action)) => (DEFAULT.to_owned(), action),
            (None, None) => return None,
        };
        if parse(action).is_some() {
            return None;
        }
        let reason = format!("spec.defaultEndpointToHostAction = {action:?}: it is Drop, Accept or Return; Drop holds");
        Some(Problem { object: ResourceKey::new(KindName::FelixConfiguration, None, &name), reason })
    }
}

/// Upstream takes any case.
fn parse(action: &str) -> Option<HostAction> {
    match action.to_ascii_lowercase().as_str() {
        "drop" => Some(HostAction::Drop),
        "accept" => Some(HostAction::Accept),
        "return" => Some(HostAction::Return),
        _ => None,
    }
}
