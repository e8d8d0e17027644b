//! What the programs of this package have in common: log, datastore, reports and the signal to stop.

use calico_model::AgentHealth;
use calico_store::{ConnectOptions, Error, EtcdKv, Store};
use tokio::signal::unix::{SignalKind, signal};

/// A level, or levels by module (`info,calico_felix=debug`) in `CALICO_LOG`. Not the larger language of `EnvFilter`, which
/// brings an engine for regular expressions along.
pub(crate) fn init_log() {
    use tracing_subscriber::{Layer, filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};
    let wanted = std::env::var("CALICO_LOG").ok().and_then(|text| text.parse::<Targets>().ok());
    let filter = wanted.unwrap_or_else(|| Targets::new().with_default(tracing::Level::INFO));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false).with_target(false);
    tracing_subscriber::registry().with(lines.with_filter(filter)).init();
}

/// Runs to the end on one thread: each agent is one loop, and the service mostly waits. Threads would only cost memory.
pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> std::io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(work);
    // A name server that does not answer must not hold up the exit.
    runtime.shutdown_background();
    Ok(outcome)
}

/// The datastore that `ETCD_*` names. Connects lazily: an etcd that is down at start-up is waited for.
pub(crate) fn store() -> Result<Store, Error> {
    let options = ConnectOptions::from_env()?;
    Ok(Store::new(std::sync::Arc::new(EtcdKv::new(options)?)))
}

/// Writes a report for the supervisor.
pub(crate) fn print_report(health: &AgentHealth) {
    println!("{}", serde_json::to_string(health).expect("plain strings and numbers serialise"));
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
