//! The canonical form: single spaces, double quotes where possible, `&&` and `||` lists always in parentheses,
//! sorted sets. Nothing else is simplified. It is the identity of a selector, so it must equal upstream's.
//!
//! Not quite stable: `!(!has(a))` prints as `!!has(a)`, which parses as `has(a)`.

use std::fmt::{self, Write as _};

use crate::{
    Selector,
    node::{Node, Span, What},
};

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.print("", f)
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Selector({self})")
    }
}

impl Selector {
    /// The canonical form with `prefix` before every key: a selector over the labels of namespaces or service
    /// accounts as it is evaluated over endpoints. Keys may become longer than what parses.
    pub fn with_key_prefix(&self, prefix: &str) -> String {
        let mut out = String::with_capacity(self.text.len() + 32);
        self.print(prefix, &mut out).expect("a string accepts all that is written to it");
        out
    }

    fn print(&self, prefix: &str, out: &mut impl fmt::Write) -> fmt::Result {
        let mut tests = self.tests.iter();
        // Lists that are open: what separates their elements, and how many are still to come.
        let mut open: Vec<(&str, u32)> = Vec::new();
        for node in &self.nodes {
            match *node {
                Node::And(children) => {
                    out.write_char('(')?;
                    open.push((" && ", children));
                }
                Node::Or(children) => {
                    out.write_char('(')?;
                    open.push((" || ", children));
                }
                Node::Not => out.write_char('!')?,
                Node::Test => {
                    let test = tests.next().expect("there are as many tests as test nodes");
                    self.print_test(test.what, prefix, out)?;
                    while let Some((separator, left)) = open.last_mut() {
                        *left -= 1;
                        if *left > 0 {
                            out.write_str(separator)?;
                            break;
                        }
                        out.write_char(')')?;
                        open.pop();
                    }
                }
            }
        }
        Ok(())
    }

    fn print_test(&self, what: What, prefix: &str, out: &mut impl fmt::Write) -> fmt::Result {
        let (key, operator, value) = match what {
            What::All => return out.write_str("all()"),
            What::Global => return out.write_str("global()"),
            What::Has(key) => return write!(out, "has({prefix}{})", self.slice(key)),
            What::In(key, set) => return self.print_set(prefix, key, "in", set, out),
            What::NotIn(key, set) => return self.print_set(prefix, key, "not in", set, out),
            What::Equal(key, value) => (key, "==", value),
            What::NotEqual(key, value) => (key, "!=", value),
            What::Contains(key, value) => (key, "contains", value),
            What::StartsWith(key, value) => (key, "starts with", value),
            What::EndsWith(key, value) => (key, "ends with", value),
        };
        write!(out, "{prefix}{} {operator} {}", self.slice(key), Quoted(self.slice(value)))
    }

    fn print_set(&self, prefix: &str, key: Span, operator: &str, set: Span, out: &mut impl fmt::Write) -> fmt::Result {
        write!(out, "{prefix}{} {operator} {{", self.slice(key))?;
        for (position, member) in self.set(set).iter().enumerate() {
            let separator = if position == 0 { "" } else { ", " };
            write!(out, "{separator}{}", Quoted(self.slice(*member)))?;
        }
        out.write_char('}')
    }
}

/// A value in the quotes that it does not contain. One that was parsed contains one kind at most.
pub(crate) struct Quoted<'a>(pub(crate) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quote = if self.0.contains('"') { '\'' } else { '"' };
        f.write_char(quote)?;
        f.write_str(self.0)?;
        f.write_char(quote)
    }
}
