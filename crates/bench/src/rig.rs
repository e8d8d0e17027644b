//! The dataplane driven directly, in the network of a bare lab host.

use std::{net::IpAddr, process::Command, sync::Arc};

use calico_dataplane::{Dataplane, Options};
use calico_lab::{Host, Lab, LabOptions};
use calico_policy::instruction::{
    Endpoint, EndpointId, Instruction, PolicyId, PolicyKind, ProfileId, Rule, RuleAction, RuleSet, Settings,
    TierPolicies,
};
use miette::{IntoDiagnostic, Result, WrapErr, miette};

/// Hosts with nothing but a network.
pub(crate) fn bare_lab(hosts: usize) -> Result<Lab> {
    Lab::up(&LabOptions::bare(hosts)).into_diagnostic()
}

/// A dataplane in the calling thread's network, with the base rules and one profile, `open`, that allows everything.
pub(crate) async fn dataplane() -> Result<Dataplane> {
    let mut dataplane = Dataplane::new(Options::default()).into_diagnostic()?;
    dataplane.install_base().await.into_diagnostic()?;
    dataplane.absorb(Instruction::Settings(Settings::default()));
    dataplane.absorb(Instruction::Pools { pools: Vec::new() });
    let open = RuleSet { ingress: vec![Rule::of(RuleAction::Allow)], egress: vec![Rule::of(RuleAction::Allow)] };
    dataplane.absorb(Instruction::ProfileUpdate { id: ProfileId("open".to_owned()), rules: open.into() });
    Ok(dataplane)
}

/// The policy of this number.
pub(crate) fn policy(number: usize) -> PolicyId {
    PolicyId { kind: PolicyKind::Global, namespace: String::new(), name: format!("policy-{number}") }
}

/// An endpoint on `interface` with the profile `open`, behind the first so many policies on its ingress.
pub(crate) fn endpoint(interface: &str, addresses: Vec<IpAddr>, policies: usize) -> Instruction {
    let tiers: Arc<[TierPolicies]> = match policies {
        0 => Arc::default(),
        _ => Arc::new([TierPolicies {
            tier: "default".to_owned(),
            ingress: (0..policies).map(policy).collect(),
            ..TierPolicies::default()
        }]),
    };
    Instruction::EndpointUpdate {
        id: EndpointId { namespace: "bench".to_owned(), name: interface.to_owned() },
        endpoint: Endpoint {
            interface: interface.to_owned(),
            addresses,
            tiers,
            profiles: vec![ProfileId("open".to_owned())],
            ..Endpoint::default()
        },
    }
}

/// Applies what was absorbed; a problem is an error here. Returns the number of operations written to nftables.
pub(crate) async fn apply(dataplane: &mut Dataplane) -> Result<usize> {
    let report = dataplane.apply().await.into_diagnostic()?;
    match report.problems.first() {
        None => Ok(report.operations),
        Some(problem) => Err(miette!("the dataplane has a problem: {problem}")),
    }
}

/// Runs a shell command in a host's network, but otherwise on the machine, so that it sees all processes.
pub(crate) fn run_in(host: &Host, command: &str) -> Result<String> {
    host.in_network(|| Ok(run(command))).into_diagnostic()?
}

/// Runs a shell command in the calling thread's network.
pub(crate) fn run(command: &str) -> Result<String> {
    let output = Command::new("sh").args(["-c", command]).output().into_diagnostic().wrap_err("sh")?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(miette!("{command}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
