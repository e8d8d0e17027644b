//! Where the datastore is, as the service sees it, and the news that it is somewhere else.
//!
//! It moves when the cluster goes over to etcd, and when this host joins another one's datastore while its service runs.
//! Both end in the host's record (`location.env`), so that is what is looked at whenever there are
//! [`News`] of it.

mod news;

use std::{path::Path, pin::pin, sync::Arc, time::Duration};

use calico_datastore::enrol;
use calico_startup::relocation;
use calico_store::{ConnectOptions, DATASTORE_DIR, DATASTORE_SOCKET, Error, EtcdKv, LOCATION_FILE, Source, Store};
use futures::{FutureExt, future::FusedFuture};
use miette::{IntoDiagnostic, Result};
use news::News;
use tokio::time::sleep;
use tracing::{info, warn};

/// The pause before the cluster's own moves are followed anew, after the end of one.
const FOLLOW_PAUSE: Duration = Duration::from_secs(2);

/// A datastore, and how it was found.
pub(crate) struct Place {
    options: ConnectOptions,
    store: Store,
}

impl Place {
    /// Where it is now.
    ///
    /// # Errors
    /// Settings that make no sense.
    pub(crate) fn find() -> Result<Self> {
        let place = ConnectOptions::from_env().and_then(Self::at).into_diagnostic()?;
        info!(datastore = %place.location(), source = ?place.options.source(), "the datastore");
        Ok(place)
    }

    fn at(options: ConnectOptions) -> Result<Self, Error> {
        let store = Store::new(Arc::new(EtcdKv::new(options.clone())?));
        Ok(Self { options, store })
    }

    /// The datastore, connected to when it is first asked.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// For messages.
    pub(crate) fn location(&self) -> String {
        self.options.location()
    }

    /// This host keeps it.
    pub(crate) fn is_here(&self) -> bool {
        *self.options.source() == Source::Embedded
    }

    /// The datastore is elsewhere, and this host kept it before, for others too: some of them may not know where it went.
    ///
    /// # Errors
    /// This host's record cannot be read.
    pub(crate) fn left_guests_behind(&self) -> Result<bool> {
        if self.is_here() {
            return Ok(false);
        }
        let own = ConnectOptions::embedded(Path::new(DATASTORE_SOCKET)).location();
        has_guests(Path::new(DATASTORE_DIR), Path::new(LOCATION_FILE), &own).into_diagnostic()
    }

    /// Keeps the certificate valid by which this host reaches another one's datastore; for ever.
    pub(crate) async fn renew_certificate(&self) {
        match self.options.source() {
            Source::File { keeper: Some(_), .. } => match enrol::renewal::run(DATASTORE_DIR.into()).await {},
            Source::File { keeper: None, .. } | Source::Environment | Source::Embedded => std::future::pending().await,
        }
    }

    /// Completes with the new place when the datastore is somewhere else. Takes part in the cluster's own moves: being
    /// asked again on the new place is how the cluster learns that this host has arrived.
    pub(crate) async fn moved(&self, node: &str) -> Self {
        let record = relocation::ThisPlace { location: LOCATION_FILE.into() };
        let mut told = String::new();
        let mut following = pin!(relocation::follow(self.store.kv().clone(), node, &record).fuse());
        let mut news = News::of(Path::new(LOCATION_FILE));
        loop {
            news.begin();
            match self.look() {
                Ok(Some(place)) => return place,
                Ok(None) => told.clear(),
                Err(error) => {
                    let words = error.to_string();
                    if words != told {
                        warn!(%error, "where the datastore is cannot be understood; staying with the one that was");
                        told = words;
                    }
                }
            }
            if following.is_terminated() {
                following.set(relocation::follow(self.store.kv().clone(), node, &record).fuse());
                sleep(FOLLOW_PAUSE).await;
            }
            tokio::select! {
                () = &mut following => {}
                () = news.next() => {}
            }
        }
    }

    /// The place if it is another one now.
    fn look(&self) -> Result<Option<Self>, Error> {
        let options = ConnectOptions::from_env()?;
        if options == self.options { Ok(None) } else { Self::at(options).map(Some) }
    }
}

/// Whether the datastore in `dir`, served at `own`, was left by a migration that the record at `location` tells of, and
/// still knows hosts by their certificates.
fn has_guests(dir: &Path, location: &Path, own: &str) -> Result<bool, Error> {
    let is_there = |file: &str| dir.join(file).is_file();
    Ok(is_there("data.redb") && is_there("pki/hosts.json") && ConnectOptions::has_left(location, own)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_datastore_that_was_left_goes_on_for_its_guests_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (dir, location) = (folder.path(), folder.path().join("location.env"));
        let own = "unix:///run/own.sock";
        let has_guests = || has_guests(dir, &location, own).unwrap();
        std::fs::create_dir(dir.join("pki")).unwrap();
        std::fs::write(dir.join("data.redb"), "").unwrap();
        std::fs::write(dir.join("pki/hosts.json"), "{}").unwrap();
        assert!(!has_guests(), "nothing has moved");
        let etcd = ConnectOptions::given(|name| (name == "ETCD_ENDPOINTS").then(|| "http://e:2379".into()));
        let etcd = etcd.unwrap().unwrap();
        etcd.write_moved(&location, "https://another:2379").unwrap();
        assert!(!has_guests(), "it moved, but not from here");
        etcd.write_moved(&location, own).unwrap();
        assert!(has_guests());
        std::fs::remove_dir_all(dir.join("pki")).unwrap();
        assert!(!has_guests(), "nobody has a certificate of it");
    }
}
