//! What settings are called: by their fields, by felix' own parameters, and `loglevel`.

use calico_model::{
    KindName,
    field::{self, Field},
};
use serde_json::Value;

/// The classic name of how much is logged.
const LOG_LEVEL: &str = "loglevel";
/// The field behind it.
const LOG_FIELD: &str = "logSeverityScreen";

/// Levels: the word of the classic command, and what is stored. The last two are stored as one.
const LEVELS: &[(&str, &str)] = &[
    ("trace", "Trace"),
    ("debug", "Debug"),
    ("info", "Info"),
    ("warning", "Warning"),
    ("error", "Error"),
    ("critical", "Fatal"),
    ("none", "Fatal"),
];

/// Which name was used for a field; it says how values are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Naming {
    /// The field's own.
    Field,
    /// `loglevel`.
    Level,
    /// Felix' parameter with seconds.
    Seconds,
    /// Felix' parameter with milliseconds.
    Milliseconds,
}

/// A setting by the name that was typed.
pub(super) struct Name {
    /// The field.
    pub(super) field: Field,
    /// How it was named.
    pub(super) naming: Naming,
}

impl Name {
    /// The setting of a name, in any case; `None` if there is none.
    pub(super) fn parse(kind: KindName, typed: &str) -> Option<Self> {
        if typed.eq_ignore_ascii_case(LOG_LEVEL) {
            return field::find(kind, LOG_FIELD).map(|field| Self { field, naming: Naming::Level });
        }
        if let Some(field) = field::find(kind, typed) {
            return Some(Self { field, naming: Naming::Field });
        }
        if kind != KindName::FelixConfiguration {
            return None;
        }
        let lower = typed.to_ascii_lowercase().replacen("ipinip", "ipip", 1);
        let of = |name: &str, naming| field::find(kind, name).map(|field| Self { field, naming });
        of(&lower, Naming::Field)
            .or_else(|| of(lower.strip_suffix("secs")?, Naming::Seconds))
            .or_else(|| of(lower.strip_suffix("millis")?, Naming::Milliseconds))
    }

    /// The JSON of a typed value.
    ///
    /// # Errors
    /// What the text should look like.
    pub(super) fn read(&self, text: &str) -> Result<Value, String> {
        match self.naming {
            Naming::Level => {
                let level = LEVELS.iter().find(|(word, _)| *word == text);
                level.map(|(_, stored)| (*stored).into()).ok_or_else(|| format!("it is one of {}", self.form()))
            }
            Naming::Milliseconds if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => {
                self.field.read(&format!("{text}ms"))
            }
            Naming::Field | Naming::Seconds | Naming::Milliseconds => self.field.read(text),
        }
    }

    /// What may stand there, in words.
    pub(super) fn form(&self) -> String {
        match self.naming {
            Naming::Level => LEVELS.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", "),
            Naming::Field | Naming::Seconds | Naming::Milliseconds => self.field.form(),
        }
    }
}

/// A stored level as `loglevel` says it.
pub(super) fn level_shown(stored: &str) -> &str {
    LEVELS.iter().find(|(_, level)| level.eq_ignore_ascii_case(stored)).map_or(stored, |(word, _)| word)
}

/// Fields that are called much like what was typed, best first.
pub(super) fn similar(kind: KindName, typed: &str) -> Vec<String> {
    const MOST: usize = 3;
    let typed = typed.to_ascii_lowercase();
    let mut found: Vec<(usize, String)> = field::all(kind)
        .iter()
        .map(|field| field.name().to_owned())
        .filter_map(|name| {
            let lower = name.to_ascii_lowercase();
            let distance = strsim::osa_distance(&typed, &lower);
            let close = distance <= 1 + typed.len() / 8;
            let part = typed.len() >= 4 && lower.contains(&typed);
            (close || part).then_some((distance, name))
        })
        .collect();
    found.sort();
    found.into_iter().take(MOST).map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn felix_own_parameters_stand_for_fields() {
        for (typed, field, text, value) in [
            ("LogSeverityScreen", "logSeverityScreen", "warning", "Warning"),
            ("IpInIpEnabled", "ipipEnabled", "true", "true"),
            ("ReportingIntervalSecs", "reportingInterval", "30", "30s"),
            ("IptablesLockProbeIntervalMillis", "iptablesLockProbeInterval", "50", "50ms"),
            ("loglevel", "logSeverityScreen", "critical", "Fatal"),
        ] {
            let name = Name::parse(KindName::FelixConfiguration, typed).unwrap_or_else(|| panic!("{typed}"));
            assert_eq!(name.field.name(), field);
            assert_eq!(name.field.show(&name.read(text).unwrap()), value, "{typed}");
        }
        assert!(Name::parse(KindName::BGPConfiguration, "IpInIpEnabled").is_none());
    }

    #[test]
    fn levels_are_matched_whole() {
        let name = Name::parse(KindName::BGPConfiguration, "loglevel").unwrap();
        assert!(name.read("debugger").unwrap_err().contains("debug, info"));
        assert!(name.read("DEBUG").is_err());
        assert_eq!(level_shown("Fatal"), "critical");
        assert_eq!(level_shown("debug"), "debug");
    }

    #[test]
    fn mistyped_names_are_guessed() {
        assert_eq!(similar(KindName::FelixConfiguration, "logSeverityScren"), ["logSeverityScreen"]);
        assert_eq!(similar(KindName::BGPConfiguration, "asnumbr"), ["asNumber"]);
        assert!(similar(KindName::FelixConfiguration, "vxlanmtu").contains(&"vxlanMTUV6".to_owned()));
        assert!(similar(KindName::FelixConfiguration, "zzz").is_empty());
    }
}
