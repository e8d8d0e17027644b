//! The text of BIRD's configuration, from a template.
//!
//! The template is built in; an operator may put another one in its place. Its variables are the fields of
//! [`BirdConfig`], undefined ones are errors, and there are two filters beside the language's own:
//!
//! - `prefixes | prefix_set` writes a BIRD set of exactly these prefixes or addresses; with `"+"` of them and what
//!   is inside them; with `"inside"` only of what is strictly inside them;
//! - `prefixes | aggregates` leaves out prefixes of a single address.
//!
//! Pure: equal input gives equal text.

use ipnet::IpNet;
use minijinja::{
    AutoEscape, Environment, ErrorKind, UndefinedBehavior,
    syntax::SyntaxConfig,
    value::{Serde, Value},
};

use crate::config::{BirdConfig, FamilyConfig};

/// Metric of the routes that BIRD writes into the kernel with the built-in template. By it, and by the protocol
/// number `bird`, the routes of our BIRD are known.
pub const KERNEL_METRIC: u32 = 2048;

/// The built-in template.
const BUILT_IN: &str = include_str!("../templates/bird.cfg.j2");

/// A template that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}:{line}: {reason}")]
pub struct TemplateError {
    /// The template's name, for a file its path.
    pub name: String,
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong there.
    pub reason: String,
}

/// A template's text and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// For messages.
    pub name: String,
    /// The text.
    pub source: String,
}

impl Template {
    /// The template that is part of the program.
    pub fn built_in() -> Self {
        Self { name: "the built-in template".into(), source: BUILT_IN.into() }
    }

    /// True if a peer has filters and the template does not know that there can be some: one from before them, which
    /// renders without an error and lets everything through.
    pub(crate) fn overlooks_filters(&self, config: &BirdConfig) -> bool {
        let peers = config.families.iter().flat_map(|family| &family.peers);
        let screens = peers.flat_map(|peer| [&peer.import, &peer.export]);
        let used = |word: &str, by: bool| by && !self.source.contains(word);
        screens.into_iter().any(|screen| used(".calls", !screen.calls.is_empty()) || used(".closed", screen.closed))
    }

    /// Renders a configuration.
    ///
    /// # Errors
    /// [`TemplateError`] with the line.
    pub fn render(&self, config: &BirdConfig) -> Result<String, TemplateError> {
        let environment = environment();
        let rendered = environment
            .template_from_named_str(&self.name, &self.source)
            .and_then(|template| template.render(Value::from(Serde(config))));
        rendered.map_err(|error| TemplateError {
            name: self.name.clone(),
            line: error.line().unwrap_or(1),
            reason: match error.detail() {
                Some(detail) => format!("{}: {detail}", error.kind()),
                None => error.kind().to_string(),
            },
        })
    }
}

fn environment<'source>() -> Environment<'source> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(true).build();
    environment.set_syntax(syntax.expect("the default delimiters do not clash"));
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.add_filter("prefix_set", prefix_set);
    environment.add_filter("aggregates", aggregates);
    environment
}

fn prefixes(texts: &[String]) -> Result<Vec<IpNet>, minijinja::Error> {
    let parse = |text: &String| {
        let net = text.parse().or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from));
        net.map_err(|_| {
            minijinja::Error::new(ErrorKind::InvalidOperation, format!("{text:?} is no prefix and no address"))
        })
    };
    texts.iter().map(parse).collect()
}

fn prefix_set(texts: Vec<String>, form: Option<String>) -> Result<String, minijinja::Error> {
    let prefixes = prefixes(&texts)?;
    let items: Vec<String> = match form.as_deref() {
        None => prefixes.iter().map(IpNet::to_string).collect(),
        Some("+") => prefixes.iter().map(|net| format!("{net}+")).collect(),
        Some("inside") => {
            let inside = |net: &IpNet| format!("{net}{{{},{}}}", net.prefix_len() + 1, net.max_prefix_len());
            prefixes.iter().filter(|net| !FamilyConfig::is_single(net)).map(inside).collect()
        }
        Some(other) => {
            let reason = format!("prefix_set knows \"+\" and \"inside\", not {other:?}");
            return Err(minijinja::Error::new(ErrorKind::InvalidOperation, reason));
        }
    };
    Ok(if items.is_empty() { "[]".into() } else { format!("[ {} ]", items.join(", ")) })
}

fn aggregates(texts: Vec<String>) -> Result<Vec<String>, minijinja::Error> {
    Ok(prefixes(&texts)?.iter().filter(|net| !FamilyConfig::is_single(net)).map(IpNet::to_string).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn set(texts: &[&str], form: Option<&str>) -> String {
        prefix_set(texts.iter().map(ToString::to_string).collect(), form.map(str::to_owned)).unwrap()
    }

    #[test]
    fn the_metric_is_that_of_the_built_in_template() {
        assert_eq!(BUILT_IN.matches(&format!("metric {KERNEL_METRIC};")).count(), 1, "one for both families");
    }

    #[test]
    fn sets_of_prefixes() {
        assert_eq!(set(&[], Some("+")), "[]");
        assert_eq!(set(&["10.0.0.0/26", "10.0.0.7/32"], None), "[ 10.0.0.0/26, 10.0.0.7/32 ]");
        assert_eq!(set(&["fd00::/64"], Some("+")), "[ fd00::/64+ ]");
        assert_eq!(set(&["10.0.0.1"], None), "[ 10.0.0.1/32 ]");
        let blocks = ["10.0.0.0/26", "10.0.0.7/32", "fd00::/122", "fd00::9/128"];
        assert_eq!(set(&blocks, Some("inside")), "[ 10.0.0.0/26{27,32}, fd00::/122{123,128} ]");
        assert_eq!(set(&["10.0.0.7/32"], Some("inside")), "[]", "a single address has nothing inside");
        assert!(prefix_set(vec!["x".into()], None).is_err());
        assert!(prefix_set(vec![], Some("-".into())).is_err());
    }
}
