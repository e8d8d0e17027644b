#![allow(clippy::unwrap_used)]
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::*;

#[derive(Deserialize)]
struct Generator {
    table_hex: Vec<String>,
    examples: Vec<Example>,
}

#[derive(Deserialize)]
struct Example {
    host: String,
    host_hash: u32,
    first_outputs: Vec<String>,
    start_index: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Recorded {
    name: String,
    host: String,
    pool: IpNet,
    block_size: u8,
    block_count: String,
    host_hash: u32,
    start_index: String,
    first_blocks: Vec<IpNet>,
    complete: bool,
}

/// The recorded objects of a kind, from the repository's vectors or those that `VECTORS` names.
fn recorded<T: serde::de::DeserializeOwned>(kind: &str) -> Vec<T> {
    let folder = std::env::var("VECTORS").unwrap_or(concat!(env!("CARGO_MANIFEST_DIR"), "/../../vectors").into());
    let text =
        std::fs::read(format!("{folder}/ipam.json")).unwrap_or_else(|error| panic!("{folder}/ipam.json: {error}"));
    let all: Vec<Value> = serde_json::from_slice(&text).unwrap();
    let found: Vec<T> = all
        .into_iter()
        .filter(|value| value["kind"] == kind)
        .map(|value| serde_json::from_value(value).unwrap())
        .collect();
    assert!(!found.is_empty(), "no {kind} in {folder}/ipam.json");
    found
}

#[test]
fn draws_are_the_recorded_ones() {
    for Generator { table_hex, examples } in recorded("generator") {
        let table: Vec<u64> = table_hex.iter().map(|word| u64::from_str_radix(word, 16).unwrap()).collect();
        assert_eq!(table, table::TABLE);
        for example in examples {
            assert_eq!(host_hash(&example.host), example.host_hash);
            let fresh = || Fibonacci::new(example.host_hash.into());
            let mut fibonacci = fresh();
            let draws: Vec<_> = example.first_outputs.iter().map(|_| fibonacci.draw().to_string()).collect();
            assert_eq!(draws, example.first_outputs, "{}", example.host);
            for (n, start) in &example.start_index {
                assert_eq!(fresh().below(n.parse().unwrap()).to_string(), *start, "{} {n}", example.host);
            }
        }
    }
}

#[test]
fn orders_are_the_recorded_ones() {
    for recorded in recorded::<Recorded>("block_order") {
        let order = BlockOrder::new(recorded.pool, recorded.block_size, &recorded.host, 0);
        assert_eq!(host_hash(&recorded.host), recorded.host_hash, "{}", recorded.name);
        assert_eq!(order.count.to_string(), recorded.block_count, "{}", recorded.name);
        assert_eq!(order.start.to_string(), recorded.start_index, "{}", recorded.name);
        let mut walked = Vec::new();
        let end = recorded.first_blocks.len() + usize::from(recorded.complete);
        order.find(&Reservations::default(), |block| {
            walked.push(block);
            walked.len() == end
        });
        assert_eq!(walked, recorded.first_blocks, "{}", recorded.name);
    }
}

/// A polynomial of degree below 607 over the integers modulo 2^64, lowest coefficient first.
type Polynomial = Vec<u64>;

/// Reduces by x^607 = x^334 + 1, the recurrence of the generator.
fn reduce(mut wide: Vec<u64>) -> Polynomial {
    for k in (WORDS..wide.len()).rev() {
        let top = wide[k];
        wide[k - WORDS] = wide[k - WORDS].wrapping_add(top);
        wide[k - TAP] = wide[k - TAP].wrapping_add(top);
    }
    wide.truncate(WORDS);
    wide
}

fn square(a: &Polynomial) -> Polynomial {
    let mut wide = vec![0u64; 2 * WORDS - 1];
    for (i, x) in a.iter().enumerate() {
        for (j, y) in a.iter().enumerate() {
            wide[i + j] = wide[i + j].wrapping_add(x.wrapping_mul(*y));
        }
    }
    reduce(wide)
}

/// x to the power `exponent`.
fn power(exponent: u64) -> Polynomial {
    let mut result = vec![0; WORDS];
    result[0] = 1;
    for bit in (0..64 - exponent.leading_zeros()).rev() {
        result = square(&result);
        if exponent >> bit & 1 == 1 {
            result.insert(0, 0);
            result = reduce(result);
        }
    }
    result
}

#[test]
fn the_table_is_what_its_definition_says() {
    const DRAWS: u64 = 7_800_000_000_000;
    let start = Fibonacci::unmixed(1, [20, 10, 0]).words;
    // The position of the k-th word used: 333 down to 0, then 606 down to 334, again and again.
    let position = |k: usize| (WORDS - TAP - 1 + WORDS - k % WORDS) % WORDS;
    let mut sequence: Vec<u64> = (0..WORDS).map(|k| start[position(k)]).collect();
    for k in WORDS..2 * WORDS {
        sequence.push(sequence[k - WORDS].wrapping_add(sequence[k - TAP]));
    }
    let jump = power(DRAWS);
    let mut table = [0u64; WORDS];
    for j in 0..WORDS {
        let word = jump.iter().zip(&sequence[j..]).fold(0u64, |sum, (c, s)| sum.wrapping_add(c.wrapping_mul(*s)));
        table[position((DRAWS % WORDS as u64) as usize + j)] = word;
    }
    assert_eq!(table, table::TABLE);
}

#[test]
fn hashes_multiply_before_they_xor() {
    assert_eq!(host_hash(""), 2_166_136_261);
    assert_eq!(host_hash("node1"), 3_957_252_814);
}

fn order(pool: &str, len: u8, host: &str) -> BlockOrder {
    BlockOrder::new(pool.parse().unwrap(), len, host, 7)
}

#[test]
fn the_walk_visits_every_block_once_from_the_start_on() {
    let order = order("10.10.0.0/24", 29, "node1");
    let mut seen = Vec::new();
    let none = order.find(&Reservations::default(), |block| {
        seen.push(block.to_string());
        false
    });
    assert_eq!(none, None);
    assert_eq!(seen.len(), 32);
    assert_eq!(
        seen[..7].join(" "),
        "10.10.0.208/29 10.10.0.216/29 10.10.0.224/29 10.10.0.232/29 10.10.0.240/29 \
        10.10.0.248/29 10.10.0.0/29"
    );
    assert_eq!(seen[31], "10.10.0.200/29");
    let all = seen.iter().rev().map(|block| block.parse().unwrap());
    let sorted: Vec<_> = order.sort(all).iter().map(ToString::to_string).collect();
    assert_eq!(sorted, seen);
}

#[test]
fn reserved_blocks_are_stepped_over_in_one_go() {
    // 2^58 blocks, of which only the last is not reserved: a walk one by one would not end.
    let reserved = ["fd00::/64"].map(|net| Reservations::parse(net).unwrap());
    let order = order("fd00::/63", 122, "node1");
    let mut asked = 0;
    let block = order.find(&Reservations::new(reserved), |block| {
        asked += 1;
        block == "fd00:0:0:1::/122".parse().unwrap() || asked > 3
    });
    assert!(block.is_some_and(|block| !"fd00::/64".parse::<IpNet>().unwrap().contains(&block)), "{block:?}");
    let all = Reservations::new(["fd00::/60"].map(|net| Reservations::parse(net).unwrap()));
    assert_eq!(order.find(&all, |_| true), None);
}

#[test]
fn a_reservation_that_ends_inside_a_block_does_not_hide_it() {
    let reserved = Reservations::new(["10.0.0.0/29", "10.0.0.8/31"].map(|net| Reservations::parse(net).unwrap()));
    let order = BlockOrder { pool: "10.0.0.0/28".parse().unwrap(), len: 29, count: 2, start: 0 };
    assert_eq!(order.find(&reserved, |_| true), Some("10.0.0.8/29".parse().unwrap()));
}

#[test]
fn pools_smaller_than_a_block_have_none() {
    let order = order("10.0.0.0/30", 29, "node1");
    assert_eq!(order.find(&Reservations::default(), |_| true), None);
    assert!(order.sort(["10.0.0.0/29".parse().unwrap()]).is_empty());
}

#[test]
fn blocks_of_one_address_start_anywhere() {
    let starts: std::collections::BTreeSet<_> =
        (0..50).map(|n| BlockOrder::new("10.0.0.0/24".parse().unwrap(), 32, "node1", n).start).collect();
    assert!(starts.len() > 20, "{starts:?}");
}
