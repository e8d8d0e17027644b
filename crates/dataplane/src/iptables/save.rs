//! What `iptables-save` and `ipset save` say.
//!
//! Of our own chains only the hashes in the comments are kept: who changes a rule by the tools of iptables changes or
//! loses its comment. Of iptables' own chains the rules are kept that are ours, as text, so that they can be deleted.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{
    layout::{COMMENT_PREFIX, Table},
    name::{CHAIN_PREFIX, HASH_LENGTH},
};

/// One table of one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SavedTable {
    /// Our chains: the hash of each rule, empty for a rule that is not ours.
    pub chains: BTreeMap<String, Vec<String>>,
    /// iptables' own and others' chains, those of them that have rules.
    pub others: BTreeMap<String, Others>,
}

/// A chain that is not ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Others {
    /// How many rules it has.
    pub rules: usize,
    /// Rules that are ours: place (from 0), hash (empty if the comment is gone), text behind `-A`.
    pub ours: Vec<(usize, String, String)>,
}

/// All tables of one family.
pub(super) type Saved = BTreeMap<Table, SavedTable>;

/// Reads what `iptables-save` wrote. Tables that we never use are left out.
pub(super) fn parse_rules(text: &str) -> Saved {
    let mut saved = Saved::new();
    let mut table = None;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = Table::of_name(name.trim());
            continue;
        }
        let Some(table) = table.map(|table| saved.entry(table).or_default()) else { continue };
        if let Some(chain) = line.strip_prefix(':') {
            let name = chain.split_ascii_whitespace().next().unwrap_or_default();
            if name.starts_with(CHAIN_PREFIX) {
                table.chains.entry(name.to_owned()).or_default();
            }
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let (chain, body) = rule.split_once(' ').unwrap_or((rule, ""));
            if chain.starts_with(CHAIN_PREFIX) {
                table.chains.entry(chain.to_owned()).or_default().push(find_hash(body).to_owned());
            } else {
                let others = table.others.entry(chain.to_owned()).or_default();
                if let Some(hash) = find_ours(body) {
                    others.ours.push((others.rules, hash, rule.to_owned()));
                }
                others.rules += 1;
            }
        }
    }
    saved
}

/// The hash of a rule in one of our own chains, where no other text can look like our comment: iptables writes names
/// of interfaces as they are, with whatever quotes are in them, but there are no blanks in them.
fn find_hash(body: &str) -> &str {
    let quoted = body.split_once(&format!(" --comment \"{COMMENT_PREFIX}"));
    let found = quoted.or_else(|| body.split_once(&format!(" --comment {COMMENT_PREFIX}")));
    found.and_then(|(_, rest)| rest.get(..HASH_LENGTH)).unwrap_or_default()
}

/// Whether a rule is ours: it has our comment, or leads to one of our chains. Gives its hash, empty without comment.
fn find_ours(body: &str) -> Option<String> {
    let mut words = Words(body);
    let mut hash = None;
    let mut leads = false;
    while let Some(word) = words.next() {
        match word.as_str() {
            "--comment" => {
                let comment = words.next().unwrap_or_default();
                let found = comment.strip_prefix(COMMENT_PREFIX).and_then(|rest| rest.get(..HASH_LENGTH));
                hash = hash.or(found.map(str::to_owned));
            }
            "-j" | "-g" => leads |= words.next().unwrap_or_default().starts_with(CHAIN_PREFIX),
            _ => {}
        }
    }
    (leads || hash.is_some()).then(|| hash.unwrap_or_default())
}

/// The words of a saved rule: separated by blanks, or between double quotes with `\` before what would end them.
pub(super) struct Words<'a>(pub(super) &'a str);

impl Iterator for Words<'_> {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let text = self.0.trim_start();
        if text.is_empty() {
            return None;
        }
        let mut word = String::new();
        let (mut quoted, mut escaped) = (false, false);
        for (index, letter) in text.char_indices() {
            match letter {
                _ if escaped => {
                    escaped = false;
                    word.push(letter);
                }
                '\\' if quoted => escaped = true,
                '"' => quoted = !quoted,
                ' ' if !quoted => {
                    self.0 = &text[index..];
                    return Some(word);
                }
                _ => word.push(letter),
            }
        }
        self.0 = "";
        Some(word)
    }
}

/// A set of ipset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SavedSet {
    /// Its type with the options that we choose: `hash:net family inet`.
    pub kind: String,
    /// Its members, as written.
    pub members: HashSet<String>,
}

/// Reads what `ipset save` wrote; only the sets whose names start with one of ours.
pub(super) fn parse_sets(text: &str, prefixes: &[&str]) -> HashMap<String, SavedSet> {
    let mut sets = HashMap::new();
    for line in text.lines() {
        let mut words = line.splitn(3, ' ');
        let (Some(command), Some(name), Some(rest)) = (words.next(), words.next(), words.next()) else { continue };
        if !prefixes.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let set: &mut SavedSet = sets.entry(name.to_owned()).or_default();
        match command {
            "create" => set.kind = kind(rest),
            "add" => {
                set.members.insert(rest.trim_end().to_owned());
            }
            _ => {}
        }
    }
    sets
}

/// The type and those options that tell what may be in the set.
fn kind(definition: &str) -> String {
    let mut words = definition.split_ascii_whitespace();
    let mut kind = words.next().unwrap_or_default().to_owned();
    while let Some(word) = words.next() {
        if word == "family" || word == "range" {
            kind.push_str(&format!(" {word} {}", words.next().unwrap_or_default()));
        }
        if word == "timeout" || word == "counters" || word == "skbinfo" {
            kind.push_str(" with extensions");
        }
    }
    kind
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_rules_are_known_by_comment_or_by_where_they_lead() {
        let saved = parse_rules(
            "# Generated by iptables-nft-save\n*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [3:4]\n:DOCKER - [0:0]\n\
             :cali-FORWARD - [0:0]\n:cali-empty - [0:0]\n\
             -A FORWARD -m comment --comment \"cali:0123456789abcdef all\" -j cali-FORWARD\n\
             -A FORWARD -i docker0 -m comment --comment \"not cali:0123456789abcdef\" -j DOCKER\n\
             -A FORWARD -j LOG --log-prefix \"--comment \\\"cali:\"\n\
             -A FORWARD -g cali-other\n\
             -A cali-FORWARD -m comment --comment cali:aaaaaaaaaaaaaaaa -j DROP\n\
             -A cali-FORWARD -j ACCEPT\nCOMMIT\n*security\n:cali-x - [0:0]\nCOMMIT\n*raw\n:cali-x - [0:0]\nCOMMIT\n",
        );
        assert_eq!(saved.keys().copied().collect::<Vec<_>>(), [Table::Raw, Table::Filter]);
        let filter = &saved[&Table::Filter];
        assert_eq!(filter.chains["cali-FORWARD"], ["aaaaaaaaaaaaaaaa", ""]);
        assert_eq!(filter.chains["cali-empty"], Vec::<String>::new());
        let forward = &filter.others["FORWARD"];
        assert_eq!(forward.rules, 4);
        let places: Vec<(usize, &str)> = forward.ours.iter().map(|(place, hash, _)| (*place, hash.as_str())).collect();
        assert_eq!(places, [(0, "0123456789abcdef"), (3, "")]);
        assert_eq!(forward.ours[1].2, "FORWARD -g cali-other");
    }

    #[test]
    fn sets_of_others_are_not_looked_at() {
        let sets = parse_sets(
            "create mine hash:ip family inet hashsize 1024 maxelem 65536\nadd mine 10.0.0.1\n\
             create cali40x hash:net family inet hashsize 1024 maxelem 1048576 bucketsize 12 initval 0x1\n\
             add cali40x 10.0.0.0/8\nadd cali40x 10.65.0.1\ncreate cali60p bitmap:port range 0-65535\n\
             create cali40t hash:ip family inet timeout 5\n",
            &["cali40", "cali60"],
        );
        assert_eq!(sets.len(), 3);
        assert_eq!(sets["cali40x"].kind, "hash:net family inet");
        assert_eq!(sets["cali40x"].members.len(), 2);
        assert_eq!(sets["cali60p"].kind, "bitmap:port range 0-65535");
        assert!(sets["cali40t"].kind.contains("extensions"));
    }
}
