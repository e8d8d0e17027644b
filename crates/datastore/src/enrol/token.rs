//! The secret of an invitation.

use std::{fmt, str::FromStr};

use sha2::{Digest, Sha256};

use crate::pki::{PkiError, hex, random};

/// 160 random bits, written as 40 hexadecimal digits. No output of `Debug` shows it; [`reveal`](Self::reveal) does.
#[derive(Clone, PartialEq, Eq)]
pub struct Token([u8; 20]);

impl Token {
    /// A new one.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub fn new() -> Result<Self, PkiError> {
        Ok(Self(random()?))
    }

    /// The digits.
    pub fn reveal(&self) -> String {
        hex(&self.0)
    }

    /// What the datastore keeps of it: the SHA-256 of its bytes, in hexadecimal digits. With so many random bits
    /// nothing slower is needed.
    pub fn hash(&self) -> String {
        hex(&Sha256::digest(self.0))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// The text is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a token has 40 hexadecimal digits")]
pub struct NoToken;

impl FromStr for Token {
    type Err = NoToken;

    fn from_str(text: &str) -> Result<Self, NoToken> {
        let digits = text.trim().as_bytes();
        let mut bytes = [0; 20];
        if digits.len() != 40 {
            return Err(NoToken);
        }
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
            let digit = |at: usize| char::from(pair[at]).to_digit(16).ok_or(NoToken);
            *byte = u8::try_from(digit(0)? * 16 + digit(1)?).map_err(|_| NoToken)?;
        }
        Ok(Self(bytes))
    }
}
