//! `calicoctl status`: does the service run on this host, is each part of it well, and whom does it talk BGP with.
//!
//! Ends with code 1 exactly when nothing runs. A part that cannot be asked (a dead datastore, a BIRD that does not
//! answer) is said in its place, and the rest is shown all the same.

use std::{fmt::Write as _, net::IpAddr, time::SystemTime};

use calico_confd::bird::{Session, SessionKind};
use calico_model::{Node, NodeSpec};
use calico_workload::docker::DockerError;
use serde::Serialize;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{docker_failure, node_start::CONTAINER};
use crate::{
    context::Context,
    failure::{Exit, Failure},
    health::Health,
    output::{Cell, Column, Output, Table},
};

/// Where the service runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Place {
    Container,
    Host,
}

/// `status`
pub(crate) async fn status(ctx: &Context) -> Result<Output, Failure> {
    let (mut text, mut data) = (String::new(), json!({ "node": ctx.node }));
    let (health, health_error) = match ctx.runtime.health().await {
        Ok(health) => (health, None),
        Err(failure) => (None, Some(failure.one_line())),
    };
    let (container, docker_error) = match ctx.runtime.container(CONTAINER).await {
        Ok(container) => (container.filter(|container| container.running), None),
        // Nobody can say then whether it runs.
        Err(error @ DockerError::Permission { .. }) if health.is_none() => return Err(docker_failure(error)),
        Err(error) => (None, Some(error.to_string())),
    };
    let place = match (&container, &health) {
        (Some(_), _) => Place::Container,
        (None, Some(_)) => Place::Host,
        (None, None) => return Ok(not_running(docker_error, health_error)),
    };
    data["runs"] = json!(place);
    match &container {
        Some(container) => {
            let up = up_since(container.started_at.as_deref(), OffsetDateTime::now_utc());
            data["startedAt"] = json!(container.started_at);
            data["image"] = json!(container.image);
            let _ = writeln!(text, "calico-node container is running. Status: {up}");
        }
        None => text.push_str("calico-node service is running, outside Docker.\n"),
    }
    components(&mut text, &mut data, health.as_ref(), health_error);
    let exit = bgp(ctx, &mut text, &mut data).await;
    Ok(Output::of(text, data).exit(exit))
}

fn not_running(docker_error: Option<String>, health_error: Option<String>) -> Output {
    let mut text = "calico-node container not running\n".to_owned();
    for cause in [&docker_error, &health_error].into_iter().flatten() {
        let _ = writeln!(text, "  {cause}");
    }
    let data = json!({ "runs": Value::Null, "dockerError": docker_error, "healthError": health_error });
    Output::of(text, data).exit(Exit::Failed)
}

const COMPONENTS: &[Column] = &[
    Column::new("Component", "name"),
    Column::new("Live", "live"),
    Column::new("Ready", "ready"),
    Column::new("Up", "since"),
    Column::new("Restarts", "restarts"),
    Column::new("Info", "reason"),
    Column::hidden("problems"),
];

fn components(text: &mut String, data: &mut Value, health: Option<&Health>, error: Option<String>) {
    let Some(health) = health else {
        let error = error.unwrap_or_else(|| "it does not answer on its health port; it may be starting".to_owned());
        let _ = writeln!(text, "Health unknown: {error}");
        data["healthError"] = json!(error);
        return;
    };
    let mut table = Table::new(COMPONENTS);
    let yes = |yes: bool| Cell::Both(if yes { "yes" } else { "no" }.to_owned(), yes.into());
    for component in &health.components {
        let up = component.since.map_or_else(String::new, |since| {
            let since = i64::try_from(since).ok().and_then(|since| OffsetDateTime::from_unix_timestamp(since).ok());
            since.map_or_else(String::new, |since| duration(OffsetDateTime::now_utc() - since))
        });
        table.push(vec![
            component.name.as_str().into(),
            yes(component.live),
            yes(component.ready),
            Cell::Both(up, json!(component.since)),
            Cell::Both(component.restarts.to_string(), component.restarts.into()),
            component.reason.as_str().into(),
            Cell::Lines(component.problems.clone()),
        ]);
    }
    data["live"] = json!(health.live);
    data["ready"] = json!(health.ready);
    data["components"] = table.data();
    let _ = write!(text, "{table}");
    for component in &health.components {
        for problem in &component.problems {
            let _ = writeln!(text, "Problem ({}): {problem}", component.name);
        }
    }
}

const PEERS: &[Column] = &[
    Column::new("Peer address", "address"),
    Column::new("Peer type", "type"),
    Column::new("State", "state"),
    Column::new("Since", "since"),
    Column::new("Info", "info"),
    Column::hidden("asNumber"),
    Column::hidden("established"),
    Column::hidden("imported"),
    Column::hidden("exported"),
];

/// Both families' own address, AS number and sessions.
async fn bgp(ctx: &Context, text: &mut String, data: &mut Value) -> Exit {
    let identity = Identity::read(ctx).await;
    if let Err(failure) = &identity {
        let _ = writeln!(text, "\nError connecting to etcd.\n  {}", failure.one_line());
        data["datastoreError"] = json!(failure.one_line());
    }
    let (sessions, exit) = if ctx.host.is_root() {
        (ctx.runtime.sessions().await.map_err(|error| format!("Couldn't connect to bird.\n  {error}")), Exit::Done)
    } else {
        (Err("BIRD answers to root only: run this as root to see the peers.".to_owned()), Exit::Usage)
    };
    for (family, is_v4) in [("IPv4", true), ("IPv6", false)] {
        let _ = writeln!(text, "\n{family} BGP status");
        let mut part = json!({ "address": Value::Null });
        match &identity {
            Ok(identity) => match if is_v4 { &identity.ipv4 } else { &identity.ipv6 } {
                None => {
                    let _ = writeln!(text, "No {family} address configured.");
                    data[family.to_lowercase()] = part;
                    continue;
                }
                Some(address) => {
                    let number = &identity.as_number;
                    let _ = writeln!(text, "IP: {address}    AS Number: {number}");
                    part = json!({ "address": address, "asNumber": number });
                }
            },
            Err(_) => text.push_str("IP: unknown    AS Number: unknown\n"),
        }
        match &sessions {
            Ok(sessions) => {
                let table = peers(sessions, is_v4);
                part["peers"] = table.data();
                let _ = write!(text, "{table}");
            }
            Err(words) => {
                part["error"] = json!(words);
                let _ = writeln!(text, "{words}");
            }
        }
        data[family.to_lowercase()] = part;
    }
    exit
}

/// What the datastore has of this host.
struct Identity {
    ipv4: Option<String>,
    ipv6: Option<String>,
    as_number: String,
}

impl Identity {
    async fn read(ctx: &Context) -> Result<Self, Failure> {
        let node: Option<Node> = match ctx.store.get::<NodeSpec>(&ctx.node).await {
            Ok(node) => Some(node),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error.into()),
        };
        let cluster_as = super::node_show::cluster_as(ctx).await?;
        let bgp = node.and_then(|node| node.spec.bgp).unwrap_or_default();
        let as_number = bgp.as_number.map_or_else(|| format!("{cluster_as} (inherited)"), |own| own.to_string());
        let address = |net: Option<&str>| super::node_show::address(net);
        Ok(Self { ipv4: address(bgp.ipv4_address.as_deref()), ipv6: address(bgp.ipv6_address.as_deref()), as_number })
    }
}

fn peers(sessions: &[Session], v4: bool) -> Table {
    let mut of_family: Vec<(IpAddr, &Session)> = sessions
        .iter()
        .filter_map(|session| Some((session.peer_address?, session)))
        .filter(|(address, _)| address.is_ipv4() == v4)
        .collect();
    of_family.sort_by_key(|(address, session)| (*address, session.kind));
    let mut table = Table::new(PEERS);
    for (address, session) in of_family {
        let kind = match session.kind {
            SessionKind::Mesh => "node-to-node mesh",
            SessionKind::Node => "node specific",
            SessionKind::Global => "global",
            SessionKind::Other => "other",
        };
        table.push(vec![
            address.to_string().into(),
            kind.into(),
            session.state.as_str().into(),
            since(session.since, OffsetDateTime::now_utc()),
            session.info.as_str().into(),
            Cell::Both(String::new(), json!(session.peer_as)),
            Cell::Both(String::new(), session.established.into()),
            Cell::Both(String::new(), session.imported.into()),
            Cell::Both(String::new(), session.exported.into()),
        ]);
    }
    table
}

/// As BIRD shows times: the time of day within a day, else the date. UTC.
fn since(since: Option<SystemTime>, now: OffsetDateTime) -> Cell {
    let Some(since) = since.map(OffsetDateTime::from) else { return Cell::Absent("") };
    let words = if now - since < time::Duration::DAY {
        format!("{:02}:{:02}:{:02}", since.hour(), since.minute(), since.second())
    } else {
        since.date().to_string()
    };
    Cell::Both(words, calico_model::timestamp(since).into())
}

/// Docker's `Up 3 hours`, from the time at which the container was started.
fn up_since(started_at: Option<&str>, now: OffsetDateTime) -> String {
    let format = &time::format_description::well_known::Rfc3339;
    match started_at.and_then(|text| OffsetDateTime::parse(text, format).ok()) {
        Some(started_at) => format!("Up {}", duration(now - started_at)),
        None => "Up".to_owned(),
    }
}

/// A duration in its largest unit.
fn duration(duration: time::Duration) -> String {
    let seconds = duration.whole_seconds().max(0);
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;
    use crate::{
        health::Component,
        output::Format,
        testing::{Bench, NODE, refusal},
    };

    fn session(name: &str, kind: SessionKind, address: &str, info: &str) -> Session {
        Session {
            name: name.into(),
            kind,
            peer_address: Some(address.parse().unwrap()),
            peer_as: Some(64512),
            state: if info == "Established" { "up" } else { "start" }.into(),
            since: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)),
            info: info.into(),
            imported: 2,
            exported: 1,
            established: info == "Established",
            ..Session::default()
        }
    }

    fn healthy() -> Health {
        let component = |name: &str, problems: &[&str]| Component {
            name: name.into(),
            live: true,
            ready: problems.is_empty(),
            reason: "in force".into(),
            problems: problems.iter().map(|problem| (*problem).to_owned()).collect(),
            ..Component::default()
        };
        let components = vec![component("bird", &[]), component("felix", &["pool x is not valid JSON"])];
        Health { node: NODE.into(), live: true, ready: false, components }
    }

    async fn bench() -> Bench {
        let bench = Bench::new();
        bench.node(NODE, "10.5.0.1/24", Some("fd00::1/64")).await;
        bench.runtime.run_container(CONTAINER);
        *bench.runtime.outside.lock().unwrap() = Some(healthy());
        *bench.runtime.sessions.lock().unwrap() = vec![
            session("Node_1", SessionKind::Node, "172.17.8.111", "Idle          BGP Error: Bad peer AS"),
            session("Mesh_1", SessionKind::Mesh, "172.17.8.101", "Established"),
            session("Mesh_2", SessionKind::Mesh, "fd00::2", "Established"),
        ];
        bench
    }

    #[tokio::test]
    async fn everything_at_a_glance() {
        let bench = bench().await;
        let output = status(&bench.ctx).await.unwrap();
        insta::assert_snapshot!("status", output.text);
        insta::assert_snapshot!("status_json", output.render(Format::Json));
        assert_eq!(output.exit, Exit::Done);
    }

    #[tokio::test]
    async fn nothing_runs_and_only_then_the_code_is_1() {
        let bench = Bench::new();
        let output = status(&bench.ctx).await.unwrap();
        assert_eq!(output.text, "calico-node container not running\n", "scripts compare it");
        assert_eq!(output.exit, Exit::Failed);
        bench.runtime.without_docker();
        let output = status(&bench.ctx).await.unwrap();
        assert!(output.text.starts_with("calico-node container not running\n"), "{}", output.text);
        assert_eq!(output.exit, Exit::Failed);
        *bench.runtime.outside.lock().unwrap() = Some(healthy());
        let output = status(&bench.ctx).await.unwrap();
        assert!(output.text.starts_with("calico-node service is running, outside Docker.\n"), "{}", output.text);
        assert_eq!(output.exit, Exit::Done);
    }

    #[tokio::test]
    async fn what_cannot_be_asked_is_said_and_the_rest_is_shown() {
        let bench = bench().await;
        bench.kv.set_down(true);
        bench.runtime.fail("sessions");
        let output = status(&bench.ctx).await.unwrap();
        for part in
            ["Error connecting to etcd.", "IP: unknown    AS Number: unknown", "Couldn't connect to bird.", "felix"]
        {
            assert!(output.text.contains(part), "{part}: {}", output.text);
        }
        assert_eq!(output.exit, Exit::Done);
    }

    #[tokio::test]
    async fn a_host_that_was_never_started_has_no_addresses() {
        let bench = bench().await;
        bench.kv.remove("/calico/resources/v3/projectcalico.org/nodes/host-1");
        let output = status(&bench.ctx).await.unwrap();
        assert!(
            output.text.contains("No IPv4 address configured.") && output.text.contains("No IPv6 address configured.")
        );
    }

    #[tokio::test]
    async fn without_root_the_peers_are_missing_and_the_code_says_so() {
        let bench = Bench::not_root();
        bench.node(NODE, "10.5.0.1/24", None).await;
        bench.runtime.run_container(CONTAINER);
        let output = status(&bench.ctx).await.unwrap();
        assert!(output.text.contains("run this as root"), "{}", output.text);
        assert_eq!(output.exit, Exit::Usage);
    }

    #[tokio::test]
    async fn who_may_not_ask_docker_is_not_told_that_nothing_runs() {
        let bench = Bench::not_root();
        bench.runtime.fail("permission");
        let words = refusal(status(&bench.ctx).await);
        assert!(words.contains("permission denied") && !words.contains("not running"), "{words}");
        *bench.runtime.outside.lock().unwrap() = Some(healthy());
        let output = status(&bench.ctx).await.unwrap();
        assert!(output.text.contains("felix"), "the service itself can be asked: {}", output.text);
    }

    #[test]
    fn durations_in_their_largest_unit() {
        for (seconds, words) in
            [(1, "1 second"), (59, "59 seconds"), (60, "1 minute"), (7300, "2 hours"), (172_800, "2 days")]
        {
            assert_eq!(duration(time::Duration::seconds(seconds)), words);
        }
        let now = OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap();
        assert_eq!(up_since(Some("2023-11-14T22:12:20.123456789Z"), now), "Up 59 seconds");
        assert_eq!(up_since(Some("nonsense"), now), "Up");
    }
}
