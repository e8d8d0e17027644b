//! Why the core says no, in etcd's words.

/// Why the core refuses a call. The texts are those of etcd's server, since clients match on them; the code that
/// goes with each is the business of who serves them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The revision is gone; the number is the compacted revision, the first that can still be read.
    #[error("etcdserver: mvcc: required revision has been compacted")]
    Compacted(i64),
    /// The revision is not there yet; the number is the present one.
    #[error("etcdserver: mvcc: required revision is a future revision")]
    Future(i64),
    /// A transaction writes a key twice.
    #[error("etcdserver: duplicate key given in txn request")]
    DuplicateKey,
    /// There is no lease of this id.
    #[error("etcdserver: requested lease not found")]
    LeaseNotFound,
    /// A lease of this id exists.
    #[error("etcdserver: lease already exists")]
    LeaseExists,
    /// A lease is asked to live longer than [`MAX_TTL`](super::MAX_TTL).
    #[error("etcdserver: too large lease TTL")]
    LeaseTtlTooLarge,
    /// A put that keeps the value or the lease finds no key.
    #[error("etcdserver: key not found")]
    KeyNotFound,
    /// A put that keeps the value brings one.
    #[error("etcdserver: value is provided")]
    ValueProvided,
    /// A put that keeps the lease brings one.
    #[error("etcdserver: lease is provided")]
    LeaseProvided,
    /// A key is empty.
    #[error("etcdserver: key is not provided")]
    EmptyKey,
}
