//! Who holds which block of addresses: IPAM's records, followed only while a pool uses VXLAN.
//!
//! A cluster has many blocks and they change with every container, so a host whose pools need no overlay does not even
//! hear of them. What a record says beyond owner and borrowers is not kept.

use std::sync::Arc;

use calico_ipam::{BLOCK_ROOT, Block, OwnerKind, parse_block_key};
use calico_policy::{BlockHolders, Engine};
use calico_store::{Event, Kv, KvEvent, Syncer, SyncerHandle};
use tracing::{info, warn};

/// The note of an assignment that says on which host the address is used.
const NODE: &str = "node";

/// What is followed, if anything is.
#[derive(Default)]
pub(crate) struct Blocks {
    syncer: Option<SyncerHandle>,
    in_sync: bool,
}

impl Blocks {
    /// Follows blocks from now on, or no more; then the engine forgets those it knows.
    pub(crate) fn follow(&mut self, wanted: bool, kv: &Arc<dyn Kv>, engine: &mut Engine) {
        match (wanted, self.syncer.is_some()) {
            (true, false) => {
                info!("a pool uses VXLAN: blocks of addresses are followed");
                self.syncer = Some(Syncer::spawn(kv.clone(), vec![BLOCK_ROOT.to_owned()]));
            }
            (false, true) => {
                info!("no pool uses VXLAN: blocks of addresses are followed no more");
                *self = Self::default();
                engine.forget_blocks();
            }
            _ => {}
        }
    }

    /// True if all blocks that matter are known.
    pub(crate) fn are_known(&self) -> bool {
        self.syncer.is_none() || self.in_sync
    }

    /// The next changes; never if none are followed. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Vec<Event> {
        match &mut self.syncer {
            Some(syncer) => match syncer.next().await {
                Some(events) => events,
                // The syncer lives as long as its handle; pending keeps a bug there from becoming a busy loop.
                None => std::future::pending().await,
            },
            None => std::future::pending().await,
        }
    }

    /// Hands changes to the engine. That the datastore is away is said by the syncer of resources.
    pub(crate) fn absorb(&mut self, events: Vec<Event>, engine: &mut Engine) {
        for event in events {
            match event {
                Event::Raw(KvEvent::Put(entry)) => {
                    let Some(block) = parse_block_key(&entry.key) else { continue };
                    let holders = Block::from_json(&entry.value).map(|block| holders(&block));
                    if let Err(error) = &holders {
                        warn!(key = entry.key, %error, "block not usable; there is no route to it");
                    }
                    engine.absorb_block(block, holders.ok());
                }
                Event::Raw(KvEvent::Delete { key, .. }) => {
                    if let Some(block) = parse_block_key(&key) {
                        engine.absorb_block(block, None);
                    }
                }
                Event::InSync => self.in_sync = true,
                Event::Change(_) | Event::Unreadable(_) | Event::Lost { .. } | Event::Back => {}
            }
        }
    }
}

/// The owner, and the addresses that others hold.
fn holders(block: &Block) -> BlockHolders {
    let owner = block.owner().filter(|owner| owner.kind == OwnerKind::Host).map(|owner| owner.name);
    let elsewhere = block.in_use().filter_map(|address| {
        let attribute = block.attribute(block.ordinal(address)?)?;
        let node = attribute.secondary.as_ref()?.get(NODE).filter(|node| !node.is_empty())?;
        (owner.as_ref() != Some(node)).then(|| (address, node.clone()))
    });
    let elsewhere = elsewhere.collect();
    BlockHolders { owner, elsewhere }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_block_has_an_owner_and_borrowers() {
        let json = r#"{"cidr":"10.65.0.0/30","affinity":"host:n1","allocations":[0,1,2,null],"unallocated":[3],
            "attributes":[{"handle_id":"a","secondary":{"node":"n1"}},{"handle_id":"b","secondary":{"node":"n2"}},
            {"releasedAt":"2026-08-22T10:05:00Z"}],"sequenceNumber":7,"sequenceNumberForAllocation":{},"deleted":false}"#;
        let block = Block::from_json(json.as_bytes()).unwrap();
        let elsewhere = vec![("10.65.0.1".parse().unwrap(), "n2".to_owned())];
        assert_eq!(holders(&block), BlockHolders { owner: Some("n1".to_owned()), elsewhere });
        let unowned = json.replace("\"host:n1\"", "null");
        let block = Block::from_json(unowned.as_bytes()).unwrap();
        assert_eq!(holders(&block).owner, None);
        assert_eq!(holders(&block).elsewhere.len(), 2);
        let balanced = json.replace("host:n1", "virtual:lb");
        assert_eq!(holders(&Block::from_json(balanced.as_bytes()).unwrap()).owner, None);
    }
}
