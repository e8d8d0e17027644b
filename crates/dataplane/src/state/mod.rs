//! What the instructions so far add up to, and the tables that follow from it.
//!
//! Instructions only change the state and mark what they touch; [`State::flush`] then renders what was touched and
//! tells the tables what they are to hold. No kernel access, no clock.

mod sets;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use calico_policy::instruction::{Endpoint, EndpointId, Instruction, ProfileId, RuleSet, SetId, Settings};

use crate::{
    Options,
    family::{Family, Range},
    ifname::IfName,
    members::Members,
    name::{self, Direction},
    op::{Plan, Target},
    render::{self, BaseChain, Literals, MASQUERADE_SET, POOLS_SET, SetNames},
    ruleset::{Chain, Key, SetSpec},
    table::{ChainSource, ChainWant, Content, SetSource, SetWant, Table, TargetWant},
};

#[derive(Debug, Default)]
struct Profile {
    /// `None`: named by endpoints, but does not exist.
    rules: Option<Arc<RuleSet>>,
    /// How many lists of profiles in use name it.
    uses: usize,
    /// Sets named by content that its rules use.
    literals: BTreeSet<(Family, String)>,
}

/// Endpoints that claim one interface. The lowest identifier has it.
type Claims = BTreeMap<Arc<EndpointId>, Arc<Endpoint>>;

/// All that is wanted.
#[derive(Debug)]
pub(crate) struct State {
    options: Arc<Options>,
    sets: HashMap<SetId, Members>,
    profiles: HashMap<ProfileId, Profile>,
    pools: Members,
    masquerade: Members,
    settings: Settings,
    endpoints: HashMap<Arc<EndpointId>, IfName>,
    claims: HashMap<IfName, Claims>,
    /// Lists of profiles, and by how many interfaces each is used.
    lists: HashMap<Arc<[ProfileId]>, usize>,
    /// Interfaces that were there and are gone: their endpoints have no rules until they are back.
    gone: HashSet<IfName>,
    /// The list that an interface's elements lead to.
    attached: HashMap<IfName, Arc<[ProfileId]>>,
    literals: HashMap<(Family, String), usize>,
    tables: [Table; 2],
    dirty: Dirty,
}

#[derive(Debug, Default)]
struct Dirty {
    base: bool,
    profiles: HashSet<ProfileId>,
    interfaces: HashSet<IfName>,
}

/// What endpoints have an interface now, for those who keep routes: `None` if no endpoint does.
pub(crate) type Attachment = (IfName, Option<(Arc<EndpointId>, Arc<Endpoint>)>);

impl State {
    /// Nothing wanted but the base.
    pub(crate) fn new(options: Arc<Options>) -> Self {
        let mut state = Self {
            options,
            sets: HashMap::new(),
            profiles: HashMap::new(),
            pools: Members::default(),
            masquerade: Members::default(),
            settings: Settings::default(),
            endpoints: HashMap::new(),
            claims: HashMap::new(),
            gone: HashSet::new(),
            lists: HashMap::new(),
            attached: HashMap::new(),
            literals: HashMap::new(),
            tables: Family::ALL.map(Table::new),
            dirty: Dirty { base: true, ..Dirty::default() },
        };
        for family in Family::ALL {
            let spec = SetSpec::set(Key::Address(family), true);
            for (name, source) in [(POOLS_SET, SetSource::Pools), (MASQUERADE_SET, SetSource::Masquerade)] {
                state.tables[family.index()].sets.want(name.to_owned(), SetWant { spec, source });
            }
        }
        state
    }

    /// Takes an instruction into account. An endpoint that cannot be programmed at all is refused with the reason;
    /// it stays, or becomes, closed.
    pub(crate) fn absorb(&mut self, instruction: Instruction) -> Result<(), Refused> {
        match instruction {
            Instruction::SetReplace { id, members } => self.replace_set(id, nets(&members)),
            Instruction::SetDelta { id, added, removed } => self.change_set(&id, nets(&added), nets(&removed)),
            Instruction::SetRemove { id } => self.remove_set(&id),
            Instruction::ProfileUpdate { id, rules } => {
                self.profiles.entry(id.clone()).or_default().rules = Some(rules);
                self.dirty.profiles.insert(id);
            }
            Instruction::ProfileRemove { id } => {
                if let Some(profile) = self.profiles.get_mut(&id) {
                    profile.rules = None;
                    self.dirty.profiles.insert(id);
                }
            }
            Instruction::EndpointUpdate { id, endpoint } => return self.update_endpoint(id, endpoint),
            Instruction::EndpointRemove { id } => self.remove_endpoint(&id),
            Instruction::Pools { pools } => self.replace_pools(&pools),
            Instruction::Settings(settings) => {
                self.dirty.base |= settings != self.settings;
                self.settings = settings;
            }
            Instruction::PolicyUpdate { .. }
            | Instruction::PolicyRemove { .. }
            | Instruction::HostEndpointUpdate { .. }
            | Instruction::HostEndpointRemove { .. }
            | Instruction::Hosts { .. } => {}
        }
        Ok(())
    }

    /// Renders what was touched and tells the tables. Returns the interfaces whose endpoint may have changed.
    pub(crate) fn flush(&mut self) -> Vec<Attachment> {
        let Dirty { base, profiles, interfaces } = std::mem::take(&mut self.dirty);
        let mut profiles = profiles;
        let mut attachments = Vec::with_capacity(interfaces.len());
        for interface in interfaces {
            let winner = self.claims.get(&interface).and_then(|claims| claims.first_key_value());
            let winner = winner.map(|(id, endpoint)| (id.clone(), endpoint.clone()));
            let governed = winner.as_ref().filter(|_| !self.gone.contains(&interface));
            self.attach(interface, governed, &mut profiles);
            attachments.push((interface, winner));
        }
        for profile in profiles {
            self.render_profile(&profile);
        }
        if base {
            self.render_base();
        }
        attachments
    }

    /// The steps from what the tables hold to what they are to hold.
    pub(crate) fn plan(&self) -> Plan {
        let mut plan = Plan::default();
        for table in &self.tables {
            table.plan(self, &mut plan);
        }
        plan
    }

    /// The steps that make both tables anew.
    pub(crate) fn rebuild(&self) -> Plan {
        let mut plan = Plan::default();
        for table in &self.tables {
            table.rebuild(self, &mut plan);
        }
        plan
    }

    /// The plan was carried out.
    pub(crate) fn settle(&mut self) {
        for table in &mut self.tables {
            table.settle();
        }
    }

    /// One family's table.
    pub(crate) fn table(&mut self, family: Family) -> &mut Table {
        &mut self.tables[family.index()]
    }

    /// Takes what was read for what is there. Returns whether somebody changed what was known to be there.
    pub(crate) fn read_back(&mut self, family: Family, read: Option<crate::table::ReadTable>) -> bool {
        // The table asks for content while it is being changed: lend it out.
        let mut table = std::mem::replace(&mut self.tables[family.index()], Table::new(family));
        let changed = table.read_back(read, self);
        self.tables[family.index()] = table;
        changed
    }

    /// An interface came or went. The rules of an endpoint may come before its interface, so that it finds them, but
    /// go with it: an endpoint whose interface went is dead until somebody says otherwise.
    pub(crate) fn link(&mut self, interface: IfName, there: bool) {
        let changed = match there {
            true => self.gone.remove(&interface),
            false => self.claims.contains_key(&interface) && self.gone.insert(interface),
        };
        if changed {
            self.dirty.interfaces.insert(interface);
        }
    }

    /// The host-wide settings.
    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Whether an endpoint has its interface, or another one has it.
    pub(crate) fn has_interface(&self, id: &EndpointId) -> Option<(IfName, bool)> {
        let interface = self.endpoints.get(id)?;
        let winner = self.claims.get(interface)?.first_key_value()?.0;
        Some((*interface, winner.as_ref() == id))
    }

    /// Endpoints whose interface another one has: identifier, interface, who has it.
    pub(crate) fn shadowed(&self) -> impl Iterator<Item = (&EndpointId, IfName, &EndpointId)> {
        let contested = self.claims.iter().filter(|(_, claims)| claims.len() > 1);
        contested.flat_map(|(interface, claims)| {
            let winner = claims.keys().next().expect("more than one");
            claims.keys().skip(1).map(move |id| (id.as_ref(), *interface, winner.as_ref()))
        })
    }

    fn update_endpoint(&mut self, id: EndpointId, endpoint: Endpoint) -> Result<(), Refused> {
        let options = self.options.clone();
        let prefix = &options.interface_prefix;
        let interface = IfName::new(&endpoint.interface).filter(|name| name.as_str().starts_with(prefix.as_str()));
        let id = Arc::new(id);
        if self.endpoints.get(&id).copied() != interface {
            self.remove_endpoint(&id);
        }
        let Some(interface) = interface else {
            let name = endpoint.interface;
            return Err(Refused {
                id,
                reason: format!("interface {name:?} is no interface name that starts with {prefix:?}"),
            });
        };
        self.endpoints.insert(id.clone(), interface);
        self.claims.entry(interface).or_default().insert(id, Arc::new(endpoint));
        self.dirty.interfaces.insert(interface);
        Ok(())
    }

    fn remove_endpoint(&mut self, id: &EndpointId) {
        let Some(interface) = self.endpoints.remove(id) else { return };
        if let Some(claims) = self.claims.get_mut(&interface) {
            claims.remove(id);
            if claims.is_empty() {
                self.claims.remove(&interface);
                self.gone.remove(&interface);
            }
        }
        self.dirty.interfaces.insert(interface);
    }

    /// Leads an interface's traffic to the chains of its endpoint's list of profiles, or nowhere.
    fn attach(
        &mut self,
        interface: IfName,
        winner: Option<&(Arc<EndpointId>, Arc<Endpoint>)>,
        profiles: &mut HashSet<ProfileId>,
    ) {
        let list: Option<Arc<[ProfileId]>> = winner.map(|(_, endpoint)| {
            let known = self.lists.get_key_value(endpoint.profiles.as_slice());
            known.map_or_else(|| endpoint.profiles.clone().into(), |(list, _)| list.clone())
        });
        // The new use first: a list that only moves keeps its chains.
        if let Some(list) = &list {
            self.use_list(list, profiles);
        }
        let before = match &list {
            Some(list) => self.attached.insert(interface, list.clone()),
            None => self.attached.remove(&interface),
        };
        if let Some(before) = before {
            self.release_list(&before, profiles);
        }
        for table in &mut self.tables {
            for direction in Direction::ALL {
                let targets = table.targets(direction);
                match (&list, winner) {
                    (Some(list), Some((id, _))) => {
                        let chain = name::endpoint_chain(list, direction);
                        let target = Target { chain, goto: false, comment: name::comment(&id.to_string()) };
                        targets.want(interface, TargetWant::new(target));
                    }
                    _ => targets.unwant(&interface),
                }
            }
        }
    }

    fn use_list(&mut self, list: &Arc<[ProfileId]>, profiles: &mut HashSet<ProfileId>) {
        let uses = self.lists.entry(list.clone()).or_default();
        *uses += 1;
        if *uses > 1 {
            return;
        }
        for profile in list.iter() {
            let entry = self.profiles.entry(profile.clone()).or_default();
            entry.uses += 1;
            if entry.uses == 1 {
                profiles.insert(profile.clone());
            }
        }
        for family in Family::ALL {
            for direction in Direction::ALL {
                let chain = render::endpoint_chain(list, direction, &self.options);
                let want = ChainWant::new(&chain, family, ChainSource::Endpoints(list.clone(), direction));
                self.tables[family.index()].chains.want(chain.name, want);
            }
        }
    }

    fn release_list(&mut self, list: &Arc<[ProfileId]>, profiles: &mut HashSet<ProfileId>) {
        let Some(uses) = self.lists.get_mut(list) else { return };
        *uses -= 1;
        if *uses > 0 {
            return;
        }
        self.lists.remove(list);
        for profile in list.iter() {
            if let Some(entry) = self.profiles.get_mut(profile) {
                entry.uses -= 1;
                if entry.uses == 0 {
                    profiles.insert(profile.clone());
                }
            }
        }
        for table in &mut self.tables {
            for direction in Direction::ALL {
                table.chains.unwant(&name::endpoint_chain(list, direction));
            }
        }
    }

    /// Chains of a profile are there while it exists or is named, so that endpoint chains can always name them.
    fn render_profile(&mut self, id: &ProfileId) {
        let Some(profile) = self.profiles.get(id) else { return };
        let wanted = profile.rules.is_some() || profile.uses > 0;
        let mut literals = BTreeSet::new();
        for family in Family::ALL {
            let mut found = Literals::new();
            for direction in Direction::ALL {
                if wanted {
                    let chain = self.profile_chain(id, direction, family, &mut found);
                    let want = ChainWant::new(&chain, family, ChainSource::Profile(id.clone(), direction));
                    self.tables[family.index()].chains.want(chain.name, want);
                } else {
                    self.tables[family.index()].chains.unwant(&name::profile_chain(id, direction));
                }
            }
            for (name, (spec, ranges)) in found {
                self.use_literal(family, &name, spec, ranges);
                literals.insert((family, name));
            }
        }
        let before = match self.profiles.get_mut(id) {
            Some(profile) => std::mem::replace(&mut profile.literals, literals),
            None => return,
        };
        for literal in before {
            self.release_literal(literal);
        }
        if !wanted {
            self.profiles.remove(id);
        }
    }

    fn use_literal(&mut self, family: Family, name: &str, spec: SetSpec, ranges: Vec<Range>) {
        let uses = self.literals.entry((family, name.to_owned())).or_default();
        *uses += 1;
        if *uses == 1 {
            let want = SetWant { spec, source: SetSource::Literal(ranges.into()) };
            self.tables[family.index()].sets.want(name.to_owned(), want);
        }
    }

    fn release_literal(&mut self, literal: (Family, String)) {
        if let Some(uses) = self.literals.get_mut(&literal) {
            *uses -= 1;
            if *uses == 0 {
                self.tables[literal.0.index()].sets.unwant(&literal.1);
                self.literals.remove(&literal);
            }
        }
    }

    fn render_base(&mut self) {
        for family in Family::ALL {
            let masquerade = !self.masquerade.elements(family).is_empty();
            let wanted = BaseChain::wanted(self.settings.endpoint_to_host, masquerade);
            let table = &mut self.tables[family.index()];
            let unwanted = table
                .chains
                .all_wanted()
                .filter(|(_, want)| matches!(want.source(), ChainSource::Base(chain) if !wanted.contains(chain)));
            let unwanted: Vec<String> = unwanted.map(|(name, _)| name.clone()).collect();
            for name in unwanted {
                table.chains.unwant(&name);
            }
            for base in wanted {
                let chain = base.render(family, self.settings.endpoint_to_host, &self.options);
                let want = ChainWant::new(&chain, family, ChainSource::Base(base));
                table.chains.want(chain.name, want);
            }
        }
    }

    fn profile_chain(&self, id: &ProfileId, direction: Direction, family: Family, literals: &mut Literals) -> Chain {
        let rules = self.profiles.get(id).and_then(|profile| profile.rules.as_ref()).map(|rules| match direction {
            Direction::Ingress => rules.ingress.as_slice(),
            Direction::Egress => rules.egress.as_slice(),
        });
        render::profile_chain(id, rules, direction, family, &self.options, self, literals)
    }
}

impl SetNames for State {
    fn set_name(&self, id: &SetId, family: Family) -> Option<String> {
        self.sets.get(id).map(|members| name::selector_set(id, members.has_networks(family)))
    }
}

impl Content for State {
    fn elements(&self, family: Family, source: &SetSource) -> Vec<Range> {
        match source {
            SetSource::Selector(id) => self.sets.get(id).map(|set| set.elements(family)).unwrap_or_default(),
            SetSource::Literal(ranges) => ranges.to_vec(),
            SetSource::Pools => self.pools.elements(family),
            SetSource::Masquerade => self.masquerade.elements(family),
            SetSource::Dispatch => Vec::new(),
        }
    }

    fn chain(&self, family: Family, source: &ChainSource) -> Chain {
        match source {
            ChainSource::Base(base) => base.render(family, self.settings.endpoint_to_host, &self.options),
            ChainSource::Profile(id, direction) => self.profile_chain(id, *direction, family, &mut Literals::new()),
            ChainSource::Endpoints(list, direction) => render::endpoint_chain(list, *direction, &self.options),
        }
    }
}

/// An endpoint that cannot be programmed.
#[derive(Debug)]
pub(crate) struct Refused {
    /// Which.
    pub id: Arc<EndpointId>,
    /// Why.
    pub reason: String,
}

fn nets(members: &calico_policy::instruction::Members) -> &[ipnet::IpNet] {
    match members {
        calico_policy::instruction::Members::Nets(nets) => nets,
        calico_policy::instruction::Members::Ports(_) => &[],
    }
}
