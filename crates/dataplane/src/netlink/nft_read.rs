//! nftables objects read back.

use std::{collections::HashMap, time::Duration};

use nlink::netlink::{AttrIter, MessageBuilder};

use super::{
    Nft,
    nft_write::{ELEMENT_END, LOOKUP_INVERTED, SET_INTERVAL, SET_MAP, data_type, key_type, message, msg},
    socket::{number, text},
};
use crate::{
    error::Error,
    family::{Family, Range},
    ifname::IfName,
    op::Target,
    program::{
        self, Expr, PORT_REGISTERS, Program, REGISTER, VERDICT_REGISTER, content_fingerprint, data_port_register, nat,
        port_member, published_port, range_number,
    },
    ruleset::{Base, Data, Hook, Key, SetSpec, TABLE},
    table::{ReadBase, ReadChain, ReadElements, ReadSet, ReadTable},
    tracker::{Fingerprint, fingerprint},
};

/// How often a reading is repeated while others change the rules.
const ATTEMPTS: u32 = 8;
/// `NFT_TABLE_F_DORMANT`.
const TABLE_DORMANT: u32 = 1;
/// `NFT_SET_ANONYMOUS`.
const SET_ANONYMOUS: u32 = 1;

/// The chains of another program that may carry a rule of ours.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct FilterTable {
    /// Chain name → policy is drop; regular chains have none.
    pub chains: HashMap<String, bool>,
    /// The rules of the chains that were asked for, in order.
    pub rules: Vec<FilterRule>,
}

/// A rule in another program's chain.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FilterRule {
    /// Its chain.
    pub chain: String,
    /// Its handle.
    pub handle: u64,
    /// What it does.
    pub program: Program,
}

impl Nft {
    /// Whether our table exists, without reading it.
    pub(crate) async fn has_table(&self, family: Family) -> Result<bool, Error> {
        Ok(self.table_flags(family, TABLE).await?.is_some())
    }

    /// Reads our table, whole and consistent; `None` if there is none.
    pub(crate) async fn read_table(&self, family: Family) -> Result<Option<ReadTable>, Error> {
        for attempt in 0..ATTEMPTS {
            let generation = self.generation().await?;
            match self.read_table_once(family).await {
                Ok(Some(table)) if self.generation().await? == generation => return Ok(table),
                Err(error) if !error.is_stale() => return Err(error),
                _ => tracing::debug!(%family, attempt, "the rules changed while they were read"),
            }
            tokio::time::sleep(Duration::from_millis(1 << attempt)).await;
        }
        Err(Error::Unsettled { what: format!("table {family} {TABLE}"), attempts: ATTEMPTS })
    }

    /// The chains of a foreign table and the rules of some of them.
    pub(crate) async fn read_filter(&self, family: Family, table: &str, chains: &[&str]) -> Result<FilterTable, Error> {
        let mut read = FilterTable::default();
        if self.table_flags(family, table).await?.is_none() {
            return Ok(read);
        }
        let what = format!("list chains of {family} {table}");
        self.socket
            .dump(&what, message(msg::GETCHAIN, family.number(), 0), |_, payload| {
                let attributes = attributes(payload);
                if attributes.text(1) == table {
                    read.chains.insert(attributes.text(3), attributes.has(4) && attributes.number(5) == 0);
                }
            })
            .await?;
        for chain in chains.iter().filter(|chain| read.chains.contains_key(**chain)) {
            let mut request = message(msg::GETRULE, family.number(), 0);
            request.append_attr_str(1, table);
            request.append_attr_str(2, chain);
            let mut rules = Vec::new();
            self.socket
                .dump(&format!("list chain {family} {table} {chain}"), request, |_, payload| {
                    let attributes = attributes(payload);
                    let (chain, program) = read_rule(&attributes);
                    rules.push(FilterRule { chain, handle: attributes.long(3), program });
                })
                .await?;
            read.rules.append(&mut rules);
        }
        Ok(read)
    }

    async fn generation(&self) -> Result<u32, Error> {
        let mut generation = 0;
        self.socket
            .get("read the nftables generation", message(msg::GETGEN, 0, 0), |_, payload| {
                generation = attributes(payload).number(1);
            })
            .await?;
        Ok(generation)
    }

    async fn table_flags(&self, family: Family, table: &str) -> Result<Option<u32>, Error> {
        let mut flags = None;
        let what = format!("list tables of family {family}");
        self.socket
            .dump(&what, message(msg::GETTABLE, family.number(), 0), |_, payload| {
                let attributes = attributes(payload);
                if attributes.text(1) == table {
                    flags = Some(attributes.number(2));
                }
            })
            .await?;
        Ok(flags)
    }

    /// `Ok(None)`: it changed meanwhile. `Ok(Some(None))`: no such table.
    async fn read_table_once(&self, family: Family) -> Result<Option<Option<ReadTable>>, Error> {
        let Some(flags) = self.table_flags(family, TABLE).await? else { return Ok(Some(None)) };
        let mut table = ReadTable { dormant: flags & TABLE_DORMANT != 0, ..ReadTable::default() };
        let mut interrupted = self.read_chains(family, &mut table).await?;
        let mut request = message(msg::GETSET, family.number(), 0);
        request.append_attr_str(1, TABLE);
        let mut sets = Vec::new();
        interrupted |= self
            .socket
            .dump(&format!("list sets of {family} {TABLE}"), request, |_, payload| {
                let attributes = attributes(payload);
                if attributes.number(3) & SET_ANONYMOUS == 0 {
                    sets.push((attributes.text(2), read_spec(&attributes)));
                }
            })
            .await?;
        for (name, spec) in sets {
            let (elements, changed) = self.read_elements(family, &name, spec).await?;
            interrupted |= changed;
            table.sets.insert(name, ReadSet { spec, elements });
        }
        Ok((!interrupted).then_some(Some(table)))
    }

    async fn read_chains(&self, family: Family, table: &mut ReadTable) -> Result<bool, Error> {
        let mut bases = HashMap::new();
        let what = format!("list chains of {family} {TABLE}");
        let mut interrupted = self
            .socket
            .dump(&what, message(msg::GETCHAIN, family.number(), 0), |_, payload| {
                let attributes = attributes(payload);
                if attributes.text(1) == TABLE {
                    bases.insert(attributes.text(3), read_base(&attributes));
                }
            })
            .await?;
        let mut request = message(msg::GETRULE, family.number(), 0);
        request.append_attr_str(1, TABLE);
        let mut rules: HashMap<String, Vec<Fingerprint>> = HashMap::new();
        interrupted |= self
            .socket
            .dump(&format!("list rules of {family} {TABLE}"), request, |_, payload| {
                let (chain, program) = read_rule(&attributes(payload));
                rules.entry(chain).or_default().push(fingerprint(&program));
            })
            .await?;
        for (name, base) in bases {
            let content = content_fingerprint(rules.remove(&name).unwrap_or_default());
            table.chains.insert(name, ReadChain { content, base });
        }
        Ok(interrupted)
    }

    async fn read_elements(
        &self,
        family: Family,
        set: &str,
        spec: Option<SetSpec>,
    ) -> Result<(ReadElements, bool), Error> {
        let Some(spec) = spec else { return Ok((ReadElements::Broken, false)) };
        let mut request: MessageBuilder = message(msg::GETSETELEM, family.number(), 0);
        request.append_attr_str(1, TABLE);
        request.append_attr_str(2, set);
        let mut keys: Vec<(u128, bool)> = Vec::new();
        let (mut targets, mut ports, mut published) = (HashMap::new(), Vec::new(), Vec::new());
        let mut broken = false;
        let interrupted = self
            .socket
            .dump(&format!("list set {family} {TABLE} {set}"), request, |_, payload| {
                for (_, element) in attributes(payload).list(3) {
                    let element = Attributes(element);
                    let key = element.nested(1).find(1).unwrap_or_default();
                    let understood = key.len() == spec.key.len()
                        && match (spec.data, spec.key) {
                            (Data::Destination(family), _) => {
                                let port = published_port(family, key, &element.data(2));
                                published.extend(port);
                                port.is_some()
                            }
                            (Data::Verdict, _) => {
                                let named = IfName::from_key(key).zip(read_target(&element));
                                let named = named.map(|(interface, target)| (interface, fingerprint(&target)));
                                targets.extend(named);
                                named.is_some()
                            }
                            (Data::None, Key::PortMember(family)) => {
                                let member = port_member(family, key);
                                ports.extend(member);
                                member.is_some()
                            }
                            (Data::None, _) => {
                                let number = range_number(spec.key, key);
                                keys.extend(number.map(|number| (number, element.number(3) & ELEMENT_END != 0)));
                                number.is_some()
                            }
                        };
                    broken |= !understood;
                }
            })
            .await?;
        let elements = match (spec.data, spec.key) {
            _ if broken => ReadElements::Broken,
            (Data::Destination(_), _) => ReadElements::Published(published),
            (Data::Verdict, _) => ReadElements::Targets(targets),
            (Data::None, Key::PortMember(_)) => ReadElements::Ports(ports),
            (Data::None, _) => ranges(spec, keys).map_or(ReadElements::Broken, ReadElements::Ranges),
        };
        Ok((elements, interrupted))
    }
}

/// Pairs starts with ends. `None` if they do not pair, which nobody but a stranger can bring about.
fn ranges(spec: SetSpec, mut keys: Vec<(u128, bool)>) -> Option<Vec<Range>> {
    if !spec.interval {
        return Some(keys.into_iter().map(|(key, _)| (key, key)).collect());
    }
    // At the same key the end of one range comes before the start of the next.
    keys.sort_unstable_by_key(|(key, end)| (*key, !end));
    let mut ranges = Vec::with_capacity(keys.len() / 2 + 1);
    let mut start = None;
    for (key, end) in keys {
        match (start, end) {
            (None, false) => start = Some(key),
            (Some(first), true) if key > first => {
                ranges.push((first, key - 1));
                start = None;
            }
            // The kernel keeps an end at the very first key of some sets, which says: not open from below.
            (None, true) if key == 0 && ranges.is_empty() => {}
            _ => return None,
        }
    }
    ranges.extend(start.map(|first| (first, spec.key.greatest())));
    Some(ranges)
}

/// The attributes after a netfilter header, or of a nest.
#[derive(Clone, Copy)]
pub(super) struct Attributes<'a>(&'a [u8]);

impl<'a> From<&'a [u8]> for Attributes<'a> {
    fn from(nest: &'a [u8]) -> Self {
        Self(nest)
    }
}

pub(super) fn attributes(payload: &[u8]) -> Attributes<'_> {
    Attributes(payload.get(4..).unwrap_or_default())
}

impl<'a> Attributes<'a> {
    pub(super) fn find(self, wanted: u16) -> Option<&'a [u8]> {
        AttrIter::new(self.0).find(|(kind, _)| *kind == wanted).map(|(_, payload)| payload)
    }

    fn has(self, wanted: u16) -> bool {
        self.find(wanted).is_some()
    }

    pub(super) fn nested(self, wanted: u16) -> Attributes<'a> {
        Attributes(self.find(wanted).unwrap_or_default())
    }

    pub(super) fn list(self, wanted: u16) -> AttrIter<'a> {
        AttrIter::new(self.find(wanted).unwrap_or_default())
    }

    pub(super) fn text(self, wanted: u16) -> String {
        self.find(wanted).map(text).unwrap_or_default()
    }

    fn number(self, wanted: u16) -> u32 {
        self.find(wanted).map(number).unwrap_or_default()
    }

    pub(super) fn long(self, wanted: u16) -> u64 {
        self.find(wanted).and_then(|b| b.first_chunk()).map_or(0, |b| u64::from_be_bytes(*b))
    }

    pub(super) fn data(self, wanted: u16) -> Vec<u8> {
        self.nested(wanted).find(1).unwrap_or_default().to_vec()
    }
}

fn read_base(chain: &Attributes<'_>) -> ReadBase {
    if !chain.has(4) {
        return ReadBase::Regular;
    }
    let nat = match chain.text(7).as_str() {
        "nat" => true,
        "filter" => false,
        _ => return ReadBase::Foreign,
    };
    let hook = [Hook::Prerouting, Hook::Input, Hook::Forward, Hook::Output, Hook::Postrouting];
    let hook = hook.into_iter().find(|hook| *hook as u32 == chain.nested(4).number(1));
    match hook {
        Some(hook) if chain.number(5) == program::verdict::ACCEPT as u32 => {
            ReadBase::Ours(Base { nat, hook, priority: chain.nested(4).number(2) as i32 })
        }
        _ => ReadBase::Foreign,
    }
}

/// `None` for a kind that we never make.
fn read_spec(set: &Attributes<'_>) -> Option<SetSpec> {
    let flags = set.number(3);
    let of_family = |family| [Key::Address(family), Key::PortMember(family), Key::Twice(family)];
    let families = Family::ALL.into_iter().flat_map(of_family);
    let mut keys = families.chain([Key::Port, Key::Protocol, Key::InterfaceName, Key::ProtocolPort]);
    let key = keys.find(|key| key_type(*key) == set.number(4))?;
    let maps = [Data::Verdict, Data::Destination(Family::V4), Data::Destination(Family::V6)];
    let data = match flags & SET_MAP {
        0 => Data::None,
        _ => maps.into_iter().find(|data| data_type(*data) == Some(set.number(6)))?,
    };
    let known = flags & !(SET_INTERVAL | SET_MAP) == 0;
    let right_length = set.number(5) as usize == key.len();
    let right_data = !matches!(data, Data::Destination(_)) || set.number(7) as usize == data.len();
    (known && right_length && right_data).then_some(SetSpec { key, interval: flags & SET_INTERVAL != 0, data })
}

/// An element that leads to a chain.
pub(super) fn read_target(element: &Attributes<'_>) -> Option<Target> {
    let verdict = element.nested(2).nested(2);
    let goto = match verdict.number(1) as i32 {
        program::verdict::JUMP => false,
        program::verdict::GOTO => true,
        _ => return None,
    };
    let comment = read_comment(element.find(6)).unwrap_or_default();
    Some(Target { chain: verdict.text(2).into(), goto, comment: comment.into() })
}

/// The comment among user data: type, length, text.
pub(super) fn read_comment(user_data: Option<&[u8]>) -> Option<String> {
    let mut rest = user_data?;
    while let [kind, length, tail @ ..] = rest {
        let (value, next) = tail.split_at_checked(usize::from(*length))?;
        if *kind == 0 {
            return Some(text(value));
        }
        rest = next;
    }
    None
}

/// A rule's chain and program.
pub(super) fn read_rule(rule: &Attributes<'_>) -> (String, Program) {
    let exprs = rule.list(4).map(|(_, expr)| {
        let expr = Attributes(expr);
        read_expr(&expr.text(1), expr.nested(2))
    });
    (rule.text(2), Program { exprs: exprs.collect(), comment: read_comment(rule.find(7)) })
}

/// One expression; whatever differs from what we write becomes [`Expr::Foreign`].
fn read_expr(name: &str, data: Attributes<'_>) -> Expr {
    let register = |attribute| data.number(attribute) == REGISTER;
    let expr = match name {
        "meta" if data.has(1) => Some(Expr::Meta { key: data.number(2), register: data.number(1) }),
        "meta" => register(3).then(|| Expr::MetaSet { key: data.number(2) }),
        "payload" => read_payload(data),
        "ct" => (register(1) && !data.has(3)).then(|| Expr::Ct { key: data.number(2) }),
        "fib" => register(1).then(|| Expr::Fib { result: data.number(2), flags: data.number(3) }),
        // Operation 0 is mask and xor; shifts have other numbers.
        "bitwise" => (register(1) && register(2) && data.number(6) == 0)
            .then(|| Expr::Bitwise { mask: data.data(4), xor: data.data(5) }),
        "cmp" => register(1).then(|| Expr::Compare { op: data.number(2), data: data.data(3) }),
        "range" => register(1).then(|| Expr::Range { op: data.number(2), from: data.data(3), to: data.data(4) }),
        "lookup" if data.has(3) && data.number(3) == REGISTER => {
            register(2).then(|| Expr::LookupData { map: data.text(1) })
        }
        "lookup" => {
            let verdict = data.has(3) && data.number(3) == VERDICT_REGISTER;
            (register(2) && (verdict || !data.has(3))).then(|| Expr::Lookup {
                set: data.text(1),
                negated: data.number(5) & LOOKUP_INVERTED != 0,
                verdict,
            })
        }
        "counter" => Some(Expr::Counter),
        "immediate" if data.number(1) == VERDICT_REGISTER => {
            let verdict = data.nested(2).nested(2);
            let chain = verdict.has(2).then(|| verdict.text(2));
            Some(Expr::Verdict { code: verdict.number(1) as i32, chain })
        }
        "immediate" => Some(Expr::Immediate { register: data.number(1), data: data.data(2) }),
        "log" if !data.has(1) => Some(Expr::Log { prefix: data.text(2), level: data.number(5) }),
        "masq" | "nat" => read_nat(name, data),
        "notrack" => Some(Expr::NoTrack),
        "reject" => {
            let code = data.find(2).and_then(|code| code.first().copied()).unwrap_or_default();
            Some(Expr::Reject { kind: data.number(1), code })
        }
        // Type 0 counts packets.
        "limit" if data.number(4) == 0 => Some(Expr::Limit {
            packets: data.long(1),
            unit: data.long(2),
            burst: data.number(3),
            over: data.number(5) & 1 != 0,
        }),
        "connlimit" if data.number(2) == 1 => Some(Expr::ConnectionsOver { count: data.number(1) }),
        "match" if data.text(1) == "comment" => {
            let info = data.find(3).unwrap_or_default();
            let end = info.iter().position(|byte| *byte == 0).unwrap_or(info.len());
            Some(Expr::XtComment(String::from_utf8_lossy(&info[..end]).into_owned()))
        }
        _ => None,
    };
    expr.unwrap_or_else(|| Expr::Foreign(name.to_owned()))
}

fn read_payload(data: Attributes<'_>) -> Option<Expr> {
    let (base, offset, length) = (data.number(2), data.number(3), data.number(4));
    if data.has(1) {
        return Some(Expr::Payload { base, offset, length, register: data.number(1) });
    }
    let checksum = match data.number(6) {
        0 => None,
        1 => Some(data.number(7)),
        _ => return None,
    };
    (data.number(5) == REGISTER && data.number(8) == 0).then_some(Expr::PayloadSet { base, offset, length, checksum })
}

/// The kernel gives the greatest address always, also if it is the least.
fn read_nat(name: &str, data: Attributes<'_>) -> Option<Expr> {
    let register = |attribute, wanted| data.number(attribute) == wanted;
    if name == "masq" {
        let ports = data.has(2);
        let right = !ports || (register(2, REGISTER) && register(3, PORT_REGISTERS.0));
        return right.then(|| Expr::Masquerade { flags: data.number(1), ports });
    }
    let ports = data.has(5);
    if let Some(by_map) = read_nat_by_map(data) {
        return Some(by_map);
    }
    let right = register(3, REGISTER)
        && (!data.has(4) || register(4, REGISTER))
        && (!ports || (register(5, PORT_REGISTERS.0) && register(6, PORT_REGISTERS.1)));
    let (destination, family) = (data.number(1) == 1, data.number(2));
    right.then(|| Expr::Nat { destination, family, flags: data.number(7), ports })
}

/// A translation whose address and port lie behind each other, as a map's value has them.
fn read_nat_by_map(data: Attributes<'_>) -> Option<Expr> {
    let (family, port) = (data.number(2), data.number(5));
    let addresses = data.number(3) == REGISTER && (!data.has(4) || data.number(4) == REGISTER);
    let ports = port == data_port_register(family) && (!data.has(6) || data.number(6) == port);
    let whole = data.number(1) == 1 && data.number(7) == nat::MAP_ADDRESSES | nat::PORTS_GIVEN;
    (addresses && ports && whole).then_some(Expr::NatByMap { family })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_and_ends_are_paired() {
        let spec = SetSpec::set(Key::Address(Family::V4), true);
        let all = u128::from(u32::MAX);
        assert_eq!(
            ranges(spec, vec![(20, true), (10, false), (20, false), (30, true)]),
            Some(vec![(10, 19), (20, 29)])
        );
        assert_eq!(ranges(spec, vec![(5, false)]), Some(vec![(5, all)]), "up to the greatest key");
        assert_eq!(ranges(spec, vec![(0, true), (5, false), (6, true)]), Some(vec![(5, 5)]));
        assert_eq!(ranges(spec, vec![(5, false), (7, false), (9, true)]), None);
        assert_eq!(ranges(spec, vec![(5, true)]), None);
        assert_eq!(ranges(SetSpec::set(Key::Port, false), vec![(80, false)]), Some(vec![(80, 80)]));
    }

    #[test]
    fn a_comment_is_found_among_other_user_data() {
        assert_eq!(read_comment(Some(&[7, 1, 9, 0, 3, b'h', b'i', 0])), Some("hi".to_owned()));
        assert_eq!(read_comment(Some(&[0, 9, b'h'])), None, "cut off");
        assert_eq!(read_comment(None), None);
    }
}
