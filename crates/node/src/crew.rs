//! The processes of the service: which there are, how they are started, and in which order they end.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use calico_confd::bird;
use calico_store::DATASTORE_DIR;
use futures::FutureExt;
use miette::{IntoDiagnostic, Result, WrapErr};
use tokio::time::timeout;
use tracing::{info, warn};

use crate::{
    RUN_DIR, RunArgs,
    libnetwork::{LIBNETWORK, Wanted},
    place::Place,
    supervisor::{Service, StopWith, Supervised, Surroundings, felix_program, own_program},
};

/// The process that keeps the datastore of this host.
pub(crate) const DATASTORE: &str = "datastore";
/// The same, for a datastore that the cluster has left. Nothing on this host needs it.
pub(crate) const FORMER_DATASTORE: &str = "former-datastore";

/// How long an agent that was started anew may take before the next one is. Some wait for the end of a migration, which
/// waits for this host.
const AGENT_PATIENCE: Duration = Duration::from_secs(3);

/// The processes, started and not yet started.
pub(crate) struct Crew {
    node: String,
    bird: PathBuf,
    bird_template: PathBuf,
    datastore_port: u16,
    plugin: Wanted,
    surroundings: Surroundings,
    /// In the order of stopping.
    services: Vec<Supervised>,
    datastore: Option<Supervised>,
}

impl Crew {
    /// Nothing runs yet.
    pub(crate) fn new(args: &RunArgs, node: &str, bird: &Path, plugin: Wanted, surroundings: Surroundings) -> Self {
        Self {
            node: node.to_owned(),
            bird: bird.to_owned(),
            bird_template: args.bird_template.clone(),
            datastore_port: args.datastore_port,
            plugin,
            surroundings,
            services: Vec::new(),
            datastore: None,
        }
    }

    /// The node's name.
    pub(crate) fn node(&self) -> &str {
        &self.node
    }

    /// Starts the datastore if this host keeps it; true if it does. One that the cluster has left runs on, and is started
    /// again, as long as other hosts have certificates for it: those that come late read in it where it went.
    ///
    /// # Errors
    /// Its folder cannot be made.
    pub(crate) fn keep_datastore(&mut self, place: &Place) -> Result<bool> {
        // One that was started before the cluster left it has the same name still.
        self.surroundings.board.set_optional(DATASTORE, !place.is_here());
        if place.is_here() {
            if self.datastore.is_none() {
                info!("{}", calico_startup::KEEPS_DATASTORE);
                make_private(Path::new(DATASTORE_DIR))?;
                self.start_datastore(DATASTORE);
            }
            return Ok(true);
        }
        match place.left_guests_behind() {
            Ok(true) if self.datastore.is_none() => {
                info!(
                    "the cluster's datastore has moved away from here; hosts that joined it and come late are told where, \
                     until {DATASTORE_DIR}/pki is removed"
                );
                self.start_datastore(FORMER_DATASTORE);
            }
            Ok(_) => {}
            // This host works without.
            Err(error) => warn!(%error, "hosts that were away when the datastore moved are not told where it is"),
        }
        Ok(false)
    }

    fn start_datastore(&mut self, name: &'static str) {
        let extra = vec!["--listen-port".into(), self.datastore_port.to_string().into()];
        let service = agent(name, own_program, &["datastore"], &self.node, extra);
        self.datastore = Some(Supervised::start(service, self.surroundings.clone()));
    }

    /// Starts all that need a datastore.
    pub(crate) fn start(&mut self) {
        let template = vec!["--bird-template".into(), self.bird_template.clone().into_os_string()];
        // confd first, so that nobody reconfigures a BIRD that ends; felix last.
        let mut services = vec![
            agent("confd", own_program, &["confd"], &self.node, template),
            bird_service(self.bird.clone(), self.surroundings.bird_socket.clone()),
        ];
        services.extend(self.plugin.gate().map(|gate| {
            let service = agent(LIBNETWORK, own_program, &["libnetwork"], &self.node, Vec::new());
            Service { gate, ..service }
        }));
        services.push(agent("felix", felix_program, &[], &self.node, Vec::new()));
        let start = |service| Supervised::start(service, self.surroundings.clone());
        self.services = services.into_iter().map(start).collect();
    }

    /// Starts those anew that read where the datastore is when they start, one after the other. BIRD stays, and so does
    /// all that is in the kernel.
    pub(crate) async fn restart_agents(&self) {
        for service in self.services.iter().filter(|service| service.name() != "bird") {
            let before = self.surroundings.board.pid(service.name());
            if before.is_none() {
                // It waits for something, and will look at the new place when it starts.
                service.restart();
                continue;
            }
            service.restart();
            let anew = timeout(AGENT_PATIENCE, async {
                loop {
                    let changed = self.surroundings.board.changed();
                    let pid = self.surroundings.board.pid(service.name());
                    if pid != before && self.surroundings.board.is_ready(service.name(), Instant::now()) {
                        return;
                    }
                    changed.await;
                }
            });
            if anew.await.is_err() {
                warn!(process = service.name(), "is not ready yet after its restart; going on with the others");
            }
        }
    }

    /// Ends all processes in order, the datastore last.
    pub(crate) async fn stop(self) {
        for service in self.services.into_iter().chain(self.datastore) {
            service.stop().await;
        }
    }
}

/// A folder for root alone, with what leads to it.
fn make_private(folder: &Path) -> Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    // Somebody may have made it with other rights.
    let made = made.and_then(|()| std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700)));
    made.into_diagnostic()
        .wrap_err_with(|| format!("the folder of the datastore, {}, cannot be made", folder.display()))
}

/// An agent: a program, asked for anew at each start, with the words that make it this one.
fn agent(name: &'static str, program: fn() -> PathBuf, words: &[&str], node: &str, extra: Vec<OsString>) -> Service {
    let mut arguments: Vec<OsString> = words.iter().map(Into::into).collect();
    arguments.extend(["--name".into(), node.into()]);
    arguments.extend(extra);
    let command = move || {
        let command = std::iter::once(program().into_os_string()).chain(arguments.iter().cloned()).collect();
        std::future::ready(command).boxed()
    };
    Service { name, command: Box::new(command), gate: None, reports: true, stop_with: StopWith::Terminate }
}

fn bird_service(binary: PathBuf, socket: PathBuf) -> Service {
    let config = Path::new(RUN_DIR).join("bird.cfg");
    let gate = Some(config.clone());
    let command = move || {
        let start =
            bird::Start { binary: binary.clone(), config: config.clone(), socket: socket.clone(), recover: true };
        async move {
            let recover = bird::needs_recovery().await.unwrap_or_else(|error| {
                // Recovering without need costs seconds; not recovering with need costs packets.
                warn!(%error, "bird starts in recovery");
                true
            });
            let (program, arguments) = bird::command_line(&bird::Start { recover, ..start });
            std::iter::once(program.into_os_string()).chain(arguments).collect()
        }
        .boxed()
    };
    Service { name: "bird", command: Box::new(command), gate, reports: false, stop_with: StopWith::GracefulRestart }
}
