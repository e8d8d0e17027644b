//! Chains that endpoints share, counted: one goes when nobody uses it any more.
//!
//! An endpoint uses one signature per direction (a host endpoint one per place); a signature is rendered to one endpoint
//! chain per family and to tier chains; those use the rule lists of policies and profiles. Different signatures may
//! come to the same chains, so each layer is counted by itself.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use calico_policy::instruction::{DenyAction, ProfileId, RuleAction, RuleSet, SetId, TierPolicies};

use super::{State, endpoints::tiers_of};
use crate::{
    family::Family,
    name::{self, Direction, ListId},
    render::{EndpointChain, ListChain, Literals, Role, TierChain},
    ruleset::Chain,
    table::{ChainSource, ChainWant, MemberOrder},
};

/// IANA's port, and the one that hosts use between themselves if nobody says otherwise.
const VXLAN: u16 = 4789;

/// All that the chains of an endpoint in one direction depend on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Signature {
    role: Role,
    tiers: Arc<[TierPolicies]>,
    profiles: Arc<[ProfileId]>,
    deny: DenyAction,
    accept_invalid: bool,
    no_vxlan: Option<u16>,
    no_ipip: bool,
}

#[derive(Debug)]
struct Shared {
    uses: usize,
    /// Of the endpoint chain, by family.
    names: [Arc<str>; 2],
    /// The tier chains.
    tiers: Vec<Arc<TierChain>>,
    /// It leads to the quiet chains of policies and profiles.
    quiet: bool,
}

/// A policy's or a profile's rules, and who uses them.
#[derive(Debug, Default)]
struct RuleList {
    /// `None`: named by endpoints, but does not exist.
    rules: Option<Arc<RuleSet>>,
    /// The tier of a policy, as the last tier list says that named it.
    tier: String,
    /// Chains that lead to it, by direction and whether they must be quiet.
    uses: HashMap<(Direction, bool), usize>,
    /// Sets named by content that its rules use.
    literals: BTreeSet<(Family, String)>,
}

/// All shared chains.
#[derive(Debug, Default)]
pub(super) struct Chains {
    signatures: HashMap<Arc<Signature>, Shared>,
    endpoints: HashMap<(Family, String), usize>,
    tiers: HashMap<String, usize>,
    lists: HashMap<ListId, RuleList>,
}

impl Chains {
    /// The endpoint chains of a signature in use, by family.
    pub(super) fn names(&self, signature: &Arc<Signature>) -> [Arc<str>; 2] {
        self.signatures.get(signature).map(|shared| shared.names.clone()).expect("acquired")
    }

    /// The lists that chains lead to.
    pub(super) fn used_lists(&self) -> impl Iterator<Item = ListId> {
        self.lists.iter().filter(|(_, list)| !list.uses.is_empty()).map(|(id, _)| id.clone())
    }
}

impl State {
    /// One more use of the chains for these tiers and profiles.
    pub(super) fn acquire(
        &mut self,
        role: Role,
        tiers: &Arc<[TierPolicies]>,
        profiles: Arc<[ProfileId]>,
    ) -> Arc<Signature> {
        let settings = &self.facts.settings;
        let signature = Signature {
            role,
            tiers: tiers.clone(),
            profiles,
            deny: if role.is_quiet() { DenyAction::Drop } else { settings.deny },
            accept_invalid: settings.accept_invalid,
            no_vxlan: (!settings.vxlan_from_workloads).then(|| settings.vxlan_port.unwrap_or(VXLAN)),
            no_ipip: !settings.ipip_from_workloads,
        };
        if let Some((known, _)) = self.chains.signatures.get_key_value(&signature) {
            let known = known.clone();
            self.chains.signatures.entry(known.clone()).and_modify(|shared| shared.uses += 1);
            return known;
        }
        let signature = Arc::new(signature);
        let shared = self.make(&signature);
        self.chains.signatures.insert(signature.clone(), shared);
        signature
    }

    /// One use less.
    pub(super) fn release(&mut self, signature: &Arc<Signature>) {
        let Some(shared) = self.chains.signatures.get_mut(signature) else { return };
        shared.uses -= 1;
        if shared.uses > 0 {
            return;
        }
        let Some(Shared { names, tiers, quiet, .. }) = self.chains.signatures.remove(signature) else { return };
        for (family, name) in Family::ALL.into_iter().zip(names) {
            self.release_endpoint_chain(family, String::from(&*name));
        }
        for tier in tiers {
            self.release_tier(&tier);
        }
        for profile in signature.profiles.iter() {
            self.release_list(&ListId::Profile(profile.clone()), signature.role.direction(), quiet);
        }
    }

    fn make(&mut self, signature: &Signature) -> Shared {
        let role = signature.role;
        // Also while nobody answers: a change to Reject rewrites chains in place, and those that must not answer where
        // they are called from would be refused.
        let quiet = role.is_quiet();
        let mut tiers = Vec::new();
        for (tier, policies) in tiers_of(&signature.tiers, role.direction()) {
            let denies = role.denies_at_end_of_tier() && !tier.pass_at_end;
            let chain = TierChain {
                tier: tier.tier.clone(),
                direction: role.direction(),
                quiet,
                end: denies.then_some(signature.deny),
                policies: policies.to_vec(),
            };
            tiers.push(Arc::new(chain));
        }
        let names: Vec<String> = tiers.iter().map(|tier| self.use_tier(tier)).collect();
        let chain = Arc::new(EndpointChain {
            role,
            tiers: tiers.iter().map(|tier| tier.tier.clone()).zip(names).collect(),
            profiles: signature.profiles.clone(),
            quiet,
            deny: signature.deny,
            accept_invalid: signature.accept_invalid,
            no_vxlan: signature.no_vxlan,
            no_ipip: signature.no_ipip,
        });
        let names = Family::ALL.map(|family| Arc::from(self.use_endpoint_chain(family, &chain)));
        for profile in signature.profiles.iter() {
            self.use_list(&ListId::Profile(profile.clone()), role.direction(), quiet);
        }
        Shared { uses: 1, names, tiers, quiet }
    }

    fn use_endpoint_chain(&mut self, family: Family, chain: &Arc<EndpointChain>) -> String {
        let rendered = chain.render(family, &self.options);
        let uses = self.chains.endpoints.entry((family, rendered.name.clone())).or_default();
        *uses += 1;
        if *uses == 1 {
            let want = ChainWant::new(&rendered, family, ChainSource::Endpoint(chain.clone()));
            self.tables[family.index()].chains.want(rendered.name.clone(), want);
        }
        rendered.name
    }

    fn release_endpoint_chain(&mut self, family: Family, name: String) {
        let key = (family, name);
        if let Some(uses) = self.chains.endpoints.get_mut(&key) {
            *uses -= 1;
            if *uses == 0 {
                self.tables[family.index()].chains.unwant(&key.1);
                self.chains.endpoints.remove(&key);
            }
        }
    }

    fn use_tier(&mut self, tier: &Arc<TierChain>) -> String {
        let name = tier.name();
        let uses = self.chains.tiers.entry(name.clone()).or_default();
        *uses += 1;
        if *uses > 1 {
            return name;
        }
        for policy in &tier.policies {
            let list = ListId::Policy(policy.clone());
            self.use_list(&list, tier.direction, tier.quiet);
            if let Some(entry) = self.chains.lists.get_mut(&list).filter(|entry| entry.tier != tier.tier) {
                entry.tier = tier.tier.clone();
                self.dirty.lists.insert(list);
            }
        }
        for family in Family::ALL {
            let rendered = tier.render(family, &self.options);
            let want = ChainWant::new(&rendered, family, ChainSource::Tier(tier.clone()));
            self.tables[family.index()].chains.want(name.clone(), want);
        }
        name
    }

    fn release_tier(&mut self, tier: &TierChain) {
        let name = tier.name();
        let Some(uses) = self.chains.tiers.get_mut(&name) else { return };
        *uses -= 1;
        if *uses > 0 {
            return;
        }
        self.chains.tiers.remove(&name);
        for table in &mut self.tables {
            table.chains.unwant(&name);
        }
        for policy in &tier.policies {
            self.release_list(&ListId::Policy(policy.clone()), tier.direction, tier.quiet);
        }
    }

    fn use_list(&mut self, list: &ListId, direction: Direction, quiet: bool) {
        let entry = self.chains.lists.entry(list.clone()).or_default();
        let uses = entry.uses.entry((direction, quiet)).or_default();
        *uses += 1;
        if *uses == 1 {
            self.dirty.lists.insert(list.clone());
        }
    }

    fn release_list(&mut self, list: &ListId, direction: Direction, quiet: bool) {
        let Some(entry) = self.chains.lists.get_mut(list) else { return };
        let Some(uses) = entry.uses.get_mut(&(direction, quiet)) else { return };
        *uses -= 1;
        if *uses == 0 {
            entry.uses.remove(&(direction, quiet));
            self.dirty.lists.insert(list.clone());
        }
    }

    /// The rules of a policy or profile are others, or gone.
    pub(super) fn update_rules(&mut self, list: ListId, rules: Option<Arc<RuleSet>>) {
        if rules.is_none() && !self.chains.lists.contains_key(&list) {
            return;
        }
        let entry = self.chains.lists.entry(list.clone()).or_default();
        if entry.rules == rules {
            return;
        }
        let before = std::mem::replace(&mut entry.rules, rules.clone());
        for id in before.iter().flat_map(|rules| sets_of(rules)) {
            if let Some(users) = self.set_users.get_mut(id) {
                users.remove(&list);
                if users.is_empty() {
                    self.set_users.remove(id);
                }
            }
        }
        for id in rules.iter().flat_map(|rules| sets_of(rules)) {
            self.set_users.entry(id.clone()).or_default().insert(list.clone());
        }
        self.dirty.lists.insert(list);
    }

    /// In which order the members of a set may change: see [`MemberOrder`]. That a state in between decides as the old or
    /// the new one holds for rules that decide at once, ask about no other set, and ask about the far end only: of the
    /// two chains that a packet between workloads meets, one at most asks about the address that moves.
    pub(super) fn order_of(&self, id: &SetId) -> MemberOrder {
        let users = self.set_users.get(id).into_iter().flatten();
        let lists = users.filter_map(|list| self.chains.lists.get(list)?.rules.as_ref());
        let rules = lists.flat_map(|rules| {
            let ingress = rules.ingress.iter().map(|rule| (rule, &rule.source, &rule.destination));
            ingress.chain(rules.egress.iter().map(|rule| (rule, &rule.destination, &rule.source)))
        });
        let mut order = None;
        for (rule, far, near) in rules {
            let [far_asks, near_asks] = [far, near].map(|end| {
                let positive = end.sets.iter().chain(&end.port_sets).collect::<Vec<_>>();
                let negative = end.not_sets.iter().chain(&end.not_port_sets).collect::<Vec<_>>();
                (positive, negative)
            });
            let all = [&far_asks.0, &far_asks.1, &near_asks.0, &near_asks.1];
            if !all.into_iter().flatten().any(|set| *set == id) {
                continue;
            }
            let alone = rule.action != RuleAction::Pass && near_asks.0.is_empty() && near_asks.1.is_empty();
            let this = match (far_asks.0.len(), far_asks.1.len()) {
                (1, 0) if alone => MemberOrder::GrowFirst,
                (0, 1) if alone => MemberOrder::ShrinkFirst,
                _ => return MemberOrder::AtOnce,
            };
            if *order.get_or_insert(this) != this {
                return MemberOrder::AtOnce;
            }
        }
        order.unwrap_or(MemberOrder::AtOnce)
    }

    /// Chains of a list are there while something leads to them.
    pub(super) fn render_list(&mut self, id: &ListId) {
        let Some(list) = self.chains.lists.get(id) else { return };
        let variants: Vec<(Direction, bool, bool)> = Direction::ALL
            .into_iter()
            .flat_map(|direction| [false, true].map(|quiet| (direction, quiet)))
            .map(|(direction, quiet)| (direction, quiet, list.uses.contains_key(&(direction, quiet))))
            .collect();
        let mut literals = BTreeSet::new();
        for family in Family::ALL {
            let mut found = Literals::new();
            for &(direction, quiet, wanted) in &variants {
                if wanted {
                    let chain = self.list_chain(id, direction, quiet, family, &mut found);
                    let want = ChainWant::new(&chain, family, ChainSource::List(id.clone(), direction, quiet));
                    self.tables[family.index()].chains.want(chain.name, want);
                } else {
                    self.tables[family.index()].chains.unwant(&name::list_chain(id, direction, quiet));
                }
            }
            self.use_literals(family, found, &mut literals);
        }
        let Some(list) = self.chains.lists.get_mut(id) else { return };
        let before = std::mem::replace(&mut list.literals, literals);
        if list.rules.is_none() && list.uses.is_empty() {
            self.chains.lists.remove(id);
        }
        self.release_literals(before);
    }

    pub(super) fn list_chain(
        &self,
        id: &ListId,
        direction: Direction,
        quiet: bool,
        family: Family,
        literals: &mut Literals,
    ) -> Chain {
        let list = self.chains.lists.get(id);
        let rules = list.and_then(|list| list.rules.as_ref()).map(|rules| match direction {
            Direction::Ingress => rules.ingress.as_slice(),
            Direction::Egress => rules.egress.as_slice(),
        });
        let tier = list.map_or("", |list| list.tier.as_str());
        let chain = ListChain { list: id, tier, rules, direction, quiet };
        chain.render(family, &self.facts.settings, &self.options, self, literals)
    }
}

/// The sets that rules name.
fn sets_of(rules: &RuleSet) -> impl Iterator<Item = &SetId> {
    let ends = rules.ingress.iter().chain(&rules.egress).flat_map(|rule| [&rule.source, &rule.destination]);
    ends.flat_map(|end| [&end.sets, &end.not_sets, &end.port_sets, &end.not_port_sets]).flatten()
}
