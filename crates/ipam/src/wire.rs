//! JSON as upstream's client writes and reads it.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// A point in time; stored as RFC 3339 in UTC with whole seconds, as Kubernetes' `metav1.Time` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub OffsetDateTime);

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&calico_model::timestamp(self.0))
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        OffsetDateTime::parse(&text, &Rfc3339).map(Self).map_err(serde::de::Error::custom)
    }
}

/// Serialises a value, with the characters escaped that Go's encoder escapes so that JSON can stand inside HTML.
/// In serialised JSON they occur inside strings only, so a replacement over the whole text is right.
pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let json = serde_json::to_string(value).expect("string keys and plain values always serialise");
    if !json.contains(['<', '>', '&', '\u{2028}', '\u{2029}']) {
        return json.into_bytes();
    }
    let mut out = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.into_bytes()
}

/// Reads a stored value.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}

/// Reads `null` as the empty value: Go writes nil maps and slices so.
pub(crate) fn null_is_empty<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// For `skip_serializing_if`: members that upstream omits when they are zero.
pub(crate) fn is_zero(value: &i64) -> bool {
    *value == 0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn escapes_like_go() {
        assert_eq!(encode(&"a<b>&\u{2028}ä"), "\"a\\u003cb\\u003e\\u0026\\u2028ä\"".as_bytes());
    }

    #[test]
    fn times_lose_fractions_and_zones_when_written() {
        let time: Timestamp = decode(b"\"2026-08-22T12:00:00.5+02:00\"").unwrap();
        assert_eq!(encode(&time), b"\"2026-08-22T10:00:00Z\"");
        assert!(decode::<Timestamp>(b"\"yesterday\"").is_err());
    }
}
