//! Single objects of our table, for people.

use super::{
    Nft,
    nft_read::{attributes, read_comment, read_rule, read_target},
    nft_write::{message, msg},
};
use crate::{
    error::Error,
    family::Family,
    ifname::IfName,
    listing::{ListedChain, ListedRule, leads_to},
    op::Target,
    program::text,
    ruleset::TABLE,
};

impl Nft {
    /// Where an interface's element of a map leads; `None` if there is no such element or map.
    pub(crate) async fn read_target(
        &self,
        family: Family,
        map: &str,
        interface: &IfName,
    ) -> Result<Option<Target>, Error> {
        let mut request = message(msg::GETSETELEM, family.number(), 0);
        request.append_attr_str(1, TABLE);
        request.append_attr_str(2, map);
        let list = request.nest_start(3);
        let element = request.nest_start(1);
        let key = request.nest_start(1);
        request.append_attr(1, interface.key());
        request.nest_end(key);
        request.nest_end(element);
        request.nest_end(list);
        let mut target = None;
        let read = self
            .socket
            .get(&format!("look up {interface} in {family} {TABLE} {map}"), request, |_, payload| {
                target = attributes(payload).list(3).find_map(|(_, element)| read_target(&element.into()));
            })
            .await;
        match absent(read)? {
            Some(()) => Ok(target),
            None => Ok(None),
        }
    }

    /// A chain with its rules and counters; `None` if there is none of this name.
    pub(crate) async fn list_chain(&self, family: Family, name: &str) -> Result<Option<ListedChain>, Error> {
        let named = |kind, attribute| {
            let mut request = message(kind, family.number(), 0);
            request.append_attr_str(1, TABLE);
            request.append_attr_str(attribute, name);
            request
        };
        let what = format!("list chain {family} {TABLE} {name}");
        let mut comment = None;
        let head = self.socket.get(&what, named(msg::GETCHAIN, 3), |_, payload| {
            comment = read_comment(attributes(payload).find(12));
        });
        if absent(head.await)?.is_none() {
            return Ok(None);
        }
        let mut rules = Vec::new();
        self.socket
            .dump(&what, named(msg::GETRULE, 2), |_, payload| {
                let attributes = attributes(payload);
                let (_, program) = read_rule(&attributes);
                let counters = attributes.list(4).map(|(_, expr)| super::nft_read::Attributes::from(expr));
                let counter = counters.filter(|expr| expr.text(1) == "counter").map(|expr| expr.nested(2)).next();
                rules.push(ListedRule {
                    text: text(&program, family),
                    counter: counter.map(|counter| (counter.long(2), counter.long(1))),
                    leads_to: leads_to(&program.exprs),
                    comment: program.comment,
                });
            })
            .await?;
        Ok(Some(ListedChain { name: name.to_owned(), comment, depth: 0, rules }))
    }
}

/// `None` for what is not there.
fn absent(result: Result<(), Error>) -> Result<Option<()>, Error> {
    match result {
        Ok(()) => Ok(Some(())),
        Err(Error::Kernel(error)) if error.is(rustix::io::Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}
