//! Names of address sets. They are agent-internal (in the kernel, never in the datastore), but equal to upstream's:
//! a letter that says what kind of set it is, a colon, and the SHA-224 of a text in URL-safe base64.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha224};

/// The set of endpoints that a selector selects, by the selector's canonical form.
pub fn of_canonical(canonical: &str) -> String {
    hashed("s", canonical)
}

/// The set of (address, protocol, port) of the ports of this name on selected endpoints. `selector` is the unique
/// id of the selector; `protocol` is `tcp`, `udp`, `sctp` or `any`.
pub fn of_named_port(selector: &str, protocol: &str, port: &str) -> String {
    hashed("n", &format!("{selector},{protocol},{port}"))
}

/// The set of a service's back ends: with their ports (a rule's destination) or without (its source).
pub fn of_service(namespace: &str, name: &str, with_ports: bool) -> String {
    hashed(if with_ports { "svc" } else { "svcnoport" }, &format!("{namespace}/{name}"))
}

fn hashed(kind: &str, text: &str) -> String {
    let mut hash = Sha224::new();
    hash.update(kind);
    hash.update(":");
    hash.update(text);
    format!("{kind}:{}", URL_SAFE_NO_PAD.encode(hash.finalize()))
}
