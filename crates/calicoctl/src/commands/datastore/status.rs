//! `calicoctl datastore status`: the datastore that this host keeps, and who joined it.

use calico_datastore::{
    admin::{Client, Guest, StatusAnswer},
    pki::shown,
};
use calico_store::Source;

use super::super::keeper;
use crate::{
    context::Context,
    failure::Failure,
    output::{Cell, Column, Output, Table},
};

const COLUMNS: &[Column] = &[
    Column::new("Host", "host"),
    Column::new("State", "state"),
    Column::new("From", "from"),
    Column::new("Certificate Until", "certificateUntil"),
];

/// `datastore status`
pub(super) async fn run(ctx: &Context, client: &Client, source: &Source) -> Result<Output, Failure> {
    ctx.require_root()?;
    let status = client.status().await.map_err(|error| keeper::failure_at(source, "look after it", error))?;
    let hosts = client.hosts().await.map_err(keeper::failure)?;
    let table = table(&hosts);
    let which = match source {
        Source::Embedded => "Datastore",
        Source::File { .. } | Source::Environment => "Former datastore",
    };
    let mut text = format!("{which} {}", words(&status));
    if !hosts.is_empty() {
        text.push_str(&format!("\n{table}"));
    }
    let data = serde_json::json!({ "datastore": status, "hosts": table.data() });
    Ok(Output::of(text, data))
}

fn words(answer: &StatusAnswer) -> String {
    let status = &answer.datastore;
    let port = match answer.listens_on {
        Some(address) => format!("open, TCP port {}", address.port()),
        None => "closed: nobody is invited and no host has joined".to_owned(),
    };
    let state = match (&status.trouble, status.full) {
        (Some(trouble), _) => format!("cannot be written any more: {trouble}"),
        (None, true) => "the disk is full: only deletions are accepted".to_owned(),
        (None, false) => "good".to_owned(),
    };
    format!(
        "of this host, in {}\n  State:        {state}\n  Revision:     {} (history from {}, {} of memory)\n  \
         Size:         {} of {} in use\n  Other hosts:  {port}\n  Invitations:  {} open\n  Joined:       {}, {} of them \
         connected\n",
        status.folder.display(),
        status.revision,
        status.compacted,
        size(u64::try_from(status.history_bytes).unwrap_or(u64::MAX)),
        size(status.bytes_in_use),
        size(status.bytes),
        answer.invitations,
        answer.hosts,
        answer.connected,
    )
}

fn table(hosts: &[Guest]) -> Table {
    let mut table = Table::new(COLUMNS);
    for guest in hosts {
        let state = match (guest.state.revoked, guest.connections) {
            (Some(_), _) => "shut out",
            (None, 0) => "away",
            (None, _) => "connected",
        };
        table.push(vec![
            guest.state.name.as_str().into(),
            state.into(),
            Cell::or_absent(guest.from.map(|from| from.to_string())),
            Cell::or_absent(guest.state.valid_until.map(shown)),
        ]);
    }
    table
}

/// Bytes for people.
pub(super) fn size(bytes: u64) -> String {
    let tenths = |unit: u64| format!("{}.{}", bytes / unit, bytes % unit * 10 / unit);
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..0x10_0000 => format!("{} KiB", tenths(1024)),
        _ => format!("{} MiB", tenths(1 << 20)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{
        commands::node_join::keeper_for_tests::Keeper,
        testing::{Bench, refusal, text},
    };

    #[tokio::test]
    async fn hosts_and_invitations_are_shown() {
        let (bench, keeper) = (Bench::new(), Keeper::start().await);
        let said = text(run(&bench.ctx, &keeper.client, &Source::Embedded).await);
        assert!(said.contains("closed: nobody is invited") && !said.contains("host-2"), "{said}");
        keeper.join("host-2").await;
        keeper.join("host-3").await;
        keeper.client.revoke("host-3").await.unwrap();
        keeper.invite();
        let said = run(&bench.ctx, &keeper.client, &Source::Embedded).await.unwrap();
        assert!(said.text.contains("Invitations:  1 open\n  Joined:       1, 0 of them connected"), "{}", said.text);
        assert_eq!(said.data["hosts"][0]["state"], "away");
        assert_eq!(said.data["hosts"][1]["state"], "shut out");
        assert_eq!(said.data["datastore"]["invitations"], 1);
        assert!(said.text.starts_with("Datastore of this host, in "), "{}", said.text);
        let etcd = Source::File { path: "/x".into(), keeper: None };
        let said = text(run(&bench.ctx, &keeper.client, &etcd).await);
        assert!(said.starts_with("Former datastore of this host, in ") && said.contains("host-3"), "{said}");
    }

    #[tokio::test]
    async fn a_datastore_elsewhere_is_named() {
        let (bench, nobody) = (Bench::new(), Client::new(std::path::Path::new("/nonexistent")));
        let file = |keeper: Option<&str>| Source::File { path: "/x".into(), keeper: keeper.map(str::to_owned) };
        for (source, words) in [
            (file(Some("host-1")), "kept by host host-1"),
            (file(None), "is an etcd"),
            (Source::Environment, "ETCD_ENDPOINTS"),
            (Source::Embedded, "does not run"),
        ] {
            let said = refusal(run(&bench.ctx, &nobody, &source).await);
            assert!(said.contains(words) && said.contains("hint: "), "{said}");
        }
        assert_eq!((size(1023), size(1536), size(5 << 20)), ("1023 B".into(), "1.5 KiB".into(), "5.0 MiB".into()));
    }
}
