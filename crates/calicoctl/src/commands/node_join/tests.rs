#![allow(clippy::unwrap_used)]
use std::fs;

use calico_datastore::enrol::join::Invitation;
use tempfile::TempDir;

use super::{keeper_for_tests::Keeper, *};
use crate::testing::Bench;

struct Host {
    dir: TempDir,
    bench: Bench,
}

impl Host {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), bench: Bench::new() }
    }

    async fn belong(&self, typed: &NodeJoin, source: &Source) -> Result<Belonging, String> {
        let location = self.dir.path().join("location.env");
        let own = Client::new(&self.dir.path().join("admin.sock"));
        let place = Place { dir: self.dir.path(), location: &location, own };
        belong(&self.bench.ctx, typed, "host-2", source, &place).await.map_err(|failure| failure.to_string())
    }

    async fn refused(&self, typed: &NodeJoin, source: &Source) -> String {
        let before = self.files();
        let refused = match self.belong(typed, source).await {
            Ok(_) => panic!("not refused"),
            Err(words) => words,
        };
        assert_eq!(self.files(), before, "{refused}");
        refused
    }

    /// All files with their texts.
    fn files(&self) -> Vec<(String, String)> {
        fn walk(dir: &Path, all: &mut Vec<(String, String)>) {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(&path, all);
                } else {
                    all.push((path.display().to_string(), fs::read_to_string(&path).unwrap()));
                }
            }
        }
        let mut all = Vec::new();
        walk(self.dir.path(), &mut all);
        all.sort();
        all
    }
}

fn typed(invitation: &Invitation) -> NodeJoin {
    NodeJoin {
        join: Some(invitation.address.to_string()),
        token: Some(invitation.token.reveal()),
        ca_fingerprint: Some(invitation.fingerprint.to_string()),
        leave_own_datastore: false,
    }
}

#[tokio::test]
async fn a_datastore_that_lets_in_but_does_not_answer_leaves_nothing_here() {
    let (host, keeper) = (Host::new(), Keeper::start().await);
    let said = host.refused(&typed(&keeper.invite()), &Source::Embedded).await;
    assert!(said.contains("let this host in, but does not answer"), "{said}");
    // Nor does it take away what was there.
    fs::write(host.dir.path().join("data.redb"), "mine").unwrap();
    let leave = NodeJoin { leave_own_datastore: true, ..typed(&keeper.invite()) };
    let said = host.refused(&leave, &Source::Embedded).await;
    assert!(said.contains("does not answer"), "{said}");
    assert!(host.dir.path().join("data.redb").exists());
}

#[tokio::test]
async fn what_this_host_has_is_not_left_by_accident() {
    let (host, keeper) = (Host::new(), Keeper::start().await);
    let invitation = keeper.invite();
    let said = host.refused(&typed(&invitation), &Source::Environment).await;
    assert!(said.contains("told where its datastore is") && said.contains("unset ETCD_*"), "{said}");
    let file = |keeper: Option<&str>| Source::File { path: "/x".into(), keeper: keeper.map(str::to_owned) };
    let said = host.refused(&typed(&invitation), &file(Some("host-7"))).await;
    assert!(said.contains("joined the datastore of host host-7") && said.contains("--leave-own-datastore"), "{said}");
    let said = host.refused(&typed(&invitation), &file(None)).await;
    assert!(said.contains("uses an etcd"), "{said}");
    fs::write(host.dir.path().join("data.redb"), "mine").unwrap();
    let said = host.refused(&typed(&invitation), &Source::Embedded).await;
    assert!(said.contains("keeps a datastore of its own") && said.contains("--leave-own-datastore"), "{said}");
    // While it runs it cannot be left.
    let running = Host { dir: tempfile::tempdir().unwrap(), bench: Bench::new() };
    let leave = NodeJoin { leave_own_datastore: true, ..typed(&invitation) };
    let place = Place { dir: keeper.dir(), location: &running.dir.path().join("l"), own: keeper.client.clone() };
    let said = match belong(&running.bench.ctx, &leave, "host-2", &Source::Embedded, &place).await {
        Ok(_) => panic!("left under a running process"),
        Err(failure) => failure.to_string(),
    };
    assert!(said.contains("calicoctl node stop"), "{said}");
    assert_eq!(keeper.client.status().await.unwrap().invitations, 1, "the invitation is still good");
}

#[tokio::test]
async fn the_token_may_be_typed_and_bad_words_are_told_at_once() {
    let (host, keeper) = (Host::new(), Keeper::start().await);
    let bad = NodeJoin {
        join: Some("10.0.0.1:x".into()),
        token: Some("geheim".into()),
        ca_fingerprint: Some("md5:0".into()),
        leave_own_datastore: false,
    };
    let said = host.refused(&bad, &Source::Embedded).await;
    assert!(said.contains("--join") && said.contains("--ca-fingerprint") && said.contains("40 hexadecimal"), "{said}");
    assert!(!said.contains("geheim"), "{said}");

    let invitation = keeper.invite();
    for (word, line, words) in [
        (Some("-"), None, "No token was given"),
        (None, None, "No token was given"),
        (None, Some("abc\n".to_owned()), "40 hexadecimal"),
        (Some("-"), Some(format!("{}\n", "0".repeat(40))), "knows no invitation with this token"),
        // The right one, so the next thing fails.
        (Some("-"), Some(format!("{}\n", invitation.token.reveal())), "does not answer"),
    ] {
        host.bench.console.3.lock().unwrap().extend(line);
        let typed = NodeJoin { token: word.map(str::to_owned), ..typed(&invitation) };
        let said = host.refused(&typed, &Source::Embedded).await;
        assert!(said.contains(words), "{said}");
    }
}

#[tokio::test]
async fn refusals_of_the_other_host_reach_the_user_with_their_way_out() {
    let (host, keeper) = (Host::new(), Keeper::start().await);
    let invitation = keeper.invite();
    let other = Keeper::start().await.invite();
    let wrong = Invitation { fingerprint: other.fingerprint, ..invitation.clone() };
    let said = host.refused(&typed(&wrong), &Source::Embedded).await;
    assert!(said.contains("nothing was sent to it") && said.contains("hint: copy the whole line"), "{said}");
    // Its keeper is gone with the statement that made it.
    let said = host.refused(&typed(&other), &Source::Embedded).await;
    assert!(said.contains("cannot be reached") && said.contains("firewall"), "{said}");
    assert_eq!(keeper.client.status().await.unwrap().invitations, 1);
}

#[tokio::test]
async fn what_is_settled_lasts_and_is_found_again() {
    let (host, keeper) = (Host::new(), Keeper::start().await);
    let joined = keeper.join("host-2").await;
    let told_address = joined.address.to_string();
    let kept = keep(host.dir.path(), &joined).unwrap();
    let options = options(host.dir.path(), &joined).unwrap();
    let store = Store::new(Arc::new(EtcdKv::new(options.clone()).unwrap()));
    let location = host.dir.path().join("location.env");
    let belonging = Belonging { joined, options, store, kept, aside: None };
    assert_eq!(belonging.told(), format!("Joined the datastore of host host-1 at {told_address} as node host-2."));
    let (options, _) = belonging.settle(&location).unwrap();
    let Source::File { keeper: found, .. } = options.source() else { panic!("not from the record") };
    assert_eq!(found.as_deref(), Some("host-1"));
    assert_eq!(options.files().len(), 3);
    assert!(matches!(standing(host.dir.path()).unwrap(), Standing::Joined(_)));
    // The same authority again needs no leave, and what is there comes back when it fails.
    let said = host.refused(&typed(&keeper.invite()), options.source()).await;
    assert!(said.contains("does not answer"), "{said}");
}
