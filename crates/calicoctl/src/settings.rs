//! Where the datastore is: what upstream's configuration file or the environment says.
//!
//! A file (`--config`, or `/etc/calico/calicoctl.cfg` if it is there) replaces the environment as a whole, as it does
//! upstream. Settings of Kubernetes are understood, so that files and environments of upstream can be used as they
//! are; a datastore in Kubernetes is refused. An environment that says nothing gives way to the settings of the unit
//! `calico-node.service`, so that commands find the datastore of the service.

use std::{collections::BTreeMap, io::Write, os::fd::AsRawFd, path::Path};

use calico_model::input;
use calico_store::{ConnectOptions, Source};
use serde_json::Value;
use tracing_subscriber::EnvFilter;

use crate::{args::Connection, environment, failure::Failure, systemd::SETTINGS};

/// Read if it is there and no other file was named.
const DEFAULT_FILE: &str = "/etc/calico/calicoctl.cfg";

const DATASTORE_TYPE: &str = "DATASTORE_TYPE";

/// The members of a file's `spec`, and the variables that say the same.
const MEMBERS: &[(&str, &str)] = &[
    ("datastoreType", DATASTORE_TYPE),
    ("etcdEndpoints", "ETCD_ENDPOINTS"),
    ("etcdDiscoverySrv", "ETCD_DISCOVERY_SRV"),
    ("etcdUsername", "ETCD_USERNAME"),
    ("etcdPassword", "ETCD_PASSWORD"),
    ("etcdKeyFile", "ETCD_KEY_FILE"),
    ("etcdCertFile", "ETCD_CERT_FILE"),
    ("etcdCACertFile", "ETCD_CA_CERT_FILE"),
    ("kubeconfig", "KUBECONFIG"),
    ("k8sAPIEndpoint", "K8S_API_ENDPOINT"),
    ("k8sKeyFile", "K8S_KEY_FILE"),
    ("k8sCertFile", "K8S_CERT_FILE"),
    ("k8sCAFile", "K8S_CA_FILE"),
    ("k8sAPIToken", "K8S_API_TOKEN"),
    ("kubeconfigInline", "KUBECONFIG_INLINE"),
    ("k8sInsecureSkipTLSVerify", "K8S_INSECURE_SKIP_TLS_VERIFY"),
    ("k8sDisableNodePoll", "K8S_DISABLE_NODE_POLL"),
    ("usePodCIDR", "USE_POD_CIDR"),
    ("k8sUsePodCIDR", "USE_POD_CIDR"),
    ("k8sClientQPS", "K8S_CLIENT_QPS"),
    ("k8sClientBurst", "K8S_CLIENT_BURST"),
    ("k8sCurrentContext", "K8S_CURRENT_CONTEXT"),
];

/// Members that hold what a file would hold, and the variable for the file.
const INLINE: &[(&str, &str)] =
    &[("etcdKey", "ETCD_KEY_FILE"), ("etcdCert", "ETCD_CERT_FILE"), ("etcdCACert", "ETCD_CA_CERT_FILE")];

/// The settings for a command; `connection` is what was typed, `None` for commands that take no such options.
///
/// # Errors
/// Settings that make no sense, and a datastore of another type.
pub(crate) fn etcd(connection: Option<&Connection>) -> Result<ConnectOptions, Failure> {
    if let Some(context) = connection.and_then(|connection| connection.context.as_ref()) {
        return Err(Failure::new(format!(
            "--context {context} chooses a context of Kubernetes, but the datastore is etcd."
        ))
        .hint("leave it out"));
    }
    let named = connection.and_then(|connection| connection.config.as_deref());
    let file = named.map(Path::new).or_else(|| Some(Path::new(DEFAULT_FILE)).filter(|file| file.exists()));
    let Some(file) = file else {
        let filled = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        let datastore = filled(&format!("CALICO_{DATASTORE_TYPE}")).or_else(|| filled(DATASTORE_TYPE));
        check_type(datastore.as_deref().map(str::trim), DATASTORE_TYPE)?;
        let found = ConnectOptions::from_env()?;
        return match std::fs::read_to_string(SETTINGS) {
            Ok(text) if *found.source() != Source::Environment => as_the_service(&text, found),
            // Without the unit, or for somebody who may not read what it reads.
            _ => Ok(found),
        };
    };
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::new(format!("Error reading config file: {}", file.display())).cause(&error))?;
    let in_memory = connection.is_some();
    from_file(&text, in_memory).map_err(|failure| failure.about(&file.display().to_string()))
}

/// The datastore that the unit of this host is told to use; `found` if it is told nothing.
fn as_the_service(text: &str, found: ConnectOptions) -> Result<ConnectOptions, Failure> {
    let variables = environment::read(text);
    let given = ConnectOptions::from_lookup(|name| variables.get(name).cloned())
        .map_err(|error| Failure::from(error).about(SETTINGS))?;
    Ok(if *given.source() == Source::Environment { given } else { found })
}

fn check_type(datastore: Option<&str>, setting: &str) -> Result<(), Failure> {
    match datastore {
        None | Some("etcdv3") => Ok(()),
        Some("kubernetes") => Err(Failure::new(format!("{setting} is kubernetes, but only etcd is supported here."))
            .hint("set it to etcdv3 and say where etcd is: ETCD_ENDPOINTS, or etcdEndpoints in a file")),
        Some(other) => {
            Err(Failure::new(format!("{setting} is {other:?}, which is no type of datastore.")).hint("it is etcdv3"))
        }
    }
}

/// The settings of a file. With `in_memory` certificates may stand in the file itself: they are handed on as files
/// that only this process can open.
fn from_file(text: &str, in_memory: bool) -> Result<ConnectOptions, Failure> {
    let variables = variables(&spec(text)?, in_memory)?;
    let set = |name: &str| variables.contains_key(name);
    let datastore = match variables.get(DATASTORE_TYPE) {
        Some(given) => Some(given.as_str()),
        // As upstream infers it.
        None if !set("ETCD_ENDPOINTS") && (set("KUBECONFIG") || set("KUBECONFIG_INLINE")) => Some("kubernetes"),
        None => None,
    };
    check_type(datastore, "datastoreType")?;
    Ok(ConnectOptions::from_lookup(|name| variables.get(name).cloned())?)
}

/// The `spec` of a file that is one.
fn spec(text: &str) -> Result<Value, Failure> {
    let refuse = |words: String| Failure::new(words);
    let mut documents = input::documents(text).map_err(|error| refuse(format!("syntax error: {error}")))?;
    let (Some(Value::Object(mut file)), true) = (documents.pop(), documents.is_empty()) else {
        return Err(refuse("invalid config file: it is not one object".to_owned()));
    };
    let text = |value: Option<Value>| value.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned();
    let version = text(file.remove("apiVersion"));
    if version != "projectcalico.org/v3" {
        return Err(
            refuse(format!("invalid config file: unknown APIVersion '{version}'")).hint("it is projectcalico.org/v3")
        );
    }
    let kind = text(file.remove("kind"));
    if kind != "CalicoAPIConfig" {
        return Err(refuse(format!("invalid config file: expected kind 'CalicoAPIConfig', got '{kind}'")));
    }
    file.remove("metadata");
    let spec = file.remove("spec").unwrap_or_else(|| Value::Object(serde_json::Map::new()));
    match file.keys().next() {
        Some(unknown) => Err(refuse(format!("invalid config file: {unknown}: there is no such field"))),
        None => Ok(spec),
    }
}

/// What the members say, as variables. All faults at once; values are not shown, since they may be secrets.
fn variables(spec: &Value, in_memory: bool) -> Result<BTreeMap<&'static str, String>, Failure> {
    let (mut variables, mut faults) = (BTreeMap::new(), Vec::new());
    let Some(members) = spec.as_object() else {
        return Err(Failure::new("invalid config file: spec is not an object"));
    };
    for (name, value) in members {
        let value = match value {
            Value::Null => continue,
            Value::String(text) => text.clone(),
            Value::Bool(_) | Value::Number(_) => value.to_string(),
            _ => {
                faults.push(format!("spec.{name}: it must be text"));
                continue;
            }
        };
        let find = |table: &'static [(&'static str, &'static str)]| {
            table.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, variable)| *variable)
        };
        if let Some(variable) = find(MEMBERS) {
            variables.insert(variable, value);
        } else if let Some(variable) = find(INLINE) {
            match in_memory {
                true => drop(variables.insert(variable, anonymous(&value)?)),
                false => faults.push(format!("spec.{name}: this command needs a file; name it with {name}File")),
            }
        } else {
            faults.push(format!("spec.{name}: there is no such field"));
        }
    }
    if faults.is_empty() { Ok(variables) } else { Err(Failure::all(faults)) }
}

/// The path of a file without a name that holds `text` as long as this process lives.
fn anonymous(text: &str) -> Result<String, Failure> {
    let failed = |error: std::io::Error| Failure::new("A certificate cannot be kept in memory.").cause(&error);
    let held = rustix::fs::memfd_create("calicoctl", rustix::fs::MemfdFlags::CLOEXEC);
    let mut file = std::fs::File::from(held.map_err(|error| failed(error.into()))?);
    file.write_all(text.as_bytes()).map_err(failed)?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    // Read again at every connection.
    std::mem::forget(file);
    Ok(path)
}

/// What the option for the log says, in upstream's words.
///
/// # Errors
/// Another word.
pub(crate) fn log_filter(level: Option<&str>) -> Result<Option<EnvFilter>, Failure> {
    let Some(level) = level else { return Ok(None) };
    let filter = match level.to_ascii_lowercase().as_str() {
        "panic" | "fatal" => "off",
        "error" => "error",
        "warn" | "warning" => "warn",
        "info" => "info",
        "debug" => "debug",
        _ => {
            return Err(Failure::new(format!("Unknown log level: {level}"))
                .hint("expected one of: panic, fatal, error, warn, info, debug"));
        }
    };
    Ok(Some(EnvFilter::new(filter)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn file(spec: &str) -> Result<ConnectOptions, String> {
        let text = format!("apiVersion: projectcalico.org/v3\nkind: CalicoAPIConfig\nmetadata:\nspec:\n{spec}");
        from_file(&text, true).map_err(|failure| failure.to_string())
    }

    #[test]
    fn a_file_says_what_the_environment_would() {
        let options =
            file("  datastoreType: etcdv3\n  etcdEndpoints: http://10.0.0.1:2379,http://10.0.0.2:2379\n").unwrap();
        assert_eq!(options.location(), "http://10.0.0.1:2379, http://10.0.0.2:2379");
        let options = file("  etcdendpoints: http://h:1\n  etcdUsername: me\n  etcdPassword: 'p'\n").unwrap();
        assert!(options.env_pairs().contains(&("ETCD_USERNAME", "me".to_owned())));
        assert!(file("  k8sDisableNodePoll: true\n  kubeconfig: x\n  etcdEndpoints: http://h:1\n").is_ok());
    }

    #[test]
    fn an_environment_that_says_nothing_gives_way_to_the_settings_of_the_unit() {
        let nothing = || ConnectOptions::embedded(Path::new("/nowhere/datastore.sock"));
        let options =
            as_the_service("# Where etcd is.\nETCD_ENDPOINTS='http://10.0.0.9:2379'\nIP=10.0.0.1\n", nothing());
        assert_eq!(options.unwrap().location(), "http://10.0.0.9:2379");
        let untold = as_the_service("#ETCD_ENDPOINTS=http://10.0.0.9:2379\nIP=10.0.0.1\n", nothing()).unwrap();
        assert_eq!(untold.source(), &Source::Embedded);
        let said = as_the_service("ETCD_ENDPOINTS=ftp://h:1\n", nothing()).unwrap_err().to_string();
        assert!(said.contains(SETTINGS) && said.contains("ftp://h:1"), "{said}");
    }

    #[test]
    fn certificates_may_stand_in_the_file() {
        let pem = "-----BEGIN CERTIFICATE-----\\nAAAA\\n-----END CERTIFICATE-----\\n";
        let spec = format!("  etcdEndpoints: https://h:1\n  etcdCACert: \"{pem}\"\n");
        let options = file(&spec).unwrap();
        let read = std::fs::read_to_string(options.files()[0]).unwrap();
        assert!(read.starts_with("-----BEGIN CERTIFICATE-----\nAAAA\n"), "{read}");
        let text = format!("apiVersion: projectcalico.org/v3\nkind: CalicoAPIConfig\nspec:\n{spec}");
        let refused = from_file(&text, false).unwrap_err().to_string();
        assert!(refused.contains("etcdCACertFile") && !refused.contains("AAAA"), "{refused}");
    }

    #[test]
    fn what_makes_no_sense_is_told_all_at_once_and_shows_no_secret() {
        let refused = file("  etcdPasword: geheim\n  etcdEndpoints: [a]\n").unwrap_err();
        assert!(refused.contains("spec.etcdPasword: there is no such field"), "{refused}");
        assert!(refused.contains("spec.etcdEndpoints: it must be text") && !refused.contains("geheim"), "{refused}");
        for (text, words) in [
            ("apiVersion: v1\nkind: CalicoAPIConfig\n", "unknown APIVersion 'v1'"),
            ("apiVersion: projectcalico.org/v3\nkind: Node\n", "expected kind 'CalicoAPIConfig', got 'Node'"),
            ("apiVersion: projectcalico.org/v3\nkind: CalicoAPIConfig\nsepc: {}\n", "sepc: there is no such field"),
            ("a: {", "syntax error"),
            ("", "not one object"),
        ] {
            let refused = from_file(text, true).unwrap_err().to_string();
            assert!(refused.contains(words), "{text}: {refused}");
        }
    }

    #[test]
    fn only_etcd_is_a_datastore() {
        assert!(file("  datastoreType: kubernetes\n").unwrap_err().contains("only etcd is supported"));
        assert!(file("  kubeconfig: /root/.kube/config\n").unwrap_err().contains("only etcd is supported"));
        assert!(file("  datastoreType: etcdv2\n").unwrap_err().contains("no type of datastore"));
    }

    #[test]
    fn log_levels_are_upstreams() {
        assert!(log_filter(Some("debug")).unwrap().is_some() && log_filter(None).unwrap().is_none());
        assert!(log_filter(Some("loud")).unwrap_err().to_string().contains("Unknown log level: loud"));
    }
}
