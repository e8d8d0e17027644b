//! The steps, and how they are told.

use std::fmt;

/// The steps of starting, in the order in which they happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Which name the node has.
    Name,
    /// Which addresses it has.
    Address,
    /// Reaching the datastore, and comparing with the other nodes.
    OtherNodes,
    /// Switching forwarding on.
    Forwarding,
    /// ClusterInformation and the tiers.
    Cluster,
    /// Felix' and BGP's settings.
    Settings,
    /// The default pools.
    Pools,
    /// The Node itself.
    Node,
}

impl Step {
    /// All steps, in order.
    pub const ALL: [Self; 8] = [
        Self::Name,
        Self::Address,
        Self::OtherNodes,
        Self::Forwarding,
        Self::Cluster,
        Self::Settings,
        Self::Pools,
        Self::Node,
    ];

    /// The step in a few words, as in "checking …".
    pub const fn title(self) -> &'static str {
        match self {
            Self::Name => "node name",
            Self::Address => "host address",
            Self::OtherNodes => "datastore and other nodes",
            Self::Forwarding => "packet forwarding",
            Self::Cluster => "cluster information",
            Self::Settings => "default settings",
            Self::Pools => "address pools",
            Self::Node => "node record",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.title())
    }
}

/// What is going on. `Started` and then either `Done` or `Failed` for each step; `Warning`s in between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A step begins.
    Started {
        /// Which.
        step: Step,
    },
    /// It succeeded.
    Done {
        /// Which.
        step: Step,
        /// What came of it, for people.
        detail: String,
    },
    /// It goes on, but somebody should know.
    Warning {
        /// Which.
        step: Step,
        /// What is odd.
        message: String,
        /// What helps.
        way_out: Option<String>,
    },
    /// It failed, and with it the start.
    Failed {
        /// Which.
        step: Step,
        /// Why.
        cause: String,
        /// What helps.
        way_out: Option<String>,
    },
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hint = |f: &mut fmt::Formatter<'_>, way_out: &Option<String>| match way_out {
            Some(way_out) => write!(f, "; {way_out}"),
            None => Ok(()),
        };
        match self {
            Self::Started { step } => write!(f, "{step} ..."),
            Self::Done { step, detail } => write!(f, "{step}: {detail}"),
            Self::Warning { step, message, way_out } => {
                write!(f, "{step}: warning: {message}")?;
                hint(f, way_out)
            }
            Self::Failed { step, cause, way_out } => {
                write!(f, "{step}: failed: {cause}")?;
                hint(f, way_out)
            }
        }
    }
}
