//! The options of a BGPPeer beside who the neighbours are.

use std::net::IpAddr;

use calico_model::{AsNumber, BGPPeerSpec};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    config::{NextHop, Password, Peer},
    duration,
    peers::neighbour,
    secrets::{SecretKeyRef, Secrets},
    state::is_host,
};

/// The longest restart time that fits the capability's twelve bits (RFC 4724).
const MAX_RESTART_TIME: u64 = 4095;
/// The longest keepalive time: three of them must fit a hold time's sixteen bits.
const MAX_KEEPALIVE_TIME: u64 = 21_845;

/// What of a BGPPeer goes beyond address and AS number.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct PeerOptions {
    password: Option<Password>,
    source_none: bool,
    local_as: Option<u32>,
    next_hop: NextHop,
    ttl_security: Option<u8>,
    restart_time: Option<u16>,
    keepalive_time: Option<u16>,
    allow_local_as: Option<u32>,
    filters: Vec<String>,
    reachable_by: Option<IpAddr>,
}

/// The members as stored.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Wire {
    password: Option<WirePassword>,
    source_address: Option<String>,
    #[serde(rename = "localASNumber")]
    local_as_number: Option<AsNumber>,
    next_hop_mode: Option<String>,
    ttl_security: Option<u8>,
    max_restart_time: Option<String>,
    keepalive_time: Option<String>,
    #[serde(rename = "numAllowedLocalASNumbers")]
    num_allowed_local_as_numbers: Option<u32>,
    filters: Option<Vec<String>>,
    local_workload_selector: Option<String>,
    reachable_by: Option<String>,
    failure_detection_mode: Option<String>,
    // Read where the neighbours are chosen.
    #[serde(rename = "reversePeering")]
    _reverse_peering: Option<String>,
    /// Members not known here.
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WirePassword {
    secret_key_ref: SecretKeyRef,
}

impl PeerOptions {
    /// Reads the options. What can be done without is named to `problem` and left away.
    ///
    /// # Errors
    /// What cannot be done without.
    pub(crate) fn read(
        spec: &BGPPeerSpec,
        secrets: &dyn Secrets,
        problem: &mut dyn FnMut(String),
    ) -> Result<Self, String> {
        let wire: Wire =
            serde_json::from_value(Value::Object(spec.extra.clone())).map_err(|error| error.to_string())?;
        if wire.local_workload_selector.is_some_and(|selector| !selector.is_empty()) {
            return Err("localWorkloadSelector (BGP with workloads of this node) is not supported".into());
        }
        if let Some((member, _)) = wire.unknown.iter().find(|(_, value)| !value.is_null()) {
            return Err(format!("{member:?} is not known here, and could be what keeps the session safe"));
        }
        if wire.failure_detection_mode.is_some_and(|mode| !matches!(mode.as_str(), "" | "None")) {
            problem("failureDetectionMode: there is no BFD; a dead neighbour is noticed by the hold time, three times keepaliveTime".into());
        }
        let password = wire.password.map(|password| secrets.password(&password.secret_key_ref)).transpose();
        let mut seconds = |text: Option<String>, read: fn(&str) -> Option<u16>, field: &str| {
            let text = text?;
            let found = read(&text);
            if found.is_none() {
                problem(format!("{field} {text:?} is no duration that BGP can use; the default is used"));
            }
            found
        };
        Ok(Self {
            password: password.map_err(|error| error.to_string())?,
            source_none: wire.source_address.as_deref() == Some("None"),
            local_as: wire.local_as_number.map(|number| number.0).filter(|number| *number != 0),
            next_hop: next_hop(wire.next_hop_mode.as_deref(), spec.keep_original_next_hop)?,
            ttl_security: wire.ttl_security.filter(|hops| *hops != 0),
            restart_time: seconds(wire.max_restart_time, restart_time, "maxRestartTime"),
            keepalive_time: seconds(wire.keepalive_time, keepalive_time, "keepaliveTime"),
            allow_local_as: wire.num_allowed_local_as_numbers.filter(|count| *count != 0),
            filters: wire.filters.unwrap_or_default(),
            reachable_by: gateway(wire.reachable_by.as_deref(), spec, problem),
        })
    }

    pub(crate) fn apply(&self, peer: &mut Peer) {
        peer.password.clone_from(&self.password);
        peer.use_node_address = !self.source_none;
        peer.local_as = self.local_as;
        peer.next_hop = self.next_hop;
        peer.ttl_security = self.ttl_security;
        peer.restart_time = self.restart_time;
        peer.keepalive_time = self.keepalive_time;
        peer.allow_local_as = self.allow_local_as;
        peer.filters.clone_from(&self.filters);
        peer.reachable_by = self.reachable_by.filter(|gateway| gateway.is_ipv4() == peer.address.is_ipv4());
    }
}

/// `reachableBy`: the gateway that leads to the neighbour.
fn gateway(text: Option<&str>, spec: &BGPPeerSpec, problem: &mut dyn FnMut(String)) -> Option<IpAddr> {
    let text = text.filter(|text| !text.is_empty())?;
    let mut unusable = |why: &str| {
        problem(format!("reachableBy {text:?} {why}; the kernel's routes must lead to the neighbour"));
        None
    };
    let Some(gateway) = text.parse().ok().filter(|gateway| is_host(*gateway)) else {
        return unusable("cannot be the address of a gateway");
    };
    match neighbour(&spec.peer_ip) {
        Ok((address, _)) if address.is_ipv4() == gateway.is_ipv4() => Some(gateway),
        Ok(_) => unusable("is of another family than peerIP"),
        Err(_) => unusable("needs a peerIP"),
    }
}

fn next_hop(mode: Option<&str>, keep: bool) -> Result<NextHop, String> {
    match mode {
        Some("Keep") => Ok(NextHop::Keep),
        Some("Self") => Ok(NextHop::SelfAddress),
        None | Some("" | "Auto") => Ok(if keep { NextHop::Keep } else { NextHop::Auto }),
        Some(other) => Err(format!("nextHopMode {other:?} is none of Auto, Self, Keep")),
    }
}

/// Seconds of a graceful restart time.
pub(crate) fn restart_time(text: &str) -> Option<u16> {
    whole_seconds(text, MAX_RESTART_TIME)
}

fn keepalive_time(text: &str) -> Option<u16> {
    whole_seconds(text, MAX_KEEPALIVE_TIME).filter(|seconds| *seconds > 0)
}

/// Seconds, rounded up; `None` if it is no duration or above `most`.
fn whole_seconds(text: &str, most: u64) -> Option<u16> {
    let time = duration::parse(text)?;
    let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    u16::try_from(seconds).ok().filter(|_| seconds <= most)
}
