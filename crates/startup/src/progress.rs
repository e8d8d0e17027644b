//! The steps, and how they are told.

use std::fmt;

use crate::StartupError;

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

    /// The step in a few words.
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

/// Something that does not stop the start, but somebody should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// What is odd.
    pub message: String,
    /// What helps.
    pub way_out: Option<String>,
}

impl Warning {
    pub(crate) fn new(message: impl Into<String>, way_out: impl Into<String>) -> Self {
        Self { message: message.into(), way_out: Some(way_out.into()) }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        hint(f, self.way_out.as_deref())
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

fn hint(f: &mut fmt::Formatter<'_>, way_out: Option<&str>) -> fmt::Result {
    match way_out {
        Some(way_out) => write!(f, "; {way_out}"),
        None => Ok(()),
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started { step } => write!(f, "{step} ..."),
            Self::Done { step, detail } => write!(f, "{step}: {detail}"),
            Self::Warning { step, message, way_out } => {
                write!(f, "{step}: warning: {message}")?;
                hint(f, way_out.as_deref())
            }
            Self::Failed { step, cause, way_out } => {
                write!(f, "{step}: failed: {cause}")?;
                hint(f, way_out.as_deref())
            }
        }
    }
}

/// Tells whoever waits.
pub(crate) struct Reporter<'a> {
    report: &'a mut (dyn FnMut(Progress) + Send),
}

impl<'a> Reporter<'a> {
    pub(crate) fn new(report: &'a mut (dyn FnMut(Progress) + Send)) -> Self {
        Self { report }
    }

    /// Says that a step begins.
    pub(crate) fn start(&mut self, step: Step) -> Running<'_> {
        (self.report)(Progress::Started { step });
        Running { report: self.report, step }
    }
}

/// A step that has begun.
pub(crate) struct Running<'a> {
    report: &'a mut (dyn FnMut(Progress) + Send),
    step: Step,
}

impl Running<'_> {
    /// Says how the step ended: its warnings and its detail by `tell`, or its error.
    pub(crate) fn done<T>(
        &mut self,
        outcome: Result<T, StartupError>,
        tell: impl FnOnce(&T) -> (String, Vec<Warning>),
    ) -> Result<T, StartupError> {
        let step = self.step;
        match outcome {
            Ok(value) => {
                let (detail, warnings) = tell(&value);
                for Warning { message, way_out } in warnings {
                    (self.report)(Progress::Warning { step, message, way_out });
                }
                (self.report)(Progress::Done { step, detail });
                Ok(value)
            }
            Err(error) => {
                (self.report)(Progress::Failed { step, cause: error.to_string(), way_out: error.way_out() });
                Err(error)
            }
        }
    }
}
