//! A datastore that the cluster has left: what is read there is out of date, and what is written there is lost.
//!
//! Hosts know by their own record where the cluster went. Settings elsewhere (a `calicoctl.cfg` on somebody's desk,
//! `ETCD_ENDPOINTS` in a script) may name the former place for years. So the record of a migration is looked at before
//! anything else is: whoever reads is warned, once, and whoever writes is refused. The unfinished copy in the place that
//! a migration goes to is treated alike.
//!
//! It is looked at once before the first access, and again after each write: the cluster may leave while a command runs,
//! which then must not report success for what it left behind.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use calico_model::Revision;
use calico_startup::relocation::{Phase, Record, read_record};
use calico_store::{Entry, Error, Kv, KvWatch, Listing};
use tokio::sync::OnceCell;

use crate::{
    args::{Command, DatastoreCommand, NodeCommand},
    context::Console,
};

/// A datastore that is asked first whether the cluster is still there.
pub(crate) struct Watched {
    kv: Arc<dyn Kv>,
    console: Arc<dyn Console>,
    /// At the first look.
    standing: OnceCell<Standing>,
    /// Why it is refused to write here since the cluster left, under our hands.
    left: OnceLock<String>,
}

/// What a datastore is to its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    /// Its datastore.
    Here,
    /// No more, or not yet: why, and the way out.
    Elsewhere(String),
}

/// True for commands that are at home in any datastore: those about the migration itself, those that start the service,
/// which follows the cluster by itself, and those that look after this host.
pub(crate) fn is_at_home_anywhere(command: &Command) -> bool {
    match command {
        Command::Datastore { command: DatastoreCommand::Migrate(migrate) } => migrate.command.is_none(),
        Command::Node(node) => matches!(node.command, None | Some(NodeCommand::Run(_) | NodeCommand::Stop { .. })),
        Command::Complete(_) | Command::Version(_) | Command::Diags(_) | Command::Checksystem(_) => true,
        _ => false,
    }
}

impl Watched {
    /// Around `kv`.
    pub(crate) fn new(kv: Arc<dyn Kv>, console: Arc<dyn Console>) -> Self {
        Self { kv, console, standing: OnceCell::new(), left: OnceLock::new() }
    }

    async fn look(&self) -> Result<Standing, Error> {
        let found = read_record(self.kv.as_ref()).await;
        standing(&self.kv.location(), found.map(|found| found.map(|(record, _)| record)))
    }

    /// What it is, told once if that is not what the caller may expect.
    async fn standing(&self) -> Result<&Standing, Error> {
        self.standing
            .get_or_try_init(async || {
                let standing = self.look().await?;
                if let Standing::Elsewhere(words) = &standing {
                    self.console.note(&format!("warning: {words}. What is shown here is out of date."));
                }
                Ok(standing)
            })
            .await
    }

    /// Refuses unless the cluster is here.
    async fn before_a_write(&self, operation: &str, key: &str) -> Result<(), Error> {
        match (self.standing().await?, self.left.get()) {
            (Standing::Elsewhere(words), _) | (_, Some(words)) => Err(refused(operation, key, words)),
            (Standing::Here, None) => Ok(()),
        }
    }

    /// The cluster may have left before what was written just now.
    async fn after_a_write(&self, operation: &str, key: &str) -> Result<(), Error> {
        match self.look().await? {
            Standing::Elsewhere(words) => {
                let words = format!("{words}. The cluster left in this moment: look there whether it has arrived");
                let words = self.left.get_or_init(|| words);
                Err(refused(operation, key, words))
            }
            Standing::Here => Ok(()),
        }
    }
}

/// What the record found at `here` says.
fn standing(here: &str, found: Result<Option<Record>, Error>) -> Result<Standing, Error> {
    let record = match found {
        Ok(Some(record)) => record,
        Ok(None) => return Ok(Standing::Here),
        // Of another version, or damaged: nobody knows where the cluster is.
        Err(error @ Error::Corrupt { .. }) => return Ok(Standing::Elsewhere(format!("{error}; {ASK_A_HOST}"))),
        // A user of an etcd who has a right to some keys only is to be able to work on those.
        Err(error) if error.is_permission_denied() => return Ok(Standing::Here),
        Err(error) => return Err(error),
    };
    Ok(match record.phase {
        Phase::Switch => Standing::Elsewhere(format!(
            "the cluster's datastore is no longer at {here}, it moved to {to}; say so in ETCD_ENDPOINTS, or in calicoctl.cfg",
            to = record.to
        )),
        Phase::Copying => Standing::Elsewhere(format!(
            "what is at {here} is the unfinished copy of a cluster that is still at {from}; wait for the end of `calicoctl \
             datastore migrate`, or work there",
            from = record.from
        )),
        Phase::Prepare | Phase::Back | Phase::Arriving => Standing::Here,
    })
}

const ASK_A_HOST: &str = "a host of the cluster knows where its datastore is: `calicoctl status` there";

fn refused(operation: &str, key: &str, words: &str) -> Error {
    Error::Refused { operation: format!("{operation} of {key}"), cause: words.to_owned() }
}

#[async_trait]
impl Kv for Watched {
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        self.standing().await?;
        self.kv.get(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Listing, Error> {
        self.standing().await?;
        self.kv.list(prefix).await
    }

    async fn create(&self, key: &str, value: Vec<u8>) -> Result<Revision, Error> {
        self.before_a_write("create", key).await?;
        let revision = self.kv.create(key, value).await?;
        self.after_a_write("create", key).await?;
        Ok(revision)
    }

    async fn update(&self, key: &str, value: Vec<u8>, expected: Revision) -> Result<Revision, Error> {
        self.before_a_write("update", key).await?;
        let revision = self.kv.update(key, value, expected).await?;
        self.after_a_write("update", key).await?;
        Ok(revision)
    }

    async fn delete(&self, key: &str, expected: Revision) -> Result<(), Error> {
        self.before_a_write("delete", key).await?;
        self.kv.delete(key, expected).await?;
        self.after_a_write("delete", key).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn KvWatch>, Error> {
        self.standing().await?;
        self.kv.watch(prefix, after).await
    }

    fn location(&self) -> String {
        self.kv.location()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use calico_startup::relocation::RECORD;
    use calico_store::MemoryKv;

    use super::*;
    use crate::testing::Bench;

    fn record(phase: &str) -> String {
        serde_json::json!({
            "id": "1", "attempt": 1, "phase": phase, "to": { "ETCD_ENDPOINTS": "http://new:2379" }, "from": "http://old:2379",
            "hosts": [], "leftBehind": [], "unlock": true,
        })
        .to_string()
    }

    fn watched(bench: &Bench) -> (Watched, MemoryKv) {
        let kv = MemoryKv::new();
        (Watched::new(Arc::new(kv.clone()), bench.ctx.console.clone()), kv)
    }

    #[tokio::test]
    async fn at_a_place_that_was_left_reading_warns_once_and_writing_is_refused() {
        for (phase, words) in [("switch", "it moved to http://new:2379"), ("copying", "still at http://old:2379")] {
            let bench = Bench::new();
            let (watched, kv) = watched(&bench);
            let revision = kv.put("/calico/a", "1");
            kv.put(RECORD, record(phase));
            assert_eq!(watched.get("/calico/a").await.unwrap().unwrap().value, b"1");
            assert_eq!(watched.list("/calico/a").await.unwrap().entries.len(), 1);
            let said = bench.said().join("\n");
            assert!(said.contains(words) && said.matches("warning: ").count() == 1, "{said}");
            let refusals = [
                watched.create("/calico/b", b"2".to_vec()).await.map(drop).unwrap_err(),
                watched.update("/calico/a", b"2".to_vec(), revision).await.map(drop).unwrap_err(),
                watched.delete("/calico/a", revision).await.unwrap_err(),
            ];
            assert!(refusals.iter().all(|error| error.to_string().contains(words)), "{refusals:?}");
            assert_eq!(kv.list("/calico/").await.unwrap().entries.len(), 2, "nothing was written");
        }
    }

    #[tokio::test]
    async fn a_record_that_cannot_be_read_is_no_leave_to_write() {
        let bench = Bench::new();
        let (watched, kv) = watched(&bench);
        kv.put(RECORD, "of a later version");
        let error = watched.create("/calico/b", b"2".to_vec()).await.unwrap_err().to_string();
        assert!(error.contains(RECORD) && error.contains("calicoctl status"), "{error}");
        assert!(kv.get("/calico/b").await.unwrap().is_none());
    }

    #[tokio::test]
    async fn the_clusters_datastore_is_as_without_it() {
        for phase in [None, Some("arriving"), Some("prepare"), Some("back")] {
            let bench = Bench::new();
            let (watched, kv) = watched(&bench);
            phase.map(|phase| kv.put(RECORD, record(phase)));
            let revision = watched.create("/calico/a", b"1".to_vec()).await.unwrap();
            let revision = watched.update("/calico/a", b"2".to_vec(), revision).await.unwrap();
            watched.delete("/calico/a", revision).await.unwrap();
            assert_eq!(bench.said(), Vec::<String>::new(), "{phase:?}");
        }
    }

    #[tokio::test]
    async fn a_write_that_the_cluster_left_behind_is_told() {
        // Begun before the migration was, or while it was under way.
        for phase in [None, Some("prepare")] {
            let bench = Bench::new();
            let (watched, kv) = watched(&bench);
            phase.map(|phase| kv.put(RECORD, record(phase)));
            watched.create("/calico/before", b"1".to_vec()).await.unwrap();
            kv.inject(|behind, write| {
                if write.key == "/calico/a" {
                    behind.put(RECORD, record("switch"));
                }
                calico_store::Injected::Proceed
            });
            let error = watched.create("/calico/a", b"1".to_vec()).await.unwrap_err().to_string();
            assert!(error.contains("http://new:2379") && error.contains("left in this moment"), "{error}");
            let error = watched.create("/calico/b", b"1".to_vec()).await.unwrap_err().to_string();
            assert!(error.contains("http://new:2379"), "{error}");
            assert!(kv.get("/calico/b").await.unwrap().is_none(), "the next one is not even tried");
        }
    }

    #[test]
    fn who_may_not_read_the_record_works_on_what_he_may() {
        let refused = |cause: &str| Error::Refused { operation: "get".into(), cause: cause.into() };
        assert_eq!(standing("here", Err(refused("etcdserver: permission denied"))).unwrap(), Standing::Here);
        for cause in ["etcdserver: user name is empty", "etcdserver: invalid auth token"] {
            assert!(standing("here", Err(refused(cause))).is_err(), "{cause}");
        }
    }
}
