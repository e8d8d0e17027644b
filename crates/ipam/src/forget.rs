//! Deleting a handle that counts addresses it does not hold.
//!
//! A count too high is what a call leaves that died, or lost its connection, between raising the handle and writing
//! the block. It does no harm, but the key would stay for ever: releasing by handle finds nothing to lower it by.
//! Only somebody who keeps others from assigning with the handle can tell such a count from one that another call
//! is about to make true, so only such a caller can have it removed.

use calico_model::Revision;

use crate::{Handle, HandleId, Ipam, error::AccessError, ipam::Stored, retry::is_race};

impl Ipam {
    /// Deletes a handle that holds no address, whatever it counts. `Ok(false)` if it holds some, or is not there.
    ///
    /// The caller must know that nobody assigns with this handle meanwhile, by a lock of its own: the count that
    /// such a call has raised, and will make true, would be lost.
    ///
    /// # Errors
    /// The datastore's.
    pub async fn forget_handle(&self, id: &HandleId) -> Result<bool, AccessError> {
        let mut retry = self.retry(format!("handle {id}"));
        loop {
            let Some(stored) = self.handle(id).await? else { return Ok(false) };
            if self.holds_addresses(id, &stored).await? {
                return Ok(false);
            }
            match self.kv().delete(&id.key(), stored.revision).await {
                Ok(()) => return Ok(true),
                Err(error) if is_race(&error) => retry.lost().await?,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Ipam {
    /// Deletes a handle that has not changed since it had `revision`, when it was seen to hold nothing. `Ok(false)`
    /// if it has changed, is gone, or holds an address after all.
    ///
    /// # Errors
    /// The datastore's.
    pub async fn delete_idle_handle(&self, id: &HandleId, revision: Revision) -> Result<bool, AccessError> {
        let Some(stored) = self.handle(id).await?.filter(|stored| stored.revision == revision) else {
            return Ok(false);
        };
        if self.holds_addresses(id, &stored).await? {
            return Ok(false);
        }
        match self.kv().delete(&id.key(), revision).await {
            Ok(()) => Ok(true),
            Err(error) if is_race(&error) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn holds_addresses(&self, id: &HandleId, handle: &Stored<Handle>) -> Result<bool, AccessError> {
        for cidr in handle.value.blocks() {
            let block = self.damaged_block(cidr).await?;
            if block.is_some_and(|block| !block.value.held_by(id).is_empty()) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use calico_model::{IPPool, IPPoolSpec, Node, NodeSpec};
    use calico_store::{Injected, Kv, MemoryKv, Store};

    use super::*;
    use crate::AutoAssign;

    async fn assign(ipam: &Ipam) -> bool {
        let request = AutoAssign { host: "n".into(), num4: 1, handle: Some("h".into()), ..AutoAssign::default() };
        ipam.auto_assign(request).await.is_ok()
    }

    #[tokio::test]
    async fn only_a_handle_without_addresses_is_deleted() {
        let kv = MemoryKv::new();
        let store = Store::new(Arc::new(kv.clone()));
        let cidr = "10.10.0.0/24".parse().unwrap();
        store.create(IPPool::new("p", IPPoolSpec { cidr, ..IPPoolSpec::default() })).await.unwrap();
        store.create(Node::new("n", NodeSpec::default())).await.unwrap();
        let (ipam, id) = (Ipam::new(store), HandleId::from("h"));
        assert!(!ipam.forget_handle(&id).await.unwrap(), "there is none");

        // The block's write is lost and the datastore goes away with it, so the raised count stays.
        let mut down = false;
        kv.inject(move |_, write| {
            down |= write.key.contains("/block/")
                && write.value.is_some_and(|value| value.windows(9).any(|w| w == b"handle_id"));
            if down { Injected::FailBefore } else { Injected::Proceed }
        });
        assert!(!assign(&ipam).await);
        kv.stop_injecting();
        assert!(kv.get(&id.key()).await.unwrap().is_some(), "the count is left behind");
        assert!(ipam.forget_handle(&id).await.unwrap());
        assert!(kv.get(&id.key()).await.unwrap().is_none());

        assert!(assign(&ipam).await);
        assert!(!ipam.forget_handle(&id).await.unwrap(), "it holds an address");
        assert!(kv.get(&id.key()).await.unwrap().is_some());
    }
}
