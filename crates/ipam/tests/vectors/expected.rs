//! Where ours differs from the recorded behaviour on purpose, as changes to what is expected.
//!
//! Each difference is one that the reference names as an error of upstream's:
//!
//! * an affinity without its block is removed by whoever gives it up, not left for ever;
//! * the key of a host is removed with the host whatever its value;
//! * a block that does not exist is dropped from a handle when the handle is released;
//! * a lost race while a chosen address is assigned does not leave the handle counting twice.

use std::collections::{BTreeMap, BTreeSet};

use calico_ipam::{AffinityKey, HandleId, Owner, block_key};
use ipnet::IpNet;
use serde_json::{Value, json};

use crate::{Step, operation::Operation, recorder::ROOT};

type State = BTreeMap<String, Value>;

/// What differs from the recorded states since the beginning of a sequence.
#[derive(Default)]
pub(crate) struct Differences {
    /// Keys that ours has removed.
    removed: BTreeSet<String>,
    /// Handle keys with a block and by how much ours counts less.
    lower: Vec<(String, String, i64)>,
}

impl Differences {
    /// Changes what is expected of a step, given the state before it.
    pub(crate) fn apply(&mut self, step: &mut Step, before: &State) {
        match step.operation.clone() {
            Operation::ReleaseAffinity { cidr, host, .. } => {
                self.orphaned_affinities(step, before, &Owner::host(host), Some(cidr));
            }
            Operation::ReleaseHostAffinities { host, load_balancer, .. } => {
                let owner = if load_balancer { Owner::load_balancer(host) } else { Owner::host(host) };
                self.orphaned_affinities(step, before, &owner, None);
            }
            Operation::RemoveIpamHost { host } => {
                self.orphaned_affinities(step, before, &Owner::host(&host), None);
                if step.fault.as_deref() == Some("internal-missing-value") {
                    step.fault = None;
                    step.writes.push(format!("delete hostdir {host}"));
                    self.removed.insert(format!("host/{host}"));
                }
            }
            Operation::ReleaseByHandle { handle } => self.missing_blocks(step, before, &handle.into()),
            Operation::AssignIp { handle: Some(handle), .. } => self.lost_block_writes(step, &handle.into()),
            Operation::Put(put) => drop(self.removed.remove(put.key.trim_start_matches(ROOT))),
            _ => {}
        }
        if let Some(state) = &mut step.state {
            state.retain(|key, _| !self.removed.contains(key));
            for (key, block, less) in &self.lower {
                if let Some(count) = state.get_mut(key).and_then(|handle| handle["block"].get_mut(block)) {
                    *count = json!(count.as_i64().unwrap() - less);
                }
            }
        }
    }

    fn orphaned_affinities(&mut self, step: &mut Step, before: &State, owner: &Owner, cidr: Option<IpNet>) {
        for key in before.keys() {
            let Ok(affinity) = format!("{ROOT}{key}").parse::<AffinityKey>() else { continue };
            let concerned = affinity.owner == *owner && cidr.is_none_or(|cidr| cidr.contains(&affinity.block));
            let block = block_key(affinity.block);
            if concerned && step.fault.is_none() && !before.contains_key(block.trim_start_matches(ROOT)) {
                step.writes.push(format!("delete affinity {} {}", owner.name, affinity.block));
                self.removed.insert(key.clone());
            }
        }
    }

    fn missing_blocks(&mut self, step: &mut Step, before: &State, id: &HandleId) {
        let key = format!("handle/{id}");
        let Some(blocks) = before.get(&key).and_then(|handle| handle["block"].as_object()) else { return };
        let exists = |block: &&String| before.contains_key(block_key(block.parse().unwrap()).trim_start_matches(ROOT));
        if step.fault.is_none() && !blocks.is_empty() && blocks.keys().all(|block| !exists(&block)) {
            let mut left: BTreeMap<_, _> = blocks.iter().collect();
            while left.pop_first().is_some() {
                let write = match left.len() {
                    0 => format!("delete handle {id}"),
                    _ => format!("update handle {id} {}", json!(left)),
                };
                step.writes.push(write);
            }
            self.removed.insert(key);
        }
    }

    /// Upstream raises the handle again after every lost write of the block; ours lowers it first.
    fn lost_block_writes(&mut self, step: &mut Step, id: &HandleId) {
        let lost = |write: &String| write.starts_with("update block ") && write.ends_with("-> conflict");
        let Some(block) = step.writes.iter().find(|write| lost(write)).and_then(|write| write.split(' ').nth(2)) else {
            return;
        };
        let times = step.writes.iter().filter(|write| lost(write)).count() as i64;
        self.lower.push((format!("handle/{id}"), block.to_owned(), times));
        let first = step.writes.iter().position(|write| write.starts_with(&format!("create handle {id} ")));
        let Some(first) = first else { return };
        let create = step.writes[first].clone();
        let mut writes = Vec::new();
        for write in &step.writes {
            if write.starts_with(&format!("update handle {id} ")) {
                writes.push(create.clone());
            } else {
                writes.push(write.clone());
            }
            if lost(write) {
                writes.push(format!("delete handle {id}"));
            }
        }
        step.writes = writes;
    }
}

/// Writes of ours and expected ones, brought into a form in which they can be compared: where the recording was
/// sorted because upstream's order is random, both are sorted; where it leaves out what handles contain, so does ours.
pub(crate) fn comparable(mut ours: Vec<String>, expected: &[String], sorted: bool) -> (Vec<String>, Vec<String>) {
    let mut expected = expected.to_vec();
    if sorted {
        let is_handle = |write: &&String| write.starts_with("create handle ") || write.starts_with("update handle ");
        if expected.iter().filter(is_handle).any(|write| !write.contains('{')) {
            let strip = |write: &mut String| {
                if is_handle(&&*write)
                    && let Some(brace) = write.find(" {")
                {
                    write.truncate(brace);
                }
            };
            ours.iter_mut().for_each(strip);
            expected.iter_mut().for_each(strip);
        }
        ours.sort();
        expected.sort();
    }
    (ours, expected)
}
