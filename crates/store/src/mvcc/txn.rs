//! Transactions: compares, and operations that take effect together or not at all.
//!
//! As in etcd all compares, also those of nested transactions, are decided on the store as it is before the first
//! write, and so is what can be refused. Reads and deletions see what the transaction wrote before them. One refusal
//! shows only on the way: a put that keeps the value of a key which the transaction has just deleted. etcd 3.4 ends
//! its process then; here the transaction is taken back.

use std::{
    collections::{BTreeSet, btree_map::Entry},
    sync::Arc,
};

use super::{
    Bytes, Core, Key, KeyRange, KeyValue, Read, ReadResult, Refusal,
    key::{Record, Versions},
};

/// What a transaction compares; a key that is absent has version, revisions and lease 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// Of which keys: it must hold for each that exists in the range, or, if none does, for an absent one.
    pub range: KeyRange,
    /// What, and with what.
    pub target: Target,
    /// How.
    pub relation: Relation,
}

/// The compared property and the value to compare it with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The number of writes since creation.
    Version(i64),
    /// The creation revision.
    CreateRevision(i64),
    /// The modification revision.
    ModRevision(i64),
    /// The value; never holds for an absent key, whatever the relation.
    Value(Vec<u8>),
    /// The lease.
    Lease(i64),
}

/// A relation: the stored property stands in it to the given value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// Equal.
    Equal,
    /// Not equal.
    NotEqual,
    /// The stored one is greater.
    Greater,
    /// The stored one is less.
    Less,
}

impl Compare {
    /// One property of one key.
    pub fn new(key: impl Into<Vec<u8>>, target: Target, relation: Relation) -> Self {
        Self { range: KeyRange::one(key), target, relation }
    }

    /// The key does not exist.
    pub fn absent(key: impl Into<Vec<u8>>) -> Self {
        Self::new(key, Target::Version(0), Relation::Equal)
    }

    /// The key exists.
    pub fn exists(key: impl Into<Vec<u8>>) -> Self {
        Self::new(key, Target::Version(0), Relation::Greater)
    }

    /// The key was last written at `revision`.
    pub fn unchanged(key: impl Into<Vec<u8>>, revision: i64) -> Self {
        Self::new(key, Target::ModRevision(revision), Relation::Equal)
    }

    fn holds_for(&self, record: Option<&Record>) -> bool {
        let number = |property: fn(&Record) -> i64| record.map_or(0, property);
        let ordering = match &self.target {
            Target::Version(given) => number(|record| record.version).cmp(given),
            Target::CreateRevision(given) => number(|record| record.create_revision).cmp(given),
            Target::ModRevision(given) => number(|record| record.revision).cmp(given),
            Target::Lease(given) => number(|record| record.lease).cmp(given),
            Target::Value(given) => match record.and_then(|record| record.value.as_deref()) {
                Some(value) => value.cmp(given.as_slice()),
                None => return false,
            },
        };
        match self.relation {
            Relation::Equal => ordering.is_eq(),
            Relation::NotEqual => ordering.is_ne(),
            Relation::Greater => ordering.is_gt(),
            Relation::Less => ordering.is_lt(),
        }
    }
}

/// One operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Write a key.
    Put {
        /// The key.
        key: Vec<u8>,
        /// Its new value.
        value: Vec<u8>,
        /// The lease that it shall end with; 0 for none.
        lease: i64,
        /// Keep the value that stands there; `value` must be empty, and the key must exist.
        ignore_value: bool,
        /// Keep the lease it has; `lease` must be 0, and the key must exist.
        ignore_lease: bool,
    },
    /// Delete all keys of a range.
    Delete(KeyRange),
    /// Read. Without a revision: what the transaction has made of the store so far.
    Get(Read),
    /// A transaction within the transaction.
    Txn(Box<Txn>),
}

impl Op {
    /// Writes a key, without a lease.
    pub fn put(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        Self::Put { key: key.into(), value: value.into(), lease: 0, ignore_value: false, ignore_lease: false }
    }

    /// Reads everything in `range`, as the transaction has made it so far.
    pub fn get(range: KeyRange) -> Self {
        Self::Get(Read::new(range))
    }

    fn check(&self) -> Result<(), Refusal> {
        match self {
            Self::Put { key, .. } if key.is_empty() => Err(Refusal::EmptyKey),
            Self::Put { value, ignore_value: true, .. } if !value.is_empty() => Err(Refusal::ValueProvided),
            Self::Put { lease, ignore_lease: true, .. } if *lease != 0 => Err(Refusal::LeaseProvided),
            Self::Put { .. } => Ok(()),
            Self::Delete(range) => range.check(),
            Self::Get(read) => read.range.check(),
            Self::Txn(txn) => txn.check(),
        }
    }
}

/// What an operation did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpResult {
    /// Written; what stood there before.
    Put(Option<KeyValue>),
    /// Deleted; all that stood there, in key order.
    Delete(Vec<KeyValue>),
    /// Read.
    Get(ReadResult),
    /// What the transaction within did.
    Txn(Box<TxnResult>),
}

/// Compares, and what to do when all hold, or when one does not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// All must hold; none is no condition.
    pub compare: Vec<Compare>,
    /// What to do if they do.
    pub then: Vec<Op>,
    /// What to do if one does not.
    pub otherwise: Vec<Op>,
}

impl Txn {
    /// These operations, whatever the store holds.
    pub fn always(then: Vec<Op>) -> Self {
        Self { then, ..Self::default() }
    }

    /// True if no branch can write.
    pub fn only_reads(&self) -> bool {
        self.then.iter().chain(&self.otherwise).all(|op| match op {
            Op::Put { .. } | Op::Delete(_) => false,
            Op::Get(_) => true,
            Op::Txn(txn) => txn.only_reads(),
        })
    }

    /// What can be refused without looking at the store: empty keys, contradictory puts, a key written twice.
    ///
    /// # Errors
    /// The [`Refusal`].
    pub fn validate(&self) -> Result<(), Refusal> {
        self.check()?;
        for branch in [&self.then, &self.otherwise] {
            check_duplicates(branch)?;
        }
        Ok(())
    }

    fn check(&self) -> Result<(), Refusal> {
        self.compare.iter().try_for_each(|compare| compare.range.check())?;
        self.then.iter().chain(&self.otherwise).try_for_each(Op::check)
    }
}

/// The outcome of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnResult {
    /// True if all compares held.
    pub succeeded: bool,
    /// The store's revision afterwards; of a nested transaction the one of the outermost.
    pub revision: i64,
    /// One result per operation of the branch taken.
    pub results: Vec<OpResult>,
}

/// A transaction with all compares decided.
struct Plan<'a> {
    succeeded: bool,
    steps: Vec<Step<'a>>,
}

enum Step<'a> {
    Op(&'a Op),
    Txn(Plan<'a>),
}

impl Plan<'_> {
    /// The operations that will run, in order, those of nested transactions included.
    fn each(&self, check: &mut impl FnMut(&Op) -> Result<(), Refusal>) -> Result<(), Refusal> {
        self.steps.iter().try_for_each(|step| match step {
            Step::Op(op) => check(op),
            Step::Txn(plan) => plan.each(check),
        })
    }
}

impl Core {
    /// Runs a transaction.
    ///
    /// # Errors
    /// Any [`Refusal`]; nothing has changed then.
    pub fn txn(&mut self, txn: &Txn) -> Result<TxnResult, Refusal> {
        txn.validate()?;
        let plan = self.plan(txn);
        // etcd looks at all puts first, then at all reads.
        plan.each(&mut |op| self.check_put(op))?;
        plan.each(&mut |op| match op {
            Op::Get(read) => self.check_revision(read.revision, self.revision),
            _ => Ok(()),
        })?;
        let mut writing = Writing { revision: self.revision + 1, sub: 0 };
        let mut result = self.run(&plan, &mut writing).inspect_err(|_| self.unwrite(self.revision))?;
        if writing.sub > 0 {
            self.revision = writing.revision;
        }
        settle_revision(&mut result, self.revision);
        Ok(result)
    }

    /// Writes a key whatever stands there. Returns the new revision.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> i64 {
        let mut writing = Writing { revision: self.revision + 1, sub: 0 };
        self.write(key, Some(value.into()), 0, &mut writing);
        self.revision = writing.revision;
        self.revision
    }

    /// Deletes a range. Returns what stood there; the revision moves only if that is anything.
    pub fn delete(&mut self, range: &KeyRange) -> Vec<KeyValue> {
        let mut writing = Writing { revision: self.revision + 1, sub: 0 };
        let gone = self.remove(range, &mut writing);
        self.revision += i64::from(!gone.is_empty());
        gone
    }

    fn plan<'a>(&self, txn: &'a Txn) -> Plan<'a> {
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
        let branch = if succeeded { &txn.then } else { &txn.otherwise };
        let step = |op: &'a Op| match op {
            Op::Txn(txn) => Step::Txn(self.plan(txn)),
            op => Step::Op(op),
        };
        Plan { succeeded, steps: branch.iter().map(step).collect() }
    }

    fn holds(&self, compare: &Compare) -> bool {
        let mut found = self.live(&compare.range, self.revision).peekable();
        if found.peek().is_none() {
            return compare.holds_for(None);
        }
        found.all(|record| compare.holds_for(Some(record)))
    }

    fn check_put(&self, op: &Op) -> Result<(), Refusal> {
        let Op::Put { key, lease, ignore_value, ignore_lease, .. } = op else { return Ok(()) };
        if (*ignore_value || *ignore_lease) && self.current(key).is_none() {
            return Err(Refusal::KeyNotFound);
        }
        if *lease != 0 && !self.leases.contains(*lease) {
            return Err(Refusal::LeaseNotFound);
        }
        Ok(())
    }

    fn run(&mut self, plan: &Plan<'_>, writing: &mut Writing) -> Result<TxnResult, Refusal> {
        let mut results = Vec::with_capacity(plan.steps.len());
        for step in &plan.steps {
            results.push(match step {
                Step::Op(op) => self.execute(op, writing)?,
                Step::Txn(plan) => OpResult::Txn(Box::new(self.run(plan, writing)?)),
            });
        }
        Ok(TxnResult { succeeded: plan.succeeded, revision: 0, results })
    }

    fn execute(&mut self, op: &Op, writing: &mut Writing) -> Result<OpResult, Refusal> {
        Ok(match op {
            Op::Put { key, value, lease, ignore_value, ignore_lease } => {
                let before = self.current(key).cloned();
                // It was there at the start, but an earlier operation may have deleted it.
                let kept = || before.as_deref().ok_or(Refusal::KeyNotFound);
                let value = if *ignore_value { kept()?.value.clone() } else { Some(value.as_slice().into()) };
                let lease = if *ignore_lease { kept()?.lease } else { *lease };
                self.write(key, value, lease, writing);
                OpResult::Put(before.and_then(|before| before.key_value()))
            }
            Op::Delete(range) => OpResult::Delete(self.remove(range, writing)),
            Op::Get(read) => OpResult::Get(self.read(read, read.revision.unwrap_or(writing.revision))),
            Op::Txn(_) => unreachable!("the plan holds nested transactions as steps of their own"),
        })
    }

    pub(super) fn remove(&mut self, range: &KeyRange, writing: &mut Writing) -> Vec<KeyValue> {
        let gone: Vec<KeyValue> = self.live(range, writing.revision).filter_map(|record| record.key_value()).collect();
        for kv in &gone {
            self.write(&kv.key, None, 0, writing);
        }
        gone
    }

    fn write(&mut self, key: &[u8], value: Option<Bytes>, lease: i64, writing: &mut Writing) {
        let known = self.keys.get_key_value(key);
        let shared: Key = known.map_or_else(|| key.into(), |(key, _)| key.clone());
        let before = known.map(|(_, versions)| &versions.newest).filter(|record| record.value.is_some()).cloned();
        let (create_revision, version) = match (&value, &before) {
            (None, _) => (0, 0),
            (Some(_), None) => (writing.revision, 1),
            (Some(_), Some(before)) => (before.create_revision, before.version + 1),
        };
        let record = Record {
            revision: writing.revision,
            sub: writing.sub,
            key: shared.clone(),
            value,
            create_revision,
            version,
            lease,
        };
        self.leases.moved(&shared, before.map_or(0, |before| before.lease), lease);
        let record = Arc::new(record);
        self.log.push_back(record.clone());
        self.keep(record);
        writing.sub += 1;
    }

    /// Takes a record in as its key's newest.
    pub(super) fn keep(&mut self, record: Arc<Record>) {
        match self.keys.entry(record.key.clone()) {
            Entry::Occupied(mut known) => self.history += known.get_mut().push(record),
            Entry::Vacant(vacant) => {
                self.history += vacant.insert(Versions::new(record)).history();
            }
        }
    }
}

/// Where the running transaction writes.
pub(super) struct Writing {
    pub revision: i64,
    /// The number of the next write.
    pub sub: u32,
}

/// Only when all has run it is known whether the transaction took a revision.
fn settle_revision(result: &mut TxnResult, revision: i64) {
    result.revision = revision;
    for result in &mut result.results {
        if let OpResult::Txn(result) = result {
            settle_revision(result, revision);
        }
    }
}

/// etcd's rule: in what can run together no key is put twice, nor put and deleted. Returns what the branch puts and
/// deletes.
///
/// To the letter of etcd in what it overlooks, too: a deletion without an end, and a deletion in a nested
/// transaction that comes after one that puts. Such keys are written twice at one revision, which harms nothing.
fn check_duplicates(ops: &[Op]) -> Result<(BTreeSet<&[u8]>, Vec<&KeyRange>), Refusal> {
    let mut deletes: Vec<&KeyRange> = Vec::new();
    for op in ops {
        if let Op::Delete(range) = op
            && !matches!(range, KeyRange::Span(_, None))
        {
            deletes.push(range);
        }
    }
    let mut puts: BTreeSet<&[u8]> = BTreeSet::new();
    for op in ops {
        let Op::Txn(txn) = op else { continue };
        let (then, then_deletes) = check_duplicates(&txn.then)?;
        let (otherwise, otherwise_deletes) = check_duplicates(&txn.otherwise)?;
        // The two branches of one transaction never run together.
        let both: BTreeSet<&[u8]> = then.union(&otherwise).copied().collect();
        for key in both {
            add_put(&mut puts, &deletes, key)?;
        }
        deletes.extend(then_deletes);
        deletes.extend(otherwise_deletes);
    }
    for op in ops {
        if let Op::Put { key, .. } = op {
            add_put(&mut puts, &deletes, key)?;
        }
    }
    Ok((puts, deletes))
}

fn add_put<'a>(puts: &mut BTreeSet<&'a [u8]>, deletes: &[&KeyRange], key: &'a [u8]) -> Result<(), Refusal> {
    if deletes.iter().any(|range| range.contains(key)) || !puts.insert(key) {
        return Err(Refusal::DuplicateKey);
    }
    Ok(())
}
