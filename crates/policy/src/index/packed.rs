//! Labels as they are kept: most are never asked for, so they take as little room as they can.

use std::collections::BTreeMap;

use super::keys::{Key, Keys};

/// Labels in one piece of memory: for each the key's number, the value's length (both in groups of seven bits) and
/// the value. Holds a use of each key until [`release`](Self::release).
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Packed(Box<[u8]>);

impl Packed {
    /// Equal labels give equal bytes as long as the keys stay in use.
    pub(super) fn new(labels: &BTreeMap<&str, &str>, keys: &mut Keys) -> Self {
        let mut bytes = Vec::with_capacity(labels.values().map(|value| value.len() + 3).sum());
        for (key, value) in labels {
            put_number(&mut bytes, keys.acquire(key).0);
            let length = u32::try_from(value.len()).expect("labels are shorter than four gigabytes");
            put_number(&mut bytes, length);
            bytes.extend_from_slice(value.as_bytes());
        }
        Self(bytes.into_boxed_slice())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The labels, by key text.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &str)> {
        let mut rest = &self.0[..];
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let key = take_number(&mut rest);
            let length = take_number(&mut rest);
            let (value, behind) = rest.split_at(length as usize);
            rest = behind;
            Some((Key(key), std::str::from_utf8(value).expect("the bytes of a text were put there")))
        })
    }

    pub(super) fn get(&self, key: Key) -> Option<&str> {
        self.iter().find_map(|(other, value)| (other == key).then_some(value))
    }

    pub(super) fn release(&self, keys: &mut Keys) {
        for (key, _) in self.iter() {
            keys.release(key);
        }
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
