//! Single objects of our table, for people.

use super::{
    Nft,
    nft_read::{Attributes, attributes, read_comment, read_rule, read_target},
    nft_write::{message, msg},
};
use crate::{
    error::Error,
    family::Family,
    ifname::IfName,
    listing::{ListedChain, ListedPort, ListedRule, leads_to},
    op::Target,
    program::{published_port, text},
    render::{PUBLISHED_AT_MAP, PUBLISHED_MAP},
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

    /// The published ports of one address of the host (`exact`), or of all, with their counters; none if there is no
    /// such map.
    pub(crate) async fn list_published(&self, family: Family, exact: bool) -> Result<Vec<ListedPort>, Error> {
        let map = if exact { PUBLISHED_AT_MAP } else { PUBLISHED_MAP };
        let mut request = message(msg::GETSETELEM, family.number(), 0);
        request.append_attr_str(1, TABLE);
        request.append_attr_str(2, map);
        let mut ports = Vec::new();
        let read = self
            .socket
            .dump(&format!("list map {family} {TABLE} {map}"), request, |_, payload| {
                ports.extend(attributes(payload).list(3).filter_map(|(_, element)| {
                    let element = Attributes::from(element);
                    let key = element.nested(1).find(1).unwrap_or_default();
                    let port = published_port(family, key, &element.data(2))?;
                    let counter = element.nested(7);
                    let counter = (counter.text(1) == "counter").then(|| counter.nested(2));
                    Some(ListedPort { port, counter: counter.map(|counter| (counter.long(2), counter.long(1))) })
                }));
            })
            .await;
        absent(read.map(drop))?;
        Ok(ports)
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
                let counters = attributes.list(4).map(|(_, expr)| Attributes::from(expr));
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
