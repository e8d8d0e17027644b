//! What each command means: a function from a [`Context`](crate::context::Context) and what was typed to something
//! to print.
//!
//! Every command first checks all that can be checked, then acts; what fails on the way is undone.

pub(crate) mod bgp;
pub(crate) mod checksystem;
pub(crate) mod completion;
pub(crate) mod config;
pub(crate) mod confirm;
pub(crate) mod container;
pub(crate) mod datastore;
pub(crate) mod diags;
pub(crate) mod endpoint;
pub(crate) mod endpoint_label;
pub(crate) mod endpoint_profile;
pub(crate) mod ipam;
mod keeper;
pub(crate) mod manual;
pub(crate) mod node_invite;
pub(crate) mod node_join;
pub(crate) mod node_remove;
pub(crate) mod node_revoke;
pub(crate) mod node_show;
pub(crate) mod node_start;
pub(crate) mod node_stop;
pub(crate) mod pool;
pub(crate) mod profile;
mod race;
pub(crate) mod resource;
pub(crate) mod rules;
pub(crate) mod status;
pub(crate) mod version;
pub(crate) mod why;

use calico_workload::docker::DockerError;

use crate::{
    args::{
        Command, Connection, EndpointCommand, EndpointFilter, EndpointLabelCommand, EndpointProfileCommand,
        NodeCommand, ProfileChange,
    },
    context::{Context, Terminal},
    failure::{Failure, sentence},
    output::{Format, Output},
};
pub(crate) use node_start::Caller;

/// The form in which the command's result was asked for.
pub(crate) fn format(command: &Command) -> Format {
    use crate::args::{ContainerCommand, ContainerEndpointCommand, ContainerLabelCommand};
    match command {
        Command::Version(args) => args.output.format,
        Command::Status(args) => args.output.format,
        Command::Why(args) => args.output.format,
        Command::Plan(args) => args.output.format,
        Command::Rules(args) => args.output.format,
        Command::Pool { command } => command.format(),
        Command::Bgp { command } => command.format(),
        Command::Ipam { command } => command.format(),
        Command::Datastore { command } => command.format(),
        Command::Config { command } => command.format(),
        Command::Diags(args) => args.format(),
        Command::Checksystem(args) => args.format(),
        Command::Manual(args) => args.format(),
        Command::Node(node) => match &node.command {
            Some(NodeCommand::Show(output) | NodeCommand::Status(output)) => output.format,
            Some(NodeCommand::Bgp { command }) => command.format(),
            Some(NodeCommand::Invite(invite)) => invite.output.format,
            Some(NodeCommand::Revoke(revoke)) => revoke.output.format,
            Some(NodeCommand::Checksystem(args)) => args.format(),
            _ => Format::Table,
        },
        Command::Container {
            command: ContainerCommand::Endpoint { command: ContainerEndpointCommand::Show { output, .. } },
        } => output.format,
        Command::Container {
            command: ContainerCommand::Label { command: ContainerLabelCommand::Show { output, .. } },
        } => output.format,
        Command::Endpoint {
            command: EndpointCommand::Label { command: EndpointLabelCommand::Show { output, .. } },
        } => output.format,
        Command::Endpoint { command: EndpointCommand::Show(show) } => show.output.format,
        Command::Endpoint {
            command: EndpointCommand::Profile { command: EndpointProfileCommand::Show { output, .. } },
        } => output.format,
        Command::Profile { command } => command.format(),
        _ => Format::Table,
    }
}

/// The result of a command that needs neither a datastore nor anything else of this host, so that bad settings
/// cannot break it.
pub(crate) fn without_datastore(command: &Command) -> Option<Result<Output, Failure>> {
    match command {
        Command::Validate(args) => Some(resource::validate(&Terminal, args)),
        Command::Completion { shell } => Some(Ok(completion::script(*shell))),
        Command::Manual(args) => Some(manual::run(args)),
        _ => None,
    }
}

/// The result of a command that goes as far as it can where there is no datastore, or none that can be used;
/// `None` for the others.
pub(crate) async fn with_or_without_datastore(
    command: &Command,
    connected: Result<&Context, &Failure>,
) -> Option<Result<Output, Failure>> {
    match command {
        Command::Version(args) => Some(version::version(connected, args).await),
        Command::Complete(args) => Some(Ok(completion::candidates(connected, args).await)),
        Command::Diags(args) => Some(diags::diags(connected, args).await),
        Command::Checksystem(args) => Some(checksystem::checksystem(connected, args).await),
        Command::Node(node) => match &node.command {
            Some(NodeCommand::Diags(args)) => Some(diags::diags(connected, args).await),
            Some(NodeCommand::Checksystem(args)) => Some(checksystem::checksystem(connected, args).await),
            _ => None,
        },
        _ => None,
    }
}

/// What a command on resources says of the datastore; `None` for the other commands.
pub(crate) fn connection(command: &Command) -> Option<&Connection> {
    match command {
        Command::Get(args) => Some(&args.connection),
        Command::Create(args) => Some(&args.connection),
        Command::Apply(args) | Command::Replace(args) => Some(&args.connection),
        Command::Patch(args) => Some(&args.connection),
        Command::Delete(args) => Some(&args.connection),
        Command::Label(args) => Some(&args.connection),
        Command::Plan(args) => Some(&args.connection),
        Command::Confirm(args) => Some(&args.connection),
        Command::Version(args) => Some(&args.connection),
        Command::Pool { command } => command.connection(),
        Command::Bgp { command } => command.connection(),
        Command::Ipam { command } => command.connection(),
        Command::Datastore { command } => command.connection(),
        Command::Config { command } => command.connection(),
        _ => None,
    }
}

/// Does what was typed.
pub(crate) async fn run(ctx: &Context, command: &Command, caller: &Caller) -> Result<Output, Failure> {
    match command {
        Command::Completion { .. } | Command::Manual(_) => without_datastore(command).expect("these need no datastore"),
        Command::Version(_) | Command::Complete(_) | Command::Diags(_) | Command::Checksystem(_) => {
            with_or_without_datastore(command, Ok(ctx)).await.expect("these go as far as they can")
        }
        Command::Pool { command } => pool::run(ctx, command).await,
        Command::Bgp { command } => bgp::run(ctx, command).await,
        Command::Ipam { command } => ipam::run(ctx, command).await,
        Command::Datastore { command } => datastore::run(ctx, command, caller).await,
        Command::Config { command } => config::run(ctx, command).await,
        Command::Get(args) => resource::get(ctx, args).await,
        Command::Create(args) => {
            confirm::on_probation(ctx, &args.probation, "create", async |ctx| resource::create(ctx, args).await).await
        }
        Command::Apply(args) => {
            confirm::on_probation(ctx, &args.probation, "apply", async |ctx| resource::apply(ctx, args).await).await
        }
        Command::Replace(args) => {
            confirm::on_probation(ctx, &args.probation, "replace", async |ctx| resource::replace(ctx, args).await).await
        }
        Command::Patch(args) => {
            confirm::on_probation(ctx, &args.probation, "patch", async |ctx| resource::patch(ctx, args).await).await
        }
        Command::Delete(args) => {
            confirm::on_probation(ctx, &args.probation, "delete", async |ctx| resource::delete(ctx, args).await).await
        }
        Command::Label(args) => resource::label(ctx, args).await,
        Command::Plan(args) => resource::plan(ctx, args).await,
        Command::Why(args) => why::why(ctx, args).await,
        Command::Rules(args) => rules::rules(ctx, args).await,
        Command::Confirm(args) => confirm::confirm(ctx, args).await,
        Command::Validate(args) => resource::validate(&*ctx.console, args),
        Command::Status(args) => status::run(ctx, args).await,
        Command::Node(node) => match &node.command {
            None if node.join.join.is_some() => node_join::run(ctx, node, caller).await,
            None => node_start::start(ctx, &node.start, caller).await,
            Some(NodeCommand::Run(run)) => node_start::run(ctx, run, caller).await,
            Some(NodeCommand::Stop { force }) => node_stop::stop(ctx, *force).await,
            Some(NodeCommand::Invite(invite)) => node_invite::run(ctx, invite, caller).await,
            Some(NodeCommand::Revoke(revoke)) => node_revoke::run(ctx, revoke, caller).await,
            Some(NodeCommand::Remove(remove)) => node_remove::remove(ctx, remove).await,
            Some(NodeCommand::Show(_)) => node_show::show(ctx).await,
            Some(NodeCommand::Status(_)) => status::status(ctx).await,
            Some(NodeCommand::Bgp { command }) => bgp::run_node(ctx, command).await,
            Some(NodeCommand::Diags(_) | NodeCommand::Checksystem(_)) => {
                with_or_without_datastore(command, Ok(ctx)).await.expect("these go as far as they can")
            }
        },
        Command::Container { command } => container::run(ctx, command).await,
        Command::Endpoint { command } => match command {
            EndpointCommand::Show(show) => endpoint::show(ctx, show).await,
            EndpointCommand::Profile { command } => endpoint_profiles(ctx, command).await,
            EndpointCommand::Label { command } => endpoint_labels(ctx, command).await,
        },
        Command::Profile { command } => profile::run(ctx, command).await,
    }
}

async fn endpoint_profiles(ctx: &Context, command: &EndpointProfileCommand) -> Result<Output, Failure> {
    use EndpointProfileCommand::{Append, Remove, Set, Show};
    let (change, words) = match command {
        Append(words) => (ProfileChange::Append, words),
        Remove(words) => (ProfileChange::Remove, words),
        Set(words) => (ProfileChange::Set, words),
        Show { endpoint, filter, .. } => {
            let target = endpoint_profile::Target::Endpoint { id: endpoint.clone(), filter: filter.clone() };
            return endpoint_profile::show(ctx, &target).await;
        }
    };
    let target = endpoint_profile::Target::Endpoint { id: words.endpoint.clone(), filter: words.filter.clone() };
    endpoint_profile::change(ctx, &target, change, &words.profiles).await
}

async fn endpoint_labels(ctx: &Context, command: &EndpointLabelCommand) -> Result<Output, Failure> {
    use EndpointLabelCommand::{Remove, Set, Show};
    let target = |id: &String, filter: &EndpointFilter| endpoint_profile::Target::Endpoint {
        id: id.clone(),
        filter: filter.clone(),
    };
    match command {
        Set(words) => endpoint_label::set(ctx, &target(&words.endpoint, &words.filter), &words.labels).await,
        Remove(words) => endpoint_label::remove(ctx, &target(&words.endpoint, &words.filter), &words.labels).await,
        Show { endpoint, filter, .. } => endpoint_label::show(ctx, &target(endpoint, filter)).await,
    }
}

/// A failed call to Docker in the words that users of the classic tool know.
pub(crate) fn docker_failure(error: DockerError) -> Failure {
    match &error {
        DockerError::NotRunning { .. } | DockerError::Timeout { .. } => {
            Failure::new("Unable to run docker commands. Is the docker daemon running?")
                .cause(&error)
                .hint("start it: systemctl start docker; DOCKER_HOST says where calicoctl looks for it")
        }
        DockerError::Permission { .. } => Failure::new("Unable to run docker commands: permission denied.")
            .cause(&error)
            .hint("re-run the command as root, or let your user use Docker: usermod -aG docker USER"),
        DockerError::NoSuchContainer { name } => {
            Failure::new(format!("Container {name} was not found.")).hint("see: docker ps -a")
        }
        _ => Failure::new(sentence(&error)),
    }
}

#[cfg(test)]
mod tests;
