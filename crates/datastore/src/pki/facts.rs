//! What a certificate says.

use std::{fmt::Write, net::IpAddr};

use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

use super::hex;

/// The parts of a certificate that decisions are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Whom it is for: the node's name in a host's certificate.
    pub name: String,
    /// Its number, in hexadecimal digits.
    pub serial: String,
    /// Its first second, in seconds since 1970.
    pub not_before: i64,
    /// Its last second, in seconds since 1970.
    pub not_after: i64,
    /// The addresses and host names that a server with it may be reached by.
    pub names: Vec<String>,
    /// The public key, as the certificate holds it.
    pub public_key: Vec<u8>,
}

impl Facts {
    /// Reads a certificate. Its signature is not looked at.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn of(der: &[u8]) -> Result<Self, String> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| "it is no certificate".to_owned())?;
        let name = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        let name = name.ok_or("its subject has no name")?.to_owned();
        let names = match certificate.subject_alternative_name() {
            Ok(Some(names)) => names.value.general_names.iter().filter_map(spell).collect(),
            Ok(None) => Vec::new(),
            Err(_) => return Err("its names cannot be read".to_owned()),
        };
        Ok(Self {
            name,
            serial: hex(&certificate.tbs_certificate.serial.to_bytes_be()),
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
            names,
            public_key: certificate.public_key().raw.to_vec(),
        })
    }

    /// Whether it is good at `now`, in seconds since 1970.
    pub fn is_valid_at(&self, now: i64) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }

    /// The names for people: `10.0.0.1, host-1`.
    pub fn spelled_names(&self) -> String {
        self.names.iter().fold(String::new(), |mut text, name| {
            let _ = write!(text, "{}{name}", if text.is_empty() { "" } else { ", " });
            text
        })
    }
}

fn spell(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
            16 => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
            _ => None,
        },
        _ => None,
    }
}
