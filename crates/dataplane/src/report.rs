//! What an apply did and what it could not do.

use std::fmt;

/// Something that could not be done for one object; the rest was done. It is tried again with every apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What it is about: an endpoint, an address, a chain.
    pub subject: String,
    /// What is wrong and what to do about it.
    pub reason: String,
}

impl Problem {
    pub(crate) fn new(subject: impl fmt::Display, reason: impl fmt::Display) -> Self {
        Self { subject: subject.to_string(), reason: reason.to_string() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.reason)
    }
}

/// What an apply did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Transactions committed to nftables.
    pub transactions: usize,
    /// Operations in them.
    pub operations: usize,
    /// Routes and neighbour entries written.
    pub routes_added: usize,
    /// Routes and neighbour entries removed.
    pub routes_removed: usize,
    /// Tunnel devices, their addresses and their forwarding entries made, changed or removed.
    pub tunnel_changes: usize,
    /// Kernel settings of interfaces written.
    pub sysctls_written: usize,
    /// Addresses whose connection tracking entries were deleted.
    pub conntrack_cleaned: usize,
    /// Rules put into or taken out of other programs' chains.
    pub foreign_rules_written: usize,
    /// Everything that could not be done, old and new.
    pub problems: Vec<Problem>,
    /// Something failed that may succeed by itself: apply again after a while even if nothing happens.
    pub retry: bool,
}

impl Report {
    /// Whether the kernel was left as it was.
    #[must_use]
    pub fn is_unchanged(&self) -> bool {
        let Self {
            transactions,
            operations,
            routes_added,
            routes_removed,
            tunnel_changes,
            sysctls_written,
            conntrack_cleaned,
            foreign_rules_written,
            problems: _,
            retry: _,
        } = self;
        transactions
            + operations
            + routes_added
            + routes_removed
            + tunnel_changes
            + sysctls_written
            + conntrack_cleaned
            + foreign_rules_written
            == 0
    }
}

/// How far an endpoint is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointState {
    /// Rules are in force, routes to all its addresses lead to it.
    Up,
    /// Its rules are not written yet, or its interface is not there or not running.
    Waiting,
    /// Another endpoint has the interface.
    Shadowed,
    /// It is not known.
    Unknown,
}

/// Somebody else changed something; the next apply reads it back and mends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// One of our nftables tables.
    ForeignTableChange,
    /// The chains of other programs that carry one of our rules, `ip filter` and `ip6 filter`.
    ForeignFilterChange,
    /// A workload interface came, went, or changed its state.
    LinksChanged,
    /// A route that is ours or in the way of ours.
    RoutesChanged,
    /// An address that a host endpoint may stand for, or a tunnel, came to an interface or went.
    AddressesChanged,
    /// A tunnel device, or who is behind it.
    TunnelsChanged,
    /// Notifications were lost; anything may have changed.
    Overrun,
}
