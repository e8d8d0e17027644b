//! What people write: YAML or JSON text, several documents, lists; read strictly.
//!
//! Everything is parsed before anything is done: [`documents`] reads the whole text, [`parse`] each resource. Unlike
//! stored objects ([`Resource::from_json`]), input must not have members that its kind has not, and no member twice.
//! YAML is 1.1 as upstream's: `yes`, `no`, `on`, `off`, `y` and `n` are booleans.
//!
//! ```
//! use calico_model::{AnyResource, input};
//!
//! let text = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: p}\nspec: {cidr: 10.0.0.0/16}\n";
//! let documents = input::documents(text)?;
//! let mut resource = input::parse(documents.into_iter().next().unwrap())?;
//! resource.prepare()?;                          // defaults, then validation
//! assert!(matches!(resource, AnyResource::IPPool(_)));
//! # Ok::<(), input::InputError>(())
//! ```

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

use crate::{
    AnyResource, Fault, Invalid, Kind, KindName, KindVisitor, Resource, Revision, resource::API_VERSION, salvage,
    schema,
};

/// Why input is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// Neither YAML nor JSON, or a key given twice.
    #[error("document {document} cannot be read: {cause}")]
    Syntax {
        /// Which document, from 1.
        document: usize,
        /// The parser's words, with line and column within the document.
        cause: String,
    },
    /// A document, or a member of a list, that does not say what it is.
    #[error("kind is missing")]
    NoKind,
    /// A kind or version that this program does not know.
    #[error("unknown resource type ({kind}) and/or version ({version})")]
    UnknownKind {
        /// The `kind`.
        kind: String,
        /// The `apiVersion`.
        version: String,
    },
    /// A resource that is not of its kind's form.
    #[error(transparent)]
    Invalid(#[from] Invalid),
}

/// All resources of a text, in order: documents are separated by lines that begin with `---`; a document may be one resource, an
/// array of resources, or a list kind (`IPPoolList` with `items`). Empty documents are left out; a document of
/// comments only is not empty.
///
/// # Errors
/// [`InputError::Syntax`] for the first document that cannot be read.
pub fn documents(text: &str) -> Result<Vec<Value>, InputError> {
    let mut found = Vec::new();
    let mut number = 0;
    for document in split(text) {
        if document.trim().is_empty() {
            continue;
        }
        number += 1;
        // YAML 1.1: a leading zero makes a number octal.
        let options = serde_saphyr::options! { legacy_octal_numbers: true };
        let Yaml(value) = serde_saphyr::from_str_with_options(&document, options)
            .map_err(|error| InputError::Syntax { document: number, cause: error.to_string() })?;
        flatten(value, &mut found);
    }
    Ok(found)
}

/// Drops the members of a stored resource that its kind has not, so that what is shown can be read as input again.
pub fn only_known(kind: KindName, value: &mut Value) {
    schema::prune(kind, value);
}

/// The kind of a resource as written.
///
/// # Errors
/// [`InputError::NoKind`], [`InputError::UnknownKind`].
pub fn kind(value: &Value) -> Result<KindName, InputError> {
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
    let (kind, version) = (text("kind"), text("apiVersion"));
    if kind.is_empty() {
        return Err(InputError::NoKind);
    }
    KindName::ALL
        .iter()
        .find(|known| known.as_str() == kind && version == API_VERSION)
        .copied()
        .ok_or_else(|| InputError::UnknownKind { kind: kind.to_owned(), version: version.to_owned() })
}

/// One resource of any kind. Its defaults are not filled in and its values not yet validated; see
/// [`AnyResource::prepare`].
///
/// # Errors
/// What [`kind`] and [`parse_as`] return.
pub fn parse(value: Value) -> Result<AnyResource, InputError> {
    struct Parse(Value);

    impl KindVisitor for Parse {
        type Out = Result<AnyResource, InputError>;

        fn visit<S: Kind>(self) -> Self::Out {
            parse_as::<S>(self.0).map(S::into_any)
        }
    }

    kind(&value)?.visit(Parse(value))
}

/// One resource of a kind that is known. A `resourceVersion` becomes its revision.
///
/// # Errors
/// [`InputError::Invalid`] with every member that the kind has not or that holds what it must not; and with all that
/// validation finds in the rest, so that a person sees everything at once.
pub fn parse_as<S: Kind>(mut value: Value) -> Result<Resource<S>, InputError> {
    let mut faults = schema::conform(S::NAME, &mut value);
    let revision = revision(&value, &mut faults);
    let name = value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
    if let Some(object) = value.as_object_mut() {
        object.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
        object.entry("spec").or_insert_with(|| Value::Object(Map::new()));
    }
    let bytes = serde_json::to_vec(&value).expect("a JSON value can be written as JSON");
    if !faults.is_empty() {
        let readable = Resource::<S>::from_input(&bytes, None).ok().or_else(|| salvage::of_value(&value));
        faults.extend(readable.map(|resource| further(resource, &faults)).unwrap_or_default());
        return Err(InputError::Invalid(Invalid { kind: S::NAME, name, faults }));
    }
    Resource::from_input(&bytes, revision).map_err(|error| {
        // The shape was right, so this is a scalar that only its own type can judge.
        let faults = vec![Fault::new("spec", "", error.to_string())];
        InputError::Invalid(Invalid { kind: S::NAME, name, faults })
    })
}

/// What validation finds in a resource of which some members were at fault already; of those it says no more.
fn further<S: Kind>(mut resource: Resource<S>, known: &[Fault]) -> Vec<Fault> {
    if S::NAME.is_namespaced() {
        // Who writes the resource says in which one, if it does not.
        resource.metadata.namespace.get_or_insert_with(|| "default".to_owned());
    }
    let Err(invalid) = resource.prepare() else { return Vec::new() };
    let said = |fault: &Fault| {
        let below = |known: &Fault| fault.path.strip_prefix(&known.path).map(|rest| rest.starts_with(['.', '[']));
        known.iter().any(|known| known.path == fault.path || below(known) == Some(true))
    };
    invalid.faults.into_iter().filter(|fault| !said(fault)).collect()
}

fn revision(value: &Value, faults: &mut Vec<Fault>) -> Option<Revision> {
    let text = value.pointer("/metadata/resourceVersion")?.as_str().filter(|text| !text.is_empty())?;
    let parsed = text.parse().ok();
    if parsed.is_none() {
        faults.push(Fault::new("metadata.resourceVersion", text, "it must be a number, as the datastore gave it"));
    }
    parsed.map(Revision)
}

/// Splits before each line that begins with `---`, except the first line of all, and takes the marker off. So a marker
/// alone is a document (with nothing in it, not even a kind), and one at the end is none.
fn split(text: &str) -> Vec<String> {
    let mut documents = vec![String::new()];
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let content = match line.strip_prefix("---") {
            Some(rest) if number > 0 => {
                documents.push(String::new());
                // What follows is content of the new document, unless it is a comment.
                if rest.trim_start().starts_with('#') { "" } else { rest }
            }
            _ => line,
        };
        if let Some(last) = documents.last_mut() {
            last.push_str(content);
        }
    }
    documents
}

fn flatten(value: Value, found: &mut Vec<Value>) {
    match value {
        Value::Array(items) => items.into_iter().for_each(|item| flatten(item, found)),
        Value::Object(mut list) if is_list(&list) => {
            if let Some(Value::Array(items)) = list.remove("items") {
                items.into_iter().for_each(|item| flatten(item, found));
            }
        }
        value => found.push(value),
    }
}

fn is_list(object: &Map<String, Value>) -> bool {
    let kind = object.get("kind").and_then(Value::as_str);
    kind.is_some_and(|kind| kind.ends_with("List")) && object.get("items").is_some_and(Value::is_array)
}

/// A JSON value read from YAML, where keys need not be texts.
struct Yaml(Value);

/// A key, as the JSON that upstream makes of YAML has it: a boolean or number becomes its text.
struct YamlKey(String);

impl<'de> Deserialize<'de> for Yaml {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor).map(Self)
    }
}

impl<'de> Deserialize<'de> for YamlKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(match deserializer.deserialize_any(ValueVisitor)? {
            Value::String(text) => text,
            other @ (Value::Bool(_) | Value::Number(_) | Value::Null) => other.to_string(),
            _ => return Err(serde::de::Error::custom("a key must be a text, not a list or a map")),
        }))
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML or JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom(format!("{value} is not a number of JSON")))?;
        Ok(Value::Number(number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Yaml(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some((YamlKey(key), Yaml(value))) = members.next_entry()? {
            if map.contains_key(&key) {
                return Err(serde::de::Error::custom(format!("key {key:?} is given twice")));
            }
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn value(text: &str) -> Value {
        documents(text).unwrap().remove(0)
    }

    #[test]
    fn yaml_is_that_of_upstream() {
        let found = value("a: yes\nb: 'yes'\nc: 1e3\nd: 010\nn: off\n1: x\ne: ~\nf: 1.50\ng: 0x1f\nh: 12:30\n");
        assert_eq!(found["a"], true);
        assert_eq!(found["b"], "yes");
        assert_eq!(found["c"], 1000.0);
        assert_eq!(found["d"], 8);
        assert_eq!((&found["f"], &found["g"], &found["h"]), (&1.5.into(), &31.into(), &"12:30".into()));
        assert_eq!(found["false"], false);
        assert_eq!(found["1"], "x");
        assert_eq!(found["e"], Value::Null);
    }

    #[test]
    fn documents_arrays_and_lists_are_flattened_in_order() {
        let text = "---\na: 1\n---\n\n--- \n[{a: 2}, {a: 3}]\n---\nkind: XList\nitems: [{a: 4}]\n---\n";
        let found: Vec<_> = documents(text).unwrap().iter().map(|value| value["a"].clone()).collect();
        assert_eq!(found, [1, 2, 3, 4]);
        assert_eq!(documents("a: 1\n--- # next\na: 2\n--- {a: 3}\n").unwrap().len(), 3);
        assert!(documents("").unwrap().is_empty());
        assert_eq!(documents("---\n").unwrap(), [Value::Null], "a separator alone is not empty");
        assert_eq!(documents("# nothing\n").unwrap(), [Value::Null]);
        assert!(matches!(parse(Value::Null), Err(InputError::NoKind)));
    }

    #[test]
    fn syntax_errors_name_the_document() {
        for (text, document) in [("a: {", 1), ("a: 1\n---\na: 1\na: 2\n", 2), ("a: 1\n---\nb\n  - : [", 2)] {
            let error = documents(text).unwrap_err();
            assert!(matches!(&error, InputError::Syntax { document: at, .. } if *at == document), "{text:?}: {error}");
        }
    }

    #[test]
    fn members_match_in_any_case_and_unknown_ones_are_refused() {
        let head = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: p}\n";
        let AnyResource::IPPool(pool) =
            parse(value(&format!("{head}spec: {{CIDR: 10.0.0.0/8, natoutgoing: on}}"))).unwrap()
        else {
            panic!("a pool was given")
        };
        assert!(pool.spec.nat_outgoing);
        let text = format!("{head}spec: {{cidr: 10.0.0.0/8, Cidr: 10.0.0.0/9, size: 3, natOutgoing: 'on'}}");
        let InputError::Invalid(invalid) = parse(value(&text)).unwrap_err() else { panic!("the form is wrong") };
        let mut paths: Vec<_> = invalid.faults.iter().map(|fault| fault.path.as_str()).collect();
        paths.sort_unstable();
        assert_eq!(paths, ["spec.cidr", "spec.natOutgoing", "spec.size"]);
    }

    #[test]
    fn all_faults_of_form_and_of_content_come_at_once() {
        let paths = |text: &str| {
            let InputError::Invalid(invalid) = parse(value(text)).unwrap_err() else { panic!("{text}") };
            let mut paths: Vec<_> = invalid.faults.into_iter().map(|fault| fault.path).collect();
            paths.sort();
            paths
        };
        let policy = "
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: Web}
spec:
  selector: role = 'web'
  color: red
  ingress:
  - {action: Accept, protocol: TCP, destination: {ports: [80, 65536, '9:8']}}
  - {action: Allow, protocol: 256, source: {ports: [80], nets: [10.0.0.1, {}]}, destination: {nets: {}}}
  - 7
  egress: {}
";
        assert_eq!(
            paths(policy),
            [
                "metadata.name",
                "spec.color",
                "spec.egress",
                "spec.ingress[0].action",
                "spec.ingress[0].destination.ports[1]",
                "spec.ingress[0].destination.ports[2]",
                "spec.ingress[1].destination.nets",
                "spec.ingress[1].protocol",
                "spec.ingress[1].source.nets[0]",
                "spec.ingress[1].source.nets[1]",
                "spec.ingress[2]",
                "spec.selector",
            ]
        );
        let endpoint = "
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: h, labels: {a: [], b: 'x y'}}
spec:
  interfaceName: eth0
  expectedIPs: [10.0.0.0/8, []]
  ports: [{name: http, port: 80}, {name: HTTP, protocol: GRE, port: 0}]
";
        assert_eq!(
            paths(endpoint),
            [
                "metadata.labels",
                "metadata.labels.a",
                "spec.expectedIPs[0]",
                "spec.expectedIPs[1]",
                "spec.node",
                "spec.ports[0].protocol",
                "spec.ports[1].name",
                "spec.ports[1].port",
                "spec.ports[1].protocol",
            ]
        );
        let pool = "
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: Pool}
spec: {cidr: nonsense, blockSize: 99, allowedUses: [Everything]}
";
        assert!(paths(pool).contains(&"spec.cidr".to_owned()));
    }

    #[test]
    fn scalars_where_text_is_wanted_become_text() {
        let text = "apiVersion: projectcalico.org/v3\nkind: Profile\nmetadata: {name: 7, labels: {a: yes, b: 1, c: ~, d: 1e3, e: 1.50, f: 0777, g: 2500000.0}}";
        let AnyResource::Profile(profile) = parse(value(text)).unwrap() else { panic!("a profile was given") };
        assert_eq!(profile.name(), "7");
        let labels: Vec<_> = profile.metadata.labels.values().map(String::as_str).collect();
        assert_eq!(labels, ["true", "1", "", "1000", "1.5", "511", "2.5e+06"]);
    }

    #[test]
    fn a_policy_is_called_as_it_is_written() {
        let text = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: default.web}";
        let AnyResource::GlobalNetworkPolicy(policy) = parse(value(text)).unwrap() else { panic!("a policy") };
        assert_eq!(policy.name(), "default.web", "a stored one without its annotation would be called web");
    }

    #[test]
    fn kinds_and_versions_are_exact() {
        for (text, words) in [
            ("kind: ipPool\napiVersion: projectcalico.org/v3", "(ipPool) and/or version (projectcalico.org/v3)"),
            ("kind: IPPool\napiVersion: v1", "(IPPool) and/or version (v1)"),
            ("metadata: {name: a}", "kind is missing"),
        ] {
            let error = parse(value(text)).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn a_resource_version_is_the_revision() {
        let text = |version: &str| {
            let head = "apiVersion: projectcalico.org/v3\nkind: Profile\nmetadata: {name: p, resourceVersion: ";
            format!("{head}{version}}}")
        };
        let AnyResource::Profile(profile) = parse(value(&text("'12'"))).unwrap() else { panic!("a profile") };
        assert_eq!(profile.revision, Some(Revision(12)));
        assert!(parse(value(&text("latest"))).unwrap_err().to_string().contains("metadata.resourceVersion"));
    }
}
