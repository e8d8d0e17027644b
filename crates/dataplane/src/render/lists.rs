//! Which of a host endpoint's packets are judged where.

use super::{BaseChain, Failsafe};
use crate::{name::Direction, ruleset::Interface};

/// One place where host endpoints judge packets. Each has a map, interface → chain, and a chain that looks there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum HostList {
    /// What came in, before connection tracking.
    UntrackedIn,
    /// What the host made, before connection tracking.
    UntrackedOut,
    /// What came in, before destination NAT.
    PreDnat,
    /// To the host.
    In,
    /// From the host.
    Out,
    /// From the host, with a destination that was translated: only now it is known where it leaves.
    TranslatedOut,
    /// Through the host, where it came in.
    ForwardIn,
    /// Through the host, where it leaves.
    ForwardOut,
}

impl HostList {
    /// All of them.
    pub(crate) const ALL: [Self; 8] = [
        Self::UntrackedIn,
        Self::UntrackedOut,
        Self::PreDnat,
        Self::In,
        Self::Out,
        Self::TranslatedOut,
        Self::ForwardIn,
        Self::ForwardOut,
    ];

    /// The map's name.
    pub(crate) fn map(self) -> &'static str {
        match self {
            Self::UntrackedIn => "hep-raw-in",
            Self::UntrackedOut => "hep-raw-out",
            Self::PreDnat => "hep-pre",
            Self::In => "hep-in",
            Self::Out => "hep-out",
            Self::TranslatedOut => "hep-out-nat",
            Self::ForwardIn => "hep-fwd-in",
            Self::ForwardOut => "hep-fwd-out",
        }
    }

    /// The name of the chain that looks in the map.
    pub(crate) fn dispatch(self) -> &'static str {
        match self {
            Self::UntrackedIn => "d-hep-raw-in",
            Self::UntrackedOut => "d-hep-raw-out",
            Self::PreDnat => "d-hep-pre",
            Self::In => "d-hep-in",
            Self::Out => "d-hep-out",
            Self::TranslatedOut => "d-hep-out-nat",
            Self::ForwardIn => "d-hep-fwd-in",
            Self::ForwardOut => "d-hep-fwd-out",
        }
    }

    /// From the endpoint's point of view.
    pub(crate) fn direction(self) -> Direction {
        match self {
            Self::UntrackedIn | Self::PreDnat | Self::In | Self::ForwardIn => Direction::Ingress,
            Self::UntrackedOut | Self::Out | Self::TranslatedOut | Self::ForwardOut => Direction::Egress,
        }
    }

    /// The interface that decides.
    pub(crate) fn interface(self) -> Interface {
        match self.direction() {
            Direction::Ingress => Interface::Incoming,
            Direction::Egress => Interface::Outgoing,
        }
    }

    /// No answer can be sent to a denied packet here.
    pub(crate) fn is_quiet(self) -> bool {
        matches!(self, Self::UntrackedIn | Self::UntrackedOut | Self::PreDnat | Self::TranslatedOut)
    }

    /// Packets belong to flows here.
    pub(crate) fn is_tracked(self) -> bool {
        !matches!(self, Self::UntrackedIn | Self::UntrackedOut)
    }

    /// Profiles decide what no tier did, and what they do not allow is denied.
    pub(crate) fn has_profiles(self) -> bool {
        matches!(self, Self::In | Self::Out | Self::TranslatedOut)
    }

    /// Something is denied here also without any policy.
    pub(crate) fn judges_always(self) -> bool {
        self.has_profiles() || matches!(self, Self::ForwardIn | Self::ForwardOut)
    }

    /// A tier denies what none of its policies matched.
    pub(crate) fn denies_at_end_of_tier(self) -> bool {
        !matches!(self, Self::UntrackedIn | Self::UntrackedOut | Self::PreDnat)
    }

    /// The ports that are open before all policy.
    pub(crate) fn failsafe(self) -> Option<Failsafe> {
        match self {
            Self::UntrackedIn => Some(Failsafe::RawIn),
            Self::UntrackedOut => Some(Failsafe::RawOut),
            Self::PreDnat | Self::In => Some(Failsafe::In),
            Self::Out | Self::TranslatedOut => Some(Failsafe::Out),
            Self::ForwardIn | Self::ForwardOut => None,
        }
    }

    /// The chain that looks in the map.
    pub(crate) fn chain(self) -> BaseChain {
        BaseChain::DispatchHost(self)
    }
}

/// The maps from interface names to chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Map {
    /// Workload that a packet comes from → its egress rules.
    FromWorkload,
    /// Workload that a packet goes to → its ingress rules.
    ToWorkload,
    /// Of host endpoints.
    Host(HostList),
}

impl Map {
    /// How many there are.
    pub(crate) const COUNT: usize = 2 + HostList::ALL.len();

    /// All of them.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        [Self::FromWorkload, Self::ToWorkload].into_iter().chain(HostList::ALL.into_iter().map(Self::Host))
    }

    /// Where its packets are judged, in words.
    pub(crate) fn place(self) -> String {
        match self {
            Self::FromWorkload => "from workload".to_owned(),
            Self::ToWorkload => "to workload".to_owned(),
            Self::Host(list) => format!("host endpoint {}", list.map()),
        }
    }

    /// Position in arrays that hold one thing per map.
    pub(crate) fn index(self) -> usize {
        match self {
            Self::FromWorkload => 0,
            Self::ToWorkload => 1,
            Self::Host(list) => 2 + list as usize,
        }
    }

    /// Its name in the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::FromWorkload => "wl-from",
            Self::ToWorkload => "wl-to",
            Self::Host(list) => list.map(),
        }
    }

    /// The map of workloads for a direction, seen from the workload.
    pub(crate) fn of_workloads(direction: Direction) -> Self {
        match direction {
            Direction::Egress => Self::FromWorkload,
            Direction::Ingress => Self::ToWorkload,
        }
    }
}
