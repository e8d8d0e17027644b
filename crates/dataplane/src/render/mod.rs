//! From instructions to rules. Pure: same input, same rules.
//!
//! The layout, per family, all in the table `calico`; what is in brackets is there only while something asks for it:
//!
//! ```text
//! raw-pre         prerouting -300   our mark bits off; workloads → wl-antispoof; [untracked policy, notrack]
//! [m-pre]         prerouting -150   policy before destination NAT
//! [nat-pre]       prerouting -100   floating IPs, published ports, likewise [nat-out] output -100
//! f-input         input      -5     from workloads → wl-to-host → d-wl-from, then the host action; [host endpoints]
//! f-forward       forward    -5     [host endpoints], from workloads → d-wl-from, to workloads → d-wl-to, [services]
//! f-forward-mark  forward    -1     what got here and touches a workload was allowed: mark it for other tables
//! [raw-out]       output     -300   untracked policy
//! [f-output]      output     -5     host endpoints, unless the destination was translated
//! [m-post]        postrouting -150  host endpoints, if it was; DSCP
//! [nat-post]      postrouting 110   masquerade, while a pool wants it; what published ports lead back to its sender
//! [published]                       maps published-at, published: [address,] protocol, port → address, port
//! d-wl-from/-to                     map wl-from/wl-to: interface name → jump to its endpoint chain; else drop
//! [d-hep-*]                         map hep-*: interface name → goto its chain; else the chain of `*`
//! e[ie]-<hash>                      one per list of tiers and profiles and direction, shared by all endpoints that have it
//! hep-*-<hash>                      the same of host endpoints
//! l[ie]-<interface>-<hash>          limits of one endpoint, then its shared chain
//! t[ie]-<hash>                      one per list of a tier's policies
//! [gn][ie]-<name>, p[ie]-<name>     one per policy or profile and direction: its rules
//! ```
//!
//! What must hold:
//!
//! - **Closed by construction.** Allow sets the accept mark and returns, and the dispatch drops what comes back
//!   without it. An unknown interface, an endpoint without profiles, even a chain that is empty for the blink of a
//!   transaction, all end in that drop. The mark is cleared on entry: nobody else's mark opens anything.
//! - **Endpoint and tier chains are named by their content and never change**, because map elements lead to them and an
//!   element that is switched to a chain made in the same transaction can lead a packet into nothing.
//! - **Chains of policies and profiles are named by them and are replaced in place**: a packet sees all rules of one
//!   generation, so the replacement is atomic, and no map element of the perhaps many endpoints has to move.
//! - **No anonymous sets**: the kernel finds a name for each by walking all of a table's sets. Lists become sets
//!   that are named by their content and shared.
//! - **An answer is sent only where the kernel can**: before routing and after it a denied packet is dropped silently,
//!   and policies that are used there and elsewhere have a second, quiet chain.

mod base;
mod endpoint;
mod facts;
mod host;
mod lists;
mod rule;

use calico_policy::instruction::DenyAction;

pub(crate) use base::BaseChain;
pub(crate) use endpoint::{EndpointChain, LimitChain, Role, TierChain};
pub(crate) use facts::Facts;
pub(crate) use host::Failsafe;
pub(crate) use lists::{HostList, Map};
pub(crate) use rule::{ListChain, Literals, SetNames};

use crate::{family::Family, ruleset::Action};

/// Set: all pools.
pub(crate) const POOLS_SET: &str = "pools";
/// Set: pools whose traffic to outside all pools is masqueraded.
pub(crate) const MASQUERADE_SET: &str = "masq";
/// Set: all hosts.
pub(crate) const HOSTS_SET: &str = "hosts";

/// Chain: where published ports are led.
pub(crate) const PUBLISHED_CHAIN: &str = "published";
/// Map: published ports of one address of the host.
pub(crate) const PUBLISHED_AT_MAP: &str = "published-at";
/// Map: published ports of all addresses of the host.
pub(crate) const PUBLISHED_MAP: &str = "published";
/// Set: the addresses that published ports lead to, each two times.
pub(crate) const PUBLISHED_SELF_SET: &str = "published-self";

/// What deny does, as a consequence.
#[derive(Clone, Copy)]
struct Deny(DenyAction);

impl Deny {
    fn action(self, family: Family) -> Action {
        match self.0 {
            DenyAction::Drop => Action::Drop,
            DenyAction::Reject => Action::Reject(family),
        }
    }
}
