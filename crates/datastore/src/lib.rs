//! The datastore that one host keeps for itself and others: etcd's v3 API on an embedded database.

pub mod pki;
