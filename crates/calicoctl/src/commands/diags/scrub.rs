//! What must not leave the host, and how it is kept out.
//!
//! Three lines of defence, because each alone has holes:
//!
//! 1. *Structure.* What has a form is read, and only what is known to be harmless is written again: settings by an
//!    allow-list of names, annotations by an allow-list of prefixes, members of objects unless their name says secret.
//! 2. *Known values.* What this host keeps as a secret (passwords of BGP and of etcd, in files, settings and
//!    environment) is struck wherever it occurs, in whatever text.
//! 3. *Patterns.* Text without a form (logs, outputs of programs) loses what looks like a secret: credentials in URLs,
//!    what follows a word such as `password`, private keys, tokens. Rather too much than too little.
//!
//! Pure: text in, text out.

use std::sync::LazyLock;

use regex::{Captures, Regex};
use serde_json::{Map, Value};

/// What stands in the place of a secret.
pub(super) const REMOVED: &str = "<removed>";

/// Shorter values are no secrets worth the name, and striking them everywhere would leave no readable text.
const SHORTEST: usize = 4;

/// Parts of names that say secret, without blanks, dashes and underscores.
const SECRET_WORDS: &[&str] = &[
    "password",
    "passwd",
    "passphrase",
    "passwort",
    "secret",
    "token",
    "apikey",
    "privatekey",
    "accesskey",
    "presharedkey",
    "signingkey",
    "encryptionkey",
    "credential",
    "authorization",
    "cookie",
    "etcdkey",
    "etcdcert",
    "kubeconfiginline",
    "md5key",
];

/// Annotations that are ours or upstream's own; others may hold anything.
const KNOWN_ANNOTATIONS: &[&str] = &["projectcalico.org/", "org.projectcalico/"];

/// Names of settings whose values are shown.
const KNOWN_SETTINGS: &[&str] = &[
    "ETCD_ENDPOINTS",
    "ETCD_AUTHORITY",
    "ETCD_SCHEME",
    "ETCD_CA_CERT_FILE",
    "ETCD_CERT_FILE",
    "ETCD_KEY_FILE",
    "ETCD_PASSWORD_FILE",
    "ETCD_USERNAME",
    "ETCD_DISCOVERY_SRV",
    "DATASTORE_TYPE",
    "HOSTNAME",
    "IP",
    "IP6",
    "AS",
    "NO_DEFAULT_POOLS",
    "CALICO_NETWORKING",
    "CALICO_LOG",
    "CALICO_LOG_DIR",
    "CALICO_HEALTH_PORT",
    "CALICO_BIRD_TEMPLATE",
    "CALICO_CTL_CONTAINER",
    "CALICO_DISABLE_FILE_LOGGING",
    "DOCKER_HOST",
    // Of a file of settings, by its own names.
    "DATASTORETYPE",
    "ETCDENDPOINTS",
    "ETCDDISCOVERYSRV",
    "ETCDUSERNAME",
    "ETCDKEYFILE",
    "ETCDCERTFILE",
    "ETCDCACERTFILE",
    "KUBECONFIG",
    "K8SAPIENDPOINT",
    "K8SKEYFILE",
    "K8SCERTFILE",
    "K8SCAFILE",
    "K8SINSECURESKIPTLSVERIFY",
    "K8SDISABLENODEPOLL",
    "USEPODCIDR",
    "K8SUSEPODCIDR",
    "K8SCLIENTQPS",
    "K8SCLIENTBURST",
    "K8SCURRENTCONTEXT",
];

/// The same for settings of felix, of which there are many: they are set by `FELIX_…`.
const FELIX: &str = "FELIX_";

/// Whatever stands between `://` and the last `@` of the same word.
static CREDENTIALS: LazyLock<Regex> = LazyLock::new(|| pattern(r#"(?i)\b([a-z][a-z0-9+.-]*://)[^\s"'<>]*@"#));
/// A name that says secret, and what follows it: a quoted text, or else all to the end of the line.
static NAMED: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r#"(?ix)
        ( [a-z0-9_.-]* (?: pass[-_]?word | passwd | passphrase | passwort | secret | token | api[-_]?key
            | private[-_]?key | access[-_]?key | preshared[-_]?key | signing[-_]?key | encryption[-_]?key
            | credential | authorization | cookie | md5[-_]?key )
          [a-z0-9_.-]* \\?["']? [\x20\t]* (?: [:=] | => )? [\x20\t]* )
        ( " (?: [^"\\] | \\. )* " | ' [^'\n]* ' | [^\s] [^\n]* )"#,
    )
});
/// A private key, or what is left of one where a text begins or ends inside it.
static PRIVATE_KEY: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\z)")
});
static END_OF_KEY: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?s)\A.*?-----END [A-Z0-9 ]*PRIVATE KEY-----"));
/// Tokens that are known by their form: JSON web tokens, those of HTTP, of Amazon, GitHub and Slack.
static TOKEN: LazyLock<Regex> = LazyLock::new(|| {
    pattern(concat!(
        r"\beyJ[\w-]{4,}\.[\w-]+\.[\w-]*|(?i:\b(?:bearer|basic)[ \t]+)[\w.~+/=-]{6,}",
        r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[pousr]_\w{20,}|\bxox[abprs]-[\w-]{10,}",
    ))
});
/// BIRD's passwords.
static BIRD_PASSWORD: LazyLock<Regex> = LazyLock::new(|| pattern(r#"(?i)\bpassword\s+"([^"\n]*)""#));

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("the pattern is a constant that the tests use")
}

/// What this host keeps as secrets, and the patterns of those that it does not know.
#[derive(Debug, Default)]
pub(super) struct Scrubber {
    /// The longest first, so that no part of a longer one is left.
    known: Vec<String>,
}

impl Scrubber {
    /// Takes note of a value that must not leave this host.
    pub(super) fn know(&mut self, secret: &str) {
        let secret = secret.trim();
        if secret.chars().count() < SHORTEST {
            return;
        }
        // As it stands in JSON, and in a URL.
        let quoted = Value::from(secret).to_string();
        let forms = [secret.to_owned(), quoted[1..quoted.len() - 1].to_owned(), in_a_url(secret)];
        self.known.extend(forms);
        self.known.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        self.known.dedup();
    }

    /// Takes note of the passwords in a configuration of BIRD.
    pub(super) fn know_those_of_bird(&mut self, configuration: &str) {
        for found in BIRD_PASSWORD.captures_iter(configuration) {
            self.know(&found[1]);
        }
    }

    /// Takes note of values whose names say secret, in lines `NAME=VALUE`.
    pub(super) fn know_those_of_settings(&mut self, lines: &str) {
        for (name, value) in lines.lines().filter_map(assignment) {
            if says_secret(name) {
                self.know(value);
            }
        }
    }

    /// Takes note of every text and number below a member whose name says secret.
    pub(super) fn know_those_of_data(&mut self, data: &Value) {
        fn all(scrubber: &mut Scrubber, value: &Value) {
            match value {
                Value::String(text) => scrubber.know(text),
                // A password of digits, without quotes.
                Value::Number(number) => scrubber.know(&number.to_string()),
                Value::Array(values) => values.iter().for_each(|value| all(scrubber, value)),
                Value::Object(members) => members.values().for_each(|value| all(scrubber, value)),
                _ => {}
            }
        }
        match data {
            Value::Object(members) => {
                for (name, value) in members {
                    if says_secret(name) && !is_reference(value) {
                        all(self, value);
                    } else {
                        self.know_those_of_data(value);
                    }
                }
            }
            Value::Array(values) => values.iter().for_each(|value| self.know_those_of_data(value)),
            _ => {}
        }
    }

    /// Strikes the known values.
    pub(super) fn strike(&self, text: &str) -> String {
        self.known.iter().fold(text.to_owned(), |text, secret| match text.contains(secret) {
            true => text.replace(secret, REMOVED),
            false => text,
        })
    }

    /// A text of no known form without secrets.
    pub(super) fn text(&self, text: &str) -> String {
        let text = self.strike(text);
        let cut = match (text.find("-----END "), text.find("-----BEGIN ")) {
            (Some(end), Some(begin)) if begin < end => text.into(),
            (Some(_), _) => END_OF_KEY.replace(&text, REMOVED),
            (None, _) => text.into(),
        };
        let text = PRIVATE_KEY.replace_all(&cut, REMOVED);
        let text = CREDENTIALS.replace_all(&text, format!("${{1}}{REMOVED}@").as_str());
        let text = TOKEN.replace_all(&text, REMOVED);
        NAMED.replace_all(&text, |found: &Captures<'_>| format!("{}{REMOVED}", &found[1])).into_owned()
    }

    /// Data without secrets: members whose names say secret, annotations of others, and in every text what
    /// [`text`](Self::text) takes away.
    pub(super) fn data(&self, data: &Value) -> Value {
        match data {
            Value::String(text) => Value::from(self.text(text)),
            Value::Array(values) => Value::Array(values.iter().map(|value| self.data(value)).collect()),
            Value::Object(members) => Value::Object(members.iter().map(|(k, v)| self.member(k, v)).collect()),
            other => other.clone(),
        }
    }

    fn member(&self, name: &str, value: &Value) -> (String, Value) {
        let value = match value {
            Value::Object(annotations) if name == "annotations" => self.annotations(annotations),
            value if is_reference(value) => self.data(value),
            Value::Null => Value::Null,
            _ if says_secret(name) => Value::from(REMOVED),
            value => self.data(value),
        };
        // A secret in the place of a name is still one.
        (self.strike(name), value)
    }

    fn annotations(&self, annotations: &Map<String, Value>) -> Value {
        let shown = |(name, value): (&String, &Value)| {
            let is_known = KNOWN_ANNOTATIONS.iter().any(|prefix| name.starts_with(prefix));
            let value = match value {
                Value::String(text) if is_known => match serde_json::from_str::<Value>(text) {
                    // Upstream keeps metadata of some kinds as JSON in an annotation, annotations included.
                    Ok(inner @ Value::Object(_)) => Value::from(self.data(&inner).to_string()),
                    _ => Value::from(self.text(text)),
                },
                _ => Value::from(REMOVED),
            };
            (self.strike(name), value)
        };
        Value::Object(annotations.iter().map(shown).collect())
    }

    /// Lines `NAME=VALUE`: values of known harmless names, of the others only that they are set.
    pub(super) fn settings(&self, lines: &str) -> String {
        let line = |line: &str| match assignment(line) {
            Some((name, value)) if is_shown(name) => format!("{name}={}\n", self.text(value)),
            Some((name, _)) if is_a_name(name) => format!("{name}={REMOVED}\n"),
            // A comment may be a setting that was switched off.
            _ => String::new(),
        };
        lines.lines().map(line).collect()
    }

    /// The members of an object of settings: values of known harmless names, of the others only that they are set.
    pub(super) fn settings_of(&self, members: &Map<String, Value>) -> Value {
        let shown = |(name, value): (&String, &Value)| {
            let value = if is_shown(name) { self.data(value) } else { Value::from(REMOVED) };
            (self.strike(name), value)
        };
        Value::Object(members.iter().map(shown).collect())
    }
}

/// `NAME=VALUE`, perhaps behind `export`, perhaps quoted.
fn assignment(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.trim().split_once('=')?;
    let name = name.trim().strip_prefix("export ").unwrap_or(name).trim();
    let value = value.trim();
    let unquoted = |quote| value.strip_prefix(quote).and_then(|rest: &str| rest.strip_suffix(quote));
    Some((name, unquoted('"').or_else(|| unquoted('\'')).unwrap_or(value)))
}

fn is_a_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn is_shown(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    let plain = name.strip_prefix("CALICO_").unwrap_or(&name);
    let is_known = KNOWN_SETTINGS.contains(&name.as_str()) || KNOWN_SETTINGS.contains(&plain);
    is_known || (name.starts_with(FELIX) && !says_secret(&name))
}

/// True for names of members and variables that hold a secret. What names the file of one is none.
pub(super) fn says_secret(name: &str) -> bool {
    let plain: String = name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    let is_place = ["file", "path", "dir"].iter().any(|end| plain.ends_with(end));
    !is_place && SECRET_WORDS.iter().any(|word| plain.contains(word))
}

/// True for what names a secret without holding it: `{secretKeyRef: {name, key}}`, or the inner part of it.
fn is_reference(value: &Value) -> bool {
    let Value::Object(members) = value else { return false };
    let inner = match members.get("secretKeyRef") {
        Some(Value::Object(inner)) if members.len() == 1 => inner,
        Some(_) => return false,
        None => members,
    };
    !inner.is_empty() && inner.keys().all(|name| ["name", "key", "optional"].contains(&name.as_str()))
}

fn in_a_url(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests;
