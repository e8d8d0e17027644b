//! A small nf_tables for tests: it takes transactions with the kernel's rules and runs programs on packets.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use calico_policy::{
    instruction::{PortMember, PublishedPort},
    packet::{Hop, Packet, Tracking, Transport, Verdict},
};

use crate::{
    family::{Family, Range, address_key},
    ifname::IfName,
    op::{Op, OpKind, Target},
    program::{
        Expr, Program, REGISTER, base, cmp, compile, content_fingerprint, ct, fib, key_bytes, meta, port_member,
        verdict,
    },
    ruleset::{Base, Data, Hook, Key, SetSpec},
    table::{ReadBase, ReadChain, ReadElements, ReadSet, ReadTable},
    tracker::fingerprint,
};

#[derive(Clone, Debug, PartialEq)]
enum Elements {
    Ranges(BTreeSet<Range>),
    Ports(BTreeSet<PortMember>),
    Published(BTreeSet<PublishedPort>),
    Targets(BTreeMap<IfName, Target>),
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct FakeTable {
    sets: BTreeMap<String, (SetSpec, Elements)>,
    chains: BTreeMap<String, (Option<Base>, Vec<Program>)>,
}

/// The rules of one network namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct FakeKernel {
    tables: BTreeMap<Family, FakeTable>,
}

/// Where a packet's run ends.
enum End {
    Accept,
    Drop,
    Reject,
    Return,
    Continue,
}

impl FakeKernel {
    /// Commits a transaction, or refuses it and changes nothing.
    pub(crate) fn commit(&mut self, ops: &[Op]) -> Result<(), String> {
        let mut next = self.clone();
        let mut created = BTreeSet::new();
        let mut new_tables = BTreeSet::new();
        for op in ops {
            if op.kind == OpKind::AddTable {
                if !next.tables.contains_key(&op.family) {
                    new_tables.insert(op.family);
                }
                next.tables.entry(op.family).or_default();
                continue;
            }
            if op.kind == OpKind::DeleteTable {
                next.tables.remove(&op.family).ok_or_else(|| format!("{op}: ENOENT"))?;
                continue;
            }
            if let OpKind::AddChain(head) = &op.kind {
                created.insert((op.family, head.name.clone()));
            }
            if let OpKind::AddTargets { targets, .. } = &op.kind
                && !new_tables.contains(&op.family)
            {
                let trap = targets.iter().find(|(_, target)| created.contains(&(op.family, target.chain.to_string())));
                if let Some((interface, _)) = trap {
                    return Err(format!("{op}: {interface} is switched to a chain of the same transaction"));
                }
            }
            let table = next.tables.get_mut(&op.family).ok_or_else(|| format!("{op}: no table"))?;
            table.apply(op).map_err(|reason| format!("{op}: {reason}"))?;
        }
        *self = next;
        Ok(())
    }

    /// What a dump would say.
    pub(crate) fn read(&self, family: Family) -> Option<ReadTable> {
        let table = self.tables.get(&family)?;
        let chains = table.chains.iter().map(|(name, (base, rules))| {
            let content = content_fingerprint(rules.iter().map(fingerprint).collect());
            let base = base.map_or(ReadBase::Regular, ReadBase::Ours);
            (name.clone(), ReadChain { content, base })
        });
        let sets = table.sets.iter().map(|(name, (spec, elements))| {
            let elements = match elements {
                Elements::Ranges(ranges) => ReadElements::Ranges(ranges.iter().copied().collect()),
                Elements::Ports(ports) => ReadElements::Ports(ports.iter().copied().collect()),
                Elements::Published(ports) => ReadElements::Published(ports.iter().copied().collect()),
                Elements::Targets(targets) => {
                    ReadElements::Targets(targets.iter().map(|(key, target)| (*key, fingerprint(target))).collect())
                }
            };
            (name.clone(), ReadSet { spec: Some(*spec), elements })
        });
        Some(ReadTable { chains: chains.collect(), sets: sets.collect(), dormant: false })
    }

    /// Somebody removes a rule, an element, a chain or everything.
    pub(crate) fn vandalise(&mut self, family: Family, choice: usize) {
        let Some(table) = self.tables.get_mut(&family) else { return };
        match choice % 4 {
            0 => {
                self.tables.remove(&family);
            }
            1 => {
                let nth = choice / 4 % table.chains.len().max(1);
                if let Some((_, rules)) = table.chains.values_mut().nth(nth) {
                    rules.pop();
                }
            }
            2 => {
                let nth = choice / 4 % table.sets.len().max(1);
                match table.sets.values_mut().nth(nth) {
                    Some((_, Elements::Ranges(ranges))) => drop(ranges.pop_first()),
                    Some((_, Elements::Ports(ports))) => drop(ports.pop_first()),
                    Some((_, Elements::Published(ports))) => drop(ports.pop_first()),
                    Some((_, Elements::Targets(targets))) => drop(targets.pop_first()),
                    None => {}
                }
            }
            _ => {
                table.chains.insert("stranger".to_owned(), (None, Vec::new()));
            }
        }
    }

    /// What becomes of a packet; `spoofed` is what a route lookup would say.
    pub(crate) fn verdict(&self, packet: &Packet, spoofed: bool) -> Verdict {
        let family = Family::of_address(&packet.source);
        let Some(table) = self.tables.get(&family) else { return Verdict::Allow };
        let mut run = Run { table, packet, family, spoofed, mark: 0, untracked: false };
        let hooks: &[Hook] = match (&packet.from, &packet.to) {
            (Hop::Host, _) => &[Hook::Output, Hook::Postrouting],
            (_, Hop::Host) => &[Hook::Prerouting, Hook::Input],
            _ => &[Hook::Prerouting, Hook::Forward, Hook::Postrouting],
        };
        for hook in hooks {
            let mut chains: Vec<(&Base, &Vec<Program>)> =
                table.chains.values().filter_map(|(base, rules)| Some((base.as_ref()?, rules))).collect();
            chains.retain(|(base, _)| base.hook == *hook && !base.nat);
            chains.sort_by_key(|(base, _)| base.priority);
            for (_, rules) in chains {
                match run.chain(rules) {
                    End::Drop => return Verdict::Drop,
                    End::Reject => return Verdict::Reject,
                    _ => {}
                }
            }
        }
        Verdict::Allow
    }
}

impl FakeTable {
    fn apply(&mut self, op: &Op) -> Result<(), &'static str> {
        match &op.kind {
            OpKind::AddTable | OpKind::DeleteTable => unreachable!("done by the caller"),
            OpKind::AddSet { name, spec } => {
                let empty = match (spec.data, spec.key) {
                    (Data::Verdict, _) => Elements::Targets(BTreeMap::new()),
                    (Data::Destination(_), _) => Elements::Published(BTreeSet::new()),
                    (Data::None, Key::PortMember(_)) => Elements::Ports(BTreeSet::new()),
                    (Data::None, _) => Elements::Ranges(BTreeSet::new()),
                };
                insert_new(&mut self.sets, name, (*spec, empty))
            }
            OpKind::DeleteSet { name } => {
                let used = |expr: &Expr| matches!(expr, Expr::Lookup { set, .. } | Expr::LookupData { map: set } if set == name);
                if self.programs().any(|program| program.exprs.iter().any(used)) {
                    return Err("EBUSY");
                }
                self.sets.remove(name).map(drop).ok_or("ENOENT")
            }
            OpKind::FlushSet { name } => {
                match &mut self.sets.get_mut(name).ok_or("ENOENT")?.1 {
                    Elements::Ranges(ranges) => ranges.clear(),
                    Elements::Ports(ports) => ports.clear(),
                    Elements::Published(ports) => ports.clear(),
                    Elements::Targets(targets) => targets.clear(),
                }
                Ok(())
            }
            OpKind::AddElements { set, spec, ranges } => {
                let held = self.ranges(set, *spec)?;
                for range in ranges {
                    let overlaps = |other: &Range| other != range && other.0 <= range.1 && range.0 <= other.1;
                    if held.iter().any(overlaps) || range.0 > range.1 || (!spec.interval && range.0 != range.1) {
                        return Err("EEXIST");
                    }
                    held.insert(*range);
                }
                Ok(())
            }
            OpKind::DeleteElements { set, spec, ranges } => {
                let held = self.ranges(set, *spec)?;
                if ranges.iter().all(|range| held.remove(range)) { Ok(()) } else { Err("ENOENT") }
            }
            OpKind::AddPorts { set, ports } => {
                self.ports(set)?.extend(ports);
                Ok(())
            }
            OpKind::DeletePorts { set, ports } => {
                let held = self.ports(set)?;
                if ports.iter().all(|member| held.remove(member)) { Ok(()) } else { Err("ENOENT") }
            }
            OpKind::AddPublished { map, spec, ports } => {
                let held = self.published(map, *spec)?;
                for port in ports {
                    if held.iter().any(|other| other.claim() == port.claim() && other != port) {
                        return Err("EEXIST");
                    }
                    held.insert(*port);
                }
                Ok(())
            }
            OpKind::DeletePublished { map, spec, ports } => {
                let held = self.published(map, *spec)?;
                if ports.iter().all(|port| held.remove(port)) { Ok(()) } else { Err("ENOENT") }
            }
            OpKind::AddTargets { map, targets } => {
                if targets.iter().any(|(_, target)| !self.chains.contains_key(&*target.chain)) {
                    return Err("ENOENT");
                }
                let held = self.targets(map)?;
                for (interface, target) in targets {
                    if held.get(interface).is_some_and(|there| there != target) {
                        return Err("EEXIST");
                    }
                    held.insert(*interface, target.clone());
                }
                Ok(())
            }
            OpKind::DeleteTargets { map, interfaces } => {
                let held = self.targets(map)?;
                if interfaces.iter().all(|name| held.remove(name).is_some()) { Ok(()) } else { Err("ENOENT") }
            }
            OpKind::AddChain(head) => insert_new(&mut self.chains, &head.name, (head.base, Vec::new())),
            OpKind::DeleteChain { name } => {
                let leads = |expr: &Expr| matches!(expr, Expr::Verdict { chain: Some(chain), .. } if chain == name);
                let mut others = self.chains.iter().filter(|(other, _)| *other != name);
                let by_rule = others.any(|(_, (_, rules))| rules.iter().any(|rule| rule.exprs.iter().any(leads)));
                let by_map = self.sets.values().any(|(_, elements)| match elements {
                    Elements::Targets(targets) => targets.values().any(|target| *target.chain == **name),
                    Elements::Ranges(_) | Elements::Ports(_) | Elements::Published(_) => false,
                });
                if by_rule || by_map {
                    return Err("EBUSY");
                }
                self.chains.remove(name).map(drop).ok_or("ENOENT")
            }
            OpKind::FlushChain { name } => {
                self.chains.get_mut(name).ok_or("ENOENT")?.1.clear();
                Ok(())
            }
            OpKind::AddRule { chain, rule } => {
                let program = compile(rule, op.family);
                let known = |expr: &Expr| match expr {
                    Expr::Lookup { set, .. } | Expr::LookupData { map: set } => self.sets.contains_key(set),
                    Expr::Verdict { chain: Some(chain), .. } => self.chains.contains_key(chain),
                    _ => true,
                };
                if !program.exprs.iter().all(known) {
                    return Err("ENOENT");
                }
                self.chains.get_mut(chain).ok_or("ENOENT")?.1.push(program);
                Ok(())
            }
        }
    }

    fn programs(&self) -> impl Iterator<Item = &Program> {
        self.chains.values().flat_map(|(_, rules)| rules)
    }

    fn ranges(&mut self, set: &str, spec: SetSpec) -> Result<&mut BTreeSet<Range>, &'static str> {
        match self.sets.get_mut(set) {
            Some((there, Elements::Ranges(ranges))) if *there == spec => Ok(ranges),
            Some(_) => Err("EINVAL"),
            None => Err("ENOENT"),
        }
    }

    fn ports(&mut self, set: &str) -> Result<&mut BTreeSet<PortMember>, &'static str> {
        match self.sets.get_mut(set) {
            Some((_, Elements::Ports(ports))) => Ok(ports),
            _ => Err("ENOENT"),
        }
    }

    fn published(&mut self, map: &str, spec: SetSpec) -> Result<&mut BTreeSet<PublishedPort>, &'static str> {
        match self.sets.get_mut(map) {
            Some((there, Elements::Published(ports))) if *there == spec => Ok(ports),
            Some(_) => Err("EINVAL"),
            None => Err("ENOENT"),
        }
    }

    fn targets(&mut self, map: &str) -> Result<&mut BTreeMap<IfName, Target>, &'static str> {
        match self.sets.get_mut(map) {
            Some((_, Elements::Targets(targets))) => Ok(targets),
            _ => Err("ENOENT"),
        }
    }
}

fn insert_new<T>(map: &mut BTreeMap<String, T>, name: &str, value: T) -> Result<(), &'static str> {
    if map.contains_key(name) {
        return Err("EEXIST");
    }
    map.insert(name.to_owned(), value);
    Ok(())
}

/// The registers of one rule: twenty of four bytes, by the kernel's numbers.
#[derive(Default)]
struct Registers([[u8; 16]; 5]);

impl Registers {
    fn bytes(&self) -> &[u8] {
        self.0.as_flattened()
    }

    fn store(&mut self, register: u32, value: &[u8]) {
        let start = if register < 8 { register as usize * 16 } else { 16 + (register as usize - 8) * 4 };
        let whole = value.len().next_multiple_of(4);
        let place = &mut self.0.as_flattened_mut()[start..start + whole];
        place.fill(0);
        place[..value.len()].copy_from_slice(value);
    }

    /// The first bytes of the first register, and of those after it.
    fn first(&self, length: usize) -> &[u8] {
        &self.bytes()[16..16 + length]
    }
}

/// One packet's way through the rules.
struct Run<'a> {
    table: &'a FakeTable,
    packet: &'a Packet,
    family: Family,
    spoofed: bool,
    mark: u32,
    /// A rule took the packet out of connection tracking.
    untracked: bool,
}

impl Run<'_> {
    fn chain(&mut self, rules: &[Program]) -> End {
        for rule in rules {
            match self.rule(rule) {
                End::Continue => {}
                End::Return => return End::Continue,
                end => return end,
            }
        }
        End::Continue
    }

    /// `Continue`: the next rule.
    fn rule(&mut self, rule: &Program) -> End {
        let mut registers = Registers::default();
        for expr in &rule.exprs {
            match expr {
                Expr::Meta { key, register } => registers.store(*register, &self.meta(*key)),
                Expr::MetaSet { .. } => {
                    self.mark = u32::from_ne_bytes(*registers.first(4).first_chunk().expect("four bytes"));
                }
                Expr::Payload { base, offset, length, register } => match self.payload(*base, *offset, *length) {
                    Some(bytes) => registers.store(*register, &bytes),
                    None => return End::Continue,
                },
                Expr::Ct { key: ct::STATE } => registers.store(REGISTER, &self.state().to_ne_bytes()),
                // Without a flow there is nothing to load. Nothing is translated here.
                Expr::Ct { .. } if self.untracked || self.packet.tracking == Tracking::Invalid => return End::Continue,
                Expr::Ct { .. } => registers.store(REGISTER, &[0; 4]),
                Expr::Fib { flags, result } if (*flags, *result) == fib::REVERSE_PATH => {
                    registers.store(REGISTER, &u32::from(!self.spoofed).to_ne_bytes());
                }
                Expr::Fib { .. } => {
                    let local = if self.packet.to == Hop::Host { fib::LOCAL } else { 1 };
                    registers.store(REGISTER, &local.to_ne_bytes());
                }
                Expr::Immediate { register, data } => registers.store(*register, data),
                Expr::Bitwise { mask, xor } => {
                    let old = registers.first(mask.len());
                    let new: Vec<u8> = old.iter().zip(mask.iter().zip(xor)).map(|(r, (m, x))| r & m ^ x).collect();
                    registers.store(REGISTER, &new);
                }
                Expr::Compare { op, data } => {
                    let part = registers.first(data.len());
                    let holds = match *op {
                        cmp::EQ => part == data,
                        cmp::NEQ => part != data,
                        cmp::LTE => part <= data.as_slice(),
                        cmp::GTE => part >= data.as_slice(),
                        other => panic!("comparison {other}"),
                    };
                    if !holds {
                        return End::Continue;
                    }
                }
                Expr::Range { op, from, to } => {
                    let part = registers.first(from.len());
                    let inside = part >= from.as_slice() && part <= to.as_slice();
                    if inside == (*op == cmp::NEQ) {
                        return End::Continue;
                    }
                }
                Expr::Lookup { set, negated, verdict: false } => {
                    if self.is_member(set, &registers) == *negated {
                        return End::Continue;
                    }
                }
                Expr::Lookup { set, .. } => match self.target(set, registers.first(16)) {
                    Some(chain) => match self.call(&chain) {
                        End::Continue => {}
                        end => return end,
                    },
                    None => return End::Continue,
                },
                // One packet is within every limit.
                Expr::Limit { over: true, .. } | Expr::ConnectionsOver { .. } => return End::Continue,
                Expr::NoTrack => self.untracked = true,
                Expr::Counter | Expr::Log { .. } | Expr::Limit { .. } | Expr::PayloadSet { .. } => {}
                Expr::Reject { .. } => return End::Reject,
                Expr::Verdict { code, chain } => match (*code, chain) {
                    (verdict::ACCEPT, _) => return End::Accept,
                    (verdict::DROP, _) => return End::Drop,
                    (verdict::RETURN, _) => return End::Return,
                    (verdict::JUMP, Some(chain)) => return self.call(chain),
                    (verdict::GOTO, Some(chain)) => {
                        return match self.call(chain) {
                            End::Continue => End::Return,
                            end => end,
                        };
                    }
                    other => panic!("verdict {other:?}"),
                },
                Expr::Masquerade { .. }
                | Expr::Nat { .. }
                | Expr::NatByMap { .. }
                | Expr::LookupData { .. }
                | Expr::XtComment(_)
                | Expr::Foreign(_) => {
                    panic!("not on this way: {expr:?}")
                }
            }
        }
        End::Continue
    }

    /// As a bit of `NF_CT_STATE`: invalid, established, new, untracked.
    fn state(&self) -> u32 {
        match self.packet.tracking {
            _ if self.untracked => 64,
            Tracking::Invalid => 1,
            Tracking::Established => 2,
            Tracking::New => 8,
        }
    }

    fn call(&mut self, chain: &str) -> End {
        let table = self.table;
        self.chain(&table.chains[chain].1)
    }

    fn meta(&self, key: u32) -> Vec<u8> {
        let name = |hop: &Hop| match hop {
            Hop::Interface(name) => IfName::new(name).map_or([0; 16], |name| *name.key()).to_vec(),
            Hop::Host => vec![0; 16],
        };
        match key {
            meta::MARK => self.mark.to_ne_bytes().to_vec(),
            meta::IIFNAME => name(&self.packet.from),
            meta::OIFNAME => name(&self.packet.to),
            meta::L4PROTO => vec![self.packet.protocol()],
            other => panic!("meta key {other}"),
        }
    }

    fn payload(&self, from: u32, offset: u32, length: u32) -> Option<Vec<u8>> {
        if from == base::NETWORK {
            let (source, destination) = match self.family {
                Family::V4 => (12, 16),
                Family::V6 => (8, 24),
            };
            let address: IpAddr = match offset {
                offset if offset == source => self.packet.source,
                offset if offset == destination => self.packet.destination,
                other => panic!("network header offset {other}"),
            };
            return Some(key_bytes(address_key(&address), length as usize));
        }
        let header = match self.packet.transport {
            Transport::Ports { source, destination, .. } => [source.to_be_bytes(), destination.to_be_bytes()].concat(),
            Transport::Icmp { icmp_type, code } => vec![icmp_type, code, 0, 0],
            // Bytes that are nobody's ports.
            Transport::Other(_) => vec![0, 80, 0, 80],
        };
        header.get(offset as usize..(offset + length) as usize).map(<[u8]>::to_vec)
    }

    fn is_member(&self, set: &str, registers: &Registers) -> bool {
        let (spec, elements) = &self.table.sets[set];
        let key = registers.first(spec.key.len());
        match elements {
            Elements::Ports(ports) => {
                let Key::PortMember(family) = spec.key else { panic!("{set} has ports and another key") };
                ports.contains(&port_member(family, key).expect("padded as in the set"))
            }
            Elements::Ranges(ranges) => {
                let key = key.iter().fold(0u128, |value, byte| value << 8 | u128::from(*byte));
                ranges.iter().any(|(first, last)| (*first..=*last).contains(&key))
            }
            Elements::Targets(_) | Elements::Published(_) => panic!("{set} is a map"),
        }
    }

    fn target(&self, map: &str, key: &[u8]) -> Option<String> {
        let (_, Elements::Targets(targets)) = &self.table.sets[map] else { panic!("{map} is a set") };
        targets.get(&IfName::from_key(key)?).map(|target| target.chain.to_string())
    }
}

/// Names and numbers of everything, for a message.
pub(crate) fn summary(kernel: &FakeKernel) -> HashMap<Family, (usize, usize)> {
    kernel.tables.iter().map(|(family, table)| (*family, (table.chains.len(), table.sets.len()))).collect()
}
