//! The client: what it holds, and reading and writing single objects.

use std::{collections::BTreeMap, fmt, sync::Arc};

use calico_model::{IPPoolSpec, IPReservationSpec, NodeSpec, Resource, Revision};
use calico_store::{Entry, Error, Kv, Store};
use ipnet::IpNet;
use time::OffsetDateTime;

use crate::{
    Affinity, AffinityKey, AffinityState, Backoff, Block, CONFIG_KEY, Config, Family, Handle, HandleId, Owner, Pool,
    Pools, Reservations,
    block::{BLOCK_ROOT, block_key, parse_block_key},
    error::ConfigureError,
    retry::{Retry, is_race},
};

/// Where the time comes from.
pub type Clock = Arc<dyn Fn() -> OffsetDateTime + Send + Sync>;

/// Address management over a datastore. Cheap to clone; clones and other processes may work at the same time.
#[derive(Clone)]
pub struct Ipam {
    store: Store,
    clock: Clock,
    backoff: Backoff,
}

impl fmt::Debug for Ipam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ipam").field("datastore", &self.kv().location()).field("backoff", &self.backoff).finish()
    }
}

/// A value with the revision it was read at.
#[derive(Clone, Debug)]
pub(crate) struct Stored<T> {
    pub value: T,
    pub revision: Revision,
}

impl<T> Stored<T> {
    pub(crate) fn decode(entry: &Entry, parse: impl FnOnce(&[u8]) -> Result<T, String>) -> Result<Self, Error> {
        match parse(&entry.value) {
            Ok(value) => Ok(Self { value, revision: entry.revision }),
            Err(cause) => Err(Error::Corrupt { key: entry.key.clone(), cause }),
        }
    }
}

impl Ipam {
    /// A client over `store`.
    pub fn new(store: Store) -> Self {
        Self { store, clock: Arc::new(OffsetDateTime::now_utc), backoff: Backoff::default() }
    }

    /// The same client with another clock.
    #[must_use]
    pub fn with_clock(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// The same client with another way to wait between tries.
    #[must_use]
    pub fn with_backoff(self, backoff: Backoff) -> Self {
        Self { backoff, ..self }
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn kv(&self) -> &dyn Kv {
        &**self.store.kv()
    }

    pub(crate) fn now(&self) -> OffsetDateTime {
        (self.clock)()
    }

    pub(crate) fn retry(&self, what: impl Into<String>) -> Retry {
        Retry::new(self.backoff, what)
    }

    async fn read<T>(
        &self,
        key: &str,
        parse: impl FnOnce(&[u8]) -> Result<T, String>,
    ) -> Result<Option<Stored<T>>, Error> {
        self.kv().get(key).await?.map(|entry| Stored::decode(&entry, parse)).transpose()
    }

    /// The cluster's settings; the defaults if there are none.
    ///
    /// # Errors
    /// The datastore's.
    pub async fn get_config(&self) -> Result<Config, Error> {
        Ok(self.read(CONFIG_KEY, Config::from_json).await?.map(|stored| stored.value).unwrap_or_default())
    }

    /// Changes the cluster's settings: reads, changes, checks, writes, again if somebody else wrote meanwhile.
    ///
    /// # Errors
    /// [`ConfigureError::Invalid`] if the result contradicts itself; nothing is written then.
    pub async fn modify_config(&self, change: impl Fn(&mut Config)) -> Result<Config, ConfigureError> {
        let mut retry = self.retry("the IPAM configuration");
        loop {
            let stored = self.read(CONFIG_KEY, Config::from_json).await?;
            let revision = stored.as_ref().map(|stored| stored.revision);
            let mut config = stored.map(|stored| stored.value).unwrap_or_default();
            change(&mut config);
            config.check()?;
            let written = match revision {
                None => self.kv().create(CONFIG_KEY, config.to_json()).await,
                Some(revision) => self.kv().update(CONFIG_KEY, config.to_json(), revision).await,
            };
            match written {
                Ok(_) => return Ok(config),
                Err(error) if is_race(&error) => retry.lost().await?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Replaces the cluster's settings. Members not known here stay unless `config` has them.
    ///
    /// # Errors
    /// As for [`modify_config`](Self::modify_config).
    pub async fn set_config(&self, config: Config) -> Result<Config, ConfigureError> {
        self.modify_config(|stored| {
            let mut extra = std::mem::take(&mut stored.extra);
            extra.extend(config.extra.clone());
            *stored = Config { extra, ..config.clone() };
        })
        .await
    }

    /// All pools by name. Pools that cannot be read or used are logged and left out.
    ///
    /// # Errors
    /// The datastore's.
    pub async fn pools(&self) -> Result<Pools, Error> {
        let (resources, unreadable) = self.store.list::<IPPoolSpec>().await?;
        for error in unreadable {
            tracing::warn!(%error, "skipping a pool that cannot be read");
        }
        let usable = |resource: &Resource<IPPoolSpec>| match Pool::new(resource) {
            Ok(pool) => Some(pool),
            Err(reason) => {
                tracing::warn!(%reason, "skipping a pool that cannot be used");
                None
            }
        };
        Ok(Pools(resources.iter().filter_map(usable).collect()))
    }

    /// Everything reserved in the cluster. What cannot be read is left out, with a word in the log.
    ///
    /// # Errors
    /// The datastore's.
    pub async fn reservations(&self) -> Result<Reservations, Error> {
        let (resources, unreadable) = self.store.list::<IPReservationSpec>().await?;
        for error in unreadable {
            tracing::warn!(%error, "skipping a reservation that cannot be read");
        }
        let texts = resources.iter().flat_map(|resource| &resource.spec.reserved_cidrs);
        let parse = |text: &String| {
            let net = Reservations::parse(text);
            if net.is_none() {
                tracing::warn!(%text, "skipping a reservation that is neither an address nor a prefix");
            }
            net
        };
        Ok(Reservations::new(texts.filter_map(parse)))
    }

    /// A node's labels, `None` if there is no such node.
    pub(crate) async fn node_labels(&self, host: &str) -> Result<Option<BTreeMap<String, String>>, Error> {
        match self.store.get::<NodeSpec>(host).await {
            Ok(node) => Ok(Some(node.metadata.labels)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A block with addresses whose cool-down is over freed in memory; the next write makes that last.
    pub(crate) async fn block(&self, cidr: IpNet, config: &Config) -> Result<Option<Stored<Block>>, Error> {
        let mut stored = self.raw_block(cidr).await?;
        if let Some(stored) = &mut stored {
            stored.value.collect(config.cooldown(), self.now());
        }
        Ok(stored)
    }

    /// A block to release from, with addresses whose cool-down is over freed in memory. Its queue may be damaged.
    pub(crate) async fn block_to_release(&self, cidr: IpNet, config: &Config) -> Result<Option<Stored<Block>>, Error> {
        let mut stored = self.damaged_block(cidr).await?;
        if let Some(stored) = &mut stored {
            stored.value.collect(config.cooldown(), self.now());
        }
        Ok(stored)
    }

    /// A block as it is stored, although its queue may be damaged: to look at and to release from.
    pub(crate) async fn damaged_block(&self, cidr: IpNet) -> Result<Option<Stored<Block>>, Error> {
        self.read(&block_key(cidr), Block::from_damaged_json).await
    }

    /// A block as it is stored.
    pub(crate) async fn raw_block(&self, cidr: IpNet) -> Result<Option<Stored<Block>>, Error> {
        self.read(&block_key(cidr), Block::from_json).await
    }

    /// Keys and values of all blocks of a family, by prefix.
    pub(crate) async fn block_entries(&self, family: Family) -> Result<BTreeMap<IpNet, Entry>, Error> {
        let listing = self.kv().list(&format!("{BLOCK_ROOT}{}/block/", family.segment())).await?;
        Ok(listing.entries.into_iter().filter_map(|entry| Some((parse_block_key(&entry.key)?, entry))).collect())
    }

    /// The addresses of blocks whose size is not that of a pool's blocks: they are from before the pool got the
    /// block size it has now. No block may be made over them, or their addresses would be handed out twice.
    pub(crate) async fn in_other_blocks(&self, family: Family, block_len: u8) -> Result<Reservations, Error> {
        let blocks = self.block_entries(family).await?.into_keys();
        Ok(Reservations::new(blocks.filter(|block| block.prefix_len() != block_len)))
    }

    pub(crate) async fn create_block(&self, block: &Block) -> Result<Revision, Error> {
        self.kv().create(&block.key(), block.to_json()).await
    }

    /// Writes a changed block with the next sequence number and returns it as it is stored now.
    pub(crate) async fn update_block(&self, stored: Stored<Block>) -> Result<Stored<Block>, Error> {
        let mut block = stored.value;
        block.sequence_number = block.sequence_number.wrapping_add(1);
        let revision = self.kv().update(&block.key(), block.to_json(), stored.revision).await?;
        Ok(Stored { value: block, revision })
    }

    pub(crate) async fn delete_block(&self, stored: &Stored<Block>) -> Result<(), Error> {
        self.kv().delete(&stored.value.key(), stored.revision).await
    }

    pub(crate) async fn affinity(&self, key: &AffinityKey) -> Result<Option<Stored<Affinity>>, Error> {
        self.read(&key.to_string(), Affinity::from_json).await
    }

    /// Writes the state of an affinity and returns the new revision.
    pub(crate) async fn mark(
        &self,
        key: &AffinityKey,
        affinity: &Stored<Affinity>,
        state: AffinityState,
    ) -> Result<Revision, Error> {
        let marked = Affinity { state, ..affinity.value.clone() };
        self.kv().update(&key.to_string(), marked.to_json(), affinity.revision).await
    }

    /// The blocks an owner claims, in key order: the order in which they are used.
    ///
    /// # Errors
    /// The datastore's.
    pub async fn affine_blocks(&self, owner: &Owner, family: Family) -> Result<Vec<IpNet>, Error> {
        let listing = self.kv().list(&owner.family_prefix(family)).await?;
        let keys = listing.entries.iter().filter_map(|entry| entry.key.parse::<AffinityKey>().ok());
        Ok(keys.map(|key| key.block).collect())
    }

    pub(crate) async fn handle(&self, id: &HandleId) -> Result<Option<Stored<Handle>>, Error> {
        self.read(&id.key(), Handle::from_json).await
    }
}
