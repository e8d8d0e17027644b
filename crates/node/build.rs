//! How the linker lays `calico-felix` out, so that the part of its file that is resident is the part that runs.
//!
//! The kernel maps 64 KiB and more around each page of the program that is touched, so code that never runs (TLS where
//! etcd has none, iptables where nftables is, the forms of kinds that nobody uses) is resident all the same where it
//! lies between code that does. `felix.ld` puts what runs side by side; nothing else about the program changes.
//!
//! Only in the release profile: a program for tests is linked often, and nobody measures it.

use std::{env, path::Path};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=felix.ld");
    let is = |variable: &str, value: &str| env::var(variable).is_ok_and(|found| found == value);
    if is("PROFILE", "release") && is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ENV", "gnu") {
        let folder = env::var_os("CARGO_MANIFEST_DIR").expect("cargo says where the package is");
        let script = Path::new(&folder).join("felix.ld");
        println!("cargo:rustc-link-arg-bin=calico-felix=-T{}", script.display());
    }
}
