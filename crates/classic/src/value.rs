//! The values in a sentence: numbers, lists of ports, lists of networks. Each fault comes with the part of the word at
//! fault, in bytes.

use std::{net::IpAddr, ops::Range};

use calico_model::Port;
use ipnet::IpNet;

/// What is wrong with a part of a word.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PartFault {
    pub(crate) part: Range<usize>,
    pub(crate) reason: String,
}

/// The good elements of a list, and what is wrong with the others.
pub(crate) type List<T> = (Vec<T>, Vec<PartFault>);

/// The largest ICMP type and code; 255 is refused by upstream too (for types).
const MAX_ICMP: u16 = 254;

/// The number behind `type` or `code`.
pub(crate) fn icmp(what: &str, word: &str) -> Result<u16, String> {
    let number = word.bytes().all(|byte| byte.is_ascii_digit()).then(|| word.parse::<u16>().ok()).flatten();
    match number.filter(|number| *number <= MAX_ICMP) {
        Some(number) => Ok(number),
        None => Err(format!("Invalid ICMP {what} {word:?}: it is a number from 0 to {MAX_ICMP}.")),
    }
}

/// The elements of a comma-separated list with their places.
fn elements(word: &str) -> impl Iterator<Item = (Range<usize>, &str)> {
    let mut start = 0;
    word.split(',').map(move |element| {
        let part = start..start + element.len();
        start = part.end + 1;
        (part, element)
    })
}

/// A list of ports and ranges.
pub(crate) fn ports(word: &str) -> List<Port> {
    let (mut ports, mut faults) = (Vec::new(), Vec::new());
    for (part, element) in elements(word) {
        match port(element) {
            Ok(port) => ports.push(port),
            Err(reason) => faults.push(PartFault { part, reason }),
        }
    }
    (ports, faults)
}

fn port(element: &str) -> Result<Port, String> {
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // More digits than any port has are out of range, and no other kind of mistake.
        digits.then(|| text.parse::<u64>().unwrap_or(u64::MAX))
    };
    let in_range = |what: &str, text: &str, number: u64| match u16::try_from(number) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("{what} ({text}) out-of-range: ports are 1 to 65535.")),
    };
    let bad = || {
        format!(
            "Ports: '{element}' are invalid; expecting a comma-separated list of ports and port ranges (1000:2000)."
        )
    };
    match element.split_once([':', '-']) {
        None => in_range("Port", element, number(element).ok_or_else(bad)?).map(Port::Number),
        Some((low, high)) => {
            let (first, last) = (number(low).ok_or_else(bad)?, number(high).ok_or_else(bad)?);
            let first = in_range("Port minimum", low, first)?;
            let last = in_range("Port maximum", high, last)?;
            match first.cmp(&last) {
                std::cmp::Ordering::Less => Ok(Port::Range(first, last)),
                // v3 stores a range of one port as that port.
                std::cmp::Ordering::Equal => Ok(Port::Number(first)),
                std::cmp::Ordering::Greater => Err(format!("Port range minimum ({first}) > maximum ({last}).")),
            }
        }
    }
}

/// A list of networks; a bare address is a network of one. Host bits are cleared, which v3 asks for.
pub(crate) fn nets(word: &str) -> List<(Range<usize>, IpNet)> {
    let (mut nets, mut faults) = (Vec::new(), Vec::new());
    for (part, element) in elements(word) {
        match net(element) {
            Some(net) => nets.push((part, net)),
            None => {
                let reason = format!(
                    "Invalid CIDR specified: {element:?} is no network (as 10.0.0.0/8 or fd00::/64) and no address."
                );
                faults.push(PartFault { part, reason });
            }
        }
    }
    (nets, faults)
}

/// One network; a bare address is a network of one. Host bits are cleared. `None` for anything else, IPv4's short forms
/// included.
pub fn net(text: &str) -> Option<IpNet> {
    let address = |text: &str| text.parse::<IpAddr>().ok().map(IpNet::from);
    text.parse::<IpNet>().ok().or_else(|| address(text)).map(|net| net.trunc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_numbers_and_ranges_in_either_spelling() {
        let (good, faults) = ports("80,1000:2000,3000-4000,5:5,1,65535");
        assert!(faults.is_empty(), "{faults:?}");
        let range = Port::Range;
        let number = Port::Number;
        let expected = [number(80), range(1000, 2000), range(3000, 4000), number(5), number(1), number(65535)];
        assert_eq!(good, expected);
    }

    #[test]
    fn every_bad_port_is_told_with_its_place() {
        let word = "80,0,99999,http,,1:2:3,9:8,0:5,5:70000,18446744073709551617,-1";
        let (good, faults) = ports(word);
        assert_eq!(good, [Port::Number(80)]);
        let told: Vec<(&str, &str)> =
            faults.iter().map(|fault| (&word[fault.part.clone()], fault.reason.as_str())).collect();
        let invalid = |element| {
            format!(
                "Ports: '{element}' are invalid; expecting a comma-separated list of ports and port ranges (1000:2000)."
            )
        };
        let out = |what: &str| format!("{what} out-of-range: ports are 1 to 65535.");
        let expected = [
            ("0", out("Port (0)")),
            ("99999", out("Port (99999)")),
            ("http", invalid("http")),
            ("", invalid("")),
            ("1:2:3", invalid("1:2:3")),
            ("9:8", "Port range minimum (9) > maximum (8).".to_owned()),
            ("0:5", out("Port minimum (0)")),
            ("5:70000", out("Port maximum (70000)")),
            ("18446744073709551617", out("Port (18446744073709551617)")),
            ("-1", invalid("-1")),
        ];
        let expected: Vec<(&str, &str)> = expected.iter().map(|(part, reason)| (*part, reason.as_str())).collect();
        assert_eq!(told, expected);
    }

    #[test]
    fn networks_lose_host_bits_and_short_forms_are_refused() {
        for (text, expected) in [
            ("10.1.0.5/8", Some("10.0.0.0/8")),
            ("1.2.3.4", Some("1.2.3.4/32")),
            ("fd00::1", Some("fd00::1/128")),
            ("FD00::1/64", Some("fd00::/64")),
            ("0.0.0.0/0", Some("0.0.0.0/0")),
            ("10.1/16", None),
            ("1.2.3", None),
            ("010.0.0.1", None),
            ("10.0.0.0/33", None),
            ("300.0.0.0/8", None),
            ("web", None),
        ] {
            assert_eq!(net(text).map(|net| net.to_string()).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn icmp_numbers_end_at_254() {
        assert_eq!(icmp("type", "0"), Ok(0));
        assert_eq!(icmp("type", "254"), Ok(254));
        for word in ["255", "-1", "+1", "", "x", "99999999"] {
            assert!(icmp("code", word).is_err(), "{word}");
        }
    }
}
