//! What the programs of this package have in common: log, node name, datastore, reports and the signal to stop.

use calico_model::AgentHealth;
use calico_store::{ConnectOptions, EtcdKv, Store};
use miette::{IntoDiagnostic, Report, Result};
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
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().into_diagnostic()?;
    let outcome = runtime.block_on(work);
    // A name server that does not answer must not hold up the exit.
    runtime.shutdown_background();
    outcome
}

/// A failure as calicoctl prints its own, and as it reads it from the container's output: one line each for the
/// error, its causes and the way out, never wrapped.
pub(crate) fn in_words(error: &Report) -> String {
    let mut lines: Vec<String> = Vec::new();
    for cause in error.chain() {
        let label = if lines.is_empty() { "error:" } else { "  cause:" };
        lines.push(format!("{label} {cause}\n"));
    }
    lines.extend(error.help().map(|help| format!("hint: {help}\n")));
    lines.concat()
}

/// The node's name: as given, else the host name; lower case, as v3 wants it.
pub(crate) fn node_name(given: Option<&str>) -> Result<String> {
    calico_startup::node_name(given).into_diagnostic()
}

/// The datastore that `ETCD_*` names. Connects lazily: an etcd that is down at start-up is waited for.
pub(crate) fn store() -> Result<Store> {
    let options = ConnectOptions::from_env().into_diagnostic()?;
    Ok(Store::new(std::sync::Arc::new(EtcdKv::new(options).into_diagnostic()?)))
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

#[cfg(test)]
mod tests {
    use miette::miette;

    use super::*;

    #[test]
    fn a_failure_is_one_line_each_for_error_cause_and_way_out() {
        let long = "a message that is much longer than eighty columns, so that a terminal would have to wrap it";
        assert_eq!(in_words(&miette!(help = "do this", "{long}")), format!("error: {long}\nhint: do this\n"));
        let error = miette!("deepest").wrap_err("outer");
        assert_eq!(in_words(&error), "error: outer\n  cause: deepest\n");
    }
}
