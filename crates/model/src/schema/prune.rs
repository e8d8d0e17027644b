//! Leaving out what a kind does not have.

use serde_json::Value;

use super::{Shape, find, kinds};
use crate::KindName;

/// Drops the members that the kind has not, as they stand in objects of newer programs, and gives the others their
/// proper names. What is left can be read as input.
pub(crate) fn prune(kind: KindName, value: &mut Value) {
    prune_shape(kinds::of(kind), value);
}

fn prune_shape(shape: Shape, value: &mut Value) {
    match (shape, value) {
        (Shape::List(inner), Value::Array(items)) => items.iter_mut().for_each(|item| prune_shape(*inner, item)),
        (Shape::Object(members), Value::Object(map)) => {
            for (name, mut value) in std::mem::take(map) {
                if let Some(member) = find(members, &name).filter(|_| !value.is_null()) {
                    prune_shape(member.shape, &mut value);
                    map.insert(member.name.to_owned(), value);
                }
            }
        }
        (Shape::Open(members, prefixes), Value::Object(map)) => {
            for (name, mut value) in std::mem::take(map) {
                match find(members, &name) {
                    _ if value.is_null() => {}
                    Some(member) => {
                        prune_shape(member.shape, &mut value);
                        map.insert(member.name.to_owned(), value);
                    }
                    None if prefixes.iter().any(|prefix| name.starts_with(prefix)) => {
                        map.insert(name, value);
                    }
                    None => {}
                }
            }
        }
        _ => {}
    }
}
