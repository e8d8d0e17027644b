//! The store's conformance suite on the embedded datastore, through the client that all our processes use.

use std::sync::Arc;

use calico_store::{ConnectOptions, EtcdKv};

use crate::{
    cases::{self, Remote},
    ours::Ours,
};

async fn empty() -> Remote<Ours> {
    let server = Ours::start().await;
    let kv = EtcdKv::connect(ConnectOptions::embedded(&server.socket())).await.unwrap();
    Remote { kv: Arc::new(kv), raw: server.raw().await, server }
}

conformance!(embedded, super::empty());
