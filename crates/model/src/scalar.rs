//! Values with a JSON form of their own: AS numbers, ports, protocols, MAC addresses.

use std::{cmp::Ordering, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha1::{Digest, Sha1};

/// A point in time as v3 stores it: RFC 3339, UTC, whole seconds.
pub fn timestamp(at: time::OffsetDateTime) -> String {
    let format = time::macros::format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    at.to_offset(time::UtcOffset::UTC).format(format).expect("every component of the format is present in a date")
}

/// A number as Go's `strconv` writes it at its shortest: an exponent below 1e-4 and from 1e6 on, unless it is whole and
/// was written so.
pub(crate) fn go_number(number: &serde_json::Number) -> String {
    let Some(float) = number.as_f64().filter(|_| number.is_f64()) else { return number.to_string() };
    let scientific = format!("{float:e}");
    match scientific.split_once('e').and_then(|(digits, exponent)| Some((digits, exponent.parse::<i32>().ok()?))) {
        Some((digits, exponent)) if !(-4..6).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
        _ => float.to_string(),
    }
}

/// A 32-bit autonomous system number (RFC 6793). Read from a number, a decimal string or `"hi.lo"`; written as a
/// number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AsNumber(pub u32);

impl FromStr for AsNumber {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not an AS number (0 to 4294967295, or dotted as 64512.1)");
        match text.split_once('.') {
            None => text.parse().map(Self).map_err(|_| bad()),
            Some((high, low)) => {
                let part = |part: &str| part.parse::<u16>().map_err(|_| bad());
                Ok(Self(u32::from(part(high)?) << 16 | u32::from(part(low)?)))
            }
        }
    }
}

impl fmt::Display for AsNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for AsNumber {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(self.0)
    }
}

/// A JSON number or string, the input form of several scalars.
#[derive(Deserialize)]
#[serde(untagged)]
enum NumberOrText {
    Number(u64),
    Text(String),
}

impl<'de> Deserialize<'de> for AsNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match NumberOrText::deserialize(deserializer)? {
            NumberOrText::Number(n) => u32::try_from(n).map(Self).map_err(de::Error::custom),
            NumberOrText::Text(text) => text.parse().map_err(de::Error::custom),
        }
    }
}

/// A port, a range of ports (both ends included) or the name of a port of the endpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Port {
    /// `80`
    Number(u16),
    /// `"1000:2000"`
    Range(u16, u16),
    /// `"http"`
    Name(String),
}

impl FromStr for Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(number) = text.parse::<u64>() {
            return u16::try_from(number).map(Self::Number).map_err(|_| format!("port {text} is above 65535"));
        }
        if let Some((low, high)) = text.split_once(':')
            && let (Ok(low), Ok(high)) = (low.parse::<u16>(), high.parse::<u16>())
        {
            return match low.cmp(&high) {
                Ordering::Less => Ok(Self::Range(low, high)),
                // Upstream stores a range of one port as that port.
                Ordering::Equal => Ok(Self::Number(low)),
                Ordering::Greater => Err(format!("port range {text} starts above its end")),
            };
        }
        let named =
            (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
        if named {
            Ok(Self::Name(text.to_owned()))
        } else {
            Err(format!("{text:?} is not a port, a range or a port name"))
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(port) => port.fmt(f),
            Self::Range(low, high) => write!(f, "{low}:{high}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl Serialize for Port {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(port) => serializer.serialize_u16(*port),
            other => serializer.collect_str(other),
        }
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match NumberOrText::deserialize(deserializer)? {
            NumberOrText::Number(n) => u16::try_from(n).map(Self::Number).map_err(de::Error::custom),
            NumberOrText::Text(text) => text.parse().map_err(de::Error::custom),
        }
    }
}

/// An IP protocol as written: a name (`TCP`) or a number. [`number`](Self::number) says which it is on the wire.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// By number.
    Number(u8),
    /// By name, as written; v3 stores `TCP`, `UDP`, `ICMP`, `ICMPv6`, `SCTP`, `UDPLite`.
    Name(String),
}

impl Protocol {
    /// The number on the wire (IANA protocol numbers), `None` for a name that is not one of v3's.
    pub fn number(&self) -> Option<u8> {
        match self {
            Self::Number(n) => Some(*n),
            Self::Name(name) => match name.as_str() {
                "ICMP" => Some(1),
                "TCP" => Some(6),
                "UDP" => Some(17),
                "ICMPv6" => Some(58),
                "SCTP" => Some(132),
                "UDPLite" => Some(136),
                _ => None,
            },
        }
    }

    /// True if the protocol has ports that rules can match.
    pub fn has_ports(&self) -> bool {
        matches!(self.number(), Some(6 | 17 | 132))
    }
}

impl From<&str> for Protocol {
    /// A numeric string is a number.
    fn from(text: &str) -> Self {
        text.parse().map_or_else(|_| Self::Name(text.to_owned()), Self::Number)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(n) => n.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl Serialize for Protocol {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(n) => serializer.serialize_u8(*n),
            Self::Name(name) => serializer.serialize_str(name),
        }
    }
}

impl<'de> Deserialize<'de> for Protocol {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match NumberOrText::deserialize(deserializer)? {
            NumberOrText::Number(n) => u8::try_from(n).map(Self::Number).map_err(de::Error::custom),
            NumberOrText::Text(text) => Ok(text.as_str().into()),
        }
    }
}

/// A 48-bit MAC address, lower-case hex with colons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// The address of a node's VXLAN device where the Node says nothing else: 0x66 and the first five bytes of the
    /// SHA-1 of the name, with `-v6` behind it for the IPv6 device. All hosts compute it, upstream's too.
    #[must_use]
    pub fn of_vxlan(node: &str, ipv6: bool) -> Self {
        let suffix = if ipv6 { "-v6" } else { "" };
        let digest = Sha1::new().chain_update(node).chain_update(suffix).finalize();
        let mut bytes = [0x66; 6];
        bytes[1..].copy_from_slice(&digest[..5]);
        Self(bytes)
    }

    /// True if one interface can have it: not that of a group, and not all zeros.
    #[must_use]
    pub fn is_unicast(&self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl FromStr for MacAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2);
            *byte = part
                .and_then(|part| u8::from_str_radix(part, 16).ok())
                .ok_or_else(|| format!("{text:?} is not a MAC address"))?;
        }
        if parts.next().is_some() {
            return Err(format!("{text:?} is not a MAC address"));
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vxlan_devices_have_the_address_that_everybody_computes() {
        // printf host1 | sha1sum; printf host1-v6 | sha1sum
        for (ipv6, expected) in [(false, "66:e5:e2:a9:51:86"), (true, "66:ef:c9:cf:0a:48")] {
            assert_eq!(MacAddress::of_vxlan("host1", ipv6).to_string(), expected);
        }
    }

    #[test]
    fn numbers_are_written_as_go_writes_them() {
        for (number, expected) in [
            (0.0, "0"),
            (1.5, "1.5"),
            (1000.0, "1000"),
            (999_999.0, "999999"),
            (1e6, "1e+06"),
            (123_456_789.5, "1.234567895e+08"),
            (1e21, "1e+21"),
            (1e-4, "0.0001"),
            (1.25e-5, "1.25e-05"),
            (-2.5e-300, "-2.5e-300"),
        ] {
            let number = serde_json::Number::from_f64(number).expect("it is finite");
            assert_eq!(go_number(&number), expected);
        }
        assert_eq!(go_number(&10_000_000.into()), "10000000");
    }
}
