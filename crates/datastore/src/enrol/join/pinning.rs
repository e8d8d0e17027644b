//! Believing one authority, known by its fingerprint, and nobody else.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rustls::{
    CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};

use crate::pki::{Facts, Fingerprint};

/// What was wrong with what the server showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PinFault {
    /// No certificate of the authority among them; that of the last one.
    Fingerprint(Option<Fingerprint>),
    /// It is for other names.
    Name(String),
    /// The certificate itself.
    Certificate(String),
}

/// Checks a server by its authority's fingerprint. Time is left out: clocks are compared later, by both times.
#[derive(Debug)]
pub(super) struct Pinned {
    fingerprint: Fingerprint,
    dialled: String,
    algorithms: WebPkiSupportedAlgorithms,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    fault: Option<PinFault>,
    lifetime: Option<(i64, i64)>,
}

impl Pinned {
    pub(super) fn new(fingerprint: Fingerprint, dialled: &str) -> Self {
        let algorithms = crate::tls::provider().signature_verification_algorithms;
        Self { fingerprint, dialled: dialled.to_owned(), algorithms, seen: Mutex::default() }
    }

    /// What was wrong, after a handshake that failed.
    pub(super) fn fault(&self) -> Option<PinFault> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).fault.clone()
    }

    /// First and last second of the server's certificate, after a handshake that succeeded.
    pub(super) fn lifetime(&self) -> Option<(i64, i64)> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).lifetime
    }

    fn judge(&self, server: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> Result<Facts, PinFault> {
        let unusable = |cause: &dyn std::fmt::Display| PinFault::Certificate(cause.to_string());
        let Some(authority) = others.iter().find(|other| Fingerprint::of(other) == self.fingerprint) else {
            return Err(PinFault::Fingerprint(others.last().map(|other| Fingerprint::of(other))));
        };
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned()).map_err(|error| unusable(&error))?;
        let facts = Facts::of(server).map_err(|cause| unusable(&cause))?;
        let parsed = ParsedCertificate::try_from(server).map_err(|error| unusable(&error))?;
        let within = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(facts.not_before + 1).unwrap_or(0)));
        // Also refuses a certificate that is a host's and not a server's.
        verify_server_cert_signed_by_trust_anchor(&parsed, &roots, &[], within, self.algorithms.all)
            .map_err(|error| unusable(&error))?;
        let name = ServerName::try_from(self.dialled.clone()).map_err(|error| unusable(&error))?;
        verify_server_name(&parsed, &name).map_err(|_| PinFault::Name(facts.spelled_names()))?;
        Ok(facts)
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let judged = self.judge(end_entity, intermediates);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match judged {
            Ok(facts) => {
                seen.lifetime = Some((facts.not_before, facts.not_after));
                Ok(ServerCertVerified::assertion())
            }
            Err(fault) => {
                seen.fault = Some(fault);
                Err(CertificateError::ApplicationVerificationFailure.into())
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
