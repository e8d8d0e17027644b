//! What the instructions so far add up to, and the tables that follow from it.
//!
//! Instructions only change the state and mark what they touch; [`State::flush`] then renders what was touched and
//! tells the tables what they are to hold. No kernel access, no clock.

mod chains;
mod endpoints;
mod hosts;
mod published;
mod sets;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use calico_policy::instruction::{Endpoint, EndpointId, Instruction, PortMember, PublishedPort, SetId, Settings};

use self::{chains::Chains, endpoints::Endpoints, hosts::Hosts, published::Published, sets::SetMembers};
use crate::{
    Options,
    family::{Family, Range},
    ifname::IfName,
    members::Members,
    name::{self, ListId},
    op::Plan,
    render::{BaseChain, Facts, HOSTS_SET, Literals, MASQUERADE_SET, POOLS_SET, SetNames},
    ruleset::{Chain, Key, SetSpec},
    table::{ChainSource, ChainWant, Content, MemberOrder, SetSource, SetWant, Table},
};

/// All that is wanted.
#[derive(Debug)]
pub(crate) struct State {
    options: Arc<Options>,
    sets: HashMap<SetId, SetMembers>,
    /// The policies and profiles whose rules name a set.
    set_users: HashMap<SetId, HashSet<ListId>>,
    pools: Members,
    masquerade: Members,
    all_hosts: Members,
    /// What the base chains depend on, as of the last flush; its settings are always the newest.
    facts: Facts,
    chains: Chains,
    endpoints: Endpoints,
    hosts: Hosts,
    published: Published,
    /// Sets named by content, and how many rule lists of which family use each.
    literals: HashMap<(Family, String), usize>,
    base_literals: BTreeSet<(Family, String)>,
    tables: [Table; 2],
    dirty: Dirty,
}

#[derive(Debug, Default)]
struct Dirty {
    base: bool,
    /// The settings changed: everything that is rendered from them.
    settings: bool,
    /// Host endpoints, or the interfaces that they stand for.
    hosts: bool,
    lists: HashSet<ListId>,
    interfaces: HashSet<IfName>,
}

/// Who has an interface now, for those who keep routes.
#[derive(Debug)]
pub(crate) struct Attachment {
    /// The interface.
    pub interface: IfName,
    /// `None` if no endpoint has it.
    pub endpoint: Option<Arc<Endpoint>>,
    /// Floating IPs that lead to it.
    pub external: Vec<IpAddr>,
}

impl State {
    /// Nothing wanted but the base.
    pub(crate) fn new(options: Arc<Options>) -> Self {
        let mut state = Self {
            options,
            sets: HashMap::new(),
            set_users: HashMap::new(),
            pools: Members::default(),
            masquerade: Members::default(),
            all_hosts: Members::default(),
            facts: Facts::default(),
            chains: Chains::default(),
            endpoints: Endpoints::default(),
            hosts: Hosts::default(),
            published: Published::default(),
            literals: HashMap::new(),
            base_literals: BTreeSet::new(),
            tables: Family::ALL.map(Table::new),
            dirty: Dirty { base: true, ..Dirty::default() },
        };
        for family in Family::ALL {
            let spec = SetSpec::set(Key::Address(family), true);
            let fixed =
                [(POOLS_SET, SetSource::Pools), (MASQUERADE_SET, SetSource::Masquerade), (HOSTS_SET, SetSource::Hosts)];
            for (name, source) in fixed {
                state.tables[family.index()].sets.want(name.to_owned(), SetWant { spec, source });
            }
        }
        state
    }

    /// Takes an instruction into account. An endpoint that cannot be programmed at all is refused with the reason;
    /// it stays, or becomes, closed.
    pub(crate) fn absorb(&mut self, instruction: Instruction) -> Result<(), Refused> {
        match instruction {
            Instruction::SetReplace { id, members } => self.replace_set(id, &members),
            Instruction::SetDelta { id, added, removed } => self.change_set(&id, &added, &removed),
            Instruction::SetRemove { id } => self.remove_set(&id),
            Instruction::PolicyUpdate { id, rules } => self.update_rules(ListId::Policy(id), Some(rules)),
            Instruction::PolicyRemove { id } => self.update_rules(ListId::Policy(id), None),
            Instruction::ProfileUpdate { id, rules } => self.update_rules(ListId::Profile(id), Some(rules)),
            Instruction::ProfileRemove { id } => self.update_rules(ListId::Profile(id), None),
            Instruction::EndpointUpdate { id, endpoint } => return self.update_endpoint(id, endpoint),
            Instruction::EndpointRemove { id } => self.remove_endpoint(&id),
            Instruction::HostEndpointUpdate { id, endpoint } => return self.update_host(id, endpoint),
            Instruction::HostEndpointRemove { id } => self.remove_host(&id),
            Instruction::Hosts { addresses } => self.replace_hosts(&addresses),
            Instruction::Pools { pools } => self.replace_pools(&pools),
            Instruction::Settings(settings) => {
                self.dirty.settings |= settings != self.facts.settings;
                self.facts.settings = settings;
            }
            // Routes, not rules: see the module `vxlan`.
            Instruction::Tunnels(_)
            | Instruction::VtepUpdate { .. }
            | Instruction::VtepRemove { .. }
            | Instruction::RouteUpdate { .. }
            | Instruction::RouteRemove { .. } => {}
        }
        Ok(())
    }

    /// Renders what was touched and tells the tables. Returns the interfaces whose endpoint may have changed.
    pub(crate) fn flush(&mut self) -> Vec<Attachment> {
        if std::mem::take(&mut self.dirty.settings) {
            self.dirty.base = true;
            self.dirty.hosts = true;
            self.dirty.interfaces.extend(self.endpoints.interfaces());
            self.dirty.lists.extend(self.chains.used_lists());
        }
        let mut touched = std::mem::take(&mut self.dirty.interfaces);
        for interface in &touched {
            self.attach(*interface);
        }
        if std::mem::take(&mut self.dirty.hosts) {
            self.attach_hosts();
        }
        if std::mem::take(&mut self.dirty.base) {
            touched.extend(self.gather_facts());
            self.render_base();
        }
        for list in std::mem::take(&mut self.dirty.lists) {
            self.render_list(&list);
        }
        touched.into_iter().map(|interface| self.attachment(interface)).collect()
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

    /// The host-wide settings.
    pub(crate) fn settings(&self) -> &Settings {
        &self.facts.settings
    }

    fn attachment(&self, interface: IfName) -> Attachment {
        let endpoint = self.endpoints.winner(&interface).map(|(_, endpoint)| endpoint.clone());
        Attachment { interface, endpoint, external: self.facts.floating.of_interface(&interface) }
    }

    /// What endpoints add to the base. Returns the interfaces whose floating IPs changed.
    fn gather_facts(&mut self) -> BTreeSet<IfName> {
        let mut facts = Facts {
            settings: self.facts.settings.clone(),
            masquerade: Family::ALL.map(|family| self.masquerade.has_elements(family)),
            published: Family::ALL.map(|family| self.published.is_in_use(family)),
            lists: self.hosts.lists(),
            ..Facts::default()
        };
        for (interface, endpoint) in self.endpoints.special() {
            facts.add_endpoint(*interface, endpoint);
        }
        let changed = facts.floating.changed(&self.facts.floating);
        self.facts = facts;
        changed
    }

    fn render_base(&mut self) {
        let mut literals = BTreeSet::new();
        for family in Family::ALL {
            let wanted = BaseChain::wanted(family, &self.facts);
            let table = &mut self.tables[family.index()];
            let unwanted = table
                .chains
                .all_wanted()
                .filter(|(_, want)| matches!(want.source(), ChainSource::Base(chain) if !wanted.contains(chain)));
            let unwanted: Vec<String> = unwanted.map(|(name, _)| name.clone()).collect();
            for name in unwanted {
                table.chains.unwant(&name);
            }
            let mut found = Literals::new();
            for base in wanted {
                let chain = base.render(family, &self.facts, &self.options, &mut found);
                let want = ChainWant::new(&chain, family, ChainSource::Base(base));
                table.chains.want(chain.name, want);
            }
            self.use_literals(family, found, &mut literals);
        }
        let before = std::mem::replace(&mut self.base_literals, literals);
        self.release_literals(before);
    }

    /// Wants sets that rules turned out to need, and notes them in `names`.
    fn use_literals(&mut self, family: Family, found: Literals, names: &mut BTreeSet<(Family, String)>) {
        for (name, (spec, ranges)) in found {
            let uses = self.literals.entry((family, name.clone())).or_default();
            *uses += 1;
            if *uses == 1 {
                let want = SetWant { spec, source: SetSource::Literal(ranges.into()) };
                self.tables[family.index()].sets.want(name.clone(), want);
            }
            names.insert((family, name));
        }
    }

    fn release_literals(&mut self, names: BTreeSet<(Family, String)>) {
        for literal in names {
            let Some(uses) = self.literals.get_mut(&literal) else { continue };
            *uses -= 1;
            if *uses == 0 {
                self.tables[literal.0.index()].sets.unwant(&literal.1);
                self.literals.remove(&literal);
            }
        }
    }
}

impl SetNames for State {
    fn set_name(&self, id: &SetId, family: Family) -> Option<String> {
        match self.sets.get(id)? {
            SetMembers::Nets(members) => Some(name::selector_set(id, members.has_networks(family))),
            SetMembers::Ports(_) => None,
        }
    }

    fn port_set(&self, id: &SetId) -> Option<String> {
        matches!(self.sets.get(id)?, SetMembers::Ports(_)).then(|| name::port_set(id))
    }
}

impl Content for State {
    fn member_order(&self, sets: &[&SetSource]) -> MemberOrder {
        let mut orders = sets.iter().map(|source| match source {
            // They may ask about an address of which a workload's chain asks too.
            _ if !self.hosts.is_empty() => MemberOrder::AtOnce,
            SetSource::Selector(id) | SetSource::Ports(id) => self.order_of(id),
            _ => MemberOrder::AtOnce,
        });
        let first = orders.next().unwrap_or(MemberOrder::AtOnce);
        if orders.all(|order| order == first) { first } else { MemberOrder::AtOnce }
    }

    fn elements(&self, family: Family, source: &SetSource) -> Vec<Range> {
        match source {
            SetSource::Selector(id) => match self.sets.get(id) {
                Some(SetMembers::Nets(set)) => set.elements(family),
                _ => Vec::new(),
            },
            SetSource::Literal(ranges) => ranges.to_vec(),
            SetSource::Pools => self.pools.elements(family),
            SetSource::Masquerade => self.masquerade.elements(family),
            SetSource::Hosts => self.all_hosts.elements(family),
            SetSource::PublishedSelf => self.published.addresses(family),
            SetSource::Ports(_) | SetSource::Published(_) | SetSource::Dispatch => Vec::new(),
        }
    }

    fn ports(&self, family: Family, source: &SetSource) -> Vec<PortMember> {
        match source {
            SetSource::Ports(id) => match self.sets.get(id) {
                Some(SetMembers::Ports(set)) => sets::of_family(set.iter(), family),
                _ => Vec::new(),
            },
            _ => Vec::new(),
        }
    }

    fn published(&self, family: Family, source: &SetSource) -> Vec<PublishedPort> {
        match source {
            SetSource::Published(exact) => self.published.ports(family, *exact),
            _ => Vec::new(),
        }
    }

    fn chain(&self, family: Family, source: &ChainSource) -> Chain {
        match source {
            ChainSource::Base(base) => base.render(family, &self.facts, &self.options, &mut Literals::new()),
            ChainSource::List(list, direction, quiet) => {
                self.list_chain(list, *direction, *quiet, family, &mut Literals::new())
            }
            ChainSource::Tier(tier) => tier.render(family, &self.options),
            ChainSource::Endpoint(endpoint) => endpoint.render(family, &self.options),
            ChainSource::Limits(limits) => limits.render(family),
        }
    }
}

/// An endpoint that cannot be programmed.
#[derive(Debug)]
pub(crate) struct Refused {
    /// Which, for people.
    pub subject: String,
    /// Why.
    pub reason: String,
}

/// Endpoints whose interface another one has: identifier, interface, who has it.
pub(crate) type Shadowed<'a> = (&'a EndpointId, IfName, &'a EndpointId);
