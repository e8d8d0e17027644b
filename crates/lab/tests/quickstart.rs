//! What `make quickstart` plays keeps all its promises.
//!
//! Needs the binaries beside this test and the image made of them: `make test` builds both.

use calico_lab::LabOptions;
use calico_lab::play::play;

#[test]
fn the_walk_through_keeps_its_promises() {
    let name = format!("q{}", std::process::id() % 1_000_000);
    if let Err(error) = play(&LabOptions { name: Some(name), ..LabOptions::default() }) {
        panic!("{error}");
    }
}
