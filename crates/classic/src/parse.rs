//! From words to a rule.
//!
//! One pass that never stops at a fault: a word in the wrong place is told and then taken for what it says, a misspelt
//! one for what it was probably meant to be, so that the words behind it are judged too. What depends on several words
//! (ports and protocol, families) is looked at afterwards.

use std::ops::Range;

use calico_model::{Action, EntityRule, Icmp, Port, Rule};
use ipnet::IpNet;

use crate::{
    BadRule, Tag, WordFault,
    keyword::{Keyword, Proto, Side},
    suggest::{is_other_protocol, nearest},
    value::{self, List},
};

/// Reads a rule from the words behind `inbound` or `outbound`.
///
/// # Errors
/// Everything that is wrong with them.
pub fn parse<W: AsRef<str>>(words: &[W]) -> Result<Rule, BadRule> {
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    let line = words.join(" ");
    let mut start = 0;
    let spans = words.iter().map(|word| {
        let span = start..start + word.len();
        start = span.end + 1;
        span
    });
    let spans: Vec<Range<usize>> = spans.collect();
    let mut parser =
        Parser { words, spans, line, at: 0, stage: 0, side: None, faults: Vec::new(), draft: Draft::default() };
    parser.action();
    while parser.at < parser.words.len() {
        parser.word();
    }
    parser.combinations();
    if parser.faults.is_empty() { Ok(parser.draft.rule()) } else { Err(BadRule::new(parser.faults)) }
}

/// The rule so far. Each part knows the words that it was read from.
#[derive(Default)]
struct Draft {
    action: Option<Action>,
    protocol: Option<(Proto, Range<usize>)>,
    icmp_type: Option<(Option<u16>, Range<usize>)>,
    code: Option<(Option<u16>, Range<usize>)>,
    from: Option<End>,
    to: Option<End>,
}

/// One side of the rule so far.
#[derive(Default)]
struct End {
    /// How far in the order `ports`, `tag`, `cidr` it is.
    stage: u8,
    ports: Option<(Vec<Port>, Range<usize>)>,
    tag: Option<Option<Tag>>,
    nets: Option<Vec<(Range<usize>, IpNet)>>,
}

impl Draft {
    fn rule(self) -> Rule {
        let icmp_type = self.icmp_type.and_then(|(number, _)| number);
        let code = self.code.and_then(|(number, _)| number);
        Rule {
            protocol: self.protocol.map(|(protocol, _)| protocol.v3()),
            icmp: icmp_type.map(|_| Icmp { icmp_type, code }),
            source: self.from.map(End::rule).unwrap_or_default(),
            destination: self.to.map(End::rule).unwrap_or_default(),
            ..Rule::of(self.action.expect("without an action there is a fault"))
        }
    }

    fn ends(&self) -> impl Iterator<Item = &End> {
        self.from.iter().chain(&self.to)
    }
}

impl End {
    fn rule(self) -> EntityRule {
        EntityRule {
            ports: self.ports.map(|(ports, _)| ports).unwrap_or_default(),
            selector: self.tag.flatten().map(|tag| tag.selector()).unwrap_or_default(),
            nets: self.nets.into_iter().flatten().map(|(_, net)| net.to_string()).collect(),
            ..EntityRule::default()
        }
    }
}

struct Parser<'a> {
    words: Vec<&'a str>,
    /// Where each word is in the line.
    spans: Vec<Range<usize>>,
    line: String,
    /// The next word.
    at: usize,
    /// How far in the order of the words the rule is.
    stage: u8,
    /// The end that `ports`, `tag` and `cidr` belong to.
    side: Option<Side>,
    faults: Vec<WordFault>,
    draft: Draft,
}

impl<'a> Parser<'a> {
    /// A word that must not be there, or one that is missing.
    fn grammar(&mut self, span: Range<usize>, reason: impl Into<String>, hint: impl Into<String>) {
        let fault = WordFault::new(&self.line, span, true, reason.into());
        self.faults.push(fault.with_hint(Some(hint.into()).filter(|hint| !hint.is_empty())));
    }

    /// A value that cannot be.
    fn value(&mut self, span: Range<usize>, reason: impl Into<String>) {
        self.faults.push(WordFault::new(&self.line, span, false, reason.into()));
    }

    fn action(&mut self) {
        const HINT: &str = "say allow or deny first, as in: allow tcp to ports 80";
        let Some(word) = self.words.first().copied() else {
            return self.grammar(0..0, "A rule begins with allow or deny.", HINT);
        };
        match Keyword::of(word).or_else(|| nearest(word)) {
            Some(keyword @ Keyword::Act(action)) => {
                self.draft.action = Some(action);
                self.at = 1;
                if Keyword::of(word).is_none() {
                    self.grammar(self.spans[0].clone(), UNKNOWN, format!("say {} for {word}", keyword.as_str()));
                }
            }
            // The action is missing; what is there stands for itself.
            Some(_) if Keyword::of(word).is_some() => {
                self.grammar(self.spans[0].clone(), "A rule begins with allow or deny.", HINT);
            }
            _ => {
                self.at = 1;
                self.grammar(self.spans[0].clone(), "A rule begins with allow or deny.", HINT);
            }
        }
    }

    fn word(&mut self) {
        let (at, word) = (self.at, self.words[self.at]);
        self.at += 1;
        match Keyword::of(word) {
            Some(keyword) => self.keyword(keyword, at),
            None => self.unknown(word, at),
        }
    }

    fn keyword(&mut self, keyword: Keyword, at: usize) {
        let span = self.spans[at].clone();
        match keyword {
            Keyword::Act(_) => {
                let is = self.draft.action.map_or("given", |action| Keyword::Act(action).as_str());
                self.grammar(span, format!("A rule has one action, and it is {is} already."), "leave this word out");
            }
            Keyword::Protocol(protocol) => self.protocol(protocol, span),
            Keyword::Type | Keyword::Code => self.icmp(keyword, at),
            Keyword::End(side) => self.end(side, span),
            Keyword::Ports | Keyword::Tag | Keyword::Cidr => self.qualifier(keyword, at),
        }
    }

    /// Notes that the rule has come to a word; one that should have been earlier is told.
    fn come_to(&mut self, keyword: Keyword, span: &Range<usize>) {
        let stage = keyword.stage();
        if stage < self.stage {
            let is_before_ends = stage < Keyword::End(Side::From).stage();
            let later = match self.stage {
                2 => "type",
                3 => "code",
                _ if is_before_ends && self.draft.from.is_some() => "from",
                4 => "from",
                _ => "to",
            };
            let reason = format!("{} stands before {later}.", keyword.as_str());
            self.grammar(span.clone(), reason, "the order is: allow|deny, protocol, type, code, from …, to …");
        }
        self.stage = self.stage.max(stage);
    }

    fn protocol(&mut self, protocol: Proto, span: Range<usize>) {
        if let Some((is, _)) = self.draft.protocol {
            let is = Keyword::Protocol(is).as_str();
            let hint = "make a rule of its own for each protocol";
            return self.grammar(span, format!("A rule has one protocol, and it is {is} already."), hint);
        }
        self.come_to(Keyword::Protocol(protocol), &span);
        self.draft.protocol = Some((protocol, span));
    }

    fn icmp(&mut self, keyword: Keyword, at: usize) {
        let (what, span) = (keyword.as_str(), self.spans[at].clone());
        let again = match keyword {
            Keyword::Type => self.draft.icmp_type.is_some(),
            _ => self.draft.code.is_some(),
        };
        if again {
            self.grammar(span.clone(), format!("A rule has one {what}."), "make a rule of its own for each");
        } else {
            self.come_to(keyword, &span);
            if keyword == Keyword::Code && self.draft.icmp_type.is_none() {
                self.grammar(span.clone(), "A code needs a type before it.", "as in: allow icmp type 3 code 4");
            }
        }
        let Some((word, value)) = self.take(at, &format!("a number from 0 to 254 is missing behind {what}")) else {
            return;
        };
        let whole = span.start..value.end;
        let number = match value::icmp(what, word) {
            Ok(number) => Some(number),
            Err(reason) => {
                self.value(value, reason);
                None
            }
        };
        match keyword {
            _ if again => {}
            Keyword::Type => self.draft.icmp_type = Some((number, whole)),
            _ => self.draft.code = Some((number, whole)),
        }
    }

    fn end(&mut self, side: Side, span: Range<usize>) {
        self.side = Some(side);
        let word = Keyword::End(side).as_str();
        let taken = if side == Side::From { &mut self.draft.from } else { &mut self.draft.to };
        if taken.is_some() {
            let hint = format!("put everything behind one {word}: {word} ports … tag … cidr …");
            return self.grammar(span, format!("A rule has one {word}."), hint);
        }
        *taken = Some(End::default());
        self.come_to(Keyword::End(side), &span);
    }

    /// `ports`, `tag` or `cidr` and its value.
    fn qualifier(&mut self, keyword: Keyword, at: usize) {
        let (name, span) = (keyword.as_str(), self.spans[at].clone());
        let example = match keyword {
            Keyword::Ports => "ports 80,8000:8080",
            Keyword::Tag => "tag WEB",
            _ => "cidr 10.0.0.0/8",
        };
        let stray = self.side.is_none();
        if stray {
            let hint = format!("say which end is meant: from {example}, or to {example}");
            self.grammar(span.clone(), format!("{name} needs from or to before it."), hint);
        }
        let mut end = self.open_end();
        if end.stage >= keyword.stage() {
            let (reason, hint) = if end.stage == keyword.stage() || end.has(keyword) {
                (
                    format!("{name} is there twice."),
                    match keyword {
                        Keyword::Tag => "make a rule of its own for each tag",
                        _ => "join the values with commas",
                    },
                )
            } else {
                let later = if end.has(Keyword::Cidr) { "cidr" } else { "tag" };
                (format!("{name} stands before {later}."), "the order behind from and to is: ports, tag, cidr")
            };
            self.grammar(span.clone(), reason, hint);
        }
        end.stage = end.stage.max(keyword.stage());
        if let Some((word, value)) = self.take(at, &format!("as in: {example}")) {
            match keyword {
                Keyword::Ports => {
                    let ports = self.list(value.start, value::ports(word));
                    end.ports = Some((ports, span.start..value.end));
                }
                Keyword::Tag => match Tag::parse(word) {
                    Ok(tag) => end.tag = Some(Some(tag)),
                    Err(error) => {
                        end.tag = Some(None);
                        let reason = format!("Tag {word:?} is not valid: {}.", error.reason);
                        self.value(value, reason);
                    }
                },
                _ => {
                    let nets = self.list(value.start, value::nets(word));
                    let placed =
                        nets.into_iter().map(|(part, net)| (value.start + part.start..value.start + part.end, net));
                    end.nets = Some(placed.collect());
                }
            }
        }
        if !stray {
            self.close_end(end);
        }
    }

    /// The good elements of a list; the others are told.
    fn list<T>(&mut self, start: usize, (good, faults): List<T>) -> Vec<T> {
        for fault in faults {
            self.value(start + fault.part.start..start + fault.part.end, fault.reason);
        }
        good
    }

    fn slot(&mut self) -> Option<&mut Option<End>> {
        self.side.map(|side| if side == Side::From { &mut self.draft.from } else { &mut self.draft.to })
    }

    fn open_end(&mut self) -> End {
        self.slot().and_then(Option::take).unwrap_or_default()
    }

    fn close_end(&mut self, end: End) {
        if let Some(slot) = self.slot() {
            *slot = Some(end);
        }
    }

    /// The value behind the word at `at`. Only a tag may be called as a word of the language is.
    fn take(&mut self, at: usize, hint: &str) -> Option<(&'a str, Range<usize>)> {
        let is_tag = Keyword::of(self.words[at]).or_else(|| nearest(self.words[at])) == Some(Keyword::Tag);
        let next = self.words.get(at + 1).filter(|next| is_tag || Keyword::of(next).is_none());
        if next.is_none() {
            let reason = format!("A value is missing behind {}.", self.words[at]);
            self.grammar(self.spans[at].clone(), reason, hint);
            return None;
        }
        self.at = at + 2;
        Some((self.words[at + 1], self.spans[at + 1].clone()))
    }

    fn unknown(&mut self, word: &str, at: usize) {
        let span = self.spans[at].clone();
        if is_other_protocol(word) {
            let hint =
                "leave the protocol out for all of them; for others use calicoctl apply with a Profile or a policy";
            return self.grammar(span, "The protocols here are tcp, udp, icmp and icmpv6.", hint);
        }
        if let Some(keyword) = nearest(word) {
            self.grammar(span, UNKNOWN, format!("say {} for {word}", keyword.as_str()));
            return self.keyword(keyword, at);
        }
        let end = match self.side {
            Some(Side::From) => "from",
            _ => "to",
        };
        // Often a value without the word that says what it is.
        let hint = if value::net(word).is_some() {
            format!("say cidr before a network or address: {end} cidr {word}")
        } else if value::ports(word).1.is_empty() {
            format!("say ports before a port: {end} ports {word}")
        } else if Tag::parse(word).is_ok() && self.side.is_some() {
            format!("say tag before a tag: {end} tag {word}")
        } else {
            "the words are: allow deny tcp udp icmp icmpv6 type code from to ports tag cidr".to_owned()
        };
        self.grammar(span, UNKNOWN, hint);
    }

    /// What several words together get wrong.
    fn combinations(&mut self) {
        let protocol = self.draft.protocol.as_ref().map(|(protocol, _)| *protocol);
        let name = protocol.map(|protocol| Keyword::Protocol(protocol).as_str());
        let action = self.draft.action.map_or("allow", |action| Keyword::Act(action).as_str());
        if !protocol.is_some_and(Proto::has_ports) {
            let ports: Vec<Range<usize>> =
                self.draft.ends().filter_map(|end| end.ports.as_ref()).map(|(_, span)| span.clone()).collect();
            for span in ports {
                let reason = match name {
                    Some(name) => format!("Ports are not valid with protocol {name}."),
                    None => "Ports need a protocol that has them: tcp or udp.".to_owned(),
                };
                self.grammar(span, reason, format!("say tcp or udp first, as in: {action} tcp to ports 80"));
            }
        }
        if !matches!(protocol, Some(Proto::Icmp | Proto::Icmpv6)) {
            let draft = &self.draft;
            let of_icmp = [("A type", &draft.icmp_type), ("A code", &draft.code)];
            let spans: Vec<(&str, Range<usize>)> = of_icmp
                .into_iter()
                .filter_map(|(what, part)| part.as_ref().map(|(_, span)| (what, span.clone())))
                .collect();
            for (what, span) in spans {
                let reason = format!("{what} is for icmp and icmpv6.");
                self.grammar(span, reason, format!("as in: {action} icmp type 8"));
            }
        }
        self.families(protocol);
    }

    fn families(&mut self, protocol: Option<Proto>) {
        let nets: Vec<(Range<usize>, IpNet)> =
            self.draft.ends().filter_map(|end| end.nets.as_ref()).flatten().cloned().collect();
        let family = |net: &IpNet| if net.addr().is_ipv4() { "IPv4" } else { "IPv6" };
        let (wanted, because) = match (protocol, nets.first()) {
            (Some(Proto::Icmp), _) => ("IPv4", "icmp is IPv4's; that of IPv6 is icmpv6".to_owned()),
            (Some(Proto::Icmpv6), _) => ("IPv6", "icmpv6 is IPv6's; that of IPv4 is icmp".to_owned()),
            (_, Some((_, first))) => {
                (family(first), format!("{first} is {}, and a rule is of one family", family(first)))
            }
            (_, None) => return,
        };
        for (span, net) in nets.iter().filter(|(_, net)| family(net) != wanted) {
            self.value(span.clone(), format!("{net} is {}, but {because}.", family(net)));
        }
    }
}

const UNKNOWN: &str = "This word has no meaning here.";

impl End {
    fn has(&self, keyword: Keyword) -> bool {
        match keyword {
            Keyword::Ports => self.ports.is_some(),
            Keyword::Tag => self.tag.is_some(),
            _ => self.nets.is_some(),
        }
    }
}

#[cfg(test)]
mod tests;
