//! Every way in which joining is refused, each with its words, and that nothing is lost by it.

use std::time::Duration;

use super::{
    super::{
        Refusal, Token,
        join::{Address, Invitation, JoinError, join},
    },
    rig::{Hands, Rig, dial},
};
use crate::pki::{Authority, Fingerprint};

/// The refusal of joining, which must have a way out.
async fn refused(rig: &Rig, invitation: &Invitation, host: &str) -> Refusal {
    match rig.join(invitation, host).await {
        Err(error @ JoinError::Refused(_)) => {
            assert!(error.way_out().is_some());
            let JoinError::Refused(refusal) = error else { unreachable!("it was matched above") };
            refusal
        }
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn wrong_used_and_expired_tokens_are_told_apart() {
    let rig = Rig::new();
    let invitation = rig.invite();
    let wrong = Invitation { token: Token::new().unwrap(), ..invitation.clone() };
    assert_eq!(refused(&rig, &wrong, "host-2").await, Refusal::WrongToken);

    let before = rig.registrar.now();
    rig.join(&invitation, "host-2").await.unwrap();
    let Refusal::UsedToken { host, at } = refused(&rig, &invitation, "host-3").await else { panic!("not used") };
    assert_eq!(host, "host-2");
    assert!((before..=rig.registrar.now()).contains(&at));

    let late = rig.invite();
    rig.clock.advance(601);
    let Refusal::ExpiredToken { at } = refused(&rig, &late, "host-3").await else { panic!("not expired") };
    assert!(at < rig.registrar.now());
    let words = Refusal::ExpiredToken { at: 1_772_366_405 }.to_string();
    assert_eq!(words, "the invitation was valid until 2026-03-01 12:00:05 UTC");
}

#[tokio::test]
async fn a_used_token_stays_used_after_a_restart_and_stands_nowhere_in_clear() {
    use std::os::unix::fs::PermissionsExt;
    let rig = Rig::new();
    let (used, open) = (rig.invite(), rig.invite());
    rig.join(&used, "host-2").await.unwrap();
    let rig = rig.restart().await;
    rig.registrar.keep_up().unwrap();
    let moved = |invitation: &Invitation| Invitation {
        address: Address { host: "127.0.0.1".into(), port: rig.address().port() },
        ..invitation.clone()
    };
    assert!(matches!(refused(&rig, &moved(&used), "host-3").await, Refusal::UsedToken { .. }));
    let mut files = 0;
    for file in std::fs::read_dir(rig.dir.path().join("pki")).unwrap() {
        let file = file.unwrap();
        let text = std::fs::read_to_string(file.path()).unwrap();
        assert!(![&used, &open].into_iter().any(|invitation| text.contains(&invitation.token.reveal())), "{file:?}");
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
        files += 1;
    }
    assert_eq!(files, 3, "ca.pem, server.pem, hosts.json");
    assert_eq!(std::fs::metadata(rig.dir.path().join("pki")).unwrap().permissions().mode() & 0o777, 0o700);
    rig.join(&moved(&open), "host-3").await.unwrap();
    assert!(!format!("{used:?}").contains(&used.token.reveal()));
}

#[tokio::test]
async fn a_clock_that_is_off_is_told_by_both_times_and_costs_nothing() {
    let rig = Rig::new();
    let invitation = rig.invite();
    // Also by years, where no certificate would be valid.
    for shift in [-301, 301, -10 * 365 * 86400, 10 * 365 * 86400] {
        let hands = Hands::default();
        hands.advance(shift);
        let error = join(&invitation, "host-2", &hands.clock()).await.unwrap_err();
        let JoinError::Refused(Refusal::Clock { datastore, here }) = &error else { panic!("{shift}: {error}") };
        assert!((here - datastore - shift).abs() < 60, "{shift}: {error}");
        assert!(error.to_string().contains("on the host that keeps the datastore") && error.way_out().is_some());
    }
    // Whoever says a wrong clock without having asked for the datastore's is refused by that one, too.
    let request = super::super::message::EnrolRequest {
        token: invitation.token.reveal(),
        host: "host-2".into(),
        now: 0,
        request: String::new(),
    };
    let answer = rig.registrar.enrol(&request, "127.0.0.1".parse().unwrap());
    assert!(matches!(answer, Err(Refusal::Clock { here: 0, .. })));
    rig.join(&invitation, "host-2").await.unwrap();
}

#[tokio::test]
async fn names_of_hosts_that_are_there_are_not_given_twice() {
    let mut rig = Rig::new();
    let invitation = rig.invite();
    let Refusal::NameTaken { from, .. } = refused(&rig, &invitation, "host-1").await else { panic!("not taken") };
    assert!(from.contains("keeps the datastore"));
    for name in ["", "Host-2", "host_2", "-x", "a..b", &"x".repeat(254)] {
        assert!(matches!(refused(&rig, &invitation, name).await, Refusal::BadName { .. }), "{name}");
    }
    let joined = rig.joined("host-2").await;
    let stream = dial(rig.address(), &joined.authority, Some(&joined.identity), b"h2").await.unwrap();
    let connected = rig.next().await;
    let taken = refused(&rig, &invitation, "host-2").await;
    assert_eq!(taken, Refusal::NameTaken { host: "host-2".into(), from: "127.0.0.1".into() });
    assert!(taken.way_out().contains("calicoctl node revoke host-2"));
    // A host that is gone may come back under its name; what it had before is worth nothing then.
    drop((stream, connected));
    let again = rig.join(&invitation, "host-2").await.unwrap();
    assert!(rig.registrar.check("host-2", &super::facts(&joined.identity).serial).is_err());
    assert!(rig.registrar.check("host-2", &super::facts(&again.identity).serial).is_ok());
}

#[tokio::test]
async fn who_guesses_is_not_listened_to_for_a_while() {
    let rig = Rig::new();
    let invitation = rig.invite();
    let wrong = Invitation { token: Token::new().unwrap(), ..invitation.clone() };
    for _ in 0..10 {
        assert_eq!(refused(&rig, &wrong, "host-2").await, Refusal::WrongToken);
    }
    let Refusal::TooManyTries { seconds } = refused(&rig, &invitation, "host-2").await else { panic!("listened to") };
    assert!((1..=60).contains(&seconds));
    rig.clock.advance(61);
    rig.join(&invitation, "host-2").await.unwrap();
}

#[tokio::test]
async fn a_disk_that_cannot_be_written_uses_up_nothing() {
    let rig = Rig::new();
    let invitation = rig.invite();
    let obstacle = rig.dir.path().join("pki/hosts.json.new");
    std::fs::create_dir(&obstacle).unwrap();
    assert!(matches!(refused(&rig, &invitation, "host-2").await, Refusal::Failed { .. }));
    let error = rig.registrar.invite(Duration::from_secs(60), "127.0.0.1").unwrap_err();
    assert!(error.to_string().contains("hosts.json cannot be written") && error.way_out().is_some(), "{error}");
    assert!(rig.registrar.revoke("host-2").is_ok(), "there is none, so nothing is written");
    assert_eq!((rig.registrar.hosts().len(), rig.registrar.open_invitations()), (0, 1));
    std::fs::remove_dir(&obstacle).unwrap();
    rig.join(&invitation, "host-2").await.unwrap();
    std::fs::create_dir(&obstacle).unwrap();
    assert!(rig.registrar.revoke("host-2").is_err());
    assert_eq!(rig.registrar.hosts()[0].state.revoked, None, "it is not shut out if that would not last");
}

#[tokio::test]
async fn invitations_that_make_no_sense_are_refused() {
    let rig = Rig::new();
    let invite = |seconds: u64, address: &str| rig.registrar.invite(Duration::from_secs(seconds), address);
    for (seconds, address, word) in [
        (0, "10.0.0.1", "1 second to 7 days"),
        (8 * 86400, "10.0.0.1", "1 second to 7 days"),
        (60, "0.0.0.0", "no address"),
        (60, "::", "no address"),
        (60, "ff02::1", "no address"),
        (60, "10.0.0.1:2379", "neither an address nor a host name"),
        (60, "", "neither an address nor a host name"),
    ] {
        let error = invite(seconds, address).unwrap_err().to_string();
        assert!(error.contains(word), "{address}: {error}");
    }
    assert!(!rig.dir.path().join("pki").exists() && rig.registrar.listens_on().is_none());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let options = super::super::RegistrarOptions { port, ..super::rig::options(rig.dir.path(), &rig.clock) };
    let other = super::super::Registrar::open(options).unwrap();
    let error = other.invite(Duration::from_secs(60), "127.0.0.1").unwrap_err();
    assert!(error.to_string().contains(&port.to_string()) && error.way_out().unwrap().contains("ss -ltnp"), "{error}");
    assert_eq!(other.open_invitations(), 0);
}

#[tokio::test]
async fn another_authority_is_told_by_its_fingerprint_and_hears_nothing() {
    let rig = Rig::new();
    let invitation = rig.invite();
    let other = Authority::make("host-1", time::OffsetDateTime::now_utc()).unwrap();
    let expected: Fingerprint = other.fingerprint();
    let wrong = Invitation { fingerprint: expected, ..invitation.clone() };
    let error = rig.join(&wrong, "host-2").await.unwrap_err();
    let JoinError::Fingerprint { expected: e, presented, .. } = &error else { panic!("{error}") };
    assert_eq!((*e, *presented), (expected, Some(invitation.fingerprint)));
    assert!(error.to_string().contains("nothing was sent"), "{error}");
    rig.join(&invitation, "host-2").await.unwrap();
}

/// A request to join as `host` by `key`, as it can be sent again word for word.
fn request(rig: &Rig, token: &Token, host: &str, key: &rcgen::KeyPair) -> super::super::message::EnrolRequest {
    let request = crate::pki::Request::make(host, key).unwrap();
    super::super::message::EnrolRequest { token: token.reveal(), host: host.into(), now: rig.registrar.now(), request }
}

#[tokio::test]
async fn a_host_that_was_shut_out_does_not_come_back_by_saying_its_old_request_again() {
    let rig = Rig::new();
    let from = "127.0.0.1".parse().unwrap();
    let (old, new) = (rig.invite().token, rig.invite().token);
    let (old_key, new_key) = (crate::pki::new_key().unwrap(), crate::pki::new_key().unwrap());
    let again = || rig.registrar.enrol(&request(&rig, &old, "host-2", &old_key), from).map(drop);
    again().unwrap();
    again().expect("its answer may have been lost");
    rig.registrar.revoke("host-2").unwrap();
    assert!(matches!(again(), Err(Refusal::UsedToken { .. })));
    assert!(rig.registrar.hosts()[0].state.revoked.is_some(), "it is still shut out");

    // Another machine is invited under that name: the first one does not push it aside.
    rig.registrar.enrol(&request(&rig, &new, "host-2", &new_key), from).unwrap();
    let before = rig.registrar.hosts();
    assert!(matches!(again(), Err(Refusal::UsedToken { .. })));
    assert_eq!(rig.registrar.hosts(), before);
}

#[tokio::test]
async fn what_joined_later_under_a_name_is_not_pushed_aside_by_what_joined_earlier() {
    let rig = Rig::new();
    let from = "127.0.0.1".parse().unwrap();
    let (old, new) = (rig.invite().token, rig.invite().token);
    let (old_key, new_key) = (crate::pki::new_key().unwrap(), crate::pki::new_key().unwrap());
    rig.registrar.enrol(&request(&rig, &old, "host-2", &old_key), from).unwrap();
    rig.registrar.enrol(&request(&rig, &new, "host-2", &new_key), from).unwrap();
    let refused = rig.registrar.enrol(&request(&rig, &old, "host-2", &old_key), from).map(drop);
    assert!(matches!(refused, Err(Refusal::UsedToken { .. })));
}

#[tokio::test]
async fn a_connection_of_an_earlier_life_ends_when_a_host_joins_anew() {
    let rig = Rig::new();
    let (from, token, key) = ("127.0.0.1".parse().unwrap(), rig.invite().token, crate::pki::new_key().unwrap());
    rig.registrar.enrol(&request(&rig, &token, "host-2", &key), from).unwrap();
    let (_entry, mut cut) = rig.registrar.connections().enter("host-2", from, i64::MAX);
    assert!(cut.try_recv().is_err());
    rig.registrar.enrol(&request(&rig, &token, "host-2", &key), from).unwrap();
    cut.try_recv().expect("its certificate is in no book any more");
}

#[test]
fn a_clock_at_the_end_of_time_has_words() {
    for here in [i64::MIN, i64::MAX] {
        let refusal = Refusal::Clock { datastore: 1_772_366_405, here };
        assert!(refusal.to_string().contains("the clocks differ by"), "{refusal}");
    }
}
