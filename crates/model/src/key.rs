//! Keys of v3 resources in etcd: `/calico/resources/v3/projectcalico.org/<plural>/[<namespace>/]<name>`.
//!
//! Segments are written unescaped; the name rules keep `/` out of them.

use std::{fmt, str::FromStr};

use crate::KindName;

/// The prefix of all v3 resources, with its trailing slash.
pub const RESOURCE_ROOT: &str = "/calico/resources/v3/projectcalico.org/";

/// The place of one resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceKey {
    /// The kind.
    pub kind: KindName,
    /// The namespace, for namespaced kinds.
    pub namespace: Option<String>,
    /// The name.
    pub name: String,
}

/// Why a string is not the key of a resource that is followed here.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyError {
    /// Not below [`RESOURCE_ROOT`].
    #[error("{0} is not the key of a v3 resource")]
    NotAResource(String),
    /// A plural that this program does not follow; not an error of the data.
    #[error("{0} is of a kind that is not followed here")]
    OtherKind(String),
    /// Too few or too many segments, or an empty one.
    #[error("{0} has the wrong number of segments for its kind")]
    Segments(String),
}

impl ResourceKey {
    /// A key from its parts.
    pub fn new(kind: KindName, namespace: Option<&str>, name: &str) -> Self {
        Self { kind, namespace: namespace.map(str::to_owned), name: name.to_owned() }
    }

    /// The prefix of all resources of a kind.
    pub fn prefix(kind: KindName) -> String {
        format!("{RESOURCE_ROOT}{}/", kind.plural())
    }
}

impl fmt::Display for ResourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{RESOURCE_ROOT}{}/", self.kind.plural())?;
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        f.write_str(&self.name)
    }
}

impl FromStr for ResourceKey {
    type Err = KeyError;

    fn from_str(key: &str) -> Result<Self, KeyError> {
        let rest = key.strip_prefix(RESOURCE_ROOT).ok_or_else(|| KeyError::NotAResource(key.to_owned()))?;
        let mut segments = rest.split('/');
        let plural = segments.next().unwrap_or_default();
        let kind = KindName::from_plural(plural).ok_or_else(|| KeyError::OtherKind(key.to_owned()))?;
        let namespace = if kind.is_namespaced() { segments.next() } else { None };
        let name = segments.next();
        match (namespace, name, segments.next()) {
            (Some(""), ..) | (_, None | Some(""), _) | (.., Some(_)) => Err(KeyError::Segments(key.to_owned())),
            (namespace, Some(name), None) => Ok(Self::new(kind, namespace, name)),
        }
    }
}
