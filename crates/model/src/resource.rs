//! The envelope shared by all v3 resources, and the trait that ties a spec to its kind.
//!
//! The JSON is what upstream's client writes: `kind`, `apiVersion`, `metadata`, `spec`, `status`, in this order,
//! with `<`, `>`, `&`, U+2028 and U+2029 escaped as Go does. Members that this crate does not know survive a
//! read-modify-write: a newer peer's data must not be lost by passing through us.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{AnyResource, Fault, Invalid, KindName, Metadata, ResourceKey, diagnose, schema, validate};

/// The one `apiVersion` of all resources here.
pub(crate) const API_VERSION: &str = "projectcalico.org/v3";

/// An etcd modification revision: the version a compare-and-swap compares with. Never stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub i64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a spec type must say of itself to be a resource.
pub trait Kind: Serialize + DeserializeOwned + Clone + fmt::Debug + PartialEq + Send + Sync + 'static {
    /// Which kind this is.
    const NAME: KindName;
    /// True where upstream's struct has a `status` that is always written, even empty (`"status":{}`).
    const STATUS_ALWAYS: bool = false;

    /// True where older releases stored `default.<name>` for what is called `<name>` now.
    const HAS_OLD_NAMES: bool = false;

    /// Fills in what upstream's client and its CRD schemas fill in on every write.
    fn set_defaults(resource: &mut Resource<Self>) {
        let _ = resource;
    }

    /// Turns metadata as it stands in the resource into what is stored. Policies carry their name a second time.
    fn stored_metadata(metadata: &Metadata) -> Cow<'_, Metadata> {
        Cow::Borrowed(metadata)
    }

    /// The other way round, for a resource just read.
    fn read_metadata(resource: &mut Resource<Self>) {
        let _ = resource;
    }

    /// Everything that is wrong with the resource beyond its metadata.
    fn faults(resource: &Resource<Self>) -> Vec<Fault>;

    /// Wraps the resource for the agents' closed enum.
    fn into_any(resource: Resource<Self>) -> AnyResource;
}

/// One resource: metadata, spec, status, and the revision it was read at.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource<S> {
    /// Name, labels, annotations and the rest of Kubernetes' object metadata.
    pub metadata: Metadata,
    /// What the user wants.
    pub spec: S,
    /// What somebody observed; kept as it was found.
    pub status: Option<Value>,
    /// The etcd revision this was read at; `None` for a resource not stored yet.
    pub revision: Option<Revision>,
    /// Members beside the known ones, kept for read-modify-write.
    pub extra: Map<String, Value>,
}

#[derive(Serialize)]
struct WireOut<'a, S> {
    kind: &'static str,
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    metadata: &'a Metadata,
    spec: &'a S,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'a Value>,
    #[serde(flatten)]
    extra: &'a Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(bound = "S: DeserializeOwned")]
struct WireIn<S> {
    #[serde(default)]
    kind: Option<String>,
    #[serde(default, rename = "apiVersion")]
    api_version: Option<String>,
    metadata: Metadata,
    spec: S,
    #[serde(default)]
    status: Option<Value>,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

impl<S: Kind> Resource<S> {
    /// A resource that is not stored yet.
    pub fn new(name: impl Into<String>, spec: S) -> Self {
        Self {
            metadata: Metadata { name: name.into(), ..Metadata::default() },
            spec,
            status: None,
            revision: None,
            extra: Map::new(),
        }
    }

    /// A resource in a namespace that is not stored yet.
    pub fn namespaced(namespace: impl Into<String>, name: impl Into<String>, spec: S) -> Self {
        let mut resource = Self::new(name, spec);
        resource.metadata.namespace = Some(namespace.into());
        resource
    }

    /// The resource's name.
    pub fn name(&self) -> &str {
        &self.metadata.name
    }

    /// Where the resource is stored.
    pub fn key(&self) -> ResourceKey {
        ResourceKey::new(S::NAME, self.metadata.namespace.as_deref(), &self.metadata.name)
    }

    /// Applies the defaults of a write and checks everything, as must happen before each create and update.
    ///
    /// # Errors
    /// All faults at once; the resource has its defaults then but must not be stored.
    pub fn prepare(&mut self) -> Result<(), Invalid> {
        S::set_defaults(self);
        if S::STATUS_ALWAYS && self.status.is_none() {
            self.status = Some(Value::Object(Map::new()));
        }
        let mut faults = validate::metadata(S::NAME, &self.metadata);
        faults.extend(S::faults(self));
        Invalid::unless_empty(S::NAME, &self.metadata.name, faults)
    }

    /// The stored form. Call [`prepare`](Self::prepare) first.
    pub fn to_json(&self) -> Vec<u8> {
        let wire = WireOut {
            kind: S::NAME.as_str(),
            api_version: API_VERSION,
            metadata: &S::stored_metadata(&self.metadata),
            spec: &self.spec,
            status: self.status.as_ref(),
            extra: &self.extra,
        };
        escape_like_go(serde_json::to_string(&wire).expect("maps have string keys and no type here fails to serialise"))
    }

    /// Reads the stored form. Tolerant: unknown members are kept, names may differ in case and nulls stand for nothing
    /// where the value could not be read otherwise, `kind` may be missing but must not differ.
    ///
    /// # Errors
    /// The JSON error with the member at fault, or a word on the wrong kind.
    pub fn from_json(bytes: &[u8], revision: Option<Revision>) -> Result<Self, serde_json::Error> {
        let mut resource = Self::from_input(bytes, revision)?;
        S::read_metadata(&mut resource);
        Ok(resource)
    }

    /// As [`from_json`](Self::from_json), for what a person wrote: the name is the one that is written, also where a
    /// stored object of that name would be one of an older release.
    pub(crate) fn from_input(bytes: &[u8], revision: Option<Revision>) -> Result<Self, serde_json::Error> {
        let mut wire: WireIn<S> = match serde_json::from_slice(bytes) {
            Ok(_) if schema::has_odd_case(S::NAME, bytes) => read_as_go(bytes, None)?,
            Ok(wire) => wire,
            Err(error) => read_as_go(bytes, Some(&error))?,
        };
        for dropped in ["resourceVersion", "selfLink"] {
            wire.metadata.extra.remove(dropped);
        }
        if let Some(kind) = wire.kind.filter(|kind| kind != S::NAME.as_str()) {
            return Err(serde::de::Error::custom(format!("kind is {kind}, not {}", S::NAME)));
        }
        if let Some(version) = wire.api_version.filter(|version| version != API_VERSION) {
            return Err(serde::de::Error::custom(format!("apiVersion is {version}, not {API_VERSION}")));
        }
        Ok(Self { metadata: wire.metadata, spec: wire.spec, status: wire.status, revision, extra: wire.extra })
    }
}

/// Reads what Go reads and a typed decoder does not: member names in another case, and null for anything. `error` is
/// what the typed decoder said, if it was not content.
fn read_as_go<S: Kind>(bytes: &[u8], error: Option<&serde_json::Error>) -> Result<WireIn<S>, serde_json::Error> {
    let mut value: Value = match serde_json::from_slice(bytes) {
        Ok(value) => value,
        Err(other) => {
            let error = error.unwrap_or(&other);
            return Err(serde::de::Error::custom(format!("it is not JSON: {error}")));
        }
    };
    schema::tidy(S::NAME, &mut value);
    WireIn::deserialize(&value).map_err(|error| match bytes.len() {
        0..=diagnose::LARGEST => diagnose::at_member::<WireIn<S>>(&value, error),
        _ => error,
    })
}

/// Go's `encoding/json` escapes these so that JSON can stand inside HTML; upstream's stored objects have them.
/// In serialised JSON they occur inside strings only, so a replacement over the whole text is right.
pub(crate) fn escape_like_go(json: String) -> Vec<u8> {
    if !json.contains(['<', '>', '&', '\u{2028}', '\u{2029}']) {
        return json.into_bytes();
    }
    let mut out = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        match c {
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{2029}' => out.push_str("\\u2029"),
            c => out.push(c),
        }
    }
    out.into_bytes()
}
