//! What the settings say, and what is refused.
#![allow(clippy::unwrap_used)]

use std::{io::Write, os::unix::fs::PermissionsExt};

use super::*;

/// Some endpoint, for what only matters with one.
const HERE: (&str, &str) = (ENDPOINTS, "http://a:1");

fn options(pairs: &[(&str, &str)]) -> Result<ConnectOptions, Error> {
    ConnectOptions::find(lookup(pairs), Path::new("/no/such/location.env"), Path::new(DATASTORE_SOCKET))
}

fn lookup(pairs: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> {
    move |name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
}

#[test]
fn endpoints_are_read() {
    for (pairs, location) in [
        (vec![], "unix:///var/run/calico/datastore.sock"),
        (vec![(ENDPOINTS, "  ")], "unix:///var/run/calico/datastore.sock"),
        (vec![(SCHEME, "http")], "http://127.0.0.1:2379"),
        (vec![(ENDPOINTS, "unix:///run/some.sock")], "unix:///run/some.sock"),
        (vec![(AUTHORITY, "etcd.local:4001")], "http://etcd.local:4001"),
        (vec![(AUTHORITY, "ignored:1"), (ENDPOINTS, "http://a:1")], "http://a:1"),
        (vec![(ENDPOINTS, "http://a:1 , http://etcd_2:2/,")], "http://a:1, http://etcd_2:2"),
        (vec![(ENDPOINTS, "HTTP://[fd00:0::1]:2379")], "http://[fd00::1]:2379"),
        (vec![(ENDPOINTS, "http://a:1"), ("CALICO_ETCD_ENDPOINTS", "http://b:2")], "http://b:2"),
    ] {
        assert_eq!(options(&pairs).unwrap().location(), location, "{pairs:?}");
    }
}

#[test]
fn bad_settings_name_the_variable_and_the_way_out() {
    for (pairs, setting, word) in [
        (vec![(ENDPOINTS, "10.0.0.1:2379")], ENDPOINTS, "no scheme"),
        (vec![(ENDPOINTS, "ftp://10.0.0.1:2379")], ENDPOINTS, "http, https or unix"),
        (vec![(ENDPOINTS, "http://a:1,https://b:2")], ENDPOINTS, "mixes"),
        (vec![(ENDPOINTS, "unix:///a,http://b:2")], ENDPOINTS, "mixes"),
        (vec![(ENDPOINTS, "unix://run/a")], ENDPOINTS, "absolute"),
        (vec![(ENDPOINTS, "http://a")], ENDPOINTS, "address:port"),
        (vec![(ENDPOINTS, "http://a:0")], ENDPOINTS, "1 to 65535"),
        (vec![(ENDPOINTS, "http://a:65536")], ENDPOINTS, "1 to 65535"),
        (vec![(ENDPOINTS, "http://fd00::1")], ENDPOINTS, "brackets"),
        (vec![(ENDPOINTS, "http://[fd00:::1]:1")], ENDPOINTS, "IPv6"),
        (vec![(ENDPOINTS, "http://-a:1")], ENDPOINTS, "host name"),
        (vec![(ENDPOINTS, "http://a:1/path")], ENDPOINTS, "1 to 65535"),
        (vec![(ENDPOINTS, ",")], ENDPOINTS, "names no endpoint"),
        (vec![(ENDPOINTS, "http://me:s3cret@a:1")], ENDPOINTS, "ETCD_PASSWORD"),
        (vec![(SCHEME, "etcd")], SCHEME, "http or https"),
        (vec![(AUTHORITY, "a")], AUTHORITY, "address:port"),
        (vec![(DISCOVERY, "example.org")], DISCOVERY, ENDPOINTS),
        (vec![(USERNAME, "me")], USERNAME, ENDPOINTS),
        (vec![(PASSWORD, "s3cret")], PASSWORD, ENDPOINTS),
        (vec![(CA_FILE, "/ca")], CA_FILE, "says where etcd is"),
        (vec![HERE, (USERNAME, "me")], PASSWORD, USERNAME),
        (vec![HERE, (PASSWORD, "s3cret")], USERNAME, PASSWORD),
        (vec![HERE, (PASSWORD_FILE, "/p")], USERNAME, PASSWORD_FILE),
        (vec![HERE, (USERNAME, "me"), (PASSWORD_FILE, "/no/such/file")], PASSWORD_FILE, "/no/such/file"),
        (vec![HERE, (USERNAME, "me"), (PASSWORD_FILE, "/dev/null")], PASSWORD_FILE, "not a regular file"),
        (vec![HERE, (USERNAME, "me"), (PASSWORD_FILE, "/p"), (PASSWORD, "s3cret")], PASSWORD_FILE, "only one"),
        (vec![(ENDPOINTS, "https://a:1")], CA_FILE, "needed with https"),
        (vec![(ENDPOINTS, "https://a:1"), (CA_FILE, "/no/such/ca")], CA_FILE, "/no/such/ca"),
        (vec![(ENDPOINTS, "https://a:1"), (CA_FILE, "/x"), (CERT_FILE, "/c")], KEY_FILE, "both or neither"),
        (vec![(ENDPOINTS, "https://a:1"), (CA_FILE, "/x"), (KEY_FILE, "/k")], CERT_FILE, "both or neither"),
    ] {
        let error = options(&pairs).expect_err("must be refused");
        let Error::Settings { setting: at, cause } = &error else { panic!("{pairs:?}: {error}") };
        assert_eq!(at, setting, "{pairs:?}: {error}");
        assert!(cause.contains(word), "{pairs:?}: {error}");
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }
}

#[test]
fn files_are_looked_into_only_with_https() {
    let mut junk = tempfile::NamedTempFile::new().unwrap();
    writeln!(junk, "junk").unwrap();
    let path = junk.path().to_str().unwrap();
    let error = options(&[(ENDPOINTS, "https://a:1"), (CA_FILE, path)]).unwrap_err().to_string();
    assert!(error.contains(path) && error.contains("no certificate"), "{error}");
    assert!(options(&[(ENDPOINTS, "http://a:1"), (CA_FILE, path), (KEY_FILE, "/no")]).unwrap().files().is_empty());
}

#[test]
fn env_pairs_say_the_same_and_debug_hides_the_password() {
    let pem = |text: &str| {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "{text}").unwrap();
        file
    };
    let (cert, key) = (pem("-----BEGIN CERTIFICATE-----"), pem("-----BEGIN EC PRIVATE KEY-----"));
    let (cert, key) = (cert.path().to_str().unwrap(), key.path().to_str().unwrap());
    let given = options(&[
        (ENDPOINTS, "https://[::1]:2379"),
        (CA_FILE, cert),
        (CERT_FILE, cert),
        (KEY_FILE, key),
        (USERNAME, "me"),
        (PASSWORD, "s3cret"),
    ])
    .unwrap();
    let pairs = given.env_pairs();
    let pairs: Vec<_> = pairs.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert_eq!(options(&pairs).unwrap(), given);
    assert_eq!(given.files().len(), 3);
    assert!(!format!("{given:?}").contains("s3cret"));
}

#[test]
fn a_password_file_is_for_its_owner_alone_and_is_handed_on_as_a_file() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "s3cret word ").unwrap();
    let path = file.path().to_str().unwrap();
    let pairs = [(ENDPOINTS, "http://a:1"), (USERNAME, "me"), (PASSWORD_FILE, path)];
    let given = options(&pairs).unwrap();
    assert_eq!(given.credentials().unwrap().password, "s3cret word ");
    assert_eq!(given.files(), [file.path()]);
    let handed_on = given.env_pairs();
    let handed_on: Vec<_> = handed_on.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert_eq!(handed_on, pairs, "the password itself is not among them");
    assert!(!format!("{given:?}").contains("s3cret"));

    for mode in [0o640, 0o604, 0o660, 0o602] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let error = options(&pairs).unwrap_err().to_string();
        assert!(error.contains("chmod 600") && !error.contains("s3cret"), "{mode:o}: {error}");
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(path, "\n").unwrap();
    assert!(options(&pairs).unwrap_err().to_string().contains("is empty"));
}

/// A folder with a record of this text and mode.
fn record(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("location.env");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    (dir, path)
}

#[test]
fn the_environment_goes_before_the_record_and_that_before_the_embedded_datastore() {
    let (_dir, path) = record("# joined\n\nETCD_ENDPOINTS=http://first:2379\nCALICO_DATASTORE_HOST = h1\n", 0o600);
    let find = |pairs: &[(&str, &str)]| ConnectOptions::find(lookup(pairs), &path, Path::new("/s")).unwrap();
    let given = find(&[HERE]);
    assert_eq!((given.source(), given.location().as_str()), (&Source::Environment, "http://a:1"));
    assert_eq!(given.env_pairs(), given.variables());

    let recorded = find(&[]);
    assert_eq!(recorded.source(), &Source::File { path: path.clone(), keeper: Some("h1".into()) });
    assert_eq!(recorded.location(), "http://first:2379");
    assert!(recorded.env_pairs().is_empty(), "a container finds the record itself");

    let spelt_out = find(&[(ENDPOINTS, "unix:///s")]);
    fs::remove_file(&path).unwrap();
    for embedded in [find(&[]), spelt_out] {
        assert_eq!((embedded.source(), embedded.location().as_str()), (&Source::Embedded, "unix:///s"));
        assert!(embedded.env_pairs().is_empty() && embedded.files().is_empty());
    }
}

#[test]
fn a_record_is_written_as_a_whole_for_root_alone_and_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("location.env");
    fs::write(dir.path().join("location.env.new"), "left by a crash").unwrap();
    let given = options(&[(ENDPOINTS, "http://a:1,http://b:2"), (USERNAME, "me"), (PASSWORD, "s3=cret #1")]).unwrap();
    given.write_location(&path, None).unwrap();
    let read = ConnectOptions::from_location(&path).unwrap().unwrap();
    assert_eq!(read.variables(), given.variables());
    assert_eq!(read.source(), &Source::File { path: path.clone(), keeper: None });
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    assert!(!format!("{read:?}").contains("s3=cret"));

    let fails = given.write_location(&dir.path().join("no/such/folder"), None).unwrap_err().to_string();
    assert!(fails.contains("no/such/folder: it cannot be written"), "{fails}");
    let names = given.write_location(&path, Some("h\n1")).unwrap_err().to_string();
    assert!(names.contains("CALICO_DATASTORE_HOST has a line end"), "{names}");
    assert_eq!(ConnectOptions::from_location(&path).unwrap().unwrap(), read, "what fails changes nothing");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "nothing else is left");
}

#[test]
fn a_record_that_is_none_is_refused_and_not_passed_over() {
    for (text, mode, word) in [
        ("", 0o600, "no line ETCD_ENDPOINTS"),
        ("ETCD_ENDPOINTS=\n", 0o600, "no line ETCD_ENDPOINTS"),
        ("ETCD_ENDPOINTS=http://a:1\n", 0o640, "chmod 600"),
        ("ETCD_ENDPOINTS=http://a:1\nPATH=/s3cret\n", 0o600, "line 2: \"PATH\""),
        ("ETCD_ENDPOINTS=http://a:1\nETCD_ENDPOINTS=http://b:1\n", 0o600, "line 2: ETCD_ENDPOINTS stands there twice"),
        ("s3cret\n", 0o600, "line 1 is not NAME=VALUE"),
        ("ETCD_ENDPOINTS=a:1\n", 0o600, "no scheme"),
        ("ETCD_ENDPOINTS=https://a:1\n", 0o600, CA_FILE),
    ] {
        let (_dir, path) = record(text, mode);
        let error = ConnectOptions::find(|_| None, &path, Path::new("/s")).unwrap_err().to_string();
        assert!(error.starts_with(&path.display().to_string()) && error.contains(word), "{text:?}: {error}");
        assert!(!error.contains("s3cret"), "{error}");
    }
    let dir = tempfile::tempdir().unwrap();
    let error = ConnectOptions::from_location(dir.path()).unwrap_err().to_string();
    assert!(error.contains("not a regular file"), "{error}");
}

#[test]
fn the_record_of_a_move_goes_before_an_environment_that_names_the_former_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("location.env");
    let find = |endpoints: &str| {
        let pairs = [("ETCD_ENDPOINTS", endpoints)];
        ConnectOptions::find(lookup(&pairs), &path, Path::new("/s")).unwrap().location()
    };
    let second = options(&[("ETCD_ENDPOINTS", "http://second:2379")]).unwrap();
    second.write_moved(&path, "http://first:2379").unwrap();
    assert_eq!(find("http://first:2379"), "http://second:2379");
    assert_eq!(find("http://other:2379"), "http://other:2379");
    let third = options(&[("ETCD_ENDPOINTS", "http://third:2379")]).unwrap();
    third.write_moved(&path, "http://second:2379").unwrap();
    assert_eq!(find("http://first:2379"), "http://third:2379", "also after a second move");
    assert_eq!(find("http://second:2379"), "http://third:2379");
    assert_eq!(find(""), "http://third:2379");
    let first = ConnectOptions::given(lookup(&[("ETCD_ENDPOINTS", "http://first:2379")])).unwrap().unwrap();
    first.write_moved(&path, "http://third:2379").unwrap();
    assert_eq!(find("http://second:2379"), "http://first:2379", "and after the way back");
    assert_eq!(find("http://first:2379"), "http://first:2379");
    third.write_location(&path, None).unwrap();
    assert_eq!(find("http://first:2379"), "http://first:2379", "a host that joined otherwise has left nothing");
}
