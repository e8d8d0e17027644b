//! `calicoctl datastore migrate --to …`: moves a running cluster to an etcd. How that is done, and why it is safe at every
//! moment, is told in [`calico_startup::relocation`]; here are the words.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use calico_startup::relocation::{
    Destination, HostState, Migration, Moved, Progress, RelocationError, abort, finish, migrate, read_record,
};
use calico_store::{ConnectOptions, DATASTORE_DIR, Error, Kv};
use serde_json::json;

use super::lock::no_cluster;
use crate::{
    args::Migrate, commands::resource::check_version, context::Context, failure::Failure, failure::sentence,
    output::Output,
};

/// Does what was typed after `datastore migrate`.
pub(super) async fn run(ctx: &Context, args: &Migrate) -> Result<Output, Failure> {
    if args.abort {
        return take_back(ctx).await;
    }
    let migration = parse(args)?;
    check_version(ctx, args.connection.allow_version_mismatch).await?;
    let old = ctx.store.kv();
    let mut say = |progress: Progress| ctx.console.note(&words(&progress));
    if migration.to.is_at(&old.location()) {
        let finished = finish(old, migration.patience, &mut say).await.map_err(|error| failure(ctx, error))?;
        let moved = finished.ok_or_else(|| failure(ctx, RelocationError::SamePlace(old.location())))?;
        return Ok(report(&moved, &migration.to));
    }
    ctx.console.note(&format!("Moving the cluster from {} to {}.", old.location(), migration.to));
    let new: Arc<dyn Kv> = match migration.to.connect().await {
        Ok(kv) => Arc::new(kv),
        Err(error) => return Err(failure(ctx, RelocationError::New(error))),
    };
    let moved = migrate(old, &new, &migration, &mut say).await.map_err(|error| failure(ctx, error))?;
    Ok(report(&moved, &migration.to))
}

/// What was typed, checked.
fn parse(args: &Migrate) -> Result<Migration, Failure> {
    let Some(to) = &args.to else {
        return Err(Failure::new("It is not said where to.")
            .hint("calicoctl datastore migrate --to http://HOST:2379")
            .not_understood());
    };
    let files = [
        ("ETCD_CA_CERT_FILE", "--ca-cert", &args.ca_cert),
        ("ETCD_CERT_FILE", "--cert", &args.cert),
        ("ETCD_KEY_FILE", "--key", &args.key),
        ("ETCD_PASSWORD_FILE", "--password-file", &args.password_file),
    ];
    let mut variables = BTreeMap::from([("ETCD_ENDPOINTS", to.as_str())]);
    for (variable, option, file) in files {
        let Some(file) = file else { continue };
        if !file.starts_with(&format!("{DATASTORE_DIR}/")) || file.contains("/../") {
            return Err(Failure::new(format!("{option} {file}: calico-node of each host would not find it."))
                .hint(format!("put it below {DATASTORE_DIR}, under the same name on every host")));
        }
        variables.insert(variable, file);
    }
    if let Some(user) = &args.username {
        variables.insert("ETCD_USERNAME", user);
    }
    let given = ConnectOptions::given(|name| variables.get(name).map(|value| (*value).to_owned()))?;
    let options = given.ok_or_else(|| Failure::new("--to is empty.").not_understood())?;
    if options.location().contains("unix:") {
        return Err(Failure::new(format!("--to {to}: the other hosts cannot reach a socket of this one."))
            .hint("give the etcd's http:// or https:// endpoints"));
    }
    let seconds: u64 = args.patience.parse().map_err(|_| {
        Failure::new(format!("--patience {:?} is not a number of seconds.", args.patience)).not_understood()
    })?;
    Ok(Migration {
        to: Destination::new(&options)?,
        without: args.without_hosts.iter().map(|host| host.trim().to_owned()).collect(),
        patience: Duration::from_secs(seconds),
    })
}

async fn take_back(ctx: &Context) -> Result<Output, Failure> {
    let old = ctx.store.kv();
    let record = read_record(old.as_ref()).await?;
    let new: Option<Arc<dyn Kv>> = match record {
        Some((record, _)) => match record.to.connect().await {
            Ok(kv) => Some(Arc::new(kv)),
            Err(error) => {
                ctx.console.note(&format!("warning: what was copied there stays: {error}"));
                None
            }
        },
        None => None,
    };
    let back = abort(old, new.as_ref()).await.map_err(|error| failure(ctx, error))?;
    let copy = match back.deleted {
        Some(keys) => format!("the copy of {keys} keys is deleted"),
        None => "its copy could not be deleted".to_owned(),
    };
    let words = format!("Taken back: all hosts stay at {}; {copy}.\n", old.location());
    Ok(Output::of(words, json!({ "at": old.location(), "to": back.to, "deleted": back.deleted })))
}

fn words(progress: &Progress) -> String {
    match progress {
        Progress::Asking { hosts } => format!("Asking {hosts} hosts whether they reach it …"),
        Progress::AllReady => "  they do.".to_owned(),
        Progress::Copied { keys } => format!("{keys} keys written there."),
        Progress::Locked => "The cluster is locked: no address is given out until the end.".to_owned(),
        Progress::Verified { keys } => format!("Both compared: {keys} keys are equal."),
        Progress::Switching => "The hosts switch …".to_owned(),
        Progress::BroughtLate { keys } => format!("{keys} keys written in the last moment were brought after."),
        Progress::Arrived { host } => format!("  {host} works there."),
        Progress::Unlocked => "The cluster is unlocked.".to_owned(),
    }
}

/// What came of it; not all is well if hosts are late.
fn report(moved: &Moved, to: &Destination) -> Output {
    let of = |state: &HostState| {
        let hosts = moved.hosts.iter().filter(|(_, found)| *found == state);
        hosts.map(|(host, _)| host.clone()).collect::<Vec<_>>()
    };
    let (switched, late, left) = (of(&HostState::Switched), of(&HostState::Late), of(&HostState::LeftBehind));
    let mut lines = vec![format!("The cluster's datastore is at {to}: {} keys, {} hosts.", moved.keys, switched.len())];
    if !left.is_empty() {
        lines.push(format!("Left behind: {}; they follow by themselves when they are back.", left.join(", ")));
    }
    if moved.stays_locked {
        lines.push("It is locked, as it was before: calicoctl datastore migrate unlock".to_owned());
    }
    lines.push(format!("Leave {} running until every host has switched; it is locked.", moved.from));
    if moved.from.starts_with("unix:") {
        lines.push(format!(
            "calico-node goes on telling late hosts where the cluster is, until {DATASTORE_DIR}/pki is removed there."
        ));
    }
    let state = |state: &HostState| match state {
        HostState::Switched => "switched",
        HostState::Late => "late",
        HostState::LeftBehind => "left behind",
    };
    let hosts: BTreeMap<&String, &str> = moved.hosts.iter().map(|(host, found)| (host, state(found))).collect();
    let data = json!({ "from": moved.from, "to": to.to_string(), "keys": moved.keys, "hosts": hosts,
                       "locked": moved.stays_locked });
    let output = Output::of(lines.iter().map(|line| format!("{line}\n")).collect(), data);
    if late.is_empty() {
        return output;
    }
    let failure = Failure::new(format!("Not all hosts have switched in time: {}.", late.join(", ")))
        .hint("they go on enforcing, and switch as soon as they can; calicoctl node status there says more")
        .hint("run the same command again to wait for them");
    let exit = failure.exit();
    output.but(failure).exit(exit)
}

const GO_ON: &str = "then run the same command again, or take it back: calicoctl datastore migrate --abort";

fn failure(ctx: &Context, error: RelocationError) -> Failure {
    let words = Failure::new(sentence(&error));
    match error {
        RelocationError::NoCluster => no_cluster(),
        RelocationError::NotEmpty { .. } => words
            .because("nothing was changed")
            .hint("choose another etcd, or empty it if nobody needs what it holds: etcdctl del --prefix /calico/")
            .hint("if an earlier run was interrupted: calicoctl datastore migrate --abort"),
        RelocationError::Another(_) => {
            words.hint("finish that one first, or take it back: calicoctl datastore migrate --abort")
        }
        RelocationError::UnfinishedCopy(from) => words.hint(format!(
            "go on where the cluster is, at {from}, or take it back there: calicoctl datastore migrate --abort"
        )),
        RelocationError::HostsNotReady { silent, unable } => {
            not_ready(words, &silent, &unable).because("nothing was copied, and every host works as before")
        }
        RelocationError::NoSuchHost(_) => words.hint("the hosts are: calicoctl get nodes"),
        RelocationError::NeverQuiet { .. } => words
            .because("every host works as before")
            .hint("find out what writes so much, with etcdctl watch --prefix /calico/")
            .hint(GO_ON),
        RelocationError::Overtaken => words.hint("look who else is at it, then run the command again"),
        RelocationError::TooLate(_) => words
            .because("the migration was not taken back")
            .hint("go on with it: calicoctl datastore migrate --to …, and then back again if need be"),
        RelocationError::SamePlace(_) => words.hint("to go back from there: calicoctl datastore migrate --to …, there"),
        RelocationError::Old(error) => at(ctx.store.kv().location(), error),
        RelocationError::New(error) => at("the new datastore".to_owned(), error),
        _ => words,
    }
}

fn not_ready(words: Failure, silent: &[String], unable: &BTreeMap<String, String>) -> Failure {
    let mut words = unable.iter().fold(words, |words, (host, why)| words.because(format!("{host}: {why}")));
    if !silent.is_empty() {
        words = words.because(format!("no answer from {}", silent.join(", "))).hint(format!(
            "is calico-node of this version running there? Hosts that are down may follow later: --without-hosts {}",
            silent.join(",")
        ));
    }
    words.hint(format!("mend it, {GO_ON}"))
}

fn at(place: String, error: Error) -> Failure {
    let conflict = error.is_conflict() || error.is_not_found();
    let failure = Failure::from(error).context(format!("The migration stopped at {place}; nothing is lost."));
    if conflict {
        return failure.hint(format!("see that nobody else writes there, {GO_ON}"));
    }
    failure.hint(format!("mend it, {GO_ON}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use calico_model::{ClusterInformation, ClusterInformationSpec};

    use super::*;
    use crate::{
        failure::Exit,
        testing::{Bench, refusal},
    };

    fn args(to: &str) -> Migrate {
        Migrate { to: Some(to.to_owned()), patience: "60".into(), ..Migrate::default() }
    }

    #[test]
    fn what_is_typed_is_checked_before_anything_is_tried() {
        let file = |path: &str| Some(path.to_owned());
        let cases = [
            (args("nonsense://x"), "nonsense"),
            (args("unix:///run/x.sock"), "cannot reach a socket"),
            (Migrate { patience: "soon".into(), ..args("http://e:2379") }, "not a number of seconds"),
            (Migrate { ca_cert: file("/etc/ca.crt"), ..args("https://e:2379") }, "would not find it"),
            (
                Migrate { ca_cert: file("/var/lib/calico/datastore/../x"), ..args("https://e:2379") },
                "would not find it",
            ),
            (
                Migrate { ca_cert: file("/var/lib/calico/datastore/no-such.crt"), ..args("https://e:2379") },
                "cannot be read",
            ),
            (args("https://e:2379"), "ETCD_CA_CERT_FILE"),
            (Migrate { patience: "60".into(), ..Migrate::default() }, "not said where to"),
        ];
        for (args, expected) in cases {
            let failure = parse(&args).unwrap_err().to_string();
            assert!(failure.contains(expected), "{failure}");
        }
        let without_hosts = vec!["a".into(), " b".into()];
        let migration = parse(&Migrate { without_hosts, ..args("http://e:2379,http://f:2379") }).unwrap();
        assert_eq!(migration.to.to_string(), "http://e:2379, http://f:2379");
        assert!(migration.without.iter().eq(["a", "b"]));
    }

    #[tokio::test]
    async fn a_new_datastore_that_is_not_there_changes_nothing() {
        let bench = Bench::new();
        bench.put(ClusterInformation::new("default", ClusterInformationSpec::default())).await;
        let before = bench.everything().await;
        let words = refusal(run(&bench.ctx, &args("http://127.0.0.1:1")).await);
        assert!(words.contains("stopped at the new datastore") && words.contains("unreachable"), "{words}");
        assert_eq!(bench.everything().await, before);
        let abort = Migrate { abort: true, ..Migrate::default() };
        assert!(refusal(run(&bench.ctx, &abort).await).contains("No migration is under way."));
    }

    #[test]
    fn the_report_names_every_host() {
        let to = parse(&args("http://e:2379")).unwrap().to;
        let mut moved = Moved {
            from: "unix:///s".into(),
            keys: 12,
            hosts: BTreeMap::from([("a".into(), HostState::Switched), ("b".into(), HostState::LeftBehind)]),
            stays_locked: false,
        };
        let output = report(&moved, &to);
        assert_eq!(
            output.text,
            "The cluster's datastore is at http://e:2379: 12 keys, 1 hosts.\n\
             Left behind: b; they follow by themselves when they are back.\n\
             Leave unix:///s running until every host has switched; it is locked.\n\
             calico-node goes on telling late hosts where the cluster is, until /var/lib/calico/datastore/pki is removed \
             there.\n"
        );
        assert_eq!((output.exit, output.failure), (Exit::Done, None));
        moved.hosts.insert("c".into(), HostState::Late);
        let output = report(&moved, &to);
        assert_eq!(output.data["hosts"]["c"], "late");
        assert_eq!(output.exit, Exit::Failed);
        assert!(output.failure.unwrap().to_string().contains("in time: c."));
    }

    #[test]
    fn hosts_that_cannot_go_are_named_with_the_reason() {
        let bench = Bench::new();
        let error = RelocationError::HostsNotReady {
            silent: vec!["h3".into()],
            unable: BTreeMap::from([("h2".into(), "no route".into())]),
        };
        let words = failure(&bench.ctx, error).to_string();
        for expected in ["h2: no route", "no answer from h3", "--without-hosts h3", "--abort", "works as before"] {
            assert!(words.contains(expected), "{words}");
        }
    }
}
