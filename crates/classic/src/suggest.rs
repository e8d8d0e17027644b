//! What somebody may have meant by a word that is none of the language.

use crate::keyword::Keyword;

/// Words of other tools and their like here.
const LIKE: &[(&str, &str)] = &[
    ("drop", "deny"),
    ("reject", "deny"),
    ("block", "deny"),
    ("refuse", "deny"),
    ("accept", "allow"),
    ("permit", "allow"),
    ("pass", "allow"),
    ("src", "from"),
    ("source", "from"),
    ("dst", "to"),
    ("dest", "to"),
    ("destination", "to"),
    ("dport", "ports"),
    ("sport", "ports"),
    ("net", "cidr"),
    ("nets", "cidr"),
    ("network", "cidr"),
    ("address", "cidr"),
    ("ip", "cidr"),
    ("icmp6", "icmpv6"),
    ("icmp-v6", "icmpv6"),
    ("ipv6-icmp", "icmpv6"),
    ("ping", "icmp"),
    ("label", "tag"),
    ("group", "tag"),
];

/// Protocols that v3 has and the classic rules have not, though some look like those.
const OTHER_PROTOCOLS: &[&str] =
    &["sctp", "udplite", "udp-lite", "esp", "ah", "gre", "igmp", "ipip", "dccp", "all", "any"];

/// True if a word is a protocol that the classic rules do not know.
pub(crate) fn is_other_protocol(word: &str) -> bool {
    OTHER_PROTOCOLS.contains(&word.to_lowercase().as_str())
}

/// The keyword that a word was probably meant to be.
pub(crate) fn nearest(word: &str) -> Option<Keyword> {
    let word = word.to_lowercase();
    if is_other_protocol(&word) {
        return None;
    }
    let like = LIKE.iter().find(|(other, _)| *other == word).map(|(_, ours)| *ours);
    if let Some(ours) = like {
        return Keyword::ALL.iter().copied().find(|keyword| keyword.as_str() == ours);
    }
    let close = |keyword: &Keyword| {
        let text = keyword.as_str();
        let distance = strsim::osa_distance(&word, text);
        // A third of the word may be wrong: of `to` nothing, of `tag` and `ports` one letter, of `icmpv6` two.
        (distance * 3 <= text.len()).then_some((distance, !text.starts_with(&word), *keyword))
    };
    let closest = Keyword::ALL
        .iter()
        .filter_map(close)
        .min_by_key(|(distance, is_no_beginning, _)| (*distance, *is_no_beginning));
    closest.map(|(_, _, keyword)| keyword)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_and_words_of_other_tools_are_recognised_and_names_are_not() {
        for (word, expected) in [
            ("port", Some("ports")),
            ("prots", Some("ports")),
            ("tags", Some("tag")),
            ("form", Some("from")),
            ("From", Some("from")),
            ("cdir", Some("cidr")),
            ("allo", Some("allow")),
            ("TCPP", Some("tcp")),
            ("typ", Some("type")),
            ("drop", Some("deny")),
            ("SRC", Some("from")),
            ("icmp6", Some("icmpv6")),
            ("WEB", None),
            ("GUEST", None),
            ("80", None),
            ("", None),
            ("sctp", None),
            ("any", None),
            ("10.0.0.0/8", None),
        ] {
            assert_eq!(nearest(word).map(Keyword::as_str), expected, "{word}");
        }
    }
}
