//! The conformance suite on the in-memory datastore and on a real etcd.

#![allow(clippy::unwrap_used)]

#[path = "conformance/cases.rs"]
#[macro_use]
mod cases;
mod support;

use std::sync::Arc;

use async_trait::async_trait;
use calico_store::{
    Kv, MemoryKv,
    mvcc::{KeyRange, Op, Txn},
};
use cases::{Remote, World};
use support::PrivateEtcd;

struct Memory(MemoryKv);

#[async_trait]
impl World for Memory {
    fn kv(&self) -> Arc<dyn Kv> {
        Arc::new(self.0.clone())
    }

    async fn at_once(&self, puts: &[(&str, &str)], deletes: &[&str]) {
        let puts = puts.iter().map(|(key, value)| Op::put(*key, *value));
        let deletes = deletes.iter().map(|key| Op::Delete(KeyRange::one(*key)));
        self.0.txn(&Txn::always(puts.chain(deletes).collect())).unwrap();
    }

    async fn compact(&self) {
        self.0.compact();
    }
}

async fn empty_memory() -> Memory {
    Memory(MemoryKv::new())
}

async fn empty_etcd() -> Remote<PrivateEtcd> {
    let server = PrivateEtcd::start().await;
    Remote { kv: server.kv().await, raw: server.raw().await, server }
}

conformance!(memory, super::empty_memory());
conformance!(etcd, super::empty_etcd());
