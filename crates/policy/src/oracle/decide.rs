//! What one list of policies of one endpoint, and its profiles, say of a packet.

use std::collections::BTreeMap;

use calico_model::{Action, Direction, PolicySpec, Rule};
use calico_selector::{Selector, parse, scope::PolicySelectors};

use super::{
    Held, Labels, List, State,
    matching::unclear,
    path::step,
    why::{Asked, Outcome, Owner, Place, Reason, Stage, Step, Subject},
};
use crate::{
    BUILT_IN_PROFILE,
    instruction::{PolicyId, PolicyKind},
    packet::Packet,
};

/// An endpoint of this host, as far as policy goes.
pub(super) struct Judged<'a> {
    pub(super) subject: Subject,
    pub(super) labels: Labels,
    pub(super) profiles: &'a [String],
    /// Why nothing opens anything for it, if so. What denies what is forwarded still does.
    pub(super) closed: Option<Reason>,
}

/// The policies of one tier that apply to an endpoint in a list and direction; at least one.
pub(super) struct TierView<'a> {
    pub(super) name: &'a str,
    pub(super) passes: bool,
    /// Nobody knows where it stands, so its policies deny.
    pub(super) is_unreadable: bool,
    pub(super) policies: Vec<(&'a PolicyId, &'a Held<PolicySpec>)>,
}

/// What a policy or profile says.
enum Answer {
    Reason(Reason),
    Pass(usize),
    NoRule,
}

impl State {
    /// What the list decides. Without a policy in it, a list that has no profiles decides nothing.
    pub(super) fn list_decides(
        &self,
        judged: &Judged,
        list: List,
        direction: Direction,
        packet: &Packet,
    ) -> Option<Step> {
        let as_step = |reason, asked| step(Stage::Policy(list, direction), Some(judged.subject.clone()), reason, asked);
        match &judged.closed {
            Some(reason) if list.has_profiles() => return Some(as_step(reason.clone(), Vec::new())),
            Some(_) if list == List::Untracked => return None,
            _ => {}
        }
        let tiers = self.tiers(&judged.labels, list, direction);
        if tiers.is_empty() && !list.has_profiles() {
            return None;
        }
        let mut asked = Vec::new();
        let reason = self
            .tiers_decide(&tiers, list, direction, packet, &mut asked)
            .or_else(|| list.has_profiles().then(|| self.profiles_decide(judged, direction, packet, &mut asked)))
            .unwrap_or(Reason::Undecided);
        Some(as_step(reason, asked))
    }

    /// The tiers that take part, in order: those of which that cannot be read, those that are stored, the others.
    pub(super) fn tiers(&self, labels: &Labels, list: List, direction: Direction) -> Vec<TierView<'_>> {
        let mut by_tier: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        for (id, policy) in &self.policies {
            let applies = stands_in(policy, list)
                && governs(policy, direction)
                && reach(id, policy).is_some_and(|selector| selector.matches(labels));
            if applies {
                let tier = if policy.partial { UNREADABLE } else { policy.value.tier() };
                by_tier.entry(tier).or_default().push((id, policy));
            }
        }
        let mut tiers: Vec<_> = by_tier
            .into_iter()
            .map(|(name, mut policies)| {
                policies.sort_by(|(a, left), (b, right)| {
                    order(left).total_cmp(&order(right)).then_with(|| tie(a).cmp(&tie(b)))
                });
                let (group, order, passes) = self.tier(name);
                (group, order, TierView { name, passes, is_unreadable: group == 0, policies })
            })
            .collect();
        tiers.sort_by(|(a, left, this), (b, right, that)| {
            a.cmp(b).then_with(|| left.total_cmp(right)).then_with(|| this.name.cmp(that.name))
        });
        tiers.into_iter().map(|(_, _, tier)| tier).collect()
    }

    /// Where a tier stands (its group, its order in it), and whether it passes at its end.
    fn tier(&self, name: &str) -> (u8, f64, bool) {
        match self.tiers.get(name) {
            _ if name == UNREADABLE => (0, f64::NEG_INFINITY, false),
            Some(held) if held.partial && held.value.spec.order.is_none() => (0, 0.0, false),
            Some(held) => (1, held.value.spec.order() + 0.0, held.value.spec.passes() && held.fault.is_none()),
            None => (2, 0.0, false),
        }
    }

    fn tiers_decide(
        &self,
        tiers: &[TierView],
        list: List,
        direction: Direction,
        packet: &Packet,
        asked: &mut Vec<Asked>,
    ) -> Option<Reason> {
        for tier in tiers {
            let mut passed = false;
            for (id, policy) in &tier.policies {
                let owner = Owner::Policy { tier: tier.name.to_owned(), id: (*id).clone() };
                let answer = match self.fault(id, policy) {
                    Some(fault) => Answer::Reason(Reason::Closed { owner: owner.clone(), fault }),
                    None if tier.is_unreadable => {
                        let fault = format!("its tier {} cannot be read", tier.name);
                        Answer::Reason(Reason::Closed { owner: owner.clone(), fault })
                    }
                    None => self.rules_answer(&owner, namespace(id), policy.value.rules(direction), direction, packet),
                };
                match answer {
                    Answer::Reason(reason) => return Some(reason),
                    Answer::Pass(index) => {
                        asked.push(Asked { owner, outcome: Outcome::Passed(index) });
                        passed = true;
                        break;
                    }
                    Answer::NoRule => asked.push(Asked { owner, outcome: Outcome::NoRule }),
                }
            }
            if passed {
                continue;
            }
            if list.denies_at_end() && !tier.passes {
                return Some(Reason::EndOfTier { tier: tier.name.to_owned() });
            }
            if list.denies_at_end()
                && let Some(last) = asked.last_mut()
            {
                last.outcome = Outcome::TierPassed;
            }
        }
        None
    }

    fn profiles_decide(
        &self,
        judged: &Judged,
        direction: Direction,
        packet: &Packet,
        asked: &mut Vec<Asked>,
    ) -> Reason {
        for name in judged.profiles {
            let Some(profile) = self.profiles.get(name) else {
                return if name == BUILT_IN_PROFILE { Reason::BuiltIn } else { Reason::MissingProfile(name.clone()) };
            };
            let owner = Owner::Profile(name.clone());
            let spec = &profile.value.spec;
            let rules: Vec<&Rule> = spec.ingress.iter().chain(&spec.egress).collect();
            if let Some(fault) = profile.fault.clone().or_else(|| self.rules_fault(&rules, None)) {
                return Reason::Closed { owner, fault };
            }
            let rules = if direction == Direction::Ingress { &spec.ingress } else { &spec.egress };
            match self.rules_answer(&owner, None, rules, direction, packet) {
                Answer::Reason(reason) => return reason,
                Answer::Pass(index) => asked.push(Asked { owner, outcome: Outcome::Passed(index) }),
                Answer::NoRule => asked.push(Asked { owner, outcome: Outcome::NoRule }),
            }
        }
        Reason::NoProfile
    }

    fn rules_answer(
        &self,
        owner: &Owner,
        namespace: Option<&str>,
        rules: &[Rule],
        direction: Direction,
        packet: &Packet,
    ) -> Answer {
        for (index, rule) in rules.iter().enumerate().filter(|(_, rule)| self.matches(rule, namespace, packet)) {
            let place = || Place { owner: owner.clone(), direction, index };
            match rule.parsed_action() {
                Some(action @ (Action::Allow | Action::Deny)) => {
                    return Answer::Reason(Reason::Rule { place: place(), action });
                }
                Some(Action::Pass) => return Answer::Pass(index),
                Some(Action::Log) | None => {}
            }
        }
        Answer::NoRule
    }
}

impl State {
    /// Why a policy cannot be followed, if so.
    fn fault(&self, id: &PolicyId, policy: &Held<PolicySpec>) -> Option<String> {
        let spec = &policy.value;
        let rules: Vec<&Rule> = spec.ingress.iter().chain(&spec.egress).collect();
        let no_direction = spec.types.iter().find(|word| !is_direction(word));
        let checks = [
            (spec.extra.values().any(|value| !value.is_null()), "it has a member that is not followed"),
            (spec.do_not_track && spec.pre_dnat, "it is either untracked or before destination NAT"),
            ((spec.do_not_track || spec.pre_dnat) && !spec.apply_on_forward, "it needs applyOnForward"),
            (
                spec.pre_dnat && (!spec.egress.is_empty() || spec.types.iter().any(|word| word == "Egress")),
                "there is no egress before destination NAT",
            ),
        ];
        let broken = || checks.into_iter().find(|(broken, _)| *broken).map(|(_, reason)| reason.to_owned());
        policy
            .fault
            .clone()
            .or_else(|| no_direction.map(|word| format!("{word:?} is no direction")))
            .or_else(broken)
            .or_else(|| selector_of(id, spec).err())
            .or_else(|| self.rules_fault(&rules, namespace(id)))
    }

    /// Why a list of rules cannot be followed, if so.
    fn rules_fault(&self, rules: &[&Rule], namespace: Option<&str>) -> Option<String> {
        let unclear = rules.iter().find_map(|rule| unclear(rule, namespace));
        unclear.or_else(|| rules.iter().find_map(|rule| self.doubtful(rule, namespace)))
    }
}

/// The tier of policies of which nobody knows where they stand.
const UNREADABLE: &str = "(unreadable)";

/// True if a policy stands in a list. One of which not all could be read might be any.
fn stands_in(policy: &Held<PolicySpec>, list: List) -> bool {
    let spec = &policy.value;
    let tracked = policy.partial || (!spec.do_not_track && !spec.pre_dnat);
    match list {
        List::Workload | List::Normal => tracked,
        List::Forward => tracked && (policy.partial || spec.apply_on_forward),
        List::Untracked => !tracked && spec.do_not_track,
        List::PreDnat => !tracked && !spec.do_not_track,
    }
}

/// True if a policy decides on a direction. Words that are no directions may have been meant as either.
fn governs(policy: &Held<PolicySpec>, direction: Direction) -> bool {
    let spec = &policy.value;
    policy.partial || spec.applies(direction) || !spec.types.iter().all(|word| is_direction(word))
}

fn is_direction(word: &str) -> bool {
    word == "Ingress" || word == "Egress"
}

fn order(policy: &Held<PolicySpec>) -> f64 {
    if policy.partial { f64::NEG_INFINITY } else { policy.value.order().unwrap_or(f64::INFINITY) + 0.0 }
}

/// The endpoints that a policy selects; its namespace bounds it.
fn selector_of(id: &PolicyId, spec: &PolicySpec) -> Result<Selector, String> {
    let namespace = namespace(id);
    let combined = PolicySelectors {
        namespace,
        selector: &spec.selector,
        namespace_selector: if namespace.is_none() { &spec.namespace_selector } else { "" },
        service_account_selector: &spec.service_account_selector,
    }
    .combine();
    parse(&combined.map_err(|error| error.to_string())?).map_err(|error| error.to_string())
}

/// The endpoints that a policy applies to: those that it selects, or, if that cannot be read, all that its namespace and
/// each of its selectors leave that can be read by itself.
fn reach(id: &PolicyId, policy: &Held<PolicySpec>) -> Option<Selector> {
    let spec = &policy.value;
    if let Ok(selector) = selector_of(id, spec) {
        return Some(selector);
    }
    let none = PolicySelectors::default();
    let namespace_selector = if namespace(id).is_none() { spec.namespace_selector.as_str() } else { "" };
    let alone = [
        PolicySelectors { namespace: namespace(id), ..none },
        PolicySelectors { selector: &spec.selector, ..none },
        PolicySelectors { namespace_selector, ..none },
        PolicySelectors { service_account_selector: &spec.service_account_selector, ..none },
    ];
    let readable = alone.into_iter().filter_map(|part| part.combine().ok()).filter(|text| parse(text).is_ok());
    let parts: Vec<String> = readable.filter(|text| !text.trim().is_empty()).map(|text| format!("({text})")).collect();
    parse(&parts.join(" && ")).ok()
}

fn namespace(id: &PolicyId) -> Option<&str> {
    (id.kind == PolicyKind::Namespaced).then_some(id.namespace.as_str())
}

/// What decides between policies of one order.
fn tie(id: &PolicyId) -> String {
    let kind = if id.kind == PolicyKind::Global { "GlobalNetworkPolicy" } else { "NetworkPolicy" };
    format!("{}/{}/{kind}", id.name, id.namespace)
}
