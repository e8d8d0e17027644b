//! The step between the supervisor's fork and the supervised program.
//!
//! The kernel signals this process when its parent dies (`PR_SET_PDEATHSIG`, kept across `execve`), so that a killed
//! supervisor leaves nothing behind that a second one would meet.

use std::{
    ffi::OsString,
    os::unix::process::{CommandExt, parent_id},
    process::Command,
};

use miette::{Report, miette};
use rustix::process::{Signal, set_parent_process_death_signal};

/// Replaces this process by `command`; returns only if that fails.
pub(crate) fn become_child(parent: u32, command: &[OsString]) -> Report {
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return miette!("cannot tie this process to its supervisor: {error}");
    }
    // The supervisor may have died before the request above; then nobody will signal us.
    if parent_id() != parent {
        return miette!("the supervisor (process {parent}) is gone");
    }
    let Some((program, arguments)) = command.split_first() else {
        return miette!("no program given");
    };
    let error = Command::new(program).args(arguments).exec();
    miette!("{} cannot be started: {error}", program.display())
}
