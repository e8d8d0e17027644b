//! Raising and lowering the counts of a handle.
//!
//! The order around a block write is what makes handles trustworthy: raised before the block is written, lowered
//! after an address was freed. A crash in between leaves a count that is too high, which costs a look into a block;
//! a count too low could hide an address from its owner for ever.

use calico_store::Error;
use ipnet::IpNet;

use crate::{Handle, HandleId, Ipam, error::AccessError, ipam::Stored, retry::is_race};

impl Ipam {
    /// Raises a handle's count for a block, making the handle if needed.
    pub(crate) async fn increment(&self, id: &HandleId, block: IpNet, count: usize) -> Result<(), AccessError> {
        let mut retry = self.retry(format!("handle {id}"));
        loop {
            let stored = self.handle(id).await?;
            let written = match stored {
                None => {
                    let mut handle = Handle::default();
                    handle.increment(block, count);
                    self.kv().create(&id.key(), handle.to_json()).await
                }
                Some(Stored { value: mut handle, revision }) => {
                    handle.increment(block, count);
                    self.kv().update(&id.key(), handle.to_json(), revision).await
                }
            };
            match written {
                Ok(_) => return Ok(()),
                Err(error) if is_race(&error) => retry.lost().await?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Lowers a handle's count for a block. A failure is logged and not reported: what the caller did is done, and a
    /// count too high does no harm.
    pub(crate) async fn decrement(&self, id: &HandleId, block: IpNet, count: usize) {
        if let Err(error) = self.try_decrement(id, block, count).await {
            tracing::warn!(handle = %id, %block, count, %error, "the handle keeps a count too high");
        }
    }

    async fn try_decrement(&self, id: &HandleId, block: IpNet, count: usize) -> Result<(), AccessError> {
        let mut retry = self.retry(format!("handle {id}"));
        loop {
            let Some(mut stored) = self.handle(id).await? else {
                tracing::debug!(handle = %id, %block, "the handle is gone already");
                return Ok(());
            };
            if !stored.value.decrement(block, count) {
                tracing::warn!(handle = %id, %block, count, "the handle counts less than was released; left alone");
                return Ok(());
            }
            match self.write_handle(id, &stored).await {
                Err(error) if is_race(&error) => retry.lost().await?,
                written => return Ok(written?),
            }
        }
    }

    /// Drops a block that does not exist from a handle.
    ///
    /// The handle is read before the block is: whoever allocates from the block after that raises the handle first,
    /// so that this write is refused.
    pub(crate) async fn forget_block(&self, id: &HandleId, block: IpNet) -> Result<(), AccessError> {
        let mut retry = self.retry(format!("handle {id}"));
        loop {
            let Some(mut stored) = self.handle(id).await? else { return Ok(()) };
            if !stored.value.forget(block) || self.raw_block(block).await?.is_some() {
                return Ok(());
            }
            match self.write_handle(id, &stored).await {
                Err(error) if is_race(&error) => retry.lost().await?,
                written => return Ok(written?),
            }
        }
    }

    /// Writes a handle, or deletes it when it is empty.
    async fn write_handle(&self, id: &HandleId, stored: &Stored<Handle>) -> Result<(), Error> {
        if stored.value.is_empty() {
            self.kv().delete(&id.key(), stored.revision).await
        } else {
            self.kv().update(&id.key(), stored.value.to_json(), stored.revision).await.map(|_| ())
        }
    }
}
