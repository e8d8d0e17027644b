//! `--live`: what the kernel of this host holds, beside what the datastore says that it must hold.

use std::{collections::BTreeMap, fmt::Write};

use calico_dataplane::listing::{self, ListedRule, Listing};
use calico_explain::{
    Cluster,
    why::{End, HostVerdict, Party, RulePlace},
};
use serde::Serialize;

use super::Told;
use crate::{
    context::Context,
    failure::{Failure, sentence},
};

/// More differences are counted, not told.
const MOST: usize = 12;

/// What was seen.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Live {
    node: String,
    /// The kernel holds what the datastore asks for; `None` if that could not be compared.
    same: Option<bool>,
    /// How it differs, or why it could not be compared.
    differences: Vec<String>,
    /// What the service says of itself.
    agent: String,
    counters: Vec<Counter>,
}

/// Of one rule of a policy or profile. The kernel counts for all endpoints of the host that it applies to.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Counter {
    rule: String,
    ip_version: u8,
    packets: u64,
    bytes: u64,
}

/// Looks. Only root may.
pub(super) async fn look(ctx: &Context, cluster: &Cluster, told: &[Told]) -> Result<Live, Failure> {
    ctx.require_root()?;
    let here = |told: &&Told| told.answer.hosts.iter().any(|host| host.node == ctx.node);
    if !told.iter().any(|told| here(&told)) {
        return Err(Failure::new(format!("The traffic does not pass this host, {}.", ctx.node))
            .hint("ask with --live on one of the hosts that it passes"));
    }
    let (instructions, _) = cluster.instructions(&ctx.node);
    let failed = |error: calico_dataplane::Error| Failure::new(sentence(&error));
    let comparison = ctx.host.compare(instructions).await.map_err(failed)?;
    let mut counters: Vec<Counter> = Vec::new();
    for told in told {
        for host in told.answer.hosts.iter().filter(|host| host.node == ctx.node) {
            let ends = [&told.question.from, &told.question.to].into_iter();
            let behind = told.answer.route.translated.iter().filter(|led| led.node == ctx.node);
            let interfaces: Vec<String> = ends
                .filter_map(|party| interface(ctx, cluster, party))
                .chain(behind.map(|led| led.interface.clone()))
                .collect();
            for interface in interfaces {
                let listing = ctx.host.rules(&interface).await.map_err(failed)?;
                for counter in of_deciding(host, &listing, told.answer.ip_version) {
                    // Both ends may have the same policy.
                    if !counters
                        .iter()
                        .any(|known| (&known.rule, known.ip_version) == (&counter.rule, counter.ip_version))
                    {
                        counters.push(counter);
                    }
                }
            }
        }
    }
    let (same, differences) = match comparison.impossible {
        Some(reason) => (None, vec![reason]),
        None => (Some(comparison.differences.is_empty()), comparison.differences),
    };
    Ok(Live { node: ctx.node.clone(), same, differences, agent: agent(ctx).await, counters })
}

fn interface(ctx: &Context, cluster: &Cluster, party: &Party) -> Option<String> {
    match &party.end {
        End::Endpoint(id) => {
            cluster.endpoint(id).filter(|own| own.spec.node == ctx.node).map(|own| own.spec.interface_name.clone())
        }
        _ => None,
    }
}

/// The counters of the rules that decided at an endpoint.
fn of_deciding(host: &HostVerdict, listing: &Listing, ip_version: u8) -> Vec<Counter> {
    let rules = host.steps.iter().filter_map(|step| step.rule.as_ref());
    let mut found = Vec::new();
    for rule in rules {
        let own = listing.paths.iter().filter(|path| path.ip_version == ip_version);
        let totals = counters(own.flat_map(|path| path.chains.iter().flat_map(|chain| &chain.rules)));
        if let Some((packets, bytes)) = totals.get(&comment(rule)) {
            let rule = format!("{} {}, {} rule {}", rule.kind, rule.name, rule.direction, rule.number);
            found.push(Counter { rule, ip_version, packets: *packets, bytes: *bytes });
        }
    }
    found
}

/// Packets and bytes by comment: one rule of a policy may be several in the kernel.
pub(crate) fn counters<'a>(rules: impl Iterator<Item = &'a ListedRule>) -> BTreeMap<String, (u64, u64)> {
    let mut totals: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for rule in rules {
        if let (Some(comment), Some((packets, bytes))) = (&rule.comment, rule.counter) {
            let total = totals.entry(comment.clone()).or_default();
            total.0 += packets;
            total.1 += bytes;
        }
    }
    totals
}

/// What the kernel's rule is called that follows from a rule of a resource.
fn comment(rule: &RulePlace) -> String {
    let who = match (&rule.tier, &rule.namespace) {
        (Some(tier), Some(namespace)) => format!("policy {tier}/{namespace}/{}", rule.name),
        (Some(tier), None) => format!("policy {tier}/{}", rule.name),
        (None, _) => format!("profile {}", rule.name),
    };
    let action = rule.rule["action"].as_str().unwrap_or_default().to_ascii_lowercase();
    listing::rule_comment(&who, rule.direction, rule.number - 1, &action)
}

async fn agent(ctx: &Context) -> String {
    match ctx.runtime.health().await {
        Err(failure) => failure.one_line(),
        Ok(None) => "calico-node does not run here: nothing follows the datastore".to_owned(),
        Ok(Some(health)) => match health.components.iter().find(|component| component.name == "felix") {
            None => "felix does not run here: nothing follows the datastore".to_owned(),
            Some(felix) if felix.live && felix.ready => "felix runs".to_owned(),
            Some(felix) => format!("felix is not ready: {}", felix.reason),
        },
    }
}

impl Live {
    pub(super) fn text(&self) -> String {
        let mut text = match self.same {
            Some(true) => format!("\nlive: the kernel of {} holds what the datastore asks for\n", self.node),
            Some(false) => format!("\nlive: the kernel of {} DIFFERS from what the datastore asks for:\n", self.node),
            None => format!("\nlive: the kernel of {} could not be compared:\n", self.node),
        };
        for difference in self.differences.iter().take(MOST) {
            let _ = writeln!(text, "  {difference}");
        }
        if self.differences.len() > MOST {
            let _ = writeln!(text, "  and {} more", self.differences.len() - MOST);
        }
        let _ = writeln!(text, "  {}", self.agent);
        if !self.counters.is_empty() {
            text.push_str("  counted, for all endpoints of this host together:\n");
        }
        for Counter { rule, ip_version, packets, bytes } in &self.counters {
            let _ = writeln!(text, "    {rule} (IPv{ip_version}): packets {packets}, bytes {bytes}");
        }
        text
    }
}
