//! From instructions to rules. Pure: same input, same rules.
//!
//! The layout, per family, all in the table `calico`:
//!
//! ```text
//! raw-pre         prerouting -300   our mark bits off; workloads: spoofed packets and 127.0.0.0/8 dropped
//! f-input         input      -5     from workloads → wl-to-host → d-wl-from, then the host action
//! f-forward       forward    -5     from workloads → d-wl-from, to workloads → d-wl-to
//! f-forward-mark  forward    -1     what got here and touches a workload was allowed: mark it for other tables
//! nat-post        postrouting 110   masquerade, while a pool wants it
//! d-wl-from/-to                     map wl-from/wl-to: interface name → jump to its endpoint chain; else drop
//! e[ie]-<hash>                      one per list of profiles and direction, shared by all endpoints that have it
//! p[ie]-<name>                      one per profile and direction: its rules
//! ```
//!
//! What must hold:
//!
//! - **Closed by construction.** Allow sets the accept mark and returns, and the dispatch drops what comes back
//!   without it. An unknown interface, an endpoint without profiles, even a chain that is empty for the blink of a
//!   transaction, all end in that drop. The mark is cleared on entry: nobody else's mark opens anything.
//! - **Endpoint chains are named by their content and never change**, because map elements lead to them and an
//!   element that is switched to a chain made in the same transaction can lead a packet into nothing.
//! - **Profile chains are named by their profile and are replaced in place**: a packet sees all rules of one
//!   generation, so the replacement is atomic, and no map element of the perhaps many endpoints has to move.
//! - **No anonymous sets**: the kernel finds a name for each by walking all of a table's sets. Lists become sets
//!   that are named by their content and shared.

mod base;
mod endpoint;
mod rule;

pub(crate) use base::{BaseChain, MASQUERADE_SET, POOLS_SET, WL_FROM, WL_TO};
pub(crate) use endpoint::endpoint_chain;
pub(crate) use rule::{Literals, SetNames, profile_chain};
