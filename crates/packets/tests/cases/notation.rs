//! The notation of the cases.

use std::{net::IpAddr, ops::RangeInclusive};

use calico_packets::{
    Answer, Content, Manner, Outcome, Probe, pair,
    wire::{SYN, family},
};
use serde_json::{Value, json};

/// A probe in one family and what must become of it.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) probe: Probe,
    pub(crate) expected: Expected,
    text: String,
    seen: Option<IpAddr>,
    seen_port: Option<RangeInclusive<u16>>,
    dscp: Option<u8>,
    /// The place that it is for must have got it, not only somebody.
    there: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    Is(Answer),
    /// Dropped or rejected.
    Refused,
}

impl Expected {
    /// The answer that is worth waiting for.
    pub(crate) fn answer(self) -> Answer {
        match self {
            Self::Is(answer) => answer,
            Self::Refused => Answer::Drop,
        }
    }
}

impl Line {
    /// What is wrong with an outcome.
    pub(crate) fn fault(&self, outcome: &Outcome) -> Option<String> {
        let as_expected = match self.expected {
            // A port where nobody listens answers too: policy let the question in.
            Expected::Is(answer) => outcome.answer == answer,
            Expected::Refused => matches!(outcome.answer, Answer::Drop | Answer::Reject),
        };
        let seen = outcome.seen;
        let source = self.seen.is_none_or(|wanted| seen.is_some_and(|seen| seen.source.ip() == wanted));
        let ports = self.seen_port.as_ref();
        let port = ports.is_none_or(|wanted| seen.is_some_and(|seen| wanted.contains(&seen.source.port())));
        let dscp = self.dscp.is_none_or(|wanted| seen.is_some_and(|seen| seen.dscp == Some(wanted)));
        let place = !self.there || seen.is_some_and(|seen| seen.place == self.probe.to);
        let family = family(self.probe.destination);
        (!(as_expected && source && port && dscp && place)).then(|| format!("{} (IPv{family}): {outcome:?}", self.text))
    }
}

/// The probes of a line, one or two.
pub(crate) fn parse(text: &str) -> Vec<Line> {
    let words: Vec<&str> = text.split(' ').collect();
    let family_of = |text: &str| text.parse::<IpAddr>().ok().map(family);
    let given = words.iter().find_map(|word| match *word {
        "v4" => Some(4),
        "v6" => Some(6),
        option => option.split_once('=').and_then(|(_, value)| family_of(value)),
    });
    let families = given.map_or_else(|| vec![4, 6], |family| vec![family]);
    families.into_iter().map(|family| line(text, &words, family)).collect()
}

fn line(text: &str, words: &[&str], family: u8) -> Line {
    let bad = |what: &str| -> ! { panic!("{what}: {text}") };
    let place = |word: &str| pair::PLACES.iter().position(|name| *name == word).unwrap_or_else(|| bad("place"));
    let mut words = words.iter().copied().filter(|word| !matches!(*word, "v4" | "v6")).peekable();
    let mut next = || words.next().unwrap_or_else(|| bad("too short"));
    let (from, to, protocol) = (place(next()), place(next()), next());
    let number = |word: &str| word.parse::<u16>().unwrap_or_else(|_| bad("number"));
    let small = |word: &str| word.parse::<u8>().unwrap_or_else(|_| bad("number"));
    let mut content = match protocol {
        "tcp" => Content::Tcp { port: number(next()), flags: SYN },
        "udp" => Content::Udp { port: number(next()) },
        "sctp" => Content::Sctp { port: number(next()) },
        "ping" => Content::Icmp { icmp_type: if family == 4 { 8 } else { 128 }, code: 0 },
        "icmp" => {
            let word = next();
            let (icmp_type, code) = word.split_once('/').unwrap_or((word, "0"));
            Content::Icmp { icmp_type: small(icmp_type), code: small(code) }
        }
        "proto" => Content::Other(small(next())),
        _ => bad("protocol"),
    };
    let question = match content {
        Content::Icmp { icmp_type, .. } => matches!((family, icmp_type), (4, 8 | 13) | (6, 128)),
        Content::Tcp { .. } | Content::Udp { .. } => true,
        Content::Sctp { .. } | Content::Other(_) => false,
    };
    let mut manner = if question { Manner::Converse } else { Manner::OneWay };
    let (mut source, mut destination, mut source_port) = (None, pair::address(to, family), None);
    let (mut seen, mut seen_port, mut dscp, mut there, mut expected) = (None, None, None, false, None);
    let address = |word: &str| word.parse::<IpAddr>().unwrap_or_else(|_| bad("address"));
    for word in words {
        match word.split_once('=').unwrap_or((word, "")) {
            ("oneway", "") => manner = Manner::OneWay,
            ("src", value) => source = Some(address(value)),
            ("dst", value) => destination = address(value),
            ("sport", value) => source_port = Some(number(value)),
            ("flags", value) => {
                let Content::Tcp { port, .. } = content else { bad("flags") };
                content = Content::Tcp { port, flags: small(value) };
                manner = Manner::OneWay;
            }
            ("keep", value) => manner = Manner::Keep(format!("{value}.{family}")),
            ("send", value) => manner = Manner::Send(format!("{value}.{family}")),
            ("seen", value) => seen = Some(address(value)),
            ("seenport", value) => {
                let (first, last) = value.split_once('-').unwrap_or_else(|| bad("ports"));
                seen_port = Some(number(first)..=number(last));
            }
            ("there", "") => there = true,
            ("dscp", value) => dscp = Some(small(value)),
            ("pass", "") => expected = Some(Expected::Is(Answer::Allow)),
            ("drop", "") => expected = Some(Expected::Is(Answer::Drop)),
            ("reject", "") => expected = Some(Expected::Is(Answer::Reject)),
            ("closed", "") => expected = Some(Expected::Is(Answer::Closed)),
            ("refused", "") => expected = Some(Expected::Refused),
            _ => bad(word),
        }
    }
    // Data says where it comes from; a connection alone does not.
    if (seen.is_some() || seen_port.is_some() || there) && manner == Manner::Converse {
        manner = Manner::Keep(format!("seen {text}"));
    }
    let probe = Probe { from, to, source, destination, source_port, content, manner };
    let expected = expected.unwrap_or_else(|| bad("expected"));
    Line { probe, expected, text: text.to_owned(), seen, seen_port, dscp, there }
}

/// A resource from its shorthand.
pub(crate) fn resource(shorthand: &Value) -> Value {
    let (name, body) = shorthand.as_object().and_then(|object| object.iter().next()).unwrap();
    let (kind, name) = name.split_once(' ').unwrap();
    let mut metadata = match name.split_once('/') {
        Some((namespace, name)) => json!({"namespace": namespace, "name": name}),
        None => json!({"name": name}),
    };
    let mut spec = body.clone();
    if let Some(labels) = spec.as_object_mut().and_then(|spec| spec.remove("labels")) {
        metadata["labels"] = labels;
    }
    json!({"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": metadata, "spec": spec})
}
