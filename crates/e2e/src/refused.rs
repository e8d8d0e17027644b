//! Commands that must be refused: what they say, how they end, and that they change nothing.

use calico_lab::{Host, Lab};

use crate::world::World;

/// The exit code of a command that failed, as `calicoctl --help` tells it.
pub const FAILED: i32 = 1;
/// The exit code of a command that was not understood, or whose user is not root.
pub const USAGE: i32 = 2;

/// A command, the exit code it must end with, and words that its message must have: the thing, the cause, the way out.
pub struct Case<'a>(pub &'a str, pub i32, pub &'a [&'a str]);

/// Checks that the command is refused in plain words and as documented.
#[track_caller]
pub fn check(host: &Host, Case(command, code, says): &Case<'_>) {
    let said = host.fails(command);
    let text = said.text();
    for words in *says {
        assert!(text.contains(words), "`{command}` does not say {words:?}:\n{text}");
    }
    assert_eq!(said.code(), Some(*code), "`{command}`:\n{text}");
    assert!(said.stderr.lines().any(|line| line.starts_with("error: ")), "`{command}` is not plain about it:\n{text}");
    for noise in ["panicked", " WARN ", "\u{1b}["] {
        assert!(!text.contains(noise), "`{command}` says {noise:?}:\n{text}");
    }
}

/// Checks every case, and after each that the world is as it was before.
#[track_caller]
pub fn check_all(lab: &Lab, host: &Host, cases: &[Case<'_>]) {
    let before = World::settled(lab, host);
    for case in cases {
        check(host, case);
        before.assert_same(&World::now(lab, host), case.0);
    }
}
