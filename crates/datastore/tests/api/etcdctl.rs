//! `etcdctl` on ours, beside the same on a real etcd: every output must be the same.
//!
//! Only what differs between any two servers is levelled: ids of clusters, members and leases, sizes, versions.

use std::process::Stdio;

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::Command,
    time::timeout,
};

use crate::{
    etcd::{PATIENCE, PrivateEtcd, wait_for},
    ours::Ours,
};

/// A server as `etcdctl` sees it.
struct Ctl {
    endpoint: String,
    /// The lease granted last, as it is printed.
    lease: String,
}

/// What a run printed, and whether it succeeded.
#[derive(Debug, PartialEq, Eq)]
struct Ran {
    good: bool,
    out: String,
    err: String,
}

impl Ctl {
    fn of(endpoint: String) -> Self {
        Self { endpoint, lease: "none".to_owned() }
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new("etcdctl");
        command.arg("--endpoints").arg(&self.endpoint);
        command.args(words(line).into_iter().map(|word| word.replace("LEASE", &self.lease)));
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("ETCDCTL_API", "3");
        command.kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    async fn run(&mut self, line: &str, input: &str) -> Ran {
        let mut child = self.command(line).spawn().expect("etcdctl cannot be run: is etcd-client installed?");
        let mut stdin = child.stdin.take().unwrap();
        // It may end without having read.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        let output = timeout(PATIENCE, child.wait_with_output()).await.expect("etcdctl ends").unwrap();
        let out = String::from_utf8(output.stdout).unwrap();
        if let Some(id) = out.strip_prefix("lease ").and_then(|rest| rest.split(" granted").next()) {
            self.lease = id.to_owned();
        }
        // Its log of retries, with times and addresses.
        let err = String::from_utf8(output.stderr).unwrap();
        let err: Vec<&str> = err.lines().filter(|line| !line.starts_with("{\"level\"")).collect();
        Ran { good: output.status.success(), out: self.levelled(&out), err: self.levelled(&err.join("\n")) }
    }

    fn levelled(&self, text: &str) -> String {
        let lines: Vec<String> = text.lines().map(|line| level_line(line, &self.lease)).collect();
        lines.join("\n").replace(&self.endpoint, "ENDPOINT")
    }

    /// The first `count` lines that a watch prints.
    async fn watched(&self, line: &str, count: usize) -> Vec<String> {
        let mut child = self.command(line).spawn().unwrap();
        let _open = child.stdin.take();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut seen = Vec::new();
        while seen.len() < count {
            let line = timeout(PATIENCE, lines.next_line()).await;
            seen.push(line.unwrap_or_else(|_| panic!("only {seen:?}")).unwrap().expect("the watch goes on"));
        }
        child.kill().await.unwrap();
        seen
    }
}

/// Splits at blanks; quotes keep them, and may stand for an empty word.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in line.split('\'').enumerate() {
        if index % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

fn level_line(line: &str, lease: &str) -> String {
    if let Ok(mut value) = serde_json::from_str::<Value>(line) {
        level(&mut value);
        return value.to_string();
    }
    for field in ["\"ClusterID\"", "\"MemberID\"", "\"RaftTerm\""] {
        if line.starts_with(field) {
            return field.to_owned();
        }
    }
    // The time that is left has begun to run.
    let line = line.replace(lease, "LEASE");
    match line.find("remaining(") {
        Some(at) => format!("{}remaining(?)", &line[..at]),
        None => line,
    }
}

fn level(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let own = ["cluster_id", "member_id", "raft_term", "id", "ttl", "lease"];
                if own.contains(&name.to_lowercase().as_str()) { *value = Value::Null } else { level(value) }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(level),
        _ => {}
    }
}

/// What is typed, with what is typed into it.
const SESSION: &[(&str, &str)] = &[
    ("put /a/1 one", ""),
    ("put /a/2 two", ""),
    ("put --prev-kv /a/1 eins", ""),
    ("put --prev-kv /a/new new -w json", ""),
    ("put /b three -w fields", ""),
    ("put /b", "from the input"),
    ("put '' x", ""),
    ("put --ignore-value /a/1", ""),
    ("put --ignore-value /absent", ""),
    ("put --ignore-lease /a/2 zwei", ""),
    ("get /a/1", ""),
    ("get /absent", ""),
    ("get ''", ""),
    ("get --prefix /a", ""),
    ("get --prefix ''", ""),
    ("get --from-key /a/2", ""),
    ("get /a/1 /b", ""),
    ("get --prefix / --keys-only", ""),
    ("get --prefix / --print-value-only", ""),
    ("get --prefix / --limit 2", ""),
    ("get --prefix / --limit 2 -w json", ""),
    ("get --prefix / --order DESCEND", ""),
    ("get --prefix / --order ASCEND --sort-by MODIFY", ""),
    ("get --prefix / --order DESCEND --sort-by CREATE --limit 1", ""),
    ("get --prefix / --sort-by VERSION -w fields", ""),
    ("get --prefix / --order DESCEND --sort-by VALUE", ""),
    ("get --prefix / --consistency s -w json", ""),
    ("get /a/1 --rev 2", ""),
    ("get --prefix / --rev 3 -w json", ""),
    ("get /a/1 --rev 1000", ""),
    ("get --hex /a/1", ""),
    ("get -w protobuf /absent --rev 5000", ""),
    ("txn", "value(\"/a/1\") = \"eins\"\nmod(\"/a/2\") > \"0\"\n\nput /t yes\nget /t\ndel /b\n\nput /t no\n\n"),
    ("txn", "version(\"/absent\") > \"0\"\n\nput /t yes\n\nget /a/1\nget --prefix /a\n\n"),
    ("txn", "create(\"/t\") != \"0\"\nversion(\"/t\") < \"9\"\n\nput /d 1\nput /d 2\n\n\n"),
    ("txn -w json", "\n\nget /t\ndel --prefix /t\nput /u 1\n\n\n"),
    ("del /absent", ""),
    ("del --prev-kv /a/new", ""),
    ("del --prefix /u -w json", ""),
    ("del ''", ""),
    ("del --from-key /zz", ""),
    ("lease grant 500", ""),
    ("put --lease LEASE /leased 1", ""),
    ("put --lease LEASE /leased/too 2", ""),
    ("put --lease 77 /leased 1", ""),
    ("get /leased -w json --hex", ""),
    ("lease list", ""),
    ("lease timetolive LEASE", ""),
    ("lease timetolive LEASE --keys", ""),
    ("lease timetolive 77", ""),
    ("lease keep-alive --once LEASE", ""),
    ("lease keep-alive --once 77", ""),
    ("lease revoke LEASE", ""),
    ("lease revoke LEASE", ""),
    ("lease grant 9000000001", ""),
    ("get --prefix /leased", ""),
    ("compaction 5", ""),
    ("compaction 5", ""),
    ("compaction 5000", ""),
    ("compaction --physical 7", ""),
    ("get /a/1 --rev 4", ""),
    ("get /a/1 --rev 7", ""),
    ("alarm list", ""),
    ("alarm disarm", ""),
];

async fn both() -> (PrivateEtcd, Ours, Ctl, Ctl) {
    let (etcd, ours) = (PrivateEtcd::start().await, Ours::start().await);
    let (mut theirs, mine) = (Ctl::of(etcd.endpoint()), Ctl::of(ours.endpoint()));
    let mut leads = async || theirs.run("get x", "").await.good.then_some(());
    wait_for("etcd leads", async || leads().await).await;
    (etcd, ours, theirs, mine)
}

#[tokio::test]
async fn etcdctl_prints_what_it_prints_of_etcd() {
    let (_etcd, _ours, mut theirs, mut mine) = both().await;
    for (line, input) in SESSION {
        let (etcd, ours) = tokio::join!(theirs.run(line, input), mine.run(line, input));
        assert_eq!(etcd, ours, "etcdctl {line}");
    }
    // A watch of what was, with the events in etcd's order.
    for line in ["watch --prefix /a --rev 7", "watch --prefix / --rev 8 --prev-kv", "watch /a/2 --rev 7"] {
        let shown = theirs.watched(line, 3).await;
        assert_eq!(shown, mine.watched(line, 3).await, "etcdctl {line}");
    }
}

#[tokio::test]
async fn etcdctl_learns_of_the_server() {
    let ours = Ours::start().await;
    let mut mine = Ctl::of(ours.endpoint());
    let health = mine.run("endpoint health", "").await;
    assert!(health.good && (health.out.clone() + &health.err).contains("is healthy"), "{health:?}");

    let status = mine.run("endpoint status -w json", "").await;
    let status: Value = serde_json::from_str(&status.out).unwrap();
    let status = &status[0]["Status"];
    assert_eq!(status["header"]["revision"], 1, "{status}");
    assert_eq!(status["version"], "3.5.0", "{status}");
    assert!(status["dbSize"].as_u64().unwrap() > 0 && status["leader"].as_u64().unwrap() > 0, "{status}");

    let members = mine.run("member list -w json", "").await;
    let members: Value = serde_json::from_str(&members.out).unwrap();
    let member = &members["members"][0];
    assert_eq!(member["name"], "default", "{members}");
    assert_eq!(member["clientURLs"][0], "ENDPOINT", "{members}");

    assert!(mine.run("defrag", "").await.good);
    for (line, instead) in [
        ("user add root:x", "not offered"),
        ("member add more --peer-urls http://h:1", "calicoctl datastore migrate"),
        ("endpoint hashkv", "calicoctl datastore check"),
    ] {
        let refused = mine.run(line, "").await;
        assert!(!refused.good, "{line}: {refused:?}");
        let text = refused.out + &refused.err;
        assert!(text.contains(instead) || text.contains("offers no"), "{line}: {text}");
    }
}
