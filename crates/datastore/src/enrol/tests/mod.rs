#![allow(clippy::unwrap_used)]

mod books;
mod refusals;
mod rig;
mod strangers;

use std::{os::unix::fs::PermissionsExt, path::Path, time::Duration};

use rig::{PATIENCE, Rig, dial};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{
    Barred, Refusal,
    join::{self, IDENTITY_FILE, JoinError, Standing},
    message::RenewRequest,
    renewal::{self, Look},
};
use crate::{
    pki::{Facts, Identity},
    tls::Peer,
};

const DAY: i64 = 86400;

/// What joining writes, and the location beside it.
fn settle(dir: &Path, joined: &join::Joined) {
    join::keep(dir, joined).unwrap().settle();
    let file = dir.join(IDENTITY_FILE);
    let text = format!(
        "ETCD_ENDPOINTS=https://{}\nETCD_CERT_FILE={}\nETCD_KEY_FILE={}\n",
        joined.address,
        file.display(),
        file.display()
    );
    std::fs::write(dir.join("location.env"), text).unwrap();
}

fn identity(dir: &Path) -> String {
    std::fs::read_to_string(dir.join(IDENTITY_FILE)).unwrap()
}

fn facts(identity: &str) -> Facts {
    Identity::from_pem("test", identity).unwrap().facts("test").unwrap()
}

#[tokio::test]
async fn a_host_that_joins_is_known_by_its_name_from_then_on() {
    let mut rig = Rig::new();
    let joined = rig.joined("host-2").await;
    assert_eq!((joined.keeper.as_str(), joined.host.as_str()), ("host-1", "host-2"));
    let mut stream = dial(rig.address(), &joined.authority, Some(&joined.identity), b"h2").await.unwrap();
    let (mut connection, peer) = rig.next().await;
    assert_eq!(peer.host, "host-2");
    assert_eq!(peer.serial, facts(&joined.identity).serial);
    stream.write_all(b"ping").await.unwrap();
    let mut heard = [0; 4];
    timeout(PATIENCE, connection.read_exact(&mut heard)).await.unwrap().unwrap();
    assert_eq!(&heard, b"ping");
    let guests = rig.registrar.hosts();
    assert_eq!((guests.len(), guests[0].connections, guests[0].state.name.as_str()), (1, 1, "host-2"));
    drop((connection, stream));
    assert_eq!(rig.registrar.hosts()[0].connections, 0);
}

#[tokio::test]
async fn the_port_is_open_only_while_somebody_is_expected() {
    let rig = Rig::new();
    assert_eq!(rig.registrar.listens_on(), None);
    assert!(!rig.dir.path().join("pki").exists(), "nothing is made before anybody is invited");
    let invited = rig.registrar.invite(Duration::from_secs(60), "127.0.0.1").unwrap();
    assert!(invited.opened && rig.registrar.listens_on().is_some());
    assert!(!rig.registrar.invite(Duration::from_secs(60), "127.0.0.1").unwrap().opened);
    rig.registrar.keep_up().unwrap();
    assert!(rig.registrar.listens_on().is_some());
    rig.clock.advance(62);
    rig.registrar.keep_up().unwrap();
    assert_eq!(rig.registrar.listens_on(), None, "both invitations are over");
    // With a host that belongs it stays open, also over a restart, until that is shut out.
    rig.joined("host-2").await;
    rig.clock.advance(3600);
    rig.registrar.keep_up().unwrap();
    assert!(rig.registrar.listens_on().is_some());
    let rig = rig.restart().await;
    rig.registrar.keep_up().unwrap();
    assert!(rig.registrar.listens_on().is_some());
    rig.registrar.revoke("host-2").unwrap();
    rig.registrar.keep_up().unwrap();
    assert_eq!(rig.registrar.listens_on(), None);
}

#[tokio::test]
async fn a_host_that_is_shut_out_is_cut_at_once_and_may_be_invited_again() {
    let mut rig = Rig::new();
    let (joined, other) = (rig.joined("host-2").await, rig.joined("host-3").await);
    let mut stream = dial(rig.address(), &joined.authority, Some(&joined.identity), b"h2").await.unwrap();
    let (mut connection, _) = rig.next().await;
    let _others = dial(rig.address(), &other.authority, Some(&other.identity), b"h2").await.unwrap();
    let (_kept, _) = rig.next().await;
    // As a watch waits: on the server's side for more requests, on the host's for events.
    let server = tokio::spawn(async move { connection.read(&mut [0; 16]).await.map_err(|error| error.kind()) });
    let host = tokio::spawn(async move { stream.read(&mut [0; 16]).await.unwrap_or(0) });
    let revoked = rig.registrar.revoke("host-2").unwrap();
    assert_eq!((revoked.known, revoked.connections), (true, 1));
    assert_eq!(timeout(PATIENCE, server).await.unwrap().unwrap(), Err(std::io::ErrorKind::ConnectionAborted));
    assert_eq!(timeout(PATIENCE, host).await.unwrap().unwrap(), 0);
    assert_eq!(rig.registrar.hosts().iter().map(|guest| guest.connections).collect::<Vec<_>>(), [0, 1]);

    // It is told why, by TLS itself, also after a restart.
    let mut rig = rig.restart().await;
    rig.registrar.keep_up().unwrap();
    for _ in 0..20 {
        let refused = match dial(rig.address(), &joined.authority, Some(&joined.identity), b"h2").await {
            // It speaks first, as a client of gRPC does; the word of the refusal must not get lost by that.
            Ok(mut stream) => match stream.write_all(&[b'x'; 4096]).await {
                Ok(()) => stream.read(&mut [0; 16]).await.unwrap_err(),
                Err(error) => error,
            },
            Err(error) => error,
        };
        assert!(refused.to_string().contains("CertificateRevoked"), "{refused}");
    }
    assert!(rig.nobody_came());
    assert!(!rig.registrar.revoke("host-9").unwrap().known);

    let again = rig.joined("host-2").await;
    dial(rig.address(), &again.authority, Some(&again.identity), b"h2").await.unwrap();
    assert_eq!(rig.next().await.1.host, "host-2");
    // Its earlier certificate stays worthless.
    assert!(rig.registrar.check("host-2", &facts(&joined.identity).serial).is_err());
}

#[tokio::test]
async fn whoever_removes_the_book_shuts_all_hosts_out_and_it_does_not_come_back() {
    // It is noticed in time, or only by what would write the book again.
    for in_time in [true, false] {
        let mut rig = Rig::new();
        let joined = rig.joined("host-2").await;
        let _stream = dial(rig.address(), &joined.authority, Some(&joined.identity), b"h2").await.unwrap();
        let (mut connection, peer) = rig.next().await;
        let server =
            tokio::spawn(async move { connection.read(&mut [0; 16]).await.map_err(|error| error.to_string()) });
        let (pki, address) = (rig.dir.path().join("pki"), rig.address());
        std::fs::remove_dir_all(&pki).unwrap();
        if in_time {
            rig.registrar.keep_up().unwrap();
            assert_eq!(rig.registrar.listens_on(), None);
            assert_eq!(rig.registrar.check("host-2", &peer.serial), Err(Barred::Unknown));
        }
        let request = crate::pki::Request::make("host-2", &crate::pki::new_key().unwrap()).unwrap();
        rig.registrar.renew(&RenewRequest { request, now: rig.registrar.now() }, &peer).unwrap_err();
        assert!(!rig.registrar.revoke("host-2").is_ok_and(|revoked| revoked.known));
        assert!(rig.registrar.server_config("10.9.8.7".parse().unwrap()).is_err());
        rig.registrar.keep_up().unwrap();
        assert_eq!(timeout(PATIENCE, server).await.unwrap().unwrap(), Err("the book of hosts was removed".to_owned()));
        assert!(rig.registrar.hosts().is_empty() && rig.registrar.listens_on().is_none());
        assert!(!pki.exists(), "in time: {in_time}");
        dial(address, &joined.authority, Some(&joined.identity), b"h2").await.unwrap_err();
        // Whoever is invited now begins anew, under another authority.
        let anew = rig.joined("host-3").await;
        assert_ne!(anew.authority, joined.authority);
        assert_eq!(rig.registrar.hosts().len(), 1);
    }
}

#[tokio::test]
async fn a_connection_ends_with_the_certificate_that_it_came_with() {
    let mut rig = Rig::new();
    let joined = rig.joined("host-2").await;
    let _stream = dial(rig.address(), &joined.authority, Some(&joined.identity), b"h2").await.unwrap();
    let (mut connection, peer) = rig.next().await;
    assert_eq!(peer.to, rig.address());
    let mut server =
        tokio::spawn(async move { connection.read(&mut [0; 16]).await.map_err(|error| error.to_string()) });
    // Another host keeps the port open.
    rig.clock.advance(80 * DAY);
    rig.joined("host-3").await;
    rig.registrar.keep_up().unwrap();
    assert!(futures::FutureExt::now_or_never(&mut server).is_none(), "it still holds");
    rig.clock.advance(10 * DAY + 3600);
    rig.registrar.keep_up().unwrap();
    let ended = timeout(PATIENCE, server).await.unwrap().unwrap();
    assert_eq!(ended, Err("its certificate has expired".to_owned()));
    assert_eq!(rig.registrar.hosts()[0].connections, 0);
}

#[tokio::test]
async fn a_host_that_renews_again_and_again_does_not_fill_the_book_and_stays_shut_out_in_the_end() {
    let rig = Rig::new();
    let joined = rig.joined("host-2").await;
    let host = facts(&joined.identity);
    let from = "127.0.0.1:1".parse().unwrap();
    let mut peer = Peer { host: host.name, serial: host.serial.clone(), from, to: from };
    let key = crate::pki::new_key().unwrap();
    let request = crate::pki::Request::make("host-2", &key).unwrap();
    let renew = |peer: &Peer| {
        let asked = RenewRequest { request: request.clone(), now: rig.registrar.now() };
        rig.registrar.renew(&asked, peer).map(|certified| {
            let chain = Identity::certificates("test", &certified.certificate).unwrap();
            Facts::of(&chain[0]).unwrap().serial
        })
    };
    // Its answers get lost: it asks again and again by the certificate that it has.
    let mut given = vec![host.serial];
    for _ in 0..20 {
        given.push(renew(&peer).unwrap());
        rig.registrar.check("host-2", &peer.serial).unwrap();
        rig.registrar.check("host-2", given.last().unwrap()).unwrap();
    }
    let counts = given.iter().filter(|serial| rig.registrar.check("host-2", serial).is_ok()).count();
    assert!(counts <= 5, "{counts} certificates count");
    let file = || std::fs::read_to_string(rig.dir.path().join("pki/hosts.json")).unwrap();
    let length = file().len();
    // And one that changes over each time.
    for _ in 0..20 {
        peer.serial = renew(&peer).unwrap();
        given.push(peer.serial.clone());
    }
    assert!(file().len() <= length + 200, "{}", file());
    rig.registrar.revoke("host-2").unwrap();
    for serial in &given {
        assert_eq!(rig.registrar.check("host-2", serial), Err(Barred::Revoked));
    }
    assert!(matches!(renew(&peer), Err(Refusal::Revoked { .. })));
}

#[tokio::test]
async fn certificates_renew_themselves_in_the_last_third_of_their_life() {
    let rig = Rig::new();
    let joined = rig.joined("host-2").await;
    let host = tempfile::tempdir().unwrap();
    let clock = rig.clock.clock();
    assert_eq!(renewal::look(host.path(), &clock).await.unwrap(), Look::NotJoined);
    settle(host.path(), &joined);
    rig.clock.advance(59 * DAY);
    let Look::Good(rest) = renewal::look(host.path(), &clock).await.unwrap() else { panic!("renewed too early") };
    assert!((0..DAY + 3600).contains(&rest), "{rest}");
    assert_eq!(identity(host.path()), joined.identity);

    rig.clock.advance(DAY + 3600);
    let Look::Renewed(until) = renewal::look(host.path(), &clock).await.unwrap() else { panic!("not renewed") };
    let renewed = identity(host.path());
    assert!(until > joined.valid_until + 59 * DAY);
    assert_ne!(facts(&renewed).public_key, facts(&joined.identity).public_key, "a new key, too");
    assert_eq!(std::fs::metadata(host.path().join(IDENTITY_FILE)).unwrap().permissions().mode() & 0o777, 0o600);
    // The server's own has been renewed by the way; both of the host's count for now.
    for identity in [&renewed, &joined.identity] {
        rig.registrar.check("host-2", &facts(identity).serial).unwrap();
    }
    // It was tried before it was kept, so somebody answered it by the new name and number.
    assert_eq!(facts(&renewed).name, "host-2");

    rig.registrar.revoke("host-2").unwrap();
    rig.clock.advance(70 * DAY);
    let error = renewal::look(host.path(), &clock).await.unwrap_err().to_string();
    assert!(error.contains("shut this host out"), "{error}");
    assert_eq!(identity(host.path()), renewed, "what cannot be replaced stays");
}

#[tokio::test]
async fn a_certificate_that_has_ended_is_told_as_such() {
    let rig = Rig::new();
    let joined = rig.joined("host-2").await;
    let host = tempfile::tempdir().unwrap();
    settle(host.path(), &joined);
    // Another host keeps the port open.
    rig.clock.advance(45 * DAY);
    rig.joined("host-3").await;
    rig.clock.advance(46 * DAY);
    let error = renewal::look(host.path(), &rig.clock.clock()).await.unwrap_err();
    assert!(matches!(&error, JoinError::Broken { cause, .. } if cause.contains("certificate has ended")), "{error}");
}

#[tokio::test]
async fn a_lost_answer_costs_no_invitation() {
    use super::message::EnrolRequest;
    let rig = Rig::new();
    let invitation = rig.invite();
    let from = "127.0.0.1".parse().unwrap();
    let asked = |key: &rcgen::KeyPair| EnrolRequest {
        token: invitation.token.reveal(),
        host: "host-2".into(),
        now: rig.registrar.now(),
        request: crate::pki::Request::make("host-2", key).unwrap(),
    };
    let (mine, other) = (crate::pki::new_key().unwrap(), crate::pki::new_key().unwrap());
    rig.registrar.enrol(&asked(&mine), from).unwrap();
    let again = rig.registrar.enrol(&asked(&mine), from).unwrap();
    assert!(again.certificate.contains("BEGIN CERTIFICATE"));
    assert!(matches!(rig.registrar.enrol(&asked(&other), from), Err(Refusal::UsedToken { .. })));
    assert_eq!(rig.registrar.hosts().len(), 1);
}

#[test]
fn what_joining_wrote_and_moved_comes_back_unless_it_is_settled() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let read = |name: &str| std::fs::read_to_string(at(name)).unwrap();
    assert_eq!(join::standing(dir.path()).unwrap(), Standing::Fresh);
    let joined = |mark: &str| join::Joined {
        identity: format!("identity {mark}"),
        authority: format!("authority {mark}"),
        keeper: "host-1".into(),
        host: "host-2".into(),
        address: "10.0.0.1".parse().unwrap(),
        valid_until: 0,
    };
    drop(join::keep(dir.path(), &joined("a")).unwrap());
    assert!(!at("pki/ca.crt").exists() && !at(IDENTITY_FILE).exists());
    join::keep(dir.path(), &joined("a")).unwrap().settle();
    drop(join::keep(dir.path(), &joined("b")).unwrap());
    assert_eq!((read("pki/ca.crt"), read(IDENTITY_FILE)), ("authority a".into(), "identity a".into()));

    std::fs::write(at("data.redb"), "data").unwrap();
    std::fs::write(at("location.env"), "where").unwrap();
    std::fs::write(at("acknowledged"), "7").unwrap();
    assert_eq!(join::standing(dir.path()).unwrap(), Standing::KeepsOne(at("data.redb")));
    let now = time::macros::datetime!(2026-03-01 12:00:05 UTC);
    drop(join::leave_own(dir.path(), now).unwrap());
    assert_eq!(
        (read("data.redb"), read("acknowledged"), read("location.env"), read("pki/ca.crt")),
        ("data".into(), "7".into(), "where".into(), "authority a".into())
    );
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 4, "no folder is left");
    let folder = join::leave_own(dir.path(), now).unwrap().settle();
    assert_eq!(folder, at("left-20260301-120005"));
    assert_eq!(std::fs::read_to_string(folder.join("data.redb")).unwrap(), "data");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    assert_eq!(join::standing(dir.path()).unwrap(), Standing::Fresh);
}
