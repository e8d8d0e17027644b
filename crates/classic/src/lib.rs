//! The rule language of the classic tool, and what its sentences mean as v3 rules.
//!
//! ```text
//! rule   := (allow | deny) match
//! match  := (tcp | udp) [from-p] [to-p]
//!         | (icmp | icmpv6) [type 0..254 [code 0..254]] [from] [to]
//!         | [from] [to]
//! from-p := from [ports PORTS] [tag TAG] [cidr CIDRS]         to-p likewise
//! from   := from [tag TAG] [cidr CIDRS]                       to likewise
//! PORTS  := a comma-separated list of ports (80) and ranges (8000:8080 or 8000-8080)
//! CIDRS  := a comma-separated list of networks and addresses of one family
//! ```
//!
//! What is stored is v3's: a tag `T` is the selector `T == ''`, because a profile that has the tag lends its endpoints
//! the label `T` with an empty value. This crate decides what a sentence means and how a v3 rule is said; it stores
//! nothing and does no I/O.
//!
//! Invariants: a sentence is refused with all its faults at once, each with the words at fault; what
//! [`say`] calls classic is read by [`parse`] as a rule that matches the same packets; what v3 has and the classic
//! words have not is said all the same, and never passes for a classic rule; a [`document`] is read back as exactly
//! the rules that it was made of.
//!
//! ```
//! use calico_classic::{parse, say};
//!
//! let rule = parse(&["deny", "tcp", "from", "tag", "GUEST", "to", "ports", "3306"])?;
//! assert_eq!(rule.source.selector, "GUEST == ''");
//! assert_eq!(say(&rule).text, "deny tcp from tag GUEST to ports 3306");
//!
//! let bad = parse(&["allow", "icmp", "to", "ports", "80"]).unwrap_err();
//! assert!(bad.faults()[0].to_string().ends_with("
//!     allow icmp to ports 80
//!                   ^^^^^^^^"));
//! # Ok::<(), calico_classic::BadRule>(())
//! ```
//!
//! Names to know: an *end* is one of the two sides of a rule, `from` and `to`; a *word fault* is one thing that is
//! wrong with a sentence.

mod document;
mod fault;
mod keyword;
mod parse;
mod same;
mod say;
mod suggest;
mod tag;
mod value;

pub use document::{BadDocument, document, read_document};
pub use fault::{BadRule, WordFault, underlined};
pub use keyword::VOCABULARY;
pub use parse::parse;
pub use same::same;
pub use say::{Said, say};
pub use tag::{Tag, TagError};
pub use value::net;
