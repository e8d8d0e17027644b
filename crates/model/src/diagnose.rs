//! Which member of a stored value cannot be read, for the message. Asked only after reading has failed, so it may
//! take a while: it reads the value again and again, each time without one of its members.

use serde::{Deserialize, de::Error as _};
use serde_json::{Error, Value};

/// More of a value than this is not shown.
const SHOWN: usize = 60;

/// Bytes. A larger value is not looked into: the time grows with the square of the size, and an agent must not be
/// held up by what somebody wrote into the datastore.
pub(crate) const LARGEST: usize = 16 << 10;

/// The failure `error` of reading `value` as a `T`, with the path and the value of the member at fault. An error
/// about the value as a whole, such as a missing member, stays as it is.
pub(crate) fn at_member<T: for<'a> Deserialize<'a>>(value: &Value, error: Error) -> Error {
    if !value.is_object() {
        return Error::custom(format!("it is {}, not an object", shown(value)));
    }
    let reason = error.to_string();
    let (mut path, mut pointer) = (String::new(), String::new());
    while let Some(member) = culprit::<T>(value, &pointer, &reason) {
        match &member {
            Member::Name(name) => {
                path = format!("{path}.{name}");
                pointer = format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1"));
            }
            Member::Index(index) => {
                path = format!("{path}[{index}]");
                pointer = format!("{pointer}/{index}");
            }
        }
    }
    match value.pointer(&pointer) {
        Some(at) if !path.is_empty() => {
            Error::custom(format!("{} = {}: {reason}", path.trim_start_matches('.'), shown(at)))
        }
        _ => error,
    }
}

enum Member {
    Name(String),
    Index(usize),
}

/// The member of what is at `pointer` in `value` without which the reason for the failure is gone, though there may
/// be another one.
fn culprit<T: for<'a> Deserialize<'a>>(value: &Value, pointer: &str, reason: &str) -> Option<Member> {
    let members: Vec<Member> = match value.pointer(pointer)? {
        Value::Object(members) => members.keys().cloned().map(Member::Name).collect(),
        Value::Array(items) => (0..items.len()).map(Member::Index).collect(),
        _ => return None,
    };
    members.into_iter().find(|member| {
        let mut rest = value.clone();
        match (rest.pointer_mut(pointer), member) {
            (Some(Value::Object(members)), Member::Name(name)) => drop(members.remove(name)),
            (Some(Value::Array(items)), Member::Index(index)) => drop(items.remove(*index)),
            _ => return false,
        }
        T::deserialize(&rest).map_or_else(|error| error.to_string() != reason, |_| true)
    })
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use crate::{Kind, NodeSpec, ProfileSpec, Resource, WorkloadEndpointSpec};

    fn refusal<S: Kind>(json: &str) -> String {
        Resource::<S>::from_json(json.as_bytes(), None).expect_err(json).to_string()
    }

    #[test]
    fn the_member_at_fault_is_named_with_its_value() {
        let pool =
            |spec: &str| refusal::<crate::IPPoolSpec>(&format!(r#"{{"metadata":{{"name":"p"}},"spec":{spec}}}"#));
        for (text, expected) in [
            (pool(r#"{"cidr":"nonsense"}"#), r#"spec.cidr = "nonsense": invalid IP address syntax"#),
            (pool(r#"{"CIDR":"10.0.0.0/8","blockSize":"x"}"#), r#"spec.blockSize = "x": invalid type"#),
            (pool(r#"{"cidr":"10.0.0.0/8","allowedUses":["a",7]}"#), "spec.allowedUses[1] = 7: invalid type"),
            (pool("7"), "spec = 7: invalid type"),
            (pool("{}"), "spec = {}: missing field `cidr`"),
            (refusal::<NodeSpec>("[]"), "it is [], not an object"),
            (refusal::<NodeSpec>("{}"), "missing field `metadata`"),
            (
                refusal::<NodeSpec>(r#"{"metadata":{"name":"a/b~c"},"spec":{"bgp":{"asNumber":-1}}}"#),
                "spec.bgp.asNumber = -1: ",
            ),
            (refusal::<ProfileSpec>("{not json"), "it is not JSON: key must be a string at line 1 column 2"),
            (refusal::<ProfileSpec>(""), "it is not JSON: EOF while parsing a value"),
            (
                refusal::<ProfileSpec>(
                    r#"{"metadata":{"name":"p"},"spec":{"ingress":[{"action":"Allow"},{"source":1}]}}"#,
                ),
                "spec.ingress[1].source = 1: ",
            ),
            (refusal::<WorkloadEndpointSpec>(r#"{"metadata":{"name":7}}"#), "metadata.name = 7: invalid type"),
        ] {
            assert!(text.starts_with(expected), "{expected}: {text}");
        }
    }

    #[test]
    fn a_large_value_is_refused_without_a_search() {
        let rules = r#"{"action":"Allow"},"#.repeat(5000);
        let text = refusal::<ProfileSpec>(&format!(r#"{{"metadata":{{"name":"p"}},"spec":{{"ingress":[{rules}7]}}}}"#));
        assert!(text.starts_with("invalid type: integer `7`"), "{text}");
    }

    #[test]
    fn a_long_value_is_cut() {
        let json = format!(r#"{{"metadata":{{"name":["{}"]}},"spec":{{}}}}"#, "é".repeat(200));
        let text = refusal::<NodeSpec>(&json);
        assert!(text.starts_with("metadata.name = [\"éé") && text.contains("é…: ") && text.len() < 250, "{text}");
    }
}
