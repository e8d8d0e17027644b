//! The driver: wanted against present, step by step, in the order that keeps packets safe.
//!
//! One apply: what others changed is read again; rules first, in up to three transactions; then settings of
//! interfaces; then tunnels to other hosts; then routes, of which none is written before the rules of its interface are
//! in force; last our single rules in other programs' chains. A failure of one object is reported and does not hold up
//! the others.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use calico_policy::instruction::{EndpointId, HostAction, Instruction, Settings};

use crate::{
    EndpointState, Error, Event, Options, Problem, Report,
    family::Family,
    foreign,
    ifname::IfName,
    netlink::{Conntrack, Events, Notice, Rtnl, legacy_forward_policy_is_drop},
    routing::Routing,
    state::{Attachment, State},
    sysctl,
    vxlan::Overlay,
    writer::{Writer, has_nftables},
};

mod routes;

/// After so many failures the tables are made anew.
const ATTEMPTS: u32 = 5;
/// The first pause before a repetition; doubled each time.
const BACK_OFF: Duration = Duration::from_millis(1);

/// The kernel side of one host, or of one network namespace.
pub struct Dataplane {
    options: Arc<Options>,
    rules: Writer,
    rtnl: Rtnl,
    events: Events,
    conntrack: Conntrack,
    state: State,
    routing: Routing,
    overlay: Overlay,
    /// Why an endpoint of this name cannot be programmed.
    refused: BTreeMap<String, String>,
    rp_filter: String,
    /// Why the renderer that the settings ask for is not in use.
    renderer_missing: Option<String>,
    /// Interfaces whose settings are to be looked at.
    unconfigured: BTreeSet<IfName>,
    links_stale: bool,
    /// Addresses of interfaces, or the interfaces' names, may not be those that are known.
    addresses_stale: bool,
    /// The rules of a family were missing, or changed by somebody: connections made meanwhile were not judged.
    exposed: [bool; 2],
    filter_stale: [bool; 2],
    /// A kind of iptables that is none of ours to write, and whose FORWARD policy is DROP.
    others_drop: [Option<&'static str>; 2],
    /// Heard of while something else was done.
    unheard: Option<Event>,
}

impl std::fmt::Debug for Dataplane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dataplane").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Dataplane {
    /// Opens the conversation with the kernel, in the network namespace of the calling thread. All methods must be
    /// called on a thread in the same namespace, inside a tokio runtime with time and I/O.
    ///
    /// # Errors
    /// [`Error::Options`] if the options make no sense, [`Error::Socket`] without the right to netlink.
    pub fn new(options: Options) -> Result<Self, Error> {
        options.validate()?;
        let options = Arc::new(options);
        let rules = Writer::open(options.clone())?;
        let rtnl = Rtnl::open(options.route_protocol)?;
        let events = Events::open(rules.nft.port(), rtnl.port(), options.route_protocol)?;
        Ok(Self {
            events,
            rules,
            rtnl,
            conntrack: Conntrack::open()?,
            state: State::new(options.clone()),
            routing: Routing::new(&options),
            overlay: Overlay::new(options.route_metric),
            refused: BTreeMap::new(),
            rp_filter: sysctl::default_rp_filter(),
            renderer_missing: None,
            unconfigured: BTreeSet::new(),
            links_stale: true,
            addresses_stale: true,
            exposed: [false; 2],
            filter_stale: [true; 2],
            others_drop: [None; 2],
            unheard: None,
            options,
        })
    }

    /// Closes unknown workload interfaces and makes the host a router. A table of ours that is there already, from an
    /// earlier run, is left as it is: its rules go on until the first [`apply`](Self::apply) has compared them.
    ///
    /// # Errors
    /// [`Error::Kernel`] if the kernel refuses, [`Error::Sysctl`] if forwarding cannot be switched on.
    pub async fn install_base(&mut self) -> Result<(), Error> {
        self.rules.follow(&Settings::default()).await?;
        let mut missing = Vec::new();
        for family in Family::ALL {
            if !self.rules.is_installed(family).await? {
                missing.push(family);
                self.exposed[family.index()] = true;
            }
        }
        let mut base = State::new(self.options.clone());
        base.flush();
        let plan = base.plan();
        self.rules.commit(&plan, &missing).await?;
        self.hear_of_others();
        if !missing.is_empty() {
            tracing::info!(families = ?missing, "workload interfaces are closed until their endpoints are known");
        }
        sysctl::enable_forwarding()?;
        Ok(())
    }

    /// Takes an instruction into account. No kernel access: nothing happens before [`apply`](Self::apply).
    pub fn absorb(&mut self, instruction: Instruction) {
        match &instruction {
            Instruction::EndpointUpdate { id, .. } | Instruction::EndpointRemove { id } => {
                self.refused.remove(&id.to_string());
            }
            Instruction::HostEndpointUpdate { id, .. } | Instruction::HostEndpointRemove { id } => {
                self.refused.remove(&format!("host endpoint {}", id.0));
            }
            _ => {}
        }
        self.overlay.absorb(&instruction);
        if matches!(instruction, Instruction::Settings(_)) {
            self.filter_stale = [true; 2];
        }
        if let Err(refused) = self.state.absorb(instruction) {
            self.refused.insert(refused.subject, refused.reason);
        }
    }

    /// Makes the kernel hold what is wanted, and nothing else of ours. May be dropped half-way; the next one goes on
    /// from what the kernel then holds.
    ///
    /// # Errors
    /// Only if the rules could not be written or the kernel's state not be read; the kernel then holds what it held,
    /// and the next apply starts from there. What failed for single objects is in the report.
    pub async fn apply(&mut self) -> Result<Report, Error> {
        let mut report = Report::default();
        let notices = self.events.drain(&[]);
        self.hear(notices);
        self.unheard = None;
        if self.links_stale {
            let links = self.rtnl.links().await?;
            self.routing.read_links(&links);
            self.unconfigured.extend(self.routing.interfaces().map(|(link, _)| link.name));
            self.links_stale = false;
        }
        self.read_addresses().await?;
        for interface in self.routing.take_changed() {
            self.state.link(interface, self.routing.interface(&interface).is_some());
        }
        for Attachment { interface, endpoint, external } in self.state.flush() {
            self.routing.attach(interface, endpoint.as_deref(), &external);
            self.unconfigured.insert(interface);
        }
        self.apply_rules(&mut report).await?;
        self.follow_ports(&mut report).await;
        self.apply_settings(&mut report);
        self.events.follow_neighbours(self.overlay.has_tunnel());
        self.overlay.apply(&self.rtnl, &mut report).await?;
        self.overlay.place(&mut self.routing);
        self.apply_routes(&mut report).await?;
        self.apply_foreign_rules(&mut report).await;
        // Another renderer's rules go when nothing depends on them any more, also in other programs' chains.
        if self.filter_stale == [false; 2] {
            self.rules.sweep().await;
        }
        self.collect_problems(&mut report);
        Ok(report)
    }

    /// Waits until somebody else changed something that concerns us; the next [`apply`](Self::apply) mends it.
    /// Cancel-safe: nothing is lost if the future is dropped.
    pub async fn next_event(&mut self) -> Event {
        if let Some(event) = self.unheard.take() {
            return event;
        }
        loop {
            let notices = self.events.next().await;
            if let Some(event) = self.hear(notices) {
                return event;
            }
        }
    }

    /// Believes nothing of the kernel any more: the next [`apply`](Self::apply) reads everything back. The slow net
    /// under the notifications.
    pub fn distrust(&mut self) {
        for family in Family::ALL {
            self.state.table(family).stale = true;
        }
        self.rules.distrust();
        self.routing.stale = true;
        self.overlay.distrust();
        self.links_stale = true;
        self.addresses_stale = true;
        self.filter_stale = [true; 2];
    }

    /// How far an endpoint is.
    #[must_use]
    pub fn endpoint_state(&self, id: &EndpointId) -> EndpointState {
        match self.state.has_interface(id) {
            None => EndpointState::Unknown,
            Some((_, false)) => EndpointState::Shadowed,
            Some((interface, true)) if self.routing.is_routed(&interface) => EndpointState::Up,
            Some(_) => EndpointState::Waiting,
        }
    }

    /// Takes note of notifications. The first that matters is returned.
    fn hear(&mut self, notices: Vec<Notice>) -> Option<Event> {
        let mut first = None;
        for notice in notices {
            let event = match notice {
                Notice::Table(family) => {
                    self.state.table(family).stale = true;
                    Some(Event::ForeignTableChange)
                }
                Notice::Filter(family) | Notice::Iptables(family)
                    if self.rules.is_iptables() && !self.rules.is_legacy() =>
                {
                    self.rules.distrust_rules(family);
                    Some(Event::ForeignTableChange)
                }
                Notice::Filter(family) => {
                    self.filter_stale[family.index()] = true;
                    Some(Event::ForeignFilterChange)
                }
                Notice::Iptables(_) => None,
                Notice::Link(link) => {
                    let matters = self.routing.link_event(&link);
                    if matters {
                        self.unconfigured.extend(link.name);
                    }
                    // Names belong to addresses too.
                    self.addresses_stale = true;
                    let tunnels = self.overlay.link_event(&link);
                    // With a link go its routes and entries, and the kernel does not tell of each.
                    self.routing.stale |= tunnels;
                    match (matters, tunnels) {
                        (true, _) => Some(Event::LinksChanged),
                        (_, true) => Some(Event::TunnelsChanged),
                        _ => self.state.follows_addresses().then_some(Event::AddressesChanged),
                    }
                }
                Notice::Address(seen) => {
                    self.addresses_stale = true;
                    let matters = self.overlay.address_event(&seen) || self.state.follows_addresses();
                    matters.then_some(Event::AddressesChanged)
                }
                Notice::Entry(entry) => {
                    let matters = self.overlay.entry_event(&entry);
                    self.routing.stale |= matters && !entry.forwarding;
                    matters.then_some(Event::TunnelsChanged)
                }
                Notice::OurRoute => {
                    self.routing.stale = true;
                    Some(Event::RoutesChanged)
                }
                Notice::Replaced(route) if self.routing.concerns(&route) => {
                    self.routing.stale = true;
                    Some(Event::RoutesChanged)
                }
                Notice::Replaced(_) => None,
                Notice::Overrun => {
                    self.distrust();
                    Some(Event::Overrun)
                }
            };
            first = first.or(event);
        }
        first
    }

    /// Which interface has which address, as long as a host endpoint wants to know.
    async fn read_addresses(&mut self) -> Result<(), Error> {
        if !self.addresses_stale || !self.state.follows_addresses() {
            return Ok(());
        }
        let links = self.rtnl.links().await?;
        let addresses = self.rtnl.addresses().await?;
        let names: HashMap<u32, IfName> = links.iter().map(|link| (link.index, link.name)).collect();
        let named = addresses.into_iter().filter_map(|(index, address)| Some((address, *names.get(&index)?)));
        self.state.read_addresses(named.collect());
        self.addresses_stale = false;
        Ok(())
    }

    /// Rules. A refusal means that the kernel is not as believed: read back, and again.
    async fn apply_rules(&mut self, report: &mut Report) -> Result<(), Error> {
        for attempt in 0.. {
            let Err(error) = self.try_rules(report, attempt >= ATTEMPTS).await else { break };
            if attempt >= ATTEMPTS || !error.is_stale() {
                return Err(error);
            }
            tracing::warn!(attempt, %error, "rules could not be written, reading them back");
            tokio::time::sleep(BACK_OFF * 2u32.pow(attempt)).await;
        }
        Ok(())
    }

    async fn try_rules(&mut self, report: &mut Report, rebuild: bool) -> Result<(), Error> {
        // A setting that this host cannot follow must not keep policy from it: the rules are written as before.
        let followed = self.rules.follow(self.state.settings()).await;
        self.renderer_missing = followed.as_ref().err().map(ToString::to_string);
        let anew = followed.unwrap_or(false);
        for family in Family::ALL {
            if self.state.table(family).stale || anew {
                let read = self.rules.read_table(family).await?;
                let changed = self.state.read_back(family, read) && !anew;
                self.note_interference(family, changed);
            }
        }
        let plan = if rebuild { self.state.rebuild() } else { self.state.plan() };
        // Until all is done nothing is known for sure, also if this future is dropped half-way.
        for op in plan.transactions().flatten() {
            self.state.table(op.family).stale = true;
        }
        let committed = self.rules.commit(&plan, &Family::ALL).await;
        self.hear_of_others();
        let committed = committed?;
        for family in Family::ALL {
            self.note_interference(family, committed.interfered[family.index()]);
        }
        report.transactions += committed.transactions;
        report.operations += committed.operations;
        self.state.settle();
        // Which of our rules other programs' chains need depends on who writes ours.
        self.filter_stale = if anew { [true; 2] } else { self.filter_stale };
        Ok(())
    }

    fn note_interference(&mut self, family: Family, changed: bool) {
        if changed {
            tracing::warn!(%family, "rules were changed by somebody; workloads' connections are judged anew");
            self.exposed[family.index()] = true;
        }
    }

    /// Programs that write on our behalf cause notifications. Those of others are kept.
    fn hear_of_others(&mut self) {
        let own = self.rules.take_processes();
        if !own.is_empty() {
            let notices = self.events.drain(&own);
            let event = self.hear(notices);
            self.unheard = self.unheard.or(event);
        }
    }

    /// Settings of interfaces that came or changed.
    fn apply_settings(&mut self, report: &mut Report) {
        for interface in std::mem::take(&mut self.unconfigured) {
            let result = match self.routing.interface(&interface) {
                Some((_, true)) => sysctl::configure_endpoint(&interface, &self.rp_filter),
                Some((_, false)) => sysctl::configure_unknown(&interface),
                None => continue,
            };
            match result {
                Ok(written) => report.sysctls_written += written,
                Err(_) if !sysctl::exists(&interface) => tracing::debug!(%interface, "went away while it was set up"),
                Err(error) => {
                    report.problems.push(Problem::new(interface, error));
                    report.retry = true;
                    self.unconfigured.insert(interface);
                }
            }
        }
    }

    /// Our rules in other programs' chains. Those programs change their chains at any time, so a refusal is normal.
    async fn apply_foreign_rules(&mut self, report: &mut Report) {
        for family in Family::ALL {
            if !self.filter_stale[family.index()] {
                continue;
            }
            let legacy = if family == Family::V4 { "iptables-legacy" } else { "ip6tables-legacy" };
            let drops = !self.rules.is_legacy() && legacy_forward_policy_is_drop(family);
            self.others_drop[family.index()] = drops.then_some(legacy);
            for attempt in 0..=ATTEMPTS {
                match self.try_foreign_rules(family).await {
                    Ok(written) => {
                        report.foreign_rules_written += written;
                        self.filter_stale[family.index()] = false;
                        break;
                    }
                    Err(error) if attempt == ATTEMPTS || !error.is_stale() => {
                        report.problems.push(Problem::new(format!("table {family} {}", foreign::TABLE), error));
                        report.retry = true;
                        break;
                    }
                    Err(error) => {
                        tracing::warn!(attempt, %family, %error, "another program's chains changed, reading them again");
                        tokio::time::sleep(BACK_OFF * 2u32.pow(attempt)).await;
                    }
                }
            }
        }
    }

    async fn try_foreign_rules(&mut self, family: Family) -> Result<usize, Error> {
        if self.rules.is_iptables() && !has_nftables(&self.rules.nft).await {
            return Ok(0);
        }
        let there = self.rules.nft.read_filter(family, foreign::TABLE, &foreign::CHAINS).await?;
        if self.rules.is_legacy() && foreign::drops_forwarded(&there) {
            let nft = if family == Family::V4 { "iptables-nft" } else { "ip6tables-nft" };
            self.others_drop[family.index()] = Some(nft);
        }
        let steps = if self.rules.is_iptables() {
            // There what policy allowed is accepted by our own chains.
            foreign::removals(family, &there)
        } else {
            let host_action: HostAction = self.state.settings().endpoint_to_host;
            foreign::steps(family, &there, host_action, &self.options)
        };
        if !steps.is_empty() {
            tracing::info!(%family, rules = steps.len(), "mending our rules in the chains of other programs");
            self.rules.nft.commit_foreign(&steps).await?;
        }
        Ok(steps.len())
    }

    fn collect_problems(&self, report: &mut Report) {
        for (id, reason) in &self.refused {
            report.problems.push(Problem::new(id, reason));
        }
        for (id, interface, winner) in self.state.shadowed() {
            let reason = format!("interface {interface} belongs to endpoint {winner}; this one is not programmed");
            report.problems.push(Problem::new(id, reason));
        }
        report.problems.extend(self.renderer_missing.iter().map(|reason| Problem::new("renderer", reason)));
        report.problems.extend(self.routing.problems());
        report.problems.extend(self.overlay.problems().iter().cloned());
        for family in Family::ALL {
            if let Some(iptables) = self.others_drop[family.index()] {
                let reason = format!(
                    "its FORWARD policy is DROP, which loses workloads' packets and is not ours to mend; \
                     run `{iptables} -P FORWARD ACCEPT`, or accept packets with mark {mark:#x}/{mark:#x} there",
                    mark = self.options.mark_accept
                );
                report.problems.push(Problem::new(iptables, reason));
            }
        }
    }
}
