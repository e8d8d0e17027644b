#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;
use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    pki_types::{ServerName, UnixTime},
    server::WebPkiClientVerifier,
};

use super::*;

fn now() -> OffsetDateTime {
    time::macros::datetime!(2026-03-01 12:00:00 UTC)
}

fn at(time: OffsetDateTime) -> UnixTime {
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(u64::try_from(time.unix_timestamp()).unwrap()))
}

fn roots(authority: &Authority) -> std::sync::Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate().clone()).unwrap();
    roots.into()
}

fn provider() -> std::sync::Arc<rustls::crypto::CryptoProvider> {
    rustls::crypto::ring::default_provider().into()
}

/// Whether clients that believe `authority` believe that the holder is the server `name`.
fn is_server(authority: &Authority, certificate: &CertificateDer<'_>, name: &str, when: OffsetDateTime) -> bool {
    let verifier = WebPkiServerVerifier::builder_with_provider(roots(authority), provider()).build().unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    verifier.verify_server_cert(certificate, &[], &name, &[], at(when)).is_ok()
}

/// Whether servers that believe `authority` let the holder in.
fn is_client(authority: &Authority, certificate: &CertificateDer<'_>, when: OffsetDateTime) -> bool {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(authority), provider()).build().unwrap();
    verifier.verify_client_cert(certificate, &[], at(when)).is_ok()
}

fn host(authority: &Authority, name: &str) -> (Issued, CertificateDer<'static>) {
    let request = Request::parse(&Request::make("ignored", &new_key().unwrap()).unwrap()).unwrap();
    let issued = authority.issue_host(&request, name, now()).unwrap();
    let certificate = CertificateDer::from_pem_slice(issued.pem.as_bytes()).unwrap();
    (issued, certificate)
}

#[test]
fn a_server_is_believed_under_its_names_only_and_as_long_as_it_lasts() {
    let authority = Authority::make("host-1", now()).unwrap();
    let text = authority.issue_server("host-1", ["10.0.0.1", "fd00::1", "host-1"], now()).unwrap();
    let identity = Identity::from_pem("server", &text).unwrap();
    assert_eq!(identity.chain[1], *authority.certificate(), "who joins needs the authority's certificate too");
    let server = &identity.chain[0];
    for name in ["10.0.0.1", "fd00::1", "host-1"] {
        assert!(is_server(&authority, server, name, now()), "{name}");
    }
    assert!(!is_server(&authority, server, "10.0.0.2", now()));
    assert!(!is_client(&authority, server, now()), "a server is no host");
    for (shift, good) in [
        (-BACKDATE + Duration::seconds(1), true),
        (-BACKDATE - Duration::seconds(1), false),
        (CERTIFICATE_LIFE - Duration::seconds(1), true),
        (CERTIFICATE_LIFE + Duration::seconds(1), false),
    ] {
        assert_eq!(is_server(&authority, server, "host-1", now() + shift), good, "{shift}");
    }
    let stranger = Authority::make("host-1", now()).unwrap();
    assert!(!is_server(&stranger, server, "host-1", now()), "the same name is not the same authority");
    assert_eq!(identity.facts("server").unwrap().spelled_names(), "10.0.0.1, fd00::1, host-1");
}

#[test]
fn a_host_gets_the_name_that_was_decided_and_cannot_play_the_server() {
    let authority = Authority::make("host-1", now()).unwrap();
    let (issued, certificate) = host(&authority, "host-2");
    let facts = Facts::of(&certificate).unwrap();
    assert_eq!((facts.name.as_str(), &facts.serial, facts.not_after), ("host-2", &issued.serial, issued.not_after));
    assert!(is_client(&authority, &certificate, now()));
    assert!(!is_server(&authority, &certificate, "host-2", now()));
    assert!(!is_client(&Authority::make("host-1", now()).unwrap(), &certificate, now()));
    assert_ne!(host(&authority, "host-2").0.serial, issued.serial);
    assert_eq!(issued.serial.len(), 32);
}

#[test]
fn an_authority_comes_back_from_its_file_and_signs_on() {
    let authority = Authority::make("host-1", now()).unwrap();
    let again = Authority::from_pem("ca.pem", &authority.to_pem()).unwrap();
    assert_eq!(again.fingerprint(), authority.fingerprint());
    assert_eq!(again.certificate_pem(), authority.certificate_pem());
    let (_, certificate) = host(&again, "host-2");
    assert!(is_client(&authority, &certificate, now()));
    assert!(!format!("{authority:?}").contains("PRIVATE"));
}

#[test]
fn damaged_files_and_requests_are_told_and_show_no_secret() {
    let (one, other) = (Authority::make("a", now()).unwrap(), Authority::make("b", now()).unwrap());
    let key_of_other = other.to_pem().split_once("-----BEGIN PRIVATE").unwrap().1.to_owned();
    let mixed = format!("{}-----BEGIN PRIVATE{key_of_other}", one.certificate_pem());
    for (text, words) in [
        (String::new(), "no certificate"),
        (one.certificate_pem().to_owned(), "no private key"),
        (mixed, "not that of its certificate"),
        ("-----BEGIN CERTIFICATE-----\n%%%\n-----END CERTIFICATE-----\n".to_owned(), "cannot be read"),
    ] {
        let error = Authority::from_pem("ca.pem", &text).unwrap_err();
        assert!(error.to_string().contains(words) && error.to_string().contains("ca.pem"), "{error}");
        assert!(error.way_out().is_some());
    }
    let request = Request::make("host-2", &new_key().unwrap()).unwrap();
    let mut bent: Vec<char> = request.chars().collect();
    let middle = bent.len() / 2;
    bent[middle] = if bent[middle] == 'A' { 'B' } else { 'A' };
    for text in ["", "x", one.certificate_pem(), &bent.into_iter().collect::<String>()] {
        assert!(matches!(Request::parse(text), Err(PkiError::Request { .. })), "{text}");
    }
}

#[test]
fn fingerprints_are_read_in_all_the_ways_they_are_written() {
    let print = Fingerprint::of(b"x");
    let text = print.to_string();
    let digits = text.strip_prefix("sha256:").unwrap();
    let colons =
        digits.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap()).collect::<Vec<_>>().join(":");
    for form in [text.clone(), digits.to_owned(), text.to_uppercase(), colons, format!(" {text}\n")] {
        assert_eq!(form.parse(), Ok(print), "{form}");
    }
    for form in ["", "sha256:", &text[..70], &format!("{text}0"), &text.replace(['0', '1'], "g"), "md5:00"] {
        assert!(form.parse::<Fingerprint>().is_err(), "{form}");
    }
}

#[test]
fn private_files_are_private_whatever_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("a/pki");
    std::fs::create_dir_all(&inner).unwrap();
    std::fs::set_permissions(&inner, std::fs::Permissions::from_mode(0o755)).unwrap();
    make_private_folder(&inner).unwrap();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&inner), 0o700);
    let file = inner.join("key");
    std::fs::write(&file, "open").unwrap();
    std::fs::write(inner.join("key.new"), "a draft that a crash left").unwrap();
    write_private(&file, "secret").unwrap();
    assert_eq!((mode(&file), read_private(&file).unwrap().as_deref()), (0o600, Some("secret")));
    assert_eq!(std::fs::read_dir(&inner).unwrap().count(), 1, "no draft is left");
    assert_eq!(read_private(&inner.join("none")).unwrap(), None);
    assert!(write_private(&folder.path().join("no/such"), "x").is_err());
}

proptest! {
    #[test]
    fn a_certificate_is_replaced_in_the_last_third_of_its_life(start in 0i64..4_000_000_000, life in 3i64..1_000_000_000) {
        let (end, at) = (start + life, renew_at(start, start + life));
        prop_assert!(start < at && at < end);
        prop_assert!((at - start) * 3 <= life * 2 && life * 2 < (at - start + 1) * 3);
        prop_assert!(!is_due(start, end, at - 1) && is_due(start, end, at) && is_due(start, end, end + 1));
        prop_assert!(is_due(start, end, start - 1), "a certificate from the future does not help anybody");
    }

    #[test]
    fn pauses_grow_and_have_an_end(failures in 1usize..200) {
        let mut patience = Patience::default();
        let pauses: Vec<_> = (0..failures).map(|_| patience.after_failure()).collect();
        prop_assert!(pauses.is_sorted());
        prop_assert_eq!(pauses[0].as_secs(), 60);
        prop_assert!(pauses[failures - 1].as_secs() <= 3600);
        patience.reset();
        prop_assert_eq!(patience.after_failure().as_secs(), 60);
    }

    #[test]
    fn any_values_give_a_time_between_them(a in any::<i64>(), b in any::<i64>()) {
        let at = renew_at(a.min(b), a.max(b));
        prop_assert!(a.min(b) <= at && at <= a.max(b));
    }
}
