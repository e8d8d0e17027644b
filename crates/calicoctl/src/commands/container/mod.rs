//! `calicoctl container …`: workloads of this host.
//!
//! A container's endpoint follows from its id: the endpoint's own id, and with it its key and the name of its
//! interface, are made of a hash of the workload's id. Two commands that add the same container at the same time
//! meet at the interface's name and at the key's creation, whatever else they share, and one of them is refused.

mod add;
mod addresses;
mod ip;
mod remove;
mod workload;

pub(super) use addresses::of_endpoint;
pub(super) use remove::{delete as delete_endpoint, detach};

use crate::{
    args::{ContainerCommand, ContainerEndpointCommand, ContainerIpCommand, ContainerLabelCommand},
    commands::{endpoint, endpoint_label, endpoint_profile},
    context::Context,
    failure::Failure,
    output::Output,
};

/// Does what was typed.
pub(crate) async fn run(ctx: &Context, command: &ContainerCommand) -> Result<Output, Failure> {
    match command {
        ContainerCommand::Add(words) => add::add(ctx, words).await,
        ContainerCommand::Remove { container } => remove::remove(ctx, container).await,
        ContainerCommand::Ip { command: ContainerIpCommand::Add(words) } => ip::add(ctx, words).await,
        ContainerCommand::Ip { command: ContainerIpCommand::Remove(words) } => ip::remove(ctx, words).await,
        ContainerCommand::Endpoint { command: ContainerEndpointCommand::Show { container, .. } } => {
            let found = workload::find(ctx, container).await?;
            endpoint::detailed(ctx, &found.endpoints).await
        }
        ContainerCommand::Profile { command } => {
            let (container, change, profiles) = command.parts();
            // Bad names are told before anybody is asked about the container.
            crate::names::Wanted::parse_all(profiles)?;
            let found = workload::find(ctx, container).await?;
            let target = endpoint_profile::Target::Container { name: container.to_owned(), endpoints: found.endpoints };
            endpoint_profile::change(ctx, &target, change, profiles).await
        }
        ContainerCommand::Label { command } => label(ctx, command).await,
    }
}

async fn label(ctx: &Context, command: &ContainerLabelCommand) -> Result<Output, Failure> {
    use ContainerLabelCommand::{Remove, Set, Show};
    let container = match command {
        Set(words) => {
            // Bad labels are told before anybody is asked about the container.
            crate::labels::parse(&words.labels)?;
            &words.container
        }
        Remove(words) => &words.container,
        Show { container, .. } => container,
    };
    let found = workload::find(ctx, container).await?;
    let target = endpoint_profile::Target::Container { name: container.to_owned(), endpoints: found.endpoints };
    match command {
        Set(words) => endpoint_label::set(ctx, &target, &words.labels).await,
        Remove(words) => endpoint_label::remove(ctx, &target, &words.labels).await,
        Show { .. } => endpoint_label::show(ctx, &target).await,
    }
}

/// What the names of workloads' interfaces on the host begin with. felix knows them by it.
const INTERFACE_PREFIX: &str = "cali";
