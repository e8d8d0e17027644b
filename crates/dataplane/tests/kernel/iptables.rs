//! The second renderer in real kernels, with both kinds of iptables.

use calico_policy::instruction::Instruction;

use crate::support::*;

const BOTH: [By; 2] = [By::IptablesNft, By::IptablesLegacy];

/// Everything that iptables and ipset hold, without counters and dates.
fn state(by: By) -> String {
    let kind = if by == By::IptablesNft { "nft" } else { "legacy" };
    let save = format!("for f in iptables ip6tables; do $f-{kind}-save; done; ipset save");
    run(&format!("{{ {save}; }} | grep -v '^#' | sed 's/ \\[[0-9:]*\\]$//; s/ initval [^ ]*//'"))
}

fn scene(a: &Workload, b: &Workload) -> Vec<Instruction> {
    vec![
        set("s:friends", &["10.65.0.1/32", "10.65.0.2/32", "fd65::1/128", "fd65::/64", "0.0.0.0/0"]),
        profile("web", vec![allow_from("s:friends")], vec![allow()]),
        profile("Odd \"name\"", vec![deny()], vec![]),
        a.endpoint(&["web", "Odd \"name\""]),
        b.endpoint(&["web"]),
    ]
}

fn each(test: fn(By)) {
    for by in BOTH {
        test(by);
    }
}

fn on_a_host_by<F: std::future::Future<Output = ()>>(by: By, test: impl FnOnce(Host, By) -> F + Send + 'static) {
    on_a_host(move |host| {
        select(by);
        test(host, by)
    });
}

#[test]
fn a_restart_changes_nothing() {
    each(|by| {
        on_a_host_by(by, |host, by| async move {
            let (a, b) = (host.workload(1), host.workload(2));
            {
                let mut first = dataplane().await;
                absorb(&mut first, scene(&a, &b));
                let report = first.apply().await.unwrap();
                assert!(report.problems.is_empty(), "{report:?}");
                assert_eq!(talks(&a, &b, 80), [true; 2], "{}", state(by));
                assert!(first.apply().await.unwrap().is_unchanged());
            }
            let before = state(by);
            let mut second = dataplane().await;
            assert_eq!(state(by), before, "after the start");
            absorb(&mut second, scene(&a, &b));
            let report = second.apply().await.unwrap();
            assert!(report.is_unchanged() && report.problems.is_empty(), "{report:?}");
            assert_eq!(state(by), before, "after the first apply");
        });
    });
}
