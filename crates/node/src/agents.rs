//! The two agents as processes of their own: wiring between the libraries, the datastore and standard output.

use std::{
    path::Path,
    process::ExitCode,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use calico_dataplane::Dataplane;
use calico_model::AgentHealth;
use calico_store::{ConnectOptions, EtcdKv, Store};
use miette::{IntoDiagnostic, Result, WrapErr};
use tokio::signal::unix::{SignalKind, signal};

use crate::{NodeArgs, RUN_DIR};

/// How often confd's health is said when nothing changes; felix has its own.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// The node's name: as given, else the host name; lower case, as v3 wants it.
pub(crate) fn node_name(given: Option<&str>) -> Result<String> {
    calico_startup::node_name(given).into_diagnostic()
}

/// The datastore that `ETCD_*` names. Connects lazily: an etcd that is down at start-up is waited for.
pub(crate) fn store() -> Result<Store> {
    let options = ConnectOptions::from_env().into_diagnostic()?;
    Ok(Store::new(std::sync::Arc::new(EtcdKv::new(options).into_diagnostic()?)))
}

/// Completes at SIGTERM or SIGINT.
pub(crate) async fn stop_signal() {
    let term = signal(SignalKind::terminate());
    let int = signal(SignalKind::interrupt());
    match (term, int) {
        (Ok(mut term), Ok(mut int)) => {
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        }
        // Without handlers the default action of both signals ends the process, which is what is wanted.
        _ => std::future::pending().await,
    }
}

/// Writes a report for the supervisor.
fn print_report(health: &AgentHealth) {
    println!("{}", serde_json::to_string(health).expect("plain strings and numbers serialise"));
}

pub(crate) async fn felix(args: &NodeArgs) -> Result<ExitCode> {
    let node = node_name(args.name.as_deref())?;
    let store = store()?;
    let dataplane = Dataplane::new(calico_dataplane::Options::default())
        .into_diagnostic()
        .wrap_err("felix has no access to the kernel's network configuration (it needs root, or CAP_NET_ADMIN)")?;
    tracing::info!(%node, datastore = %store.kv().location(), "felix starts");
    calico_felix::run(&store, dataplane, calico_felix::Options::new(node), print_report, stop_signal())
        .await
        .into_diagnostic()
        .wrap_err("the base rules cannot be installed")?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn confd(args: &NodeArgs) -> Result<ExitCode> {
    let node = node_name(args.name.as_deref())?;
    let store = store()?;
    tracing::info!(%node, datastore = %store.kv().location(), "confd starts");
    let run_dir = Path::new(RUN_DIR);
    let options = calico_confd::Options {
        config_path: run_dir.join("bird.cfg"),
        socket_path: run_dir.join("bird.ctl"),
        bird_binary: calico_startup::find_bird().into_diagnostic()?,
        template_override: args.bird_template.clone(),
        ..calico_confd::Options::new(node)
    };
    let reporter = ConfdReporter::default();
    let heartbeat = async {
        loop {
            tokio::time::sleep(HEARTBEAT).await;
            reporter.print();
        }
    };
    tokio::select! {
        ended = calico_confd::run(options, store.kv().clone(), stop_signal(), &reporter) => ended.into_diagnostic()?,
        () = heartbeat => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// Keeps what confd said last, to say it again when nothing changes.
#[derive(Default)]
struct ConfdReporter {
    last: Mutex<AgentHealth>,
}

impl ConfdReporter {
    fn change(&self, change: impl FnOnce(&mut AgentHealth)) {
        change(&mut self.last.lock().unwrap_or_else(PoisonError::into_inner));
        self.print();
    }

    fn print(&self) {
        print_report(&self.last.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl calico_confd::Report for ConfdReporter {
    fn ready(&self, ready: bool, reason: &str) {
        self.change(|report| {
            report.ready = ready;
            reason.clone_into(&mut report.reason);
        });
    }

    fn problems(&self, problems: &[calico_confd::Problem]) {
        self.change(|report| report.set_problems(problems.iter().map(ToString::to_string)));
    }
}
