//! Who signs, and what is signed.

use std::net::IpAddr;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use super::{
    AUTHORITY_LIFE, BACKDATE, CERTIFICATE_LIFE, Fingerprint, Identity, PkiError, crypto, damaged, hex, new_key, random,
};

/// The authority of one datastore: its certificate and its key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("fingerprint", &self.fingerprint().to_string()).finish_non_exhaustive()
    }
}

/// A certificate that was signed for a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// The certificate, in PEM form.
    pub pem: String,
    /// Its number, in hexadecimal digits.
    pub serial: String,
    /// Its last second, in seconds since 1970.
    pub not_after: i64,
}

/// A checked certificate request: whoever sent it has the key. Nothing but the public key is kept.
#[derive(Debug)]
pub struct Request(rcgen::PublicKey);

impl Request {
    /// A request for `host` by `key`, in PEM form.
    ///
    /// # Errors
    /// The request cannot be signed.
    pub fn make(host: &str, key: &KeyPair) -> Result<String, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = named(host);
        let request = params.serialize_request(key).and_then(|request| request.pem());
        request.map_err(|error| crypto("making a certificate request", error))
    }

    /// Reads a request and checks its signature.
    ///
    /// # Errors
    /// [`PkiError::Request`]: it is none, its signature is wrong, or its key is not of ECDSA on P-256.
    pub fn parse(pem: &str) -> Result<Self, PkiError> {
        let refuse = |cause: String| PkiError::Request { cause };
        let request = CertificateSigningRequestParams::from_pem(pem).map_err(|error| refuse(error.to_string()))?;
        if request.public_key.algorithm() != &rcgen::PKCS_ECDSA_P256_SHA256 {
            return Err(refuse("its key is not an ECDSA key on the curve P-256".to_owned()));
        }
        Ok(Self(request.public_key))
    }

    /// The SHA-256 of the public key, in hexadecimal digits: the same request sent twice is known by it.
    pub fn key_hash(&self) -> String {
        hex(&Sha256::digest(self.0.der_bytes()))
    }
}

impl Authority {
    /// A new authority, named after the host that keeps the datastore.
    ///
    /// # Errors
    /// No key or signature can be made.
    pub fn make(host: &str, now: OffsetDateTime) -> Result<Self, PkiError> {
        let key = new_key()?;
        let mut params = params(format!("calico datastore of {host}"), now, AUTHORITY_LIFE)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate =
            params.self_signed(&key).map_err(|error| crypto("signing the authority's certificate", error))?;
        Ok(Self { pem: certificate.pem(), certificate: certificate.der().clone(), issuer: Issuer::new(params, key) })
    }

    /// Reads an authority from the text of its file; `what` names it in errors.
    ///
    /// # Errors
    /// [`PkiError::Damaged`]: certificate or key is missing or unreadable, or they do not fit.
    pub fn from_pem(what: &str, text: &str) -> Result<Self, PkiError> {
        let Identity { chain, key } = Identity::from_pem(what, text)?;
        let certificate = chain[0].clone();
        let key = KeyPair::from_der_and_sign_algo(&key, &rcgen::PKCS_ECDSA_P256_SHA256)
            .map_err(|error| damaged(what, format!("its key is not usable: {error}")))?;
        let facts = super::Facts::of(&certificate).map_err(|cause| damaged(what, cause))?;
        if facts.public_key != key.subject_public_key_info() {
            return Err(damaged(what, "its key is not that of its certificate"));
        }
        let pem = pem_of(&certificate);
        let issuer = Issuer::from_ca_cert_der(&certificate, key)
            .map_err(|error| damaged(what, format!("its certificate is not usable: {error}")))?;
        Ok(Self { issuer, certificate, pem })
    }

    /// The text of the authority's file. A secret.
    pub fn to_pem(&self) -> String {
        format!("{}{}", self.pem, self.issuer.key().serialize_pem())
    }

    /// The certificate, in PEM form.
    pub fn certificate_pem(&self) -> &str {
        &self.pem
    }

    /// The certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// By what hosts know this authority before they have its certificate.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    /// The text of a file with a new certificate and key for a server that is reached by `names`: addresses and host
    /// names. A secret.
    ///
    /// # Errors
    /// A name that no certificate can carry; no key or signature can be made.
    pub fn issue_server<'n>(
        &self,
        host: &str,
        names: impl IntoIterator<Item = &'n str>,
        now: OffsetDateTime,
    ) -> Result<String, PkiError> {
        let mut params = params(host.to_owned(), now, CERTIFICATE_LIFE)?;
        for name in names {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(name.try_into().map_err(|error| crypto("certifying the name", error))?),
            });
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = new_key()?;
        let certificate = self.sign(&params, &key)?;
        // The authority's certificate goes along: who joins knows only its fingerprint.
        Ok(format!("{}{}{}", certificate.pem(), self.pem, key.serialize_pem()))
    }

    /// Signs a certificate by which `host` is known.
    ///
    /// # Errors
    /// No signature can be made.
    pub fn issue_host(&self, request: &Request, host: &str, now: OffsetDateTime) -> Result<Issued, PkiError> {
        let mut params = params(host.to_owned(), now, CERTIFICATE_LIFE)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let serial = params.serial_number.as_ref().map(|serial| hex(serial.as_ref())).unwrap_or_default();
        let pem = self.sign(&params, &request.0)?.pem();
        Ok(Issued { pem, serial, not_after: params.not_after.unix_timestamp() })
    }

    fn sign(&self, params: &CertificateParams, key: &impl PublicKeyData) -> Result<rcgen::Certificate, PkiError> {
        params.signed_by(key, &self.issuer).map_err(|error| crypto("signing a certificate", error))
    }
}

/// A certificate of `life` from now on, with a number of its own.
fn params(name: String, now: OffsetDateTime, life: time::Duration) -> Result<CertificateParams, PkiError> {
    let mut serial = random::<16>()?;
    // Positive and of full length, so that its bytes in the certificate are exactly these.
    serial[0] = serial[0] & 0x3f | 0x40;
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.not_before = now - BACKDATE;
    params.not_after = now + life;
    params.distinguished_name = named(&name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// A certificate in PEM form.
pub(crate) fn pem_of(certificate: &CertificateDer<'_>) -> String {
    use base64::Engine;
    let body = base64::engine::general_purpose::STANDARD.encode(certificate);
    let lines: Vec<&str> =
        body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("base64 is ASCII")).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}
