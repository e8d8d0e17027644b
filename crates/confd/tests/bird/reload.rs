//! What the agent does with a daemon that answers otherwise than a healthy BIRD: a control socket of the test's own.

#![allow(clippy::unwrap_used)]

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::common::net::{Agent, put_node, put_pool, until};
use calico_store::MemoryKv;
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
};

/// A daemon that answers `configure` as it is told, and counts.
#[derive(Clone)]
struct Daemon(Arc<Mutex<Script>>);

struct Script {
    configure: &'static str,
    status: Vec<&'static str>,
    configured: usize,
    looks: usize,
}

const DONE: &str = "0002-Reading configuration from bird.cfg\n0003 Reconfigured\n";
const REFUSED: &str = "0002-Reading configuration from bird.cfg\n8002 bird.cfg:7:1 out of luck\n";
const IN_PROGRESS: &str = "0002-Reading configuration from bird.cfg\n0004 Reconfiguration in progress\n";
const SETTLED: &str = "1000-BIRD 2.0.12\n0013 Daemon is up and running\n";
const UNSETTLED: &str = "1000-BIRD 2.0.12\n0013 Reconfiguration in progress\n";

impl Daemon {
    fn start(socket: &Path, configure: &'static str) -> (Self, tokio::task::JoinHandle<()>) {
        let script = Script { configure, status: vec![SETTLED], configured: 0, looks: 0 };
        let daemon = Self(Arc::new(Mutex::new(script)));
        let listener = UnixListener::bind(socket).unwrap();
        let serving = daemon.clone();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(serving.clone().serve(stream));
            }
        });
        (daemon, task)
    }

    async fn serve(self, mut stream: UnixStream) {
        let (read, mut write) = stream.split();
        write.write_all(b"0001 BIRD 2.0.12 ready.\n").await.unwrap();
        let mut requests = BufReader::new(read).lines();
        while let Ok(Some(request)) = requests.next_line().await {
            let answer = self.answer(&request);
            if write.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    fn answer(&self, request: &str) -> &'static str {
        let mut script = self.0.lock().unwrap();
        match request {
            "configure" => {
                script.configured += 1;
                script.configure
            }
            "show protocols" => {
                script.looks += 1;
                "2002-Name Proto Table State Since Info\n0000 \n"
            }
            "show status" if script.status.len() > 1 => script.status.remove(0),
            "show status" => script.status[0],
            _ => "9001 syntax error\n",
        }
    }

    fn configured(&self) -> usize {
        self.0.lock().unwrap().configured
    }

    fn answer_with(&self, configure: &'static str) {
        self.0.lock().unwrap().configure = configure;
    }
}

fn cluster() -> MemoryKv {
    let kv = MemoryKv::new();
    put_pool(&kv, "p4", json!({"cidr": "10.244.0.0/16"}));
    put_node(&kv, 2);
    kv
}

async fn until_ready(agent: &Agent, wanted: bool) {
    let what = format!("ready is {wanted}");
    until(&what, Duration::from_secs(60), || async {
        agent.reports.ready.lock().unwrap().as_ref().is_some_and(|r| r.0 == wanted)
    })
    .await;
}

#[tokio::test]
async fn a_configuration_that_the_daemon_refuses_is_taken_back_and_tried_again() {
    let kv = cluster();
    let mut agent = Agent::new("host2");
    let (daemon, _task) = Daemon::start(&agent.options.socket_path, DONE);
    agent.start(&kv);
    until_ready(&agent, true).await;
    let good = agent.text();

    daemon.answer_with(REFUSED);
    put_node(&kv, 3);
    until("the refusal is reported", Duration::from_secs(60), || async {
        agent.reports.reason().contains("bird.cfg:7:1 out of luck")
    })
    .await;
    assert!(!agent.reports.is_ready());
    assert_eq!(agent.text(), good, "a restart of the daemon must find what it accepted");

    daemon.answer_with(DONE);
    until_ready(&agent, true).await;
    assert!(agent.text().contains("Mesh_10_192_0_3"));
}

#[tokio::test]
async fn a_burst_is_one_reload_and_an_unchanged_text_is_none() {
    let kv = cluster();
    let mut agent = Agent::new("host2");
    let (daemon, _task) = Daemon::start(&agent.options.socket_path, DONE);
    agent.start(&kv);
    until_ready(&agent, true).await;
    let before = daemon.configured();
    assert_eq!(before, 1);
    for last in 3..200 {
        put_node(&kv, last);
    }
    agent.until_text("the last of the burst", |text| text.contains("Mesh_10_192_0_199")).await;
    until("BIRD has it", Duration::from_secs(60), || async { daemon.configured() > before }).await;
    assert!(daemon.configured() <= before + 3, "{} reloads for one burst", daemon.configured() - before);
    let after = daemon.configured();
    put_node(&kv, 199);
    put_pool(&kv, "p4", json!({"cidr": "10.244.0.0/16", "natOutgoing": true}));
    let looks = daemon.0.lock().unwrap().looks;
    until("time has passed", Duration::from_secs(60), || async { daemon.0.lock().unwrap().looks > looks + 10 }).await;
    assert_eq!(daemon.configured(), after, "nothing that BIRD depends on has changed");
}

#[tokio::test]
async fn protocols_that_are_shutting_down_are_waited_for() {
    let kv = cluster();
    let mut agent = Agent::new("host2");
    let (daemon, _task) = Daemon::start(&agent.options.socket_path, IN_PROGRESS);
    daemon.0.lock().unwrap().status = vec![UNSETTLED, UNSETTLED, SETTLED];
    agent.start(&kv);
    until_ready(&agent, true).await;
    assert_eq!(daemon.0.lock().unwrap().status.len(), 1, "it was asked until it was settled");
}

#[tokio::test]
async fn a_restarted_daemon_is_noticed_and_told_to_read_the_file() {
    let kv = cluster();
    let mut agent = Agent::new("host2");
    let (_, task) = Daemon::start(&agent.options.socket_path, DONE);
    agent.start(&kv);
    until_ready(&agent, true).await;
    task.abort();
    std::fs::remove_file(&agent.options.socket_path).unwrap();
    until_ready(&agent, false).await;
    until("the reason", Duration::from_secs(60), || async { agent.reports.reason().contains("is it running?") }).await;
    let (daemon, _task) = Daemon::start(&agent.options.socket_path, DONE);
    until_ready(&agent, true).await;
    assert_eq!(daemon.configured(), 1);
}
