//! nftables operations as netlink batches.
//!
//! Constants are those of `linux/netfilter/nf_tables.h`; numbers are in network order, packet data as in the packet.

use calico_policy::instruction::{PortMember, PublishedPort};
use nlink::netlink::{
    MessageBuilder, MessageIter,
    message::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST},
};

use super::{
    Nft,
    socket::{Reply, reply, set_flags},
};
use crate::{
    error::{Error, KernelError},
    family::{Family, Range},
    ifname::IfName,
    op::{ChainHead, Op, OpKind, Target},
    program::{
        self, Expr, PORT_REGISTERS, Program, REGISTER, VERDICT_REGISTER, compile, data_port_register, nat,
        port_member_key, published_key, published_value, range_key,
    },
    ruleset::{Data, Key, SetSpec, TABLE},
};

/// `NFNL_SUBSYS_NFTABLES`.
pub(super) const SUBSYSTEM: u8 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;

/// Message kinds.
pub(super) mod msg {
    pub(in crate::netlink) const NEWTABLE: u8 = 0;
    pub(in crate::netlink) const GETTABLE: u8 = 1;
    pub(in crate::netlink) const DELTABLE: u8 = 2;
    pub(in crate::netlink) const NEWCHAIN: u8 = 3;
    pub(in crate::netlink) const GETCHAIN: u8 = 4;
    pub(in crate::netlink) const DELCHAIN: u8 = 5;
    pub(in crate::netlink) const NEWRULE: u8 = 6;
    pub(in crate::netlink) const GETRULE: u8 = 7;
    pub(in crate::netlink) const DELRULE: u8 = 8;
    pub(in crate::netlink) const NEWSET: u8 = 9;
    pub(in crate::netlink) const GETSET: u8 = 10;
    pub(in crate::netlink) const DELSET: u8 = 11;
    pub(in crate::netlink) const NEWSETELEM: u8 = 12;
    pub(in crate::netlink) const GETSETELEM: u8 = 13;
    pub(in crate::netlink) const DELSETELEM: u8 = 14;
    pub(in crate::netlink) const NEWGEN: u8 = 15;
    pub(in crate::netlink) const GETGEN: u8 = 16;
}

/// `NFT_SET_INTERVAL`.
pub(super) const SET_INTERVAL: u32 = 4;
/// `NFT_SET_MAP`.
pub(super) const SET_MAP: u32 = 8;
/// `NFT_DATA_VERDICT`.
pub(super) const DATA_VERDICT: u32 = 0xffff_ff00;
/// `NFT_SET_ELEM_INTERVAL_END`.
pub(super) const ELEMENT_END: u32 = 1;
/// `NFT_LOOKUP_F_INV`.
pub(super) const LOOKUP_INVERTED: u32 = 1;

/// Ranges per message: two elements of at most 44 bytes each must fit an attribute of 64 KiB.
const RANGES_PER_MESSAGE: usize = 600;
/// Map elements per message, with chain name and comment.
const TARGETS_PER_MESSAGE: usize = 160;

/// A change in another program's chain: one rule of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ForeignOp {
    /// Put the rule at the top of a chain.
    Insert {
        /// Which table's family.
        family: Family,
        /// The table.
        table: &'static str,
        /// The chain.
        chain: String,
        /// The rule.
        program: Program,
    },
    /// Take one rule out.
    Delete {
        /// Which table's family.
        family: Family,
        /// The table.
        table: &'static str,
        /// The chain.
        chain: String,
        /// The rule's handle.
        handle: u64,
    },
}

/// The messages of one transaction.
struct Batch<'a> {
    nft: &'a Nft,
    bytes: Vec<u8>,
    /// The sequence number of each message, and which operation it belongs to.
    sequences: Vec<(u32, usize)>,
    /// Where the last message starts.
    last: usize,
    set_id: u32,
}

impl Nft {
    /// Commits operations in one transaction: all of them, or, if one fails, none.
    pub(crate) async fn commit(&self, ops: &[Op]) -> Result<(), Error> {
        let mut batch = Batch::begin(self);
        for (index, op) in ops.iter().enumerate() {
            batch.op(index, op);
        }
        batch.commit(|index| ops.get(index).map_or_else(|| "nftables transaction".to_owned(), Op::to_string)).await
    }

    /// Commits changes in other programs' tables.
    pub(crate) async fn commit_foreign(&self, ops: &[ForeignOp]) -> Result<(), Error> {
        let mut batch = Batch::begin(self);
        for (index, op) in ops.iter().enumerate() {
            batch.foreign(index, op);
        }
        batch.commit(|index| format!("{:?}", ops.get(index))).await
    }
}

/// A message of the nftables subsystem.
pub(super) fn message(kind: u8, family: u8, flags: u16) -> MessageBuilder {
    let mut message = MessageBuilder::new(u16::from(SUBSYSTEM) << 8 | u16::from(kind), NLM_F_REQUEST | flags);
    message.append_bytes(&[family, 0, 0, 0]);
    message
}

impl<'a> Batch<'a> {
    fn begin(nft: &'a Nft) -> Self {
        let mut batch = Self { nft, bytes: Vec::with_capacity(4096), sequences: Vec::new(), last: 0, set_id: 0 };
        batch.frame(BATCH_BEGIN);
        batch
    }

    fn frame(&mut self, kind: u16) {
        let mut message = MessageBuilder::new(kind, NLM_F_REQUEST);
        message.append_bytes(&[0, 0, 0, SUBSYSTEM]);
        self.push(usize::MAX, message);
    }

    fn push(&mut self, op: usize, mut message: MessageBuilder) {
        let sequence = self.nft.socket.next_sequence();
        message.set_seq(sequence);
        message.set_pid(self.nft.port());
        debug_assert!(message.oversized_nest().is_none(), "elements are cut into messages that fit");
        if op != usize::MAX {
            self.last = self.bytes.len();
        }
        self.bytes.extend_from_slice(&message.finish());
        self.sequences.push((sequence, op));
    }

    fn op(&mut self, index: usize, op: &Op) {
        let family = op.family;
        let new = |kind, flags| {
            let mut message = message(kind, family.number(), flags);
            message.append_attr_str(1, TABLE);
            message
        };
        match &op.kind {
            OpKind::AddTable => {
                let mut message = new(msg::NEWTABLE, NLM_F_CREATE);
                message.append_attr_u32_be(2, 0);
                self.push(index, message);
            }
            OpKind::DeleteTable => self.push(index, new(msg::DELTABLE, 0)),
            OpKind::AddSet { name, spec } => {
                self.set_id += 1;
                let mut message = new(msg::NEWSET, NLM_F_CREATE | NLM_F_EXCL);
                write_set(&mut message, name, *spec, self.set_id);
                self.push(index, message);
            }
            OpKind::DeleteSet { name } => self.push(index, named(new(msg::DELSET, 0), 2, name)),
            OpKind::FlushSet { name } => self.push(index, named(new(msg::DELSETELEM, 0), 2, name)),
            OpKind::AddElements { set, spec, ranges } => {
                for part in ranges.chunks(RANGES_PER_MESSAGE) {
                    let mut message = named(new(msg::NEWSETELEM, NLM_F_CREATE), 2, set);
                    write_ranges(&mut message, *spec, part);
                    self.push(index, message);
                }
            }
            OpKind::DeleteElements { set, spec, ranges } => {
                for part in ranges.chunks(RANGES_PER_MESSAGE) {
                    let mut message = named(new(msg::DELSETELEM, 0), 2, set);
                    write_ranges(&mut message, *spec, part);
                    self.push(index, message);
                }
            }
            OpKind::AddPorts { set, ports } | OpKind::DeletePorts { set, ports } => {
                let (kind, flags) = match op.kind {
                    OpKind::AddPorts { .. } => (msg::NEWSETELEM, NLM_F_CREATE),
                    _ => (msg::DELSETELEM, 0),
                };
                for part in ports.chunks(RANGES_PER_MESSAGE) {
                    let mut message = named(new(kind, flags), 2, set);
                    write_ports(&mut message, part);
                    self.push(index, message);
                }
            }
            OpKind::AddPublished { map, spec, ports } => {
                for part in ports.chunks(RANGES_PER_MESSAGE) {
                    let mut message = named(new(msg::NEWSETELEM, NLM_F_CREATE), 2, map);
                    write_published(&mut message, *spec, part, true);
                    self.push(index, message);
                }
            }
            OpKind::DeletePublished { map, spec, ports } => {
                for part in ports.chunks(RANGES_PER_MESSAGE) {
                    let mut message = named(new(msg::DELSETELEM, 0), 2, map);
                    write_published(&mut message, *spec, part, false);
                    self.push(index, message);
                }
            }
            OpKind::AddTargets { map, targets } => {
                for part in targets.chunks(TARGETS_PER_MESSAGE) {
                    let mut message = named(new(msg::NEWSETELEM, NLM_F_CREATE), 2, map);
                    write_targets(&mut message, part.iter().map(|(interface, target)| (interface, Some(target))));
                    self.push(index, message);
                }
            }
            OpKind::DeleteTargets { map, interfaces } => {
                for part in interfaces.chunks(TARGETS_PER_MESSAGE) {
                    let mut message = named(new(msg::DELSETELEM, 0), 2, map);
                    write_targets(&mut message, part.iter().map(|interface| (interface, None)));
                    self.push(index, message);
                }
            }
            OpKind::AddChain(head) => {
                let mut message = new(msg::NEWCHAIN, NLM_F_CREATE | NLM_F_EXCL);
                write_chain(&mut message, head);
                self.push(index, message);
            }
            OpKind::DeleteChain { name } => self.push(index, named(new(msg::DELCHAIN, 0), 3, name)),
            OpKind::FlushChain { name } => self.push(index, named(new(msg::DELRULE, 0), 2, name)),
            OpKind::AddRule { chain, rule } => {
                let mut message = named(new(msg::NEWRULE, NLM_F_CREATE | NLM_F_APPEND), 2, chain);
                write_program(&mut message, &compile(rule, family));
                self.push(index, message);
            }
        }
    }

    fn foreign(&mut self, index: usize, op: &ForeignOp) {
        match op {
            ForeignOp::Insert { family, table, chain, program } => {
                let mut message = message(msg::NEWRULE, family.number(), NLM_F_CREATE);
                message.append_attr_str(1, table);
                let mut message = named(message, 2, chain);
                write_program(&mut message, program);
                self.push(index, message);
            }
            ForeignOp::Delete { family, table, chain, handle } => {
                let mut message = message(msg::DELRULE, family.number(), 0);
                message.append_attr_str(1, table);
                let mut message = named(message, 2, chain);
                message.append_attr_u64_be(3, *handle);
                self.push(index, message);
            }
        }
    }

    /// Sends the batch. Errors come for each message that failed, the acknowledgement of the last one when all is
    /// committed; all of it is queued when the send returns.
    async fn commit(mut self, describe: impl Fn(usize) -> String) -> Result<(), Error> {
        let Some((wanted, _)) = self.sequences.last().copied().filter(|(_, op)| *op != usize::MAX) else {
            return Ok(());
        };
        set_flags(&mut self.bytes[self.last..], NLM_F_ACK);
        self.frame(BATCH_END);
        let what = "nftables transaction";
        self.nft.socket.send(what, &self.bytes).await?;
        let mut refused: Option<KernelError> = None;
        let mut acknowledged = false;
        loop {
            let data = match self.nft.socket.try_receive(what)? {
                Some(data) => data,
                None => match refused {
                    Some(error) => return Err(error.into()),
                    None if acknowledged => return Ok(()),
                    None => self.nft.socket.receive(what).await?,
                },
            };
            for message in MessageIter::new(&data) {
                let (header, payload) =
                    message.map_err(|e| Error::Netlink { operation: what.to_owned(), reason: e.to_string() })?;
                let Some((_, op)) = self.sequences.iter().find(|(sequence, _)| *sequence == header.nlmsg_seq) else {
                    continue;
                };
                match reply(header, payload) {
                    Reply::End(Ok(())) => acknowledged |= header.nlmsg_seq == wanted,
                    // The first error is the cause, those after it are often its consequences.
                    Reply::End(Err((errno, detail))) if refused.is_none() => {
                        refused = Some(KernelError { operation: describe(*op), errno, detail });
                    }
                    _ => {}
                }
            }
        }
    }
}

fn named(mut message: MessageBuilder, attribute: u16, name: &str) -> MessageBuilder {
    message.append_attr_str(attribute, name);
    message
}

/// `NFTNL_UDATA_*_COMMENT` is 0 for rules, chains and elements.
fn write_comment(message: &mut MessageBuilder, attribute: u16, comment: &str) {
    let mut data = vec![0, comment.len() as u8 + 1];
    data.extend_from_slice(comment.as_bytes());
    data.push(0);
    message.append_attr(attribute, &data);
}

fn write_chain(message: &mut MessageBuilder, head: &ChainHead) {
    message.append_attr_str(3, &head.name);
    if let Some(base) = &head.base {
        let hook = message.nest_start(4);
        message.append_attr_u32_be(1, base.hook as u32);
        message.append_attr_u32_be(2, base.priority as u32);
        message.nest_end(hook);
        message.append_attr_u32_be(5, program::verdict::ACCEPT as u32);
        message.append_attr_str(7, if base.nat { "nat" } else { "filter" });
    }
    if let Some(comment) = &head.comment {
        write_comment(message, 12, comment);
    }
}

/// The number by which `nft` knows the type, for display only.
pub(super) fn key_type(key: Key) -> u32 {
    match key {
        Key::Address(Family::V4) => 7,
        Key::Address(Family::V6) => 8,
        Key::Protocol => 12,
        Key::Port => 13,
        Key::InterfaceName => 41,
        // Six bits for each part, the first one highest.
        Key::PortMember(family) => {
            key_type(Key::Address(family)) << 12 | key_type(Key::Protocol) << 6 | key_type(Key::Port)
        }
        Key::ProtocolPort => key_type(Key::Protocol) << 6 | key_type(Key::Port),
        Key::Twice(family) => key_type(Key::Address(family)) << 6 | key_type(Key::Address(family)),
    }
}

/// Likewise what a map leads to; `None` for a set.
pub(super) fn data_type(data: Data) -> Option<u32> {
    match data {
        Data::None => None,
        Data::Verdict => Some(DATA_VERDICT),
        Data::Destination(family) => Some(key_type(Key::Address(family)) << 6 | key_type(Key::Port)),
    }
}

fn write_set(message: &mut MessageBuilder, name: &str, spec: SetSpec, id: u32) {
    let flags = if spec.interval { SET_INTERVAL } else { 0 } | if spec.data == Data::None { 0 } else { SET_MAP };
    message.append_attr_str(2, name);
    message.append_attr_u32_be(3, flags);
    message.append_attr_u32_be(4, key_type(spec.key));
    message.append_attr_u32_be(5, spec.key.len() as u32);
    if let Some(data) = data_type(spec.data) {
        message.append_attr_u32_be(6, data);
        message.append_attr_u32_be(7, spec.data.len() as u32);
    }
    message.append_attr_u32_be(10, id);
    // `nft` prints the keys in the byte order that the user data names (libnftnl's attribute 0): 1 is the host's, as
    // for text, 2 the network's.
    let order: u32 = if spec.key == Key::InterfaceName { 1 } else { 2 };
    let mut user_data = vec![0, 4];
    user_data.extend_from_slice(&order.to_ne_bytes());
    // The same of a map's values, attribute 1.
    if let Data::Destination(_) = spec.data {
        user_data.extend_from_slice(&[1, 4]);
        user_data.extend_from_slice(&2u32.to_ne_bytes());
    }
    message.append_attr(13, &user_data);
    if spec.counts() {
        // For the elements to come; said of each element alone, `nft` could not read what it prints.
        let counter = message.nest_start(17);
        message.append_attr_str(1, expr_name(&Expr::Counter));
        message.nest_end(counter);
    }
}

fn write_key(message: &mut MessageBuilder, key: &[u8]) {
    let nest = message.nest_start(1);
    message.append_attr(1, key);
    message.nest_end(nest);
}

/// A range in an interval set is its first key and the key after its last, flagged as end. A range up to the
/// greatest key has no end.
fn write_ranges(message: &mut MessageBuilder, spec: SetSpec, ranges: &[Range]) {
    let list = message.nest_start(3);
    for (first, last) in ranges {
        let element = message.nest_start(1);
        write_key(message, &range_key(spec.key, *first));
        message.nest_end(element);
        if spec.interval && *last < spec.key.greatest() {
            let element = message.nest_start(1);
            write_key(message, &range_key(spec.key, last + 1));
            message.append_attr_u32_be(3, ELEMENT_END);
            message.nest_end(element);
        }
    }
    message.nest_end(list);
}

fn write_ports(message: &mut MessageBuilder, ports: &[PortMember]) {
    let list = message.nest_start(3);
    for member in ports {
        let element = message.nest_start(1);
        write_key(message, &port_member_key(member));
        message.nest_end(element);
    }
    message.nest_end(list);
}

/// The kernel finds an element to delete by its key.
fn write_published(message: &mut MessageBuilder, spec: SetSpec, ports: &[PublishedPort], with_values: bool) {
    let exact = spec.key != Key::ProtocolPort;
    let list = message.nest_start(3);
    for port in ports {
        let element = message.nest_start(1);
        write_key(message, &published_key(port, exact));
        if with_values {
            write_data(message, 2, &published_value(port));
        }
        message.nest_end(element);
    }
    message.nest_end(list);
}

fn write_targets<'a>(message: &mut MessageBuilder, targets: impl Iterator<Item = (&'a IfName, Option<&'a Target>)>) {
    let list = message.nest_start(3);
    for (interface, target) in targets {
        let element = message.nest_start(1);
        write_key(message, interface.key());
        if let Some(target) = target {
            let data = message.nest_start(2);
            let code = if target.goto { program::verdict::GOTO } else { program::verdict::JUMP };
            write_verdict(message, code, Some(&target.chain));
            message.nest_end(data);
            write_comment(message, 6, &target.comment);
        }
        message.nest_end(element);
    }
    message.nest_end(list);
}

fn write_verdict(message: &mut MessageBuilder, code: i32, chain: Option<&str>) {
    let verdict = message.nest_start(2);
    message.append_attr_u32_be(1, code as u32);
    if let Some(chain) = chain {
        message.append_attr_str(2, chain);
    }
    message.nest_end(verdict);
}

fn write_program(message: &mut MessageBuilder, program: &Program) {
    let list = message.nest_start(4);
    for expr in &program.exprs {
        let element = message.nest_start(1);
        message.append_attr_str(1, expr_name(expr));
        let data = message.nest_start(2);
        write_expr(message, expr);
        message.nest_end(data);
        message.nest_end(element);
    }
    message.nest_end(list);
    if let Some(comment) = &program.comment {
        write_comment(message, 7, comment);
    }
}

fn expr_name(expr: &Expr) -> &str {
    match expr {
        Expr::Meta { .. } | Expr::MetaSet { .. } => "meta",
        Expr::Payload { .. } | Expr::PayloadSet { .. } => "payload",
        Expr::Ct { .. } => "ct",
        Expr::Fib { .. } => "fib",
        Expr::Bitwise { .. } => "bitwise",
        Expr::Compare { .. } => "cmp",
        Expr::Range { .. } => "range",
        Expr::Lookup { .. } | Expr::LookupData { .. } => "lookup",
        Expr::Counter => "counter",
        Expr::Verdict { .. } | Expr::Immediate { .. } => "immediate",
        Expr::Log { .. } => "log",
        Expr::Masquerade { .. } => "masq",
        Expr::Nat { .. } | Expr::NatByMap { .. } => "nat",
        Expr::NoTrack => "notrack",
        Expr::Reject { .. } => "reject",
        Expr::Limit { .. } => "limit",
        Expr::ConnectionsOver { .. } => "connlimit",
        Expr::XtComment(_) => "match",
        Expr::Foreign(name) => name,
    }
}

fn write_data(message: &mut MessageBuilder, attribute: u16, data: &[u8]) {
    let nest = message.nest_start(attribute);
    message.append_attr(1, data);
    message.nest_end(nest);
}

fn write_expr(message: &mut MessageBuilder, expr: &Expr) {
    let mut numbers = |values: &[(u16, u32)]| {
        for (attribute, value) in values {
            message.append_attr_u32_be(*attribute, *value);
        }
    };
    match expr {
        Expr::Meta { key, register } => numbers(&[(2, *key), (1, *register)]),
        Expr::MetaSet { key } => numbers(&[(2, *key), (3, REGISTER)]),
        Expr::Payload { base, offset, length, register } => {
            numbers(&[(1, *register), (2, *base), (3, *offset), (4, *length)]);
        }
        Expr::PayloadSet { base, offset, length, checksum } => {
            numbers(&[(5, REGISTER), (2, *base), (3, *offset), (4, *length)]);
            numbers(&[(6, u32::from(checksum.is_some())), (7, checksum.unwrap_or(0)), (8, 0)]);
        }
        Expr::Ct { key } => numbers(&[(2, *key), (1, REGISTER)]),
        Expr::Fib { flags, result } => numbers(&[(1, REGISTER), (2, *result), (3, *flags)]),
        Expr::Masquerade { flags, ports } => {
            numbers(&[(1, *flags)]);
            if *ports {
                numbers(&[(2, REGISTER), (3, PORT_REGISTERS.0)]);
            }
        }
        Expr::Nat { destination, family, flags, ports } => {
            numbers(&[(1, u32::from(*destination)), (2, *family), (3, REGISTER), (7, *flags)]);
            if *ports {
                numbers(&[(5, PORT_REGISTERS.0), (6, PORT_REGISTERS.1)]);
            }
        }
        Expr::NatByMap { family } => {
            let flags = nat::MAP_ADDRESSES | nat::PORTS_GIVEN;
            numbers(&[(1, 1), (2, *family), (3, REGISTER), (5, data_port_register(*family)), (7, flags)]);
        }
        Expr::Immediate { register, data } => {
            numbers(&[(1, *register)]);
            write_data(message, 2, data);
        }
        Expr::Reject { kind, code } => {
            numbers(&[(1, *kind)]);
            message.append_attr(2, &[*code]);
        }
        Expr::Limit { packets, unit, burst, over } => {
            message.append_attr_u64_be(1, *packets);
            message.append_attr_u64_be(2, *unit);
            message.append_attr_u32_be(3, *burst);
            message.append_attr_u32_be(4, 0);
            message.append_attr_u32_be(5, u32::from(*over));
        }
        // Flag 1: more than so many.
        Expr::ConnectionsOver { count } => numbers(&[(1, *count), (2, 1)]),
        Expr::Bitwise { mask, xor } => {
            numbers(&[(1, REGISTER), (2, REGISTER), (3, mask.len() as u32)]);
            write_data(message, 4, mask);
            write_data(message, 5, xor);
        }
        Expr::Compare { op, data } => {
            numbers(&[(1, REGISTER), (2, *op)]);
            write_data(message, 3, data);
        }
        Expr::Range { op, from, to } => {
            numbers(&[(1, REGISTER), (2, *op)]);
            write_data(message, 3, from);
            write_data(message, 4, to);
        }
        Expr::Lookup { set, negated, verdict } => {
            message.append_attr_str(1, set);
            message.append_attr_u32_be(2, REGISTER);
            if *verdict {
                message.append_attr_u32_be(3, VERDICT_REGISTER);
            }
            if *negated {
                message.append_attr_u32_be(5, LOOKUP_INVERTED);
            }
        }
        Expr::LookupData { map } => {
            message.append_attr_str(1, map);
            message.append_attr_u32_be(2, REGISTER);
            message.append_attr_u32_be(3, REGISTER);
        }
        Expr::Verdict { code, chain } => {
            numbers(&[(1, VERDICT_REGISTER)]);
            let data = message.nest_start(2);
            write_verdict(message, *code, chain.as_deref());
            message.nest_end(data);
        }
        Expr::Log { prefix, level } => {
            message.append_attr_str(2, prefix);
            message.append_attr_u32_be(5, *level);
        }
        // The last two are read only.
        Expr::Counter | Expr::NoTrack | Expr::XtComment(_) | Expr::Foreign(_) => {}
    }
}
