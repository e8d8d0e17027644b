//! Random operations, of few keys and leases so that they meet.

use etcd_client::proto::{
    PbCompactionRequest, PbCompare, PbDeleteRequest, PbLeaseGrantRequest, PbLeaseTimeToLiveRequest, PbPutRequest,
    PbRangeRequest, PbTargetUnion, PbTxnOpRequest, PbTxnRequest, PbTxnRequestOp, PbWatchRequest, PbWatchRequestUnion,
};

use super::op::{Op, PRESENT};

/// SplitMix64: small, and the same everywhere.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to `below`, without it.
    pub fn below(&mut self, below: u64) -> u64 {
        self.next() % below
    }

    /// True `percent` times out of a hundred.
    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn one_of<T: Clone>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()].clone()
    }

    /// From `least` to `most`, both included.
    fn between(&mut self, least: i64, most: i64) -> i64 {
        least + i64::try_from(self.below(u64::try_from(most - least + 1).unwrap())).unwrap()
    }
}

const KEYS: &[&[u8]] = &[b"a", b"aa", b"ab", b"b", b"c", b"/x/1", b"/x/2", b"/x/3", b"\xff", b"\x00k"];
const VALUES: &[&[u8]] = &[b"", b"1", b"2", b"3", b"a longer value", b"\x00\xff"];
/// Also one that is never granted.
const LEASES: &[i64] = &[1, 2, 3, 4];
const NO_LEASE: i64 = 99;

/// Some operation.
pub fn op(random: &mut Random) -> Op {
    match random.below(100) {
        0..25 => Op::Put(put(random)),
        25..45 => Op::Range(range(random)),
        45..53 => Op::Delete(delete(random)),
        53..73 => Op::Txn(survivable(txn(random, 2))),
        73..76 => Op::Compact(PbCompactionRequest { revision: revision(random), physical: random.chance(50) }),
        76..80 => Op::Grant(PbLeaseGrantRequest { id: random.one_of(LEASES), ttl: 1000 + random.between(0, 2000) }),
        80..82 => Op::GrantAndRevoke(PbLeaseGrantRequest {
            id: random.one_of(&[0, 0, 50, -3]),
            ttl: random.one_of(&[0, -1, 1, 2, 3, 5000, 9_000_000_000, 9_000_000_001, i64::MAX, i64::MIN]),
        }),
        82..84 => Op::Revoke(lease(random)),
        84..85 => Op::KeepAlive(lease(random)),
        85..87 => Op::TimeToLive(PbLeaseTimeToLiveRequest { id: lease(random), keys: random.chance(70) }),
        87..88 => Op::Leases,
        88..97 => Op::Watch(watch(random)),
        _ => Op::CancelWatch(random.between(-2, 6)),
    }
}

fn lease(random: &mut Random) -> i64 {
    if random.chance(10) { NO_LEASE } else { random.one_of(LEASES) }
}

fn key(random: &mut Random) -> Vec<u8> {
    if random.chance(2) { Vec::new() } else { random.one_of(KEYS).to_vec() }
}

/// A key and the end of a range: none, a prefix's, to the end, some other key, also one before it.
fn keys(random: &mut Random) -> (Vec<u8>, Vec<u8>) {
    let key = key(random);
    match random.below(10) {
        0..4 => (key, Vec::new()),
        4..6 => (b"\0".to_vec(), b"\0".to_vec()),
        6 => (key, b"\0".to_vec()),
        7 => (b"/x/".to_vec(), b"/x0".to_vec()),
        _ => (key, random.one_of(KEYS).to_vec()),
    }
}

/// Mostly near the present one; of those that stand for themselves only such as no server can take for the present.
fn revision(random: &mut Random) -> i64 {
    match random.below(20) {
        0 => 1,
        1 => PRESENT + random.between(1, 3),
        2..6 => PRESENT,
        6 => PRESENT - random.between(0, 40),
        _ => PRESENT - random.between(0, 8),
    }
}

fn put(random: &mut Random) -> PbPutRequest {
    let mut request = PbPutRequest {
        key: key(random),
        value: random.one_of(VALUES).to_vec(),
        lease: if random.chance(30) { lease(random) } else { 0 },
        prev_kv: random.chance(50),
        ignore_value: random.chance(10),
        ignore_lease: random.chance(10),
    };
    // Mostly without the contradiction.
    if random.chance(80) {
        if request.ignore_value {
            request.value.clear();
        }
        if request.ignore_lease {
            request.lease = 0;
        }
    }
    request
}

fn delete(random: &mut Random) -> PbDeleteRequest {
    let (key, range_end) = keys(random);
    PbDeleteRequest { key, range_end, prev_kv: random.chance(50) }
}

fn range(random: &mut Random) -> PbRangeRequest {
    let (key, range_end) = keys(random);
    let mut bound = || if random.chance(8) { revision(random) } else { 0 };
    let (min_mod_revision, max_mod_revision) = (bound(), bound());
    let (min_create_revision, max_create_revision) = (bound(), bound());
    PbRangeRequest {
        key,
        range_end,
        limit: if random.chance(40) { random.between(-1, 6) } else { 0 },
        revision: if random.chance(40) { revision(random) } else { random.one_of(&[0, 0, 0, -1, -7]) },
        sort_order: if random.chance(30) { i32::try_from(random.below(3)).unwrap() } else { 0 },
        sort_target: if random.chance(30) { i32::try_from(random.below(5)).unwrap() } else { 0 },
        serializable: random.chance(20),
        keys_only: random.chance(15),
        count_only: random.chance(15),
        min_mod_revision,
        max_mod_revision,
        min_create_revision,
        max_create_revision,
    }
}

fn txn(random: &mut Random, deeper: u64) -> PbTxnRequest {
    let compare = (0..random.below(3)).map(|_| compare(random)).collect();
    let mut branch = |most| (0..random.below(most)).map(|_| txn_op(random, deeper)).collect();
    PbTxnRequest { compare, success: branch(5), failure: branch(4) }
}

/// Without what etcd does not survive: a deletion that it overlooks among duplicates, and after it a put that keeps
/// what is gone.
fn survivable(mut request: PbTxnRequest) -> PbTxnRequest {
    if deletes(&request) {
        keep_nothing(&mut request);
    }
    request
}

fn deletes(request: &PbTxnRequest) -> bool {
    request.success.iter().chain(&request.failure).any(|op| match &op.request {
        Some(PbTxnOpRequest::RequestDeleteRange(_)) => true,
        Some(PbTxnOpRequest::RequestTxn(request)) => deletes(request),
        _ => false,
    })
}

fn keep_nothing(request: &mut PbTxnRequest) {
    for op in request.success.iter_mut().chain(&mut request.failure) {
        match &mut op.request {
            Some(PbTxnOpRequest::RequestPut(put)) => (put.ignore_value, put.ignore_lease) = (false, false),
            Some(PbTxnOpRequest::RequestTxn(request)) => keep_nothing(request),
            _ => {}
        }
    }
}

fn txn_op(random: &mut Random, deeper: u64) -> PbTxnRequestOp {
    let request = match random.below(100) {
        0..40 => PbTxnOpRequest::RequestPut(put(random)),
        40..70 => PbTxnOpRequest::RequestRange(range_within(random)),
        70..85 => PbTxnOpRequest::RequestDeleteRange(delete(random)),
        85..99 if deeper > 0 => PbTxnOpRequest::RequestTxn(txn(random, deeper - 1)),
        85..99 => PbTxnOpRequest::RequestPut(put(random)),
        _ => return PbTxnRequestOp { request: None },
    };
    PbTxnRequestOp { request: Some(request) }
}

/// Without a negative revision; see the list of differences.
fn range_within(random: &mut Random) -> PbRangeRequest {
    let request = range(random);
    PbRangeRequest { revision: request.revision.max(0), ..request }
}

fn compare(random: &mut Random) -> PbCompare {
    let target = i32::try_from(random.below(5)).unwrap();
    let union = match if random.chance(90) { target } else { -1 } {
        0 => Some(PbTargetUnion::Version(random.between(0, 3))),
        1 => Some(PbTargetUnion::CreateRevision(if random.chance(50) { 0 } else { revision(random) })),
        2 => Some(PbTargetUnion::ModRevision(if random.chance(30) { 0 } else { revision(random) })),
        3 => Some(PbTargetUnion::Value(random.one_of(VALUES).to_vec())),
        4 => Some(PbTargetUnion::Lease(random.one_of(&[0, 0, 1, 2, 3]))),
        _ => random.one_of(&[None, Some(PbTargetUnion::Version(1)), Some(PbTargetUnion::Value(b"1".to_vec()))]),
    };
    let (key, range_end) = if random.chance(70) { (key(random), Vec::new()) } else { keys(random) };
    PbCompare { result: i32::try_from(random.below(4)).unwrap(), target, key, range_end, target_union: union }
}

fn watch(random: &mut Random) -> PbWatchRequest {
    let mut union = PbWatchRequestUnion::CreateRequest(Default::default());
    if let PbWatchRequestUnion::CreateRequest(create) = &mut union {
        (create.key, create.range_end) = keys(random);
        create.start_revision = if random.chance(60) { revision(random) } else { 0 };
        create.progress_notify = random.chance(20);
        create.filters = random.one_of(&[vec![], vec![], vec![], vec![0], vec![1], vec![0, 1], vec![7]]);
        create.prev_kv = random.chance(50);
        // Not -1, by which answers to no single watch go.
        create.watch_id = if random.chance(60) { 0 } else { random.one_of(&[-2, 1, 2, 3, 4, 5]) };
        create.fragment = random.chance(20);
    }
    PbWatchRequest { request_union: Some(union) }
}
