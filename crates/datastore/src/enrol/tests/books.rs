//! The book itself: on disk, and over time.

use proptest::prelude::*;

use super::{
    super::{
        OpenError, Refusal, Registrar,
        book::{Barred, Book, Standing},
        join::Address,
    },
    rig::{Hands, options},
};

#[test]
fn a_book_that_is_damaged_or_newer_is_refused_and_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pki/hosts.json");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    for (text, words) in [
        ("{\"version\": 2, \"clans\": {}}", "version 2"),
        ("{\"version\": 1, \"hosts\": 7}", "hosts.json is damaged"),
        ("", "hosts.json is damaged"),
        ("{}", "hosts.json is damaged"),
    ] {
        std::fs::write(&file, text).unwrap();
        let error: OpenError = Registrar::open(options(dir.path(), &Hands::default())).unwrap_err();
        assert!(error.to_string().contains(words) && error.way_out().is_some(), "{error}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    }
    std::fs::write(&file, "{\"version\": 1}").unwrap();
    Registrar::open(options(dir.path(), &Hands::default())).unwrap();
}

#[test]
fn addresses_are_read_as_people_write_them() {
    for (text, host, port) in [
        ("10.0.0.1:2379", "10.0.0.1", 2379),
        ("10.0.0.1", "10.0.0.1", 2379),
        ("[fd00::1]:4000", "fd00::1", 4000),
        ("[fd00::1]", "", 0),
        ("fd00::1", "fd00::1", 2379),
        ("rack1-h1.example:2379", "rack1-h1.example", 2379),
        ("rack1-h1", "rack1-h1", 2379),
        ("", "", 0),
        ("10.0.0.1:0", "", 0),
        ("10.0.0.1:x", "", 0),
        ("https://10.0.0.1:2379", "", 0),
        ("a@b:1", "", 0),
        ("[x]:1", "", 0),
        ("-x y:1", "", 0),
    ] {
        let expected = (port > 0).then(|| Address { host: host.into(), port });
        assert_eq!(text.parse::<Address>().ok(), expected, "{text}");
    }
    let six: Address = "[fd00:0::1]:2379".parse().unwrap();
    assert_eq!(six.to_string(), "[fd00::1]:2379");
}

#[derive(Clone, Debug)]
enum Step {
    Invite(u8, i64),
    Join(u8, u8),
    Renew(u8),
    Revoke(u8),
    Pass(i64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..4u8, 1..100_000i64).prop_map(|(token, ttl)| Step::Invite(token, ttl)),
        (0..4u8, 0..3u8).prop_map(|(token, host)| Step::Join(token, host)),
        (0..3u8).prop_map(Step::Renew),
        (0..3u8).prop_map(Step::Revoke),
        (1..2_000_000i64).prop_map(Step::Pass),
    ]
}

proptest! {
    /// Beside a plain account of what was said: a token admits once and in time, a certificate counts from when it was
    /// given until its host is shut out or joins anew, and the file says the same as the memory.
    #[test]
    fn the_book_keeps_account(steps in proptest::collection::vec(step(), 1..60)) {
        let life = 90 * 86400;
        let (mut book, mut now, mut serial) = (Book::default(), 1_000_000i64, 0u32);
        let mut tokens = std::collections::BTreeMap::<u8, (i64, bool)>::new();
        let mut valid = std::collections::BTreeMap::<u8, Vec<(String, i64)>>::new();
        let mut out = std::collections::BTreeSet::new();
        for step in steps {
            match step {
                Step::Invite(token, ttl) => {
                    book.invite(token.to_string(), now + ttl);
                    tokens.insert(token, (now + ttl, false));
                }
                Step::Join(token, host) => {
                    let key = format!("key {serial}");
                    let standing = book.standing(&token.to_string(), &host.to_string(), &key, now);
                    match tokens.get_mut(&token) {
                        None => prop_assert_eq!(standing, Err(Refusal::WrongToken)),
                        Some((_, true)) => {
                            let used = matches!(standing, Err(Refusal::UsedToken { .. }));
                            prop_assert!(used, "{:?}", standing);
                        },
                        Some((end, _)) if *end < now => prop_assert_eq!(standing, Err(Refusal::ExpiredToken { at: *end })),
                        Some((_, used)) => {
                            prop_assert_eq!(standing, Ok(Standing::Open));
                            *used = true;
                            book.use_up(&token.to_string(), &host.to_string(), key, now);
                            book.admit(&host.to_string(), serial.to_string(), now + life, now);
                            valid.insert(host, vec![(serial.to_string(), now + life)]);
                            out.remove(&host);
                        }
                    }
                }
                Step::Renew(host) => {
                    // With the newest that it has.
                    let own = valid.get(&host).and_then(|valid| valid.last().cloned());
                    let own = own.map_or_else(String::new, |(own, _)| own);
                    book.renew(&host.to_string(), &own, serial.to_string(), now + life);
                    if let Some(valid) = valid.get_mut(&host) {
                        valid.push((serial.to_string(), now + life));
                    }
                }
                Step::Revoke(host) => {
                    prop_assert_eq!(book.revoke(&host.to_string(), now), valid.contains_key(&host));
                    if valid.contains_key(&host) {
                        out.insert(host);
                    }
                }
                Step::Pass(seconds) => {
                    now += seconds;
                    book.tidy(now);
                    tokens.retain(|_, (end, _)| now - *end < 7 * 86400);
                }
            }
            serial += 1;
            for host in 0..3u8 {
                for serial in 0..serial {
                    let serial = serial.to_string();
                    let all = valid.get(&host).map_or(&[][..], Vec::as_slice);
                    let known = all.iter().find(|(known, _)| *known == serial);
                    let verdict = book.check(&host.to_string(), &serial);
                    // Of many that were given within a moment only some count; the newest is among them.
                    let is_certain = all.len() <= 4 || all.last() == known;
                    if out.contains(&host) {
                        prop_assert_eq!(verdict, Err(Barred::Revoked));
                    } else if known.is_some_and(|(_, end)| now <= *end) && is_certain {
                        prop_assert_eq!(verdict, Ok(()));
                    } else if known.is_some() {
                        prop_assert_ne!(verdict, Err(Barred::Revoked));
                    } else if known.is_none() {
                        prop_assert_eq!(verdict, Err(Barred::Unknown));
                    }
                }
            }
            let open = tokens.values().filter(|(end, used)| !used && now <= *end).count();
            prop_assert_eq!(book.open_invitations(now), open);
            let belongs = valid.iter().any(|(host, list)| !out.contains(host) && list.iter().any(|(_, end)| now <= *end));
            prop_assert_eq!(book.expects_anybody(now), open > 0 || belongs);
            let again: Book = serde_json::from_str(&serde_json::to_string(&book).unwrap()).unwrap();
            prop_assert_eq!(&again, &book);
        }
    }
}
