//! The words of the language.

use calico_model::{Action, Protocol};

/// The words of the language, in the order in which a rule has them. What stands behind `type`, `code`, `ports`, `tag`
/// and `cidr` is free.
pub const VOCABULARY: [&str; 13] =
    ["allow", "deny", "tcp", "udp", "icmp", "icmpv6", "type", "code", "from", "to", "ports", "tag", "cidr"];

/// A word of the language.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keyword {
    Act(Action),
    Protocol(Proto),
    Type,
    Code,
    End(Side),
    Ports,
    Tag,
    Cidr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proto {
    Tcp,
    Udp,
    Icmp,
    Icmpv6,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    From,
    To,
}

impl Keyword {
    /// In the order of [`VOCABULARY`].
    pub(crate) const ALL: [Self; 13] = [
        Self::Act(Action::Allow),
        Self::Act(Action::Deny),
        Self::Protocol(Proto::Tcp),
        Self::Protocol(Proto::Udp),
        Self::Protocol(Proto::Icmp),
        Self::Protocol(Proto::Icmpv6),
        Self::Type,
        Self::Code,
        Self::End(Side::From),
        Self::End(Side::To),
        Self::Ports,
        Self::Tag,
        Self::Cidr,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        let at = Self::ALL.iter().position(|keyword| *keyword == self);
        VOCABULARY[at.expect("the classic actions are all that is ever made")]
    }

    /// Actions and protocols are read in any case, as their v3 spelling differs from the classic one.
    pub(crate) fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|keyword| match keyword {
            Self::Act(_) | Self::Protocol(_) => keyword.as_str().eq_ignore_ascii_case(word),
            _ => keyword.as_str() == word,
        })
    }

    /// Where in a rule it stands.
    pub(crate) fn stage(self) -> u8 {
        match self {
            Self::Act(_) => 0,
            Self::Protocol(_) => 1,
            Self::Type => 2,
            Self::Code => 3,
            Self::End(Side::From) => 4,
            Self::End(Side::To) => 5,
            // Within an end.
            Self::Ports => 6,
            Self::Tag => 7,
            Self::Cidr => 8,
        }
    }
}

impl Proto {
    /// As v3 stores it.
    pub(crate) fn v3(self) -> Protocol {
        let name = match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Icmp => "ICMP",
            Self::Icmpv6 => "ICMPv6",
        };
        Protocol::Name(name.to_owned())
    }

    pub(crate) fn has_ports(self) -> bool {
        matches!(self, Self::Tcp | Self::Udp)
    }
}
