//! `calicoctl`: what a person types, and the words and tables that answer.
//!
//! Three layers, each knowing only the next: [`args`] reads what was typed, [`commands`] do what it means with the
//! crates below, [`output`] prints. Logic of addresses, interfaces, policy and start-up lives in those crates; here
//! are the order of checks, the undoing of what a failure left half done, and the words.
//!
//! stdout carries results, stderr everything else. Exit codes: 0 done, 1 failed or interrupted, 2 not understood or
//! not root; 3 if `why` answers that traffic is denied, 2 if `plan` finds verdicts that change.

mod args;
mod commands;
mod connect;
mod context;
mod environment;
mod failure;
mod health;
mod host;
mod interrupt;
mod labels;
mod moved;
mod names;
mod output;
mod runtime;
mod settings;
mod systemd;
mod template;
#[cfg(test)]
mod testing;
mod undo;

use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
};

use failure::{Exit, Failure};
use interrupt::{Interrupt, Interrupter};
use output::Output;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = match args::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(asked) => {
            // Help goes to stdout with code 0, everything else to stderr with code 2.
            let _ = asked.print();
            return if asked.use_stderr() { Exit::Usage } else { Exit::Done }.into();
        }
    };
    let Some(command) = cli.command else {
        let _ = args::tree().print_help();
        return ExitCode::SUCCESS;
    };
    // The netlink library warns of answers that are expected (no such interface), and ipam of records that a command
    // has told of itself; ours says what matters.
    let level = commands::connection(&command).and_then(|connection| connection.log_level.as_deref());
    let filter = match settings::log_filter(level) {
        Ok(filter) => filter.or_else(|| EnvFilter::try_from_env("CALICO_LOG").ok()),
        Err(failure) => {
            let _ = write!(std::io::stderr(), "{failure}");
            return failure.exit().into();
        }
    };
    let filter = filter.unwrap_or_else(|| EnvFilter::new("warn,nlink=error,calico_ipam::ipam=error"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        .with_target(false)
        .init();
    let format = commands::format(&command);
    let outcome = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let outcome = runtime.block_on(run(&command));
            // A name server that does not answer would hold up the exit, and with it the message.
            runtime.shutdown_background();
            outcome
        }
        Err(error) => Err(Failure::new("The system gives calicoctl no resources to work with.").cause(&error)),
    };
    match outcome {
        Ok(output) => {
            // A reader that has had enough is no failure.
            let _ = std::io::stdout().write_all(output.render(format).as_bytes());
            if let Some(failure) = &output.failure {
                let _ = write!(std::io::stderr(), "{failure}");
            }
            output.exit.into()
        }
        Err(failure) => {
            let _ = write!(std::io::stderr(), "{failure}");
            failure.exit().into()
        }
    }
}

async fn run(command: &args::Command) -> Result<Output, Failure> {
    if let Some(outcome) = commands::without_datastore(command) {
        return outcome;
    }
    let (interrupter, interrupt) = Interrupt::new();
    let work = async {
        let connected = connect::context(interrupt.clone(), command).await;
        let ctx = connected.as_ref().map(|(ctx, _)| ctx);
        if let Some(outcome) = commands::with_or_without_datastore(command, ctx).await {
            return outcome;
        }
        let (ctx, caller) = connected?;
        commands::run(&ctx, command, &caller).await
    };
    until_interrupted(work, &interrupter, &interrupt).await
}

/// Runs `work`. A signal ends it at once while it only looks; while it acts, the first lets it undo what it has
/// begun, and the second ends it as it is.
async fn until_interrupted(
    work: impl Future<Output = Result<Output, Failure>>,
    interrupter: &Interrupter,
    interrupt: &Interrupt,
) -> Result<Output, Failure> {
    let no_signals = |error: std::io::Error| Failure::new("Signals cannot be received.").cause(&error);
    let mut interrupted = signal(SignalKind::interrupt()).map_err(no_signals)?;
    let mut terminated = signal(SignalKind::terminate()).map_err(no_signals)?;
    let mut work = std::pin::pin!(work);
    let mut asked = false;
    loop {
        tokio::select! {
            outcome = &mut work => return outcome,
            _ = interrupted.recv() => {}
            _ = terminated.recv() => {}
        }
        if interrupt.is_endless() {
            return Ok(Output::of(String::new(), serde_json::Value::Null));
        }
        if !interrupt.is_acting() {
            return Err(Failure::aborted());
        }
        if asked {
            return Err(Failure::aborted()
                .because("it was interrupted a second time, before it had undone what was half done")
                .hint("look for what is left with: calicoctl endpoint show --detailed"));
        }
        asked = true;
        let _ = writeln!(std::io::stderr(), "Interrupted: undoing what is half done. Once more to leave it as it is.");
        interrupter.interrupt();
    }
}
