#![allow(clippy::unwrap_used)]
use proptest::prelude::*;
use time::macros::datetime;

use super::*;

const NOW: OffsetDateTime = datetime!(2026-08-22 10:00:00.123456789 UTC);
/// `NOW` in Unix nanoseconds.
const S: u64 = 1_787_392_800_123_456_789;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn fresh() -> Block {
    Block::new(net("10.10.0.8/29"), &Owner::host("node1"), None, NOW)
}

fn attribute(handle: &str, node: &str) -> Attribute {
    let notes = BTreeMap::from([("node".to_owned(), node.to_owned())]);
    Attribute::new(Some(&handle.into()), Some(&notes))
}

/// A change followed by what a write does to the number.
fn write<T>(block: &mut Block, change: impl FnOnce(&mut Block) -> T) -> T {
    let result = change(block);
    block.sequence_number += 1;
    result
}

fn text(block: &Block) -> String {
    String::from_utf8(block.to_json()).unwrap()
}

fn release(ordinals: &[Ordinal]) -> Vec<Release> {
    ordinals.iter().map(|ordinal| Release { ordinal: *ordinal, handle: None, sequence: None }).collect()
}

#[test]
fn the_stored_form_is_upstreams_to_the_byte() {
    let mut block = fresh();
    assert_eq!(block.key(), "/calico/ipam/v2/assignment/ipv4/block/10.10.0.8-29");
    let head = r#"{"cidr":"10.10.0.8/29","affinity":"host:node1","affinity_claim_time":"2026-08-22T10:00:00Z","#;
    assert_eq!(
        text(&block),
        format!(
            r#"{head}"allocations":[null,null,null,null,null,null,null,null],"unallocated":[0,1,2,3,4,5,6,7],"attributes":null,"sequenceNumber":{S},"sequenceNumberForAllocation":{{}},"deleted":false}}"#
        )
    );
    for (handle, node) in [("net1.c1", "node1"), ("net1.c2", "node1"), ("net1.c9", "node2")] {
        write(&mut block, |block| block.take(1, &attribute(handle, node), &Reservations::default()));
    }
    assert_eq!(
        text(&block),
        format!(
            r#"{head}"allocations":[0,1,2,null,null,null,null,null],"unallocated":[3,4,5,6,7],"attributes":[{{"handle_id":"net1.c1","secondary":{{"node":"node1"}}}},{{"handle_id":"net1.c2","secondary":{{"node":"node1"}}}},{{"handle_id":"net1.c9","secondary":{{"node":"node2"}}}}],"sequenceNumber":{},"sequenceNumberForAllocation":{{"0":{S},"1":{},"2":{}}},"deleted":false}}"#,
            S + 3,
            S + 1,
            S + 2
        )
    );
    let mut cooling = block.clone();
    for (block, cooldown) in [(&mut block, 0), (&mut cooling, 60)] {
        write(block, |block| {
            block.release(&release(&[0]), NOW).unwrap();
            block.collect(Duration::from_secs(cooldown), NOW);
        });
    }
    assert_eq!(
        text(&block),
        format!(
            r#"{head}"allocations":[null,0,1,null,null,null,null,null],"unallocated":[3,4,5,6,7,0],"attributes":[{{"handle_id":"net1.c2","secondary":{{"node":"node1"}}}},{{"handle_id":"net1.c9","secondary":{{"node":"node2"}}}}],"sequenceNumber":{},"sequenceNumberForAllocation":{{"1":{},"2":{}}},"deleted":false}}"#,
            S + 4,
            S + 1,
            S + 2
        )
    );
    assert_eq!(cooling.allocations[..3], [Some(2), Some(0), Some(1)]);
    assert_eq!(cooling.sequence(0), S + 3);
    assert!(
        text(&cooling).contains(r#"{"releasedAt":"2026-08-22T10:00:00Z"}],"sequenceNumber""#),
        "{}",
        text(&cooling)
    );
    assert!(!cooling.is_empty());
    block.disown();
    assert!(text(&block).starts_with(r#"{"cidr":"10.10.0.8/29","affinity":null,"allocations""#));
    assert_eq!(Block::from_json(&block.to_json()).unwrap(), block);
}

#[test]
fn sequence_numbers_sort_as_text_and_keep_all_digits() {
    let mut block = Block::new(net("10.0.0.0/28"), &Owner::host("n"), None, NOW);
    block.take(12, &attribute("h", "n"), &Reservations::default());
    let json = text(&block);
    assert!(json.contains(&format!(r#""0":{S},"1":{S},"10":{S},"11":{S},"2":{S}"#)), "{json}");
    assert_eq!(Block::from_json(json.as_bytes()).unwrap().sequence(11), S);
}

#[test]
fn what_is_not_known_survives_and_what_is_old_is_understood() {
    let json = r#"{"cidr":"10.0.0.0/30","affinity":null,"hostAffinity":"old","allocations":[0,null,null,null],"unallocated":[1,2,3],"attributes":[{"handle_id":"k","colour":"red"}],"reason":{"x":1}}"#;
    let block = Block::from_json(json.as_bytes()).unwrap();
    assert_eq!(block.owner(), Some(Owner::host("old")));
    assert_eq!((block.sequence_number, block.sequence(0)), (0, 0));
    assert_eq!(
        text(&block),
        r#"{"cidr":"10.0.0.0/30","affinity":"host:old","allocations":[0,null,null,null],"unallocated":[1,2,3],"attributes":[{"handle_id":"k","colour":"red"}],"sequenceNumber":0,"sequenceNumberForAllocation":{},"deleted":false,"reason":{"x":1}}"#
    );
}

#[test]
fn inconsistent_blocks_are_refused() {
    let json = |cidr: &str, allocations: &str, unallocated: &str, attributes: &str| {
        format!(
            r#"{{"cidr":"{cidr}","affinity":null,"allocations":{allocations},"unallocated":{unallocated},"attributes":{attributes}}}"#
        )
    };
    for (bad, word) in [
        (json("10.0.0.0/31", "[null]", "[0,1]", "null"), "allocations"),
        (json("10.0.0.0/31", "[0,null]", "[1]", "null"), "attribute 0"),
        (json("10.0.0.0/31", "[null,null]", "[0,0]", "null"), "more than once"),
        (json("10.0.0.0/31", "[0,null]", "[0,1]", "[{}]"), "is allocated"),
        (json("10.0.0.0/31", "[null,null]", "[0,2]", "null"), "ordinal 2"),
        (json("10.0.0.1/31", "[null,null]", "[]", "null"), "prefix"),
        (json("::/0", "[null,null]", "[]", "null"), "prefix"),
        ("[]".to_owned(), "invalid"),
        (String::new(), "EOF"),
    ] {
        let error = Block::from_json(bad.as_bytes()).unwrap_err();
        assert!(error.contains(word), "{bad}: {error}");
    }
}

#[test]
fn block_keys_parse() {
    for cidr in ["10.10.0.8/29", "fd00::40/122", "255.255.255.255/32"] {
        assert_eq!(parse_block_key(&block_key(net(cidr))), Some(net(cidr)));
    }
    for bad in [
        "/calico/ipam/v2/assignment/ipv4/block/10.0.0.1-26",
        "/calico/ipam/v2/assignment/ipv6/block/10.0.0.0-26",
        "/calico/ipam/v2/assignment/ipv4/block/x",
        "/calico/ipam/v2/assignment/ipv4/10.0.0.0-26",
        "/calico/ipam/v2/handle/x",
    ] {
        assert_eq!(parse_block_key(bad), None, "{bad}");
    }
}

#[test]
fn equal_attributes_are_shared_and_empty_ones_never_are() {
    let mut block = fresh();
    let none = Attribute::new(None, None);
    let empty = Attribute::new(None, Some(&BTreeMap::new()));
    block.take(1, &none, &Reservations::default());
    block = Block::from_json(&block.to_json()).unwrap();
    block.take(1, &none, &Reservations::default());
    assert_eq!(block.attributes().len(), 1);
    block.take(1, &empty, &Reservations::default());
    block = Block::from_json(&block.to_json()).unwrap();
    block.take(2, &empty, &Reservations::default());
    assert_eq!(block.allocations[..5], [Some(0), Some(0), Some(1), Some(2), Some(2)]);
}

#[test]
fn reserved_addresses_keep_their_place_in_the_queue() {
    let mut block = fresh();
    let reserved = Reservations::new([net("10.10.0.8/31"), net("10.10.0.12/32")]);
    assert_eq!(block.free(&reserved), 5);
    assert_eq!(block.take(3, &attribute("h", "n"), &reserved), [2, 3, 5]);
    assert_eq!(block.unallocated, [0, 1, 4, 6, 7]);
    assert_eq!(block.take(9, &attribute("h", "n"), &reserved), [6, 7]);
    assert!(block.take(9, &attribute("h", "n"), &reserved).is_empty());
    assert_eq!(block.take(9, &attribute("h", "n"), &Reservations::default()), [0, 1, 4]);
}

#[test]
fn a_release_is_all_or_nothing() {
    let mut block = fresh();
    write(&mut block, |block| block.take(2, &attribute("a", "n"), &Reservations::default()));
    write(&mut block, |block| block.take(1, &attribute("b", "n"), &Reservations::default()));
    let before = block.clone();
    let wrong_handle = [
        Release { ordinal: 0, handle: None, sequence: None },
        Release { ordinal: 2, handle: Some("a".into()), sequence: None },
    ];
    let error = block.release(&wrong_handle, NOW).unwrap_err();
    assert_eq!(error.to_string(), "10.10.0.10 is held by b, not by a");
    let wrong_number = [Release { ordinal: 0, handle: None, sequence: Some(S + 1) }];
    let error = block.release(&wrong_number, NOW).unwrap_err();
    assert!(matches!(error, Mismatch::Sequence { found: S, .. }), "{error}");
    // The number is compared even for an address that is free.
    assert!(block.release(&[Release { ordinal: 7, handle: None, sequence: Some(1) }], NOW).is_err());
    assert_eq!(block, before);
    let requests = [release(&[1, 1, 0, 6]), vec![Release { ordinal: 2, handle: None, sequence: Some(S + 1) }]].concat();
    let freed = block.release(&requests, NOW).unwrap();
    assert_eq!((freed.already_free, freed.ordinals), (vec![6], vec![0, 1, 2]));
    assert_eq!(freed.by_handle, BTreeMap::from([("a".into(), 2), ("b".into(), 1)]));
    block.collect(Duration::ZERO, NOW);
    assert_eq!(block.unallocated, [3, 4, 5, 6, 7, 0, 1, 2]);
    assert_eq!(block.attributes, Some(vec![]));
}

#[test]
fn cooling_addresses_become_free_in_time() {
    let mut block = fresh();
    block.take(3, &attribute("a", "n"), &Reservations::default());
    block.release(&release(&[1]), NOW).unwrap();
    assert_eq!(block.release_handle(&"a".into(), NOW + time::Duration::seconds(10)), 2);
    assert_eq!(block.release_handle(&"a".into(), NOW), 0);
    let minute = Duration::from_secs(60);
    assert!(!block.collect(minute, NOW + time::Duration::seconds(59)));
    assert_eq!(block.release(&release(&[1]), NOW).unwrap().already_free, [1]);
    assert!(!block.take_one(1, &attribute("b", "n")));
    assert!(block.attribute(1).unwrap().released_at.is_some());
    assert!(block.collect(minute, NOW + time::Duration::seconds(60)));
    assert_eq!(block.unallocated, [3, 4, 5, 6, 7, 1]);
    assert_eq!(block.attributes().len(), 1);
    assert!(block.collect(minute, NOW + time::Duration::seconds(70)));
    assert!(block.is_empty());
}

#[test]
fn windows_reservations_do_not_count_as_use() {
    let reserved = |handle: &str| HostReserved { start: 3, end: 1, handle: handle.into(), note: "w".into() };
    let block = |handle| Block::new(net("10.0.0.0/29"), &Owner::host("n"), Some(&reserved(handle)), NOW);
    let windows = block("Windows-Reserved-IPAM-Handle");
    assert!(windows.is_empty());
    assert_eq!(windows.unallocated, [3, 4, 5, 6]);
    assert_eq!(windows.in_use().count(), 4);
    assert!(!block("other").is_empty());
    let all = HostReserved { start: 9, end: 9, ..reserved("x") };
    let all = Block::new(net("10.0.0.0/29"), &Owner::host("n"), Some(&all), NOW);
    assert!(all.unallocated.is_empty() && all.faults(NOW).is_empty());
}

#[test]
fn notes_of_one_address_change_without_touching_others() {
    let mut block = fresh();
    block.take(2, &attribute("a", "n"), &Reservations::default());
    let changed = Attribute { alternate: Some([("pod".to_owned(), "p".to_owned())].into()), ..attribute("a", "n") };
    block.replace_attribute(1, &changed);
    assert_eq!(block.attribute(0), Some(&attribute("a", "n")));
    assert_eq!(block.attribute(1), Some(&changed));
    block.replace_attribute(0, &changed);
    assert_eq!(block.attributes().len(), 1);
    block.replace_attribute(5, &changed);
    assert_eq!(block.attribute(5), None);
}

#[derive(Clone, Debug)]
enum Step {
    Take(usize, u8),
    TakeOne(Ordinal, u8),
    Release(Vec<Ordinal>),
    ReleaseHandle(u8),
    Collect(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0usize..6, 0u8..4).prop_map(|(count, handle)| Step::Take(count, handle)),
        (0usize..8, 0u8..4).prop_map(|(ordinal, handle)| Step::TakeOne(ordinal, handle)),
        prop::collection::vec(0usize..8, 0..4).prop_map(Step::Release),
        (0u8..4).prop_map(Step::ReleaseHandle),
        (0u64..120).prop_map(Step::Collect),
    ]
}

proptest! {
    /// Whatever happens to a block, it stays consistent, survives being stored, and every address is either free
    /// or somebody's or cooling.
    #[test]
    fn blocks_stay_consistent(steps in prop::collection::vec(step(), 0..40)) {
        let mut block = fresh();
        let mut now = NOW;
        for step in steps {
            let attribute = |handle: u8| attribute(&format!("h{handle}"), "n");
            now += time::Duration::seconds(20);
            match step {
                Step::Take(count, handle) => {
                    let free = block.free(&Reservations::default());
                    let taken = block.take(count, &attribute(handle), &Reservations::default());
                    prop_assert_eq!(taken.len(), count.min(free));
                }
                Step::TakeOne(ordinal, handle) => {
                    let free = block.attribute(ordinal).is_none();
                    prop_assert_eq!(block.take_one(ordinal, &attribute(handle)), free);
                }
                Step::Release(ordinals) => drop(block.release(&release(&ordinals), now).unwrap()),
                Step::ReleaseHandle(handle) => {
                    let handle = HandleId::from(format!("h{handle}"));
                    let held = block.held_by(&handle).len();
                    prop_assert_eq!(block.release_handle(&handle, now), held);
                    prop_assert!(block.held_by(&handle).is_empty());
                }
                Step::Collect(cooldown) => drop(block.collect(Duration::from_secs(cooldown), now)),
            }
            block.sequence_number += 1;
            prop_assert_eq!((block.check_held(), block.check_queue()), (Ok(()), Ok(())));
            prop_assert_eq!(block.unallocated.len() + block.in_use().count(), 8);
            let numbered = (0..8).filter(|ordinal| block.sequence(*ordinal) != 0).count();
            prop_assert_eq!(numbered, block.in_use().count());
            let stored = Block::from_json(&block.to_json()).unwrap();
            prop_assert_eq!(stored.to_json(), block.to_json());
        }
    }
}
