#![allow(clippy::unwrap_used)]
use serde_json::json;

use super::*;

const CANARY: &str = "c4n4ry";

#[test]
fn text_loses_what_looks_like_a_secret() {
    let scrubber = Scrubber::default();
    for (line, kept) in [
        ("connecting to https://root:c4n4ry@10.0.0.1:2379/x", "@10.0.0.1:2379/x"),
        ("connecting to http://c4n4ry@host/x?y=1", "@host/x?y=1"),
        ("proxy http://u:c4n4ry@more@host:1", "@host:1"),
        ("ETCD_PASSWORD=c4n4ry", "ETCD_PASSWORD="),
        ("level=info password=\"c4n4ry word\" node=h1", "node=h1"),
        ("level=info password='c4n4ry word' node=h1", "node=h1"),
        ("{\"time\":1,\"dbPassword\": \"c4\\\"n c4n4ry\",\"node\":\"h1\"}", "dbPassword"),
        ("{\\\"token\\\":\\\"c4n4ry\\\",\\\"node\\\":\\\"h1\\\"}", "token"),
        ("the password is c4n4ry", "the password"),
        ("  password \"c4n4ry\"; # c", "password"),
        ("ran: etcdctl --password c4n4ry get x", "etcdctl --password"),
        ("Authorization: Bearer c4n4ryc4n4ry", "Authorization"),
        ("header bearer c4n4ryc4n4ry end", "end"),
        ("jwt eyJhbGciOi.c4n4ry.sig_nature end", "end"),
        ("api_key: c4n4ry", "api_key"),
        ("Set-Cookie: id=c4n4ry", "Cookie"),
        ("-----BEGIN EC PRIVATE KEY-----\nc4n4ry\nc4n4ry\n-----END EC PRIVATE KEY-----\nafter", "after"),
        ("-----BEGIN PRIVATE KEY-----\nc4n4ry\n", "<removed>"),
        ("c4n4ry\n-----END RSA PRIVATE KEY-----\nafter", "after"),
    ] {
        let said = scrubber.text(line);
        assert!(!said.contains(CANARY), "{line:?}: {said:?}");
        assert!(said.contains(kept), "{line:?} lost {kept:?}: {said:?}");
    }
}

#[test]
fn text_without_secrets_stays_as_it_is() {
    let scrubber = Scrubber::default();
    for text in [
        "default via 10.0.0.1 dev eth0 proto static metric 1024\n192.168.0.0/26 via 10.0.0.2 dev eth0 proto bird\n",
        "ct state established,related counter packets 12 bytes 900 accept\n",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        "{\"level\":\"info\",\"message\":\"in sync\",\"node\":\"h1\"}\n",
        "https://10.0.0.1:2379 is unreachable\n",
    ] {
        assert_eq!(scrubber.text(text), text);
    }
}

#[test]
fn known_values_go_wherever_they_are_and_in_every_form() {
    let mut scrubber = Scrubber::default();
    for secret in ["p\"w/d 1", "p\"w/d 1 longer", "abc"] {
        scrubber.know(secret);
    }
    let said = scrubber.text("a p\"w/d 1 b p\\\"w/d 1 c p%22w%2Fd%201 d p\"w/d 1 longer e abc");
    assert_eq!(said, "a <removed> b <removed> c <removed> d <removed> e abc", "three letters are in every word");
}

#[test]
fn known_values_come_from_where_a_host_keeps_them() {
    let mut scrubber = Scrubber::default();
    scrubber.know_those_of_bird(
        "protocol bgp a {\n  password \"bird-one\";\n}\n protocol bgp b { password \"bird-two\"; }",
    );
    scrubber.know_those_of_settings("# x\nexport ETCD_PASSWORD=\"env-one\"\nETCD_USERNAME=root\nMY_TOKEN='env-two'\n");
    scrubber.know_those_of_data(&json!({
        "spec": { "etcdPassword": "data-one", "k8sAPIToken": ["data-two", 271828], "etcdUsername": "somebody", "port": 31415 },
        "password": { "secretKeyRef": { "name": "tor-secrets", "key": "rack" } },
    }));
    let said =
        scrubber.strike("bird-one bird-two env-one env-two data-one data-two 271828 root somebody tor-secrets 31415");
    assert_eq!(said, format!("{} root somebody tor-secrets 31415", [REMOVED; 7].join(" ")));
}

#[test]
fn data_loses_secrets_by_name_and_annotations_of_others() {
    let data = json!({
        "kind": "BGPPeer",
        "metadata": {
            "name": "tor",
            "labels": { "rack": "r1" },
            "annotations": {
                "org.projectcalico/typed-name": "PROF_A",
                "kubectl.kubernetes.io/last-applied-configuration": "{\"x\":\"c4n4ry\"}",
                "projectcalico.org/metadata": "{\"name\":\"tor\",\"annotations\":{\"mine\":\"c4n4ry\"}}",
            },
        },
        "spec": {
            "password": { "secretKeyRef": { "name": "bgp", "key": "rack-1" } },
            "other": { "password": { "value": "c4n4ry" }, "secretData": ["c4n4ry"] },
            "etcdKeyFile": "/etc/key.pem",
            "url": "http://u:c4n4ry@h/",
            "asNumber": 65001,
            "keepOriginalNextHop": true,
        },
    });
    let said = Scrubber::default().data(&data);
    assert!(!said.to_string().contains(CANARY), "{said}");
    assert_eq!(said["spec"]["password"], data["spec"]["password"], "a reference is no secret");
    assert_eq!(said["metadata"]["annotations"]["org.projectcalico/typed-name"], "PROF_A");
    assert_eq!(said["metadata"]["labels"], data["metadata"]["labels"]);
    assert_eq!(said["spec"]["etcdKeyFile"], "/etc/key.pem");
    assert_eq!((&said["spec"]["asNumber"], &said["spec"]["keepOriginalNextHop"]), (&json!(65001), &json!(true)));
    assert!(said["metadata"]["annotations"]["projectcalico.org/metadata"].as_str().unwrap().contains("tor"));
}

#[test]
fn settings_are_shown_by_an_allow_list() {
    let scrubber = Scrubber::default();
    let said = scrubber.settings(
        "ETCD_ENDPOINTS=http://u:c4n4ry@h:2379\nETCD_PASSWORD=c4n4ry\n#ETCD_PASSWORD=c4n4ry\nWHATEVER=c4n4ry\n\
         CALICO_ETCD_SCHEME=https\nFELIX_LOGSEVERITYSCREEN=debug\nFELIX_SECRET=c4n4ry\nc4n4ry\n c4n4 ry = x\n",
    );
    let expected = "ETCD_ENDPOINTS=http://<removed>@h:2379\nETCD_PASSWORD=<removed>\nWHATEVER=<removed>\n\
                    CALICO_ETCD_SCHEME=https\nFELIX_LOGSEVERITYSCREEN=debug\nFELIX_SECRET=<removed>\n";
    assert_eq!(said, expected);
    let members =
        json!({ "etcdEndpoints": "http://h:1", "etcdPassword": "c4n4ry", "etcdKey": "c4n4ry", "odd": "c4n4ry" });
    let said = scrubber.settings_of(members.as_object().unwrap());
    assert!(!said.to_string().contains(CANARY) && said["etcdEndpoints"] == "http://h:1", "{said}");
}
