//! Finding member names in an odd case.
//!
//! Go reads `Selector` as `selector`. A decoder that takes it for a member it does not know would see a policy without
//! a selector, which is one for everything. Such names are rare, so they are looked for without building anything, and
//! only what has one is read the slow way.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::{Member, Shape, kinds};
use crate::KindName;

/// True if a member of the value, or of what is in it, has its kind's name in another case. False for what is not JSON.
pub(crate) fn has_odd_case(kind: KindName, json: &[u8]) -> bool {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    Look(kinds::of(kind)).deserialize(&mut deserializer).unwrap_or(false)
}

/// Looks at one value of a shape.
#[derive(Clone, Copy)]
struct Look(Shape);

/// A key, borrowed where it has no escapes.
struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl<'de> Visitor<'de> for Text {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }

        deserializer.deserialize_str(Text)
    }
}

impl<'de> DeserializeSeed<'de> for Look {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        match self.0 {
            Shape::List(_) | Shape::Object(_) | Shape::Open(..) => deserializer.deserialize_any(self),
            _ => IgnoredAny::deserialize(deserializer).map(|_| false),
        }
    }
}

impl<'de> Visitor<'de> for Look {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let members: &[Member] = match self.0 {
            Shape::Object(members) | Shape::Open(members, _) => members,
            _ => &[],
        };
        let mut odd = false;
        while let Some(Key(key)) = map.next_key()? {
            match members.iter().find(|member| member.name == key) {
                Some(member) => odd |= map.next_value_seed(Look(member.shape))?,
                None => {
                    odd |= members.iter().any(|member| member.name.eq_ignore_ascii_case(&key));
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(odd)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<bool, A::Error> {
        let inner = match self.0 {
            Shape::List(inner) => *inner,
            _ => Shape::Any,
        };
        let mut odd = false;
        while let Some(item) = items.next_element_seed(Look(inner))? {
            odd |= item;
        }
        Ok(odd)
    }

    fn visit_bool<E>(self, _: bool) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_i64<E>(self, _: i64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_u64<E>(self, _: u64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_f64<E>(self, _: f64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_str<E>(self, _: &str) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_unit<E>(self) -> Result<bool, E> {
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_an_odd_case_are_found_at_any_depth() {
        for (json, odd) in [
            (r#"{"kind":"x","metadata":{"name":"p","labels":{"Name":"x"}},"spec":{"selector":"a"}}"#, false),
            (r#"{"spec":{"Selector":"a"}}"#, true),
            (r#"{"Spec":{}}"#, true),
            (r#"{"spec":{"someday":{"Selector":1},"SELECTORS":2}}"#, false),
            (r#"{"spec":{"ingress":[{"action":"Allow"},{"source":{"notnets":[]}}]}}"#, true),
            (r#"{"spec":{"ingress":[{"source":{"serviceAccounts":{"Names":["a"]}}}]}}"#, true),
            (r#"{"spec":{"selecto\u0072":"a"}}"#, false),
            (r#"{"spec":{"Selecto\u0072":"a"}}"#, true),
            (r#"{"spec":[1,2.5,-3,true,null,"x",{}],"metadata":7}"#, false),
            ("{not json", false),
        ] {
            assert_eq!(has_odd_case(KindName::GlobalNetworkPolicy, json.as_bytes()), odd, "{json}");
        }
    }
}
