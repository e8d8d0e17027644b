//! Policies: where they stand, what they reach, in which lists, with which rules.
//!
//! A policy that cannot be followed keeps its place and denies in the directions that it governs. If its own selectors
//! cannot be read it reaches all that the readable ones among them leave: never less than its author meant.

use calico_model::{Direction, PolicySpec, ResourceKey};
use calico_selector::{
    parse,
    scope::{NAMESPACE_LABEL, PolicySelectors},
};

use super::{Code, Compiler, Selectors};
use crate::endpoint::sentence;

/// Which of the lists of an endpoint a policy is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Lists {
    /// The normal one, of workloads and host endpoints.
    Normal,
    /// The normal one, and that of what a host endpoint forwards.
    NormalAndForward,
    /// Host endpoints, before connection tracking.
    Untracked,
    /// Host endpoints, before destinations are translated; ingress only.
    PreDnat,
}

/// A policy as the engine keeps it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Policy {
    /// The tier's name; `None` stands before all tiers.
    pub(crate) tier: Option<Box<str>>,
    /// Lower first; infinite without one.
    pub(crate) order: f64,
    pub(crate) lists: Lists,
    /// It judges packets to the endpoint.
    pub(crate) ingress: bool,
    /// It judges packets from the endpoint.
    pub(crate) egress: bool,
    /// Which endpoints; it parses.
    pub(crate) selector: Box<str>,
    pub(crate) code: Code,
    /// Why the code denies everything, if it does for that.
    pub(crate) fault: Option<Box<str>>,
}

impl Policy {
    /// Of a record that could be read in part only: what is missing may be where it stands and what it judges.
    pub(crate) fn displace(&mut self) {
        self.tier = None;
        self.order = f64::NEG_INFINITY;
        self.lists = Lists::NormalAndForward;
        (self.ingress, self.egress) = (true, true);
    }

    /// A fault of the record as a whole closes its policy too.
    pub(crate) fn spoil(&mut self, reason: &str) {
        self.code = Code::closed();
        self.fault = Some(reason.into());
    }
}

/// Reads a policy of either kind.
pub(super) fn read(key: &ResourceKey, spec: &PolicySpec, selectors: &mut Selectors) -> Policy {
    let namespace = key.namespace.as_deref();
    let mut compiler = Compiler::new(namespace, selectors);
    let code = compiler.code(&spec.ingress, &spec.egress);
    check(&mut compiler, spec);
    let selector = reach(&mut compiler, namespace, spec);
    let unknown_type = spec.types.iter().any(|word| direction(word).is_none());
    let (code, fault) = match compiler.finish(code) {
        Ok(code) => (code, None),
        Err(faults) => (Code::closed(), Some(sentence(&faults).into())),
    };
    let lists = match (spec.do_not_track, spec.pre_dnat, spec.apply_on_forward) {
        (true, ..) => Lists::Untracked,
        (_, true, _) => Lists::PreDnat,
        (_, _, true) => Lists::NormalAndForward,
        _ => Lists::Normal,
    };
    Policy {
        tier: Some(spec.tier().into()),
        // Adding zero makes one of the two zeros.
        order: spec.order().unwrap_or(f64::INFINITY) + 0.0,
        lists,
        ingress: unknown_type || spec.applies(Direction::Ingress),
        egress: lists != Lists::PreDnat && (unknown_type || spec.applies(Direction::Egress)),
        selector,
        code,
        fault,
    }
}

/// A policy of which nothing can be read: it might mean everything in its namespace, or everything, and might stand
/// before all others.
pub(crate) fn unreadable(key: &ResourceKey, reason: &str) -> Policy {
    Policy {
        tier: None,
        order: f64::NEG_INFINITY,
        lists: Lists::NormalAndForward,
        ingress: true,
        egress: true,
        selector: scoped(key.namespace.as_deref(), &PolicySpec::default()),
        code: Code::closed(),
        fault: Some(reason.into()),
    }
}

fn direction(word: &str) -> Option<Direction> {
    [Direction::Ingress, Direction::Egress].into_iter().find(|direction| direction.as_str() == word)
}

/// What has no clear meaning beyond rules and selectors.
fn check(compiler: &mut Compiler<'_>, spec: &PolicySpec) {
    let place = super::Place::top("spec");
    compiler.unknown(place, &spec.extra);
    for (at, word) in spec.types.iter().enumerate().filter(|(_, word)| direction(word).is_none()) {
        compiler.fault(place.member("types").at(at), word, "it is Ingress or Egress");
    }
    if spec.do_not_track && spec.pre_dnat {
        compiler.fault(place.member("preDNAT"), true, "a policy is either untracked or before destination NAT");
    }
    if (spec.do_not_track || spec.pre_dnat) && !spec.apply_on_forward {
        let name = if spec.do_not_track { "doNotTrack" } else { "preDNAT" };
        compiler.fault(place.member(name), true, "it needs applyOnForward, as it sees what is forwarded too");
    }
    if spec.pre_dnat && (!spec.egress.is_empty() || spec.types.iter().any(|word| word == "Egress")) {
        compiler.fault(place.member("preDNAT"), true, "there is no egress before destination NAT");
    }
}

/// The selector of the endpoints that the policy applies to. Where it cannot be read, what remains without the parts
/// that cannot.
fn reach(compiler: &mut Compiler<'_>, namespace: Option<&str>, spec: &PolicySpec) -> Box<str> {
    let whole = match namespace.filter(|name| name.contains(['\'', '"'])) {
        Some(name) => Err(format!("{name:?} is not the name of a namespace")),
        None => selectors(namespace, spec).combine().map_err(|error| error.to_string()),
    };
    let whole = whole.and_then(|text| {
        // What stands alone has been parsed as a part.
        if text == spec.selector {
            return Ok(text);
        }
        match parse(&text) {
            Ok(_) => Ok(text),
            Err(error) => Err(format!("{text:?} is no selector: {error}")),
        }
    });
    match whole {
        Ok(text) => text.into(),
        Err(reason) => {
            let shown = [&spec.selector, &spec.namespace_selector, &spec.service_account_selector];
            let shown: Vec<&str> = shown.into_iter().map(String::as_str).filter(|text| !text.is_empty()).collect();
            compiler.fault(super::Place::top("spec").member("selector"), shown.join(", "), reason);
            scoped(namespace, spec)
        }
    }
}

fn selectors<'a>(namespace: Option<&'a str>, spec: &'a PolicySpec) -> PolicySelectors<'a> {
    PolicySelectors {
        namespace,
        selector: &spec.selector,
        namespace_selector: if namespace.is_none() { &spec.namespace_selector } else { "" },
        service_account_selector: &spec.service_account_selector,
    }
}

/// All that each part of the selectors allows that can be read by itself; of a namespaced policy nothing outside its
/// namespace.
fn scoped(namespace: Option<&str>, spec: &PolicySpec) -> Box<str> {
    let all = selectors(namespace, spec);
    let nothing = PolicySelectors { namespace: None, ..PolicySelectors::default() };
    let alone = [
        PolicySelectors { selector: all.selector, ..nothing },
        PolicySelectors { namespace_selector: all.namespace_selector, ..nothing },
        PolicySelectors { service_account_selector: all.service_account_selector, ..nothing },
    ];
    let mut parts: Vec<String> = namespace.map(within).into_iter().collect();
    for part in alone {
        let Ok(text) = part.combine() else { continue };
        if !text.trim().is_empty() && parse(&text).is_ok() {
            parts.push(text);
        }
    }
    parts.iter().map(|part| format!("({part})")).collect::<Vec<_>>().join(" && ").into()
}

/// The selector of a namespace, whatever its name.
fn within(namespace: &str) -> String {
    match (namespace.contains('\''), namespace.contains('"')) {
        (false, _) => format!("{NAMESPACE_LABEL} == '{namespace}'"),
        (true, false) => format!("{NAMESPACE_LABEL} == \"{namespace}\""),
        // The language has no word for it.
        (true, true) => "!all()".to_owned(),
    }
}
