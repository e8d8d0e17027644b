//! Resources by kind and name, over any [`Kv`].

use std::{sync::Arc, time::Duration};

use calico_model::{Kind, Resource, ResourceKey};

use crate::{Entry, Error, Kv};

/// How many lost races are taken up again.
const MOST_RACES: u32 = 20;

/// The typed datastore. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    kv: Arc<dyn Kv>,
}

impl Store {
    /// A store over `kv`.
    pub fn new(kv: Arc<dyn Kv>) -> Self {
        Self { kv }
    }

    /// The layer below, for IPAM and the syncer.
    pub fn kv(&self) -> &Arc<dyn Kv> {
        &self.kv
    }

    /// One resource of a cluster-wide kind.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Corrupt`], [`Error::Unreachable`].
    pub async fn get<S: Kind>(&self, name: &str) -> Result<Resource<S>, Error> {
        self.get_key(&ResourceKey::new(S::NAME, None, name)).await
    }

    /// One resource by key, for namespaced kinds.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn get_key<S: Kind>(&self, key: &ResourceKey) -> Result<Resource<S>, Error> {
        let key = key.to_string();
        match self.kv.get(&key).await? {
            Some(entry) => decode(&entry),
            None => Err(Error::NotFound { key }),
        }
    }

    /// All resources of a kind, in key order. Values that cannot be read are skipped and named in the second part.
    ///
    /// # Errors
    /// [`Error::Unreachable`].
    pub async fn list<S: Kind>(&self) -> Result<(Vec<Resource<S>>, Vec<Error>), Error> {
        self.list_prefix(&ResourceKey::prefix(S::NAME)).await
    }

    /// As [`list`](Self::list), for keys that start with `prefix`.
    ///
    /// # Errors
    /// [`Error::Unreachable`].
    pub async fn list_prefix<S: Kind>(&self, prefix: &str) -> Result<(Vec<Resource<S>>, Vec<Error>), Error> {
        let listing = self.kv.list(prefix).await?;
        let (mut good, mut bad) = (Vec::with_capacity(listing.entries.len()), Vec::new());
        for entry in &listing.entries {
            match decode(entry) {
                Ok(resource) => good.push(resource),
                Err(error) => bad.push(error),
            }
        }
        Ok((good, bad))
    }

    /// Stores a new resource: fills in defaults, uid and creation time, validates, creates.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::AlreadyExists`].
    pub async fn create<S: Kind>(&self, mut resource: Resource<S>) -> Result<Resource<S>, Error> {
        resource.prepare()?;
        resource.metadata.stamp(time::OffsetDateTime::now_utc());
        let revision = self.kv.create(&resource.key().to_string(), resource.to_json()).await?;
        resource.revision = Some(revision);
        Ok(resource)
    }

    /// Stores a changed resource that was read before; its revision is compared.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::Conflict`], [`Error::NotFound`].
    pub async fn update<S: Kind>(&self, mut resource: Resource<S>) -> Result<Resource<S>, Error> {
        resource.prepare()?;
        let key = resource.key().to_string();
        let expected = resource.revision.ok_or_else(|| Error::NotFound { key: key.clone() })?;
        let revision = self.kv.update(&key, resource.to_json(), expected).await?;
        resource.revision = Some(revision);
        Ok(resource)
    }

    /// Reads, changes and stores a resource until no race is lost, with growing pauses; `change` may be called several
    /// times.
    ///
    /// # Errors
    /// What [`get_key`](Self::get_key) and [`update`](Self::update) return, what `change` returns, and
    /// [`Error::Conflict`] after 20 lost races.
    pub async fn modify<S: Kind, E: From<Error>>(
        &self,
        key: &ResourceKey,
        mut change: impl FnMut(&mut Resource<S>) -> Result<(), E>,
    ) -> Result<Resource<S>, E> {
        let mut lost = 0;
        loop {
            let mut resource = self.get_key::<S>(key).await?;
            change(&mut resource)?;
            match self.update(resource).await {
                Err(Error::Conflict { .. }) if lost < MOST_RACES => {
                    lost += 1;
                    let wait = Duration::from_millis(1 << lost.min(6));
                    tracing::debug!(%key, lost, ?wait, "changed by somebody else meanwhile, trying again");
                    tokio::time::sleep(wait).await;
                }
                other => return Ok(other?),
            }
        }
    }

    /// Deletes a resource that was read before; its revision is compared.
    ///
    /// # Errors
    /// [`Error::Conflict`], [`Error::NotFound`].
    pub async fn delete<S: Kind>(&self, resource: &Resource<S>) -> Result<(), Error> {
        let key = resource.key().to_string();
        let expected = resource.revision.ok_or_else(|| Error::NotFound { key: key.clone() })?;
        self.kv.delete(&key, expected).await
    }
}

fn decode<S: Kind>(entry: &Entry) -> Result<Resource<S>, Error> {
    Resource::from_json(&entry.value, Some(entry.revision))
        .map_err(|error| Error::Corrupt { key: entry.key.clone(), cause: error.to_string() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use calico_model::{Node, NodeSpec};

    use super::*;
    use crate::MemoryKv;

    #[tokio::test(start_paused = true)]
    async fn a_change_that_loses_every_race_gives_up() {
        let kv = Arc::new(MemoryKv::new());
        let store = Store::new(kv.clone());
        let node = store.create(Node::new("h1", NodeSpec::default())).await.unwrap();
        let key = node.key();
        let (mut calls, begin) = (0, tokio::time::Instant::now());
        let lost = store.modify::<NodeSpec, Error>(&key, |changed| {
            calls += 1;
            kv.put(&key.to_string(), changed.to_json());
            Ok(())
        });
        assert!(matches!(lost.await, Err(Error::Conflict { .. })));
        assert_eq!(calls, MOST_RACES + 1);
        assert!(begin.elapsed() > Duration::from_millis(500), "with pauses: {:?}", begin.elapsed());
    }
}
