//! Labels as they are kept: most are never asked for, so they take as little room as they can.

use super::keys::{Key, Keys};

/// Labels in one piece of memory: for each the key's number, the value's length (both in groups of seven bits) and
/// the value. Holds a use of each key until [`release`](Self::release).
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Packed(Box<[u8]>);

impl Packed {
    /// Labels in the order of their keys, each key once: then equal labels give equal bytes as long as the keys stay in
    /// use.
    pub(super) fn new<'a>(labels: impl IntoIterator<Item = (&'a str, &'a str)>, keys: &mut Keys) -> Self {
        // Written where there is room, so that what is kept is allocated once and in its size.
        let mut bytes = std::mem::take(&mut keys.buffer);
        bytes.clear();
        let mut last = None;
        for (key, value) in labels {
            debug_assert!(last < Some(key), "labels come in the order of their keys");
            last = Some(key);
            put_number(&mut bytes, keys.acquire(key).0);
            let length = u32::try_from(value.len()).expect("labels are shorter than four gigabytes");
            put_number(&mut bytes, length);
            bytes.extend_from_slice(value.as_bytes());
        }
        let packed = Self(bytes.as_slice().into());
        keys.buffer = bytes;
        packed
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The labels, by key text.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &str)> {
        self.raw().map(|(key, value)| (key, value.text()))
    }

    /// The same for those who do not look at most of the values.
    pub(super) fn raw(&self) -> impl Iterator<Item = (Key, Value<'_>)> {
        let mut rest = &self.0[..];
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let key = take_number(&mut rest);
            let length = take_number(&mut rest);
            let (value, behind) = rest.split_at(length as usize);
            rest = behind;
            Some((Key(key), Value(value)))
        })
    }

    pub(super) fn get(&self, key: Key) -> Option<&str> {
        self.raw().find_map(|(other, value)| (other == key).then(|| value.text()))
    }

    pub(super) fn release(&self, keys: &mut Keys) {
        for (key, _) in self.raw() {
            keys.release(key);
        }
    }
}

/// The bytes of a value, which becomes a text again where it is asked for: checking all that are passed over was a
/// twentieth of the time of a large cluster's snapshot.
#[derive(Clone, Copy)]
pub(super) struct Value<'a>(&'a [u8]);

impl<'a> Value<'a> {
    pub(super) fn text(self) -> &'a str {
        std::str::from_utf8(self.0).expect("the bytes of a text were put there")
    }
}

fn put_number(bytes: &mut Vec<u8>, mut number: u32) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn take_number(bytes: &mut &[u8]) -> u32 {
    let (mut number, mut shift) = (0, 0);
    while let Some((&byte, rest)) = bytes.split_first() {
        *bytes = rest;
        number |= u32::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
    }
    number
}
