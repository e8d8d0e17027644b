//! Operations on nftables objects, and their grouping into transactions.

use std::{fmt, sync::Arc};

use calico_policy::instruction::{PortMember, PublishedPort};

use crate::{
    family::{Family, Range},
    ifname::IfName,
    ruleset::{Chain, Rule, SetSpec, TABLE},
};

/// One operation on one family's table.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Op {
    /// Which table.
    pub family: Family,
    /// What to do.
    pub kind: OpKind,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum OpKind {
    /// Create the table, or wake it up if somebody put it to sleep; no error if it is there.
    AddTable,
    /// Delete it with all its content.
    DeleteTable,
    /// Create a set or map.
    AddSet { name: String, spec: SetSpec },
    /// Delete it.
    DeleteSet { name: String },
    /// Remove all elements, whatever they are.
    FlushSet { name: String },
    /// Add elements to a set.
    AddElements { set: String, spec: SetSpec, ranges: Vec<Range> },
    /// Remove elements from a set.
    DeleteElements { set: String, spec: SetSpec, ranges: Vec<Range> },
    /// Add members to a set of [`crate::ruleset::Key::PortMember`]. They are of the operation's family.
    AddPorts { set: String, ports: Vec<PortMember> },
    /// Remove members from such a set.
    DeletePorts { set: String, ports: Vec<PortMember> },
    /// Add elements to a map of published ports, of the operation's family.
    AddPublished { map: String, spec: SetSpec, ports: Vec<PublishedPort> },
    /// Remove elements from such a map.
    DeletePublished { map: String, spec: SetSpec, ports: Vec<PublishedPort> },
    /// Add elements to a dispatch map.
    AddTargets { map: &'static str, targets: Vec<(IfName, Target)> },
    /// Remove elements from a dispatch map.
    DeleteTargets { map: &'static str, interfaces: Vec<IfName> },
    /// Create a chain, without its rules.
    AddChain(ChainHead),
    /// Delete it.
    DeleteChain { name: String },
    /// Remove all rules of a chain.
    FlushChain { name: String },
    /// Append a rule.
    AddRule { chain: String, rule: Rule },
}

/// A chain without its rules.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ChainHead {
    /// Its name.
    pub name: String,
    /// Set for base chains.
    pub base: Option<crate::ruleset::Base>,
    /// For people.
    pub comment: Option<String>,
}

/// Where an element of a dispatch map leads. Its texts are shared: each endpoint has up to four elements.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Target {
    /// The chain to go on in.
    pub chain: Arc<str>,
    /// Return to the caller of the chain with the map; else to the rule after the map.
    pub goto: bool,
    /// Which endpoint this is.
    pub comment: Arc<str>,
}

/// The transactions that bring the kernel from what it holds to what is wanted.
///
/// Only `switch` is seen by traffic. `prepare` exists because a map element must not be switched to a chain that is
/// made in the same transaction: a packet under way could find the chain still empty. `cleanup` removes what then is
/// unused.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    /// New sets and new chains that nothing leads to yet.
    pub prepare: Vec<Op>,
    /// The moment of change: elements, rules, map elements.
    pub switch: Vec<Op>,
    /// What is unused now.
    pub cleanup: Vec<Op>,
}

impl Plan {
    /// The transactions that have something to do, in order. What nothing leads to yet may come in parts.
    pub(crate) fn transactions(&self) -> impl Iterator<Item = &[Op]> {
        let rest = [&self.switch, &self.cleanup].into_iter().map(Vec::as_slice);
        parts(&self.prepare).into_iter().chain(rest).filter(|ops| !ops.is_empty())
    }
}

/// Cuts operations so that no transaction is larger than the socket's buffer. One with very many elements is not cut:
/// whoever makes it keeps it small.
fn parts(ops: &[Op]) -> Vec<&[Op]> {
    /// Elements; the largest take some 70 bytes.
    const MOST: usize = 400_000;
    let mut parts = Vec::new();
    let (mut start, mut elements) = (0, 0);
    for (index, op) in ops.iter().enumerate() {
        let here = op.kind.elements();
        if elements > 0 && elements + here > MOST {
            parts.push(&ops[start..index]);
            (start, elements) = (index, 0);
        }
        elements += here;
    }
    parts.push(&ops[start..]);
    parts
}

impl OpKind {
    /// How many elements of sets it adds.
    pub(crate) fn elements(&self) -> usize {
        match self {
            Self::AddElements { ranges, .. } => ranges.len(),
            Self::AddPorts { ports, .. } => ports.len(),
            Self::AddPublished { ports, .. } => ports.len(),
            _ => 0,
        }
    }

    /// The operations that fill a chain.
    pub(crate) fn rules(chain: Chain) -> impl Iterator<Item = Self> {
        let name = chain.name;
        chain.rules.into_iter().map(move |rule| Self::AddRule { chain: name.clone(), rule })
    }
}

impl From<&Chain> for ChainHead {
    fn from(chain: &Chain) -> Self {
        Self { name: chain.name.clone(), base: chain.base, comment: chain.comment.clone() }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { family, kind } = self;
        let table = format!("{family} {TABLE}");
        match kind {
            OpKind::AddTable => write!(f, "add table {table}"),
            OpKind::DeleteTable => write!(f, "delete table {table}"),
            OpKind::AddSet { name, .. } => write!(f, "add set {table} {name}"),
            OpKind::DeleteSet { name } => write!(f, "delete set {table} {name}"),
            OpKind::FlushSet { name } => write!(f, "flush set {table} {name}"),
            OpKind::AddElements { set, ranges, .. } => write!(f, "add {} elements to {table} {set}", ranges.len()),
            OpKind::DeleteElements { set, ranges, .. } => {
                write!(f, "delete {} elements from {table} {set}", ranges.len())
            }
            OpKind::AddPorts { set, ports } => write!(f, "add {} elements to {table} {set}", ports.len()),
            OpKind::DeletePorts { set, ports } => write!(f, "delete {} elements from {table} {set}", ports.len()),
            OpKind::AddPublished { map, ports, .. } => write!(f, "add {} elements to {table} {map}", ports.len()),
            OpKind::DeletePublished { map, ports, .. } => {
                write!(f, "delete {} elements from {table} {map}", ports.len())
            }
            OpKind::AddTargets { map, targets } => {
                let first = targets.first().map(|(interface, _)| interface.as_str()).unwrap_or_default();
                write!(f, "add {} elements ({first} …) to {table} {map}", targets.len())
            }
            OpKind::DeleteTargets { map, interfaces } => {
                let first = interfaces.first().map(IfName::as_str).unwrap_or_default();
                write!(f, "delete {} elements ({first} …) from {table} {map}", interfaces.len())
            }
            OpKind::AddChain(head) => write!(f, "add chain {table} {}", head.name),
            OpKind::DeleteChain { name } => write!(f, "delete chain {table} {name}"),
            OpKind::FlushChain { name } => write!(f, "flush chain {table} {name}"),
            OpKind::AddRule { chain, rule } => write!(f, "add rule {table} {chain}: {rule}"),
        }
    }
}
