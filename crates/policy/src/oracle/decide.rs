//! What one list of policies of one endpoint, and its profiles, say of a packet.

use std::collections::BTreeMap;

use calico_model::{Action, Direction, PolicySpec, Rule, TierSpec};
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
    /// Why its profiles are not asked, if they are not.
    pub(super) closed: Option<&'a String>,
}

/// The policies of one tier that apply to an endpoint in a list and direction; at least one.
pub(super) struct TierView<'a> {
    pub(super) name: &'a str,
    pub(super) passes: bool,
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
        let tiers = self.tiers(&judged.labels, list, direction);
        if tiers.is_empty() && !list.has_profiles() {
            return None;
        }
        let mut asked = Vec::new();
        let reason = self
            .tiers_decide(&tiers, list, direction, packet, &mut asked)
            .or_else(|| list.has_profiles().then(|| self.profiles_decide(judged, direction, packet, &mut asked)))
            .unwrap_or(Reason::Undecided);
        Some(step(Stage::Policy(list, direction), Some(judged.subject.clone()), reason, asked))
    }

    /// The tiers that take part, in order: those that are stored by their order and name, the others behind them.
    pub(super) fn tiers(&self, labels: &Labels, list: List, direction: Direction) -> Vec<TierView<'_>> {
        let mut by_tier: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        for (id, policy) in &self.policies {
            let applies = list_of(&policy.value, list)
                && governs(policy, direction)
                && reach(id, &policy.value).is_some_and(|selector| selector.matches(labels));
            if applies {
                by_tier.entry(policy.value.tier()).or_default().push((id, policy));
            }
        }
        let mut tiers: Vec<_> = by_tier
            .into_iter()
            .map(|(name, mut policies)| {
                policies.sort_by(|(a, left), (b, right)| {
                    let order = |policy: &Held<PolicySpec>| policy.value.order().unwrap_or(f64::INFINITY);
                    order(left).total_cmp(&order(right)).then_with(|| tie(a).cmp(&tie(b)))
                });
                let (order, passes) = self.tier(name);
                (order, TierView { name, passes, policies })
            })
            .collect();
        tiers.sort_by(|(left, a), (right, b)| left.total_cmp(right).then_with(|| a.name.cmp(b.name)));
        tiers.into_iter().map(|(_, tier)| tier).collect()
    }

    /// Where a tier stands and whether it passes at its end.
    fn tier(&self, name: &str) -> (f64, bool) {
        let built_in = || TierSpec::built_in().into_iter().find(|tier| tier.name() == name);
        match self.tiers.get(name) {
            Some(held) => (held.value.spec.order(), held.value.spec.passes()),
            None => built_in().map_or((f64::INFINITY, false), |tier| (tier.spec.order(), tier.spec.passes())),
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
                match self.policy_answers(&owner, id, policy, direction, packet) {
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

    fn policy_answers(
        &self,
        owner: &Owner,
        id: &PolicyId,
        policy: &Held<PolicySpec>,
        direction: Direction,
        packet: &Packet,
    ) -> Answer {
        if let Some(fault) = fault(id, policy) {
            return Answer::Reason(Reason::Closed { owner: owner.clone(), fault });
        }
        self.rules_answer(owner, namespace(id), policy.value.rules(direction), direction, packet)
    }

    fn profiles_decide(
        &self,
        judged: &Judged,
        direction: Direction,
        packet: &Packet,
        asked: &mut Vec<Asked>,
    ) -> Reason {
        if let Some(fault) = judged.closed {
            return Reason::ClosedHost { fault: fault.clone() };
        }
        for name in judged.profiles {
            let Some(profile) = self.profiles.get(name) else {
                return if name == BUILT_IN_PROFILE { Reason::BuiltIn } else { Reason::MissingProfile(name.clone()) };
            };
            let owner = Owner::Profile(name.clone());
            let spec = &profile.value.spec;
            let mut rules = spec.ingress.iter().chain(&spec.egress);
            if let Some(fault) = profile.fault.clone().or_else(|| rules.find_map(|rule| unclear(rule, None))) {
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

/// True if a policy stands in a list.
fn list_of(spec: &PolicySpec, list: List) -> bool {
    let tracked = !spec.do_not_track && !spec.pre_dnat;
    match list {
        List::Workload | List::Normal => tracked,
        List::Forward => tracked && spec.apply_on_forward,
        List::Untracked => spec.do_not_track,
        List::PreDnat => spec.pre_dnat && !spec.do_not_track,
    }
}

/// True if a policy decides on a direction. Of one that cannot be followed, words that are no directions may have been
/// meant as either, and rules say which direction they are for.
pub(super) fn governs(policy: &Held<PolicySpec>, direction: Direction) -> bool {
    let spec = &policy.value;
    let is_word = |word: &String| word == "Ingress" || word == "Egress";
    let unsure = policy.fault.is_some() && (!spec.types.iter().all(is_word) || !spec.rules(direction).is_empty());
    spec.applies(direction) || unsure
}

/// Why a policy cannot be followed, if so.
fn fault(id: &PolicyId, policy: &Held<PolicySpec>) -> Option<String> {
    let spec = &policy.value;
    let namespace = namespace(id);
    let selector = || {
        let combined = selectors(id, spec).combine().map_err(|error| error.to_string());
        combined.and_then(|text| parse(&text).map_err(|error| error.to_string())).err()
    };
    let mut rules = spec.ingress.iter().chain(&spec.egress);
    policy.fault.clone().or_else(selector).or_else(|| rules.find_map(|rule| unclear(rule, namespace)))
}

fn selectors<'a>(id: &'a PolicyId, spec: &'a PolicySpec) -> PolicySelectors<'a> {
    PolicySelectors {
        namespace: namespace(id),
        selector: &spec.selector,
        namespace_selector: &spec.namespace_selector,
        service_account_selector: &spec.service_account_selector,
    }
}

/// The endpoints that a policy applies to: those that it selects, or, if its selectors cannot be read, all that those
/// parts of them select that can.
fn reach(id: &PolicyId, spec: &PolicySpec) -> Option<Selector> {
    let read = |selectors: PolicySelectors| parse(&selectors.combine().ok()?).ok();
    let all = selectors(id, spec);
    if let Some(selector) = read(all) {
        return Some(selector);
    }
    let none = PolicySelectors { selector: "", namespace_selector: "", service_account_selector: "", ..all };
    let alone = |part: PolicySelectors| read(part).is_some();
    let parts = PolicySelectors {
        selector: if alone(PolicySelectors { selector: all.selector, ..none }) { all.selector } else { "" },
        namespace_selector: if alone(PolicySelectors { namespace_selector: all.namespace_selector, ..none }) {
            all.namespace_selector
        } else {
            ""
        },
        service_account_selector: if alone(PolicySelectors {
            service_account_selector: all.service_account_selector,
            ..none
        }) {
            all.service_account_selector
        } else {
            ""
        },
        ..none
    };
    read(parts).or_else(|| read(none))
}

fn namespace(id: &PolicyId) -> Option<&str> {
    (id.kind == PolicyKind::Namespaced).then_some(id.namespace.as_str())
}

/// What decides between policies of one order.
fn tie(id: &PolicyId) -> String {
    let kind = if id.kind == PolicyKind::Global { "GlobalNetworkPolicy" } else { "NetworkPolicy" };
    format!("{}/{}/{kind}", id.name, id.namespace)
}
