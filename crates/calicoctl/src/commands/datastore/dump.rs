//! The file that `export` writes and `import` reads: lines of JSON, one key each, between a head and a foot.
//!
//! ```text
//! {"format":"calico-datastore","version":1,"from":"unix:///…","revision":42}
//! {"key":"/calico/…","value":"…"}
//! {"key":"/calico/…","base64":"…"}          a value that is no text
//! {"keys":2,"sha256":"…"}                   of all bytes before this line
//! ```
//!
//! Keys stand in ascending order and once each. What is cut off, changed or of a later version is refused as a whole.

use base64::{Engine, prelude::BASE64_STANDARD};
use calico_startup::relocation::{ROOT, is_about_migration};
use calico_store::Listing;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

const FORMAT: &str = "calico-datastore";
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Head {
    format: String,
    version: u32,
    #[serde(default)]
    from: String,
    #[serde(default)]
    revision: i64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Foot {
    keys: usize,
    sha256: String,
}

/// A key and its value.
pub(super) type Pair = (String, Vec<u8>);

/// The listing as a file, and how many keys it holds. What is about a migration itself is left out.
pub(super) fn render(listing: &Listing, from: &str) -> (String, usize) {
    let head = Head { format: FORMAT.into(), version: VERSION, from: from.into(), revision: listing.revision.0 };
    let mut text = line(&head);
    let mut keys = 0;
    for entry in listing.entries.iter().filter(|entry| !is_about_migration(&entry.key)) {
        let (value, base64) = match String::from_utf8(entry.value.clone()) {
            Ok(value) => (Some(value), None),
            Err(bytes) => (None, Some(BASE64_STANDARD.encode(bytes.as_bytes()))),
        };
        text.push_str(&line(&Line { key: entry.key.clone(), value, base64 }));
        keys += 1;
    }
    let foot = Foot { keys, sha256: checksum(&text) };
    text.push_str(&line(&foot));
    (text, keys)
}

fn line(value: &impl Serialize) -> String {
    let mut line = serde_json::to_string(value).expect("lines are plain structures with string keys");
    line.push('\n');
    line
}

fn checksum(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a file holds, checked as a whole.
///
/// # Errors
/// What is wrong with it, with the number of the line where that can be said.
pub(super) fn parse(text: &str) -> Result<Vec<Pair>, String> {
    let (first, _) = text.split_once('\n').unwrap_or((text, ""));
    let head: Head =
        serde_json::from_str(first).map_err(|_| "it is no file that calicoctl datastore export wrote".to_owned())?;
    if head.format != FORMAT {
        return Err(format!("it is of the format {:?}, not {FORMAT:?}", head.format));
    }
    if head.version != VERSION {
        return Err(format!("it is of version {}, this calicoctl reads version {VERSION}", head.version));
    }
    let complete = text.strip_suffix('\n').ok_or("it is cut off: its last line has no end")?;
    let at = complete.rfind('\n').map_or(0, |end| end + 1);
    let (body, last) = complete.split_at(at);
    let foot: Foot =
        serde_json::from_str(last).map_err(|_| "it is cut off: its last line is no checksum".to_owned())?;
    if foot.sha256 != checksum(body) {
        return Err("it was changed or damaged: its checksum is another one".to_owned());
    }
    let mut pairs: Vec<Pair> = Vec::with_capacity(foot.keys.min(body.len()));
    for (number, text) in (2..).zip(body.lines().skip(1)) {
        let pair = pair(text).map_err(|cause| format!("line {number}: {cause}"))?;
        if pairs.last().is_some_and(|(before, _)| *before >= pair.0) {
            return Err(format!("line {number}: the key {} does not come after the one before", pair.0));
        }
        pairs.push(pair);
    }
    if pairs.len() != foot.keys {
        return Err(format!("it holds {} keys, but says that it holds {}", pairs.len(), foot.keys));
    }
    Ok(pairs)
}

fn pair(text: &str) -> Result<Pair, String> {
    let Line { key, value, base64 } = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if !key.starts_with(ROOT) || is_about_migration(&key) {
        return Err(format!("the key {key:?} is none that is imported"));
    }
    let value = match (value, base64) {
        (Some(value), None) => value.into_bytes(),
        (None, Some(base64)) => BASE64_STANDARD.decode(base64).map_err(|error| format!("{key}: {error}"))?,
        _ => return Err(format!("{key}: it needs either a value or base64")),
    };
    Ok((key, value))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use calico_model::Revision;
    use calico_store::Entry;

    use super::*;

    fn listing(pairs: &[(&str, &[u8])]) -> Listing {
        let entry = |(key, value): &(&str, &[u8])| Entry {
            key: (*key).to_owned(),
            value: value.to_vec(),
            revision: Revision(3),
        };
        Listing { revision: Revision(7), entries: pairs.iter().map(entry).collect() }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let pairs: [(&str, &[u8]); 4] = [
            ("/calico/a", b"{\"a\":\"line\\n\"}"),
            ("/calico/b", b""),
            ("/calico/datastore/v1/relocation", b"not copied"),
            ("/calico/z", b"\xff\x00 no text \xfe"),
        ];
        let (text, keys) = render(&listing(&pairs), "http://etcd:2379");
        assert_eq!((keys, text.lines().count()), (3, 5));
        let expected: Vec<Pair> =
            [pairs[0], pairs[1], pairs[3]].iter().map(|(key, value)| ((*key).to_owned(), value.to_vec())).collect();
        assert_eq!(parse(&text).unwrap(), expected);
        let (empty, keys) = render(&listing(&[]), "");
        assert_eq!((keys, parse(&empty).unwrap().len()), (0, 0));
    }

    #[test]
    fn whatever_is_cut_off_or_changed_is_refused() {
        let (text, _) = render(&listing(&[("/calico/a", b"one"), ("/calico/b", b"two")]), "x");
        for end in 0..text.len() {
            assert!(parse(&text[..end]).is_err(), "cut at {end}");
        }
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = if bytes[at] == b'7' { b'8' } else { b'7' };
            let changed = String::from_utf8(bytes).unwrap();
            // The head's own words are the only ones that a change can leave meaningful, and the checksum covers them.
            assert!(parse(&changed).is_err(), "changed at {at}: {changed}");
        }
    }

    #[test]
    fn faults_are_named() {
        let signed = |body: &str, keys| format!("{body}{}", line(&Foot { keys, sha256: checksum(body) }));
        let head = "{\"format\":\"calico-datastore\",\"version\":1}\n";
        let cases = [
            ("".to_owned(), "no file that calicoctl"),
            ("{}\n".to_owned(), "no file that calicoctl"),
            (head.replace(":1", ":2"), "version 2"),
            (head.replace("calico-", "other-"), "other-datastore"),
            (head.to_owned(), "cut off"),
            (signed(head, 1), "holds 0 keys"),
            (signed(&format!("{head}{{\"key\":\"/other/a\",\"value\":\"\"}}\n"), 1), "line 2: the key \"/other/a\""),
            (signed(&format!("{head}{{\"key\":\"/calico/a\"}}\n"), 1), "line 2: /calico/a: it needs"),
            (signed(&format!("{head}{}", "{\"key\":\"/calico/a\",\"value\":\"\"}\n".repeat(2)), 2), "line 3: the key"),
            (signed(&format!("{head}nonsense\n"), 1), "line 2: "),
            (signed(&format!("{head}{{\"key\":\"/calico/a\",\"base64\":\"?\"}}\n"), 1), "line 2: /calico/a: "),
        ];
        for (text, words) in cases {
            let error = parse(&text).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
