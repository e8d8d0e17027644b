//! From the environment to a [`Context`]: the datastore's settings, this host's name, the service's port.

use std::sync::Arc;

use calico_store::{EtcdKv, Kv, Store};

use crate::{
    args::Command,
    commands::{Caller, connection},
    context::{Context, NAME_FILE, Terminal},
    failure::Failure,
    health,
    host::Machine,
    interrupt::Interrupt,
    moved::{Watched, is_at_home_anywhere},
    settings,
};

/// The context of a command, and what the environment says about starting the service. The datastore is connected
/// to when it is first asked. A command with options of the connection works on resources only, whatever this host is
/// called.
///
/// # Errors
/// Variables that make no sense.
pub(crate) async fn context(interrupt: Interrupt, command: &Command) -> Result<(Context, Caller), Failure> {
    let connection = connection(command);
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    let etcd = settings::etcd(connection)?;
    let console = Arc::new(Terminal);
    let mut kv: Arc<dyn Kv> = Arc::new(EtcdKv::new(etcd.clone())?);
    if !is_at_home_anywhere(command) {
        kv = Arc::new(Watched::new(kv, console.clone()));
    }
    let health_port = match variable("CALICO_HEALTH_PORT") {
        None => health::DEFAULT_PORT,
        Some(value) => value.trim().parse().map_err(|_| {
            Failure::new(format!("CALICO_HEALTH_PORT={value:?} is not a port."))
                .hint(format!("it is the port of the service's health, {} if unset", health::DEFAULT_PORT))
        })?,
    };
    let node = match connection {
        Some(_) => String::new(),
        None => own_name(&variable, health_port).await?,
    };
    let machine = Arc::new(Machine::new(health_port));
    let context = Context { store: Store::new(kv), node, host: machine.clone(), runtime: machine, console, interrupt };
    let caller = Caller {
        etcd,
        no_default_pools: variable("NO_DEFAULT_POOLS").unwrap_or_default(),
        in_container: variable("CALICO_CTL_CONTAINER").is_some(),
    };
    Ok((context, caller))
}

/// This host's name in the datastore.
async fn own_name(variable: &dyn Fn(&str) -> Option<String>, health_port: u16) -> Result<String, Failure> {
    let system = rustix::system::uname().nodename().to_string_lossy().into_owned();
    // Some shells export the host's own name, which says nothing of what the service was told to call itself.
    let node = match variable("HOSTNAME").filter(|name| *name != system) {
        Some(name) => name,
        None => name_of_the_service(health_port).await.unwrap_or(system),
    };
    calico_startup::node_name(Some(node.trim())).map_err(|error| {
        let failure = Failure::new("This host has no usable name.").cause(&error);
        match error.way_out() {
            Some(way_out) => failure.hint(way_out),
            None => failure.hint("say it with HOSTNAME=NAME"),
        }
    })
}

/// What the service calls this host; without a service, what it called it last.
async fn name_of_the_service(health_port: u16) -> Option<String> {
    if let Ok(Some(health)) = health::ask(health_port).await
        && !health.node.is_empty()
    {
        return Some(health.node);
    }
    std::fs::read_to_string(NAME_FILE).ok().filter(|name| !name.trim().is_empty())
}
