//! Interface names as the kernel keys them.

use std::fmt;

/// An interface name: 1 to 15 bytes, as the kernel allows it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct IfName([u8; 16]);

impl IfName {
    /// The longest name, in bytes.
    pub(crate) const LONGEST: usize = 15;

    /// Checks a name by the kernel's rules (`dev_valid_name`).
    pub(crate) fn new(name: &str) -> Option<Self> {
        let bytes = name.as_bytes();
        let forbidden = |b: &u8| *b == b'/' || *b == b':' || b.is_ascii_whitespace() || !b.is_ascii_graphic();
        if bytes.is_empty() || bytes.len() > Self::LONGEST || name == "." || name == ".." || bytes.iter().any(forbidden)
        {
            return None;
        }
        let mut key = [0; 16];
        key[..bytes.len()].copy_from_slice(bytes);
        Some(Self(key))
    }

    /// The name as map key: 16 bytes, padded with zeros.
    pub(crate) fn key(&self) -> &[u8; 16] {
        &self.0
    }

    /// A map key read from the kernel; `None` if it is no name that [`IfName::new`] accepts.
    pub(crate) fn from_key(key: &[u8]) -> Option<Self> {
        let end = key.iter().position(|b| *b == 0).unwrap_or(key.len());
        Self::new(std::str::from_utf8(&key[..end]).ok()?)
    }

    /// The name as text.
    pub(crate) fn as_str(&self) -> &str {
        let end = self.0.iter().position(|b| *b == 0).unwrap_or(self.0.len());
        std::str::from_utf8(&self.0[..end]).expect("only made from text, cut at its end")
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_kernel_refuses_are_refused() {
        for bad in ["", ".", "..", "a/b", "a b", "a:1", "0123456789abcdef", "caf\u{e9}", "a\n"] {
            assert!(IfName::new(bad).is_none(), "{bad:?}");
        }
        for good in ["lo", "cali0123456789a", "a.b", "x@y"] {
            let name = IfName::new(good).expect("valid");
            assert_eq!(name.as_str(), good);
            assert_eq!(IfName::from_key(name.key()), Some(name));
        }
    }
}
