//! Which namespace is meant.

use calico_model::{KindName, Metadata};

use crate::{args::Namespace, failure::Failure};

/// The namespace of those that say none.
const DEFAULT: &str = "default";

/// Gives a resource its namespace: its own, that of the flag, or the default one.
///
/// # Errors
/// A namespace where there must be none, or two different ones.
pub(super) fn assign(kind: KindName, metadata: &mut Metadata, flag: &Namespace) -> Result<(), Failure> {
    let given = metadata.namespace.as_deref().filter(|namespace| !namespace.is_empty());
    if !kind.is_namespaced() {
        if let Some(given) = given {
            return Err(Failure::new(format!("metadata.namespace = {given:?}: a {kind} has no namespace")));
        }
        metadata.namespace = None;
        return refuse_flag(kind, flag);
    }
    match (given, &flag.namespace) {
        (Some(given), Some(flag)) if given != flag => {
            Err(Failure::new(format!("metadata.namespace = {given:?}: it differs from --namespace {flag}")))
        }
        (Some(_), _) => Ok(()),
        (None, flag) => {
            metadata.namespace = Some(flag.as_deref().unwrap_or(DEFAULT).to_owned());
            Ok(())
        }
    }
}

/// The namespace of something named on the command line.
///
/// # Errors
/// The flag is given for a kind without namespaces.
pub(super) fn of_kind(kind: KindName, flag: &Namespace) -> Result<Option<String>, Failure> {
    refuse_flag(kind, flag)?;
    Ok(kind.is_namespaced().then(|| flag.namespace.clone().unwrap_or_else(|| DEFAULT.to_owned())))
}

fn refuse_flag(kind: KindName, flag: &Namespace) -> Result<(), Failure> {
    match &flag.namespace {
        Some(_) if !kind.is_namespaced() => {
            Err(Failure::new(format!("{kind} is not namespaced.")).hint("leave --namespace out"))
        }
        Some(namespace) if namespace.is_empty() || namespace.contains('/') => {
            Err(Failure::new(format!("{namespace:?} is not a namespace.")))
        }
        _ => Ok(()),
    }
}
