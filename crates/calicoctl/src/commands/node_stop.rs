//! `calicoctl node stop`: ends the service on this host. Routes and rules stay in force, and the datastore keeps
//! everything.

use std::time::Duration;

use calico_workload::docker::DockerError;

use super::node_start::{CONTAINER, PREVIOUS};
use crate::{args::EndpointFilter, context::Context, failure::Failure, output::Output};

/// How long a service that was told to stop may still answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// `node stop`
pub(crate) async fn stop(ctx: &Context, force: bool) -> Result<Output, Failure> {
    ctx.require_root()?;
    let filter = EndpointFilter { host: Some(ctx.node.clone()), ..EndpointFilter::default() };
    let endpoints = match super::endpoint::find(ctx, &filter, None).await {
        Ok(endpoints) => endpoints.len(),
        // A host must be stoppable while its datastore is away; who forces has taken the endpoints into account.
        Err(failure) if force => {
            ctx.console.note(&format!("warning: endpoints of this host are not known: {}", failure.one_line()));
            0
        }
        Err(failure) => return Err(failure.hint("--force stops the service without looking for endpoints")),
    };
    if endpoints > 0 {
        if !force {
            return Err(Failure::new("Current host has active endpoints so can't be stopped. Force with --force")
                .because(format!("{endpoints} endpoint(s) of {} are stored", ctx.node))
                .hint(
                    "endpoints keep their connections while the service is stopped, but changes and cleaning up wait \
                     until it runs again",
                ));
        }
        ctx.console.note(
            "Stopping node while host has active endpoints. If this is in error, restart the node using the \
             'calicoctl node' command.",
        );
    }
    let _acting = ctx.interrupt.acting();
    match ctx.runtime.stop(CONTAINER).await {
        Ok(_) => {}
        // Without Docker no container runs; the service may still run without one.
        Err(DockerError::NotRunning { .. }) => {}
        Err(error) => return Err(super::docker_failure(error).context(format!("{CONTAINER} could not be stopped."))),
    }
    // Left over if a replacement was cut short.
    if let Err(error) = ctx.runtime.remove(PREVIOUS).await
        && !error.is_not_running()
    {
        ctx.console.note(&format!("warning: container {PREVIOUS} could not be removed: {error}"));
    }
    stop_outside_docker(ctx).await?;
    Ok(Output::line("Node stopped"))
}

/// Stops a service that runs straight on the host, if systemd started it.
async fn stop_outside_docker(ctx: &Context) -> Result<(), Failure> {
    if ctx.runtime.health().await?.is_none() {
        return Ok(());
    }
    ctx.runtime.stop_unit().await?;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while ctx.runtime.health().await?.is_some() {
        if tokio::time::Instant::now() >= deadline {
            return Err(Failure::new("calico-node still runs on this host, outside Docker.")
                .hint("end it where it was started; /var/run/calico/calico-node.lock names its process"));
        }
        ctx.interrupt.check()?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{
        health::Health,
        testing::{Bench, NODE, refusal, text},
    };

    #[tokio::test]
    async fn a_host_with_endpoints_is_stopped_only_by_force() {
        let bench = Bench::new();
        bench.runtime.run_container(CONTAINER);
        bench.endpoint(NODE, "c1", "e1", &[]).await;
        let words = refusal(stop(&bench.ctx, false).await);
        assert!(words.contains("active endpoints so can't be stopped"), "{words}");
        assert!(bench.runtime.is_running(CONTAINER));
        assert_eq!(text(stop(&bench.ctx, true).await), "Node stopped\n");
        assert!(!bench.runtime.is_running(CONTAINER));
    }

    #[tokio::test]
    async fn with_a_dead_datastore_only_by_force() {
        let bench = Bench::new();
        bench.runtime.run_container(CONTAINER);
        bench.kv.set_down(true);
        let words = refusal(stop(&bench.ctx, false).await);
        assert!(words.contains("unreachable") && words.contains("--force"), "{words}");
        assert!(bench.runtime.is_running(CONTAINER));
        assert_eq!(text(stop(&bench.ctx, true).await), "Node stopped\n");
        assert!(!bench.runtime.is_running(CONTAINER));
    }

    #[tokio::test]
    async fn endpoints_of_others_do_not_count_and_stopping_twice_is_no_error() {
        let bench = Bench::new();
        bench.runtime.run_container(CONTAINER);
        bench.endpoint("host-2", "c1", "e1", &[]).await;
        let before = bench.everything().await;
        for _ in 0..2 {
            assert_eq!(text(stop(&bench.ctx, false).await), "Node stopped\n");
        }
        assert_eq!(bench.everything().await, before, "the datastore is not touched");
    }

    #[tokio::test]
    async fn a_service_under_systemd_is_stopped_without_docker() {
        let bench = Bench::new();
        bench.runtime.without_docker();
        *bench.runtime.outside.lock().unwrap() = Some(Health::default());
        assert_eq!(text(stop(&bench.ctx, false).await), "Node stopped\n");
        assert!(bench.runtime.calls().contains(&"stop_unit".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_somebody_started_by_hand_is_named() {
        let bench = Bench::new();
        *bench.runtime.outside.lock().unwrap() = Some(Health::default());
        bench.runtime.fail("stop_unit_has_none");
        let words = refusal(stop(&bench.ctx, false).await);
        assert!(words.contains("still runs on this host, outside Docker"), "{words}");
    }

    #[tokio::test]
    async fn only_root_may() {
        let bench = Bench::not_root();
        let failure = stop(&bench.ctx, true).await.unwrap_err();
        assert_eq!(failure.exit(), crate::failure::Exit::Usage);
        assert_eq!(failure.message(), "This command must be run as root.");
    }
}
