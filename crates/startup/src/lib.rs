//! What happens before a host is a node: its name and address are settled, the datastore holds what every cluster
//! needs, the node is announced, the kernel forwards.
//!
//! Used by `calico-node run` and by `calicoctl node --runtime=none`. Everything that can refuse comes before
//! everything that changes: a host with a bad name, without a usable address, or with the address of another node
//! leaves the datastore and the kernel as they were.
//!
//! Each step is reported while it happens ([`Progress`]), so that whoever waits sees which one failed, why, and what
//! helps.
//!
//! Invariants:
//! - defaults are created only where nothing is, never overwritten; two hosts that start at the same moment both
//!   succeed;
//! - of a Node only the fields that start-up decides are written, by compare-and-swap; all others are kept;
//! - an IPv6 address is never guessed.
//!
//! ```no_run
//! # async fn example(store: calico_store::Store) -> Result<(), Box<dyn std::error::Error>> {
//! use calico_startup::{Progress, Request, prepare};
//!
//! let request = Request::from_environment(|name| std::env::var(name).ok())?;
//! let prepared = prepare(&store, &request, &mut |progress: Progress| println!("{progress}")).await?;
//! println!("{} has {}", prepared.node, prepared.ipv4);
//! # Ok(())
//! # }
//! ```
//!
//! Names to know: [`Request`] is what was asked for, [`Prepared`] what came of it, [`Step`] the steps in order.

use std::net::{Ipv4Addr, Ipv6Addr};

use calico_model::AsNumber;
use calico_store::Store;
use ipnet::{Ipv4Net, Ipv6Net};

mod error;
mod progress;

pub use error::StartupError;
pub use progress::{Progress, Step};

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The node's name; `None` is the name of the operating system's host.
    pub name: Option<String>,
    /// The host's IPv4 address; `None` is detected.
    pub ip: Option<Ipv4Addr>,
    /// The host's IPv6 address; `None` is no IPv6 between hosts.
    pub ip6: Option<Ipv6Addr>,
    /// The node's AS number; `None` is the cluster's.
    pub as_number: Option<AsNumber>,
    /// Creates no pools where there are none.
    pub no_default_pools: bool,
}

/// A host that is a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// The node's name.
    pub node: String,
    /// Its IPv4 address with the prefix length of its subnet.
    pub ipv4: Ipv4Net,
    /// Its IPv6 address with the prefix length of its subnet.
    pub ipv6: Option<Ipv6Net>,
    /// The AS number of its own; `None` is the cluster's.
    pub as_number: Option<AsNumber>,
}

impl Request {
    /// Reads `HOSTNAME`, `IP`, `IP6`, `AS` and `NO_DEFAULT_POOLS` by `variable`. Empty is absent.
    ///
    /// # Errors
    /// [`StartupError::Setting`] names the first variable that makes no sense.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Self, StartupError> {
        let _ = variable;
        unimplemented!()
    }
}

/// Makes this host a node. Needs root.
///
/// # Errors
/// The failure of the first step that failed; it was reported as [`Progress::Failed`] too.
pub async fn prepare(
    store: &Store,
    request: &Request,
    report: &mut (dyn FnMut(Progress) + Send),
) -> Result<Prepared, StartupError> {
    let _ = (store, request, report);
    unimplemented!()
}
