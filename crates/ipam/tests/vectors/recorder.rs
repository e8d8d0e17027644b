//! A datastore that writes down every IPAM write in the words of the vectors, and makes lost races on demand.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
};

use async_trait::async_trait;
use calico_ipam::{AffinityKey, Block, OwnerKind, parse_block_key};
use calico_model::Revision;
use calico_store::{Entry, Error, Kv, KvWatch, Listing, MemoryKv};
use serde::Deserialize;

pub(crate) const ROOT: &str = "/calico/ipam/v2/";

/// A raw write as another process would do it; no value deletes.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Put {
    pub key: String,
    pub value: Option<String>,
}

/// Writes of others that come just before one of ours.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Injection {
    before: String,
    key: String,
    puts: Vec<Put>,
}

#[derive(Default)]
struct Log {
    writes: Vec<String>,
    injections: VecDeque<Injection>,
    /// By block key: the sequence number it was created with; blocks that were put count from 0.
    bases: BTreeMap<String, u64>,
}

#[derive(Clone)]
pub(crate) struct Recorder {
    memory: MemoryKv,
    log: Arc<Mutex<Log>>,
}

impl Recorder {
    pub(crate) fn new() -> Self {
        Self { memory: MemoryKv::new(), log: Arc::default() }
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap()
    }

    pub(crate) fn inject(&self, injections: Vec<Injection>) {
        self.log().injections = injections.into();
    }

    /// The writes since the last call.
    pub(crate) fn take_writes(&self) -> Vec<String> {
        std::mem::take(&mut self.log().writes)
    }

    pub(crate) fn put(&self, put: &Put) {
        self.log().bases.remove(&put.key);
        match &put.value {
            Some(value) => drop(self.memory.put(&put.key, value)),
            None => drop(self.memory.remove(&put.key)),
        }
    }

    /// The number that a block's sequence numbers are relative to.
    pub(crate) fn base(&self, key: &str) -> u64 {
        self.log().bases.get(key).copied().unwrap_or(0)
    }

    /// Everything that IPAM has stored, by key without the prefix.
    pub(crate) async fn state(&self) -> BTreeMap<String, Vec<u8>> {
        let listing = self.memory.list(ROOT).await.unwrap();
        listing.entries.into_iter().map(|entry| (entry.key[ROOT.len()..].to_owned(), entry.value)).collect()
    }

    /// What others write before a write of ours.
    fn before(&self, operation: &str, key: &str) {
        let puts = {
            let mut log = self.log();
            let due = log.injections.iter().position(|due| due.before == operation && due.key == key);
            due.and_then(|due| log.injections.remove(due)).map(|due| due.puts).unwrap_or_default()
        };
        puts.iter().for_each(|put| self.put(put));
    }

    fn record<T>(&self, operation: &str, key: &str, value: Option<&[u8]>, result: &Result<T, Error>) {
        if !key.starts_with(ROOT) {
            return;
        }
        let outcome = match result {
            Ok(_) => "",
            Err(Error::AlreadyExists { .. }) => " -> exists",
            Err(Error::Conflict { .. }) => " -> conflict",
            Err(Error::NotFound { .. }) => " -> missing",
            Err(error) => panic!("{operation} {key}: {error}"),
        };
        if operation == "create" && result.is_ok() && parse_block_key(key).is_some() {
            let block = Block::from_json(value.unwrap()).unwrap();
            self.log().bases.insert(key.to_owned(), block.sequence_number);
        }
        let words = self.describe(operation, key, value);
        self.log().writes.push(format!("{words}{outcome}"));
    }

    fn describe(&self, operation: &str, key: &str, value: Option<&[u8]>) -> String {
        let json = |value: &[u8]| serde_json::from_slice::<serde_json::Value>(value).unwrap();
        if let Some(cidr) = parse_block_key(key) {
            let Some(value) = value else { return format!("{operation} block {cidr}") };
            let block = Block::from_json(value).unwrap();
            let base = if operation == "create" { block.sequence_number } else { self.base(key) };
            let (sequence, used) = (block.sequence_number - base, block.allocations.iter().flatten().count());
            let owner = block.affinity.as_deref().unwrap_or("None");
            return format!("{operation} block {cidr} seq={sequence} owner={owner} used={used}");
        }
        if let Ok(AffinityKey { owner, block }) = key.parse() {
            let owner = if owner.kind == OwnerKind::Host { owner.name } else { owner.to_string() };
            let state = value.map(|value| format!(" {}", json(value)["state"].as_str().unwrap())).unwrap_or_default();
            return format!("{operation} affinity {owner} {block}{state}");
        }
        match key[ROOT.len()..].split_once('/') {
            Some(("handle", id)) => match value {
                Some(value) => format!("{operation} handle {id} {}", json(value)["block"]),
                None => format!("{operation} handle {id}"),
            },
            Some(("host", host)) => format!("{operation} hostdir {host}"),
            // Upstream puts the configuration unconditionally, which the vectors call to apply.
            None => format!("apply config {}", String::from_utf8_lossy(value.unwrap())),
            Some(_) => panic!("unexpected key {key}"),
        }
    }
}

#[async_trait]
impl Kv for Recorder {
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        self.memory.get(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Listing, Error> {
        self.memory.list(prefix).await
    }

    async fn create(&self, key: &str, value: Vec<u8>) -> Result<Revision, Error> {
        self.before("create", key);
        let result = self.memory.create(key, value.clone()).await;
        self.record("create", key, Some(&value), &result);
        result
    }

    async fn update(&self, key: &str, value: Vec<u8>, expected: Revision) -> Result<Revision, Error> {
        self.before("update", key);
        let result = self.memory.update(key, value.clone(), expected).await;
        self.record("update", key, Some(&value), &result);
        result
    }

    async fn delete(&self, key: &str, expected: Revision) -> Result<(), Error> {
        self.before("delete", key);
        let result = self.memory.delete(key, expected).await;
        self.record("delete", key, None, &result);
        result
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn KvWatch>, Error> {
        self.memory.watch(prefix, after).await
    }

    fn location(&self) -> String {
        self.memory.location()
    }
}
