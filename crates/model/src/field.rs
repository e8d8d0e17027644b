//! The fields of a kind's spec as a person sets them one by one: names, and values as text.
//!
//! The names and forms are those that [`crate::input`] checks whole resources by, so what can be set here is what can
//! be written in a file. A value as text is turned into JSON by the form of its field; whether the JSON is good is for
//! [`crate::input::parse_as`] to say, with the whole resource around it.
//!
//! Text for what is no scalar: lists have commas between their items, and `none` is the empty list; a port that is
//! left open is `tcp:22`, or `tcp:10.0.0.0/8:22` with the network of the other end; a range is `1-250`; where a
//! password is kept is `NAME/KEY`. Everything else is written as JSON or YAML.
//!
//! ```
//! use calico_model::{KindName, field};
//!
//! let field = field::find(KindName::FelixConfiguration, "failsafeinboundhostports").unwrap();
//! assert_eq!(field.name(), "failsafeInboundHostPorts");
//! let value = field.read("tcp:22")?;
//! assert_eq!(value, serde_json::json!([{"protocol": "tcp", "port": 22}]));
//! assert_eq!(field.show(&value), "tcp:22");
//! # Ok::<(), String>(())
//! ```

use serde_json::{Map, Value, json};

use crate::{
    AsNumber, KindName, input,
    schema::{self, Shape},
};

/// What an empty list is called.
const NONE: &str = "none";

/// One field.
pub struct Field {
    name: String,
    shape: Shape,
}

/// All fields of a kind's spec that are known by name, in the order of their documentation.
pub fn all(kind: KindName) -> Vec<Field> {
    let members = schema::spec_members(kind).0;
    members.iter().map(|member| Field { name: member.name().to_owned(), shape: member.shape() }).collect()
}

/// The field of a name, in any case. Of FelixConfiguration also those of upstream's own dataplanes, which are known
/// by the beginnings of their names only.
pub fn find(kind: KindName, name: &str) -> Option<Field> {
    let known = all(kind).into_iter().find(|field| field.name.eq_ignore_ascii_case(name));
    known.or_else(|| {
        let prefixes = schema::spec_members(kind).1;
        let foreign = prefixes.iter().any(|prefix| name.starts_with(prefix) && name.len() > prefix.len());
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric());
        (foreign && plain).then(|| Field { name: name.to_owned(), shape: Shape::Any })
    })
}

impl Field {
    /// The name, as it stands in a resource.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What may stand there, in words.
    pub fn form(&self) -> String {
        form(self.shape)
    }

    /// The JSON of a value as text.
    ///
    /// # Errors
    /// What the text should look like.
    pub fn read(&self, text: &str) -> Result<Value, String> {
        read(self.shape, text.trim())
    }

    /// The text of a value; reading it gives the value again.
    pub fn show(&self, value: &Value) -> String {
        show(self.shape, value)
    }
}

fn form(shape: Shape) -> String {
    match shape {
        Shape::Text => "text".to_owned(),
        Shape::Bool => "true or false".to_owned(),
        Shape::Int(least, most) if least <= i64::from(i32::MIN) && most >= i64::from(i32::MAX) => "a number".to_owned(),
        Shape::Int(least, most) => format!("{least} to {most}"),
        Shape::Number => "a number".to_owned(),
        Shape::AsNumber => "an AS number".to_owned(),
        Shape::Port => "a port or a range of ports".to_owned(),
        Shape::Protocol => "a protocol".to_owned(),
        Shape::Network => "a network".to_owned(),
        Shape::Duration | Shape::WholeDuration => "a duration".to_owned(),
        Shape::OneOf(words) | Shape::Word(words) => words.join(", "),
        Shape::List(inner) => match item(*inner) {
            Some(Item::FailsafePort) => "PROTOCOL:PORT, …".to_owned(),
            Some(Item::Range) => "FIRST-LAST, …".to_owned(),
            Some(Item::Cidr) => "CIDR, …".to_owned(),
            _ if matches!(inner, Shape::Object(_)) => "a list, as JSON".to_owned(),
            _ => format!("{}, …", form(*inner)),
        },
        Shape::Object(_) => match item(shape) {
            Some(Item::Secret) => "NAME/KEY".to_owned(),
            Some(Item::Range) => "FIRST-LAST".to_owned(),
            _ => "an object, as JSON".to_owned(),
        },
        Shape::Texts | Shape::Open(..) | Shape::Any => "anything, as JSON".to_owned(),
    }
}

/// Objects that have a text of their own.
enum Item {
    /// A port that is left open.
    FailsafePort,
    /// Numbers from a first to a last.
    Range,
    /// A network and nothing else.
    Cidr,
    /// Where a password is kept.
    Secret,
}

fn item(shape: Shape) -> Option<Item> {
    let Shape::Object(members) = shape else { return None };
    let names: Vec<&str> = members.iter().map(schema::Member::name).collect();
    match names.as_slice() {
        ["protocol", "port", "net"] => Some(Item::FailsafePort),
        ["min", "max"] => Some(Item::Range),
        ["cidr"] => Some(Item::Cidr),
        ["secretKeyRef"] => Some(Item::Secret),
        _ => None,
    }
}

fn read(shape: Shape, text: &str) -> Result<Value, String> {
    if text.starts_with(['[', '{']) && !matches!(shape, Shape::Text) {
        return literal(text);
    }
    Ok(match shape {
        Shape::Bool => match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" => true.into(),
            "false" | "no" | "off" => false.into(),
            _ => return Err("it is true or false".to_owned()),
        },
        Shape::Int(least, most) => {
            let number = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
                Some(digits) => i64::from_str_radix(digits, 16),
                None => text.parse(),
            };
            number.map_err(|_| format!("it must be a whole number from {least} to {most}"))?.into()
        }
        Shape::Number => text.parse::<f64>().map_err(|_| "it must be a number".to_owned())?.into(),
        Shape::AsNumber => text.parse::<AsNumber>().map(|number| json!(number))?,
        Shape::Port | Shape::Protocol => text.parse::<u16>().map_or_else(|_| text.into(), Value::from),
        Shape::Duration | Shape::WholeDuration => {
            let seconds = !text.is_empty() && text != "0" && text.bytes().all(|byte| byte.is_ascii_digit());
            if seconds { format!("{text}s").into() } else { text.into() }
        }
        Shape::Word(words) => {
            let known = words.iter().find(|word| word.eq_ignore_ascii_case(text));
            known.copied().unwrap_or(text).into()
        }
        Shape::Text | Shape::Network | Shape::OneOf(_) => text.into(),
        Shape::List(inner) => list(*inner, text)?,
        Shape::Object(_) => object(shape, text)?,
        Shape::Texts | Shape::Open(..) | Shape::Any => guess(text),
    })
}

/// A scalar of a field whose form is not known. `Off` and `no` are words here, as they are in upstream's settings.
fn guess(text: &str) -> Value {
    match text {
        "true" => true.into(),
        "false" => false.into(),
        _ => text.parse::<i64>().map_or_else(|_| text.into(), Value::from),
    }
}

fn list(inner: Shape, text: &str) -> Result<Value, String> {
    if text.is_empty() || text.eq_ignore_ascii_case(NONE) {
        return Ok(Value::Array(Vec::new()));
    }
    let items: Result<Vec<Value>, String> = text.split(',').map(|part| read(inner, part.trim())).collect();
    items.map(Value::Array)
}

fn object(shape: Shape, text: &str) -> Result<Value, String> {
    match item(shape) {
        Some(Item::FailsafePort) => failsafe_port(text),
        Some(Item::Range) => {
            let ends = text.split_once('-').and_then(|(first, last)| {
                Some(json!({ "min": first.trim().parse::<i64>().ok()?, "max": last.trim().parse::<i64>().ok()? }))
            });
            ends.ok_or_else(|| "it looks like 1-250".to_owned())
        }
        Some(Item::Cidr) => Ok(json!({ "cidr": text })),
        Some(Item::Secret) => match text.split_once('/') {
            Some((name, key)) if !name.is_empty() && !key.is_empty() && !key.contains('/') => {
                Ok(json!({ "secretKeyRef": { "name": name, "key": key } }))
            }
            // Not shown: somebody may have typed the password itself.
            _ => Err("it says where the password is kept, as NAME/KEY; it is never the password itself".to_owned()),
        },
        None => Err("it must be written as JSON or YAML".to_owned()),
    }
}

/// `tcp:22`, `tcp:10.0.0.0/8:22`, `tcp:[fd00::/8]:22`.
fn failsafe_port(text: &str) -> Result<Value, String> {
    let parts = text.split_once(':').map(|(protocol, rest)| match rest.rsplit_once(':') {
        Some((net, port)) => (protocol, net.trim_start_matches('[').trim_end_matches(']'), port),
        None => (protocol, "", rest),
    });
    let (protocol, net, port) = parts.ok_or_else(|| FAILSAFE.to_owned())?;
    let port: u16 = port.trim().parse().map_err(|_| FAILSAFE.to_owned())?;
    if protocol.trim().is_empty() {
        return Err(FAILSAFE.to_owned());
    }
    let mut value = json!({ "protocol": protocol.trim(), "port": port });
    if !net.is_empty() {
        value["net"] = net.into();
    }
    Ok(value)
}

const FAILSAFE: &str = "it looks like tcp:22 or tcp:10.0.0.0/8:22";

/// One value in JSON or YAML.
fn literal(text: &str) -> Result<Value, String> {
    // Below a key, since a list at the top would be taken for several resources.
    let mut documents = input::documents(&format!("value: {text}\n")).map_err(|error| error.to_string())?;
    match (documents.pop(), documents.is_empty()) {
        (Some(Value::Object(mut object)), true) if object.len() == 1 => {
            object.remove("value").filter(|value| !value.is_null()).ok_or_else(|| "it is no value".to_owned())
        }
        _ => Err("it is not one value in JSON or YAML".to_owned()),
    }
}

fn show(shape: Shape, value: &Value) -> String {
    match (shape, value) {
        (_, Value::String(text)) => text.clone(),
        (Shape::List(_), Value::Array(items)) if items.is_empty() => NONE.to_owned(),
        (Shape::List(inner), Value::Array(items)) => {
            let texts: Option<Vec<String>> = items.iter().map(|item| show_item(*inner, item)).collect();
            texts.map_or_else(|| value.to_string(), |texts| texts.join(","))
        }
        (Shape::Object(_), Value::Object(_)) => show_item(shape, value).unwrap_or_else(|| value.to_string()),
        _ => value.to_string(),
    }
}

/// The text of an item; `None` if it has none, or one that would not be read as this item again.
fn show_item(shape: Shape, value: &Value) -> Option<String> {
    let Value::Object(members) = value else {
        return Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
            .filter(|text| !text.contains(',') && !text.is_empty());
    };
    let text = |name: &str| members.get(name).and_then(Value::as_str);
    let number = |members: &Map<String, Value>, name: &str| members.get(name).and_then(Value::as_i64);
    let shown = match item(shape)? {
        Item::FailsafePort => {
            let (protocol, port) = (text("protocol")?, number(members, "port")?);
            match text("net").filter(|net| !net.is_empty()) {
                Some(net) if net.contains(':') => format!("{protocol}:[{net}]:{port}"),
                Some(net) => format!("{protocol}:{net}:{port}"),
                None => format!("{protocol}:{port}"),
            }
        }
        Item::Range => format!("{}-{}", number(members, "min")?, number(members, "max")?),
        Item::Cidr => text("cidr")?.to_owned(),
        Item::Secret => {
            let reference = members.get("secretKeyRef")?;
            format!("{}/{}", reference.get("name")?.as_str()?, reference.get("key")?.as_str()?)
        }
    };
    (object(shape, &shown).ok()? == *value).then_some(shown)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn felix(name: &str) -> Field {
        find(KindName::FelixConfiguration, name).unwrap()
    }

    #[test]
    fn texts_become_json_by_the_form_of_the_field_and_texts_again() {
        for (name, text, value) in [
            ("logSeverityScreen", "debug", json!("Debug")),
            ("ipv6Support", "on", json!(true)),
            ("iptablesMarkMask", "0xffff0000", json!(4_294_901_760_u32)),
            ("vxlanPort", "4789", json!(4789)),
            ("reportingInterval", "90", json!("90s")),
            ("reportingInterval", "1m30s", json!("1m30s")),
            ("failsafeInboundHostPorts", "none", json!([])),
            (
                "failsafeInboundHostPorts",
                "tcp:22, udp:10.0.0.0/8:68,tcp:[fd00::/8]:22",
                json!([
                    {"protocol": "tcp", "port": 22},
                    {"protocol": "udp", "net": "10.0.0.0/8", "port": 68},
                    {"protocol": "tcp", "net": "fd00::/8", "port": 22},
                ]),
            ),
            ("routeTableRanges", "1-9,20-29", json!([{"min": 1, "max": 9}, {"min": 20, "max": 29}])),
            ("routeTableRange", "1-250", json!({"min": 1, "max": 250})),
            ("kubeNodePortRanges", "30000:32767,80", json!(["30000:32767", 80])),
            ("externalNodesList", "10.0.0.1", json!(["10.0.0.1"])),
            ("bpfLogLevel", "Off", json!("Off")),
            ("bpfEnabled", "true", json!(true)),
            ("failsafeInboundHostPorts", "[{protocol: tcp, port: 1}]", json!([{"protocol": "tcp", "port": 1}])),
        ] {
            let field = felix(name);
            let read = field.read(text).unwrap_or_else(|error| panic!("{name} {text}: {error}"));
            assert_eq!(read, value, "{name} {text}");
            assert_eq!(field.read(&field.show(&read)).unwrap(), value, "{name}: {}", field.show(&read));
        }
        let bgp = |name: &str, text: &str| find(KindName::BGPConfiguration, name).unwrap().read(text);
        assert_eq!(bgp("asNumber", "4294.566").unwrap(), 281_412_150_u32);
        assert_eq!(bgp("serviceClusterIPs", "10.0.0.0/8").unwrap(), json!([{"cidr": "10.0.0.0/8"}]));
        let secret = json!({"secretKeyRef": {"name": "mesh", "key": "password"}});
        assert_eq!(bgp("nodeMeshPassword", "mesh/password").unwrap(), secret);
    }

    #[test]
    fn what_cannot_be_read_is_told_and_a_password_is_not_repeated() {
        for (name, text) in [
            ("ipv6Support", "maybe"),
            ("vxlanPort", "x"),
            ("failsafeInboundHostPorts", "22"),
            ("failsafeInboundHostPorts", "tcp:x"),
            ("failsafeInboundHostPorts", ":22"),
            ("routeTableRange", "9"),
            ("routeTableRange", "{min: 1"),
        ] {
            assert!(felix(name).read(text).is_err(), "{name} {text}");
        }
        let field = find(KindName::BGPConfiguration, "nodeMeshPassword").unwrap();
        let refused = field.read("s3cret").unwrap_err();
        assert!(refused.contains("NAME/KEY") && !refused.contains("s3cret"), "{refused}");
    }

    #[test]
    fn a_value_without_a_text_of_its_own_is_shown_as_json() {
        let odd = json!([{"protocol": "tcp", "port": 22, "comment": "x"}]);
        let field = felix("failsafeInboundHostPorts");
        assert_eq!(field.show(&odd), odd.to_string());
        assert_eq!(field.read(&field.show(&odd)).unwrap(), odd);
        let names = json!(["a,b"]);
        assert_eq!(felix("externalNodesList").show(&names), names.to_string());
    }

    #[test]
    fn fields_are_found_in_any_case_and_no_others() {
        assert_eq!(felix("LOGSEVERITYSCREEN").name(), "logSeverityScreen");
        assert_eq!(felix("bpfSomethingNew").name(), "bpfSomethingNew");
        for name in ["nonsense", "bpf", "bpf x", ""] {
            assert!(find(KindName::FelixConfiguration, name).is_none(), "{name}");
        }
        assert!(find(KindName::BGPConfiguration, "bpfSomethingNew").is_none());
        assert!(all(KindName::FelixConfiguration).len() > 90);
        assert!(all(KindName::FelixConfiguration).iter().all(|field| !field.form().is_empty()));
    }
}
