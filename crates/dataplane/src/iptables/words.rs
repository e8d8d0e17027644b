//! Conditions in iptables' own words.

use crate::{family::Family, ruleset::End};

/// The greatest rate of xt_limit, in packets per second.
const GREATEST_RATE: u64 = 10_000;
/// Greatest burst of xt_limit at its greatest rate.
const GREATEST_BURST: u32 = 10_000;
/// The longest time that xt_limit can count, in seconds: what comes at once must not take longer to earn.
const LONGEST_CREDIT: u64 = 86400;
/// Ports that one list of a rule can hold.
const MULTIPORT_SLOTS: usize = 15;

/// The sign before what must not hold.
pub(super) fn not(negated: bool) -> &'static str {
    if negated { "! " } else { "" }
}

/// The condition that the transport protocol is this one; `None` if no packet has it.
pub(super) fn protocol(family: Family, number: u8) -> Option<String> {
    match (number, family) {
        // For iptables 0 is any. In IPv6 it names an extension header, which is never the last one.
        (0, Family::V4) => Some("-m u32 --u32 6&0xff=0x0".to_owned()),
        (0, Family::V6) => None,
        (1, _) => Some("-p icmp".to_owned()),
        (6, _) => Some("-p tcp".to_owned()),
        (17, _) => Some("-p udp".to_owned()),
        (58, _) => Some("-p ipv6-icmp".to_owned()),
        (132, _) => Some("-p sctp".to_owned()),
        _ => Some(format!("-p {number}")),
    }
}

/// The word for an end.
pub(super) fn side(end: End) -> &'static str {
    match end {
        End::Source => "src",
        End::Destination => "dst",
    }
}

/// The condition on ICMP type and code.
pub(super) fn icmp(family: Family, icmp_type: u8, code: Option<u8>, negated: bool) -> String {
    let negation = not(negated);
    match (family, icmp_type, code) {
        // For iptables type 255 is any. The first fragment, then the first bytes after the header.
        (Family::V4, 255, None) => {
            format!("-m u32 {negation}--u32 \"4&0x1fff=0x0&&0>>22&0x3c@0>>24=0xff\"")
        }
        (Family::V4, 255, Some(code)) => {
            format!("-m u32 {negation}--u32 \"4&0x1fff=0x0&&0>>22&0x3c@0>>16=0xff{code:02x}\"")
        }
        (Family::V4, _, _) => format!("-m icmp {negation}--icmp-type {}", type_and_code(icmp_type, code)),
        (Family::V6, _, _) => format!("-m icmp6 {negation}--icmpv6-type {}", type_and_code(icmp_type, code)),
    }
}

fn type_and_code(icmp_type: u8, code: Option<u8>) -> String {
    code.map_or_else(|| icmp_type.to_string(), |code| format!("{icmp_type}/{code}"))
}

/// Ports of one end in one list, or outside it.
pub(super) fn multiport(end: End, ports: &[(u16, u16)], negated: bool) -> String {
    let option = if end == End::Source { "--sports" } else { "--dports" };
    let range = |(first, last): &(u16, u16)| match first == last {
        true => first.to_string(),
        false => format!("{first}:{last}"),
    };
    let list: Vec<String> = ports.iter().map(range).collect();
    format!("-m multiport {}{option} {}", not(negated), list.join(","))
}

/// Lists that fit one rule: a port takes one of its slots, a range two.
pub(super) fn chunks(mut ports: &[(u16, u16)]) -> impl Iterator<Item = &[(u16, u16)]> {
    std::iter::from_fn(move || {
        let mut slots = 0;
        let fitting = ports.iter().take_while(|(first, last)| {
            slots += if first == last { 1 } else { 2 };
            slots <= MULTIPORT_SLOTS
        });
        let (list, rest) = ports.split_at(fitting.count());
        ports = rest;
        (!list.is_empty()).then_some(list)
    })
}

/// The ports in none of these ranges, which ascend and do not overlap.
pub(super) fn all_but(ports: &[(u16, u16)]) -> Vec<(u16, u16)> {
    let mut others = Vec::with_capacity(ports.len() + 1);
    let mut next = Some(0);
    for (first, last) in ports {
        if let (Some(next), Some(before)) = (next, first.checked_sub(1))
            && next <= before
        {
            others.push((next, before));
        }
        next = last.checked_add(1);
    }
    others.extend(next.map(|next| (next, u16::MAX)));
    others
}

/// The words for `NF_CT_STATE` bits; `None` if there is none for one of them.
pub(super) fn ct_states(bits: u32) -> Option<String> {
    const STATES: [(u32, &str); 5] =
        [(1, "INVALID"), (8, "NEW"), (4, "RELATED"), (2, "ESTABLISHED"), (64, "UNTRACKED")];
    let known: u32 = STATES.iter().map(|(bit, _)| bit).sum();
    let words: Vec<&str> = STATES.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, word)| *word).collect();
    (bits != 0 && bits & !known == 0).then(|| words.join(","))
}

/// Within the rate. The unit is the finest in which the rate is a whole number.
pub(super) fn limit(packets: u64, unit: u64, burst: u32) -> String {
    const UNITS: [(u64, &str); 4] = [(1, "sec"), (60, "min"), (3600, "hour"), (86400, "day")];
    let unit = unit.max(1);
    let whole = UNITS.iter().find(|(seconds, _)| packets * seconds >= unit && (packets * seconds).is_multiple_of(unit));
    let (seconds, word) = whole.or(UNITS.iter().find(|(seconds, _)| packets * seconds >= unit)).unwrap_or(&UNITS[3]);
    let rate = (packets * seconds / unit).clamp(1, GREATEST_RATE * seconds);
    let most = u32::try_from(LONGEST_CREDIT * rate / seconds).unwrap_or(u32::MAX).clamp(1, GREATEST_BURST);
    format!("-m limit --limit {rate}/{word} --limit-burst {}", burst.clamp(1, most))
}
