#![allow(clippy::unwrap_used)]
use std::{collections::BTreeMap, io::Read, path::Path, sync::Mutex};

use async_trait::async_trait;
use calico_datastore::admin::Client;
use calico_model::{BGPPeerSpec, IPPoolSpec, Resource};
use calico_workload::docker::Container;
use flate2::read::GzDecoder;

use super::{programs::Said, *};
use crate::{commands::node_join::keeper_for_tests::Keeper, testing::Bench};

/// In every secret that is planted, and nowhere else.
const CANARY: &str = "c4n4ry";

/// Programs that answer from a map.
#[derive(Default)]
struct Scripted {
    answers: BTreeMap<&'static str, String>,
    asked: Mutex<Vec<String>>,
}

#[async_trait]
impl Programs for Scripted {
    async fn run(&self, line: &[&str]) -> Said {
        let line = line.join(" ");
        self.asked.lock().unwrap().push(line.clone());
        match self.answers.get(line.as_str()) {
            Some(text) => Said { text: text.clone(), fault: None },
            None => Said::nothing(format!("{line}: http://u:{CANARY}@h failed")),
        }
    }
}

fn put(root: &Path, file: &str, content: &str) {
    let path = root.join(file);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

/// A host with a secret in every place where there may be one.
fn host(root: &Path) -> Places {
    let password_file = root.join("etc/private/etcd-password");
    put(
        root,
        "etc/calico.env",
        &format!(
            "ETCD_ENDPOINTS=http://root:c4n4ry-url@10.0.0.1:2379\nETCD_PASSWORD='c4n4ry env'\n#ETCD_PASSWORD=c4n4ry-old\n\
             ETCD_PASSWORD_FILE={}\nSOMETHING=c4n4ry-odd\nCALICO_LOG=debug\n",
            password_file.display()
        ),
    );
    put(
        root,
        "etc/calicoctl.cfg",
        "apiVersion: projectcalico.org/v3\nkind: CalicoAPIConfig\nspec:\n  etcdEndpoints: https://10.0.0.2:2379\n  \
         etcdPassword: c4n4ry-cfg\n  etcdKey: |\n    -----BEGIN PRIVATE KEY-----\n    c4n4ryAAAA\n    -----END PRIVATE KEY-----\n",
    );
    put(root, "etc/private/etcd-password", "file c4n4ry of etcd\n");
    put(root, "etc/bgp-secrets/tor/rack1", "bgp c4n4ry one\n");
    put(root, "etc/ssl/key.pem", "-----BEGIN PRIVATE KEY-----\nc4n4ryBBBB\n-----END PRIVATE KEY-----\n");
    put(root, "run/bird.cfg", "protocol bgp tor {\n  neighbor 10.0.0.9 as 65000;\n  password \"bird c4n4ry\";\n}\n");
    put(root, "etc/confd/config/bird.cfg.refused", "protocol bgp x { password \"refused c4n4ry\"; }\n");
    put(
        root,
        "log/felix/current",
        "in sync\nlogin to http://u:c4n4ry@10.0.0.1:2379 failed\npeer sent bgp c4n4ry one again\n\
         etcd said: file c4n4ry of etcd is wrong\nbird c4n4ry is not ours\nnor is refused c4n4ry\nauthorization: Bearer c4n4ry-token-1\n\
         {\"db_password\":\"c4n4ry \\\"quoted\\\" c4n4ry\",\"node\":\"h1\"}\nc4n4ry env was refused\n\
         -----BEGIN RSA PRIVATE KEY-----\nc4n4ryCCCC\n-----END RSA PRIVATE KEY-----\nlast line\n",
    );
    put(root, "log/felix/old.gz", "\u{0}c4n4ry");
    put(root, "log/lock", "c4n4ry");
    put(root, "sys/ipv4/ip_forward", "1\n");
    put(root, "sys/ipv4/conf/all/rp_filter", "2\n");
    put(root, "sys/ipv4/tcp_fastopen_key", "c4n4ry-c4n4ry\n");
    put(root, "sys/ipv6/conf/all/stable_secret", "c4n4ry\n");
    Places { etc: root.join("etc"), run: root.join("run"), log: root.join("log"), sys: root.join("sys") }
}

fn programs() -> Scripted {
    let answers = [
        ("nft list ruleset", "table ip calico {\n  chain base { counter packets 7 bytes 420 }\n}\n".to_owned()),
        ("ip -4 route show table all", "192.168.0.1 dev cali0123 scope link\n".to_owned()),
        ("docker logs --tail 5000 calico-node", "env: DB_PASSWORD=c4n4ry-log next\nstarted\n".to_owned()),
        (
            "journalctl -u calico-node.service --no-pager -n 5000",
            "calico-node[1]: --etcd-password c4n4ry --node h1\ncalico-node[1]: ready\n".to_owned(),
        ),
    ];
    Scripted { answers: answers.into(), ..Scripted::default() }
}

async fn cluster() -> Bench {
    let bench = Bench::new();
    let spec = IPPoolSpec { cidr: "192.168.0.0/16".parse().unwrap(), ..IPPoolSpec::default() };
    let mut pool = Resource::new("pool-1", spec);
    pool.metadata.annotations.insert("their.io/config".into(), "{\"key\":\"c4n4ry\"}".into());
    bench.put(pool).await;
    let mut peer = BGPPeerSpec { peer_ip: "10.0.0.9".into(), ..BGPPeerSpec::default() };
    let reference = serde_json::json!({ "secretKeyRef": { "name": "tor", "key": "rack1" } });
    peer.extra.insert("password".into(), reference);
    peer.extra.insert("authToken".into(), serde_json::json!({ "value": ["c4n4ry"] }));
    bench.put(Resource::new("tor", peer)).await;
    bench.node("host-1", "10.0.0.1/24", None).await;
    let kv = bench.ctx.store.kv();
    kv.create("/calico/odd/text", b"c4n4ry".to_vec()).await.unwrap();
    kv.create("/calico/odd/json-text", b"\"c4n4ry\"".to_vec()).await.unwrap();
    kv.create("/calico/odd/url", br#"{"url":"http://u:c4n4ry@h/"}"#.to_vec()).await.unwrap();
    kv.create("/other/secret", b"c4n4ry".to_vec()).await.unwrap();
    let container = Container {
        id: "4f".repeat(32),
        name: "web-1".into(),
        pid: 7,
        running: true,
        network_mode: "none".into(),
        labels: [("their.secret".to_owned(), "c4n4ry".to_owned())].into(),
        image: "ubuntu".into(),
        started_at: None,
    };
    bench.host.containers.lock().unwrap().as_mut().unwrap().insert("web-1".into(), container);
    let answer = "BIRD 2.0.12\nRouter ID is 10.0.0.1\n".to_owned();
    bench.runtime.answers.lock().unwrap().insert("show status".into(), answer);
    bench
}

/// A host that joined an etcd with a password, and keeps none itself.
fn datastore(root: &Path) -> keeper::Datastore {
    let folder = root.join("datastore");
    put(root, "datastore/etcd-password", "moved c4n4ry of etcd");
    let record = format!(
        "ETCD_ENDPOINTS=http://e:2379\nETCD_PASSWORD=typed c4n4ry\nETCD_PASSWORD_FILE={}\n",
        folder.join("etcd-password").display()
    );
    put(root, "datastore/location.env", &record);
    put(root, "log/felix/moved", "moved c4n4ry of etcd was refused, and so was typed c4n4ry\n");
    keeper::Datastore { members: None, client: Client::new(&root.join("nobody.sock")), folder }
}

/// The archive's files.
fn unpacked(path: &Path) -> BTreeMap<String, String> {
    let mut archive = tar::Archive::new(GzDecoder::new(std::fs::File::open(path).unwrap()));
    let mut files = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        assert_eq!(entry.header().mode().unwrap(), 0o600);
        let name = entry.path().unwrap().display().to_string();
        let mut content = String::new();
        entry.read_to_string(&mut content).unwrap();
        files.insert(name.strip_prefix("diagnostics/").unwrap().to_owned(), content);
    }
    files
}

#[tokio::test]
async fn planted_secrets_stay_on_the_host_and_what_helps_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let (places, programs, bench) = (host(dir.path()), programs(), cluster().await);
    let sources = Sources { places, programs: &programs, datastore: datastore(dir.path()), connected: Ok(&bench.ctx) };
    let wanted = dir.path().join("out.tar.gz");
    let noted = Mutex::new(Vec::new());
    let note = |line: &str| noted.lock().unwrap().push(line.to_owned());
    let (path, faults) = collect(&sources, wanted.to_str(), OffsetDateTime::UNIX_EPOCH, &note).await.unwrap();
    assert_eq!((path.as_path(), faults > 0), (wanted.as_path(), true));

    let files = unpacked(&path);
    for (name, content) in &files {
        let at = content.find(CANARY).map(|at| &content[at.saturating_sub(80)..]);
        assert!(!name.contains(CANARY) && at.is_none(), "{name} holds a secret: …{}", at.unwrap_or_default());
    }
    assert!(!noted.lock().unwrap().join("\n").contains(CANARY));

    for (name, expected) in [
        ("nft_list_ruleset", "packets 7 bytes 420"),
        ("ip_-4_route_show_table_all", "192.168.0.1 dev cali0123"),
        ("docker_logs_--tail_5000_calico-node", "started"),
        ("journalctl_-u_calico-nodeservice_--no-pager_-n_5000", "ready"),
        ("logs/felix/current", "in sync"),
        ("logs/felix/current", "last line"),
        ("bird.cfg", "neighbor 10.0.0.9 as 65000;"),
        ("bird/status", "Router ID is 10.0.0.1"),
        ("settings/calico.env", "@10.0.0.1:2379\nETCD_PASSWORD=<removed>"),
        ("settings/calico.env", "CALICO_LOG=debug"),
        ("settings/calicoctl.cfg", "https://10.0.0.2:2379"),
        ("settings/files", "bgp-secrets/tor/rack1"),
        ("sysctl", "net/ipv4/ip_forward = 1\n"),
        ("sysctl", "net/ipv4/conf/all/rp_filter = 2\n"),
        ("containers.json", "\"name\": \"web-1\""),
        ("containers.json", "\"pid\": 7"),
        ("datastore.json", "192.168.0.0/16"),
        ("datastore.json", "\"secretKeyRef\""),
        ("datastore.json", "/calico/resources/v3/projectcalico.org/bgppeers/tor"),
        ("node_show", "10.0.0.1"),
        ("faults", "logs/felix/old.gz: it is no text"),
        ("faults", "health.json: calico-node does not run here"),
    ] {
        let content = files.get(name).unwrap_or_else(|| panic!("{name} is missing among {:?}", files.keys()));
        assert!(content.contains(expected), "{name} lacks {expected:?}:\n{content}");
    }
    assert!(!files["datastore.json"].contains("/other/"), "only what is Calico's");
    assert!(!files.contains_key("logs/lock"));
}

#[tokio::test]
async fn whatever_is_broken_there_is_an_archive_that_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let nowhere = dir.path().join("nowhere");
    let places = Places { etc: nowhere.clone(), run: nowhere.clone(), log: nowhere.clone(), sys: nowhere.clone() };
    let failure = Failure::new("ETCD_ENDPOINTS makes no sense.").because(format!("http://u:{CANARY}@h"));
    let programs = Scripted::default();
    let datastore = || keeper::Datastore { members: None, client: Client::new(&nowhere), folder: nowhere.clone() };
    let sources =
        Sources { places: places.clone(), programs: &programs, datastore: datastore(), connected: Err(&failure) };
    let wanted = dir.path().to_str();
    let (path, faults) = collect(&sources, wanted, OffsetDateTime::UNIX_EPOCH, &|_| {}).await.unwrap();
    assert_eq!(path.file_name().unwrap(), "diags-19700101_000000.tar.gz");
    let files = unpacked(&path);
    assert_eq!(files["faults"].lines().count(), faults);
    for expected in ["datastore.json: ETCD_ENDPOINTS makes no sense", "sysctl: nothing can be read", "no logs found"] {
        assert!(files["faults"].contains(expected), "{}", files["faults"]);
    }
    assert!(!files["faults"].contains(CANARY), "{}", files["faults"]);
    assert!(programs.asked.lock().unwrap().len() > 20);

    let bench = Bench::new();
    bench.kv.set_down(true);
    *bench.host.containers.lock().unwrap() = None;
    bench.runtime.without_docker();
    let sources = Sources { places, programs: &programs, datastore: datastore(), connected: Ok(&bench.ctx) };
    let other = dir.path().join("other.tar.gz");
    let (path, _) = collect(&sources, other.to_str(), OffsetDateTime::UNIX_EPOCH, &|_| {}).await.unwrap();
    let files = unpacked(&path);
    assert!(files["faults"].contains("datastore.json: ") && files["faults"].contains("containers.json: "));
}

#[tokio::test]
async fn a_datastore_that_this_host_keeps_is_looked_through_and_its_secrets_stay() {
    let keeper = Keeper::start().await;
    let joined = keeper.join("host-2").await;
    let invitation = keeper.invite();
    let members =
        calico_store::ConnectOptions::given(|name| (name == "ETCD_ENDPOINTS").then(|| "http://127.0.0.1:1".into()));
    let members = calico_store::EtcdKv::new(members.unwrap().unwrap()).unwrap();
    let datastore =
        keeper::Datastore { members: Some(members), client: keeper.client.clone(), folder: keeper.dir().to_owned() };
    let kept = keeper::kept(&datastore).await;
    let shown = |name: &str| {
        let item = kept.iter().find(|item| item.name == name).unwrap_or_else(|| panic!("{name} in {kept:?}"));
        assert_eq!(item.fault, None, "{name}");
        item.scrubbed(&Scrubber::default())
    };
    assert!(shown("datastore_kept/status.json").contains("\"revision\""));
    let hosts = shown("datastore_kept/hosts.json");
    assert!(hosts.contains("host-2") && hosts.contains(&joined.valid_until.to_string()), "{hosts}");
    assert!(shown("datastore_kept/check.json").contains("\"problems\": []"));
    let files = shown("datastore_kept/files");
    assert!(files.contains("data.redb") && files.contains("0600") && files.contains("pki/ca.pem"), "{files}");
    let everything: String = kept.iter().map(|item| item.scrubbed(&Scrubber::default())).collect();
    for secret in [invitation.token.reveal(), joined.identity, "PRIVATE KEY".into(), "BEGIN CERTIFICATE".into()] {
        assert!(!everything.contains(&secret), "{secret}");
    }
    let members = keeper::members(&datastore).await.remove(0);
    assert!(members.fault.as_deref() == Some("no answer from http://127.0.0.1:1"), "{members:?}");
}

#[tokio::test]
async fn a_host_that_never_kept_a_datastore_says_nothing_of_one() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(keeper::kept(&datastore(dir.path())).await, []);
}

#[tokio::test]
async fn only_root_may_collect() {
    let bench = Bench::not_root();
    let args = Diags { log_dir: "/nonexistent".into(), output: None };
    let refused = diags(Ok(&bench.ctx), &args).await.unwrap_err();
    assert_eq!(refused.message(), "This command must be run as root.");
}

#[test]
fn files_are_named_as_the_classic_tool_names_them() {
    assert_eq!(named_after(&["ip", "-4", "route"]), "ip_-4_route");
    let names: BTreeSet<String> = PROGRAMS.iter().flat_map(|(_, lines)| *lines).map(|line| named_after(line)).collect();
    assert_eq!(names.len(), PROGRAMS.iter().map(|(_, lines)| lines.len()).sum::<usize>(), "no two share a file");
}
