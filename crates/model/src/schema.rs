//! The shape of each kind's JSON: which members there are and what may stand in them.
//!
//! Typed decoding alone cannot refuse what a person mistyped: stored objects must keep members that this program does
//! not know, and an error of the decoder does not say where it is. So input is brought into its kind's shape first
//! ([`conform`]), with every fault at its path, as upstream's client does it: member names match in any case, an
//! unquoted number or boolean where text is wanted becomes text, nothing else is converted.

use std::fmt;

use ipnet::IpNet;
use serde_json::{Map, Value};

use crate::{AsNumber, Fault, KindName, Port, format_go_duration, parse_go_duration, scalar::go_number};

mod felix;
mod kinds;
mod odd_case;
mod policy;
mod prune;

pub(crate) use odd_case::has_odd_case;
pub(crate) use prune::prune;

/// What may stand in a place.
#[derive(Clone, Copy)]
pub(crate) enum Shape {
    Text,
    Bool,
    /// A whole number from the first to the second.
    Int(i64, i64),
    /// Any number.
    Number,
    AsNumber,
    Port,
    Protocol,
    /// A network with its prefix length.
    Network,
    /// A duration; rewritten as Go does.
    Duration,
    /// A duration of whole numbers of units, as upstream's schema wants most of Felix's.
    WholeDuration,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// One of these words, in any case.
    Word(&'static [&'static str]),
    List(&'static Shape),
    /// Text by any key.
    Texts,
    Object(&'static [Member]),
    /// An object with further members that start with one of these and are not looked into.
    Open(&'static [Member], &'static [&'static str]),
    /// Not looked into.
    Any,
}

/// One member of an object.
pub(crate) struct Member {
    name: &'static str,
    shape: Shape,
    needed: bool,
}

impl Member {
    /// How it is called.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// What may stand in it.
    pub(crate) fn shape(&self) -> Shape {
        self.shape
    }
}

/// The members of a kind's spec, and what the names of further ones start with. Nothing for a kind whose spec is not
/// looked into.
pub(crate) fn spec_members(kind: KindName) -> (&'static [Member], &'static [&'static str]) {
    let Shape::Object(members) = kinds::of(kind) else { return (&[], &[]) };
    match find(members, "spec").map(|member| member.shape) {
        Some(Shape::Object(members)) => (members, &[]),
        Some(Shape::Open(members, prefixes)) => (members, prefixes),
        _ => (&[], &[]),
    }
}

const fn member(name: &'static str, shape: Shape) -> Member {
    Member { name, shape, needed: false }
}

const fn needed(name: &'static str, shape: Shape) -> Member {
    Member { name, shape, needed: true }
}

/// Brings a whole resource into its kind's shape, as far as it goes, and says where it does not. There stands something
/// harmless then, so that what else is wrong can be found too.
pub(crate) fn conform(kind: KindName, value: &mut Value) -> Vec<Fault> {
    let mut walk = Walk { path: String::new(), faults: Vec::new() };
    walk.conform(kinds::of(kind), value);
    walk.faults
}

/// Gives members that differ only in case their proper names and drops nulls: stored objects may have both, as Go
/// reads them.
pub(crate) fn tidy(kind: KindName, value: &mut Value) {
    tidy_shape(kinds::of(kind), value);
}

fn tidy_shape(shape: Shape, value: &mut Value) {
    match (shape, value) {
        (Shape::List(inner), Value::Array(items)) => items.iter_mut().for_each(|item| tidy_shape(*inner, item)),
        (Shape::Object(members) | Shape::Open(members, _), Value::Object(map)) => {
            for (name, mut value) in std::mem::take(map) {
                if value.is_null() {
                    continue;
                }
                match find(members, &name) {
                    Some(member) => {
                        tidy_shape(member.shape, &mut value);
                        map.insert(member.name.to_owned(), value);
                    }
                    None => {
                        map.insert(name, value);
                    }
                }
            }
        }
        _ => {}
    }
}

fn find(members: &'static [Member], name: &str) -> Option<&'static Member> {
    members
        .iter()
        .find(|member| member.name == name)
        .or_else(|| members.iter().find(|member| member.name.eq_ignore_ascii_case(name)))
}

/// A walk through a value, with the place where it stands.
struct Walk {
    path: String,
    faults: Vec<Fault>,
}

impl Walk {
    fn fault(&mut self, value: impl fmt::Display, reason: impl Into<String>) {
        self.faults.push(Fault::new(self.path.clone(), value, reason));
    }

    /// Does something one step further down.
    fn at(&mut self, step: fmt::Arguments<'_>, act: impl FnOnce(&mut Self)) {
        let here = self.path.len();
        self.path.push_str(&step.to_string());
        act(self);
        self.path.truncate(here);
    }

    fn member(&mut self, name: &str, act: impl FnOnce(&mut Self)) {
        let dot = if self.path.is_empty() { "" } else { "." };
        self.at(format_args!("{dot}{name}"), act);
    }

    /// A value at fault becomes a [`neutral`] one.
    fn conform(&mut self, shape: Shape, value: &mut Value) {
        let before = self.faults.len();
        self.look(shape, value);
        let inside = match shape {
            Shape::List(_) => value.is_array(),
            Shape::Texts | Shape::Object(_) | Shape::Open(..) => value.is_object(),
            _ => false,
        };
        if self.faults.len() > before && !inside {
            *value = neutral(shape);
        }
    }

    fn look(&mut self, shape: Shape, value: &mut Value) {
        match shape {
            Shape::Any => {}
            Shape::Text => self.text(value),
            Shape::Bool => self.expect(value.is_boolean(), value, "it must be true or false"),
            Shape::Int(least, most) => self.int(value, least, most),
            Shape::Number => {
                self.expect(value.is_number(), value, "it must be a number");
                whole(value);
            }
            Shape::AsNumber => self.as_number(value),
            Shape::Port => self.port(value),
            Shape::Protocol => self.protocol(value),
            Shape::Network => {
                let good = value.as_str().is_some_and(|text| text.parse::<IpNet>().is_ok());
                self.expect(good, value, "it must be a network such as 10.0.0.0/16 or fd00::/64");
            }
            Shape::Duration => self.duration(value, false),
            Shape::WholeDuration => self.duration(value, true),
            Shape::OneOf(words) => self.word(value, words, |word, given| word == given),
            Shape::Word(words) => self.word(value, words, str::eq_ignore_ascii_case),
            Shape::List(inner) => self.list(value, *inner),
            Shape::Texts => self.texts(value),
            Shape::Object(members) => self.object(value, members, &[]),
            Shape::Open(members, prefixes) => self.object(value, members, prefixes),
        }
    }

    fn expect(&mut self, good: bool, value: &Value, reason: &str) {
        if !good {
            self.fault(shown(value), reason);
        }
    }

    fn text(&mut self, value: &mut Value) {
        match value {
            Value::String(_) => {}
            Value::Bool(_) => *value = Value::String(value.to_string()),
            Value::Number(number) => *value = Value::String(go_number(number)),
            other => self.expect(false, other, "it must be text"),
        }
    }

    fn int(&mut self, value: &mut Value, least: i64, most: i64) {
        whole(value);
        let good = value.as_i64().is_some_and(|number| (least..=most).contains(&number));
        self.expect(good, value, &format!("it must be a whole number from {least} to {most}"));
    }

    fn as_number(&mut self, value: &mut Value) {
        whole(value);
        let good = match &*value {
            Value::String(text) => text.parse::<AsNumber>().is_ok(),
            other => other.as_u64().is_some_and(|number| u32::try_from(number).is_ok()),
        };
        self.expect(good, value, "it must be an AS number: 0 to 4294967295, or dotted as \"64512.1\"");
    }

    fn port(&mut self, value: &mut Value) {
        whole(value);
        let error = match &*value {
            Value::String(text) => text.parse::<Port>().err(),
            other if other.as_u64().is_some_and(|number| number <= 65535) => None,
            _ => Some("it must be a port, a range such as \"1000:2000\" or the name of a port".to_owned()),
        };
        if let Some(error) = error {
            self.fault(shown(value), error);
        }
    }

    fn protocol(&mut self, value: &mut Value) {
        whole(value);
        let good = value.is_string() || value.as_u64().is_some_and(|number| number <= 255);
        self.expect(good, value, "it must be a protocol's name or a number up to 255");
    }

    fn duration(&mut self, value: &mut Value, whole_units: bool) {
        let rule = if whole_units {
            "it must be a duration of whole numbers, such as 90s or 1m30s"
        } else {
            "it must be a duration such as 90s, 1m30s or 1.5s"
        };
        let parsed = value.as_str().filter(|text| !(whole_units && text.contains('.'))).and_then(parse_go_duration);
        match parsed {
            Some(duration) => *value = Value::String(format_go_duration(duration)),
            None => self.expect(false, value, rule),
        }
    }

    fn word(&mut self, value: &mut Value, words: &[&str], same: impl Fn(&str, &str) -> bool) {
        self.text(value);
        if let Some(text) = value.as_str()
            && !words.iter().any(|word| same(word, text))
        {
            self.fault(text, format!("it is one of {}", words.join(", ")));
        }
    }

    fn list(&mut self, value: &mut Value, inner: Shape) {
        let Value::Array(items) = value else { return self.expect(false, value, "it must be a list") };
        for (index, item) in items.iter_mut().enumerate() {
            self.at(format_args!("[{index}]"), |walk| walk.conform(inner, item));
        }
    }

    fn texts(&mut self, value: &mut Value) {
        let Value::Object(map) = value else { return self.expect(false, value, "it must be a map of texts") };
        // Go reads a null here as the empty text.
        for (name, value) in map.iter_mut() {
            match value {
                Value::Null => *value = Value::String(String::new()),
                value => self.member(name, |walk| walk.conform(Shape::Text, value)),
            }
        }
    }

    fn object(&mut self, value: &mut Value, members: &'static [Member], prefixes: &[&str]) {
        let Value::Object(map) = value else { return self.expect(false, value, "it must be a map") };
        let mut given = Vec::new();
        for (name, mut value) in std::mem::take(map) {
            let Some(member) = find(members, &name) else {
                if !prefixes.iter().any(|prefix| name.starts_with(prefix)) {
                    self.member(&name, |walk| walk.fault("", "there is no such field"));
                } else if !value.is_null() {
                    map.insert(name, value);
                }
                continue;
            };
            if map.contains_key(member.name) {
                self.member(member.name, |walk| walk.fault("", "the field is given twice"));
            }
            // A null is the same as nothing at all.
            if !value.is_null() {
                given.push(member.name);
                self.member(member.name, |walk| walk.conform(member.shape, &mut value));
                if !value.is_null() {
                    map.insert(member.name.to_owned(), value);
                }
            }
        }
        self.missing(map, members, &given);
    }

    fn missing(&mut self, map: &mut Map<String, Value>, members: &[Member], given: &[&str]) {
        for member in members.iter().filter(|member| member.needed) {
            if map.contains_key(member.name) {
                continue;
            }
            // A member at fault has been named already.
            if !given.contains(&member.name) {
                self.member(member.name, |walk| walk.fault("", "it is missing"));
            }
            map.insert(member.name.to_owned(), neutral(member.shape));
        }
    }
}

/// What stands for a value at fault, so that the rest of the resource can be read and judged too. Nothing, where
/// nothing harmless can stand.
fn neutral(shape: Shape) -> Value {
    match shape {
        Shape::Text => Value::String(String::new()),
        Shape::Int(least, most) => 0.clamp(least, most).into(),
        Shape::Port => 1.into(),
        Shape::Protocol => "TCP".into(),
        Shape::Texts | Shape::Object(_) | Shape::Open(..) => Value::Object(Map::new()),
        _ => Value::Null,
    }
}

/// Writes a number without fraction as a whole one: `1e3` is 1000.
fn whole(value: &mut Value) {
    // Beyond 2^53 a float does not name one whole number.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if let Some(number) = value.as_f64()
        && !value.is_i64()
        && !value.is_u64()
        && number.fract() == 0.0
        && number.abs() < EXACT
    {
        *value = Value::from(number as i64);
    }
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
