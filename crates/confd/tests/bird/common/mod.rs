//! Building blocks of the tests: records of the datastore as events, and BIRD's own check of a configuration.

#![allow(clippy::unwrap_used)]

pub(crate) mod net;
pub(crate) mod routers;

use std::{collections::BTreeMap, fs, process::Command};

use calico_confd::{BirdConfig, Decision, Password, SecretError, SecretKeyRef, Secrets, State, Template, Waiting};
use calico_model::{AnyResource, Change, KindName, ResourceKey, Revision};
use calico_store::{Entry, Event, KvEvent};
use serde_json::{Value, json};

/// The node that all tests look from.
pub(crate) const NODE: &str = "host1";

/// A record with labels, as an event.
pub(crate) fn labelled(kind: KindName, name: &str, labels: Value, spec: Value) -> Event {
    let key = ResourceKey::new(kind, None, name);
    let value = json!({
        "kind": kind.as_str(),
        "apiVersion": "projectcalico.org/v3",
        "metadata": {"name": name, "labels": labels},
        "spec": spec,
    });
    let resource = AnyResource::decode(&key, value.to_string().as_bytes(), Revision(1)).unwrap();
    Event::Change(Change::Set { key, resource: Box::new(resource) })
}

/// A record as an event.
pub(crate) fn set(kind: KindName, name: &str, spec: Value) -> Event {
    labelled(kind, name, json!({}), spec)
}

/// The removal of a record.
pub(crate) fn remove(kind: KindName, name: &str) -> Event {
    Event::Change(Change::Remove { key: ResourceKey::new(kind, None, name) })
}

/// A node with its BGP identity.
pub(crate) fn node(name: &str, bgp: Value) -> Event {
    set(KindName::Node, name, json!({"bgp": bgp}))
}

/// The key of an affinity of [`NODE`].
pub(crate) fn affinity_key(block: &str) -> String {
    let family = if block.contains(':') { "ipv6" } else { "ipv4" };
    format!("/calico/ipam/v2/host/{NODE}/{family}/block/{}", block.replace('/', "-"))
}

/// An affinity of [`NODE`] in some state.
pub(crate) fn affinity(block: &str, state: &str) -> Event {
    let value = json!({"state": state, "deleted": false}).to_string().into_bytes();
    Event::Raw(KvEvent::Put(Entry { key: affinity_key(block), value, revision: Revision(1) }))
}

/// A BGPPeer.
pub(crate) fn peer(name: &str, spec: Value) -> Event {
    set(KindName::BGPPeer, name, spec)
}

/// A pool.
pub(crate) fn pool(name: &str, cidr: &str) -> Event {
    set(KindName::IPPool, name, json!({"cidr": cidr}))
}

/// The cluster's BGP settings.
pub(crate) fn settings(spec: Value) -> Event {
    set(KindName::BGPConfiguration, "default", spec)
}

/// Passwords by `name/key`.
#[derive(Default)]
pub(crate) struct Known(pub(crate) BTreeMap<String, String>);

impl Secrets for Known {
    fn password(&self, reference: &SecretKeyRef) -> Result<Password, SecretError> {
        let name = format!("{}/{}", reference.name, reference.key);
        match self.0.get(&name) {
            Some(text) => Ok(Password::new(text.clone()).unwrap()),
            None => Err(SecretError::Name(name)),
        }
    }
}

/// A state after these events and `InSync`.
pub(crate) fn state(events: Vec<Event>) -> State {
    let mut state = State::new(NODE);
    for event in events.into_iter().chain([Event::InSync]) {
        state.absorb(event);
    }
    state
}

/// The decision after these events.
pub(crate) fn decide(events: Vec<Event>) -> Result<Decision, Waiting> {
    state(events).decide(&Known(BTreeMap::from([("tor/rack1".into(), "s3cret word".into())])))
}

/// What `bird -p` says against a text, `Ok` if nothing.
pub(crate) fn bird_accepts(text: &str) -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bird.cfg");
    fs::write(&path, text).unwrap();
    let output = Command::new("bird").arg("-p").arg("-c").arg(&path).output().expect("BIRD 2 is installed (bird2)");
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// This node with an IPv4 address, and these.
pub(crate) fn with(events: impl IntoIterator<Item = Event>) -> Vec<Event> {
    [node(NODE, json!({"ipv4Address": "10.192.0.5/16"}))].into_iter().chain(events).collect()
}

/// The configuration after these events.
pub(crate) fn config(events: Vec<Event>) -> BirdConfig {
    decide(events).unwrap().config
}

/// The problems after these events; the configuration must still be one that BIRD accepts.
pub(crate) fn problems(events: Vec<Event>) -> Vec<String> {
    let decision = decide(events).unwrap();
    bird_accepts(&Template::built_in().render(&decision.config).unwrap()).unwrap();
    decision.problems.iter().map(ToString::to_string).collect()
}

/// A BGPFilter.
pub(crate) fn filter(name: &str, spec: serde_json::Value) -> Event {
    set(KindName::BGPFilter, name, spec)
}
