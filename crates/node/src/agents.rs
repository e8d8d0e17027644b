//! confd as a process of its own: wiring between the library, the datastore and standard output.

use std::{
    path::Path,
    process::ExitCode,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use calico_model::AgentHealth;
use miette::{IntoDiagnostic, Result};

use crate::{
    NodeArgs, RUN_DIR,
    process::{print_report, stop_signal, store},
};

/// How often its health is said when nothing changes.
const HEARTBEAT: Duration = Duration::from_secs(5);

pub(crate) async fn confd(args: &NodeArgs) -> Result<ExitCode> {
    let node = calico_startup::node_name(args.name.as_deref()).into_diagnostic()?;
    let store = store().into_diagnostic()?;
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
